"""FlatBuffers read one table at a time.

Source: FlatBuffers binary format as used by the Icechunk specification, section "FlatBuffers
tables". The counterpart of `icechunk.format.fb.reader` for a single table: a few microseconds a
field, where a column costs more for one row and far less for thousands. The same rules hold:
every position is compared with the buffer before it is used, alignment is not required, unknown
slots are ignored, and what is wrong raises `FormatError` naming file and field.
"""

from __future__ import annotations

import struct as _struct
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import numpy as np

from icechunk.format.fb.reader import MAX_BYTES, Buffer, TableVector

if TYPE_CHECKING:
    from icechunk.errors import FormatError

_T = TypeVar("_T")
_OFFSET_BYTES: Final = 4
_HEAD_BYTES: Final = 8
_VTABLE_HEAD_BYTES: Final = 4
_U16: Final = _struct.Struct("<H")
_U32: Final = _struct.Struct("<I")
_I32: Final = _struct.Struct("<i")


class Part(NamedTuple):
    """Where a vector is.

    Attributes
    ----------
    first : int
        Position of the first element; unit: bytes.
    length : int
        Number of elements.
    """

    first: int
    length: int


def root(data: bytes, *, key: str, name: str) -> Table:
    """Open the root table of a buffer.

    Parameters
    ----------
    data : bytes
        Decompressed body of a file.
    key : str
        Key of the file, for messages.
    name : str
        Name of the root table, for messages.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; too short, too long, or no table where the root should be.
    """
    buffer = Buffer(data, key)
    if not _HEAD_BYTES <= buffer.size <= MAX_BYTES:
        raise buffer.error(name, f"a body of {buffer.size} bytes is no FlatBuffers buffer")
    return Table(buffer, int.from_bytes(data[:_OFFSET_BYTES], "little"), name)


