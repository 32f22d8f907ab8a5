"""What decoded objects weigh in a cache: how much they count for, and the memory they take."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.assets.cache import Weight
from icechunk.format.columns import held_bytes, is_constant

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.format.chunk_table import ChunkTable
    from icechunk.format.columns import Held
    from icechunk.format.manifest import Manifest
    from icechunk.format.snapshot import Snapshot
    from icechunk.format.transaction_log import TransactionLog

# What one counted thing may take on average; unit: bytes. A reference to a native chunk of an array
# of three dimensions takes this: coordinate, id, range, and the key it is looked up by.
BYTES_PER_REFERENCE: Final = 48
BYTES_PER_NODE: Final = 512
BYTES_PER_CHANGE: Final = 64

# Python objects around the columns of one value, of a node and of a node's id, as measured.
_OBJECT_BYTES: Final = 3072
_NODE_BYTES: Final = 1280
_ID_BYTES: Final = 128

_KEY_BYTES: Final = 8
# A part of a larger table is copied before it is kept if less than this much of it would be used.
_LEAST_USED: Final = 1 / 2


def manifest_weight(manifest: Manifest) -> Weight:
    """Return what a manifest counts for in references, and its memory with keys for lookups."""
    tables = [table for _, table in manifest.arrays]
    references = sum(map(len, tables))
    size = held_bytes(part for table in tables for part in _parts(table))
    overhead = _OBJECT_BYTES * max(1, len(tables)) + _KEY_BYTES * references
    return Weight(references, size + overhead)


def snapshot_weight(snapshot: Snapshot) -> Weight:
    """Return what a snapshot counts for in nodes, and its memory once all of them are decoded."""
    nodes, files = snapshot.nodes, snapshot.manifest_files
    # What is decoded, documents and lists of manifests, takes about what it takes encoded.
    size = _OBJECT_BYTES + 2 * nodes.size_bytes + _NODE_BYTES * len(nodes)
    size += held_bytes([files.ids, files.size_bytes, files.num_chunk_refs])
    size += len(snapshot.message) + 2 * len(str(snapshot.metadata))
    return Weight(len(nodes), size)


def log_weight(log: TransactionLog) -> Weight:
    """Return what a transaction log counts for in chunks and nodes that changed, and its memory."""
    groups = len(log.new_groups) + len(log.deleted_groups) + len(log.updated_groups)
    arrays = len(log.new_arrays) + len(log.deleted_arrays) + len(log.updated_arrays)
    nodes = groups + arrays + len(log.moved_nodes)
    chunks = sum(map(len, log.updated_chunks.values()))
    ids = nodes + len(log.updated_chunks)
    paths = sum(len(move.from_path) + len(move.to_path) for move in log.moved_nodes)
    size = held_bytes(log.updated_chunks.values()) + paths
    return Weight(nodes + chunks, _OBJECT_BYTES + _ID_BYTES * ids + size)


def on_its_own(manifest: Manifest) -> Manifest:
    """Return a manifest that keeps little alive which is not its own.

    Tables of one array that was cut into manifests share their columns: the last one that is kept
    would keep those of all.
    """
    arrays = tuple((owner, _separate(table)) for owner, table in manifest.arrays)
    return replace(manifest, arrays=arrays)


def _separate(table: ChunkTable) -> ChunkTable:
    used = sum(
        part.nbytes
        for part in _parts(table)
        if isinstance(part, np.ndarray) and not is_constant(part)
    )
    used += int(table.payload.size.sum())
    used += 0 if table.etag is None else int(table.etag.size.sum())
    return table if used >= _LEAST_USED * held_bytes(_parts(table)) else table.compact()


def _parts(table: ChunkTable) -> Iterator[Held]:
    yield from (table.coords, table.kind, table.chunk_id, table.offset, table.length)
    yield from (table.packed, table.last_modified, table.dictionary or b"")
    for column in (table.payload, table.etag):
        if column is not None:
            yield from (column.data, column.start, column.size)


def chunk_weight(data: bytes) -> Weight:
    """Return what the bytes of a chunk count for: themselves."""
    return Weight(len(data), len(data))
