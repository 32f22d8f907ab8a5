"""Operations on old history that run under either implementation."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import zarr

import icechunk as ic


def storage(path: str) -> ic.Storage:
    return ic.local_filesystem_storage(path)


def _commit(repo: ic.Repository, branch: str, message: str, chunk: int) -> str:
    session = repo.writable_session(branch)
    root = zarr.open_group(session.store, mode="r+")
    root["big"][chunk * 100 : (chunk + 1) * 100] = float(chunk + 1)
    root["small"][chunk] = chunk
    root.attrs[message] = chunk
    return session.commit(message)


def _time(repo: ic.Repository, snapshot_id: str) -> float:
    return repo.lookup_snapshot(snapshot_id).written_at.timestamp()


def write(path: str) -> list[float]:
    """Make two cuts' worth of history; return the times of the cuts, seconds since the epoch."""
    repo = ic.Repository.create(storage(path))
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    root.create_array("big", shape=(1000,), chunks=(100,), dtype="f8", compressors=None)
    root.create_array("small", shape=(10,), chunks=(1,), dtype="i4")
    ids = [session.commit("arrays")]
    ids += [_commit(repo, "main", f"main {i}", i) for i in range(3)]
    repo.create_branch("old", ids[1])
    repo.create_branch("dev", ids[2])
    repo.create_tag("early", ids[1])
    repo.create_tag("rooted", list(repo.ancestry(branch="main"))[-1].id)
    dev = [_commit(repo, "dev", f"dev {i}", 5 + i) for i in range(2)]
    repo.create_tag("dev tag", dev[0])
    _commit(repo, "old", "on old", 9)
    repo.reset_branch("old", ids[1])
    time.sleep(0.01)
    cuts = [time.time()]
    time.sleep(0.01)
    ids += [_commit(repo, "main", f"main {i}", i) for i in range(3, 6)]
    dev += [_commit(repo, "dev", f"dev {i}", 5 + i) for i in range(2, 4)]
    repo.create_tag("late", ids[-1])
    session = repo.writable_session("main")
    zarr.open_group(session.store, mode="r+").attrs["flushed"] = 1
    session.flush("detached")
    time.sleep(0.01)
    cuts.append(time.time())
    time.sleep(0.01)
    _commit(repo, "main", "main 6", 6)
    return cuts


def expire(path: str, cut: float, delete_refs: bool) -> list[str]:
    repo = ic.Repository.open(storage(path))
    released = repo.expire_snapshots(
        datetime.fromtimestamp(cut, UTC),
        delete_expired_branches=delete_refs,
        delete_expired_tags=delete_refs,
    )
    return sorted(released)


def collect(path: str, dry_run: bool) -> dict[str, int]:
    repo = ic.Repository.open(storage(path))
    summary = repo.garbage_collect(datetime.now(UTC) + timedelta(days=1), dry_run=dry_run)
    names = ["chunks", "manifests", "snapshots", "attributes", "transaction_logs"]
    found = {name: getattr(summary, f"{name}_deleted") for name in names}
    return {**found, "bytes": summary.bytes_deleted, "failed": summary.objects_failed_to_delete}


def stats(path: str) -> list[int]:
    found = ic.Repository.open(storage(path)).chunk_storage_stats()
    return [found.native_bytes, found.virtual_bytes, found.inlined_bytes]


def go_on(path: str, who: str) -> None:
    """Rebase from the root over what was pruned, and put the branch on it."""
    repo = ic.Repository.open(storage(path))
    root = list(repo.ancestry(branch="main"))[-1].id
    tip = repo.lookup_branch("main")
    repo.create_branch(f"late {who}", root)
    session = repo.writable_session(f"late {who}")
    # No group, which main has as well; a document of its own below nothing.
    other = zarr.storage.MemoryStore()
    zarr.create_array(other, name=f"by {who}", shape=(1,), chunks=(1,), dtype="i4")
    prototype = zarr.core.buffer.default_buffer_prototype()

    async def copy() -> None:
        document = await other.get(f"by {who}/zarr.json", prototype)
        assert document is not None
        await session.store.set(f"by {who}/zarr.json", document)

    asyncio.run(copy())
    repo.reset_branch(f"late {who}", tip)
    session.commit(f"rebased by {who}", rebase_with=ic.ConflictDetector())
    repo.reset_branch("main", repo.lookup_branch(f"late {who}"))
    repo.delete_branch(f"late {who}")


def read(path: str) -> dict[str, Any]:
    repo = ic.Repository.open(storage(path))
    history = list(repo.ancestry(branch="main"))
    diff = repo.diff(from_snapshot_id=history[-1].id, to_branch="main")
    seen: dict[str, Any] = {
        "messages": [info.message for info in history],
        "new": sorted(diff.new_arrays),
        "chunks": {path: sorted(map(list, chunks)) for path, chunks in diff.updated_chunks.items()},
        "values": {},
    }
    for branch in sorted(repo.list_branches()):
        session = repo.readonly_session(branch)
        root = zarr.open_group(session.store, mode="r")
        seen["values"][branch] = {
            name: np.asarray(array[:]).tolist() for name, array in root.arrays()
        }
    return seen
