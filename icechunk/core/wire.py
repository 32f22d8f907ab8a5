"""The bytes of a change set as it travels between processes.

A MessagePack document in one zstd frame, with a version number. Unpacking builds values and never
runs code. Columns travel as raw little-endian arrays; ids of native chunks are random and make up
nearly all of the size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgpack
import numpy as np
import zstandard

from icechunk.core.changes import ChangeSet, DeletedNode
from icechunk.core.moves import Move
from icechunk.core.nodes import NodeDocument, document_of
from icechunk.errors import ErrorKind, FormatError
from icechunk.format.chunk_table import ChunkKind, ChunkTable
from icechunk.format.columns import constant, is_constant
from icechunk.format.coordinates import sorting_order
from icechunk.format.header import decompress
from icechunk.format.ragged import Ragged
from icechunk.format.snapshot import DimensionShape, NodeKind
from icechunk.ids import OBJECT_ID_BYTES, NodeId
from icechunk.paths import NodePath

if TYPE_CHECKING:
    from icechunk._typing import AnyArray

WIRE_VERSION: Final = 2

_LEVEL: Final = 1
_MAX_BYTES: Final = 8 * 2**30
_MOST_DIMENSIONS: Final = 1024


def encode_document(document: dict[str, Any]) -> bytes:
    """Return a plain document as one compressed frame that carries the wire version."""
    packed = msgpack.packb({"version": WIRE_VERSION, **document}, use_bin_type=True)
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True).compress(packed)


def decode_document(data: bytes) -> dict[str, Any]:
    """Return the document of `encode_document`.

    Raises
    ------
    FormatError
        Kind ``deserialization``; not such bytes, or of another version of this package.
    """
    try:
        packed = decompress(memoryview(data), "session", _MAX_BYTES)
        document = msgpack.unpackb(packed, use_list=False, strict_map_key=True)
    except (FormatError, ValueError, msgpack.UnpackException) as e:
        raise _bad(f"not the bytes of a session ({e})") from e
    version = document.get("version") if isinstance(document, dict) else None
    if version != WIRE_VERSION:
        raise _bad(
            f"session bytes of version {version!r}, expected {WIRE_VERSION}; run the same version "
            "of icechunk on the client and on all workers"
        )
    return document  # type: ignore[no-any-return]


def pack_changes(changes: ChangeSet) -> dict[str, Any]:
    """Return a change set as a plain document of numbers, strings and bytes.

    Notes
    -----
    Cost once compressed: about 15 bytes for each native chunk.
    """
    return {
        "new": [
            (node.id, node.path, _pack_document(document_of(node)))
            for node in changes.new_nodes.values()
        ],
        "updated": [(node, _pack_document(doc)) for node, doc in changes.updated.items()],
        "deleted": [(node, gone.path, int(gone.kind)) for node, gone in changes.deleted.items()],
        "chunks": [(node, pack_table(edits.table())) for node, edits in changes.chunks.items()],
        "moves": [(move.node_id, move.from_path, move.to_path) for move in changes.moves],
    }


def unpack_changes(document: dict[str, Any]) -> ChangeSet:
    """Return the change set of `pack_changes`.

    Raises
    ------
    FormatError
        Kind ``deserialization``; the document is not one.
    """
    changes = ChangeSet()
    try:
        for node, path, packed in document["new"]:
            document_here = _unpack_document(packed)
            changes.create(document_here.as_node(NodeId(node), NodePath(path)))
        for node, packed in document["updated"]:
            changes.updated[NodeId(node)] = _unpack_document(packed)
        for node, path, kind in document["deleted"]:
            changes.deleted[NodeId(node)] = DeletedNode(NodePath(path), NodeKind(kind))
        for node, packed in document["chunks"]:
            table = unpack_table(packed)
            changes.edits(NodeId(node), table.ndim).extend(table)
        changes.moves = tuple(
            Move(node_id=NodeId(node), from_path=NodePath(before), to_path=NodePath(after))
            for node, before, after in document["moves"]
        )
    except (KeyError, TypeError, ValueError) as e:
        raise _bad(f"damaged session bytes ({e!r})") from e
    return changes


def pack_table(table: ChunkTable) -> dict[str, Any]:
    """Return a table's columns as raw little-endian bytes; coordinates axis by axis."""
    payload = table.payload.compact()
    etag = None if table.etag is None else table.etag.compact()
    return {
        "n": len(table),
        "ndim": table.ndim,
        "coords": np.ascontiguousarray(table.coords.T, "<u4").tobytes(),
        "kind": table.kind.tobytes(),
        "chunk_id": table.chunk_id.tobytes() if table.chunk_id.any() else b"",
        "offset": table.offset.astype("<u8").tobytes() if table.offset.any() else b"",
        "length": table.length.astype("<u8").tobytes(),
        "payload": bytes(payload.data),
        "payload_size": payload.size.astype("<i8").tobytes() if payload.size.any() else b"",
        "packed": table.packed.tobytes() if table.packed.any() else b"",
        "dictionary": table.dictionary,
        "etag": None if etag is None else bytes(etag.data),
        "etag_size": None if etag is None else etag.size.astype("<i8").tobytes(),
        "last_modified": (
            table.last_modified.astype("<u4").tobytes() if table.last_modified.any() else b""
        ),
    }


