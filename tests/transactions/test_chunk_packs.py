"""Small chunks of a session that share files."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.assets.chunk_pack import ChunkPack
from icechunk.ids import new_object_id
from icechunk.ops.gc import GCSummary
from tests.peer import PEER1_VERSION, PEER_VERSION, run_peer

if TYPE_CHECKING:
    from pathlib import Path

    from icechunk.format.chunk_table import NativeRef

CHUNKS = 40
LENGTH = 500  # of a chunk, in values of 8 bytes
LATER = timedelta(days=1)


def made(path: Path, **options: Any) -> ic.Repository:
    repo = ic.Repository.create(ic.local_filesystem_storage(str(path), **options))
    with repo.transaction("main", message="array") as store:
        array(store, create=True)
    return repo


def array(store: Any, *, create: bool = False) -> zarr.Array[Any]:
    if not create:
        return zarr.open_array(store, path="a")
    shape, chunks = (CHUNKS * LENGTH,), (LENGTH,)
    return zarr.create_array(
        store, name="a", shape=shape, chunks=chunks, dtype="i8", compressors=None
    )


def values(start: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(CHUNKS * LENGTH) + start


def files(path: Path) -> list[Path]:
    folder = path / "chunks"
    return sorted(folder.iterdir()) if folder.exists() else []


def read(repo: ic.Repository, **version: Any) -> np.ndarray[Any, Any]:
    got = zarr.open_array(repo.readonly_session(**version).store, path="a", mode="r")[:]
    return np.asarray(got)


def commit(repo: ic.Repository, data: Any, part: slice = np.s_[:]) -> str:
    session = repo.writable_session("main")
    array(session.store)[part] = data
    return session.commit("values")


def test_one_file_for_the_small_chunks_of_a_session(tmp_path: Path) -> None:
    repo = made(tmp_path)
    commit(repo, values())
    (pack,) = files(tmp_path)
    assert pack.stat().st_size == CHUNKS * LENGTH * 8
    assert (read(repo, branch="main") == values()).all()
    commit(repo, 7, np.s_[:LENGTH])
    assert len(files(tmp_path)) == 2, "a session begins a file of its own"
    assert pack.stat().st_size == CHUNKS * LENGTH * 8, "committed files are not touched"


def test_a_file_for_each_where_asked_for(tmp_path: Path) -> None:
    repo = made(tmp_path, pack_small_chunks=False)
    commit(repo, values())
    assert len(files(tmp_path)) == CHUNKS
    assert (read(repo, branch="main") == values()).all()


def test_files_do_not_grow_past_the_limit_and_large_chunks_have_their_own(tmp_path: Path) -> None:
    repo = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path)))
    session = repo.writable_session("main")
    sizes = {"small": (100, 12_000), "large": (4, 30_000)}
    for name, (chunks, length) in sizes.items():
        data = np.arange(chunks * length)
        new = zarr.create_array(
            session.store, name=name, shape=data.shape, chunks=(length,), dtype="i8",
            compressors=None,
        )  # fmt: skip
        new[:] = data
    session.commit("both")
    lengths = sorted(file.stat().st_size for file in files(tmp_path))
    assert lengths.count(30_000 * 8) == 4
    small = [size for size in lengths if size != 30_000 * 8]
    assert sum(small) == 100 * 12_000 * 8
    assert max(small) <= 1 << 20
    assert len(small) == 10  # ten whole chunks fit
    group = zarr.open_group(repo.readonly_session("main").store, mode="r")
    for name, (chunks, length) in sizes.items():
        assert (np.asarray(group[name][:]) == np.arange(chunks * length)).all()


def test_threads_and_forks_write_side_by_side(tmp_path: Path) -> None:
    repo = made(tmp_path)
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(4)]
    barrier = threading.Barrier(4)

    def fill(number: int) -> None:
        target = array(forks[number].store)
        barrier.wait(30)
        for chunk in range(number, CHUNKS, 4):
            part = np.s_[chunk * LENGTH : (chunk + 1) * LENGTH]
            target[part] = values()[part]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(4)))
    session.merge(*forks, on_chunk_conflict="error")
    session.commit("by four")
    assert (read(repo, branch="main") == values()).all()
    assert sum(file.stat().st_size for file in files(tmp_path)) == CHUNKS * LENGTH * 8
    assert len(files(tmp_path)) <= 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_write_into_its_parents_file(tmp_path: Path) -> None:
    repo = made(tmp_path)
    session = repo.writable_session("main")
    array(session.store)[:LENGTH] = 1
    child = os.fork()
    if not child:
        array(session.store)[LENGTH:] = 9
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    array(session.store)[LENGTH:] = 2
    session.commit("of the parent")
    assert read(repo, branch="main").tolist() == [1] * LENGTH + [2] * (CHUNKS - 1) * LENGTH


def test_a_file_stays_until_nothing_leads_into_it(tmp_path: Path) -> None:
    repo = made(tmp_path)
    first = commit(repo, values())
    second = commit(repo, values(5)[LENGTH:], np.s_[LENGTH:])
    assert repo.chunk_storage_stats().native_bytes == (2 * CHUNKS - 1) * LENGTH * 8
    repo.expire_snapshots(repo.lookup_snapshot(second).written_at)
    assert first not in [snapshot.id for snapshot in repo.ancestry(branch="main")]
    assert repo.garbage_collect(datetime.now(UTC) + LATER).chunks_deleted == 0
    assert repo.chunk_storage_stats().native_bytes == CHUNKS * LENGTH * 8
    third = commit(repo, 0)
    repo.expire_snapshots(repo.lookup_snapshot(third).written_at)
    assert repo.garbage_collect(datetime.now(UTC) + LATER).chunks_deleted == 2
    assert read(repo, branch="main").tolist() == [0] * CHUNKS * LENGTH
    assert repo.garbage_collect(datetime.now(UTC) + LATER) == GCSummary()


def test_a_session_goes_on_in_another_file_when_its_own_is_collected(tmp_path: Path) -> None:
    repo = made(tmp_path)
    session = repo.writable_session("main")
    array(session.store)[:LENGTH] = 1
    assert repo.garbage_collect(datetime.now(UTC) + LATER).chunks_deleted == 1
    array(session.store)[:] = values()
    session.commit("all of them")
    assert (read(repo, branch="main") == values()).all()


def test_discarded_changes_do_not_age_what_comes_after(tmp_path: Path) -> None:
    repo = made(tmp_path)
    session = repo.writable_session("main")
    array(session.store)[:LENGTH] = 1
    session.discard_changes()
    array(session.store)[:] = values()
    assert len(files(tmp_path)) == 2
    session.commit("values")
    assert repo.garbage_collect(datetime.now(UTC) + LATER).chunks_deleted == 1
    assert (read(repo, branch="main") == values()).all()


def test_ranges_of_chunks_in_one_file(tmp_path: Path) -> None:
    repo = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path)))
    session = repo.writable_session("main")
    new = zarr.create_array(
        session.store, name="a", shape=(64, 64), shards=(32, 64), chunks=(4, 8), dtype="i8",
        compressors=None,
    )  # fmt: skip
    data = np.arange(64 * 64).reshape(64, 64)
    new[:] = data
    session.commit("shards")
    assert len(files(tmp_path)) == 1
    got = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert np.asarray(got[33:40, 5:20]).tolist() == data[33:40, 5:20].tolist()
    assert np.asarray(got[:]).tolist() == data.tolist()


def test_a_write_that_failed_leaves_a_gap_and_nothing_else(tmp_path: Path) -> None:
    pack = ChunkPack()
    first, second = new_object_id(), new_object_id()
    assert pack.reserve(10, 100) is None
    pack.begin(first, 40)
    assert pack.reserve(10, 100) == (first, 40)
    assert pack.reserve(50, 100) == (first, 50)
    assert pack.reserve(1, 100) is None, "it is full"
    pack.begin(second, 1)
    assert pack.reserve(1, 100) == (second, 1)
    pack.leave()
    assert pack.reserve(1, 100) is None


PEER = """
import icechunk as ic, json, sys, zarr, numpy as np
from datetime import datetime, timedelta, timezone
repo = ic.Repository.open(ic.local_filesystem_storage(sys.argv[1]))
session = repo.writable_session("main")
array = zarr.open_array(session.store, path="a", mode="r+")
before = array[:].tolist()
array[:500] = -1
last = session.commit("by the official package")
ancestry = list(repo.ancestry(branch="main"))
repo.expire_snapshots(ancestry[0].written_at)
found = repo.garbage_collect(datetime.now(timezone.utc) + timedelta(days=1))
after = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[:].tolist()
print(json.dumps([before, after, found.chunks_deleted]))
"""


@pytest.mark.peer
@pytest.mark.parametrize(("version", "spec_version"), [(PEER_VERSION, 2), (PEER1_VERSION, 1)])
def test_the_official_package_reads_them_and_collects_around_them(
    tmp_path: Path, version: str, spec_version: int
) -> None:
    storage = ic.local_filesystem_storage(str(tmp_path / "repo"))
    repo = ic.Repository.create(storage, spec_version=spec_version)
    with repo.transaction("main", message="array") as store:
        array(store, create=True)
    commit(repo, values())
    commit(repo, values(3)[LENGTH:], np.s_[LENGTH:])
    expected = [*range(LENGTH), *values(3)[LENGTH:].tolist()]
    before, after, collected = run_peer(PEER, tmp_path / "repo", version=version)
    assert before == expected
    assert after == [-1] * LENGTH + expected[LENGTH:]
    assert collected == 1, "the first commit's file, of which nothing was left"
    repo = ic.Repository.open(storage)
    assert read(repo, branch="main").tolist() == after
    node = repo.readonly_session("main").checkout
    table = [ref for ref in _refs(node) if ref.offset]
    assert len(table) == CHUNKS - 2, "all but the first of ours are in the middle of a file"


def _refs(checkout: Any) -> list[NativeRef]:
    async def collect() -> list[NativeRef]:
        node = checkout.require_array("/a")
        tables = [table async for table in checkout.chunk_tables(node)]
        return [table.ref(row) for table in tables for row in range(len(table))]

    return run(collect())
