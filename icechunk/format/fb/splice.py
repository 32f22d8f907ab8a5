"""Tables kept as they are encoded, and copied from an old buffer into a new one.

A commit changes a few of many tables, so the others are neither decoded nor encoded: the bytes that
hold a table and everything it refers to are copied in one piece with its neighbours', and offsets
stay right because they are relative. Only what writers share among tables lies elsewhere: vtables
are written once in front, shared texts once behind, and what leads to them is set anew in all
tables at once.

What may be copied is decided by looking at every field of every table, in columns. Tables that
cannot be copied are written again from their fields: those with other parts in common, with fields
that the schema does not know (these are lost, as the format allows), or not aligned.
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from icechunk.errors import FormatError
from icechunk.format.fb import writer
from icechunk.format.fb.reader import Buffer, TableVector
from icechunk.format.fb.schema import Items, Many, Number, Walk, field_places
from icechunk.format.fb.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, BoolArray, I32Array, I64Array
    from icechunk.format.fb.schema import Extent, Level, Schema, SharedTexts
    from icechunk.format.fb.writer import Blobs, Fields, Value

MAX_TABLES: Final = 50_000_000
"""Most tables in one file that every known reader accepts, manifests apart."""

_BLOCK: Final = writer.BLOB_ALIGN
_U8: Final = _struct.Struct("<B")
_U32: Final = _struct.Struct("<I")
# Writers share vtables and texts, so a handful is found by comparing; more are sorted.
_FEW: Final = 8
_READS_BEFORE_CHECK: Final = 64


def copy_fields(table: Table, schema: Schema, explicit: Sequence[int] = ()) -> Fields:
    """Return the known fields of a table that was walked through, to be written again.

    Parameters
    ----------
    table : Table
        Table to read.
    schema : Schema
        Its fields.
    explicit : sequence of int
        Slots of numbers to be written even where they are absent, as zero.

    Returns
    -------
    mapping of int to value
        As `icechunk.format.fb.writer` takes it; nothing decoded, nothing lost.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the table is damaged.
    """
    fields: dict[int, Value | None] = {}
    for slot, kind in schema.fields.items():
        if isinstance(kind, Number):
            number = table.struct(slot, kind.name, kind.size)
            if number is None and slot in explicit:
                number = bytes(kind.size)
            fields[slot] = None if number is None else writer.struct(number, kind.align)
        elif isinstance(kind, Items):
            part = table.vector(slot, kind.name, kind.item_bytes)
            if part is not None:
                stop = part.first + part.length * kind.item_bytes
                data = table.buffer.data[part.first : stop]
                fields[slot] = writer.Vector(data, part.length, kind.align, kind.terminated)
        elif isinstance(kind, Many):
            children = table.tables(slot, kind.name, kind.schema.name)
            if children is not None:
                fields[slot] = writer.Tables([copy_fields(c, kind.schema) for c in children])
        else:
            slot_name = f"{kind.name}_type"
            tag = 0 if kind.tag_slot is None else table.number(kind.tag_slot, slot_name, _U8)
            child = table.table(slot, kind.name, kind.kinds[tag].name)
            fields[slot] = writer.Table(copy_fields(child, kind.kinds[tag]))
    return fields


class Rows:
    """Tables of one kind, kept encoded in a buffer that may hold other things as well; immutable.

    Parameters
    ----------
    buffer : Buffer
        Buffer they are in.
    schema : Schema
        Their fields.
    positions : ndarray of int64, shape (n,)
        Where each table begins; unit: bytes.
    alone : bool
        Whether the buffer was just made for these tables, and can be used as it is.
    """

    __slots__ = ("_reads", "alone", "buffer", "positions", "schema")

    def __init__(
        self, buffer: Buffer, schema: Schema, positions: I64Array, *, alone: bool = False
    ) -> None:
        self.buffer = buffer
        self.schema = schema
        self.positions = positions
        self.alone = alone
        self._reads = 0

    @classmethod
    def of(cls, tables: Sequence[Fields], schema: Schema, key: str) -> Self:
        """Encode tables given by their fields."""
        data, positions = writer.encode_tables(tables)
        return cls(Buffer(data, key), schema, positions, alone=True)

    def __len__(self) -> int:
        return len(self.positions)

    def column(self) -> TableVector:
        """Return all tables as a column."""
        return TableVector(self.buffer, self.positions, self.schema.name)

    def table(self, row: int) -> Table:
        """Return one table."""
        # Many small tables could share large parts, each harmless but for their number. Whoever
        # reads more than a few has all of them looked at first.
        self._reads += 1
        if self._reads == _READS_BEFORE_CHECK and not self.alone:
            Walk(self.column(), self.schema)
        return Table(self.buffer, int(self.positions[row]), self.schema.name)

    def take(self, rows: I64Array) -> Self:
        """Return the selected tables; the buffer is shared."""
        return type(self)(self.buffer, self.schema, self.positions[rows])

    def joined(self, other: Rows) -> Self:
        """Return these tables and, behind them, others of the same kind."""
        if not len(other):
            return self
        base = self.buffer.size + -self.buffer.size % _BLOCK
        padding = bytes(base - self.buffer.size)
        data = b"".join((self.buffer.data, padding, other.buffer.data))
        return type(self)(
            Buffer(data, self.buffer.key),
            self.schema,
            np.concatenate((self.positions, other.positions + base)),
        )

    def spliced(self, explicit: Sequence[int] = ()) -> Spliced:
        """Return the tables in a buffer that holds nothing else.

        Parameters
        ----------
        explicit : sequence of int
            Slots of 32-bit numbers that every table must have, so that they can be set in place.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; a table is damaged, or there are too many.

        Notes
        -----
        Cost: some 20 numpy operations for each field of the schema, then O(bytes) copied; O(tables)
        in Python only for tables that must be written again.
        """
        if self.alone or not len(self):
            return Spliced(
                bytearray(self.buffer.data) if len(self) else bytearray(), self.positions
            )
        walk = Walk(self.column(), self.schema)
        total = sum(len(level.tables) for level in walk.levels)
        if total > MAX_TABLES:
            raise FormatError(
                f"{self.buffer.key}: {total} tables of kind {self.schema.name} are more than the "
                f"{MAX_TABLES} that readers accept: split the repository"
            )
        again = walk.extent.unknown | _entangled(walk)
        tables = walk.levels[0].tables
        for slot in explicit:
            present = np.flatnonzero(tables.present(slot))
            unfit = np.ones(len(self), np.bool_)
            unfit[present] = (field_places(tables, present, slot) & 3) != 0
            again |= unfit
        for level in walk.levels:
            again[level.owner[(level.tables.positions & 3) != 0]] = True
        for shared in walk.texts:
            again[shared.owner[(shared.places & 3) != 0]] = True
        return _copy(self, walk, again, explicit)


@dataclass(frozen=True, slots=True, eq=False)
class Spliced:
    """Tables in a buffer that holds nothing else.

    Parameters
    ----------
    data : bytearray
        Buffer, a multiple of 8 bytes long.
    positions : ndarray of int64, shape (n,)
        Where each table begins; unit: bytes.
    """

    data: bytearray
    positions: I64Array

    def blobs(self) -> Blobs:
        """Return the tables as the value of a field."""
        return writer.Blobs([self.data], self.positions)

    def set_numbers(self, slot: int, values: I32Array) -> None:
        """Set a 32-bit number in all tables; `Rows.spliced` was told to make it explicit."""
        words = np.frombuffer(self.data, "<i4")
        vtables = self.positions - words[self.positions >> 2]
        entries = np.frombuffer(self.data, "<u2")[(vtables + 4 + 2 * slot) >> 1]
        words[(self.positions + entries) >> 2] = values


def _entangled(walk: Walk) -> BoolArray:
    """Say which tables share bytes with another one, or have parts or fields that overlap."""
    extent = walk.extent
    found = np.zeros(len(extent.low), np.bool_)
    rows = np.arange(len(found), dtype=np.int64)
    _mark_overlaps(found, extent.low, extent.high, rows)
    low = np.concatenate([run.low for run in walk.runs])
    high = np.concatenate([run.high for run in walk.runs])
    # Runs are disjoint just if each sorted start is at or behind the sorted end before it. Files
    # are written in order, so these columns are a few ascending ones: quick for a stable sort.
    if bool((np.sort(low, kind="stable")[1:] < np.sort(high, kind="stable")[:-1]).any()):
        _mark_overlaps(found, low, high, np.concatenate([run.owner for run in walk.runs]))
    for level in walk.levels:
        vtables = level.tables.vtables
        distinct, codes = _group(vtables)
        sound = [_fields_are_apart(level, vtable) for vtable in distinct.tolist()]
        if not all(sound):
            found[level.owner[~np.array(sound)[codes]]] = True
    return found


def _mark_overlaps(found: BoolArray, low: I64Array, high: I64Array, owner: I64Array) -> None:
    """Mark the owners of runs that overlap another run."""
    order = np.argsort(low, kind="stable")
    low, high, owner = low[order], high[order], owner[order]
    meets = low[1:] < np.maximum.accumulate(high)[:-1]
    found[owner[1:][meets]] = True
    found[owner[:-1][high[:-1] > low[1:]]] = True


def _fields_are_apart(level: Level, vtable: int) -> bool:
    """Say whether no two fields of the tables with a vtable share bytes."""
    data = level.tables.buffer.data
    slots = (int.from_bytes(data[vtable : vtable + 2], "little") - 4) // 2
    places = [(0, 4)]
    for slot, kind in level.schema.fields.items():
        at = vtable + 4 + 2 * slot
        entry = int.from_bytes(data[at : at + 2], "little") if slot < slots else 0
        if entry:
            places.append((entry, entry + (kind.size if isinstance(kind, Number) else 4)))
    places.sort()
    return all(before[1] <= after[0] for before, after in pairwise(places))


def _copy(rows: Rows, walk: Walk, again: BoolArray, explicit: Sequence[int]) -> Spliced:
    head = _Head()
    vtables = [head.place(level, again) for level in walk.levels]
    out = bytearray(head.data + bytes(-len(head.data) % _BLOCK))
    shift = _copy_runs(rows.buffer, walk.extent, np.flatnonzero(~again), out)
    positions = rows.positions + shift
    redo = np.flatnonzero(again)
    if len(redo):
        fields = [copy_fields(rows.table(row), rows.schema, explicit) for row in redo.tolist()]
        more, places = writer.encode_tables(fields)
        positions[redo] = places + len(out)
        out += more
    tail = [_add_texts(rows.buffer, shared, again, out) for shared in walk.texts]
    words = np.frombuffer(out, "<i4")
    for level, (kept, places) in zip(walk.levels, vtables, strict=True):
        at = level.tables.positions[kept] + shift[level.owner[kept]]
        words[at >> 2] = at - places
    for shared, (kept, places) in zip(walk.texts, tail, strict=True):
        at = shared.places[kept] + shift[shared.owner[kept]]
        words[at >> 2] = places - at
    return Spliced(out, positions)


def _copy_runs(buffer: Buffer, extent: Extent, copied: I64Array, out: bytearray) -> I64Array:
    """Append the bytes of some tables; return how far each table of all has moved."""
    shift = np.zeros(len(extent.low), np.int64)
    if not len(copied):
        return shift
    order = copied[np.argsort(extent.low[copied], kind="stable")]
    # Cut at multiples of 8, so that alignment is kept; the NUL of a last string included.
    low = extent.low[order] & -_BLOCK
    high = (extent.high[order] + _BLOCK) & -_BLOCK
    first = np.flatnonzero(np.concatenate(([True], low[1:] > high[:-1])))
    last = np.append(first[1:], len(order)) - 1
    run_low, run_high = low[first], high[last]
    sizes = run_high - run_low
    run_at = len(out) + np.cumsum(sizes) - sizes
    shift[order] = np.repeat(run_at - run_low, last - first + 1)
    data = memoryview(buffer.data)
    for start, stop in zip(run_low.tolist(), run_high.tolist(), strict=True):
        out += data[start:stop]
    out += bytes(-len(out) % _BLOCK)  # the last run may have ended with the buffer
    return shift


def _add_texts(
    buffer: Buffer, shared: SharedTexts, again: BoolArray, out: bytearray
) -> tuple[I64Array, I64Array]:
    """Append shared texts; return which are of copied tables, and where each of those is now."""
    kept = np.flatnonzero(~again[shared.owner])
    distinct, codes = _group(shared.starts[kept])
    places = np.empty(len(distinct), np.int64)
    known: dict[bytes, int] = {}
    for i, start in enumerate(distinct.tolist()):
        size = int.from_bytes(buffer.data[start - 4 : start], "little")
        text = bytes(buffer.data[start : start + size])
        at = known.get(text)
        if at is None:
            at = known[text] = len(out)
            out += _U32.pack(size) + text + bytes(4 - size % 4)
        places[i] = at
    out += bytes(-len(out) % _BLOCK)
    return kept, places[codes]


class _Head:
    """The distinct vtables of the copied tables, one after the other."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._at: dict[bytes, int] = {}

    def place(self, level: Level, again: BoolArray) -> tuple[I64Array, I64Array]:
        """Return which tables of a level are copied, and where in the head their vtables are."""
        kept = np.flatnonzero(~again[level.owner])
        distinct, codes = _group(level.tables.vtables[kept])
        buffer = level.tables.buffer
        places = np.array([self._add(buffer, vtable) for vtable in distinct.tolist()], np.int64)
        return kept, places[codes]

    def _add(self, buffer: Buffer, start: int) -> int:
        size = int.from_bytes(buffer.data[start : start + 2], "little")
        vtable = bytes(buffer.data[start : start + size])
        at = self._at.get(vtable)
        if at is None:
            at = self._at[vtable] = len(self.data)
            self.data += vtable + bytes(size % 2)
        return at


def _group(values: I64Array) -> tuple[I64Array, AnyArray]:
    """Return the distinct values, and the number among them of each value."""
    codes = np.zeros(len(values), np.int64)
    rest = np.arange(len(values))
    distinct: list[int] = []
    for code in range(_FEW):
        if not len(rest):
            return np.array(distinct, np.int64), codes
        distinct.append(int(values[rest[0]]))
        other = values[rest] != distinct[-1]
        codes[rest[~other]] = code
        rest = rest[other]
    if not len(rest):
        return np.array(distinct, np.int64), codes
    return np.unique(values, return_inverse=True)
