"""FlatBuffers written front to back, in blobs that can be copied from one buffer to another.

Source: FlatBuffers binary format as used by the Icechunk specification, section "FlatBuffers
tables". A *blob* is one table with its vtable, strings, vectors and child tables in one run of
bytes; it starts and ends on a multiple of 8, and holds no offset that leads out of it. Blobs of an
old buffer go into a new one as they are: only the offsets that lead to them change.

A table is described by its fields, a mapping from slot to value. ``None`` is left out, and so are
numbers that equal their default, as every FlatBuffers builder does.
"""

from __future__ import annotations

import struct as _struct
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from icechunk.errors import FormatError, InternalError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from icechunk._typing import AnyArray, I64Array, U8Array

FILE_IDENTIFIER: Final = b"Ichk"
MAX_BYTES: Final = 2**31 - 1
"""Largest buffer that FlatBuffers offsets can address."""
BLOB_ALIGN: Final = 8

BytesLike: TypeAlias = bytes | bytearray | memoryview

_U32: Final = _struct.Struct("<I")
_I32: Final = _struct.Struct("<i")
_U8: Final = _struct.Struct("<B")
_U16: Final = _struct.Struct("<H")
_U64: Final = _struct.Struct("<Q")
_OFFSET_BYTES: Final = 4
_ZEROS: Final = bytes(64)


class Inline(NamedTuple):
    """A number or struct stored inside its table."""

    data: bytes
    align: int


class Vector(NamedTuple):
    """A string or a vector of numbers or structs, stored as its bytes."""

    data: BytesLike
    length: int
    align: int
    terminated: bool


class Tables(NamedTuple):
    """A vector of tables given by their fields."""

    items: Sequence[Fields]


class Strings(NamedTuple):
    """A vector of strings."""

    items: Sequence[bytes]


class Blobs(NamedTuple):
    """A vector of tables that are encoded already.

    Attributes
    ----------
    pieces : sequence of buffers
        One after the other they hold the blobs; each piece is a multiple of 8 bytes long and was
        cut at a multiple of 8.
    tables : ndarray of int64, shape (n,)
        Position of each table in the joined pieces, in the order of the vector; unit: bytes.
    """

    pieces: Sequence[BytesLike]
    tables: I64Array


class Blob(NamedTuple):
    """One encoded table; ``table`` is its position inside ``data``."""

    data: bytes
    table: int


Fields: TypeAlias = "Mapping[int, Value | None]"
Value: TypeAlias = "Inline | Vector | Tables | Strings | Blobs | Table"


class Table(NamedTuple):
    """A child table given by its fields."""

    fields: Fields


def u8(value: int, default: int = 0) -> Inline | None:
    """Return a byte field, None when it equals its default."""
    return _number(_U8, value, default, 1)


def u16(value: int, default: int = 0) -> Inline | None:
    """Return a 16-bit field, None when it equals its default."""
    return _number(_U16, value, default, 2)


def u32(value: int, default: int = 0) -> Inline | None:
    """Return an unsigned 32-bit field, None when it equals its default."""
    return _number(_U32, value, default, 4)


def i32(value: int, default: int = 0) -> Inline | None:
    """Return a signed 32-bit field, None when it equals its default."""
    return _number(_I32, value, default, 4)


def u64(value: int, default: int = 0) -> Inline | None:
    """Return an unsigned 64-bit field, None when it equals its default."""
    return _number(_U64, value, default, 8)


def _number(packer: _struct.Struct, value: int, default: int, align: int) -> Inline | None:
    if value == default:
        return None
    try:
        return Inline(packer.pack(value), align)
    except _struct.error as error:
        raise FormatError(
            f"the number {value} does not fit into the {8 * align} bits the format has for it"
        ) from error


def struct(data: bytes, align: int = 1) -> Inline:
    """Return a struct field, such as an id."""
    return Inline(data, align)


def string(text: str | bytes) -> Vector:
    """Return a string field; bytes are taken as UTF-8."""
    data = text.encode() if isinstance(text, str) else text
    return Vector(data, len(data), 1, terminated=True)


def byte_vector(data: bytes) -> Vector:
    """Return a ``[u8]`` field."""
    return Vector(data, len(data), 1, terminated=False)


def vector(data: BytesLike, count: int, align: int) -> Vector:
    """Return a vector of ``count`` numbers or structs that need the given alignment."""
    return Vector(data, count, align, terminated=False)


def uniform_tables(rows: AnyArray, vtable: Sequence[int]) -> Vector:
    """Return a vector of tables of one layout, made without a Python step for each.

    Parameters
    ----------
    rows : structured ndarray, shape (n,)
        The tables with all that belongs to each, a multiple of 8 bytes a row. The first four bytes
        are a field ``vtable``, which is set here.
    vtable : sequence of int
        Entries of the vtable: its size and that of the table in bytes, then where each slot is.

    Returns
    -------
    Vector
        Offsets, vtable and tables in one piece.
    """
    n = len(rows)
    vtable_at = 4 * n + 4 * n % BLOB_ALIGN
    vtable_bytes = 2 * len(vtable)
    first = vtable_at + vtable_bytes + -vtable_bytes % BLOB_ALIGN
    places = np.arange(n, dtype=np.int64)
    tables = first + places * rows.dtype.itemsize
    rows["vtable"] = tables - vtable_at
    out = bytearray(first)
    np.frombuffer(out, "<u4", n)[:] = tables - 4 * places
    out[vtable_at : vtable_at + vtable_bytes] = _struct.pack(f"<{len(vtable)}H", *vtable)
    out += rows.tobytes()
    return Vector(out, n, BLOB_ALIGN, terminated=False)


