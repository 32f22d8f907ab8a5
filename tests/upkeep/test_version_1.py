"""Collection and statistics in repositories of version 1, beside the official package."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.errors import ErrorKind
from tests.peer import run_peer
from tests.upkeep.aged import HOUR_US, AgedStorage

if TYPE_CHECKING:
    from pathlib import Path

LATER = timedelta(days=1)


def now() -> datetime:
    return datetime.now(UTC)


def write(repo: ic.Repository, value: int, branch: str = "main") -> str:
    session = repo.writable_session(branch)
    zarr.open_array(session.store, path="a", mode="r+")[:] = value
    return session.commit(f"a is {value}")


def filled(storage: ic.Storage) -> ic.Repository:
    repo = ic.Repository.create(storage, spec_version=1)
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    root.create_array("a", shape=(4000,), chunks=(1000,), dtype="i4", compressors=None)[:] = 1
    root.create_array("small", shape=(4,), chunks=(2,), dtype="i4", compressors=None)[:] = 2
    session.commit("first")
    return repo


def history(repo: ic.Repository) -> ic.Repository:
    """Refs to keep, and everything that makes garbage."""
    first = repo.lookup_branch("main")
    write(repo, 2)
    repo.create_tag("kept", write(repo, 3))
    repo.create_tag("gone", write(repo, 4))
    repo.create_branch("side", first)
    write(repo, 5, "side")
    repo.create_branch("dropped", first)
    write(repo, 6, "dropped")
    repo.delete_tag("gone")
    repo.delete_branch("dropped")
    repo.reset_branch("main", first)
    write(repo, 7)
    session = repo.writable_session("main")  # never committed
    zarr.open_array(session.store, path="a", mode="r+")[:1000] = 8
    return repo


def files(path: Path) -> set[str]:
    return {
        os.path.relpath(os.path.join(folder, name), path)
        for folder, _, names in os.walk(path)
        for name in names
        if not name.startswith(".")
    }


def value(repo: ic.Repository, **at: str) -> int:
    return int(zarr.open_array(repo.readonly_session(**at).store, path="a", mode="r")[0])


PEER = """
import icechunk, json, sys
from datetime import UTC, datetime, timedelta
repo = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
before = repo.chunk_storage_stats()
found = repo.garbage_collect(datetime.now(UTC) + timedelta(days=1))
names = ["bytes", "chunks", "manifests", "snapshots", "attributes", "transaction_logs"]
after = repo.chunk_storage_stats()
kinds = ["native_bytes", "virtual_bytes", "inlined_bytes"]
print(json.dumps([[getattr(found, f"{n}_deleted") for n in names],
                  [getattr(before, k) for k in kinds], [getattr(after, k) for k in kinds]]))
"""


def as_numbers(summary: ic.GCSummary) -> list[int]:
    names = ("bytes", "chunks", "manifests", "snapshots", "attributes", "transaction_logs")
    return [getattr(summary, f"{name}_deleted") for name in names]


def stats(repo: ic.Repository) -> list[int]:
    found = repo.chunk_storage_stats()
    return [found.native_bytes, found.virtual_bytes, found.inlined_bytes]


@pytest.mark.peer
@pytest.mark.parametrize("expired", [False, True])
def test_both_collect_alike(tmp_path, expired):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    # A file for each chunk: the official package takes chunks that share one for one chunk.
    repo = history(filled(ic.local_filesystem_storage(str(ours), pack_small_chunks=False)))
    if expired:
        repo.expire_snapshots(now() + LATER)
    shutil.copytree(ours, theirs)
    repo = ic.Repository.open(ic.local_filesystem_storage(str(ours)))
    before = stats(repo)
    dry = repo.garbage_collect(now() + LATER, dry_run=True)
    assert files(ours) == files(theirs)
    collected = repo.garbage_collect(now() + LATER)
    assert collected == dry
    assert [as_numbers(collected), before, stats(repo)] == run_peer(PEER, theirs)
    assert files(ours) == files(theirs)
    assert [value(repo, branch="main"), value(repo, branch="side"), value(repo, tag="kept")] == [
        7,
        5,
        3,
    ]
    assert as_numbers(repo.garbage_collect(now() + LATER)) == [0] * 6


def test_what_is_young_stays():
    storage = AgedStorage()
    repo = history(filled(storage))
    assert as_numbers(repo.garbage_collect(now() - timedelta(hours=1))) == [0] * 6
    run(storage.age())
    fork = repo.writable_session("main")
    zarr.open_array(fork.store, path="a", mode="r+")[:] = 9
    assert repo.garbage_collect(now() - timedelta(hours=1)).chunks_deleted > 0
    fork.commit("young")
    assert value(repo, branch="main") == 9
    assert np.unique(zarr.open_array(fork.store, path="small", mode="r")[:]).tolist() == [2]


def test_a_commit_that_lands_meanwhile_keeps_its_files():
    class Landing(AgedStorage):
        landed: Any = None

        async def list(self, prefix: str) -> Any:
            async for info in super().list(prefix):
                yield info
            if prefix == "snapshots/" and self.landed is not None:
                landed, self.landed = self.landed, None
                await landed()

    storage = Landing()
    repo = history(filled(storage))
    kept = repo.lookup_tag("kept")

    async def revive() -> None:
        await repo.create_branch_async("revived", kept)
        await repo.delete_tag_async("kept")

    storage.landed = revive
    run(storage.age(48 * HOUR_US))
    repo.garbage_collect(now() - timedelta(hours=1))
    assert value(repo, branch="revived") == 3


def test_an_upgraded_repository_is_not_collected_through_an_old_handle(tmp_path):
    storage = ic.local_filesystem_storage(str(tmp_path))
    old = history(filled(storage))
    ic.upgrade_icechunk_repository(ic.Repository.open(storage), dry_run=False)
    before = files(tmp_path)
    for use in (lambda: old.garbage_collect(now() + LATER), old.chunk_storage_stats):
        with pytest.raises(ic.SessionStateError) as raised:
            use()
        assert raised.value.kind == ErrorKind.NOT_ALLOWED
    assert files(tmp_path) == before


def test_a_missing_snapshot_stops_it_before_anything_is_deleted(tmp_path):
    storage = ic.local_filesystem_storage(str(tmp_path))
    repo = history(filled(storage))
    (tmp_path / "snapshots" / repo.lookup_tag("kept")).unlink()
    before = files(tmp_path)
    with pytest.raises(ic.StorageError):
        repo.garbage_collect(now() + LATER)
    assert files(tmp_path) == before


def test_manifests_are_rewritten_by_a_new_commit_only():
    repo = filled(ic.in_memory_storage())
    with pytest.raises(ic.FormatError) as raised:
        repo.rewrite_manifests("again", branch="main", commit_method="amend")
    assert raised.value.kind == "unsupported-operation-for-version"
    repo.rewrite_manifests("again", branch="main")
    assert value(repo, branch="main") == 1
