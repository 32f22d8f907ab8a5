"""Transaction logs: what one commit changed.

Source: Icechunk specification, sections "Transaction log" and "Transaction log content".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from icechunk.errors import FormatError
from icechunk.format.coordinates import read_coordinates, sorting_order
from icechunk.format.fb import writer
from icechunk.format.fb.table import root
from icechunk.format.header import (
    DEFAULT_LEVEL,
    MAX_BODY_BYTES,
    FileType,
    encode_file,
    parse_file,
)
from icechunk.format.node import NodeKind
from icechunk.ids import NODE_ID_BYTES, OBJECT_ID_BYTES, NodeId, ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from icechunk._typing import I64Array, U32Array
    from icechunk.format.fb.table import Table

# Verifiers of the reference refuse logs with more.
_MOST_TABLES: Final = 50_000_000
# An honest ArrayUpdatedChunks and ChunkIndices: offset, table, fields, and one vector's length.
_LEAST_ARRAY_BYTES: Final = 20
_LEAST_COORDINATE_BYTES: Final = 12
_LEAST_MOVE_BYTES: Final = 20

# Up to so many are read one at a time; more as columns.
_FEW_ARRAYS: Final = 8
_FEW_CHUNKS: Final = 16

# The numbering here is not that of the node union in snapshots.
_KIND_TAGS: Final = {NodeKind.GROUP: 0, NodeKind.ARRAY: 1}
_KINDS: Final = {tag: kind for kind, tag in _KIND_TAGS.items()}

_ID_SETS: Final = (
    (1, "new_groups"),
    (2, "new_arrays"),
    (3, "deleted_groups"),
    (4, "deleted_arrays"),
    (5, "updated_arrays"),
    (6, "updated_groups"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveOperation:
    """A node that a commit moved.

    Parameters
    ----------
    from_path, to_path : str
        Absolute path before and after the commit.
    node_id : NodeId
        Which node.
    node_kind : NodeKind
        Array or group.
    """

    from_path: str
    to_path: str
    node_id: NodeId
    node_kind: NodeKind


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TransactionLog:
    """What one commit changed.

    Parameters
    ----------
    id : ObjectId
        Id of the snapshot the commit made.
    new_groups, new_arrays, deleted_groups, deleted_arrays : frozenset of NodeId
        Nodes that came and went.
    updated_arrays, updated_groups : frozenset of NodeId
        Nodes whose Zarr metadata changed.
    updated_chunks : mapping of NodeId to ndarray of uint32, shape (n, ndim)
        Coordinates set or deleted, by array, in lexicographic order; unit: chunks.
    moved_nodes : tuple of MoveOperation
        Nodes whose path changed, ordered by the new path.
    """

    id: ObjectId
    new_groups: frozenset[NodeId] = frozenset()
    new_arrays: frozenset[NodeId] = frozenset()
    deleted_groups: frozenset[NodeId] = frozenset()
    deleted_arrays: frozenset[NodeId] = frozenset()
    updated_arrays: frozenset[NodeId] = frozenset()
    updated_groups: frozenset[NodeId] = frozenset()
    updated_chunks: Mapping[NodeId, U32Array] = field(default_factory=dict)
    moved_nodes: tuple[MoveOperation, ...] = ()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TransactionLog):
            return NotImplemented
        return (
            self.id == other.id
            and all(getattr(self, name) == getattr(other, name) for _, name in _ID_SETS)
            and self.moved_nodes == other.moved_nodes
            and self.updated_chunks.keys() == other.updated_chunks.keys()
            and all(
                np.array_equal(coords, other.updated_chunks[node_id])
                for node_id, coords in self.updated_chunks.items()
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def touched_nodes(self) -> frozenset[NodeId]:
        """Return the nodes that came, went, or have other metadata; no chunks and no moves."""
        return frozenset[NodeId]().union(*(getattr(self, name) for _, name in _ID_SETS))

    def touches(self, nodes: AbstractSet[NodeId]) -> bool:
        """Say whether the commit did anything to one of some nodes; moves are left out."""
        return not nodes.isdisjoint(self.touched_nodes() | self.updated_chunks.keys())


# -- writing --------------------------------------------------------------------------------------


def encode_transaction_log(
    log: TransactionLog, *, level: int = DEFAULT_LEVEL, spec_version: int = 2
) -> bytes:
    """Encode a transaction log as a file.

    Parameters
    ----------
    log : TransactionLog
        What to write.
    level : int
        zstd level of the file.
    spec_version : int
        Version of the format, 1 or 2; the bodies are the same.

    Returns
    -------
    bytes
        The whole file.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the log does not fit into one file.

    Notes
    -----
    Source: Icechunk specification, section "Transaction log".
    """
    chunks = sorted(log.updated_chunks.items())
    total = len(chunks) + sum(len(coords) for _, coords in chunks) + len(log.moved_nodes)
    if total > _MOST_TABLES:
        raise FormatError(
            f"transactions/{id_text(log.id)}: a commit of {total} changes does not fit into a "
            f"transaction log, which ends at {_MOST_TABLES}. Split it into several commits."
        )
    moves = sorted(log.moved_nodes, key=lambda move: move.to_path.encode().split(b"/"))
    fields: dict[int, writer.Value | None] = {0: writer.struct(log.id)}
    for slot, name in _ID_SETS:
        ids: frozenset[NodeId] = getattr(log, name)
        fields[slot] = writer.vector(b"".join(sorted(ids)), len(ids), 1)
    fields[7] = writer.Tables(
        [{0: writer.struct(node_id), 1: _chunk_indices(coords)} for node_id, coords in chunks]
    )
    fields[8] = writer.Tables(
        [
            {
                0: writer.string(move.from_path),
                1: writer.string(move.to_path),
                2: writer.struct(move.node_id),
                3: writer.u8(_KIND_TAGS[move.node_kind]),
            }
            for move in moves
        ]
    )
    body = writer.assemble_root(fields)
    return encode_file(FileType.TRANSACTION_LOG, body, level=level, spec_version=spec_version)


def _chunk_indices(coords: U32Array) -> writer.Blobs:
    """Write one ChunkIndices table per coordinate, as rows of one array."""
    order = sorting_order(coords)
    if order is not None:
        coords = coords[order]
    count, ndim = coords.shape
    layout = writer.row_layout(((0, 4, 4),), (("rank", "<u4", 1), ("coords", "<u4", ndim)))
    room = writer.rows_bytes(layout, count)
    if room > MAX_BODY_BYTES:
        raise FormatError(
            f"{count} changed chunks of one array need {room} bytes, but a transaction log ends at "
            f"{MAX_BODY_BYTES}. Split the change into several commits."
        )
    out = np.zeros(room, np.uint8)
    rows, positions = writer.write_rows(out, 0, layout, count)
    # The vector follows its offset: the table has nothing else.
    rows["s0"] = 4
    rows["rank"] = ndim
    rows["coords"] = coords
    return writer.Blobs([out.data], positions)


# -- reading --------------------------------------------------------------------------------------


def parse_transaction_log(data: bytes, *, key: str) -> TransactionLog:
    """Decode a transaction log file.

    Parameters
    ----------
    data : bytes
        The whole file.
    key : str
        Key of the file, for messages.

    Returns
    -------
    TransactionLog
        Coordinates in order, each once, although version 1 writers left them unsorted; those of
        another rank than most of their array's are dropped.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format`` or ``unsupported-spec-version``; the file is damaged or not a
        transaction log.

    Notes
    -----
    Source: Icechunk specification, section "Transaction log".
    """
    body = parse_file(data, FileType.TRANSACTION_LOG, key=key).body
    table = root(body, key=key, name="TransactionLog")
    ids = {name: _id_set(table, slot, name) for slot, name in _ID_SETS}
    return TransactionLog(
        id=ObjectId(table.required_struct(0, "id", OBJECT_ID_BYTES)),
        new_groups=ids["new_groups"],
        new_arrays=ids["new_arrays"],
        deleted_groups=ids["deleted_groups"],
        deleted_arrays=ids["deleted_arrays"],
        updated_arrays=ids["updated_arrays"],
        updated_groups=ids["updated_groups"],
        updated_chunks=_updated_chunks(table),
        moved_nodes=_moved_nodes(table),
    )


def _id_set(table: Table, slot: int, name: str) -> frozenset[NodeId]:
    part = table.vector(slot, name, NODE_ID_BYTES)
    if part is None:
        raise table.buffer.error(f"TransactionLog.{name}", "required field is absent")
    data, stop = table.buffer.data, part.first + part.length * NODE_ID_BYTES
    return frozenset(
        NodeId(data[at : at + NODE_ID_BYTES]) for at in range(part.first, stop, NODE_ID_BYTES)
    )


class _Coordinates(NamedTuple):
    """Where the coordinates of one array's changed chunks are, checked.

    Attributes
    ----------
    node_id : NodeId
        The array.
    starts : ndarray of int64, shape (n,)
        Position of each coordinate's first number; unit: bytes.
    ranks : ndarray of int64, shape (n,)
        Numbers in each coordinate.
    """

    node_id: NodeId
    starts: I64Array
    ranks: I64Array


def _updated_chunks(table: Table) -> dict[NodeId, U32Array]:
    changed = _few_coordinates(table)
    if changed is None:
        changed = _many_coordinates(table)
    found: dict[NodeId, U32Array] = {}
    for node_id, starts, ranks in changed:
        if node_id in found:
            raise table.buffer.error(
                "ArrayUpdatedChunks.node_id", f"array {id_text(node_id)} is listed twice"
            )
        found[node_id], _ = read_coordinates(table.buffer, starts, ranks)
    return found


def _few_coordinates(table: Table) -> list[_Coordinates] | None:
    """Read the log of a small commit one table at a time; None when there are too many."""
    arrays = table.vector(7, "updated_chunks", 4)
    if arrays is None or arrays.length > _FEW_ARRAYS:
        return None
    changed: list[_Coordinates] = []
    size = 0
    for array in table.required_tables(7, "updated_chunks", "ArrayUpdatedChunks"):
        chunks = array.vector(1, "chunks", 4)
        if chunks is None or chunks.length > _FEW_CHUNKS:
            return None
        parts: list[tuple[int, int]] = []
        for chunk in array.required_tables(1, "chunks", "ChunkIndices"):
            coords = chunk.vector(0, "coords", 4)
            if coords is None:
                raise table.buffer.error("ChunkIndices.coords", "required field is absent")
            parts.append(coords)
            size += 4 * coords.length
        if arrays.length + sum(len(found.starts) for found in changed) + len(parts) > _MOST_TABLES:
            raise table.buffer.error(
                "ArrayUpdatedChunks.chunks", f"more than {_MOST_TABLES} changes"
            )
        if size > table.buffer.size:
            raise table.buffer.error("ChunkIndices.coords", "parts of the file are used too often")
        node_id = NodeId(array.required_struct(0, "node_id", NODE_ID_BYTES))
        places = np.array(parts, np.int64).reshape(len(parts), 2)
        changed.append(_Coordinates(node_id, places[:, 0], places[:, 1]))
    return changed


def _many_coordinates(table: Table) -> list[_Coordinates]:
    arrays = table.required_column(7, "updated_chunks", "ArrayUpdatedChunks")
    if len(arrays) * _LEAST_ARRAY_BYTES > table.buffer.size:
        raise arrays.error("node_id", f"{len(arrays)} arrays do not fit into the file")
    node_ids = arrays.struct(0, "node_id", NODE_ID_BYTES)
    chunks, bounds = arrays.tables(1, "chunks", "ChunkIndices", min_bytes=_LEAST_COORDINATE_BYTES)
    if len(arrays) + len(chunks) > _MOST_TABLES:
        raise arrays.error("chunks", f"more than {_MOST_TABLES} changes")
    coords = chunks.vector(0, "coords", 4)
    return [
        _Coordinates(NodeId(raw.tobytes()), coords.starts[start:stop], coords.counts[start:stop])
        for raw, (start, stop) in zip(node_ids, pairwise(bounds.tolist()), strict=True)
    ]


def _moved_nodes(table: Table) -> tuple[MoveOperation, ...]:
    part = table.vector(8, "moved_nodes", 4)
    if part is None or not part.length:
        return ()
    moves = table.required_column(8, "moved_nodes", "MoveOperation")
    if len(moves) * _LEAST_MOVE_BYTES > table.buffer.size:
        raise moves.error("node_id", f"{len(moves)} moves do not fit into the file")
    tags = moves.scalar(3, "node_type", "u1").tolist()
    if not set(tags) <= _KINDS.keys():
        raise moves.error("node_type", "unknown kind of node")
    node_ids = moves.struct(2, "node_id", NODE_ID_BYTES)
    return tuple(
        MoveOperation(
            from_path=before, to_path=after, node_id=NodeId(raw.tobytes()), node_kind=_KINDS[tag]
        )
        for before, after, raw, tag in zip(
            moves.texts(0, "from"), moves.texts(1, "to"), node_ids, tags, strict=True
        )
    )
