"""Garbage collection: what goes, what stays, beside whom, and after which accidents."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.errors import ErrorKind, StorageError
from icechunk.format.repo_info import GCRan
from icechunk.ids import id_text
from icechunk.ops import GCSummary
from icechunk.ops.sweep import Listed
from icechunk.storage.objects import ObjectInfo
from tests.faults import Died
from tests.upkeep.aged import HOUR_US, AgedStorage
from tests.upkeep.test_expire import LATER, state, written_at

if TYPE_CHECKING:
    from collections.abc import Callable

N = 4


def now() -> datetime:
    return datetime.now(UTC)


def an_hour_ago() -> datetime:
    return now() - timedelta(hours=1)


def made(storage: AgedStorage | None = None) -> tuple[AgedStorage, ic.Repository]:
    storage = storage or AgedStorage()
    return storage, filled(storage)


def filled(storage: ic.Storage) -> ic.Repository:
    repo = ic.Repository.create(storage)
    with repo.transaction("main", message="first") as store:
        root = zarr.create_group(store)
        for name in ("a", "b"):
            array = root.create_array(
                name, shape=(N * 100,), chunks=(100,), dtype="f8", compressors=None
            )
            array[:] = 1.0
    return repo


def commit(repo: ic.Repository, value: float, branch: str = "main", chunk: int = 0) -> str:
    session = repo.writable_session(branch)
    array = zarr.open_array(session.store, path="a", mode="r+")
    array[chunk * 100 : (chunk + 1) * 100] = value
    return session.commit(f"a is {value}")


def values(repo: ic.Repository, **at: str) -> list[float]:
    root = zarr.open_group(repo.readonly_session(**(at or {"branch": "main"})).store, mode="r")
    return [*np.asarray(root["a"][::100]).tolist(), *np.asarray(root["b"][::100]).tolist()]


def keys(storage: ic.Storage, folder: str = "") -> set[str]:
    found = {key for key, _ in storage.list_objects()}
    return {key for key in found if key.startswith(folder)}


def check(storage: ic.Storage) -> None:
    """Read every registered snapshot whole, through a new repository object."""
    repo = ic.Repository.open(storage)
    for record in state(repo).snapshots:
        session = repo.readonly_session(snapshot_id=id_text(record.id))
        root = zarr.open_group(session.store, mode="r") if len(list_of(session)) else None
        for _, node in root.members(max_depth=None) if root else ():
            np.asarray(node[...] if isinstance(node, zarr.Array) else 0)
        for log in (record.id, *record.pruned_logs):
            run(repo._state.assets.transaction_log(log))


def list_of(session: ic.Session) -> list[Any]:
    return list(session.checkout.nodes())


def garbage() -> tuple[AgedStorage, ic.Repository]:
    """Return an aged repository with history that expired, and a branch that was deleted."""
    storage, repo = made()
    ids = [commit(repo, float(i)) for i in range(2, 5)]
    repo.create_branch("side", ids[0])
    commit(repo, 50.0, "side", chunk=1)
    repo.delete_branch("side")
    repo.expire_snapshots(written_at(repo, ids[2]))
    run(storage.age())
    return storage, repo


def test_what_nobody_needs_goes_and_the_rest_stays() -> None:
    storage, repo = garbage()
    before = keys(storage)
    dry = repo.garbage_collect(an_hour_ago(), dry_run=True)
    assert keys(storage) == before
    summary = repo.garbage_collect(an_hour_ago())
    assert summary == dry
    # Four snapshots: three that expired, and the one of the branch that is gone.
    assert summary == GCSummary(
        bytes_deleted=summary.bytes_deleted,
        chunks_deleted=4,
        manifests_deleted=4,
        snapshots_deleted=4,
        transaction_logs_deleted=1,
    )
    gone = before - keys(storage)
    assert len(gone) == 13
    assert summary.bytes_deleted > 4 * 800
    assert state(repo).updates.latest.kind == GCRan()
    assert values(repo) == [4.0, *[1.0] * 7]
    check(storage)
    again = repo.garbage_collect(an_hour_ago())
    assert again == GCSummary()
    assert str(again).splitlines()[:2] == ["<icechunk.ops.GCSummary>", "bytes_deleted: 0"]
    diff = repo.diff(from_snapshot_id=list(repo.ancestry(branch="main"))[-1].id, to_branch="main")
    assert diff.new_arrays == {"/a", "/b"}


def test_the_order_is_snapshots_logs_manifests_chunks() -> None:
    storage, repo = garbage()
    storage.deleted.clear()
    repo.garbage_collect(an_hour_ago())
    folders = [key.partition("/")[0] for key in storage.deleted]
    order = ["snapshots", "transactions", "manifests", "chunks"]
    assert folders == sorted(folders, key=order.index)
    assert set(folders) == set(order)


def test_what_is_younger_than_the_cut_off_stays() -> None:
    storage, repo = made()
    first = repo.lookup_branch("main")
    run(storage.age())
    for value in (2.0, 3.0):
        commit(repo, value)
    tip = repo.lookup_branch("main")
    repo.reset_branch("main", first)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="b", mode="r+")[:] = 9.0  # uploaded, not committed
    before = keys(storage, "chunks")
    assert repo.garbage_collect(an_hour_ago()) == GCSummary()
    assert keys(storage, "chunks") == before
    repo.create_tag("rescued", tip)
    assert values(repo, tag="rescued") == [3.0, *[1.0] * 7]
    session.commit("committed")
    assert values(repo) == [*[1.0] * 4, *[9.0] * 4]


def test_a_young_snapshot_above_a_removed_one_keeps_its_log() -> None:
    storage, repo = made()
    first = repo.lookup_branch("main")
    repo.create_branch("side", first)
    old = commit(repo, 2.0, "side")
    run(storage.age())
    young = commit(repo, 3.0, "side", chunk=1)
    repo.delete_branch("side")
    summary = repo.garbage_collect(an_hour_ago())
    assert (summary.snapshots_deleted, summary.transaction_logs_deleted) == (1, 0)
    assert repo.lookup_snapshot(young).parent_id == first
    diff = repo.diff(from_snapshot_id=first, to_snapshot_id=young)
    assert diff.updated_chunks == {"/a": [[0], [1]]}
    assert f"transactions/{old}" in keys(storage)
    check(storage)


@pytest.mark.parametrize("whole_seconds", [False, True])
def test_the_second_of_the_cut_off_stays_where_times_are_whole(whole_seconds: bool) -> None:
    def older(at_us: int, cutoff_us: int) -> bool:
        info = ObjectInfo(key="chunks/" + "0" * 20, size_bytes=1, last_modified_us=at_us)
        return bool(Listed.of([info]).older_than(cutoff_us)[0])

    if whole_seconds:
        assert not older(5_000_000, 5_000_001)
        assert not older(5_000_000, 5_999_999)
        assert older(5_000_000, 6_000_000)
    else:
        assert not older(5_000_001, 5_000_001)  # strict
        assert older(5_000_001, 5_000_002)


def test_times_are_the_storages_own() -> None:
    # The clock of whoever committed was far behind: its record says 1970, its files are young.
    _, repo = made()
    tip = commit(repo, 2.0)
    repo.create_branch("side", tip)
    aside = commit(repo, 3.0, "side")
    repo.delete_branch("side")
    from dataclasses import replace

    from icechunk.assets.refs import update_repo
    from icechunk.format.repo_info import ConfigChanged, RepoInfo, SnapshotRecord, SnapshotTable

    def backdate(info: RepoInfo) -> tuple[RepoInfo, ConfigChanged]:
        records = [
            SnapshotRecord(
                id=r.id, parent_id=r.parent_id, flushed_at_us=n, message=r.message, metadata={}
            )
            for n, r in enumerate(info.snapshots)
        ]
        return replace(info, snapshots=SnapshotTable.of(records)), ConfigChanged()

    run(update_repo(repo._state.assets, backdate))
    assert repo.garbage_collect(an_hour_ago()) == GCSummary()
    assert values(repo, snapshot_id=aside)[0] == 3.0


def test_a_young_snapshot_that_nobody_registered_keeps_what_it_needs() -> None:
    """Forks of the official package write such snapshots, and so does every commit under way."""
    storage, repo = made()
    first = repo.lookup_branch("main")
    repo.create_branch("work", first)
    commit(repo, 5.0, "work")
    run(storage.age())
    session = repo.writable_session("work")
    zarr.open_array(session.store, path="b", mode="r+")[:100] = 6.0
    registered = run(storage.get("repo"))
    fork = session.flush("fork")
    run(storage.put("repo", registered))
    repo.delete_branch("work")
    summary = repo.garbage_collect(an_hour_ago())
    assert (summary.snapshots_deleted, summary.chunks_deleted) == (1, 0)
    check_files(storage)
    assert f"snapshots/{fork}" in keys(storage)
    run(storage.age())
    summary = repo.garbage_collect(an_hour_ago())
    assert (summary.snapshots_deleted, summary.chunks_deleted) == (1, 2)
    check(storage)


def test_files_of_an_unregistered_snapshot_that_are_gone_are_no_obstacle() -> None:
    storage, repo = garbage()
    registered = run(storage.get("repo"))
    commit(repo, 6.0)
    made_meanwhile = repo.readonly_session("main").checkout.base.snapshot.manifest_files.ids
    run(storage.put("repo", registered))
    kept = repo.readonly_session("main").checkout.base.snapshot.manifest_files.ids.tolist()
    (new,) = [raw for raw in made_meanwhile if raw.tolist() not in kept]
    run(storage.delete_many([f"manifests/{id_text(new.tobytes())}"]))
    assert repo.garbage_collect(an_hour_ago()).snapshots_deleted == 4


def test_a_commit_that_lands_between_any_two_steps_is_whole() -> None:
    """Somebody commits, forks and tags each time the collection touches the storage."""
    step, landed = 0, True
    while landed:
        storage, repo = garbage()
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="b", mode="r+")[:100] = 7.0
        other = ic.Repository.open(AgedStorageView(storage))
        stop = interrupted(storage, step, partial(session_lands, other, session))
        # On a loop of its own, so that the other side has the one of blocking calls.
        asyncio.run(repo.garbage_collect_async(an_hour_ago()))
        landed = stop() > step
        if landed:
            assert values(repo)[4] == 7.0
            assert values(repo, tag="landed")[4] == 7.0
        check(storage)
        step += 1
    assert step > 10


class AgedStorageView(AgedStorage):
    """The same objects, by somebody else."""

    def __init__(self, storage: AgedStorage) -> None:
        super().__init__(storage.inner)
        self.shift_us = storage.shift_us


def session_lands(other: ic.Repository, session: ic.Session) -> None:
    session.commit("landed", rebase_with=ic.ConflictDetector())
    commit(other, 8.0, chunk=2)
    other.create_tag("landed", session.snapshot_id)


def interrupted(storage: AgedStorage, step: int, act: Callable[[], None]) -> Callable[[], int]:
    """Do something in another thread before the n-th call of the storage.

    Returns what ends the watch, and then says how many calls there were.
    """
    count = 0

    def before() -> None:
        nonlocal count
        count += 1
        if count == step + 1:
            thread = threading.Thread(target=act)
            # The calls of the other side are not counted.
            restore()
            thread.start()
            thread.join()
            wrap()

    names = ["get", "get_versioned", "head", "put", "put_if_unchanged", "delete_many", "list"]

    def wrap() -> None:
        for name in names:
            setattr(storage, name, wrapped(getattr(type(storage), name)))

    def restore() -> None:
        for name in names:
            delattr(storage, name)

    def wrapped(method: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            before()
            return method(storage, *args, **kwargs)

        return call

    def stop() -> int:
        restore()
        return count

    wrap()
    return stop


def test_killed_at_any_step_it_is_finished_by_the_next_run() -> None:
    storage, repo = garbage()
    storage.writes.clear()
    expected = repo.garbage_collect(an_hour_ago())
    left = {key.partition("/")[0]: len(keys(storage, key)) for key in ("chunks/", "manifests/")}
    steps = len(storage.writes)
    assert steps >= 6
    for how in ("die before", "die after"):
        for step in range(steps):
            storage, repo = garbage()
            storage.writes.clear()
            storage.fail_at, storage.how = step, how
            with pytest.raises(Died):
                repo.garbage_collect(an_hour_ago())
            storage.fail_at = -1
            check(storage)  # nothing that is left refers to a missing object
            check_files(storage)
            ic.Repository.open(storage).garbage_collect(an_hour_ago())
            assert values(ic.Repository.open(storage)) == [4.0, *[1.0] * 7]
            check(storage)
            for folder, count in left.items():
                assert len(keys(storage, folder)) == count
    assert expected.snapshots_deleted == 4


def check_files(storage: AgedStorage) -> None:
    """Follow every snapshot file that exists, registered or not, to its chunks."""
    from icechunk.format.chunk_table import ChunkKind
    from icechunk.format.manifest import parse_manifest
    from icechunk.format.snapshot import parse_snapshot
    from icechunk.ids import ObjectId, id_text

    there = keys(storage)
    for key in there:
        if key.startswith("snapshots/"):
            snapshot = parse_snapshot(run(storage.get(key)), key=key)
            for raw in snapshot.manifest_files.ids:
                assert f"manifests/{id_text(ObjectId(raw.tobytes()))}" in there
            assert f"transactions/{id_text(snapshot.id)}" in there
        if key.startswith("manifests/"):
            for _, table in parse_manifest(run(storage.get(key)), key=key).arrays:
                for raw in table.chunk_id[table.kind == ChunkKind.NATIVE]:
                    assert f"chunks/{id_text(ObjectId(raw.tobytes()))}" in there


def test_what_cannot_be_deleted_stops_the_phases_after_it() -> None:
    storage, repo = garbage()
    victim = min(key for key in keys(storage, "snapshots/") if is_garbage(repo, key))
    storage.undeletable = {victim}
    summary = repo.garbage_collect(an_hour_ago())
    assert summary.snapshots_deleted == 3
    assert summary.objects_failed_to_delete == 1
    assert summary.delete_errors == [f"{victim}: injected: not allowed"]
    assert summary.skipped_phases == ["transaction_logs", "manifests", "chunks"]
    assert (summary.manifests_deleted, summary.chunks_deleted) == (0, 0)
    check_files(storage)
    storage.undeletable = set()
    summary = repo.garbage_collect(an_hour_ago())
    assert (summary.snapshots_deleted, summary.manifests_deleted) == (1, 4)


def is_garbage(repo: ic.Repository, key: str) -> bool:
    from icechunk.ids import id_text

    kept = {id_text(record.id) for record in state(repo).snapshots}
    reached = {info.id for info in repo.ancestry(branch="main")}
    return key.partition("/")[2] not in kept & reached


def test_it_gives_up_when_deletes_keep_failing() -> None:
    storage, repo = garbage()
    storage.undeletable = keys(storage)
    storage.undeletable_kind = ErrorKind.THROTTLED
    with pytest.raises(StorageError) as caught:
        repo.garbage_collect(an_hour_ago(), max_consecutive_delete_failures=2)
    assert caught.value.kind == "gc-deletes-failing"
    assert "snapshots/" in str(caught.value)
    check(storage)
    summary = repo.garbage_collect(an_hour_ago(), max_consecutive_delete_failures=5)
    assert (summary.throttled_batches, summary.objects_failed_to_delete) == (1, 4)


def test_nothing_is_deleted_when_a_needed_file_is_damaged_or_missing() -> None:
    for folder in ("snapshots/", "manifests/"):
        storage, repo = garbage()
        tip = repo.lookup_branch("main")
        files = repo.readonly_session("main").checkout.base.snapshot.manifest_files.ids
        key = f"snapshots/{tip}"
        if folder == "manifests/":
            from icechunk.ids import ObjectId, id_text

            key = f"manifests/{id_text(ObjectId(files[0].tobytes()))}"
        run(storage.delete_many([key]))
        storage.deleted.clear()
        with pytest.raises(StorageError) as caught:
            repo.garbage_collect(an_hour_ago())
        assert caught.value.kind == "object-not-found"
        run(storage.put(key, b"rubbish"))
        with pytest.raises(ic.FormatError):
            repo.garbage_collect(an_hour_ago())
        assert storage.deleted == []


def test_a_registered_snapshot_whose_file_is_lost_is_forgotten_if_nobody_needs_it() -> None:
    storage, repo = garbage()
    repo.create_branch("side", repo.lookup_branch("main"))
    lost = commit(repo, 1.5, "side")
    repo.delete_branch("side")
    run(storage.delete_many([f"snapshots/{lost}"]))
    repo.garbage_collect(an_hour_ago())
    with pytest.raises(ic.SnapshotNotFoundError):
        repo.lookup_snapshot(lost)


def test_files_that_are_not_the_formats_stay() -> None:
    storage, repo = garbage()
    foreign = {"chunks/README", "snapshots/" + "u" * 20, "manifests/x/y", "chunks/" + "Z" * 20}
    for key in foreign:
        run(storage.put(key, b"mine"))
    run(storage.age())
    backups = keys(storage, "overwritten/")
    repo.garbage_collect(an_hour_ago())
    assert foreign <= keys(storage)
    assert backups < keys(storage, "overwritten/")


def test_a_read_only_repository_is_not_collected() -> None:
    from dataclasses import replace

    from icechunk.assets.refs import update_repo
    from icechunk.format.repo_info import RepoAvailability, RepoStatus, RepoStatusChanged

    storage, repo = garbage()
    status = RepoStatus(availability=RepoAvailability.READ_ONLY, set_at_us=1, reason="audit")
    change = lambda info: (replace(info, status=status), RepoStatusChanged(status=status))
    run(update_repo(repo._state.assets, change, status_change=True))
    storage.deleted.clear()
    for call in (repo.garbage_collect, repo.expire_snapshots):
        with pytest.raises(ic.ReadOnlyError):
            call(an_hour_ago())
    assert storage.deleted == []
    assert repo.garbage_collect(an_hour_ago(), dry_run=True).snapshots_deleted == 4


@pytest.mark.parametrize("value", [0, -1, 1.5, None, True, "5"])
@pytest.mark.parametrize(
    "name", ["max_snapshots_in_memory", "max_decoded_manifest_mem_bytes", "max_concurrent_deletes"]
)
def test_limits_must_be_positive_numbers(name: str, value: Any) -> None:
    _, repo = made()
    with pytest.raises((TypeError, ValueError)):
        repo.garbage_collect(LATER, dry_run=True, **{name: value})


def test_a_time_without_zone_is_refused() -> None:
    _, repo = made()
    with pytest.raises(TypeError):
        repo.garbage_collect(datetime(2030, 1, 1))


def test_a_cut_off_in_the_future_takes_all_garbage() -> None:
    storage, repo = made(AgedStorage(whole_seconds=True))
    commit(repo, 2.0)
    repo.reset_branch("main", list(repo.ancestry(branch="main"))[1].id)
    summary = repo.garbage_collect(now() + timedelta(microseconds=HOUR_US))
    assert (summary.snapshots_deleted, summary.chunks_deleted) == (1, 1)
    check(storage)


def test_progress_tells_what_is_looked_at_and_freed() -> None:
    _, repo = made()
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="a", mode="r+")
    array[:] = 9  # written, never committed
    before = len(list(repo.storage.list_objects()))
    seen: list[Any] = []
    summary = repo.garbage_collect(now() + timedelta(minutes=1), progress=seen.append)
    assert seen[0].label == "collecting garbage"
    assert seen[-1].done.size_bytes == summary.bytes_deleted > 0
    assert 0 < seen[-1].done.objects <= before
    counts = [event.done.objects for event in seen[1:]]
    assert counts == sorted(counts)
