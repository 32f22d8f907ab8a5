"""Replacing the last commit, and snapshots that no branch points at."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.assets.refs import read_state, update_repo
from icechunk.errors import StorageError
from icechunk.format.repo_info import (
    CommitAmended,
    ExpirationRan,
    NewDetachedSnapshot,
    RepoInfo,
    SnapshotRecord,
)
from icechunk.ids import INITIAL_SNAPSHOT_ID, NodeId, id_text, parse_object_id
from tests.faults import Died, FaultyStorage

INITIAL = id_text(INITIAL_SNAPSHOT_ID)


def made(storage: ic.Storage | None = None) -> ic.Repository:
    repo = ic.Repository.create(storage or ic.in_memory_storage())
    with repo.transaction("main", message="first") as store:
        root = zarr.create_group(store)
        for name in ("a", "b"):
            array = root.create_array(name, shape=(8,), chunks=(2,), dtype="i4")
            array[:] = np.arange(8) + 1
    return repo


def wrote(repo: ic.Repository, value: int, where: int = 0) -> ic.Session:
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[where : where + 2] = value
    return session


def values(repo: ic.Repository, **at: str) -> list[int]:
    store = repo.readonly_session(**(at or {"branch": "main"})).store
    return np.asarray(zarr.open_array(store, path="a", mode="r")[::2]).tolist()  # type: ignore[no-any-return]


def messages(repo: ic.Repository) -> list[str]:
    return [info.message for info in repo.ancestry(branch="main")]


def info_of(repo: ic.Repository) -> RepoInfo:

    return run(read_state(repo._state.assets)).info


def log_of(repo: ic.Repository, snapshot_id: str) -> Any:

    return run(repo._state.assets.transaction_log(parse_object_id(snapshot_id)))


def test_an_amendment_takes_the_place_of_the_last_commit() -> None:
    repo = made()
    second = wrote(repo, 20).commit("second", metadata={"old": 1})
    session = wrote(repo, 30, where=4)
    amended = session.amend("better", metadata={"new": 2})
    assert messages(repo) == ["better", "first", "Repository initialized"]
    assert repo.lookup_branch("main") == amended
    assert repo.lookup_snapshot(amended).metadata == {"new": 2}
    assert repo.lookup_snapshot(amended).parent_id == repo.lookup_snapshot(second).parent_id
    assert values(repo) == [20, 3, 30, 7]
    assert (session.read_only, session.snapshot_id) == (True, amended)
    # The replaced snapshot is still there for who knows its id.
    assert values(repo, snapshot_id=second) == [20, 3, 5, 7]
    kind = info_of(repo).updates.latest.kind
    assert kind == CommitAmended(
        branch="main",
        previous_snap_id=parse_object_id(second),
        new_snap_id=parse_object_id(amended),
    )
    first = repo.lookup_snapshot(amended).parent_id
    diff = repo.diff(from_snapshot_id=first, to_branch="main")
    assert diff.updated_chunks == {"/a": [[0], [2]]}


def test_the_log_of_an_amendment_is_that_of_both_commits() -> None:
    repo = made()
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    root.create_array("new", shape=(2,), chunks=(1,), dtype="i4")[:] = 1
    root["b"].attrs["x"] = 1
    node = NodeId(next(iter(session.checkout.changes.new_nodes.values())).id)
    session.commit("came")
    session = repo.writable_session("main")
    del zarr.open_group(session.store, mode="r+")["new"]
    log = log_of(repo, session.amend("came and went"))
    assert (log.new_arrays, log.deleted_arrays) == ({node}, {node})
    assert log.updated_chunks[node].tolist() == [[0], [1]]
    assert len(log.updated_arrays) == 1
    assert repo.diff(from_snapshot_id=INITIAL, to_branch="main").new_arrays == {"/a", "/b"}


def test_an_amendment_keeps_the_logs_that_were_pruned_before_it() -> None:
    repo = made()
    tip = parse_object_id(wrote(repo, 20).commit("second"))
    pruned = (parse_object_id(repo.lookup_snapshot(id_text(tip)).parent_id or ""),)

    def prune(info: RepoInfo) -> tuple[RepoInfo, ExpirationRan]:
        record = info.snapshots.get(tip)
        assert record is not None
        released = SnapshotRecord(
            id=tip,
            parent_id=INITIAL_SNAPSHOT_ID,
            flushed_at_us=record.flushed_at_us,
            message=record.message,
            metadata={},
            pruned_logs=pruned,
        )
        return replace(info, snapshots=info.snapshots.replaced([released], [])), ExpirationRan()

    run(update_repo(repo._state.assets, prune))
    amended = parse_object_id(wrote(repo, 30).amend("amended"))
    record = info_of(repo).snapshots.get(amended)
    assert record is not None
    assert (record.parent_id, record.pruned_logs) == (INITIAL_SNAPSHOT_ID, pruned)


def test_amending_with_nothing_changes_message_and_metadata_when_allowed() -> None:
    repo = made()
    with pytest.raises(ic.SessionStateError) as caught:
        repo.writable_session("main").amend("x")
    assert caught.value.kind == "no-changes-to-commit"
    repo.set_default_commit_metadata({"by": "me"})
    amended = repo.writable_session("main").amend("x", metadata={"k": 1}, allow_empty=True)
    assert messages(repo) == ["x", "Repository initialized"]
    assert repo.lookup_snapshot(amended).metadata == {"by": "me", "k": 1}
    assert values(repo) == [1, 3, 5, 7]


def test_what_cannot_be_amended() -> None:
    repo = ic.Repository.create(ic.in_memory_storage())
    with pytest.raises(ic.SessionStateError) as caught:
        repo.writable_session("main").amend("x", allow_empty=True)
    assert caught.value.kind == "no-amend-for-initial-commit"
    repo = made()
    for session in (repo.readonly_session("main"), wrote(repo, 3).fork()):
        with pytest.raises(ic.SessionStateError) as caught:
            session.amend("x")
        assert caught.value.kind == "commit-not-allowed"
    late = wrote(repo, 3)
    other = wrote(repo, 4).commit("other")
    with pytest.raises(ic.ConflictError) as moved:
        late.amend("late")
    assert moved.value.actual_parent == other
    assert late.has_uncommitted_changes
    assert messages(repo)[0] == "other"


def test_a_flushed_snapshot_is_on_no_branch() -> None:
    repo = made()
    tip = repo.lookup_branch("main")
    session = wrote(repo, 50)
    flushed = session.flush("aside", metadata={"k": 1})
    assert (session.read_only, session.snapshot_id) == (True, flushed)
    assert repo.lookup_branch("main") == tip
    info = repo.lookup_snapshot(flushed)
    assert (info.message, info.parent_id, info.metadata) == ("aside", tip, {"k": 1})
    assert values(repo, snapshot_id=flushed)[0] == 50
    assert values(repo)[0] == 1
    assert info_of(repo).updates.latest.kind == NewDetachedSnapshot(
        new_snap_id=parse_object_id(flushed)
    )
    repo.create_tag("kept", flushed)
    assert [i.message for i in repo.ancestry(tag="kept")][:2] == ["aside", "first"]


def test_everything_but_a_fork_can_be_flushed() -> None:
    repo = made()
    flushed = repo.readonly_session("main").flush("a copy")
    assert values(repo, snapshot_id=flushed) == values(repo)
    repo.create_branch("gone", repo.lookup_branch("main"))
    session = repo.writable_session("gone")
    repo.delete_branch("gone")
    assert repo.lookup_snapshot(session.flush("rescued")).message == "rescued"
    with pytest.raises(ic.SessionStateError) as caught:
        wrote(repo, 1).fork().flush("x")
    assert caught.value.kind == "commit-not-allowed"
    with pytest.raises(TypeError):
        repo.readonly_session("main").flush(None)  # type: ignore[arg-type]


OLD = (["second", "first", "Repository initialized"], [20, 3, 5, 7])
NEW = (["amended", "first", "Repository initialized"], [20, 3, 30, 7])


def amending(how: str = "", step: int = -1) -> tuple[FaultyStorage, ic.Session]:
    """Return a session about to amend on a storage that fails at one write of it."""
    storage = FaultyStorage(ic.in_memory_storage())
    repo = made(storage)
    wrote(repo, 20).commit("second")
    session = wrote(repo, 30, where=4)
    storage.writes.clear()
    storage.fail_at, storage.how = step, how
    return storage, session


@pytest.mark.parametrize("how", ["die before", "die after", "error", "lost reply", "lost race"])
def test_an_amendment_that_stops_at_any_write_leaves_the_old_state_or_the_new(how: str) -> None:
    storage, session = amending()
    session.amend("amended")
    steps, outcomes = len(storage.writes), []
    assert steps >= 5
    for step in range(steps):
        storage, session = amending(how, step)
        with contextlib.suppress(Died, StorageError, ic.ConflictError):
            session.amend("amended")
        state = ic.Repository.open(storage.inner)
        assert (messages(state), values(state)) in (OLD, NEW)
        outcomes.append((messages(state), values(state)) == NEW)
        storage.fail_at = -1
        wrote(ic.Repository.open(storage), 40).amend("again")
        assert messages(state) == ["again", "first", "Repository initialized"]
    assert outcomes[-1] == (how in {"die after", "lost reply", "lost race"})
