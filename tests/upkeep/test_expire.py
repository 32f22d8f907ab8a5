"""Expiration: what is released, what stays, and what history still tells."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.format.repo_info import ExpirationRan, RepoInfo
from icechunk.ids import INITIAL_SNAPSHOT_ID, id_text, parse_object_id

INITIAL = id_text(INITIAL_SNAPSHOT_ID)
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def made() -> ic.Repository:
    repo = ic.Repository.create(ic.in_memory_storage())
    with repo.transaction("main", message="arrays") as store:
        zarr.create_array(store, name="a", shape=(8,), chunks=(1,), dtype="i4")
    return repo


def commit(repo: ic.Repository, chunk: int, branch: str = "main") -> str:
    session = repo.writable_session(branch)
    zarr.open_array(session.store, path="a", mode="r+")[chunk] = chunk + 1
    return session.commit(f"chunk {chunk}")


def messages(repo: ic.Repository, **at: str) -> list[str]:
    return [info.message for info in repo.ancestry(**(at or {"branch": "main"}))]


def state(repo: ic.Repository) -> RepoInfo:
    from icechunk.assets.refs import read_state

    return run(read_state(repo._state.assets)).info


def pruned(repo: ic.Repository, snapshot_id: str) -> list[str]:
    record = state(repo).snapshots.get(parse_object_id(snapshot_id))
    assert record is not None
    return [id_text(log) for log in record.pruned_logs]


def written_at(repo: ic.Repository, snapshot_id: str) -> datetime:
    return repo.lookup_snapshot(snapshot_id).written_at


def test_old_snapshots_are_released_and_their_logs_stay_named() -> None:
    repo = made()
    arrays = repo.lookup_branch("main")
    ids = [commit(repo, i) for i in range(4)]
    # Exclusive: what was committed at the very time stays.
    assert repo.expire_snapshots(written_at(repo, ids[2])) == {arrays, *ids[:2]}
    assert messages(repo) == ["chunk 3", "chunk 2", "Repository initialized"]
    assert pruned(repo, ids[2]) == [arrays, *ids[:2]]
    assert pruned(repo, ids[3]) == []
    assert state(repo).updates.latest.kind == ExpirationRan()
    with pytest.raises(ic.SnapshotNotFoundError):
        repo.lookup_snapshot(ids[0])
    read = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert np.asarray(read[:4]).tolist() == [1, 2, 3, 4]
    # A second cut goes before the first.
    assert repo.expire_snapshots(LATER) == {ids[2]}
    assert pruned(repo, ids[3]) == [arrays, *ids[:3]]
    assert repo.expire_snapshots(LATER) == set()
    assert state(repo).updates.latest.kind == ExpirationRan()


def test_the_diff_over_released_snapshots_is_what_it_was() -> None:
    repo = made()
    ids = [commit(repo, i) for i in range(4)]
    before = repo.diff(from_snapshot_id=INITIAL, to_branch="main")
    repo.expire_snapshots(written_at(repo, ids[3]))
    after = repo.diff(from_snapshot_id=INITIAL, to_branch="main")
    assert after.updated_chunks == before.updated_chunks == {"/a": [[0], [1], [2], [3]]}
    assert after.new_arrays == before.new_arrays == {"/a"}


def forget_log(repo: ic.Repository, snapshot_id: str) -> ic.Repository:
    run(repo.storage.delete_many([f"transactions/{snapshot_id}"]))
    return ic.Repository.open(repo.storage)


def test_a_diff_skips_pruned_logs_that_are_gone_but_no_others() -> None:
    repo = made()
    ids = [commit(repo, i) for i in range(3)]
    repo.expire_snapshots(written_at(repo, ids[2]))
    repo = forget_log(repo, ids[0])
    diff = repo.diff(from_snapshot_id=INITIAL, to_branch="main")
    assert diff.updated_chunks == {"/a": [[1], [2]]}
    repo = forget_log(repo, ids[2])
    with pytest.raises(ic.StorageError):
        repo.diff(from_snapshot_id=INITIAL, to_branch="main")


def new_array(session: ic.Session, name: str) -> None:
    """Make an array, and no group around it that others may make as well."""
    other = zarr.storage.MemoryStore()
    zarr.create_array(other, name=name, shape=(2,), chunks=(1,), dtype="i4")
    prototype = zarr.core.buffer.default_buffer_prototype()

    async def copy() -> None:
        document = await other.get(f"{name}/zarr.json", prototype)
        assert document is not None
        await session.store.set(f"{name}/zarr.json", document)

    asyncio.run(copy())


@pytest.mark.parametrize("name", ["ours", "theirs 0"])
def test_a_rebase_goes_over_pruned_logs(name: str) -> None:
    repo = ic.Repository.create(ic.in_memory_storage())
    session = repo.writable_session("main")
    new_array(session, name)
    ids = []
    for i in range(3):
        with repo.transaction("main", message=f"theirs {i}") as store:
            zarr.create_array(store, name=f"theirs {i}", shape=(2,), chunks=(1,), dtype="i4")
        ids.append(repo.lookup_branch("main"))
    repo.expire_snapshots(written_at(repo, ids[2]))
    assert pruned(repo, ids[2]) == ids[:2]
    if name == "ours":
        session.commit("ours", rebase_with=ic.ConflictDetector())
        assert messages(repo) == ["ours", "theirs 2", "Repository initialized"]
        return
    with pytest.raises(ic.RebaseFailedError) as caught:
        session.commit("ours", rebase_with=ic.ConflictDetector())
    assert caught.value.snapshot == ids[2]
    assert [c.path for c in caught.value.conflicts] == ["/theirs 0"]


def test_a_rebase_over_a_pruned_log_that_is_gone_is_refused() -> None:
    repo = ic.Repository.create(ic.in_memory_storage())
    base = repo.lookup_branch("main")
    for i in range(2):
        with repo.transaction("main", message=str(i)) as store:
            zarr.create_array(store, name=str(i), shape=(2,), chunks=(1,), dtype="i4")
    first = [info.id for info in repo.ancestry(branch="main")][1]
    repo.create_branch("late", base)
    repo.expire_snapshots(written_at(repo, repo.lookup_branch("main")))
    repo = forget_log(repo, first)
    session = repo.writable_session("late")
    new_array(session, "ours")
    repo.reset_branch("late", repo.lookup_branch("main"))
    with pytest.raises(ic.SessionStateError) as caught:
        session.commit("ours", rebase_with=ic.ConflictDetector())
    assert caught.value.kind == "rebase-tx-log-pruned"


def test_refs_are_kept_or_deleted_with_what_they_point_at() -> None:
    def branched() -> tuple[ic.Repository, list[str]]:
        repo = made()
        ids = [commit(repo, i) for i in range(4)]
        repo.create_branch("old", ids[1])
        repo.create_branch("at root", INITIAL)
        repo.create_tag("old tag", ids[0])
        repo.create_tag("root tag", INITIAL)
        repo.create_tag("new tag", ids[3])
        return repo, ids

    repo, ids = branched()
    arrays = repo.lookup_snapshot(ids[0]).parent_id
    cut = written_at(repo, ids[3])
    assert repo.expire_snapshots(cut) == {arrays, ids[2]}
    assert repo.list_branches() == {"main", "old", "at root"}
    # Each kept snapshot goes to the root, past those that others keep.
    assert messages(repo) == ["chunk 3", "Repository initialized"]
    assert pruned(repo, ids[3]) == [arrays, *ids[:3]]
    assert messages(repo, tag="old tag") == ["chunk 0", "Repository initialized"]

    repo, ids = branched()
    released = repo.expire_snapshots(cut, delete_expired_branches=True)
    assert released == set()
    cut = written_at(repo, ids[3])
    released = repo.expire_snapshots(cut, delete_expired_branches=True)
    assert ids[1] in released
    assert ids[0] not in released
    assert repo.list_branches() == {"main", "at root"}
    assert repo.list_tags() == {"old tag", "root tag", "new tag"}
    repo.expire_snapshots(LATER, delete_expired_tags=True)
    assert repo.list_tags() == {"root tag"}
    assert messages(repo)[0] == "chunk 3"  # the tip of main stays, whatever its age
    with pytest.raises(ic.AlreadyExistsError) as caught:
        repo.create_tag("old tag", ids[3])
    assert caught.value.kind == "tag-previously-deleted"


@pytest.mark.parametrize(
    "when", [datetime(2030, 1, 1), "2030", 5, timedelta(1), datetime(2030, 1, 1).date()]
)
def test_a_time_without_zone_is_refused(when: Any) -> None:
    with pytest.raises(TypeError):
        made().expire_snapshots(when)


def test_times_at_the_ends_of_the_calendar() -> None:
    repo = made()
    commit(repo, 0)
    assert repo.expire_snapshots(datetime.min.replace(tzinfo=UTC)) == set()
    assert len(repo.expire_snapshots(datetime.max.replace(tzinfo=UTC))) == 1


def test_someone_who_commits_meanwhile_is_not_disturbed() -> None:
    repo = made()
    ids = [commit(repo, i) for i in range(3)]
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[7] = 7
    repo.expire_snapshots(written_at(repo, ids[2]))
    session.commit("after")
    assert messages(repo) == ["after", "chunk 2", "Repository initialized"]