def encode_table(fields: Fields) -> Blob:
    """Encode one table and everything it refers to as a blob.

    Parameters
    ----------
    fields : mapping of int to value
        Slot to value; None is left out.

    Returns
    -------
    Blob
        Self-contained bytes, a multiple of 8 long, and the table's position in them. The vtable of
        this table is at position 0.
    """
    out = _Writer()
    table = out.write_table(fields)
    return Blob(b"".join(out.finish()), table)


def assemble_root(fields: Fields) -> bytes:
    """Encode a whole buffer.

    Parameters
    ----------
    fields : mapping of int to value
        Fields of the root table.

    Returns
    -------
    bytes
        Buffer with root offset and file identifier.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the buffer would be 2 GiB or more.
    """
    out = _Writer()
    out.data += bytes(_OFFSET_BYTES) + FILE_IDENTIFIER
    root = out.write_table(fields)
    _U32.pack_into(out.data, 0, root)
    return b"".join(out.finish())


@lru_cache(maxsize=1024)
def table_layout(
    fields: tuple[tuple[int, int, int], ...],
) -> tuple[bytes, int, int, dict[int, int]]:
    """Place fields in a table.

    Parameters
    ----------
    fields : tuple of (slot, size, align)
        Sizes and alignments in bytes.

    Returns
    -------
    tuple
        The vtable; size and alignment of the table, bytes; position of each slot in the table.
    """
    order = sorted(fields, key=lambda field: -field[2])
    align = max(_OFFSET_BYTES, order[0][2] if order else 0)
    if align > _OFFSET_BYTES:
        # The table begins with 4 bytes of its own: a small field fills the gap before the large.
        fill = next((field for field in order if field[1:] == (4, 4)), None)
        if fill is not None:
            order.remove(fill)
            order.insert(0, fill)
    places: dict[int, int] = {}
    size = _OFFSET_BYTES
    for slot, field_size, field_align in order:
        size += -size % field_align
        places[slot] = size
        size += field_size
    slots = max(places, default=-1) + 1
    entries = [4 + 2 * slots, size, *(places.get(slot, 0) for slot in range(slots))]
    return _struct.pack(f"<{len(entries)}H", *entries), size, align, places


class RowLayout(NamedTuple):
    """How tables of one shape lie one after the other as rows of a structured array.

    Attributes
    ----------
    vtable : bytes
        Their common vtable, padded to a multiple of 8 bytes.
    dtype : numpy.dtype
        A row: the field ``vtable`` is the distance back to the vtable, ``s0``, ``s1``, ... are the
        slots, others are what the caller asked for behind the table.
    """

    vtable: bytes
    dtype: np.dtype[np.void]


@lru_cache(maxsize=1024)
def row_layout(
    fields: tuple[tuple[int, int, int], ...], tail: tuple[tuple[str, str, int], ...] = ()
) -> RowLayout:
    """Place fields in rows.

    Parameters
    ----------
    fields : tuple of (slot, size, align)
        Fields of the table; sizes and alignments in bytes.
    tail : tuple of (name, format, count)
        Columns behind the table, 4-aligned: a numpy format and how many of it.

    Returns
    -------
    RowLayout
        A row is a multiple of its alignment long, so rows can follow each other.
    """
    vtable, size, align, places = table_layout(fields)
    names, formats, offsets = ["vtable"], ["<i4"], [0]
    for slot, width, _ in fields:
        names.append(f"s{slot}")
        formats.append(f"<u{width}" if width in (1, 2, 4, 8) else f"V{width}")
        offsets.append(places[slot])
    size += -size % _OFFSET_BYTES
    for name, form, count in tail:
        names.append(name)
        formats.append(f"({count},){form}")
        offsets.append(size)
        size += count * np.dtype(form).itemsize
    dtype = np.dtype(
        {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": size + -size % align,
        }
    )
    return RowLayout(vtable + bytes(-len(vtable) % BLOB_ALIGN), dtype)


def write_rows(out: U8Array, at: int, layout: RowLayout, count: int) -> tuple[AnyArray, I64Array]:
    """Write the vtable of ``count`` rows and make room for them behind it.

    Parameters
    ----------
    out : ndarray of uint8
        Zeroed buffer that becomes a piece of `Blobs`.
    at : int
        Where to begin, a multiple of 8; unit: bytes.
    layout : RowLayout
        Shape of the rows.
    count : int
        Number of rows.

    Returns
    -------
    rows : structured ndarray, shape (count,)
        View of the buffer, to be filled in.
    positions : ndarray of int64, shape (count,)
        Position of each table in ``out``; unit: bytes.
    """
    first = at + len(layout.vtable)
    stride = layout.dtype.itemsize
    out[at:first] = np.frombuffer(layout.vtable, np.uint8)
    rows = np.ndarray((count,), layout.dtype, out, first)
    positions = first + stride * np.arange(count, dtype=np.int64)
    rows["vtable"] = positions - at
    return rows, positions


