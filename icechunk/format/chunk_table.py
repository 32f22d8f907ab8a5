"""Chunk references in columns: what manifests hold and change sets collect.

Source: Icechunk specification, section "Manifest" (table ChunkRef). One million references are a
handful of arrays, never a million objects. A table is sorted by coordinate and has each coordinate
once; `overlay` is how a newer table replaces parts of an older one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from icechunk.format import locations
from icechunk.format.columns import Places, constant, joined, separate, taken
from icechunk.format.linear import Linear, joint_box, keys_of, strides_of
from icechunk.format.ragged import Ragged, concat
from icechunk.ids import OBJECT_ID_BYTES, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from icechunk._typing import AnyArray, BoolArray, I64Array, U8Array, U32Array, U64Array

Coordinate: TypeAlias = tuple[int, ...]
"""Position of a chunk in its array's chunk grid, one number per dimension; unit: chunks."""


# So many are looked up one by one: the changes of a small commit, say.
_FEW_COORDINATES: Final = 4


class ChunkKind(IntEnum):
    """How a chunk's bytes are found."""

    INLINE = 1
    NATIVE = 2
    VIRTUAL = 3
    DELETED = 4
    """Only in change sets: the chunk is absent from now on. Manifests have no tombstones."""


@dataclass(frozen=True, slots=True)
class InlineRef:
    """A chunk whose bytes are in the manifest."""

    data: bytes


class NativeRef(NamedTuple):
    """A chunk stored as ``chunks/<id>`` of the repository; offset and length in bytes.

    A tuple, because one is made for every chunk that is read or written.
    """

    chunk_id: ObjectId
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class VirtualRef:
    """A chunk inside an object that is not the repository's; offset and length in bytes.

    ``etag`` and ``last_modified`` (seconds since the epoch, 0 for none) are the checksum the
    object must still satisfy when it is read.
    """

    location: str
    offset: int
    length: int
    etag: str | None
    last_modified: int


ChunkRef: TypeAlias = InlineRef | NativeRef | VirtualRef


