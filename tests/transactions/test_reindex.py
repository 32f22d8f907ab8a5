"""Moving the chunks of an array by reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def repo() -> ic.Repository:
    repo = ic.Repository.create(
        ic.in_memory_storage(), ic.RepositoryConfig(inline_chunk_threshold_bytes=12)
    )
    with repo.transaction("main", message="data") as store:
        root = zarr.create_group(store)
        root.create_array("a", shape=(8,), chunks=(2,), dtype="i4", compressors=None)[:] = (
            np.arange(8) + 1
        )
        root.create_array("b", shape=(6, 6), chunks=(2, 2), dtype="i4", compressors=None)[:] = (
            np.arange(36).reshape(6, 6) + 1
        )
        sparse = root.create_array("sparse", shape=(20,), chunks=(2,), dtype="i4")
        sparse[2:4], sparse[8:10] = 5, 7
        root.create_array("scalar", shape=(), dtype="i4")[...] = 3
        root.create_group("g")
    return repo


def seen(session: ic.Session, name: str = "a") -> list[int]:
    values = np.asarray(zarr.open_array(session.store, path=name, mode="r")[...])
    return values[(slice(None, None, 2),) * values.ndim].ravel().tolist()  # type: ignore[no-any-return]


ALL = [[0], [1], [2], [3]]


@pytest.mark.parametrize(
    ("offset", "values"),
    [
        ((1,), [0, 1, 3, 5]),
        ([-1], [3, 5, 7, 0]),
        ((0,), [1, 3, 5, 7]),
        ((4,), [0, 0, 0, 0]),
        ((-(10**30),), [0, 0, 0, 0]),
        (np.array([2]), [0, 0, 1, 3]),
    ],
)
def test_shift(repo: ic.Repository, offset: Any, values: list[int]) -> None:
    session = repo.writable_session("main")
    assert session.shift_array("/a", offset) is None
    assert seen(session) == values
    assert session.status().updated_chunks == {"/a": ALL}
    session.commit("shifted")
    assert seen(repo.readonly_session("main")) == values


def test_shift_in_several_dimensions_and_of_what_the_session_itself_changed(
    repo: ic.Repository,
) -> None:
    session = repo.writable_session("main")
    session.shift_array("/b", (1, -1))
    assert seen(session, "b") == [0, 0, 0, 3, 5, 0, 15, 17, 0]
    session.shift_array("/sparse", (2,))
    assert session.status().updated_chunks["/sparse"] == [[1], [3], [4], [6]]
    session.shift_array("/scalar", ())
    assert seen(session, "scalar") == [3]
    array = zarr.open_array(session.store, path="a", mode="r+")
    array[:2] = 9
    array.resize((12,))
    session.shift_array("/a", (2,))
    assert seen(session) == [0, 0, 9, 3, 5, 7]


def test_shift_after_a_shrink_brings_nothing_back(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    node = session.checkout.require_array("/a")  # type: ignore[arg-type]
    document = node.user_data.replace(b"8", b"4", 1)
    assert document != node.user_data
    # Without zarr's own deletion of the chunks that are outside now.
    session.checkout.set_document("/a", document)  # type: ignore[arg-type]
    session.shift_array("/a", (-1,))
    assert seen(session) == [3, 0]


CASES: dict[str, tuple[Callable[..., Any], Callable[..., Any] | None, list[int], list[list[int]]]]
CASES = {
    "forward, last stays": (
        lambda c: [c[0] + 1] if c[0] < 3 else None,
        None,
        [1, 1, 3, 5],
        ALL[1:],
    ),
    "reversed": (lambda c: (3 - c[0],), None, [7, 5, 3, 1], ALL),
    "forward with the way back": (
        lambda c: [c[0] + 1] if c[0] < 3 else None,
        lambda c: [c[0] - 1],
        [0, 1, 3, 5],
        ALL,
    ),
    "nothing moves": (lambda _: None, None, [1, 3, 5, 7], []),
    "nothing stays": (lambda _: None, lambda _: None, [0, 0, 0, 0], ALL),
    "all to one place": (lambda _: np.array([0]), None, [7, 3, 5, 7], [[0]]),
}


@pytest.mark.parametrize("name", CASES)
def test_reindex(repo: ic.Repository, name: str) -> None:
    forward, backward, values, touched = CASES[name]
    session = repo.writable_session("main")
    session.reindex_array("/a", forward, backward)
    assert seen(session) == values
    assert session.status().updated_chunks == ({"/a": touched} if touched else {})
    assert session.has_uncommitted_changes == bool(touched)
    if touched:
        session.commit("reindexed")
        assert seen(repo.readonly_session("main")) == values


def test_transpose_and_only_chunks_that_exist_are_visited(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    session.reindex_array("/b", reversed)
    assert seen(session, "b") == [1, 13, 25, 3, 15, 27, 5, 17, 29]
    visited: list[list[int]] = []
    session.reindex_array("/sparse", visited.append)
    assert visited == [[1], [4]]


REFUSED: dict[str, tuple[Callable[[ic.Session], Any], type[Exception], str]] = {
    "wrong rank": (lambda s: s.shift_array("/a", (1, 2)), ic.InvalidInputError, "1 dimensions"),
    "no array": (lambda s: s.shift_array("/zz", (1,)), ic.NodeNotFoundError, "/zz"),
    "a group": (lambda s: s.shift_array("/g", (1,)), ic.InvalidInputError, "/g is a group"),
    "relative": (lambda s: s.shift_array("a", (1,)), ic.InvalidInputError, "absolute"),
    "text": (lambda s: s.shift_array("/a", ("x",)), TypeError, "str"),  # type: ignore[arg-type]
    "outside": (
        lambda s: s.reindex_array("/a", lambda c: [c[0] + 1]),
        ic.InvalidInputError,
        r"chunk \(3,\) of /a cannot go to \(4,\)",
    ),
    "negative": (
        lambda s: s.reindex_array("/a", lambda c: [c[0] - 1]),
        ic.InvalidInputError,
        r"\(-1,\)",
    ),
    "its own error": (
        lambda s: s.reindex_array("/a", lambda c: [1 // c[0]]),
        ZeroDivisionError,
        "zero",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing(repo: ic.Repository, name: str) -> None:
    act, error, said = REFUSED[name]
    session = repo.writable_session("main")
    with pytest.raises(error, match=said):
        act(session)
    assert not session.has_uncommitted_changes
    assert seen(session) == [1, 3, 5, 7]


def test_read_only_sessions_and_irregular_grids_are_refused(repo: ic.Repository) -> None:
    with pytest.raises(ic.ReadOnlyError):
        repo.readonly_session("main").shift_array("/a", (1,))
    with pytest.raises(ic.ReadOnlyError):
        repo.readonly_session("main").reindex_array("/a", lambda c: c)
    session = repo.writable_session("main")
    node = session.checkout.require_array("/a")  # type: ignore[arg-type]
    document = (
        b'{"zarr_format":3,"node_type":"array","shape":[5],"chunk_grid":{"name":"rectilinear",'
        b'"configuration":{"kind":"inline","chunk_shapes":[[2,3]]}}}'
    )
    session.checkout.set_document(node.path, document)  # type: ignore[arg-type]
    with pytest.raises(ic.InvalidInputError, match="rectilinear") as caught:
        session.shift_array("/a", (1,))
    assert caught.value.kind == "invalid-array-metadata"
