"""Tables kept as they are encoded, and copied from an old buffer into a new one.

A commit changes a few of many tables, so the others are neither decoded nor encoded: the bytes that
hold a table and everything it refers to are copied in one piece with its neighbours', and offsets
stay right because they are relative. Only what writers share among tables lies elsewhere: vtables
are written once in front, shared texts once behind, and what leads to them is set anew in all
tables at once.

What may be copied is decided by looking at every field of every table, in columns. Tables that
cannot be copied are written again from their fields: those with other parts in common, with fields
that the schema does not know (these are lost, as the format allows), or not aligned.

Looking costs some hundred microseconds however small the tables are, so it is done once: what was
written here, or copied after it was looked at, is known to lie in runs of its own (`Cells`), and
further commits copy those. A few tables are written again from their fields without looking.
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Self

import numpy as np

from icechunk.errors import FormatError
from icechunk.format.fb import writer
from icechunk.format.fb.reader import Buffer, TableVector
from icechunk.format.fb.schema import Items, Many, Number, Walk, field_places, unknown_kind
from icechunk.format.fb.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, BoolArray, I32Array, I64Array
    from icechunk.format.fb.schema import Level, Schema, SharedTexts
    from icechunk.format.fb.writer import Blob, Blobs, Fields, Value

MAX_TABLES: Final = 50_000_000
"""Most tables in one file that every known reader accepts, manifests apart."""

_BLOCK: Final = writer.BLOB_ALIGN
_U8: Final = _struct.Struct("<B")
_U32: Final = _struct.Struct("<I")
# Writers share vtables and texts, so a handful is found by comparing; more are sorted.
_FEW: Final = 8
_READS_BEFORE_CHECK: Final = 64
# Up to this many tables are sooner written again than looked at in columns.
_FEW_TABLES: Final = 16
# How often, counted in sizes of the whole buffer, texts may be shared.
_MOST_SHARING: Final = 64
# No table with the offset that leads to it takes less.
_LEAST_TABLE_BYTES: Final = 8


_NO_ROWS: Final = np.zeros(0, np.int64)


class _Room:
    """How much may still be read out of a buffer: what is shared there is many times as much here.

    Parameters
    ----------
    buffer : Buffer
        What is read.
    """

    __slots__ = ("_bytes", "_offsets", "buffer", "tables")

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.tables = 0
        self._bytes = _MOST_SHARING * buffer.size
        self._offsets = buffer.size

    def take_bytes(self, count: int) -> None:
        """Count bytes of a text or vector."""
        self._bytes -= count
        self._check()

    def take_tables(self, count: int) -> None:
        """Count tables of a vector."""
        self.tables += count
        self._offsets -= _U32.size * count
        self._check()

    def _check(self) -> None:
        if min(self._bytes, self._offsets) < 0:
            raise self.buffer.error("tables", "parts of the file are used too often")


def copy_fields(
    table: Table, schema: Schema, explicit: Sequence[int] = (), room: _Room | None = None
) -> Fields:
    """Return the known fields of a table, to be written again.

    Parameters
    ----------
    table : Table
        Table to read.
    schema : Schema
        Its fields.
    explicit : sequence of int
        Slots of numbers to be written even where they are absent, as zero.
    room : _Room, optional
        What all tables together may take; by default what one may.

    Returns
    -------
    mapping of int to value
        As `icechunk.format.fb.writer` takes it; nothing decoded, nothing lost.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the table is damaged.
    """
    room = _Room(table.buffer) if room is None else room
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
                room.take_bytes(stop - part.first)
                data = table.buffer.data[part.first : stop]
                fields[slot] = writer.Vector(data, part.length, kind.align, kind.terminated)
        elif isinstance(kind, Many):
            part = table.vector(slot, kind.name, _U32.size)
            if part is not None:
                room.take_tables(part.length)
                children = table.required_tables(slot, kind.name, kind.schema.name)
                fields[slot] = writer.Tables(
                    [copy_fields(child, kind.schema, room=room) for child in children]
                )
        else:
            tag_name = f"{kind.name}_type"
            room.tables += 1
            tag = 0 if kind.tag_slot is None else table.number(kind.tag_slot, tag_name, _U8)
            if tag not in kind.kinds:
                raise unknown_kind(table.buffer, f"{table.name}.{kind.name}", tag)
            child = table.table(slot, kind.name, kind.kinds[tag].name)
            fields[slot] = writer.Table(copy_fields(child, kind.kinds[tag], room=room))
    return fields


class Anchors(NamedTuple):
    """Places in tables that depend on where something outside of their run is.

    Attributes
    ----------
    at : ndarray of int64, shape (k,)
        Multiples of 4; unit: bytes.
    owner : ndarray of int64, shape (k,)
        The row that each belongs to.
    """

    at: I64Array
    owner: I64Array

    @classmethod
    def joined(cls, parts: Sequence[tuple[I64Array, I64Array]]) -> Anchors:
        """Return all of several."""
        if not parts:
            return cls(_NO_ROWS, _NO_ROWS)
        return cls(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))

    def renumbered(self, new_row: I64Array) -> Anchors:
        """Return those of the rows that have a new number, with it."""
        if not len(self.at):
            return self
        owner = new_row[self.owner]
        kept = owner >= 0
        return Anchors(self.at[kept], owner[kept])

    def moved(self, shift: I64Array) -> Anchors:
        """Return them after each row moved."""
        return self._replace(at=self.at + shift[self.owner])


class Cells(NamedTuple):
    """How tables lie that can be copied without looking: each with its parts in a run of its own.

    Attributes
    ----------
    low, high : ndarray of int64, shape (n,)
        The run of each table, half open, multiples of 8; unit: bytes. The vtable of a table is in
        its run or in the head, and shared texts are in its run or in the tail.
    head_bytes : int
        Size of the head, vtables at the start of the buffer; a multiple of 8.
    tail : tuple of int
        The run with the texts that tables share, behind them; multiples of 8.
    anchored : Anchors
        The tables, of any level, whose vtable is in the head.
    named : Anchors
        The offsets that lead to texts in the tail.
    """

    low: I64Array
    high: I64Array
    head_bytes: int = 0
    tail: tuple[int, int] = (0, 0)
    anchored: Anchors = Anchors(_NO_ROWS, _NO_ROWS)
    named: Anchors = Anchors(_NO_ROWS, _NO_ROWS)

    def take(self, rows: I64Array) -> Cells:
        """Return the selected cells, each at most once."""
        new_row = np.full(len(self.low), -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        return self._replace(
            low=self.low[rows],
            high=self.high[rows],
            anchored=self.anchored.renumbered(new_row),
            named=self.named.renumbered(new_row),
        )

    def joined(self, other: Cells, base: int) -> Cells | None:
        """Return these cells and, behind them, others that begin at ``base``.

        None if the others have a head or tail of their own. A few tables written last have none.
        """
        if other.head_bytes or other.tail[1]:
            return None
        return self._replace(
            low=np.concatenate((self.low, other.low + base)),
            high=np.concatenate((self.high, other.high + base)),
        )


class _Place(NamedTuple):
    """Where tables are and what is known of that.

    Attributes
    ----------
    buffer : Buffer
        Buffer they are in.
    positions : ndarray of int64, shape (n,)
        Where each table begins; unit: bytes.
    alone : bool
        Whether the buffer was made here for these tables, and holds nothing else; it is a
        multiple of 8 bytes long then.
    cells : Cells or None
        None where the tables were not looked at.
    """

    buffer: Buffer
    positions: I64Array
    alone: bool = False
    cells: Cells | None = None


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

    Notes
    -----
    Concurrency: safe to share among threads. Once it was written, a column uses the buffer that
    was made for that; the tables in it are the same.
    """

    __slots__ = ("_place", "_reads", "schema")

    def __init__(self, buffer: Buffer, schema: Schema, positions: I64Array) -> None:
        self.schema = schema
        self._place = _Place(buffer, positions)
        self._reads = 0

    @classmethod
    def _at(cls, place: _Place, schema: Schema) -> Self:
        rows = cls(place.buffer, schema, place.positions)
        rows._place = place
        return rows

    @classmethod
    def of(cls, tables: Sequence[Fields], schema: Schema, key: str) -> Self:
        """Encode tables given by their fields."""
        return cls._at(_encoded(tables, key), schema)

    @classmethod
    def of_blobs(cls, blobs: Sequence[Blob], schema: Schema, key: str) -> Self:
        """Return tables that are encoded one by one."""
        return cls._at(_in_runs(blobs, key), schema)

    @classmethod
    def of_cells(
        cls, data: bytes, positions: I64Array, cells: Cells, schema: Schema, key: str
    ) -> Self:
        """Return tables that were encoded together."""
        return cls._at(_Place(Buffer(data, key), positions, alone=True, cells=cells), schema)

    def __len__(self) -> int:
        return len(self._place.positions)

    @property
    def buffer(self) -> Buffer:
        """Buffer the tables are in, at this moment."""
        return self._place.buffer

    @property
    def positions(self) -> I64Array:
        """Where each table begins in the buffer, at this moment; unit: bytes."""
        return self._place.positions

    def column(self) -> TableVector:
        """Return all tables as a column."""
        return TableVector(self._place.buffer, self._place.positions, self.schema.name)

    def table(self, row: int) -> Table:
        """Return one table."""
        # Many small tables could share large parts, each harmless but for their number. Whoever
        # reads more than a few has all of them looked at first.
        place = self._place
        self._reads += 1
        if self._reads == _READS_BEFORE_CHECK and not place.alone and place.cells is None:
            Walk(self.column(), self.schema)
        return Table(place.buffer, int(place.positions[row]), self.schema.name)

    def take(self, rows: I64Array) -> Self:
        """Return the selected tables, each at most once; the buffer is shared."""
        place = self._place
        cells = None if place.cells is None else place.cells.take(rows)
        alone = place.alone and len(rows) == len(self)
        return self._at(
            _Place(place.buffer, place.positions[rows], alone=alone, cells=cells), self.schema
        )

    def joined(self, other: Rows) -> Self:
        """Return these tables and, behind them, others of the same kind."""
        mine, theirs = self._place, other._place
        if not len(other):
            return self
        if not len(self):
            return self._at(theirs, self.schema)
        base = mine.buffer.size + -mine.buffer.size % _BLOCK
        padding = bytes(base - mine.buffer.size)
        data = b"".join((mine.buffer.data, padding, theirs.buffer.data))
        cells = None
        if mine.cells is not None and theirs.cells is not None:
            cells = mine.cells.joined(theirs.cells, base)
        return self._at(
            _Place(
                Buffer(data, mine.buffer.key),
                np.concatenate((mine.positions, theirs.positions + base)),
                alone=mine.alone and theirs.alone,
                cells=cells,
            ),
            self.schema,
        )

    def spliced(self, explicit: Sequence[int] = ()) -> Spliced:
        """Return the tables in a buffer that holds nothing else.

        Parameters
        ----------
        explicit : sequence of int
            Slots of 32-bit numbers that every table must have, so that they can be set in place;
            always the same ones for tables of one kind.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; a table is damaged, or there are too many.

        Notes
        -----
        Cost: O(bytes) copied. For tables that were not looked at before some 20 numpy operations
        for each field of the schema come first; O(tables) in Python only for tables that must be
        written again.
        """
        place = self._place
        if not len(self):
            return Spliced(bytearray(), place.positions)
        if not place.alone:
            few = place.buffer.size <= MAX_TABLES * _LEAST_TABLE_BYTES
            if place.cells is not None and few:
                place = _copy_cells(place, place.cells)
            elif len(self) <= _FEW_TABLES:
                place = self._written_again(explicit)
            else:
                place = self._looked_at(explicit)
            self._place = place
        return Spliced(bytearray(place.buffer.data), place.positions)

    def _written_again(self, explicit: Sequence[int]) -> _Place:
        buffer = self._place.buffer
        room = _Room(buffer)
        tables = [self.table(row) for row in range(len(self))]
        fields = [copy_fields(table, self.schema, explicit, room) for table in tables]
        self._check_count(len(self) + room.tables)
        return _encoded(fields, buffer.key)

    def _looked_at(self, explicit: Sequence[int]) -> _Place:
        walk = Walk(self.column(), self.schema)
        self._check_count(sum(len(level.tables) for level in walk.levels))
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

    def _check_count(self, total: int) -> None:
        if total > MAX_TABLES:
            raise FormatError(
                f"{self.buffer.key}: {total} tables of kind {self.schema.name} are more than the "
                f"{MAX_TABLES} that readers accept: split the repository"
            )


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


