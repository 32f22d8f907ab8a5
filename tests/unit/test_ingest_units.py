"""Where units of a job begin and end, and when they are committed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.dask.grid import AxisGrid
from icechunk.dask.ingest.units import (
    CommitEvery,
    cut_at,
    cut_evenly,
    parse_ranges,
    ranges_text,
)
from icechunk.errors import InvalidInputError

grids = st.lists(st.integers(1, 12).map(lambda unit: AxisGrid.regular(1000, unit)), max_size=3)


@given(st.integers(0, 200), st.integers(1, 50), st.integers(0, 30), grids)
def test_units_cover_everything_and_cut_no_chunk(length, step, at, grids):
    spans = cut_evenly(length, step, at, grids)
    assert [n for span in spans for n in range(*span)] == list(range(length))
    for _, stop in spans[:-1]:
        assert all(grid.floor(at + stop) == at + stop for grid in grids)
    assert all(stop - start >= step for start, stop in spans[:-1])


@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(0, 30), grids)
def test_sources_that_share_a_chunk_are_one_unit(lengths, at, grids):
    edges = [sum(lengths[: n + 1]) for n in range(len(lengths))]
    spans = cut_at(edges, edges[-1], at, grids)
    assert [n for span in spans for n in range(*span)] == list(range(edges[-1]))
    for _, stop in spans[:-1]:
        assert stop in edges
        assert all(grid.floor(at + stop) == at + stop for grid in grids)


def test_units_of_chunks_with_different_sizes():
    grid = AxisGrid.of_sizes((3, 5, 2, 5))
    assert cut_evenly(15, 4, 0, [grid]) == [(0, 8), (8, 15)]
    assert cut_evenly(15, 1, 0, [grid]) == [(0, 3), (3, 8), (8, 10), (10, 15)]
    assert cut_at([3, 9, 10, 15], 15, 0, [grid]) == [(0, 3), (3, 10), (10, 15)]


@given(st.sets(st.integers(0, 300)))
def test_ranges_are_read_back(numbers):
    assert parse_ranges(ranges_text(numbers)) == numbers


def test_ranges_are_short():
    assert ranges_text([5, 0, 1, 2]) == "0-2,5"
    assert ranges_text([]) == ""


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, CommitEvery()),
        (10, CommitEvery(units=10)),
        ("10", CommitEvery(units=10)),
        ("2GB", CommitEvery(size_bytes=2_000_000_000)),
        ("1.5MiB", CommitEvery(size_bytes=1_572_864)),
        ("30s", CommitEvery(seconds=30)),
        ("10min", CommitEvery(seconds=600)),
        ("1.5 h", CommitEvery(seconds=5400)),
        (CommitEvery(units=1, seconds=2), CommitEvery(units=1, seconds=2)),
    ],
)
def test_when_to_commit(given, meant):
    assert CommitEvery.of(given) == meant


@pytest.mark.parametrize("bad", ["soon", "", "0", 0, -1, "0s", "-1GB"])
def test_when_never_to_commit(bad):
    with pytest.raises(InvalidInputError, match="commit_every"):
        CommitEvery.of(bad)


def test_what_is_due():
    every = CommitEvery(units=3, size_bytes=100, seconds=60)
    assert not every.is_due(units=2, size_bytes=99, seconds=59)
    assert every.is_due(units=3, size_bytes=0, seconds=0)
    assert every.is_due(units=1, size_bytes=100, seconds=0)
    assert every.is_due(units=1, size_bytes=0, seconds=60)
    assert not every.is_due(units=0, size_bytes=0, seconds=600)
    assert not CommitEvery().is_due(units=10**6, size_bytes=10**15, seconds=10**6)
