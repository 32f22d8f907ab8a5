"""Reading all snapshots and manifests of a repository within limits on memory and requests.

What upkeep looks at can be far larger than memory, so nothing goes through the caches, which are
there for sessions: each file is decoded, a few columns of it are kept, the rest is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final, TypeVar

from icechunk._cases import check_limit
from icechunk._io.budget import Budget
from icechunk._io.limits import gather_limited
from icechunk._io.loop import in_thread
from icechunk.assets.manager import manifest_key, snapshot_key
from icechunk.errors import ErrorKind, StorageError
from icechunk.format.header import declared_body_bytes
from icechunk.format.manifest import parse_manifest
from icechunk.format.snapshot import ManifestFiles, parse_snapshot
from icechunk.ids import ObjectId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from icechunk.assets.manager import AssetManager
    from icechunk.format.manifest import Manifest

T = TypeVar("T")

# Columns of a decoded manifest take up to twice the body they come from, which they share.
_DECODED_PER_BODY: Final = 3
# Files below this size are decoded where they are read; larger ones in a thread.
_DECODE_INLINE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLimits:
    """How much upkeep may read at once.

    Parameters
    ----------
    max_snapshots_in_memory : int
        Snapshots that are decoded at one time.
    max_compressed_manifest_mem_bytes : int
        Manifest files in memory at one time, as they are stored; unit: bytes.
    max_decoded_manifest_mem_bytes : int
        Manifests in memory at one time, decoded; unit: bytes.
    max_concurrent_manifest_fetches : int
        Manifests that are asked for at one time.
    """

    max_snapshots_in_memory: int = 50
    max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024
    max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024
    max_concurrent_manifest_fetches: int = 500

    def __post_init__(self) -> None:
        for field in fields(self):
            check_limit(field.name, getattr(self, field.name))


async def manifests_of(
    assets: AssetManager,
    snapshot_ids: Iterable[ObjectId],
    limits: ReadLimits,
    *,
    missing_ok: bool = False,
) -> ManifestFiles:
    """Return the records of all manifests that snapshots use, each once.

    Parameters
    ----------
    assets : AssetManager
        Of the repository.
    snapshot_ids : iterable of ObjectId
        Which snapshots.
    limits : ReadLimits
        How many at once.
    missing_ok : bool
        Pass over snapshots whose file is not there.

    Raises
    ------
    StorageError
        Kind ``object-not-found``; a snapshot's file is not there.
    FormatError
        A snapshot is damaged.
    """
    found = ManifestFiles.empty()
    waiting: list[ManifestFiles] = []
    waiting_rows = 0

    async def read(snapshot_id: ObjectId) -> None:
        nonlocal found, waiting_rows
        key = snapshot_key(snapshot_id)
        data = await _get(assets, key, missing_ok=missing_ok)
        if data is None:
            return
        files = await _in_place(data, lambda: parse_snapshot(data, key=key).manifest_files)
        waiting.append(files)
        waiting_rows += len(files)
        # Merged when as much waits as there is, so all merges together cost little more than one.
        if waiting_rows > len(found):
            found = ManifestFiles.concat([found, *waiting])
            waiting.clear()
            waiting_rows = 0

    await gather_limited(limits.max_snapshots_in_memory, map(read, snapshot_ids))
    return ManifestFiles.concat([found, *waiting])


async def reduce_manifests(
    assets: AssetManager,
    files: ManifestFiles,
    limits: ReadLimits,
    use: Callable[[Manifest], None],
    *,
    missing_ok: bool = False,
) -> None:
    """Read manifests and hand each to a function, which keeps of it what it needs.

    Parameters
    ----------
    assets : AssetManager
        Of the repository.
    files : ManifestFiles
        Which manifests; their sizes count against the limit of compressed bytes.
    limits : ReadLimits
        A manifest that is larger than a limit by itself is read when no other one is in memory.
    use : callable
        Called once for each manifest, from several threads at once.
    missing_ok : bool
        Pass over manifests whose file is not there.

    Raises
    ------
    StorageError, FormatError
        A manifest is missing or damaged.
    """
    compressed = Budget(limits.max_compressed_manifest_mem_bytes)
    decoded = Budget(limits.max_decoded_manifest_mem_bytes)

    async def read(row: int) -> None:
        key = manifest_key(_id_at(files, row))
        async with compressed.holding(int(files.size_bytes[row])):
            data = await _get(assets, key, missing_ok=missing_ok)
            if data is None:
                return
            body_bytes = declared_body_bytes(data)
            # A body that does not say how large it is may be as large as all the memory there is.
            weight = limits.max_decoded_manifest_mem_bytes
            if body_bytes is not None:
                weight = body_bytes * _DECODED_PER_BODY
            async with decoded.holding(weight):
                await _in_place(data, lambda: use(parse_manifest(data, key=key)))

    await gather_limited(limits.max_concurrent_manifest_fetches, map(read, range(len(files))))


async def _get(assets: AssetManager, key: str, *, missing_ok: bool) -> bytes | None:
    try:
        return await assets.storage.get(key)
    except StorageError as e:
        if missing_ok and e.kind == ErrorKind.OBJECT_NOT_FOUND:
            return None
        raise


async def _in_place(data: bytes, work: Callable[[], T]) -> T:
    return work() if len(data) <= _DECODE_INLINE_BYTES else await in_thread(work)


def _id_at(files: ManifestFiles, row: int) -> ObjectId:
    return ObjectId(files.ids[row].tobytes())
