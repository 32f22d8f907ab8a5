"""Chunk tables against a dictionary, the obvious model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk.core import changes
from icechunk.core.changes import ChunkEdits, table_of
from icechunk.format.chunk_table import (
    ChunkKind,
    ChunkTable,
    InlineRef,
    NativeRef,
    VirtualRef,
    merged,
    overlay,
    share_coordinates,
    sorted_unique,
)
from icechunk.format.ragged import Ragged, concat
from icechunk.ids import ObjectId

SMALL = st.integers(0, 4)
LARGE = st.integers(0, 2**32 - 2)


def coordinates(ndim: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[st.one_of(SMALL, LARGE)] * ndim)


REFS = st.one_of(
    st.none(),
    st.binary(min_size=1, max_size=8).map(InlineRef),
    st.builds(
        NativeRef,
        st.binary(min_size=12, max_size=12).map(ObjectId),
        st.integers(0, 2**40),
        st.integers(1, 2**40),
    ),
    st.builds(
        VirtualRef,
        st.text("abc/é", min_size=1).map(lambda s: "s3://b/" + s),
        st.integers(0, 2**40),
        st.integers(1, 2**40),
        st.one_of(st.none(), st.text("xyz", min_size=1)),
        st.integers(0, 2**32 - 1),
    ),
)


@st.composite
def models(draw: st.DrawFn, ndim: int) -> dict:
    return draw(st.dictionaries(coordinates(ndim), REFS, max_size=12))


def as_dict(table: ChunkTable) -> dict:
    rows = table.coords.tolist()
    assert rows == sorted(rows)
    return {tuple(c): table.ref(i) for i, c in enumerate(rows)}


@given(st.data(), st.integers(0, 4))
def test_table_of_keeps_every_row(data: st.DataObject, ndim: int) -> None:
    model = data.draw(models(ndim))
    assert as_dict(table_of(model, ndim)) == model


@given(st.data(), st.integers(0, 4))
def test_find_agrees_with_the_model(data: st.DataObject, ndim: int) -> None:
    model = data.draw(models(ndim))
    table = table_of(model, ndim)
    asked = [*model, *data.draw(st.lists(coordinates(ndim), max_size=5))]
    rows = table.find_many(np.array(asked, np.uint32).reshape(len(asked), ndim))
    for coord, row in zip(asked, rows, strict=True):
        assert table.find(coord) == row
        assert (row >= 0) == (coord in model)
        if row >= 0:
            assert tuple(table.coords[row].tolist()) == coord


def test_coordinates_that_end_in_zero_bytes_are_found_in_huge_boxes() -> None:
    coords = [(0, 0, 0), (2**32 - 2, 2**32 - 2, 2**32 - 2), (256, 65536, 2**24)]
    table = ChunkTable.deleted(np.array(coords, np.uint32))
    assert sorted(table.find(c) for c in coords) == [0, 1, 2]
    assert table.find((256, 65536, 0)) == -1


@given(st.data(), st.integers(0, 3))
def test_overlay_is_dictionary_update(data: st.DataObject, ndim: int) -> None:
    older, newer = data.draw(models(ndim)), data.draw(models(ndim))
    result = overlay(table_of(older, ndim), table_of(newer, ndim))
    assert as_dict(result) == {**older, **newer}


@given(st.data(), st.integers(0, 3), st.integers(1, 5))
def test_merged_is_repeated_update(data: st.DataObject, ndim: int, count: int) -> None:
    parts = [data.draw(models(ndim)) for _ in range(count)]
    expected: dict = {}
    for part in parts:
        expected.update(part)
    assert as_dict(merged([table_of(part, ndim) for part in parts])) == expected


@given(st.data(), st.integers(0, 3))
def test_edits_answer_like_a_dictionary(data: st.DataObject, ndim: int) -> None:
    edits, model = ChunkEdits(ndim), {}
    steps = st.one_of(models(ndim), st.tuples(coordinates(ndim), REFS), st.just("look"))
    with pytest.MonkeyPatch.context() as patch:
        # Tables are joined as they come, or when somebody looks; large ones are thousands of rows.
        patch.setattr(changes, "_JOINED_AT_ONCE_ROWS", data.draw(st.sampled_from([0, 10, 1 << 14])))
        for step in data.draw(st.lists(steps, max_size=30)):
            if isinstance(step, dict):
                edits.extend(table_of(step, ndim))
                model.update(step)
            elif step == "look":
                assert as_dict(merged([ChunkTable.empty(ndim), *edits.tables()])) == model
                for coord, ref in model.items():
                    assert edits.find(coord) == (True, ref)
            else:
                edits.set(*step)
                model[step[0]] = step[1]
            assert edits.rows() >= len(model)
    for coord, ref in model.items():
        assert edits.find(coord) == (True, ref)
    assert as_dict(edits.copy().table()) == model
    assert as_dict(edits.table()) == model


@given(st.data(), st.integers(0, 3), st.integers(0, 4))
def test_shared_coordinates_are_found(data: st.DataObject, ndim: int, count: int) -> None:
    parts = [data.draw(models(ndim)) for _ in range(count)]
    together = {coord for part in parts for coord in part}
    expected = len(together) < sum(map(len, parts))
    assert share_coordinates([table_of(part, ndim) for part in parts]) == expected


def test_many_single_edits_are_kept_in_columns() -> None:
    edits = ChunkEdits(1)
    ref = NativeRef(ObjectId(b"x" * 12), 0, 7)
    for i in range(20_000):
        edits.set((i % 15_000,), ref)
    assert len(edits._recent) < 4096
    assert len(edits.table()) == 15_000


@given(st.data(), st.integers(1, 3))
def test_common_and_sorted_unique(data: st.DataObject, ndim: int) -> None:
    first, second = data.draw(models(ndim)), data.draw(models(ndim))
    edits = ChunkEdits(ndim)
    edits.extend(table_of(first, ndim))
    both = edits.common(table_of(second, ndim))
    assert [tuple(c) for c in both.tolist()] == sorted(first.keys() & second.keys())
    doubled = np.array([*first, *first], np.uint32).reshape(-1, ndim)
    assert [tuple(c) for c in sorted_unique(doubled).tolist()] == sorted(first)


@given(st.data(), st.integers(1, 3))
def test_extent_is_the_tight_bounding_box(data: st.DataObject, ndim: int) -> None:
    model = data.draw(models(ndim).filter(bool))
    table = table_of(model, ndim)
    for axis, (low, high) in enumerate(table.extent().tolist()):
        assert low == min(c[axis] for c in model)
        assert high == max(c[axis] for c in model) + 1
    assert table.within(table.extent()).all()


def test_without_deleted() -> None:
    model = {(0,): None, (1,): InlineRef(b"x")}
    table = table_of(model, 1).without_deleted()
    assert as_dict(table) == {(1,): InlineRef(b"x")}
    assert (table.kind != ChunkKind.DELETED).all()


@given(st.lists(st.binary(max_size=5)), st.lists(st.binary(max_size=5)))
def test_ragged_columns(first: list[bytes], second: list[bytes]) -> None:
    a, b = Ragged.from_list(first), Ragged.from_list(second)
    assert a.tolist() == first
    assert concat([a, b]).tolist() == first + second
    rows = np.arange(len(first))[::-1].copy()
    assert a.take(rows).tolist() == first[::-1]
    assert a.take(rows).compact().tolist() == first[::-1]
    assert concat([a, a.take(rows)]).data is a.data or not first


@pytest.mark.parametrize("ndim", [0, 2])
def test_empty_tables(ndim: int) -> None:
    table = ChunkTable.empty(ndim)
    assert len(table) == 0
    assert table.find((0,) * ndim) == -1
    assert overlay(table, table) == table
