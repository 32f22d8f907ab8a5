"""Moving groups and arrays: what a session shows, what is committed, and what rebasing does."""

from __future__ import annotations

import contextlib
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import icechunk as ic
from icechunk.core.changes import ChangeSet
from icechunk.core.moves import Move
from icechunk.core.wire import pack_changes, unpack_changes
from icechunk.errors import StorageError
from icechunk.ids import NodeId
from icechunk.paths import NodePath
from tests.faults import Died, FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

Moves = list[tuple[str, str]]


def made(storage: ic.Storage | None = None) -> ic.Repository:
    repo = ic.Repository.create(storage or ic.in_memory_storage())
    with repo.transaction("main", message="first") as store:
        root = zarr.create_group(store)
        root.create_array("a", shape=(4,), chunks=(2,), dtype="i4")[:] = 1
        root.create_group("a-b")
        root.create_array("g/sub/x", shape=(4,), chunks=(2,), dtype="i4")[:] = 3
    return repo


def moving(repo: ic.Repository, *moves: tuple[str, str]) -> ic.Session:
    session = repo.rearrange_session("main")
    for before, after in moves:
        session.move(before, after)
    return session


def members(session: ic.Session) -> dict[str, Any]:
    """Return every path, with the values of arrays."""
    root = zarr.open_group(session.store, mode="r")
    return {
        path: np.asarray(node[...]).tolist() if isinstance(node, zarr.Array) else None
        for path, node in sorted(root.members(max_depth=None))
    }


def keys(session: ic.Session) -> list[str]:
    async def listed() -> list[str]:
        return sorted([key async for key in session.store.list()])

    return sync(listed())


def test_a_move_shows_in_the_session_and_is_committed() -> None:
    repo = made()
    ids = {path: repo.readonly_session("main").get_node_id(path) for path in ("/g", "/g/sub/x")}
    session = moving(repo, ("/g", "/h"), ("/h/sub", "/a-b/s"))
    assert (int(session.mode), session.read_only) == (2, False)
    expected = {"a": [1] * 4, "a-b": None, "a-b/s": None, "a-b/s/x": [3] * 4, "h": None}
    assert members(session) == expected
    moved = [("/g/sub", "/a-b/s"), ("/g/sub/x", "/a-b/s/x"), ("/g", "/h")]
    assert session.status().moved_nodes == moved
    assert "a-b/s/x/c/1" in keys(session)
    assert not any(key.startswith("g/") for key in keys(session))
    tip = repo.lookup_branch("main")
    new = session.commit("moved")
    assert session.read_only
    reader = ic.Repository.open(repo.storage).readonly_session("main")
    assert members(reader) == expected
    assert {p: reader.get_node_id(p) for p in ("/h", "/a-b/s/x")} == {
        "/h": ids["/g"],
        "/a-b/s/x": ids["/g/sub/x"],
    }
    diff = repo.diff(from_snapshot_id=tip, to_snapshot_id=new)
    assert diff.moved_nodes == moved
    assert not diff.new_arrays
    assert not diff.deleted_arrays
    assert "/g -> /h" in str(diff)


def test_two_nodes_change_places() -> None:
    repo = made()
    session = moving(repo, ("/a", "/tmp"), ("/g", "/a"), ("/tmp", "/g"))
    session.commit("swapped")
    now = members(repo.readonly_session("main"))
    assert now == {"a": None, "a/sub": None, "a/sub/x": [3] * 4, "a-b": None, "g": [1] * 4}


def test_moves_that_come_back_are_no_change() -> None:
    repo = made()
    session = moving(repo, ("/a", "/b"), ("/b", "/a"))
    assert not session.has_uncommitted_changes
    with pytest.raises(ic.SessionStateError) as caught:
        session.commit("nothing")
    assert caught.value.kind == "no-changes-to-commit"
    session.move("/a", "/b")
    session.discard_changes()
    assert "a" in members(session)
    assert session.commit("empty", allow_empty=True)