def rows_bytes(layout: RowLayout, count: int) -> int:
    """Return the room `write_rows` needs, a multiple of 8; unit: bytes."""
    size = len(layout.vtable) + layout.dtype.itemsize * count
    return size + -size % BLOB_ALIGN


class _Writer:
    """One buffer under construction: small parts in ``data``, encoded blobs appended at the end."""

    __slots__ = ("data", "deferred", "vtables")

    def __init__(self) -> None:
        self.data = bytearray()
        self.vtables: dict[bytes, int] = {}
        self.deferred: list[tuple[int, Blobs]] = []

    def pad(self, align: int, ahead: int = 0) -> int:
        """Pad so that the byte ``ahead`` of the next one is aligned; return the next position."""
        data = self.data
        gap = -(len(data) + ahead) % align
        if gap:
            data += _ZEROS[:gap]
        return len(data)

    def write_table(self, fields: Fields) -> int:
        signature = tuple(
            (slot, len(value.data), value.align) if type(value) is Inline else (slot, 4, 4)
            for slot, value in fields.items()
            if value is not None
        )
        vtable, size, align, places = table_layout(signature)
        data = self.data
        vtable_at = self.vtables.get(vtable)
        if vtable_at is None:
            vtable_at = self.vtables[vtable] = self.pad(2)
            data += vtable
        table = self.pad(align)
        data += _I32.pack(table - vtable_at)
        data += bytes(size - _OFFSET_BYTES)
        references: list[tuple[int, Value]] = []
        for slot, value in fields.items():
            if value is None:
                continue
            at = table + places[slot]
            if type(value) is Inline:
                data[at : at + len(value.data)] = value.data
            else:
                references.append((at, value))
        for at, value in references:
            self._write_reference(at, value)
        return table

    def _write_reference(self, at: int, value: Value) -> None:
        """Write what the offset at ``at`` leads to, and that offset."""
        if type(value) is Blobs:
            self.deferred.append((at, value))
            return
        if type(value) is Vector:
            target = self._write_vector(value)
        elif type(value) is Table:
            target = self.write_table(value.fields)
        elif type(value) is Tables:
            target = self.write_offsets(len(value.items))
            for row, item in enumerate(value.items):
                place = target + _OFFSET_BYTES * (row + 1)
                child = self.write_table(item)
                _U32.pack_into(self.data, place, child - place)
        elif type(value) is Strings:
            target = self.write_offsets(len(value.items))
            for row, text in enumerate(value.items):
                self._write_reference(target + _OFFSET_BYTES * (row + 1), string(text))
        else:
            raise InternalError(f"no such kind of FlatBuffers value: {type(value).__name__}")
        _U32.pack_into(self.data, at, target - at)

    def _write_vector(self, value: Vector) -> int:
        # The length is 4-aligned and the elements behind it have their own alignment.
        target = self.pad(max(value.align, _OFFSET_BYTES), _OFFSET_BYTES)
        self.data += _U32.pack(value.length)
        self.data += value.data
        if value.terminated:
            self.data += b"\0"
        return target

    def write_offsets(self, count: int) -> int:
        """Write the length of a vector of offsets and room for them; return its position."""
        target = self.pad(_OFFSET_BYTES)
        self.data += _U32.pack(count)
        self.data += bytes(_OFFSET_BYTES * count)
        return target

    def finish(self) -> list[BytesLike]:
        """Return the buffer in pieces, deferred blobs behind the rest."""
        total = self.pad(BLOB_ALIGN)
        pieces: list[BytesLike] = [self.data]
        for at, value in self.deferred:
            vector_at = total
            offsets_at = vector_at + _OFFSET_BYTES
            base = offsets_at + _OFFSET_BYTES * len(value.tables)
            gap = -base % BLOB_ALIGN
            base += gap
            total = base
            for piece in value.pieces:
                size = memoryview(piece).nbytes
                if size % BLOB_ALIGN:
                    raise InternalError("a piece of FlatBuffers blobs is no multiple of 8 bytes")
                total += size
            _check_size(total)
            places = np.arange(offsets_at, base - gap, _OFFSET_BYTES, dtype=np.int64)
            offsets = (value.tables + base - places).astype("<u4")
            pieces += [_U32.pack(len(value.tables)), offsets.data, bytes(gap), *value.pieces]
            _U32.pack_into(self.data, at, vector_at - at)
        _check_size(total)
        return pieces


def _check_size(total: int) -> None:
    if total > MAX_BYTES:
        raise FormatError(
            f"metadata of {total} bytes does not fit into one file, which ends at {MAX_BYTES} "
            "bytes before compression. Split it: manifests by ManifestSplittingConfig, large "
            "commits into several."
        )
