"""Splitting and rewriting of manifests against a dictionary."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.core.changes import table_of
from icechunk.core.manifests import (
    DEFAULT_REFERENCES_PER_MANIFEST,
    default_split,
    plan_manifests,
    split_table,
)
from icechunk.format.chunk_table import ChunkTable, InlineRef
from icechunk.format.snapshot import ManifestRefs
from icechunk.manifest_config import UNSPLIT

SIZES = st.sampled_from([1, 2, 3, UNSPLIT])


class Array:
    """An array's manifests kept in memory, committed to by the rules under test."""

    def __init__(self, ndim: int, small: int = 0) -> None:
        self.ndim = ndim
        self.small = small
        self.refs = ManifestRefs.empty(ndim)
        self.tables: dict[bytes, ChunkTable] = {}
        self.written = 0

    def commit(self, changes: dict, grid: tuple[int, ...], split: tuple[int, ...]) -> None:
        table = table_of(changes, self.ndim)
        plan = plan_manifests(self.refs, table.coords, grid, split, small=self.small)
        loaded = [self.tables[self.refs.id_at(int(which))] for which in plan.load]
        fresh = split_table(loaded, table, grid, split)
        ids = []
        for new in fresh:
            self.written += 1
            ids.append(self.written.to_bytes(12, "big"))
            self.tables[ids[-1]] = new
        added = ManifestRefs.of(ids, [new.extent() for new in fresh], self.ndim)
        self.refs = self.refs.take(plan.keep).joined(added)

    def contents(self) -> dict:
        found = {}
        for which in range(len(self.refs)):
            table = self.tables[self.refs.id_at(which)]
            for row, coord in enumerate(table.coords.tolist()):
                # The lookup rule: the first manifest whose extents contain the coordinate.
                assert self.refs.find(coord) == which
                found[tuple(coord)] = table.ref(row)
        return found


@given(st.data(), st.integers(0, 3), st.sampled_from([0, 1, 2, 5]))
def test_commits_keep_what_a_dictionary_keeps(data: st.DataObject, ndim: int, small: int) -> None:
    array, model = Array(ndim, small), {}
    for number in range(data.draw(st.integers(1, 8))):
        grid = tuple(data.draw(st.integers(0, 5)) for _ in range(ndim))
        split = tuple(data.draw(SIZES) for _ in range(ndim))
        inside = list(product(*[range(max(1, n)) for n in grid]))
        touched = data.draw(st.lists(st.sampled_from(inside), max_size=6, unique=True))
        ref = InlineRef(f"commit {number}".encode())
        changes = {c: data.draw(st.sampled_from([ref, None])) for c in touched}
        array.commit(changes, grid, split)
        model.update(changes)
        model = {c: r for c, r in model.items() if r is not None and c in set(inside)}
        assert array.contents() == model
        for which in range(len(array.refs)):
            box = array.refs.extents[which].astype(np.int64)
            size = np.array(split, np.int64)
            assert (box[:, 0] // size == (box[:, 1] - 1) // size).all()


def test_an_untouched_region_keeps_its_manifest() -> None:
    array = Array(1)
    array.commit({(i,): InlineRef(b"a") for i in range(10)}, (10,), (5,))
    before = {array.refs.id_at(i) for i in range(2)}
    array.commit({(7,): InlineRef(b"b")}, (10,), (5,))
    after = {array.refs.id_at(i) for i in range(2)}
    assert len(before & after) == 1


def test_metadata_only_changes_read_nothing() -> None:
    array = Array(2)
    array.commit({(i, 0): InlineRef(b"a") for i in range(4)}, (4, 1), (2, UNSPLIT))
    nothing = np.zeros((0, 2), np.uint32)
    plan = plan_manifests(array.refs, nothing, (4, 1), (2, UNSPLIT))
    assert not len(plan.load)
    assert len(plan.keep) == 2


@pytest.mark.parametrize(
    "grid", [(1_000_000,), (1000, 1000), (10, 100_000), (5, 5, 5), (3, 70_000, 2), (7,), (0, 4)]
)
def test_default_split_bounds_a_manifest(grid: tuple[int, ...]) -> None:
    split = default_split(grid)
    region = [min(n, size) for n, size in zip(grid, split, strict=True)]
    assert np.prod(region, dtype=np.int64) <= DEFAULT_REFERENCES_PER_MANIFEST
    assert all(size >= 1 for size in split)


@given(st.lists(st.integers(1, 200_000), max_size=2), st.integers(1, 10_000_000))
def test_appending_along_the_leading_axis_moves_no_cut(tail: list[int], longest: int) -> None:
    lengths = sorted({1, 2, 10, 1000, 65_536, 65_537, longest})
    splits = [default_split((n, *tail)) for n in lengths]
    # The number of chunks per manifest along the leading axis is one and the same.
    for shorter, longer in pairwise(splits):
        assert shorter == longer


def test_scalars_have_no_axes() -> None:
    assert default_split(()) == ()


def test_appends_write_few_references_again_and_leave_few_manifests() -> None:
    small, steps = 4, 600
    array, written = Array(1, small), []
    for step in range(steps):
        before = set(array.tables)
        array.commit({(step,): InlineRef(b"a")}, (step + 1,), (UNSPLIT,))
        written.append(sum(len(array.tables[name]) for name in set(array.tables) - before))
        # One that is small, at most seven of each size up to 8^4 times that.
        assert len(array.refs) <= 1 + 7 * 4
    assert len(array.contents()) == steps
    assert np.median(written) <= small
    assert sum(written) < steps * (small + np.log(steps / small) / np.log(8))


def test_a_change_inside_a_manifest_writes_that_one_again() -> None:
    array = Array(1, 2)
    for step in range(12):
        array.commit({(step,): InlineRef(b"a")}, (step + 1,), (UNSPLIT,))
    before = {array.refs.id_at(i) for i in range(len(array.refs))}
    assert len(before) > 3
    array.commit({(5,): InlineRef(b"b")}, (12,), (UNSPLIT,))
    after = {array.refs.id_at(i) for i in range(len(array.refs))}
    assert len(before - after) == 1
    assert array.contents()[5,] == InlineRef(b"b")