@dataclass(frozen=True, slots=True, weakref_slot=True, kw_only=True, eq=False)
class ChunkTable:
    """Chunk references of one array, sorted by coordinate, each coordinate once.

    Parameters
    ----------
    coords : ndarray of uint32, shape (n, ndim)
        Chunk coordinates in lexicographic order; unit: chunks.
    kind : ndarray of uint8, shape (n,)
        A `ChunkKind` per row.
    chunk_id : ndarray of uint8, shape (n, 12)
        Ids of native chunks, zero elsewhere.
    offset, length : ndarray of uint64, shape (n,)
        Range inside the object, native and virtual rows; unit: bytes.
    payload : Ragged
        Bytes of inline chunks; location of virtual ones (UTF-8, or a frame where ``packed``).
    packed : ndarray of bool, shape (n,)
        Rows whose location is a zstd frame made with ``dictionary``.
    dictionary : bytes or None
        The zstd dictionary of the packed rows.
    etag : Ragged or None
        Expected etags of virtual chunks, empty where there is none.
    last_modified : ndarray of uint32, shape (n,)
        Latest allowed modification time of virtual chunks; unit: seconds since the epoch, 0 none.
    """

    coords: U32Array
    kind: U8Array
    chunk_id: U8Array
    offset: U64Array
    length: U64Array
    payload: Ragged
    packed: BoolArray
    dictionary: bytes | None
    etag: Ragged | None
    last_modified: U32Array
    _linear: list[Linear] = field(default_factory=list, repr=False)

    # -- construction -------------------------------------------------------------------------

    @classmethod
    def empty(cls, ndim: int) -> ChunkTable:
        """Return a table without rows for an array of ``ndim`` dimensions."""
        return _table(np.zeros((0, ndim), np.uint32), np.zeros(0, np.uint8))

    @classmethod
    def native(
        cls, coords: AnyArray, chunk_id: U8Array, length: AnyArray, offset: AnyArray | None = None
    ) -> ChunkTable:
        """Return references to native chunks; of equal coordinates the last one stays."""
        n = len(coords)
        return _sorted(
            _table(
                _coordinates(coords),
                constant(ChunkKind.NATIVE, n, np.uint8),
                chunk_id=np.ascontiguousarray(chunk_id, np.uint8).reshape(n, OBJECT_ID_BYTES),
                offset=None if offset is None else np.asarray(offset, np.uint64),
                length=np.asarray(length, np.uint64),
            )
        )

    @classmethod
    def inline(cls, coords: AnyArray, data: Sequence[bytes]) -> ChunkTable:
        """Return inline chunks; of equal coordinates the last one stays."""
        payload = Ragged.from_list(data)
        return _sorted(
            _table(
                _coordinates(coords),
                constant(ChunkKind.INLINE, len(data), np.uint8),
                payload=payload,
                length=payload.size.astype(np.uint64),
            )
        )

    @classmethod
    def virtual(
        cls,
        coords: AnyArray,
        location: Ragged,
        offset: AnyArray,
        length: AnyArray,
        *,
        etag: Ragged | None = None,
        last_modified: AnyArray | None = None,
    ) -> ChunkTable:
        """Return references to virtual chunks; of equal coordinates the last one stays."""
        n = len(coords)
        return _sorted(
            _table(
                _coordinates(coords),
                constant(ChunkKind.VIRTUAL, n, np.uint8),
                offset=np.asarray(offset, np.uint64),
                length=np.asarray(length, np.uint64),
                payload=location,
                etag=etag,
                last_modified=None if last_modified is None else np.asarray(last_modified, "u4"),
            )
        )

    @classmethod
    def deleted(cls, coords: AnyArray) -> ChunkTable:
        """Return the record that these coordinates have no chunk any more."""
        coords = _coordinates(coords)
        return _sorted(_table(coords, constant(ChunkKind.DELETED, len(coords), np.uint8)))

    @classmethod
    def one(cls, coord: Coordinate, ref: ChunkRef | None) -> ChunkTable:
        """Return a table of one row; ``None`` records a deletion."""
        coords = np.array([coord], np.uint32).reshape(1, len(coord))
        match ref:
            case None:
                return cls.deleted(coords)
            case InlineRef(data):
                return cls.inline(coords, [data])
            case NativeRef(chunk_id, offset, length):
                ids = np.frombuffer(chunk_id, np.uint8).reshape(1, OBJECT_ID_BYTES)
                return cls.native(coords, ids, [length], [offset])  # type: ignore[arg-type]
            case VirtualRef(location, offset, length, etag, last_modified):
                return cls.virtual(
                    coords,
                    Ragged.from_list([location.encode()]),
                    np.array([offset], np.uint64),
                    np.array([length], np.uint64),
                    etag=Ragged.from_list([etag.encode()]) if etag else None,
                    last_modified=np.array([last_modified], np.uint32),
                )

    # -- reading ------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.coords)

    @property
    def ndim(self) -> int:
        """Number of dimensions of the coordinates."""
        return int(self.coords.shape[1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChunkTable):
            return NotImplemented
        mine, theirs = self.unpacked(), other.unpacked()
        return (
            mine.coords.shape == theirs.coords.shape
            and all(
                np.array_equal(getattr(mine, name), getattr(theirs, name))
                for name in ("coords", "kind", "chunk_id", "offset", "length", "last_modified")
            )
            and mine.payload.tolist() == theirs.payload.tolist()
            and _etags(mine).tolist() == _etags(theirs).tolist()
        )

    __hash__ = None  # type: ignore[assignment]

    def _index(self) -> Linear:
        if not self._linear:
            self._linear.append(Linear(self.coords, self.extent()))
        return self._linear[0]

    def indexed(self) -> ChunkTable:
        """Return this table, made ready for many lookups."""
        if len(self):
            self._index()
        return self

    def find(self, coord: Coordinate) -> int:
        """Return the row of a coordinate, -1 when it has none."""
        if not len(self) or len(coord) != self.coords.shape[1]:
            return -1
        return self._index().find(coord)

    def find_many(self, coords: U32Array) -> I64Array:
        """Return the row of each coordinate, -1 where it has none; shape ``(m,)``."""
        if not len(self) or not len(coords):
            return np.full(len(coords), -1, np.int64)
        if len(coords) <= _FEW_COORDINATES and coords.shape[1] == self.ndim:
            return np.array([self.find(tuple(coord)) for coord in coords.tolist()], np.int64)
        if self._linear and self._linear[0].strides is not None:
            return self._linear[0].find_many(coords)
        origin, strides = strides_of(joint_box(self.coords, coords))
        mine = keys_of(self.coords, origin, strides)
        wanted = keys_of(coords, origin, strides)
        rows = np.minimum(mine.searchsorted(wanted), len(mine) - 1)
        return np.where(mine[rows] == wanted, rows, -1).astype(np.int64)

    def ref(self, row: int) -> ChunkRef | None:
        """Return one row as a value; None for a deletion."""
        kind = self.kind.item(row)  # `item` and no scalars of numpy: this is what a read waits for
        if kind == ChunkKind.NATIVE:
            return NativeRef(
                ObjectId(self.chunk_id[row].tobytes()),
                self.offset.item(row),
                self.length.item(row),
            )
        if kind == ChunkKind.INLINE:
            return InlineRef(self.payload[row])
        if kind == ChunkKind.DELETED:
            return None
        single = self.take(slice(row, row + 1)).unpacked()
        return VirtualRef(
            single.payload[0].decode("utf-8", "surrogateescape"),
            int(single.offset[0]),
            int(single.length[0]),
            (_etags(single)[0].decode("utf-8", "surrogateescape") or None),
            int(single.last_modified[0]),
        )

    def extent(self) -> U32Array:
        """Return the tight bounding box, half open: shape ``(ndim, 2)``; unit: chunks."""
        if not len(self):
            return np.zeros((self.ndim, 2), np.uint32)
        box = np.empty((self.ndim, 2), np.uint32)
        box[:, 0] = self.coords.min(axis=0)
        box[:, 1] = self.coords.max(axis=0) + np.uint32(1)
        return box

    def within(self, box: U32Array) -> BoolArray:
        """Say for each row whether it lies in a half-open box of shape ``(ndim, 2)``."""
        inside = np.ones(len(self), np.bool_)
        for axis in range(self.ndim):
            column = self.coords[:, axis]
            inside &= (column >= box[axis, 0]) & (column < box[axis, 1])
        return inside

    def starting_with(self, within: Coordinate) -> I64Array:
        """Return the rows whose coordinate begins with the given numbers."""
        if len(within) > self.ndim:
            return np.zeros(0, np.int64)
        return np.flatnonzero((self.coords[:, : len(within)] == within).all(axis=1))

    # -- selecting and combining --------------------------------------------------------------

    def batches(self, rows: int | None) -> Iterator[ChunkTable]:
        """Yield the table in parts of at most so many rows; nothing for an empty table."""
        if rows is None or len(self) <= rows:
            if len(self):
                yield self
            return
        for start in range(0, len(self), rows):
            yield self.take(slice(start, start + rows))

    def take(self, rows: I64Array | BoolArray | slice) -> ChunkTable:
        """Return selected rows, which must be in ascending order."""
        return ChunkTable(
            coords=self.coords[rows],
            kind=taken(self.kind, rows),
            chunk_id=self.chunk_id[rows],
            offset=taken(self.offset, rows),
            length=taken(self.length, rows),
            payload=self.payload.take(rows),
            packed=taken(self.packed, rows),
            dictionary=self.dictionary,
            etag=None if self.etag is None else self.etag.take(rows),
            last_modified=taken(self.last_modified, rows),
        )

    def relocated(self, coords: AnyArray) -> ChunkTable:
        """Return the rows at other coordinates; of rows that meet at one, the last stays.

        Parameters
        ----------
        coords : ndarray of integers, shape (n, ndim)
            New coordinate of each row, each >= 0; unit: chunks.
        """
        return _sorted(replace(self, coords=_coordinates(coords), _linear=[]))

    def without_deleted(self) -> ChunkTable:
        """Return the table without its deletions."""
        present = self.kind != ChunkKind.DELETED
        return self if bool(present.all()) else self.take(present)

    def compact(self) -> ChunkTable:
        """Return the table over buffers that hold nothing else."""
        return ChunkTable(
            coords=separate(self.coords),
            kind=separate(self.kind),
            chunk_id=separate(self.chunk_id),
            offset=separate(self.offset),
            length=separate(self.length),
            payload=self.payload.compact(),
            packed=separate(self.packed),
            dictionary=self.dictionary,
            etag=None if self.etag is None else self.etag.compact(),
            last_modified=separate(self.last_modified),
        )

    def unpacked(self) -> ChunkTable:
        """Return the table with every location as plain text.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; a frame is damaged.
        """
        if self.dictionary is None:
            return self
        rows = np.flatnonzero(self.packed)
        plain = locations.unpack(self.payload.take(rows), self.dictionary)
        if len(rows) == len(self):
            return replace(
                self, payload=plain, packed=np.zeros(len(self), np.bool_), dictionary=None
            )
        rest = self.payload.take(~self.packed).compact()
        both = concat([rest, plain])
        order = np.empty(len(self), np.int64)
        order[np.flatnonzero(~self.packed)] = np.arange(len(rest))
        order[rows] = np.arange(len(rest), len(self))
        return replace(
            self,
            payload=both.take(order),
            packed=np.zeros(len(self), np.bool_),
            dictionary=None,
        )


def overlay(older: ChunkTable, newer: ChunkTable) -> ChunkTable:
    """Return the rows of both tables, the newer one's where both have a coordinate.

    Notes
    -----
    Cost: O(n + m), no sort, since both are sorted.
    """
    if not len(older):
        return newer
    if not len(newer):
        return older
    origin, strides = strides_of(joint_box(older.coords, newer.coords))
    old_keys, new_keys = (
        keys_of(older.coords, origin, strides),
        keys_of(newer.coords, origin, strides),
    )
    if old_keys[-1] < new_keys[0]:
        return _stacked([older, newer])
    where = old_keys.searchsorted(new_keys)
    hit = old_keys[np.minimum(where, len(old_keys) - 1)] == new_keys
    kept = np.ones(len(older), np.bool_)
    kept[where[hit]] = False
    survivors = np.flatnonzero(kept)
    # Where a new row goes: after the surviving old rows below it and the new rows before it.
    below = np.concatenate([[0], np.cumsum(kept)])[where]
    target = below + np.arange(len(newer))
    order = np.empty(len(survivors) + len(newer), np.int64)
    is_new = np.zeros(len(order), np.bool_)
    is_new[target] = True
    order[is_new] = np.arange(len(older), len(older) + len(newer))
    order[~is_new] = survivors
    return _stacked([older, newer], Places.of(order, len(older) + len(newer)))


def merged(tables: Sequence[ChunkTable]) -> ChunkTable:
    """Return the rows of all tables, the last table's where several have a coordinate.

    Parameters
    ----------
    tables : sequence of ChunkTable
        At least one, all of the same number of dimensions, oldest first.
    """
    filled = [table for table in tables if len(table)]
    if len(filled) <= 1:
        return filled[0] if filled else tables[0]
    if len(filled) == 2:
        return overlay(filled[0], filled[1])
    return _stacked(filled, _places(filled))


def _places(tables: Sequence[ChunkTable]) -> Places | None:
    """Return where the rows of tables go, one table after the other; None when they stay.

    Only the last row of a coordinate has a place.
    """
    rows = _rows_in_order(_joint_keys(tables))
    return None if rows is None else Places.of(rows, sum(map(len, tables)))


def share_coordinates(tables: Sequence[ChunkTable]) -> bool:
    """Say whether a coordinate is in more than one of several tables of one rank."""
    filled = [table for table in tables if len(table)]
    if len(filled) < 2:
        return False
    keys = _joint_keys(filled)
    if bool((keys[1:] > keys[:-1]).all()):
        return False
    keys.sort()
    return bool((keys[1:] == keys[:-1]).any())


def _joint_keys(tables: Sequence[ChunkTable]) -> AnyArray:
    """Return the keys of all rows, one table after the other."""
    origin, strides = strides_of(joint_box(*[table.coords for table in tables]))
    if strides is None:
        return np.concatenate([keys_of(table.coords, origin, None) for table in tables])
    keys = np.empty(sum(map(len, tables)), np.uint64)
    at = 0
    for table in tables:
        keys[at : at + len(table)] = keys_of(table.coords, origin, strides)
        at += len(table)
    return keys


def sorted_unique(coords: U32Array) -> U32Array:
    """Return coordinates in lexicographic order, each once."""
    if len(coords) < 2:
        return coords
    keys = keys_of(coords, *strides_of(joint_box(coords)))
    if bool((keys[1:] > keys[:-1]).all()):
        return coords
    _, first = np.unique(keys, return_index=True)
    return coords[first]


def rows_by_coordinate(coords: U32Array) -> list[I64Array | slice]:
    """Return the rows of each distinct coordinate, in coordinate order; rows stay in their order.

    Notes
    -----
    Cost: O(n) where equal coordinates are together, as regions of a sorted table often are.
    """
    keys = keys_of(coords, *strides_of(joint_box(coords)))
    cuts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    if bool((keys[cuts] > keys[cuts - 1]).all()):
        bounds = [0, *cuts.tolist(), len(keys)]
        return [slice(a, b) for a, b in pairwise(bounds)]
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    return list(np.split(order, np.flatnonzero(ordered[1:] != ordered[:-1]) + 1))


def _coordinates(coords: AnyArray) -> U32Array:
    return np.ascontiguousarray(coords, np.uint32)


def _etags(table: ChunkTable) -> Ragged:
    return Ragged.empty(len(table)) if table.etag is None else table.etag


def _table(
    coords: U32Array,
    kind: U8Array,
    *,
    chunk_id: U8Array | None = None,
    offset: U64Array | None = None,
    length: U64Array | None = None,
    payload: Ragged | None = None,
    etag: Ragged | None = None,
    last_modified: U32Array | None = None,
) -> ChunkTable:
    n = len(coords)
    return ChunkTable(
        coords=coords,
        kind=kind,
        chunk_id=np.zeros((n, OBJECT_ID_BYTES), np.uint8) if chunk_id is None else chunk_id,
        offset=constant(0, n, np.uint64) if offset is None else offset,
        length=constant(0, n, np.uint64) if length is None else length,
        payload=Ragged.empty(n) if payload is None else payload,
        packed=constant(False, n, np.bool_),
        dictionary=None,
        etag=etag,
        last_modified=constant(0, n, np.uint32) if last_modified is None else last_modified,
    )


def _stacked(tables: Sequence[ChunkTable], places: Places | None = None) -> ChunkTable:
    """Return all rows one table after the other, or each at its place; column by column."""
    dictionaries = {table.dictionary for table in tables if table.packed.any()}
    if len(dictionaries) > 1:
        tables = [table.unpacked() for table in tables]

    def column(name: str) -> Any:
        return joined([getattr(table, name) for table in tables], places)

    def strings(columns: list[Ragged]) -> Ragged:
        whole = concat(columns)
        if places is None:
            return whole
        return Ragged(whole.data, joined([whole.start], places), joined([whole.size], places))

    has_etag = any(table.etag is not None for table in tables)
    return ChunkTable(
        coords=column("coords"),
        kind=column("kind"),
        chunk_id=column("chunk_id"),
        offset=column("offset"),
        length=column("length"),
        payload=strings([table.payload for table in tables]),
        packed=column("packed"),
        dictionary=next(iter(dictionaries)) if len(dictionaries) == 1 else None,
        etag=strings([_etags(table) for table in tables]) if has_etag else None,
        last_modified=column("last_modified"),
    )


def _sorted(table: ChunkTable) -> ChunkTable:
    """Return the rows in order; of equal coordinates the last one stays."""
    rows = _sorted_rows(table.coords)
    return table if rows is None else table.take(rows)


def _sorted_rows(coords: U32Array) -> I64Array | None:
    """Return the rows in order, of equal coordinates the last; None when they are so already."""
    if len(coords) < 2:
        return None
    return _rows_in_order(keys_of(coords, *strides_of(joint_box(coords))))


def _rows_in_order(keys: AnyArray) -> I64Array | None:
    """Return the rows in the order of their keys, of equal keys the last; None when they are so."""
    if bool((keys[1:] > keys[:-1]).all()):
        return None
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True)
    return order if bool(last.all()) else order[last]
