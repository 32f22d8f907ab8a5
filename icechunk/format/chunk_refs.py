"""The FlatBuffers table ChunkRef in bulk: columns to rows of tables, and back.

Source: Icechunk specification, section "Manifest". References that use the same fields are written
as rows of one structured array with one vtable; the strings of all of them follow. Reading takes
any layout.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from icechunk.errors import FormatError, InternalError
from icechunk.format.bulk import copy_strings
from icechunk.format.chunk_table import ChunkKind, ChunkTable
from icechunk.format.coordinates import read_coordinates
from icechunk.format.fb import writer
from icechunk.format.header import MAX_BODY_BYTES
from icechunk.format.ragged import Ragged
from icechunk.ids import OBJECT_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, BoolArray, I64Array, U8Array
    from icechunk.format.fb.reader import TableVector

LEAST_REFERENCE_BYTES: Final = 16
"""Room an honest reference takes: its offset, the table, and two fields; unit: bytes."""

_INDEX: Final = 0
_INLINE: Final = 1
_OFFSET: Final = 2
_LENGTH: Final = 3
_CHUNK_ID: Final = 4
_LOCATION: Final = 5
_ETAG: Final = 6
_LAST_MODIFIED: Final = 7
_PACKED: Final = 8
_SLOTS: Final = 9

# Size and alignment of each slot.
_LAYOUTS: Final = {
    _INDEX: (4, 4),
    _INLINE: (4, 4),
    _OFFSET: (8, 8),
    _LENGTH: (8, 8),
    _CHUNK_ID: (OBJECT_ID_BYTES, 1),
    _LOCATION: (4, 4),
    _ETAG: (4, 4),
    _LAST_MODIFIED: (4, 4),
    _PACKED: (4, 4),
}
_PAYLOADS: Final = 1 << _INLINE | 1 << _LOCATION | 1 << _PACKED


class Payload(NamedTuple):
    """Inline bytes and locations of one table as they go into the file.

    Attributes
    ----------
    packed : ndarray of bool, shape (n,)
        Rows whose location is a frame.
    size : ndarray of int64, shape (n,)
        Length of the bytes, location or frame of each row; unit: bytes.
    parts : sequence of (rows, Ragged)
        Columns with the rows they belong to; every row with a payload is in one of them.
    """

    packed: BoolArray
    size: I64Array
    parts: Sequence[tuple[I64Array, Ragged]]


# -- writing --------------------------------------------------------------------------------------


def encode_references(table: ChunkTable, payload: Payload, what: str) -> writer.Blobs:
    """Encode the references of one array.

    Parameters
    ----------
    table : ChunkTable
        References; its payload is not used.
    payload : Payload
        What to store instead.
    what : str
        Key of the file, for messages.

    Returns
    -------
    Blobs
        One ChunkRef per row.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; they do not fit into one file.
    InternalError
        The table has deletions.
    """
    n = len(table)
    slots = _slots_of(table, payload.packed)
    shapes = np.flatnonzero(np.bincount(slots)).tolist()
    # Rows of each shape; a slice when there is one shape, so that nothing is copied.
    groups: list[I64Array | slice] = (
        [slice(0, n)] if len(shapes) == 1 else [np.flatnonzero(slots == s) for s in shapes]
    )
    layouts = [_layout(shape, table.ndim) for shape in shapes]
    sizes = np.bincount(slots)[shapes].tolist() if shapes else []
    rows_stop = sum(
        writer.rows_bytes(layout, count) for layout, count in zip(layouts, sizes, strict=True)
    )
    terminated = (slots & 1 << _LOCATION) != 0
    payload_at, stop = _places(rows_stop, payload.size, (slots & _PAYLOADS) != 0, terminated)
    etag = Ragged.empty() if table.etag is None else table.etag
    etag_at = payload_at
    if table.etag is not None:
        etag_at, stop = _places(stop, etag.size, (slots & 1 << _ETAG) != 0, slots != 0)
    _check_room(n, stop, what)
    out = np.zeros(stop + -stop % writer.BLOB_ALIGN, np.uint8)
    positions = np.empty(n, np.int64)
    at = 0
    for shape, layout, rows, count in zip(shapes, layouts, groups, sizes, strict=True):
        records, places = writer.write_rows(out, at, layout, count)
        positions[rows] = places
        _fill(records, shape, table, rows)
        for slot in range(_SLOTS):
            if shape & (_PAYLOADS | 1 << _ETAG) & 1 << slot:
                strings = etag_at if slot == _ETAG else payload_at
                records[f"s{slot}"] = strings[rows] - places - _offset_of(layout, f"s{slot}")
        at += writer.rows_bytes(layout, count)
    for part_rows, column in payload.parts:
        _write_strings(out, payload_at[part_rows], column)
    if table.etag is not None:
        with_etag = np.flatnonzero(slots & 1 << _ETAG)
        _write_strings(out, etag_at[with_etag], etag.take(with_etag))
    return writer.Blobs([out.data], positions)


def _slots_of(table: ChunkTable, packed: BoolArray) -> I64Array:
    """Return the set of slots each row uses, as bits."""
    by_kind = np.zeros(256, np.int64)
    by_kind[ChunkKind.INLINE] = 1 << _INDEX | 1 << _INLINE
    by_kind[ChunkKind.NATIVE] = 1 << _INDEX | 1 << _LENGTH | 1 << _CHUNK_ID
    by_kind[ChunkKind.VIRTUAL] = 1 << _INDEX | 1 << _LENGTH | 1 << _LOCATION
    slots: I64Array = by_kind[table.kind]
    if len(slots) and int(slots.min()) == 0:
        raise InternalError("a manifest cannot hold deletions: drop them before encoding")
    slots[packed] ^= 1 << _LOCATION | 1 << _PACKED
    ranged = slots & 1 << _LENGTH != 0
    slots[ranged & (table.offset != 0)] |= 1 << _OFFSET
    virtual = table.kind == ChunkKind.VIRTUAL
    slots[virtual & (table.last_modified != 0)] |= 1 << _LAST_MODIFIED
    if table.etag is not None:
        slots[virtual & (table.etag.size != 0)] |= 1 << _ETAG
    return slots


def _layout(shape: int, ndim: int) -> writer.RowLayout:
    fields = tuple((slot, *_LAYOUTS[slot]) for slot in range(_SLOTS) if shape >> slot & 1)
    return writer.row_layout(fields, (("rank", "<u4", 1), ("coords", "<u4", ndim)))


def _offset_of(layout: writer.RowLayout, name: str) -> int:
    fields = layout.dtype.fields
    assert fields is not None
    return fields[name][1]


def _places(
    at: int, size: I64Array, wanted: BoolArray, terminated: BoolArray
) -> tuple[I64Array, int]:
    """Place 4-aligned strings one after the other; return where, and where they end."""
    if not bool(wanted.any()):
        return np.full(len(size), at, np.int64), at
    room = np.where(wanted, (4 + size + terminated + 3) & ~3, 0)
    stop = at + np.cumsum(room)
    return stop - room, int(stop[-1]) if len(stop) else at


def _check_room(n: int, stop: int, what: str) -> None:
    needed = stop + 4 * n
    if needed > MAX_BODY_BYTES:
        raise FormatError(
            f"{what}: {n} chunk references need {needed} bytes, but a manifest ends at "
            f"{MAX_BODY_BYTES}. Split the array's manifests: configure ManifestSplittingConfig "
            "with fewer chunks per manifest."
        )


def _fill(records: AnyArray, shape: int, table: ChunkTable, rows: I64Array | slice) -> None:
    """Set the columns that are numbers, ids and coordinates."""
    fields = records.dtype.fields
    assert fields is not None
    records["s0"] = fields["rank"][1] - fields["s0"][1]
    records["rank"] = table.ndim
    records["coords"] = table.coords[rows]
    if shape & 1 << _OFFSET:
        records[f"s{_OFFSET}"] = table.offset[rows]
    if shape & 1 << _LENGTH:
        records[f"s{_LENGTH}"] = table.length[rows]
    if shape & 1 << _LAST_MODIFIED:
        records[f"s{_LAST_MODIFIED}"] = table.last_modified[rows]
    if shape & 1 << _CHUNK_ID:
        ids = np.ascontiguousarray(table.chunk_id[rows])
        records[f"s{_CHUNK_ID}"] = ids.view(f"V{OBJECT_ID_BYTES}")[:, 0]


def _write_strings(out: U8Array, places: I64Array, column: Ragged) -> None:
    """Write length and bytes of each string; padding and terminators are there already."""
    if not len(places):
        return
    words = out[: len(out) & ~3].view("<u4")
    words[places >> 2] = column.size
    copy_strings(out, places + 4, column.data, column.start, column.size)


# -- reading --------------------------------------------------------------------------------------


def parse_references(refs: TableVector, *, packable: bool) -> ChunkTable:
    """Read the references of one array.

    Parameters
    ----------
    refs : TableVector
        ChunkRef tables.
    packable : bool
        Whether the file has the dictionary that packed locations need.

    Returns
    -------
    ChunkTable
        References in order, each coordinate once, without dictionary. Coordinates of a rank other
        than most of the array's are dropped: a defect of the reference writes them, no key leads
        to them.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; a reference of no kind, a packed location without dictionary,
        a damaged table.
    """
    index = refs.vector(_INDEX, "index", 4)
    kind, packed = _kinds(refs)
    if not packable and bool(packed.any()):
        raise refs.error("compressed_location", "packed locations without a dictionary")
    payload = _payload(refs, kind, packed)
    ranged = kind != ChunkKind.INLINE
    length = refs.scalar(_LENGTH, "length", "<u8")
    offset = refs.scalar(_OFFSET, "offset", "<u8")
    if not bool(ranged.all()):
        length = np.where(ranged, length, payload.size.astype(np.uint64))
        offset = np.where(ranged, offset, np.uint64(0))
    virtual = kind == ChunkKind.VIRTUAL
    last_modified = refs.scalar(_LAST_MODIFIED, "checksum_last_modified", "<u4")
    coords, rows = read_coordinates(refs.buffer, index.starts, index.counts)
    table = ChunkTable(
        coords=coords,
        kind=kind,
        chunk_id=refs.struct(_CHUNK_ID, "chunk_id", OBJECT_ID_BYTES, required=False),
        offset=offset.astype(np.uint64, copy=False),
        length=length.astype(np.uint64, copy=False),
        payload=payload,
        packed=packed,
        dictionary=None,
        etag=_etags(refs, virtual),
        last_modified=(last_modified * virtual).astype(np.uint32, copy=False),
    )
    if rows is None:
        return table
    in_file_order = replace(table, coords=np.empty((len(kind), 0), np.uint32))
    return replace(in_file_order.take(rows), coords=coords)


def _kinds(refs: TableVector) -> tuple[U8Array, BoolArray]:
    """Return the kind of each reference, and which locations are packed."""
    native = refs.present(_CHUNK_ID)
    packed = refs.present(_PACKED) & ~native
    virtual = packed | (refs.present(_LOCATION) & ~native)
    inline = refs.present(_INLINE) & ~native & ~virtual
    if not bool((native | virtual | inline).all()):
        raise refs.error("chunk_id", "a reference is neither native, virtual nor inline")
    kind = (native * ChunkKind.NATIVE + virtual * ChunkKind.VIRTUAL + inline).astype(np.uint8)
    return kind, packed


def _payload(refs: TableVector, kind: U8Array, packed: BoolArray) -> Ragged:
    """Return inline bytes, locations and frames, sharing the file's buffer."""
    if not len(kind) or int(kind.min()) == ChunkKind.NATIVE == int(kind.max()):
        return Ragged.empty(len(kind))
    frames = refs.bytes(_PACKED, "compressed_location", required=False)
    if bool(packed.all()):
        return frames
    inline = refs.bytes(_INLINE, "inline", required=False)
    plain = refs.string(_LOCATION, "location", required=False)
    choices = (
        (kind == ChunkKind.INLINE, inline),
        ((kind == ChunkKind.VIRTUAL) & ~packed, plain),
        (packed, frames),
    )
    start, size = np.zeros(len(kind), np.int64), np.zeros(len(kind), np.int64)
    for chosen, column in choices:
        start[chosen], size[chosen] = column.start[chosen], column.size[chosen]
    return Ragged(refs.buffer.data, start, size)


def _etags(refs: TableVector, virtual: BoolArray) -> Ragged | None:
    if not bool(refs.present(_ETAG).any()):
        return None
    etag = refs.string(_ETAG, "checksum_etag", required=False)
    return Ragged(etag.data, etag.start * virtual, etag.size * virtual)