class Table:
    """One FlatBuffers table.

    Parameters
    ----------
    buffer : Buffer
        Body it is in.
    position : int
        Where it begins; checked here.
    name : str
        Name of the kind of table, for messages.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the table or its vtable is not inside the buffer.
    """

    __slots__ = ("_size", "_slots", "_vtable", "buffer", "name", "position")

    def __init__(self, buffer: Buffer, position: int, name: str) -> None:
        self.buffer = buffer
        self.position = position
        self.name = name
        self._check(position, _OFFSET_BYTES, "table")
        vtable = position - _I32.unpack_from(buffer.data, position)[0]
        self._check(vtable, _VTABLE_HEAD_BYTES, "vtable")
        vtable_size = _U16.unpack_from(buffer.data, vtable)[0]
        if vtable_size < _VTABLE_HEAD_BYTES:
            raise buffer.error(name, "vtable is shorter than its own head")
        self._size = _U16.unpack_from(buffer.data, vtable + 2)[0]
        self._check(vtable, vtable_size, "vtable")
        self._check(position, self._size, "table")
        self._vtable = vtable
        self._slots = (vtable_size - _VTABLE_HEAD_BYTES) // 2

    def number(self, slot: int, field: str, code: _struct.Struct, default: int = 0) -> int:
        """Return a number, given its struct format; the default where absent."""
        place = self._place(slot, field, code.size)
        return code.unpack_from(self.buffer.data, place)[0] if place else default

    def struct(self, slot: int, field: str, size: int) -> bytes | None:
        """Return a struct as raw bytes, None where absent."""
        place = self._place(slot, field, size)
        return self.buffer.data[place : place + size] if place else None

    def required_struct(self, slot: int, field: str, size: int) -> bytes:
        """Return a struct as raw bytes; FormatError where absent."""
        return self._required(self.struct(slot, field, size), field)

    def vector(self, slot: int, field: str, item_bytes: int) -> Part | None:
        """Return where a vector is, None where absent."""
        place = self._place(slot, field, _OFFSET_BYTES)
        if not place:
            return None
        target = place + _U32.unpack_from(self.buffer.data, place)[0]
        self._check(target, _OFFSET_BYTES, field)
        count = _U32.unpack_from(self.buffer.data, target)[0]
        start = target + _OFFSET_BYTES
        self._check(start, count * item_bytes, field)
        return Part(start, count)

    def raw(self, slot: int, field: str) -> bytes | None:
        """Return a ``[u8]`` or the bytes of a string, None where absent."""
        part = self.vector(slot, field, 1)
        return None if part is None else self.buffer.data[part.first : part.first + part.length]

    def required_raw(self, slot: int, field: str) -> bytes:
        """Return a ``[u8]`` or the bytes of a string; FormatError where absent."""
        return self._required(self.raw(slot, field), field)

    def text(self, slot: int, field: str) -> str | None:
        """Return a string, None where absent."""
        data = self.raw(slot, field)
        return None if data is None else self._text(data, field)

    def required_text(self, slot: int, field: str) -> str:
        """Return a string; FormatError where absent."""
        return self._required(self.text(slot, field), field)

    def required_texts(self, slot: int, field: str) -> list[str]:
        """Return a vector of strings; FormatError where absent."""
        part = self._required(self.vector(slot, field, _OFFSET_BYTES), field)
        data = self.buffer.data
        texts = []
        total = 0
        for place in range(part.first, part.first + part.length * _OFFSET_BYTES, _OFFSET_BYTES):
            target = place + _U32.unpack_from(data, place)[0]
            self._check(target, _OFFSET_BYTES, field)
            size = _U32.unpack_from(data, target)[0]
            start = target + _OFFSET_BYTES
            self._check(start, size, field)
            total += size
            if total > self.buffer.size:
                raise self._error(field, "parts of the file are used too often")
            texts.append(self._text(data[start : start + size], field))
        return texts

    def table(self, slot: int, field: str, name: str) -> Table:
        """Return a required child table."""
        place = self._required(self._place(slot, field, _OFFSET_BYTES) or None, field)
        return Table(self.buffer, place + _U32.unpack_from(self.buffer.data, place)[0], name)

    def tables(self, slot: int, field: str, name: str) -> list[Table] | None:
        """Return a vector of child tables, None where absent."""
        part = self.vector(slot, field, _OFFSET_BYTES)
        if part is None:
            return None
        offsets = _struct.unpack_from(f"<{part.length}I", self.buffer.data, part.first)
        return [
            Table(self.buffer, part.first + _OFFSET_BYTES * row + offset, name)
            for row, offset in enumerate(offsets)
        ]

    def required_tables(self, slot: int, field: str, name: str) -> list[Table]:
        """Return a vector of child tables; FormatError where absent."""
        return self._required(self.tables(slot, field, name), field)

    def column(self, slot: int, field: str, name: str) -> TableVector | None:
        """Return a vector of child tables as a column, None where absent."""
        part = self.vector(slot, field, _OFFSET_BYTES)
        if part is None:
            return None
        offsets = np.frombuffer(self.buffer.data, "<u4", part.length, part.first)
        places = np.arange(part.length, dtype=np.int64) * _OFFSET_BYTES + part.first
        return TableVector(self.buffer, places + offsets, name)

    def required_column(self, slot: int, field: str, name: str) -> TableVector:
        """Return a vector of child tables as a column; FormatError where absent."""
        return self._required(self.column(slot, field, name), field)

    def _required(self, value: _T | None, field: str) -> _T:
        if value is None:
            raise self._error(field, "required field is absent")
        return value

    def _text(self, data: bytes, field: str) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            raise self._error(field, f"text is not UTF-8: {error}") from error

    def _place(self, slot: int, field: str, size: int) -> int:
        """Return the position of a field, 0 where it is absent."""
        if slot >= self._slots:
            return 0
        at = self._vtable + _VTABLE_HEAD_BYTES + 2 * slot
        entry: int = _U16.unpack_from(self.buffer.data, at)[0]
        if entry + size > self._size and entry:
            raise self._error(field, "is not inside its table")
        return self.position + entry if entry else 0

    def _check(self, start: int, size: int, field: str) -> None:
        if start < 0 or start + size > self.buffer.size:
            raise self._error(field, "leads outside the file")

    def _error(self, field: str, problem: str) -> FormatError:
        return self.buffer.error(f"{self.name}.{field}", problem)
