"""Chunk references in columns: what manifests hold and change sets collect.

Source: Icechunk specification, section "Manifest" (table ChunkRef). One million references are a
handful of arrays, never a million objects. A table is sorted by coordinate and has each coordinate
once; `overlay` is how a newer table replaces parts of an older one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from icechunk.format import locations
from icechunk.format.ragged import Ragged, concat
from icechunk.ids import OBJECT_ID_BYTES, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from icechunk._typing import AnyArray, BoolArray, I64Array, U8Array, U32Array, U64Array

Coordinate: TypeAlias = tuple[int, ...]
"""Position of a chunk in its array's chunk grid, one number per dimension; unit: chunks."""

_LARGEST_LINEAR_KEY: Final = 2**63


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


@dataclass(frozen=True, slots=True)
class NativeRef:
    """A chunk stored as ``chunks/<id>`` of the repository; offset and length in bytes."""

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


class _Linear:
    """The coordinates of a table as one sortable number each, within their bounding box."""

    __slots__ = ("bounds", "dense", "keys", "origin", "strides")

    def __init__(self, coords: U32Array, box: U32Array) -> None:
        self.bounds = [(int(low), int(high)) for low, high in box]
        self.origin, self.strides = _strides(box)
        self.keys = _keys(coords, self.origin, self.strides)
        volume = 1
        for low, high in self.bounds:
            volume *= high - low
        self.dense = volume == len(coords)

    def find(self, coord: Coordinate) -> int:
        if self.strides is None:
            # numpy drops trailing NUL bytes of the keys it hands out, so they go here as well.
            wanted: Any = np.array(coord, ">u4").tobytes().rstrip(b"\0")
        else:
            wanted = 0
            for c, stride, (low, high) in zip(coord, self.strides, self.bounds, strict=True):
                if c < low or c >= high:
                    return -1
                wanted += (c - low) * stride
            if self.dense:
                return int(wanted)
            wanted = np.uint64(wanted)
        row = int(self.keys.searchsorted(wanted))
        return row if row < len(self.keys) and self.keys[row] == wanted else -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
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
    _linear: list[_Linear] = field(default_factory=list, repr=False)

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
                np.full(n, ChunkKind.NATIVE, np.uint8),
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
                np.full(len(data), ChunkKind.INLINE, np.uint8),
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
                np.full(n, ChunkKind.VIRTUAL, np.uint8),
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
        return _sorted(_table(coords, np.full(len(coords), ChunkKind.DELETED, np.uint8)))

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

    def _index(self) -> _Linear:
        if not self._linear:
            self._linear.append(_Linear(self.coords, self.extent()))
        return self._linear[0]

    def find(self, coord: Coordinate) -> int:
        """Return the row of a coordinate, -1 when it has none."""
        if not len(self) or len(coord) != self.coords.shape[1]:
            return -1
        return self._index().find(coord)

    def find_many(self, coords: U32Array) -> I64Array:
        """Return the row of each coordinate, -1 where it has none; shape ``(m,)``."""
        if not len(self) or not len(coords):
            return np.full(len(coords), -1, np.int64)
        origin, strides = _strides(_joint_box(self.coords, coords))
        mine = _keys(self.coords, origin, strides)
        wanted = _keys(coords, origin, strides)
        rows = np.minimum(mine.searchsorted(wanted), len(mine) - 1)
        return np.where(mine[rows] == wanted, rows, -1).astype(np.int64)

    def ref(self, row: int) -> ChunkRef | None:
        """Return one row as a value; None for a deletion."""
        kind = self.kind[row]
        if kind == ChunkKind.NATIVE:
            return NativeRef(
                ObjectId(self.chunk_id[row].tobytes()),
                int(self.offset[row]),
                int(self.length[row]),
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
            kind=self.kind[rows],
            chunk_id=self.chunk_id[rows],
            offset=self.offset[rows],
            length=self.length[rows],
            payload=self.payload.take(rows),
            packed=self.packed[rows],
            dictionary=self.dictionary,
            etag=None if self.etag is None else self.etag.take(rows),
            last_modified=self.last_modified[rows],
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
        return replace(
            self,
            payload=self.payload.compact(),
            etag=None if self.etag is None else self.etag.compact(),
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
    origin, strides = _strides(_joint_box(older.coords, newer.coords))
    old_keys, new_keys = (
        _keys(older.coords, origin, strides),
        _keys(newer.coords, origin, strides),
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
    return _stacked([older, newer]).take(order)


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
    return _sorted(_stacked(filled))


def sorted_unique(coords: U32Array) -> U32Array:
    """Return coordinates in lexicographic order, each once."""
    if len(coords) < 2:
        return coords
    keys = _keys(coords, *_strides(_joint_box(coords)))
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
    keys = _keys(coords, *_strides(_joint_box(coords)))
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
        offset=np.zeros(n, np.uint64) if offset is None else offset,
        length=np.zeros(n, np.uint64) if length is None else length,
        payload=Ragged.empty(n) if payload is None else payload,
        packed=np.zeros(n, np.bool_),
        dictionary=None,
        etag=etag,
        last_modified=np.zeros(n, np.uint32) if last_modified is None else last_modified,
    )


def _joint_box(*groups: U32Array) -> U32Array:
    ndim = groups[0].shape[1]
    box = np.empty((ndim, 2), np.uint64)
    box[:, 0] = np.min([coords.min(axis=0) for coords in groups], axis=0)
    box[:, 1] = np.max([coords.max(axis=0) for coords in groups], axis=0) + np.uint64(1)
    return box  # type: ignore[return-value]


def _strides(box: AnyArray) -> tuple[list[int], list[int] | None]:
    """Return origin and C-order strides of a box; no strides when its volume is too large."""
    origin = [int(low) for low in box[:, 0]]
    strides: list[int] = []
    volume = 1
    for low, high in box[::-1]:
        strides.insert(0, volume)
        volume *= int(high) - int(low)
    return origin, strides if volume < _LARGEST_LINEAR_KEY else None


def _keys(coords: U32Array, origin: list[int], strides: list[int] | None) -> AnyArray:
    """Return one sortable key per coordinate, in the order of the coordinates themselves.

    A box too large for 64 bits falls back to the big-endian bytes of the coordinates.
    """
    if strides is None:
        return coords.astype(">u4").view(f"S{4 * coords.shape[1]}").reshape(len(coords))
    keys = np.zeros(len(coords), np.uint64)
    for axis, stride in enumerate(strides):
        keys += (coords[:, axis].astype(np.uint64) - np.uint64(origin[axis])) * np.uint64(stride)
    return keys


def _stacked(tables: Sequence[ChunkTable]) -> ChunkTable:
    """Return all rows one table after the other, in no particular order."""
    dictionaries = {table.dictionary for table in tables if table.packed.any()}
    if len(dictionaries) > 1:
        tables = [table.unpacked() for table in tables]
    has_etag = any(table.etag is not None for table in tables)
    return ChunkTable(
        coords=np.concatenate([table.coords for table in tables]),
        kind=np.concatenate([table.kind for table in tables]),
        chunk_id=np.concatenate([table.chunk_id for table in tables]),
        offset=np.concatenate([table.offset for table in tables]),
        length=np.concatenate([table.length for table in tables]),
        payload=concat(table.payload for table in tables),
        packed=np.concatenate([table.packed for table in tables]),
        dictionary=next(iter(dictionaries)) if len(dictionaries) == 1 else None,
        etag=concat(_etags(table) for table in tables) if has_etag else None,
        last_modified=np.concatenate([table.last_modified for table in tables]),
    )


def _sorted(table: ChunkTable) -> ChunkTable:
    """Return the rows in order; of equal coordinates the last one stays."""
    if len(table) < 2:
        return table
    keys = _keys(table.coords, *_strides(_joint_box(table.coords)))
    if bool((keys[1:] > keys[:-1]).all()):
        return table
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    last = np.append(ordered[1:] != ordered[:-1], True)
    return table.take(order[last])