def _encoded(tables: Sequence[Fields], key: str) -> _Place:
    """Encode tables, each with its vtables in a run of its own."""
    return _in_runs([writer.encode_table(fields) for fields in tables], key)


def _in_runs(blobs: Sequence[Blob], key: str) -> _Place:
    sizes = np.array([len(blob.data) for blob in blobs], np.int64)
    high = np.cumsum(sizes)
    low = high - sizes
    positions = low + np.array([blob.table for blob in blobs], np.int64)
    data = b"".join([blob.data for blob in blobs])
    return _Place(Buffer(data, key), positions, alone=True, cells=Cells(low, high))


def _copy_cells(place: _Place, cells: Cells) -> _Place:
    """Copy tables that were looked at before."""
    data = place.buffer.data
    out = bytearray(data[: cells.head_bytes])
    shift = _copy_runs(place.buffer, cells.low, cells.high, out)
    tail = len(out)
    out += data[cells.tail[0] : cells.tail[1]]
    anchored, named = cells.anchored.moved(shift), cells.named.moved(shift)
    words = np.frombuffer(out, "<i4")
    # Vtables stay where they are, so the distance grows by as much as the tables move.
    words[anchored.at >> 2] += shift[anchored.owner].astype(np.int32)
    words[named.at >> 2] += (tail - cells.tail[0] - shift[named.owner]).astype(np.int32)
    return _Place(
        Buffer(bytes(out), place.buffer.key),
        place.positions + shift,
        alone=True,
        cells=Cells(
            cells.low + shift,
            cells.high + shift,
            cells.head_bytes,
            (tail, len(out)),
            anchored,
            named,
        ),
    )


