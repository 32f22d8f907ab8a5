"""The snapshot graph of a repository: every registered snapshot and its parent.

Source: Icechunk specification, section "Repo (file type 6, v2 only)". Parents are stored as
positions in the list, which is sorted by id, so that inserting one snapshot shifts the positions of
others: they are kept as one column, and set in all tables at once when the file is written.
"""

from __future__ import annotations

import struct as _struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from icechunk.errors import ErrorKind, FormatError, SnapshotNotFoundError
from icechunk.format.fb import writer
from icechunk.format.fb.schema import Items, Many, Number, Schema, text
from icechunk.format.fb.splice import Rows
from icechunk.format.values import METADATA_ITEM, metadata_fields, read_metadata, utf8
from icechunk.ids import OBJECT_ID_BYTES, ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from icechunk._typing import AnyArray, I32Array, I64Array, U8Array, U64Array
    from icechunk.format.fb.reader import Buffer, TableVector
    from icechunk.format.fb.writer import Blobs, Fields

_PARENT_SLOT: Final = 1
SNAPSHOT_INFO: Final = Schema(
    "SnapshotInfo",
    {
        0: Number("id", OBJECT_ID_BYTES, 1),
        _PARENT_SLOT: Number("parent_offset", 4, 4),
        2: Number("flushed_at", 8, 8),
        3: text("message"),
        4: Many("metadata", METADATA_ITEM),
        5: Items("pruned_ancestor_tx_logs", OBJECT_ID_BYTES),
    },
)

_U64: Final = _struct.Struct("<Q")
_ID_KEY: Final = f"S{OBJECT_ID_BYTES}"
_ROOT: Final = -1
# After so many searches for single ids a dictionary of all pays.
_SEARCHES_BEFORE_INDEX: Final = 32


class _Details(NamedTuple):
    flushed_at_us: int
    message: str
    metadata: Mapping[str, Any]
    pruned_logs: tuple[ObjectId, ...]


class SnapshotRecord:
    """What the repo object holds of a snapshot.

    Records out of a file know id and parent; the rest is decoded when first asked for, so that a
    long history can be walked at no cost, and raises FormatError when it is damaged.

    Parameters
    ----------
    id : ObjectId
        Of the snapshot.
    parent_id : ObjectId or None
        None for a root.
    flushed_at_us : int
        Commit time; microseconds since the Unix epoch.
    message : str
        Commit message.
    metadata : mapping
        Commit metadata.
    pruned_logs : sequence of ObjectId
        Transaction logs, oldest first, of snapshots that were removed between this one and its
        present parent.
    """

    __slots__ = ("_details", "_source", "id", "parent_id")

    def __init__(
        self,
        *,
        id: ObjectId,  # noqa: A002
        parent_id: ObjectId | None,
        flushed_at_us: int,
        message: str,
        metadata: Mapping[str, Any],
        pruned_logs: Sequence[ObjectId] = (),
    ) -> None:
        self.id = id
        self.parent_id = parent_id
        self._details: _Details | None = _Details(
            flushed_at_us, message, metadata, tuple(pruned_logs)
        )
        self._source: tuple[Rows, int] | None = None

    @classmethod
    def in_file(
        cls, snapshot_id: ObjectId, parent_id: ObjectId | None, rows: Rows, row: int
    ) -> SnapshotRecord:
        """Return the record of a table that is not decoded yet."""
        record = object.__new__(cls)
        record.id = snapshot_id
        record.parent_id = parent_id
        record._details = None
        record._source = (rows, row)
        return record

    @property
    def flushed_at_us(self) -> int:
        """Commit time; microseconds since the Unix epoch."""
        return self._read().flushed_at_us

    @property
    def message(self) -> str:
        """Commit message."""
        return self._read().message

    @property
    def metadata(self) -> dict[str, Any]:
        """Commit metadata, a fresh dict at the top level."""
        return dict(self._read().metadata)

    @property
    def pruned_logs(self) -> tuple[ObjectId, ...]:
        """Logs of the removed snapshots between this one and its parent, oldest first."""
        return self._read().pruned_logs

    def moved(self, parent_id: ObjectId | None, pruned_logs: Sequence[ObjectId]) -> SnapshotRecord:
        """Return the record under another parent, with another list of pruned logs."""
        details = self._read()
        return SnapshotRecord(
            id=self.id,
            parent_id=parent_id,
            flushed_at_us=details.flushed_at_us,
            message=details.message,
            metadata=details.metadata,
            pruned_logs=pruned_logs,
        )

    def _read(self) -> _Details:
        if self._details is None:
            assert self._source is not None
            self._details = _read_details(*self._source)
        return self._details

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SnapshotRecord):
            return NotImplemented
        return (self.id, self.parent_id, self._read()) == (
            other.id,
            other.parent_id,
            other._read(),
        )

    def __hash__(self) -> int:
        return hash((self.id, self.parent_id))

    def __repr__(self) -> str:
        return f"<SnapshotRecord {id_text(self.id)}: {self.message!r}>"