def unpack_table(packed: dict[str, Any]) -> ChunkTable:
    """Return the table of `pack_table`.

    Raises
    ------
    ValueError
        When the columns do not fit together.
    """
    n, ndim = packed["n"], packed["ndim"]
    # Other columns may be left out, so these say how much there is.
    known = len(packed["kind"]) == n and 0 <= ndim <= _MOST_DIMENSIONS
    if not known or len(packed["coords"]) != 4 * n * ndim:
        raise ValueError(f"coordinates and kinds are not those of {n} rows of {ndim} dimensions")

    def column(name: str, dtype: str, width: int = 1) -> AnyArray:
        data = packed[name]
        if not data:
            return constant(0, n, dtype) if width == 1 else np.zeros(n * width, dtype)
        values = np.frombuffer(data, dtype)
        if len(values) != n * width:
            raise ValueError(f"column {name} has {len(values)} values for {n} rows")
        return values

    coords = np.ascontiguousarray(column("coords", "<u4", ndim).reshape(ndim, n).T)
    if sorting_order(coords) is not None:
        raise ValueError("coordinates are not in order")
    kind = column("kind", "u1")
    if n and not min(ChunkKind) <= int(kind.min()) <= int(kind.max()) <= max(ChunkKind):
        raise ValueError("unknown kind of chunk")
    return ChunkTable(
        coords=coords,
        kind=kind,
        chunk_id=column("chunk_id", "u1", OBJECT_ID_BYTES).reshape(n, OBJECT_ID_BYTES),
        offset=column("offset", "<u8"),
        length=column("length", "<u8"),
        payload=_ragged(packed["payload"], column("payload_size", "<i8")),
        packed=column("packed", "?"),
        dictionary=packed["dictionary"],
        etag=(
            None if packed["etag"] is None else _ragged(packed["etag"], column("etag_size", "<i8"))
        ),
        last_modified=column("last_modified", "<u4"),
    )


def _ragged(data: bytes, size: AnyArray) -> Ragged:
    if is_constant(size) and not data:
        return Ragged.empty(len(size))
    start = np.zeros(len(size), np.int64)
    np.cumsum(size[:-1], out=start[1:])
    if int(size.sum()) != len(data) or bool((size < 0).any()):
        raise ValueError(f"{len(data)} bytes for strings of {int(size.sum())} bytes")
    return Ragged(data, start, size)


def _pack_document(document: NodeDocument) -> tuple[Any, ...]:
    return (
        int(document.kind),
        document.user_data,
        [(d.array_length, d.num_chunks) for d in document.shape],
        document.dimension_names,
    )


def _unpack_document(packed: tuple[Any, ...]) -> NodeDocument:
    kind, user_data, shape, names = packed
    return NodeDocument(
        kind=NodeKind(kind),
        user_data=user_data,
        shape=tuple(DimensionShape(array_length=n, num_chunks=c) for n, c in shape),
        dimension_names=None if names is None else tuple(names),
    )


def _bad(what: str) -> FormatError:
    return FormatError(f"{what}.", ErrorKind.DESERIALIZATION)
