"""Manifests: the chunk references of arrays, as files and as columns.

Source: Icechunk specification, sections "Manifest" and "Location compression".
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.errors import FormatError
from icechunk.format import locations
from icechunk.format.chunk_refs import (
    LEAST_REFERENCE_BYTES,
    Payload,
    encode_references,
    parse_references,
)
from icechunk.format.chunk_table import ChunkKind, ChunkTable
from icechunk.format.fb import writer
from icechunk.format.fb.table import root
from icechunk.format.header import DEFAULT_LEVEL, FileType, encode_file, parse_file
from icechunk.ids import NODE_ID_BYTES, OBJECT_ID_BYTES, NodeId, ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import I64Array
    from icechunk.format.ragged import Ragged
    from icechunk.resolved_config import LocationCompression


_U8: Final = _struct.Struct("<B")
_PLAIN: Final = 0
_ZSTD: Final = 1
# The reference writes one array per manifest; a file that claims more than this is hostile.
_MOST_ARRAYS: Final = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Chunk references of one or more arrays.

    Parameters
    ----------
    id : ObjectId
        Own id, the name of the file.
    arrays : tuple of (NodeId, ChunkTable)
        References by array, in the order of the node ids' bytes.
    """

    id: ObjectId
    arrays: tuple[tuple[NodeId, ChunkTable], ...]

    def table(self, node_id: NodeId) -> ChunkTable | None:
        """Return the references of one array, None when it has none here."""
        return next((table for owner, table in self.arrays if owner == node_id), None)


def encode_manifest(
    manifest: Manifest,
    *,
    level: int = DEFAULT_LEVEL,
    location_compression: LocationCompression | None = None,
    spec_version: int = 2,
) -> bytes:
    """Encode a manifest as a file.

    Parameters
    ----------
    manifest : Manifest
        References to write; tables without deletions.
    level : int
        zstd level of the file.
    location_compression : LocationCompression or None
        When and how to pack the locations of virtual chunks; None leaves them plain, as version
        1 requires.
    spec_version : int
        Version of the format, 1 or 2; the bodies are the same.

    Returns
    -------
    bytes
        The whole file.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the manifest does not fit into 2 GiB, or has very many arrays.

    Notes
    -----
    Source: Icechunk specification, section "Manifest". A million references take some tenths of a
    second, most of it in zstd.
    """
    arrays = sorted(manifest.arrays, key=lambda array: array[0])
    if len(arrays) > _MOST_ARRAYS:
        raise FormatError(f"a manifest of {len(arrays)} arrays: write one for each array instead")
    dictionary, payloads = _payloads([table for _, table in arrays], location_compression)
    key = f"manifests/{id_text(manifest.id)}"
    body = writer.assemble_root(
        {
            0: writer.struct(manifest.id),
            1: writer.Tables(
                [
                    {0: writer.struct(node_id), 1: encode_references(table, payload, key)}
                    for (node_id, table), payload in zip(arrays, payloads, strict=True)
                ]
            ),
            2: None if dictionary is None else writer.byte_vector(dictionary),
            3: writer.u8(_PLAIN if dictionary is None else _ZSTD, default=_ZSTD),
        }
    )
    return encode_file(FileType.MANIFEST, body, level=level, spec_version=spec_version)