def _read_details(rows: Rows, row: int) -> _Details:
    table = rows.table(row)
    pruned = table.vector(5, "pruned_ancestor_tx_logs", OBJECT_ID_BYTES)
    logs: tuple[ObjectId, ...] = ()
    if pruned is not None:
        stop = pruned.first + pruned.length * OBJECT_ID_BYTES
        data = table.buffer.data
        logs = tuple(
            ObjectId(data[at : at + OBJECT_ID_BYTES])
            for at in range(pruned.first, stop, OBJECT_ID_BYTES)
        )
    return _Details(
        flushed_at_us=table.number(2, "flushed_at", _U64),
        message=table.required_text(3, "message"),
        metadata=read_metadata(table.tables(4, "metadata", METADATA_ITEM.name)),
        pruned_logs=logs,
    )


def _record_fields(record: SnapshotRecord) -> Fields:
    logs = record.pruned_logs
    return {
        0: writer.struct(record.id),
        # Always there, so that it can be set in place when positions shift.
        _PARENT_SLOT: writer.struct(bytes(4), align=4),
        2: writer.u64(record.flushed_at_us),
        3: writer.string(utf8(record.message, "the commit message")),
        4: metadata_fields(record.metadata),
        5: writer.vector(b"".join(logs), len(logs), 1) if logs else None,
    }


