"""Decoded objects of one repository: read once, cached, written under their keys.

Source: Icechunk specification, section "Storage model and object keys".
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from icechunk._io.flight import Flight
from icechunk._io.limits import Limiter
from icechunk._io.loop import in_thread
from icechunk.assets import weights
from icechunk.assets.cache import WeightedCache
from icechunk.errors import ErrorKind, FormatError, RepositoryNotFoundError, StorageError
from icechunk.format.chunk_table import NativeRef
from icechunk.format.header import WRITER, FileType
from icechunk.format.manifest import Manifest, encode_manifest, parse_manifest
from icechunk.format.repo_info import RepoInfo, encode_repo_info, parse_repo_info
from icechunk.format.snapshot import Snapshot, encode_snapshot, parse_snapshot
from icechunk.format.transaction_log import (
    TransactionLog,
    encode_transaction_log,
    parse_transaction_log,
)
from icechunk.ids import ObjectId, id_text, new_object_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from icechunk._io.started import Started
    from icechunk.assets.chunk_pack import ChunkPack
    from icechunk.config import ResolvedConfig
    from icechunk.storage.base import Storage, Version
    from icechunk.storage.objects import ByteRange

logger = logging.getLogger(__name__)
T = TypeVar("T")

REPO_KEY: Final = "repo"

# Files below this size are decoded where they are read; larger ones in a thread, so that the
# event loop goes on. Unit: bytes, compressed.
_DECODE_INLINE_BYTES: Final = 64 * 1024
# As many as there are, unless it is configured: arrays and manifests of each that are read at once.
_FETCHES_DURING_COMMIT: Final = 128
# The same for encoding, in chunk references.
_ENCODE_INLINE_REFERENCES: Final = 1 << 13

_REPO_LEVEL: Final = 1
_CHUNK_KEYS_KEPT: Final = 64

_FILE_TYPE_NAMES: Final = {
    FileType.SNAPSHOT: "snapshot",
    FileType.MANIFEST: "manifest",
    FileType.TRANSACTION_LOG: "transaction-log",
    FileType.REPO: "repo-info",
}


def snapshot_key(snapshot_id: ObjectId) -> str:
    """Return the storage key of a snapshot."""
    return f"snapshots/{id_text(snapshot_id)}"


def manifest_key(manifest_id: ObjectId) -> str:
    """Return the storage key of a manifest."""
    return f"manifests/{id_text(manifest_id)}"


def transaction_log_key(snapshot_id: ObjectId) -> str:
    """Return the storage key of the transaction log of a snapshot."""
    return f"transactions/{id_text(snapshot_id)}"


@lru_cache(_CHUNK_KEYS_KEPT)  # small chunks share objects
def chunk_key(chunk_id: ObjectId) -> str:
    """Return the storage key of a native chunk."""
    return f"chunks/{id_text(chunk_id)}"


class AssetManager:
    """Reads and writes the files of a repository as values.

    Parameters
    ----------
    storage : Storage
        Where the objects are.
    config : ResolvedConfig
        Effective configuration.
    spec_version : int
        Version of the format of the repository, and of the files that are written.

    Notes
    -----
    Concurrency: may be shared by any number of sessions, threads and event loops. Files under an
    id never change, so what is cached stays right; the mutable `repo` object is never cached.
    """

    def __init__(self, storage: Storage, config: ResolvedConfig, spec_version: int = 2) -> None:
        self.storage = storage.with_request_limit(config.max_concurrent_requests)
        self.config = config
        self.spec_version = spec_version
        caching = config.caching
        self._snapshots: WeightedCache[ObjectId, Snapshot] = WeightedCache(
            caching.num_snapshot_nodes, weights.BYTES_PER_NODE, weights.snapshot_weight
        )
        self._manifests: WeightedCache[ObjectId, Manifest] = WeightedCache(
            caching.num_chunk_refs, weights.BYTES_PER_REFERENCE, weights.manifest_weight
        )
        self._logs: WeightedCache[ObjectId, TransactionLog] = WeightedCache(
            caching.num_transaction_changes, weights.BYTES_PER_CHANGE, weights.log_weight
        )
        self._chunks: WeightedCache[tuple[ObjectId, ByteRange], bytes] | None = None
        if caching.num_bytes_chunks:
            self._chunks = WeightedCache(caching.num_bytes_chunks, 1, weights.chunk_weight)
        self._decodes = Limiter(config.max_concurrent_decodes)
        self.fetches_during_commit = Limiter(
            config.max_concurrent_manifest_fetches_during_commit or _FETCHES_DURING_COMMIT
        )
        self._flight: Flight[str, object] = Flight()
        # Bytes and value of the repo object as it was last seen here. The object is read anew
        # every time; equal bytes are only not decoded twice.
        self._seen_repo: tuple[bytes, RepoInfo] | None = None

    # -- the repo object ----------------------------------------------------------------------

    async def read_repo(self) -> tuple[RepoInfo, Version, bytes]:
        """Return the repo object, the version it is, and its bytes.

        Raises
        ------
        RepositoryNotFoundError
            There is no repository here.
        FormatError
            The object is damaged or foreign; or, kind ``unsupported-spec-version``, the repository
            is of version 1, which has no such object.
        """
        if self.spec_version == 1:
            raise needs_version_2("the repo object")
        try:
            data, version = await self.storage.get_versioned(REPO_KEY)
        except StorageError as e:
            if e.kind == ErrorKind.OBJECT_NOT_FOUND:
                raise RepositoryNotFoundError(
                    f"no repository at {self.storage.description}. Check the path, or create one "
                    "with Repository.create(storage)."
                ) from e
            raise
        seen = self._seen_repo
        if seen is not None and seen[0] == data:
            return seen[1], version, data
        info = await self._decoded(data, lambda: parse_repo_info(data, key=REPO_KEY))
        self._seen_repo = (data, info)
        return info, version, data

    async def create_repo(self, info: RepoInfo) -> Version:
        """Write the first repo object; raises `LostRaceError` when there is one."""
        data = self._encoded_repo(info)
        return await self.storage.put_if_absent(
            REPO_KEY, data, metadata=self._metadata(FileType.REPO)
        )

    async def replace_repo(self, info: RepoInfo, version: Version) -> Version:
        """Write the next repo object; raises `LostRaceError` when it changed meanwhile."""
        data = self._encoded_repo(info)
        written = await self.storage.put_if_unchanged(
            REPO_KEY, data, version, metadata=self._metadata(FileType.REPO)
        )
        seen = self._seen_repo
        # What a caller gave (settings, metadata) is read back before it is shown to anybody.
        if seen is not None and info.metadata is seen[1].metadata and info.config is seen[1].config:
            self._seen_repo = (data, info.in_file_order())
        return written

    def _encoded_repo(self, info: RepoInfo) -> bytes:
        # Random ids make up most of it: higher levels take longer for the same size.
        return encode_repo_info(info, level=min(self.config.compression_level, _REPO_LEVEL))

    async def back_up_repo(self, name: str, data: bytes) -> None:
        """Keep the bytes of a repo object that is about to be replaced."""
        metadata = self._metadata(FileType.REPO)
        # Should somebody have replaced it meanwhile, then this update fails, and so nobody looks
        # at its copy.
        await self.storage.put_copy(f"overwritten/{name}", data, REPO_KEY, metadata=metadata)

    # -- immutable files ----------------------------------------------------------------------

    async def snapshot(self, snapshot_id: ObjectId) -> Snapshot:
        """Return a snapshot.

        Raises
        ------
        StorageError
            Kind ``object-not-found``; there is no such file.
        FormatError
            The file is damaged or foreign.
        """
        return await self._fetch(self._snapshots, snapshot_id, snapshot_key, parse_snapshot)

    async def manifest(self, manifest_id: ObjectId) -> Manifest:
        """Return a manifest; raises as `snapshot`."""
        return await self._fetch(self._manifests, manifest_id, manifest_key, parse_manifest)

    async def transaction_log(self, snapshot_id: ObjectId) -> TransactionLog:
        """Return the transaction log of a snapshot; raises as `snapshot`."""
        return await self._fetch(
            self._logs, snapshot_id, transaction_log_key, parse_transaction_log
        )

    async def write_snapshot(self, snapshot: Snapshot, started: Started | None = None) -> None:
        """Write a snapshot under its id and keep it in the cache; or only start writing it."""
        data = encode_snapshot(snapshot, level=self.config.compression_level)
        await self._put(FileType.SNAPSHOT, snapshot_key(snapshot.id), data, started)
        self._snapshots.put(snapshot.id, snapshot)

    async def write_manifest(self, manifest: Manifest, started: Started) -> int:
        """Start writing a manifest under its id; return the size of the file in bytes."""
        # Packed locations came with version 2.
        packing = self.config.location_compression if self.spec_version > 1 else None

        def encode() -> bytes:
            return encode_manifest(
                manifest,
                level=self.config.compression_level,
                location_compression=packing,
                spec_version=self.spec_version,
            )

        references = sum(len(table) for _, table in manifest.arrays)
        small = references <= _ENCODE_INLINE_REFERENCES
        data = encode() if small else await in_thread(encode)
        await self._put(FileType.MANIFEST, manifest_key(manifest.id), data, started)
        self._manifests.put(manifest.id, weights.on_its_own(manifest))
        return len(data)

    async def write_transaction_log(
        self, log: TransactionLog, started: Started | None = None
    ) -> None:
        """Write the log of a snapshot, or only start writing it."""
        data = encode_transaction_log(
            log, level=self.config.compression_level, spec_version=self.spec_version
        )
        await self._put(FileType.TRANSACTION_LOG, transaction_log_key(log.id), data, started)
        self._logs.put(log.id, log)

    # -- chunks -------------------------------------------------------------------------------

    async def read_chunk(self, chunk_id: ObjectId, byte_range: ByteRange) -> bytes:
        """Return a range of a native chunk's object."""
        if self._chunks is None:
            return await self.storage.get(chunk_key(chunk_id), byte_range)
        data = self._chunks.get((chunk_id, byte_range))
        if data is None:
            data = await self.storage.get(chunk_key(chunk_id), byte_range)
            self._chunks.put((chunk_id, byte_range), data)
        return data

    async def write_chunk(self, data: bytes | memoryview, pack: ChunkPack) -> NativeRef:
        """Write a native chunk: behind others in a pack where it is small, or as an object."""
        length, pack_bytes = len(data), self.storage.pack_bytes
        small = pack.takes(length, pack_bytes)
        place = pack.reserve(length, pack_bytes) if small else None
        if place is not None and await self._packed(*place, data, pack):
            return NativeRef(place[0], place[1], length)
        chunk_id = new_object_id()
        await self.storage.put(chunk_key(chunk_id), data)
        if small:
            pack.begin(chunk_id, length)
        return NativeRef(chunk_id, 0, length)

    async def _packed(
        self, chunk_id: ObjectId, offset: int, data: bytes | memoryview, pack: ChunkPack
    ) -> bool:
        """Write a chunk into its place; False when the object is gone."""
        try:
            await self.storage.extend(chunk_key(chunk_id), offset, data)
        except StorageError as e:
            pack.leave()
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
            return False
        return True

    # -- helpers ------------------------------------------------------------------------------

    async def _put(
        self, file_type: FileType, key: str, data: bytes, started: Started | None = None
    ) -> None:
        logger.debug("writing %s, %d bytes", key, len(data))
        writing = self.storage.put(key, data, metadata=self._metadata(file_type))
        await (writing if started is None else started.start(writing))

    def _metadata(self, file_type: FileType) -> dict[str, str] | None:
        """Return what bucket stores keep beside an object (specification 1.1)."""
        if not self.config.storage.unsafe_use_metadata:
            return None
        return {
            "icspecver": str(self.spec_version),
            "icclient": WRITER,
            "icfiletype": _FILE_TYPE_NAMES[file_type],
            "iccompalg": "zstd",
        }

    async def _fetch(
        self,
        cache: WeightedCache[ObjectId, T],
        object_id: ObjectId,
        key_of: Callable[[ObjectId], str],
        parse: Callable[..., T],
    ) -> T:
        found = cache.get(object_id)
        if found is not None:
            return found
        key = key_of(object_id)

        async def load() -> T:
            data = await self.storage.get(key)
            logger.debug("read %s, %d bytes", key, len(data))
            value = await self._decoded(data, lambda: parse(data, key=key))
            cache.put(object_id, value)
            return value

        return await self._flight.share(key, load)  # type: ignore[return-value]

    async def _decoded(self, data: bytes, parse: Callable[[], T]) -> T:
        if len(data) <= _DECODE_INLINE_BYTES:
            return parse()
        async with self._decodes:
            return await in_thread(parse)


async def exists(storage: Storage, key: str) -> bool:
    """Say whether there is an object at a key."""
    try:
        await storage.head(key)
    except StorageError as e:
        if e.kind == ErrorKind.OBJECT_NOT_FOUND:
            return False
        raise
    return True


def needs_version_2(what: str) -> FormatError:
    """Return the error of something that version 1 of the format does not have."""
    return FormatError(
        f"this repository is of format version 1, and {what} came with version 2. Upgrade it with "
        "icechunk.upgrade_icechunk_repository(repo, dry_run=False).",
        ErrorKind.UNSUPPORTED_SPEC_VERSION,
    )
