"""FlatBuffers read in columns: many tables of one kind at once, every byte checked first.

Source: FlatBuffers binary format as used by the Icechunk specification, section "FlatBuffers
tables". A `TableVector` stands for n tables; asking it for a field gives that field of all of them
as a numpy column. Nothing is trusted: positions, offsets, lengths and counts are compared with the
buffer before they are used, alignment is not required, unknown slots are ignored, and what is
wrong raises `FormatError` naming file and field.

Parts that overlap could make a small hostile buffer stand for a huge value. Nobody writes
them, so a column whose distinct parts take more room than the whole buffer is refused; equal parts
may be shared, within limits. Whatever the input, memory stays within a constant times its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from icechunk.errors import FormatError
from icechunk.format.bulk import joined, utf8_problem
from icechunk.format.ragged import Ragged

if TYPE_CHECKING:
    import numpy.typing as npt

    from icechunk._typing import AnyArray, BoolArray, I64Array, U8Array

MAX_BYTES: Final = 2**31 - 1
"""Largest buffer that FlatBuffers offsets can address."""
_OFFSET_BYTES: Final = 4
_VTABLE_HEAD_BYTES: Final = 4
_MOST_VTABLES: Final = 16
# How often, counted in sizes of the whole buffer, strings may be shared.
_MOST_SHARING: Final = 64
# Texts are checked in blocks that stay in the processor's cache.
_TEXT_BLOCK_ROWS: Final = 1 << 14


class Parts(NamedTuple):
    """Where one vector or string of each table is.

    Attributes
    ----------
    starts : ndarray of int64, shape (n,)
        Position of the first element; unit: bytes. 0 when absent.
    counts : ndarray of int64, shape (n,)
        Number of elements, 0 when absent.
    """

    starts: I64Array
    counts: I64Array


class Buffer:
    """One decoded file body, and its key for messages.

    Parameters
    ----------
    data : bytes
        Whole body.
    key : str
        Key of the file it came from.
    """

    __slots__ = ("data", "key", "size", "u8")

    def __init__(self, data: bytes, key: str) -> None:
        self.data = data
        self.key = key
        self.u8: U8Array = np.frombuffer(data, np.uint8)
        self.size = len(data)

    def error(self, field: str, problem: str) -> FormatError:
        """Return the error to raise about one field."""
        return FormatError(f"{self.key}: {field}: {problem}")

    def gather(self, positions: I64Array, dtype: npt.DTypeLike) -> AnyArray:
        """Return the items at the given positions, which must have been checked."""
        wanted = np.dtype(dtype)
        if not len(positions):
            return np.empty(0, wanted)
        # A view in which item i starts at byte i: unaligned and overlapping, which numpy can index.
        every = np.ndarray((self.size - wanted.itemsize + 1,), wanted, self.u8, 0, (1,))
        items: AnyArray = every[positions]
        return items

    def decode(self, column: Ragged, field: str) -> list[str]:
        """Return strings as text.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; one is not UTF-8.
        """
        try:
            return [item.decode() for item in column.tolist()]
        except UnicodeDecodeError as error:
            raise self.error(field, f"text is not UTF-8: {error}") from error

    def check_utf8(self, column: Ragged, field: str) -> None:
        """Check strings without making them.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; one is not UTF-8.
        """
        filled = column.take(column.size > 0)
        start, size = filled.start, filled.size
        if not bool((start[1:] >= start[:-1] + size[:-1]).all()):
            # Shared strings once; this also bounds the copy by the size of the buffer.
            start, first = np.unique(start, return_index=True)
            size = size[first]
        for row in range(0, len(start), _TEXT_BLOCK_ROWS):
            rows = slice(row, row + _TEXT_BLOCK_ROWS)
            text = joined(column.data, start[rows], size[rows])
            problem = utf8_problem(text, np.cumsum(size[rows]) - size[rows])
            if problem is not None:
                raise self.error(field, f"text is {problem}")


class TableVector:
    """A column of FlatBuffers tables of one kind.

    Parameters
    ----------
    buffer : Buffer
        Body they are in.
    positions : ndarray of int64, shape (n,)
        Where each table begins; checked here.
    name : str
        Name of the kind of table, for messages.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; a table or its vtable is not inside the buffer.
    """

    __slots__ = ("_codes", "_sizes", "buffer", "name", "positions", "vtables")

    def __init__(self, buffer: Buffer, positions: I64Array, name: str) -> None:
        self.buffer = buffer
        self.positions = positions
        self.name = name
        self._check_inside(positions, _OFFSET_BYTES, "table")
        self.vtables: I64Array = positions - buffer.gather(positions, "<i4")
        self._check_inside(self.vtables, _VTABLE_HEAD_BYTES, "vtable")
        # One row for each distinct vtable when they are few, else one for each table.
        self._codes, distinct = _group(self.vtables)
        heads = buffer.gather(distinct, "<u4").astype(np.int64)
        self._sizes: tuple[I64Array, I64Array, I64Array] = (distinct, heads & 0xFFFF, heads >> 16)
        if len(distinct) and int((heads & 0xFFFF).min()) < _VTABLE_HEAD_BYTES:
            raise buffer.error(name, "vtable is shorter than its own head")
        self._check_inside(distinct, heads & 0xFFFF, "vtable")
        table_sizes = self._spread(heads >> 16)
        self._check_inside(positions, table_sizes, "table")

    def __len__(self) -> int:
        return int(self.positions.shape[0])

    def take(self, rows: I64Array | BoolArray | slice) -> Self:
        """Return a selection of the tables."""
        chosen = object.__new__(type(self))
        chosen.buffer, chosen.name = self.buffer, self.name
        chosen.positions, chosen.vtables = self.positions[rows], self.vtables[rows]
        if self._codes is None:
            kept: AnyArray = rows  # type: ignore[assignment]
            chosen._codes = None
        else:
            # Only vtables still in use: what is wrong with the others is no matter here.
            codes = self._codes[rows]
            kept = np.flatnonzero(np.bincount(codes))
            chosen._codes = kept.searchsorted(codes).astype(np.uint8)
        distinct, vtable_sizes, table_sizes = self._sizes
        chosen._sizes = (distinct[kept], vtable_sizes[kept], table_sizes[kept])
        return chosen

    # -- fields -------------------------------------------------------------------------------

    def present(self, slot: int) -> BoolArray:
        """Say for each table whether it has the field; shape ``(n,)``."""
        return self._spread(self._entries(slot) != 0)

    def has_slot_from(self, slot: int) -> BoolArray:
        """Say for each table whether it has any field in ``slot`` or above; shape ``(n,)``."""
        found = np.zeros(len(self._sizes[0]), np.bool_)
        last = (int(self._sizes[1].max(initial=0)) - _VTABLE_HEAD_BYTES) // 2
        for candidate in range(slot, last):
            found |= self._entries(candidate) != 0
        return self._spread(found)

    def scalar(
        self, slot: int, field: str, dtype: npt.DTypeLike, default: int = 0
    ) -> npt.NDArray[np.integer]:
        """Return a number of each table.

        Parameters
        ----------
        slot : int
            Field id.
        field : str
            Name of the field, for messages.
        dtype : dtype
            Little-endian integer type.
        default : int
            Value where the field is absent.

        Returns
        -------
        ndarray, shape (n,)
            Values.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; the field is not inside its table.
        """
        wanted = np.dtype(dtype)
        present, places = self._places(slot, field, wanted.itemsize, required=False)
        if present is None:
            return self.buffer.gather(places, wanted)
        values = np.full(len(self), default, wanted)
        values[present] = self.buffer.gather(places[present], wanted)
        return values

    def struct(self, slot: int, field: str, size: int, *, required: bool = True) -> U8Array:
        """Return a struct of each table as raw bytes.

        Parameters
        ----------
        slot, field
            Field id and its name.
        size : int
            Size of the struct; unit: bytes.
        required : bool
            Whether absence is an error; else absent structs are zeros.

        Returns
        -------
        ndarray of uint8, shape (n, size)
            Bytes.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; outside its table, or required and absent.
        """
        present, places = self._places(slot, field, size, required=required)
        if present is None:
            items = self.buffer.gather(places, f"V{size}")
        else:
            items = np.zeros(len(self), f"V{size}")
            items[present] = self.buffer.gather(places[present], f"V{size}")
        return items.view(np.uint8).reshape(len(self), size)

    def vector(
        self,
        slot: int,
        field: str,
        item_bytes: int,
        *,
        required: bool = True,
        sharing: int = 1,
    ) -> Parts:
        """Return where a vector of each table is.

        Parameters
        ----------
        slot, field
            Field id and its name.
        item_bytes : int
            Size of one element; unit: bytes.
        required : bool
            Whether absence is an error; else an absent vector is an empty one.
        sharing : int
            How many times the size of the buffer all vectors together may have.

        Returns
        -------
        Parts
            Checked starts and counts.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; outside the buffer, overlapping, or required and absent.
        """
        present, targets = self._targets(slot, field, required=required)
        self._check_inside(targets, _OFFSET_BYTES, field)
        count = self.buffer.gather(targets, "<u4").astype(np.int64)
        start = targets + _OFFSET_BYTES
        sizes = count * item_bytes
        self._check_inside(start, sizes, field)
        self._check_overlap(start, sizes, field, sharing)
        if present is None:
            return Parts(start, count)
        return Parts(_scatter(present, start), _scatter(present, count))

    def bytes(self, slot: int, field: str, *, required: bool = True) -> Ragged:
        """Return a ``[u8]`` of each table, sharing the buffer; absent ones are empty."""
        parts = self.vector(slot, field, 1, required=required, sharing=_MOST_SHARING)
        return Ragged(self.buffer.data, parts.starts, parts.counts)

    def string(self, slot: int, field: str, *, required: bool = True) -> Ragged:
        """Return a string of each table as UTF-8 bytes, checked, sharing the buffer."""
        column = self.bytes(slot, field, required=required)
        self.buffer.check_utf8(column, f"{self.name}.{field}")
        return column

    def texts(self, slot: int, field: str) -> list[str]:
        """Return a required string of each table as text."""
        return self.buffer.decode(self.bytes(slot, field), f"{self.name}.{field}")

    def items(
        self, slot: int, field: str, dtype: npt.DTypeLike, *, required: bool = True
    ) -> tuple[AnyArray, I64Array]:
        """Return a vector of numbers or structs of each table, all joined.

        Returns
        -------
        items : ndarray, shape (total,)
            Elements of the first table's vector, then of the second's, and so on.
        bounds : ndarray of int64, shape (n + 1,)
            Elements of table ``i`` are ``items[bounds[i] : bounds[i + 1]]``.
        """
        wanted = np.dtype(dtype)
        parts = self.vector(slot, field, wanted.itemsize, required=required)
        bounds = _bounds(parts.counts)
        return self.buffer.gather(_flat(parts, bounds, wanted.itemsize), wanted), bounds

    def table(self, slot: int, field: str, name: str) -> TableVector:
        """Return a required child table of each table; shape ``(n,)``."""
        _, targets = self._targets(slot, field, required=True)
        return TableVector(self.buffer, targets, name)

    def tables(
        self, slot: int, field: str, name: str, *, required: bool = True, min_bytes: int = 8
    ) -> tuple[TableVector, I64Array]:
        """Return a vector of tables of each table, all joined.

        Parameters
        ----------
        slot, field
            Field id and its name.
        name : str
            Name of the kind of child table, for messages.
        required : bool
            Whether absence is an error; else an absent vector is an empty one.
        min_bytes : int
            Least room one child with its offset takes in an honest file; bounds their number.

        Returns
        -------
        children : TableVector
            Children of the first table, then of the second, and so on.
        bounds : ndarray of int64, shape (n + 1,)
            Children of table ``i`` are rows ``bounds[i]`` to ``bounds[i + 1]``.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; outside the buffer, too many, or required and absent.
        """
        places, bounds = self._offsets(slot, field, required=required)
        if len(places) * min_bytes > self.buffer.size:
            raise self.error(field, f"{len(places)} tables do not fit into the file")
        targets = places + self.buffer.gather(places, "<u4").astype(np.int64)
        return TableVector(self.buffer, targets, name), bounds

    # -- checks -------------------------------------------------------------------------------

    def error(self, field: str, problem: str) -> FormatError:
        """Return the error to raise about one field."""
        return self.buffer.error(f"{self.name}.{field}", problem)

    def _check_inside(self, start: I64Array, size: I64Array | int, field: str) -> None:
        if not len(start):
            return
        if int(start.min()) < 0 or int((start + size).max()) > self.buffer.size:
            raise self.error(field, "leads outside the file")

    def _check_overlap(self, start: I64Array, size: I64Array, field: str, sharing: int) -> None:
        total = int(size.sum())
        if total <= self.buffer.size:
            return
        if total > sharing * self.buffer.size:
            raise self.error(field, "parts of the file are used too often")
        _, first = np.unique(start, return_index=True)
        if int(size[first].sum()) > self.buffer.size:
            raise self.error(field, "parts of the file overlap")

    def _spread(self, per_vtable: AnyArray) -> AnyArray:
        """Return one value per table from one per distinct vtable."""
        if self._codes is None:
            return per_vtable
        if len(per_vtable) == 1:
            return np.broadcast_to(per_vtable, (len(self),))
        return per_vtable[self._codes]

    def _entries(self, slot: int) -> I64Array:
        """Return the vtable entry of a slot, 0 where absent, one per row of ``_sizes``."""
        distinct, vtable_sizes, _ = self._sizes
        at = _VTABLE_HEAD_BYTES + 2 * slot
        known = vtable_sizes >= at + 2
        entries = np.zeros(len(distinct), np.int64)
        entries[known] = self.buffer.gather(distinct[known] + at, "<u2")
        return entries

    def _places(
        self, slot: int, field: str, size: int, *, required: bool
    ) -> tuple[BoolArray | None, I64Array]:
        """Return which tables have a field (None: all of them), and where it is in each."""
        entries = self._entries(slot)
        absent = entries == 0
        if bool(((entries + size > self._sizes[2]) & ~absent).any()):
            raise self.error(field, "is not inside its table")
        if not bool(absent.any()):
            return None, self.positions + self._spread(entries)
        if required and len(self):
            present = self._spread(~absent)
            if not bool(present.all()):
                raise self.error(field, "required field is absent")
            return None, self.positions + self._spread(entries)
        return self._spread(~absent), self.positions + self._spread(entries)

    def _targets(
        self, slot: int, field: str, *, required: bool
    ) -> tuple[BoolArray | None, I64Array]:
        """Return which tables have an offset field, and where the offsets of those lead."""
        present, places = self._places(slot, field, _OFFSET_BYTES, required=required)
        if present is not None:
            places = places[present]
        return present, places + self.buffer.gather(places, "<u4").astype(np.int64)

    def _offsets(self, slot: int, field: str, *, required: bool) -> tuple[I64Array, I64Array]:
        """Return the places of the offsets in vectors of offsets, joined, and their bounds."""
        parts = self.vector(slot, field, _OFFSET_BYTES, required=required)
        bounds = _bounds(parts.counts)
        return _flat(parts, bounds, _OFFSET_BYTES), bounds


def _group(vtables: I64Array) -> tuple[U8Array | None, I64Array]:
    """Return a code per table and the vtable of each code; no codes when vtables are many."""
    n = len(vtables)
    codes = np.zeros(n, np.uint8)
    if n == 0:
        return codes, vtables[:0]
    distinct = [int(vtables[0])]
    rest = np.flatnonzero(vtables != distinct[0])
    while len(rest):
        if len(distinct) == _MOST_VTABLES:
            return None, vtables
        code = len(distinct)
        distinct.append(int(vtables[rest[0]]))
        same = vtables[rest] == distinct[-1]
        codes[rest[same]] = code
        rest = rest[~same]
    return codes, np.array(distinct, np.int64)


def _bounds(counts: I64Array) -> I64Array:
    bounds = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=bounds[1:])
    return bounds


def _flat(parts: Parts, bounds: I64Array, item_bytes: int) -> I64Array:
    """Return the position of every element of all vectors, one vector after the other."""
    total = int(bounds[-1])
    if len(parts.counts) == 1:
        first = int(parts.starts[0])
        return np.arange(first, first + total * item_bytes, item_bytes, dtype=np.int64)
    shift = np.repeat(parts.starts - bounds[:-1] * item_bytes, parts.counts)
    return shift + np.arange(0, total * item_bytes, item_bytes, dtype=np.int64)


def _scatter(present: BoolArray, values: I64Array) -> I64Array:
    column = np.zeros(len(present), np.int64)
    column[present] = values
    return column