class SnapshotTable:
    """Registered snapshots sorted by id, immutable.

    Parameters
    ----------
    ids : ndarray of uint8, shape (n, 12)
        Ids, ascending.
    parents : ndarray of int32, shape (n,)
        Row of each one's parent, -1 for roots.
    rows : Rows
        Their tables; what these hold as parent does not count.

    Notes
    -----
    Concurrency: safe to share among threads; what is cached is computed equally by all.
    """

    __slots__ = ("_id_list", "_index", "_parent_list", "_rows", "_searches", "ids", "parents")

    def __init__(self, ids: U8Array, parents: I32Array, rows: Rows) -> None:
        self.ids = ids
        self.parents = parents
        self._rows = rows
        self._id_list: list[ObjectId] | None = None
        self._parent_list: list[int] | None = None
        self._index: dict[bytes, int] | None = None
        self._searches = 0

    @classmethod
    def of(cls, records: Iterable[SnapshotRecord]) -> SnapshotTable:
        """Return a table of records given in any order.

        Raises
        ------
        FormatError
            Kind ``duplicate-snapshot-id``, or ``invalid-file-format`` for a cycle.
        SnapshotNotFoundError
            A parent is not among them.
        """
        ordered = sorted(records, key=lambda record: record.id)
        row_of = {record.id: row for row, record in enumerate(ordered)}
        parents = np.empty(len(ordered), np.int32)
        for row, record in enumerate(ordered):
            if row_of[record.id] != row:
                raise _duplicate(record.id, "new repo")
            parents[row] = _row_of(record.parent_id, row_of)
        joined = b"".join(record.id for record in ordered)
        ids = np.frombuffer(joined, np.uint8).reshape(len(ordered), OBJECT_ID_BYTES)
        rows = Rows.of([_record_fields(r) for r in ordered], SNAPSHOT_INFO, "new repo")
        _check_tree(parents, rows.buffer)
        return cls(ids, parents, rows)

    @classmethod
    def from_column(cls, tables: TableVector) -> SnapshotTable:
        """Return the snapshots in a file.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``: not sorted by id, a parent that is no row, a cycle;
            ``duplicate-snapshot-id``.
        """
        ids = tables.struct(0, "id", OBJECT_ID_BYTES)
        parents = tables.scalar(_PARENT_SLOT, "parent_offset", "<i4").astype(np.int32, copy=False)
        keys = _id_keys(ids)
        if not bool((keys[1:] > keys[:-1]).all()):
            same = np.flatnonzero(keys[1:] == keys[:-1])
            if len(same):
                raise _duplicate(ObjectId(ids[same[0]].tobytes()), tables.buffer.key)
            raise tables.buffer.error("Repo.snapshots", "not sorted by id")
        _check_tree(parents, tables.buffer)
        return cls(ids, parents, Rows(tables.buffer, SNAPSHOT_INFO, tables.positions))

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, snapshot_id: object) -> bool:
        return isinstance(snapshot_id, bytes) and self.row(snapshot_id) >= 0

    def __iter__(self) -> Iterator[SnapshotRecord]:
        return (self._record(row) for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SnapshotTable):
            return NotImplemented
        return len(self) == len(other) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<SnapshotTable of {len(self)} snapshots>"

    @property
    def flushed_at_us(self) -> U64Array:
        """Commit time of each, shape ``(n,)``; microseconds since the Unix epoch."""
        times = self._rows.column().scalar(2, "flushed_at", "<u8")
        return times.astype(np.uint64, copy=False)

    def row(self, snapshot_id: bytes) -> int:
        """Return the row of a snapshot, -1 when it is not here."""
        if self._index is None:
            self._searches += 1
            if self._searches <= _SEARCHES_BEFORE_INDEX:
                row = int(_id_keys(self.ids).searchsorted(np.array(snapshot_id, _ID_KEY)))
                found = row < len(self) and self.ids[row].tobytes() == snapshot_id
                return row if found else -1
            self._index = {raw: row for row, raw in enumerate(self._ids())}
        return self._index.get(snapshot_id, -1)

    def id_at(self, row: int) -> ObjectId:
        """Return the id in a row."""
        return ObjectId(self.ids[row].tobytes())

    def get(self, snapshot_id: bytes) -> SnapshotRecord | None:
        """Return the record of a snapshot, None when it is not registered."""
        row = self.row(snapshot_id)
        return None if row < 0 else self._record(row)

    def ancestor_ids(self, snapshot_id: ObjectId) -> Iterator[ObjectId]:
        """Yield a snapshot and all before it, newest first.

        Raises
        ------
        SnapshotNotFoundError
            Kind ``snapshot-not-found``; at the call.
        """
        ids = self._ids()
        return (ids[row] for row in self._ancestor_rows(snapshot_id))

    def ancestry(self, snapshot_id: ObjectId) -> Iterator[SnapshotRecord]:
        """Yield the records of a snapshot and all before it; raises as `ancestor_ids`."""
        return (self._record(row) for row in self._ancestor_rows(snapshot_id))

    def inserted(self, record: SnapshotRecord) -> SnapshotTable:
        """Return the table with one snapshot more.

        Raises
        ------
        FormatError
            Kind ``duplicate-snapshot-id``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``; its parent is not registered.
        """
        if record.id in self:
            raise _duplicate(record.id, self._rows.buffer.key)
        parent = _ROOT if record.parent_id is None else self.row(record.parent_id)
        if record.parent_id is not None and parent < 0:
            raise _unknown(record.parent_id)
        at = int(_id_keys(self.ids).searchsorted(np.array(record.id, _ID_KEY)))
        parents = np.concatenate((self.parents[:at], [parent], self.parents[at:]), dtype=np.int32)
        parents += parents >= at
        rows = self._rows.joined(Rows.of([_record_fields(record)], SNAPSHOT_INFO, "new repo"))
        order = np.arange(len(rows))
        order[at], order[at + 1 :] = len(self), order[at:-1].copy()
        raw = np.frombuffer(record.id, np.uint8).reshape(1, OBJECT_ID_BYTES)
        ids = np.concatenate((self.ids[:at], raw, self.ids[at:]))
        return SnapshotTable(ids, parents, rows.take(order))

    def replaced(
        self, records: Iterable[SnapshotRecord], removed_ids: Iterable[ObjectId] = ()
    ) -> SnapshotTable:
        """Return the table with some records set anew and others removed.

        Parameters
        ----------
        records : iterable of SnapshotRecord
            New content of registered snapshots; their parents must stay registered.
        removed_ids : iterable of ObjectId
            Snapshots to remove. What stays must not have one of them as parent.

        Raises
        ------
        SnapshotNotFoundError
            Kind ``snapshot-not-found``; a record or a parent of what stays is not registered.
        FormatError
            Kind ``invalid-file-format``; the parents would form a cycle.
        """
        keep = np.ones(len(self), np.bool_)
        for snapshot_id in removed_ids:
            row = self.row(snapshot_id)
            if row >= 0:
                keep[row] = False
        # The last place serves roots, whose parent is row -1.
        new_row = np.append(np.cumsum(keep) - 1, _ROOT)
        new_row[:-1][~keep] = _ROOT - 1
        parents = new_row[self.parents].astype(np.int32)
        order = np.arange(len(self), dtype=np.int64)
        new = list(records)
        for place, record in enumerate(new):
            row = self.row(record.id)
            if row < 0 or not keep[row]:
                raise _unknown(record.id)
            order[row] = len(self) + place
            parent = _ROOT if record.parent_id is None else self.row(record.parent_id)
            if record.parent_id is not None and (parent < 0 or not keep[parent]):
                raise _unknown(record.parent_id)
            parents[row] = new_row[parent]
        parents = parents[keep]
        lost = np.flatnonzero(parents < _ROOT)
        if len(lost):
            orphan = np.flatnonzero(keep)[lost[0]]
            raise _unknown(self.id_at(int(self.parents[orphan])))
        fresh = Rows.of([_record_fields(record) for record in new], SNAPSHOT_INFO, "new repo")
        rows = self._rows.joined(fresh).take(order[keep])
        _check_tree(parents, rows.buffer)
        return SnapshotTable(self.ids[keep], parents, rows)

    def blobs(self) -> Blobs:
        """Return the encoded snapshots as the value of a field; raises as `Rows.spliced`."""
        spliced = self._rows.spliced(explicit=(_PARENT_SLOT,))
        if len(self):
            spliced.set_numbers(_PARENT_SLOT, self.parents)
        return spliced.blobs()

    def _ids(self) -> list[ObjectId]:
        if self._id_list is None:
            raw = self.ids.tobytes()
            self._id_list = [
                ObjectId(raw[at : at + OBJECT_ID_BYTES])
                for at in range(0, len(raw), OBJECT_ID_BYTES)
            ]
        return self._id_list

    def _parents(self) -> list[int]:
        if self._parent_list is None:
            self._parent_list = self.parents.tolist()
        return self._parent_list

    def _ancestor_rows(self, snapshot_id: ObjectId) -> list[int]:
        row = self.row(snapshot_id)
        if row < 0:
            raise _unknown(snapshot_id)
        parents = self._parents()
        rows = []
        while row >= 0:
            rows.append(row)
            row = parents[row]
        return rows

    def _record(self, row: int) -> SnapshotRecord:
        ids, parent = self._ids(), self._parents()[row]
        parent_id = ids[parent] if parent >= 0 else None
        return SnapshotRecord.in_file(ids[row], parent_id, self._rows, row)


