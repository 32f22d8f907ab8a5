"""What fields a kind of table has, and a walk through all of them in columns.

Source: FlatBuffers binary format as used by the Icechunk specification, section "FlatBuffers
tables". A `Schema` is a table of the specification as data. It serves where tables are handled
without being decoded: `icechunk.format.fb.splice`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from icechunk.format.fb.reader import Buffer, TableVector

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from icechunk._typing import BoolArray, I64Array
    from icechunk.errors import FormatError
    from icechunk.format.fb.reader import Parts

_OFFSET_BYTES: Final = 4
_VTABLE_HEAD_BYTES: Final = 4
# How often, counted in sizes of the whole buffer, strings may be shared.
_MOST_SHARING: Final = 64


class Number(NamedTuple):
    """A number or struct inside the table; sizes in bytes."""

    name: str
    size: int
    align: int


class Items(NamedTuple):
    """A vector of numbers or structs, or a string; sizes in bytes."""

    name: str
    item_bytes: int = 1
    align: int = 1
    terminated: bool = False
    shared: bool = False
    """A string that writers store once for many tables."""


class One(NamedTuple):
    """A child table of the kind that the number in ``tag_slot`` says; of kind 0 without tag."""

    name: str
    kinds: Mapping[int, Schema]
    tag_slot: int | None = None


class Many(NamedTuple):
    """A vector of child tables."""

    name: str
    schema: Schema


Kind: TypeAlias = "Number | Items | One | Many"


def text(name: str, *, shared: bool = False) -> Items:
    """Return the kind of a string."""
    return Items(name, terminated=True, shared=shared)


@dataclass(frozen=True, slots=True)
class Schema:
    """The fields of one kind of table.

    Parameters
    ----------
    name : str
        Name of the table in the specification.
    fields : mapping of int to kind
        Slot to field, every slot known, ascending without gap.
    """

    name: str
    fields: Mapping[int, Kind] = field(default_factory=dict)


class Level(NamedTuple):
    """Some tables met on a walk, and the row of the outermost column each belongs to."""

    tables: TableVector
    owner: I64Array
    schema: Schema


class Run(NamedTuple):
    """Tables or vectors met on a walk, as half-open runs of bytes, and the row of each."""

    low: I64Array
    high: I64Array
    owner: I64Array


class SharedTexts(NamedTuple):
    """Strings met on a walk that may be shared.

    Attributes
    ----------
    places : ndarray of int64, shape (n,)
        Where the offsets that lead to them are; unit: bytes.
    starts, sizes : ndarray of int64, shape (n,)
        Where the texts are; unit: bytes.
    owner : ndarray of int64, shape (n,)
        Row of the outermost column each belongs to.
    """

    places: I64Array
    starts: I64Array
    sizes: I64Array
    owner: I64Array


class Extent(NamedTuple):
    """For each table the run of bytes with all its parts, and whether something is unknown.

    Attributes
    ----------
    low, high : ndarray of int64, shape (n,)
        Half open. Vtables, shared texts and the terminators of strings are not counted.
    unknown : ndarray of bool, shape (n,)
        Whether it or a table below has fields that the schema does not know.
    """

    low: I64Array
    high: I64Array
    unknown: BoolArray

    def include(self, rows: I64Array, low: I64Array, high: I64Array) -> None:
        """Widen the runs of some tables."""
        if len(rows) == len(self.low):
            np.minimum(self.low, low, out=self.low)
            np.maximum(self.high, high, out=self.high)
            return
        self.low[rows] = np.minimum(self.low[rows], low)
        self.high[rows] = np.maximum(self.high[rows], high)


class Walk:
    """Every known field of tables, visited.

    Parameters
    ----------
    tables : TableVector
        Outermost column.
    schema : Schema
        Its fields.

    Attributes
    ----------
    levels : list of Level
        Every table met; the first level is the outermost column.
    runs : list of Run
        All these tables, and every vector met but for shared texts.
    texts : list of SharedTexts
        Every string met that may be shared.
    extent : Extent
        Of the outermost column.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; a part is not inside the buffer, the kind of a table is
        unknown, or parts are used so often that they are out of proportion to the buffer.
    """

    def __init__(self, tables: TableVector, schema: Schema) -> None:
        self.levels: list[Level] = []
        self.runs: list[Run] = []
        self.texts: list[SharedTexts] = []
        rows = np.arange(len(tables), dtype=np.int64)
        self.extent = self._visit(Level(tables, rows, schema))

    def _visit(self, level: Level) -> Extent:
        self.levels.append(level)
        tables = level.tables
        sizes = tables.buffer.gather(tables.vtables + 2, "<u2").astype(np.int64)
        low, high = tables.positions, tables.positions + np.maximum(sizes, _OFFSET_BYTES)
        self.runs.append(Run(low, high, level.owner))
        fields = level.schema.fields
        extent = Extent(low.copy(), high.copy(), np.array(tables.has_slot_from(len(fields))))
        for slot, kind in fields.items():
            if isinstance(kind, Items):
                self._visit_items(level, slot, kind, extent)
            elif isinstance(kind, Many):
                self._visit_many(level, slot, kind, extent)
            elif isinstance(kind, One):
                self._visit_one(level, slot, kind, extent)
        return extent

    def _visit_items(self, level: Level, slot: int, kind: Items, extent: Extent) -> None:
        tables = level.tables
        sharing = _MOST_SHARING if kind.terminated else 1
        parts = tables.vector(slot, kind.name, kind.item_bytes, required=False, sharing=sharing)
        if not kind.shared:
            self._include_parts(level, extent, parts, kind.item_bytes)
            return
        rows = np.flatnonzero(parts.starts)
        places = field_places(tables, rows, slot)
        self.texts.append(
            SharedTexts(places, parts.starts[rows], parts.counts[rows], level.owner[rows])
        )

    def _visit_many(self, level: Level, slot: int, kind: Many, extent: Extent) -> None:
        tables = level.tables
        parts = tables.vector(slot, kind.name, _OFFSET_BYTES, required=False)
        self._include_parts(level, extent, parts, _OFFSET_BYTES)
        rows = np.flatnonzero(parts.counts)
        if not len(rows):
            return
        count = parts.counts[rows]
        first = np.cumsum(count) - count
        places = np.repeat(parts.starts[rows] - first * _OFFSET_BYTES, count)
        places += np.arange(len(places), dtype=np.int64) * _OFFSET_BYTES
        targets = places + tables.buffer.gather(places, "<u4").astype(np.int64)
        children = TableVector(tables.buffer, targets, kind.schema.name)
        inner = self._visit(Level(children, np.repeat(level.owner[rows], count), kind.schema))
        extent.include(
            rows, np.minimum.reduceat(inner.low, first), np.maximum.reduceat(inner.high, first)
        )
        extent.unknown[rows] |= np.logical_or.reduceat(inner.unknown, first)

    def _visit_one(self, level: Level, slot: int, kind: One, extent: Extent) -> None:
        tables = level.tables
        tags: npt.NDArray[np.integer] = np.zeros(len(tables), np.uint8)
        if kind.tag_slot is not None:
            tags = tables.scalar(kind.tag_slot, f"{kind.name}_type", "u1")
        for tag in np.flatnonzero(np.bincount(tags)).tolist():
            if tag not in kind.kinds:
                raise unknown_kind(tables.buffer, f"{tables.name}.{kind.name}", tag)
            schema = kind.kinds[tag]
            rows = np.flatnonzero(tags == tag)
            children = tables.take(rows).table(slot, kind.name, schema.name)
            inner = self._visit(Level(children, level.owner[rows], schema))
            extent.include(rows, inner.low, inner.high)
            extent.unknown[rows] |= inner.unknown

    def _include_parts(self, level: Level, extent: Extent, parts: Parts, item_bytes: int) -> None:
        rows = np.flatnonzero(parts.starts)
        starts, counts = parts.starts[rows], parts.counts[rows]
        run = Run(starts - _OFFSET_BYTES, starts + counts * item_bytes, level.owner[rows])
        self.runs.append(run)
        extent.include(rows, run.low, run.high)


def unknown_kind(buffer: Buffer, name: str, tag: int) -> FormatError:
    """Return the error to raise about a union tag that is not in the specification."""
    return buffer.error(
        name, f"kind {tag} is unknown; a newer icechunk may have written this file: upgrade"
    )


def field_places(tables: TableVector, rows: I64Array, slot: int) -> I64Array:
    """Return where a field is in the given tables, all of which have it."""
    entries = tables.vtables[rows] + _VTABLE_HEAD_BYTES + 2 * slot
    places: I64Array = tables.positions[rows] + tables.buffer.gather(entries, "<u2")
    return places