def parse_manifest(data: bytes, *, key: str) -> Manifest:
    """Decode a manifest file.

    Parameters
    ----------
    data : bytes
        The whole file.
    key : str
        Key of the file, for messages.

    Returns
    -------
    Manifest
        References in order, each coordinate once. Locations that the file has packed stay so; the
        columns share the file's decompressed body.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format`` or ``unsupported-spec-version``; the file is damaged or not a
        manifest.

    Notes
    -----
    Source: Icechunk specification, section "Manifest". References whose coordinates have another
    rank than most of their array's are dropped: a defect of the reference writes them (section
    "Behaviours of the reference not to imitate").
    """
    body = parse_file(data, FileType.MANIFEST, key=key).body
    table = root(body, key=key, name="Manifest")
    buffer = table.buffer
    arrays_part = table.vector(1, "arrays", 4)
    if arrays_part is not None and arrays_part.length > _MOST_ARRAYS:
        raise buffer.error("Manifest.arrays", f"{arrays_part.length} arrays in one manifest")
    dictionary = table.raw(2, "location_dictionary") or None
    if table.number(3, "compression_algorithm", _U8, default=_ZSTD) != _ZSTD:
        dictionary = None
    arrays: list[tuple[NodeId, ChunkTable]] = []
    total = 0
    for array in table.required_tables(1, "arrays", "ArrayManifest"):
        node_id = NodeId(array.required_struct(0, "node_id", NODE_ID_BYTES))
        refs_part = array.vector(1, "refs", 4)
        total += 0 if refs_part is None else refs_part.length
        if total * LEAST_REFERENCE_BYTES > buffer.size:
            raise buffer.error("ArrayManifest.refs", f"{total} references do not fit into the file")
        refs = array.required_column(1, "refs", "ChunkRef")
        chunks = parse_references(refs, packable=dictionary is not None)
        if bool(chunks.packed.any()):
            chunks = replace(chunks, dictionary=dictionary)
        arrays.append((node_id, chunks))
    manifest_id = ObjectId(table.required_struct(0, "id", OBJECT_ID_BYTES))
    return Manifest(id=manifest_id, arrays=tuple(arrays))


def _payloads(
    tables: Sequence[ChunkTable], options: LocationCompression | None
) -> tuple[bytes | None, list[Payload]]:
    """Decide how locations are stored; return the dictionary, and what each table stores."""
    virtual = sum(int((table.kind == ChunkKind.VIRTUAL).sum()) for table in tables)
    if options is None or virtual < max(1, options.min_num_chunks):
        return None, [_plain(table) for table in tables]
    dictionary = _common_dictionary(tables, virtual)
    if dictionary is None:
        tables = [table.unpacked() for table in tables]
        largest = max(tables, key=len)
        virtual_rows = largest.kind == ChunkKind.VIRTUAL
        dictionary = locations.train(largest.payload.take(virtual_rows), options)
    if dictionary is None:
        return None, [_plain(table) for table in tables]
    return dictionary, [_packed(table, dictionary, options.compression_level) for table in tables]


def _common_dictionary(tables: Sequence[ChunkTable], virtual: int) -> bytes | None:
    """Return the dictionary that at least half of all virtual rows are packed with already."""
    used: dict[bytes, int] = {}
    for table in tables:
        if table.dictionary:
            rows = int(table.packed.sum())
            used[table.dictionary] = used.get(table.dictionary, 0) + rows
    best = max(used, key=lambda dictionary: used[dictionary], default=None)
    return best if best is not None and 2 * used[best] >= virtual else None


def _plain(table: ChunkTable) -> Payload:
    table = table.unpacked()
    rows = np.flatnonzero(table.kind != ChunkKind.NATIVE)
    return Payload(
        np.zeros(len(table), np.bool_), table.payload.size, [(rows, table.payload.take(rows))]
    )


def _packed(table: ChunkTable, dictionary: bytes, level: int) -> Payload:
    """Keep the frames that are there, pack what is plain."""
    if table.dictionary != dictionary:
        table = table.unpacked()
    packed = table.packed.copy()
    size = table.payload.size.copy()
    parts: list[tuple[I64Array, Ragged]] = []

    def add(rows: I64Array, column: Ragged) -> None:
        size[rows] = column.size
        parts.append((rows, column))

    frames = np.flatnonzero(table.packed)
    too_long = frames[~locations.readable_by_all(table.payload.take(frames))]
    if len(too_long):
        add(too_long, locations.unpack(table.payload.take(too_long), dictionary))
        packed[too_long] = False
    kept = np.flatnonzero(packed | (table.kind == ChunkKind.INLINE))
    add(kept, table.payload.take(kept))
    plain = np.flatnonzero((table.kind == ChunkKind.VIRTUAL) & ~table.packed)
    if len(plain):
        column, packed[plain] = locations.pack(table.payload.take(plain), dictionary, level)
        add(plain, column)
    return Payload(packed, size, parts)