def _id_keys(ids: U8Array) -> AnyArray:
    """Return ids as fixed strings, which numpy compares byte by byte."""
    keys: AnyArray = np.ascontiguousarray(ids).reshape(-1).view(_ID_KEY)
    return keys


def _row_of(parent_id: ObjectId | None, row_of: Mapping[ObjectId, int]) -> int:
    if parent_id is None:
        return _ROOT
    if parent_id not in row_of:
        raise _unknown(parent_id)
    return row_of[parent_id]


def _unknown(snapshot_id: bytes) -> SnapshotNotFoundError:
    return SnapshotNotFoundError(f"snapshot {id_text(snapshot_id)} is not registered")


def _duplicate(snapshot_id: bytes, key: str) -> FormatError:
    return FormatError(
        f"{key}: snapshot {id_text(snapshot_id)} is registered twice",
        ErrorKind.DUPLICATE_SNAPSHOT_ID,
    )


def _check_tree(parents: I32Array, buffer: Buffer) -> None:
    """Check that every parent is a row, and that every chain of parents ends at a root."""
    n = len(parents)
    if not n:
        return
    if int(parents.min()) < _ROOT or int(parents.max()) >= n:
        raise buffer.error("SnapshotInfo.parent_offset", f"a parent that is none of {n} snapshots")
    # Follow all chains at once, twice as far in each step; row n stands for "beyond the root".
    reach: I64Array = np.append(parents.astype(np.int64), n)
    reach[reach == _ROOT] = n
    steps = 1
    while steps < n:
        reach = reach[reach]
        steps *= 2
    if not bool((reach == n).all()):
        raise buffer.error("SnapshotInfo.parent_offset", "the chain of parents is a cycle")