REFUSED: dict[tuple[str, str], tuple[type[ic.IcechunkError], str]] = {
    ("/zz", "/y"): (ic.NodeNotFoundError, "node-not-found"),
    ("/a", "/a"): (ic.SessionStateError, "move-into-self-or-descendant"),
    ("/g", "/g/q"): (ic.SessionStateError, "move-into-self-or-descendant"),
    ("/", "/x"): (ic.SessionStateError, "move-into-self-or-descendant"),
    ("/a", "/g"): (ic.AlreadyExistsError, "move-wont-overwrite"),
    ("/a", "/"): (ic.AlreadyExistsError, "move-wont-overwrite"),
    ("/a", "/no/pe"): (ic.SessionStateError, "move-destination-parent-missing"),
    ("/g", "/a/in"): (ic.SessionStateError, "move-destination-parent-not-group"),
    ("a", "/b"): (ic.InvalidInputError, "invalid-path"),
    ("/a", "b"): (ic.InvalidInputError, "invalid-path"),
    ("/a", "/b/../c"): (ic.InvalidInputError, "invalid-path"),
    ("", "/b"): (ic.InvalidInputError, "invalid-path"),
}


@pytest.mark.parametrize("move", REFUSED, ids=str)
def test_a_refused_move_changes_nothing(move: tuple[str, str]) -> None:
    session = made().rearrange_session("main")
    error, kind = REFUSED[move]
    with pytest.raises(error) as caught:
        session.move(*move)
    assert caught.value.kind == kind
    assert not session.has_uncommitted_changes
    session.move("/a/", "/c/")
    assert "c" in members(session)


