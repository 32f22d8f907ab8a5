"""FlexBuffers: the schemaless values of metadata and of the stored configuration.

Source: Icechunk specification, section "Dynamic values", and the public FlexBuffers binary layout.
A value is written bottom-up: children first, then the vector or map that points back to them, and
the root last. Every offset counts backwards, so a reader starts at the last byte.

What `encode` writes is, byte for byte, what the reference writes for the same value. `decode`
accepts every type of the format and nothing outside the buffer: any bytes give a value or a
`FormatError`, in time and memory proportional to their number.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from icechunk.errors import ErrorKind, FormatError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_DEPTH: Final = 256
"""Levels of nested lists and maps that are read and written."""


class FlexType(IntEnum):
    """Type number of a value: the upper six bits of its type byte."""

    NULL = 0
    INT = 1
    UINT = 2
    FLOAT = 3
    KEY = 4
    STRING = 5
    INDIRECT_INT = 6
    INDIRECT_UINT = 7
    INDIRECT_FLOAT = 8
    MAP = 9
    VECTOR = 10
    VECTOR_INT = 11
    VECTOR_UINT = 12
    VECTOR_FLOAT = 13
    VECTOR_KEY = 14
    VECTOR_STRING = 15  # deprecated: its elements are read as keys
    VECTOR_INT2 = 16
    VECTOR_UINT2 = 17
    VECTOR_FLOAT2 = 18
    VECTOR_INT3 = 19
    VECTOR_UINT3 = 20
    VECTOR_FLOAT3 = 21
    VECTOR_INT4 = 22
    VECTOR_UINT4 = 23
    VECTOR_FLOAT4 = 24
    BLOB = 25
    BOOL = 26
    VECTOR_BOOL = 36


# struct codes by type of number and width in bytes. Half precision is rare, but legal.
_CODES: Final = {
    FlexType.INT: {1: "b", 2: "h", 4: "i", 8: "q"},
    FlexType.UINT: {1: "B", 2: "H", 4: "I", 8: "Q"},
    FlexType.FLOAT: {2: "e", 4: "f", 8: "d"},
    FlexType.BOOL: {1: "B", 2: "H", 4: "I", 8: "Q"},
}
_NUMBERS: Final = (FlexType.INT, FlexType.UINT, FlexType.FLOAT)
_INDIRECT: Final = {
    FlexType.INDIRECT_INT: FlexType.INT,
    FlexType.INDIRECT_UINT: FlexType.UINT,
    FlexType.INDIRECT_FLOAT: FlexType.FLOAT,
}
_TYPED: Final = {
    FlexType.VECTOR_INT: FlexType.INT,
    FlexType.VECTOR_UINT: FlexType.UINT,
    FlexType.VECTOR_FLOAT: FlexType.FLOAT,
    FlexType.VECTOR_BOOL: FlexType.BOOL,
}
_FIXED: Final = {
    FlexType(FlexType.VECTOR_INT2 + 3 * (n - 2) + i): (number, n)
    for n in (2, 3, 4)
    for i, number in enumerate(_NUMBERS)
}
_FIXED_TYPE: Final = {number_n: flex_type for flex_type, number_n in _FIXED.items()}
_TYPED_TYPE: Final = {number: flex_type for flex_type, number in _TYPED.items()}
_U64_MAX: Final = 2**64 - 1
_I64_MIN: Final = -(2**63)


def _width_log2(value: int) -> int:
    """Return log2 of the bytes that hold a value: 0 to 3."""
    bits = value.bit_length() if value >= 0 else (~value).bit_length() + 1
    return 0 if bits <= 8 else 1 if bits <= 16 else 2 if bits <= 32 else 3


# --------------------------------------------------------------------------------------------------
# Writing


class _Slot(NamedTuple):
    """One written value, as the vector or map that holds it sees it."""

    type: FlexType
    log2: int
    """Inline: log2 of the bytes the number needs. Else: of the width of the thing pointed at."""
    payload: int | float
    """Inline: the number. Else: the position of the thing pointed at."""

    @property
    def inline(self) -> bool:
        return self.type in _CODES or self.type is FlexType.NULL

    def log2_at(self, start: int, index: int) -> int:
        """Return log2 of the slot width this value needs as element `index` of a vector there."""
        if self.inline:
            return self.log2
        for log2 in range(3):
            width = 1 << log2
            position = start + -start % width + index * width
            if position - self.payload < 1 << 8 * width:
                return log2
        return 3

    def type_byte(self, slot_log2: int) -> int:
        return self.type << 2 | (max(self.log2, slot_log2) if self.inline else self.log2)


_NULL: Final = _Slot(FlexType.NULL, 0, 0)


def encode(value: Any) -> bytes:
    """Return the FlexBuffers form of one value.

    Parameters
    ----------
    value : None, bool, int, float, str, bytes, list, tuple or mapping
        Nested at most `MAX_DEPTH` deep; mapping keys are strings. Tuples are written as lists,
        integers beyond 64 bits as floats, NaN and infinities as null (as the reference does).

    Returns
    -------
    bytes
        The same bytes for equal values: map keys are sorted.

    Raises
    ------
    TypeError
        A value or key of another type.
    InvalidInputError
        Kind ``bad-metadata``: nested too deep, a key with a NUL, or text that is no Unicode.

    Notes
    -----
    Source: Icechunk specification, section "Dynamic values".
    """
    writer = _Writer()
    try:
        writer.root(writer.value(value, 0))
    except RecursionError:
        raise _too_deep() from None
    except UnicodeEncodeError as err:
        raise InvalidInputError(
            f"metadata text cannot be written as UTF-8: {err.object!r}", ErrorKind.BAD_METADATA
        ) from err
    return bytes(writer.out)


def _too_deep() -> InvalidInputError:
    return InvalidInputError(
        f"metadata nested more than {MAX_DEPTH} levels deep: flatten it", ErrorKind.BAD_METADATA
    )


class _Writer:
    """A FlexBuffers under construction."""

    def __init__(self) -> None:
        self.out = bytearray()
        self._keys: dict[bytes, int] = {}  # equal keys are stored once

    def root(self, slot: _Slot) -> None:
        log2 = slot.log2_at(len(self.out), 0)
        self._align(log2)
        self._put(slot, log2)
        self.out += bytes((slot.type_byte(log2), 1 << log2))

    def value(self, value: Any, depth: int) -> _Slot:
        """Write one value, children first; return what goes into its slot."""
        if not isinstance(value, (list, tuple, Mapping)):
            return self._leaf(value)
        if depth >= MAX_DEPTH:
            raise _too_deep()
        if isinstance(value, Mapping):
            return self._map(value, depth)
        return self._list([self.value(item, depth + 1) for item in value])

    def _leaf(self, value: Any) -> _Slot:
        if value is None:
            return _NULL
        if isinstance(value, int):
            return _Slot(FlexType.BOOL, 0, value) if isinstance(value, bool) else _integer(value)
        if isinstance(value, float):
            return _float(value)
        if isinstance(value, str):
            return self._blob(FlexType.STRING, value.encode("utf-8"))
        if isinstance(value, bytes):
            return self._blob(FlexType.BLOB, value)
        raise TypeError(
            f"metadata cannot hold a {type(value).__name__}: use None, bool, int, float, str, "
            "lists, and dicts with string keys"
        )

    def _align(self, log2: int) -> None:
        self.out += bytes(-len(self.out) % (1 << log2))

    def _put(self, slot: _Slot, log2: int) -> None:
        width = 1 << log2
        if slot.type is FlexType.FLOAT:
            # A float whose width is 4 may lie in a slot of 8 bytes, but not the other way round.
            self.out += struct.pack("<" + _CODES[FlexType.FLOAT][width], slot.payload)
        elif slot.inline:
            self.out += int(slot.payload).to_bytes(width, "little", signed=slot.payload < 0)
        else:
            self.out += (len(self.out) - int(slot.payload)).to_bytes(width, "little")

    def _blob(self, flex_type: FlexType, data: bytes) -> _Slot:
        log2 = _width_log2(len(data))
        self._align(log2)
        self.out += len(data).to_bytes(1 << log2, "little")
        address = len(self.out)
        self.out += data
        if flex_type is FlexType.STRING:
            self.out.append(0)
        return _Slot(flex_type, log2, address)

    def _key(self, key: Any) -> _Slot:
        if not isinstance(key, str):
            raise TypeError(f"metadata keys must be strings, not {type(key).__name__}")
        data = key.encode("utf-8")
        if b"\0" in data:
            raise InvalidInputError(
                f"a metadata key cannot hold a NUL character: {key!r}", ErrorKind.BAD_METADATA
            )
        address = self._keys.get(data)
        if address is None:
            address = self._keys[data] = len(self.out)
            self.out += data + b"\0"
        return _Slot(FlexType.KEY, 0, address)

    def _list(self, slots: list[_Slot]) -> _Slot:
        types = {slot.type for slot in slots}
        if len(types) == 1:
            (only,) = types
            if (only, len(slots)) in _FIXED_TYPE:
                return self._vector(_FIXED_TYPE[only, len(slots)], slots)
            if only in _TYPED_TYPE:
                return self._vector(_TYPED_TYPE[only], slots, (_integer(len(slots)),))
        return self._vector(FlexType.VECTOR, slots, (_integer(len(slots)),))

    def _map(self, items: Mapping[Any, Any], depth: int) -> _Slot:
        keys: list[_Slot] = []
        values: list[_Slot] = []
        # Code points sort as their UTF-8 bytes do.
        for key in sorted(items, key=lambda k: k if isinstance(k, str) else ""):
            keys.append(self._key(key))
            values.append(self.value(items[key], depth + 1))
        size = _integer(len(keys))
        index = self._vector(FlexType.VECTOR_KEY, keys, (size,))
        prefix = (index, _integer(1 << index.log2), size)
        return self._vector(FlexType.MAP, values, prefix)

    def _vector(
        self, flex_type: FlexType, slots: Sequence[_Slot], prefix: tuple[_Slot, ...] = ()
    ) -> _Slot:
        """Write the prefix (key index and its width, size), the elements, then their types."""
        start = len(self.out)
        row = (*prefix, *slots)
        log2 = max(slot.log2_at(start, i) for i, slot in enumerate(row))
        self._align(log2)
        for slot in prefix:
            self._put(slot, log2)
        address = len(self.out)
        for slot in slots:
            self._put(slot, log2)
        if flex_type in (FlexType.VECTOR, FlexType.MAP):
            self.out += bytes(slot.type_byte(log2) for slot in slots)
        return _Slot(flex_type, log2, address)


def _integer(value: int) -> _Slot:
    if value < _I64_MIN or value > _U64_MAX:
        try:
            return _float(float(value))
        except OverflowError:
            return _NULL
    if value < 0:
        return _Slot(FlexType.INT, _width_log2(value), value)
    return _Slot(FlexType.UINT, _width_log2(value), value)


def _float(value: float) -> _Slot:
    if not math.isfinite(value):
        return _NULL
    try:
        (single,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return _Slot(FlexType.FLOAT, 3, value)
    return _Slot(FlexType.FLOAT, 2 if single == value else 3, value)


# --------------------------------------------------------------------------------------------------
# Reading


def decode(data: bytes) -> Any:
    """Return the value of a FlexBuffer.

    Parameters
    ----------
    data : bytes
        The whole buffer; need not come from a trusted place.

    Returns
    -------
    None, bool, int, float, str, bytes, list or dict
        Keys read as strings, blobs as bytes, vectors of every kind as lists, maps as dicts in the
        order of the buffer.

    Raises
    ------
    FormatError
        Kind ``deserialization``: an offset out of the buffer, an unknown type, text that is not
        UTF-8, nesting beyond `MAX_DEPTH`, or parts repeated so often that the value would be out
        of proportion to the buffer.

    Notes
    -----
    Source: Icechunk specification, section "Dynamic values".
    """
    if len(data) < 3:
        raise _damaged(f"{len(data)} bytes are too few")
    width = data[-1]
    position = len(data) - 2 - width
    if width not in (1, 2, 4, 8) or position < 0:
        raise _damaged(f"root width {width}")
    try:
        return _Reader(data).value(position, width, data[-2], 0)
    except RecursionError:
        raise _damaged("nested too deep") from None


def _damaged(what: str) -> FormatError:
    return FormatError(f"damaged FlexBuffers value: {what}", ErrorKind.DESERIALIZATION)


class _Reader:
    """A buffer being read, and how much more may be read of it.

    Parts may be shared (keys usually are), so a few bytes could unfold to an endless value. Each
    element and each byte of text costs one unit; an honest buffer costs at most its own length.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._budget = 4 * len(data) + 64
        self._texts: dict[tuple[int, int], str] = {}
        self._key_at: dict[int, str] = {}

    def value(self, position: int, width: int, type_byte: int, depth: int) -> Any:
        """Return the value whose slot of `width` bytes is at `position`."""
        code = type_byte >> 2
        if code == FlexType.NULL:
            return None
        if code in _CODES:
            return self._numbers(position, width, FlexType(code), 1)[0]
        target = self._target(position, width)
        child = 1 << (type_byte & 3)
        if code in (FlexType.VECTOR, FlexType.MAP):
            return self._container(code, target, child, depth + 1)
        if code in (FlexType.STRING, FlexType.BLOB, FlexType.KEY):
            return self._string(code, target, child)
        return self._typed(code, target, child)

    def _container(self, code: int, target: int, width: int, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _damaged("nested too deep")
        size = self._size(target, width)
        types = self._slice(target + size * width, size)
        self._charge(size)
        items = [self.value(target + i * width, width, byte, depth) for i, byte in enumerate(types)]
        if code == FlexType.VECTOR:
            return items
        return dict(zip(self._map_keys(target, width, size), items, strict=True))

    def _string(self, code: int, target: int, width: int) -> str | bytes:
        if code == FlexType.KEY:
            return self._key(target)
        size = self._size(target, width)
        if code == FlexType.STRING:
            return self._text(target, size)
        self._charge(size)
        return self._slice(target, size)

    def _typed(self, code: int, target: int, width: int) -> Any:
        if code in _INDIRECT:
            return self._numbers(target, width, _INDIRECT[FlexType(code)], 1)[0]
        if code in _FIXED:
            return self._numbers(target, width, *_FIXED[FlexType(code)])
        if code in _TYPED:
            return self._numbers(target, width, _TYPED[FlexType(code)], self._size(target, width))
        if code in (FlexType.VECTOR_KEY, FlexType.VECTOR_STRING):
            return self._keys(target, width, self._size(target, width))
        raise _damaged(f"unknown type {code}")

    def _map_keys(self, target: int, width: int, size: int) -> list[str]:
        """Return the keys of the map at `target`: before its size are their place and width."""
        place = target - 3 * width
        if place < 0:
            raise _damaged(f"map at byte {target} without keys")
        key_width = self._uint(target - 2 * width, width)
        if key_width not in (1, 2, 4, 8):
            raise _damaged(f"map keys {key_width} bytes wide")
        index = self._target(place, width)
        if self._size(index, key_width) != size:
            raise _damaged(f"map at byte {target} with more keys than values, or fewer")
        return self._keys(index, key_width, size)

    def _keys(self, target: int, width: int, size: int) -> list[str]:
        self._slice(target, size * width)
        self._charge(size)
        return [self._key(self._target(target + i * width, width)) for i in range(size)]

    def _key(self, target: int) -> str:
        key = self._key_at.get(target)
        if key is None:
            end = self._data.find(0, target)
            if end < 0:
                raise _damaged(f"key at byte {target} without end")
            key = self._key_at[target] = self._text(target, end - target)
        return key

    def _text(self, target: int, size: int) -> str:
        known = self._texts.get((target, size))
        if known is not None:
            return known
        self._charge(size)
        try:
            text = self._slice(target, size).decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(f"text at byte {target} is not UTF-8") from None
        self._texts[target, size] = text
        return text

    def _numbers(self, target: int, width: int, number: FlexType, size: int) -> list[Any]:
        code = _CODES[number].get(width)
        if code is None:
            raise _damaged(f"number of type {number.name} in {width} byte")
        data = self._slice(target, size * width)
        self._charge(size)
        numbers = list(struct.unpack(f"<{size}{code}", data))
        return [n != 0 for n in numbers] if number is FlexType.BOOL else numbers

    def _target(self, position: int, width: int) -> int:
        """Return where the offset at `position` points: offsets count backwards."""
        target = position - self._uint(position, width)
        if target < 0:
            raise _damaged(f"offset at byte {position} points before the buffer")
        return target

    def _size(self, target: int, width: int) -> int:
        if target < width:
            raise _damaged(f"no room for a size before byte {target}")
        return self._uint(target - width, width)

    def _uint(self, position: int, width: int) -> int:
        return int.from_bytes(self._slice(position, width), "little")

    def _slice(self, start: int, size: int) -> bytes:
        if start + size > len(self._data):
            raise _damaged(f"{size} bytes at byte {start} pass the end, {len(self._data)}")
        return self._data[start : start + size]

    def _charge(self, cost: int) -> None:
        self._budget -= cost
        if self._budget < 0:
            raise _damaged("the same parts are used too often")
