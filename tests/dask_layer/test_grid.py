"""Arithmetic on block and chunk boundaries, against brute force."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from icechunk.dask.grid import (
    AxisGrid,
    aligned_sizes,
    boundaries,
    cuts_outer_chunks,
    shares_chunks,
    sizes_text,
    suggested_chunks,
)

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12).map(tuple)
regular = st.builds(AxisGrid.regular, st.just(400), st.integers(1, 15))
irregular = st.lists(st.integers(1, 15), min_size=40, max_size=60).map(
    lambda parts: AxisGrid.of_sizes((*parts, 400))
)
grids = st.one_of(regular, irregular)
starts = st.integers(0, 40)


def chunks_of(start: int, stop: int, grid: AxisGrid) -> set[int]:
    """Return the chunks a range touches, by their first element."""
    return {grid.floor(position) for position in range(start, stop)}


@given(sizes, starts, grids)
def test_sharing_is_found_exactly_when_two_blocks_touch_one_chunk(blocks, start, grid):
    edges = boundaries(blocks, start)
    touched = [chunks_of(a, b, grid) for a, b in itertools.pairwise(edges)]
    expected = any(touched[i] & touched[i + 1] for i in range(len(touched) - 1))
    assert shares_chunks(blocks, start, grid) == expected


@given(sizes, starts, grids)
def test_aligned_blocks_share_nothing_and_grow_by_less_than_a_chunk(blocks, start, grid):
    aligned = aligned_sizes(blocks, start, grid)
    assert sum(aligned) == sum(blocks)
    assert all(aligned)
    assert not shares_chunks(aligned, start, grid)
    if grid.unit:
        assert max(aligned) < max(blocks) + grid.unit
    if not shares_chunks(blocks, start, grid):
        assert aligned == blocks


@given(sizes, starts, grids)
def test_the_suggested_chunks_fit(blocks, start, grid):
    total = sum(blocks)
    suggested = eval(suggested_chunks(blocks, start, grid))
    if suggested == -1:
        fixed = (total,)
    elif isinstance(suggested, int):
        full, rest = divmod(total, suggested)
        fixed = (suggested,) * full + ((rest,) if rest else ())
    else:
        fixed = suggested
    assert sum(fixed) == total
    assert not shares_chunks(fixed, start, grid)


@given(starts, st.integers(0, 60), grids)
def test_chunk_count(start, length, grid):
    assert grid.chunk_count(start, start + length) == len(chunks_of(start, start + length, grid))


def test_outer_chunks():
    grid = AxisGrid.regular(25, 10)
    assert not cuts_outer_chunks((10, 10), 0, grid)
    assert not cuts_outer_chunks((10, 5), 10, grid)
    assert cuts_outer_chunks((5,), 0, grid)
    assert cuts_outer_chunks((15,), 5, grid)


def test_equal_sizes_are_a_regular_grid():
    assert AxisGrid.of_sizes((4, 4, 2)) == AxisGrid.regular(10, 4)
    assert AxisGrid.of_sizes((4, 2, 4)).unit == 0
    assert AxisGrid.of_sizes((4, 2, 4)).describe() == "(4, 2, 4)"
    assert AxisGrid.regular(0, 0).chunk_count(0, 0) == 0


def test_long_sizes_are_shortened():
    assert sizes_text((1, 2)) == "(1, 2)"
    assert sizes_text((3,) * 100) == "(3, 3, 3, 3, ..., 3; 100 blocks)"