EDITS: dict[str, tuple[Callable[[ic.Repository], Any], str]] = {
    "move in a writable session": (
        lambda r: r.writable_session("main").move("/a", "/b"),
        "non-rearrange-session",
    ),
    "move in a fork": (
        lambda r: r.writable_session("main").fork().move("/a", "/b"),
        "non-rearrange-session",
    ),
    "move in a fork of a session that moves": (
        lambda r: moving(r).fork().move("/a", "/b"),
        "non-rearrange-session",
    ),
    "move in a read-only session": (
        lambda r: r.readonly_session("main").move("/a", "/b"),
        "read-only-session",
    ),
    "shift": (lambda r: moving(r).shift_array("/a", (1,)), "rearrange-session-only"),
    "merge": (
        lambda r: moving(r).merge(r.writable_session("main").fork()),
        "rearrange-session-only",
    ),
    "delete": (lambda r: sync(moving(r).store.delete("a/zarr.json")), "rearrange-session-only"),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_session_either_moves_or_edits(name: str) -> None:
    act, kind = EDITS[name]
    with pytest.raises(ic.IcechunkError) as caught:
        act(made())
    assert caught.value.kind == kind


def test_a_fork_of_a_session_that_moves_reads_what_it_moved() -> None:
    session = moving(made(), ("/g", "/h"))
    for fork in (session.fork(), pickle.loads(pickle.dumps(session))):
        assert members(fork) == members(session)
        with pytest.raises(ic.SessionStateError):
            fork.shift_array("/h/sub/x", (1,))


def test_moves_travel_as_values() -> None:
    changes = ChangeSet()
    move = Move(node_id=NodeId(b"12345678"), from_path=NodePath("/a"), to_path=NodePath("/é"))
    changes.moves = (move,)
    assert unpack_changes(pack_changes(changes)).moves == (move,)
    assert not changes.is_empty()
    assert changes.copy().moves == (move,)


def log_moves(repo: ic.Repository) -> list[tuple[str, str]]:
    first = list(repo.ancestry(branch="main"))[-2]
    return repo.diff(from_snapshot_id=first.id, to_branch="main").moved_nodes


def test_amending_with_moves_composes_them() -> None:
    repo = made()
    repo.writable_session("main").commit("empty", allow_empty=True)
    moving(repo, ("/g", "/h")).amend("moved")
    assert log_moves(repo) == [("/g", "/h"), ("/g/sub", "/h/sub"), ("/g/sub/x", "/h/sub/x")]
    moving(repo, ("/h/sub", "/s")).amend("moved on")
    assert log_moves(repo) == [("/g", "/h"), ("/g/sub", "/s"), ("/g/sub/x", "/s/x")]
    moving(repo, ("/s", "/h/sub")).amend("and back")
    assert log_moves(repo) == [("/g", "/h"), ("/g/sub", "/h/sub"), ("/g/sub/x", "/h/sub/x")]
    session = repo.writable_session("main")
    zarr.open_group(session.store, mode="r+").create_group("q")
    with pytest.raises(ic.SessionStateError) as caught:
        session.amend("edit")
    assert caught.value.kind == "rearrange-session-only"
    flushed = moving(repo, ("/h", "/g")).flush("aside")
    assert "g" in members(repo.readonly_session(snapshot_id=flushed))


# -- rebase -----------------------------------------------------------------------------------


def rebased(moves: Moves, theirs: Callable[[zarr.Group], Any]) -> ic.Repository:
    repo = made()
    session = moving(repo, *moves)
    other = repo.writable_session("main")
    theirs(zarr.open_group(other.store, mode="r+"))
    other.commit("theirs")
    session.commit("moved", rebase_with=ic.BasicConflictSolver())
    return repo


def delete(root: zarr.Group, path: str) -> None:
    del root[path]


def test_a_rebased_move_takes_along_what_others_did() -> None:
    def theirs(root: zarr.Group) -> None:
        root["g"].attrs["x"] = 1
        root["g/sub/x"][:2] = 9
        root.create_group("g/new")
        root.create_group("other")
        del root["a"]

    repo = rebased([("/g", "/h")], theirs)
    reader = repo.readonly_session("main")
    assert members(reader) == {
        "a-b": None,
        "h": None,
        "h/new": None,
        "h/sub": None,
        "h/sub/x": [9, 9, 3, 3],
        "other": None,
    }
    assert zarr.open_group(reader.store, path="h", mode="r").attrs["x"] == 1


def test_what_others_deleted_below_a_moved_group_is_gone() -> None:
    repo = rebased([("/g", "/h")], lambda root: delete(root, "g/sub"))
    assert set(members(repo.readonly_session("main"))) == {"a", "a-b", "h"}
    assert log_moves(repo) == [("/g", "/h")]


CONFLICTS: dict[str, tuple[Moves, Callable[[zarr.Group], Any], str]] = {
    "destination created": ([("/g", "/h")], lambda r: r.create_group("h"), "/h"),
    "below the destination": ([("/g", "/h")], lambda r: r.create_group("h/y"), "/h"),
    "moved node deleted": ([("/g", "/h")], lambda r: delete(r, "g"), "/g"),
    "moved node replaced": (
        [("/a", "/b")],
        lambda r: (delete(r, "a"), r.create_group("a")),
        "/a",
    ),
    "group to move to deleted": ([("/a", "/g/a")], lambda r: delete(r, "g"), "/g/a"),
    "group to move to is an array": (
        [("/a", "/a-b/a")],
        lambda r: (delete(r, "a-b"), r.create_array("a-b", shape=(), dtype="i4")),
        "/a-b/a",
    ),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_a_move_that_lost_its_place_is_a_conflict(name: str) -> None:
    moves, theirs, path = CONFLICTS[name]
    with pytest.raises(ic.RebaseFailedError) as caught:
        rebased(moves, theirs)
    (conflict,) = caught.value.conflicts
    assert conflict.conflict_type == ic.ConflictType.MoveOperationCannotBeRebased
    assert conflict.path == path
    assert path in str(conflict)


@pytest.mark.parametrize("ours", ["moves", "edits"])
def test_nothing_is_rebased_over_the_moves_of_others(ours: str) -> None:
    repo = made()
    session = moving(repo, ("/a", "/b")) if ours == "moves" else repo.writable_session("main")
    if ours == "edits":
        zarr.open_array(session.store, path="a", mode="r+")[:] = 2
    moving(repo, ("/g", "/h")).commit("theirs")
    with pytest.raises(ic.RebaseFailedError) as caught:
        session.commit("ours", rebase_with=ic.BasicConflictSolver())
    conflicts = [(c.conflict_type, c.path) for c in caught.value.conflicts]
    assert conflicts == [(ic.ConflictType.MoveOperationCannotBeRebased, "")]
    assert session.has_uncommitted_changes


# -- crashes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["die before", "die after", "error", "lost reply", "lost race"])
def test_a_move_that_stops_at_any_write_leaves_the_old_state_or_the_new(how: str) -> None:
    def prepared(step: int) -> tuple[FaultyStorage, ic.Session]:
        storage = FaultyStorage(ic.in_memory_storage())
        session = moving(made(storage), ("/g", "/h"))
        storage.writes.clear()
        storage.fail_at, storage.how = step, how
        return storage, session

    storage, session = prepared(-1)
    old, new = members(made().readonly_session("main")), members(session)
    session.commit("moved")
    outcomes = []
    for step in range(len(storage.writes)):
        storage, session = prepared(step)
        with contextlib.suppress(Died, StorageError, ic.ConflictError):
            session.commit("moved")
        seen = members(ic.Repository.open(storage.inner).readonly_session("main"))
        assert seen in (old, new)
        outcomes.append(seen == new)
    assert len(outcomes) == 4
    assert outcomes[-1] == (how in {"die after", "lost reply", "lost race"})