def _copy(rows: Rows, walk: Walk, again: BoolArray, explicit: Sequence[int]) -> _Place:
    """Copy tables that were just looked at; write some of them again."""
    buffer, extent = rows.buffer, walk.extent
    head = _Head()
    vtables = [head.place(level, again) for level in walk.levels]
    out = bytearray(head.data + bytes(-len(head.data) % _BLOCK))
    head_bytes = len(out)
    # Cut at multiples of 8, so that alignment is kept; the NUL of a last string included.
    low, high = extent.low & -_BLOCK, (extent.high + _BLOCK) & -_BLOCK
    copied, redo = np.flatnonzero(~again), np.flatnonzero(again)
    shift = np.zeros(len(again), np.int64)
    shift[copied] = _copy_runs(buffer, low[copied], high[copied], out)
    positions = walk.levels[0].tables.positions + shift
    low, high = low + shift, high + shift
    if len(redo):
        fields = [copy_fields(rows.table(row), rows.schema, explicit) for row in redo.tolist()]
        fresh = _encoded(fields, buffer.key)
        assert fresh.cells is not None
        positions[redo] = fresh.positions + len(out)
        low[redo], high[redo] = fresh.cells.low + len(out), fresh.cells.high + len(out)
        out += fresh.buffer.data
    tail_at = len(out)
    tail = [_add_texts(buffer, shared, again, out) for shared in walk.texts]
    words = np.frombuffer(out, "<i4")
    anchored, named = [], []
    for level, (kept, places) in zip(walk.levels, vtables, strict=True):
        owner = level.owner[kept]
        at = level.tables.positions[kept] + shift[owner]
        words[at >> 2] = at - places
        anchored.append((at, owner))
    for shared, (kept, places) in zip(walk.texts, tail, strict=True):
        owner = shared.owner[kept]
        at = shared.places[kept] + shift[owner]
        words[at >> 2] = places - at
        named.append((at, owner))
    cells = Cells(
        low,
        high,
        head_bytes,
        (tail_at, len(out)),
        Anchors.joined(anchored),
        Anchors.joined(named),
    )
    return _Place(Buffer(bytes(out), buffer.key), positions, alone=True, cells=cells)


def _copy_runs(buffer: Buffer, low: I64Array, high: I64Array, out: bytearray) -> I64Array:
    """Append runs of bytes, multiples of 8, those that meet in one; return how far each moved."""
    shift = np.zeros(len(low), np.int64)
    if not len(low):
        return shift
    order = np.argsort(low, kind="stable")
    low, high = low[order], high[order]
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
