"""How much storage the chunks of a repository take.

Source: the measured behaviour of the official package: every manifest that a branch or tag leads to
counts once, and in all of them together each native and each virtual chunk.
"""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.core.id_columns import KeySet
from icechunk.format.chunk_table import ChunkKind
from icechunk.ids import OBJECT_ID_BYTES, ObjectId
from icechunk.ops.reachable import reachable_snapshots
from icechunk.ops.reading import ReadLimits, manifests_of, reduce_manifests

if TYPE_CHECKING:
    from icechunk._typing import I64Array, U8Array
    from icechunk.assets.manager import AssetManager
    from icechunk.format.chunk_table import ChunkTable
    from icechunk.format.manifest import Manifest
    from icechunk.format.ragged import Ragged

_DIGEST_BYTES: Final = 16
# A native chunk is known by its object and its offset there.
_NATIVE_KEY_BYTES: Final = OBJECT_ID_BYTES + 8
# A virtual chunk is known by the digest of its location, its offset and its length.
_VIRTUAL_KEY_BYTES: Final = _DIGEST_BYTES + 8 + 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStorageStats:
    """Bytes that the chunks of a repository take, each chunk counted once.

    Parameters
    ----------
    native_bytes : int
        In objects of the repository.
    virtual_bytes : int
        In objects of others that the repository points into.
    inlined_bytes : int
        Inside of manifests, before compression; a chunk counts in each manifest that has it.
    """

    native_bytes: int = 0
    virtual_bytes: int = 0
    inlined_bytes: int = 0

    def non_virtual_bytes(self) -> int:
        """Return the bytes in the repository itself: native and inlined."""
        return self.native_bytes + self.inlined_bytes

    def total_bytes(self) -> int:
        """Return the bytes of all chunks."""
        return self.native_bytes + self.virtual_bytes + self.inlined_bytes

    def __add__(self, other: ChunkStorageStats) -> ChunkStorageStats:
        if not isinstance(other, ChunkStorageStats):
            return NotImplemented
        return ChunkStorageStats(
            native_bytes=self.native_bytes + other.native_bytes,
            virtual_bytes=self.virtual_bytes + other.virtual_bytes,
            inlined_bytes=self.inlined_bytes + other.inlined_bytes,
        )

    def __str__(self) -> str:
        lines = [f"{name}: {getattr(self, name)}" for name in self.__slots__]
        return "\n".join(["<icechunk.stats.ChunkStorageStats>", *lines, ""])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


async def chunk_storage_stats(assets: AssetManager, limits: ReadLimits) -> ChunkStorageStats:
    """Add up the chunks of every snapshot that a branch or tag leads to.

    Raises
    ------
    StorageError, FormatError
        A snapshot or a manifest is missing or damaged.

    Notes
    -----
    Memory: besides the limits, 20 bytes for each native and 32 for each virtual chunk.
    """
    ids = await reachable_snapshots(assets)
    files = await manifests_of(assets, (ObjectId(row.tobytes()) for row in ids), limits)
    tally = _Tally()
    await reduce_manifests(assets, files, limits, tally.take)
    return ChunkStorageStats(
        native_bytes=tally.native_bytes,
        virtual_bytes=tally.virtual_bytes,
        inlined_bytes=tally.inlined_bytes,
    )


class _Tally:
    """Adds up manifests; may be given them from several threads."""

    def __init__(self) -> None:
        self.native_bytes = 0
        self.virtual_bytes = 0
        self.inlined_bytes = 0
        self._native = KeySet(_NATIVE_KEY_BYTES)
        self._virtual = KeySet(_VIRTUAL_KEY_BYTES)
        self._lock = threading.Lock()

    def take(self, manifest: Manifest) -> None:
        for _, table in manifest.arrays:
            inlined = int(table.payload.size[table.kind == ChunkKind.INLINE].sum())
            native = np.flatnonzero(table.kind == ChunkKind.NATIVE)
            virtual = table.take(np.flatnonzero(table.kind == ChunkKind.VIRTUAL)).unpacked()
            native_keys = _native_keys(table, native)
            keys = _virtual_keys(virtual)
            with self._lock:
                self.inlined_bytes += inlined
                new = self._native.add(native_keys)
                self.native_bytes += int(table.length[native][new].sum())
                new = self._virtual.add(keys)
                self.virtual_bytes += int(virtual.length[new].sum())


def _native_keys(table: ChunkTable, rows: I64Array) -> U8Array:
    """Return what tells chunks apart: several may lie in one object."""
    keys = np.empty((len(rows), _NATIVE_KEY_BYTES), np.uint8)
    keys[:, :OBJECT_ID_BYTES] = table.chunk_id[rows]
    offsets = table.offset[rows].astype("<u8")
    keys[:, OBJECT_ID_BYTES:] = offsets.view(np.uint8).reshape(len(rows), 8)
    return keys


def _virtual_keys(table: ChunkTable) -> U8Array:
    keys = np.empty((len(table), _VIRTUAL_KEY_BYTES), np.uint8)
    keys[:, :_DIGEST_BYTES] = _digests(table.payload)
    ends = np.stack((table.offset, table.length), axis=1).astype("<u8")
    keys[:, _DIGEST_BYTES:] = np.ascontiguousarray(ends).view(np.uint8).reshape(len(table), 16)
    return keys


def _digests(locations: Ragged) -> U8Array:
    """Return a digest of each location; many chunks of one file are hashed once."""
    known: dict[bytes, bytes] = {}
    digests = []
    for location in locations.tolist():
        digest = known.get(location)
        if digest is None:
            digest = blake2b(location, digest_size=_DIGEST_BYTES).digest()
            known[location] = digest
        digests.append(digest)
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), _DIGEST_BYTES)
