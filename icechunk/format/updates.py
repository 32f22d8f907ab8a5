"""The operations log: what was done to a repository, newest first.

Source: Icechunk specification, sections "Repo (file type 6, v2 only)" and "Operations log". The
table `_KINDS` is the one of the specification: tag, name, and fields in the order of their slots.
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from icechunk.errors import FormatError
from icechunk.format.fb import writer
from icechunk.format.fb.schema import Number, One, Schema, text, unknown_kind
from icechunk.format.fb.splice import Rows
from icechunk.format.values import utf8
from icechunk.ids import OBJECT_ID_BYTES, ObjectId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from icechunk.format.fb.reader import TableVector
    from icechunk.format.fb.schema import Kind
    from icechunk.format.fb.table import Table
    from icechunk.format.fb.writer import Blobs, Fields, Value

_U8: Final = _struct.Struct("<B")
_U16: Final = _struct.Struct("<H")
_U64: Final = _struct.Struct("<Q")


class RepoAvailability(IntEnum):
    """Whether a repository takes writes."""

    ONLINE = 0
    READ_ONLY = 1
    OFFLINE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoStatus:
    """Whether a repository takes writes, since when and why.

    Parameters
    ----------
    availability : RepoAvailability
        Anything but online refuses writes.
    set_at_us : int
        When it was set; microseconds since the Unix epoch.
    reason : str, optional
        Why.
    """

    availability: RepoAvailability = RepoAvailability.ONLINE
    set_at_us: int = 0
    reason: str | None = None


# --------------------------------------------------------------------------------------------------
# What can be done


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoInitialized:
    """The repository was created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoMigrated:
    """The repository went from one version of the format to another."""

    from_version: int
    to_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigChanged:
    """The stored configuration was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataChanged:
    """The repository's metadata was set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagCreated:
    """A tag was made."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TagDeleted:
    """A tag was deleted for ever; it pointed at ``previous_snap_id``."""

    name: str
    previous_snap_id: ObjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchCreated:
    """A branch was made."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchDeleted:
    """A branch was deleted; it pointed at ``previous_snap_id``."""

    name: str
    previous_snap_id: ObjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchReset:
    """A branch was set to another snapshot; its tip was ``previous_snap_id``."""

    name: str
    previous_snap_id: ObjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCommit:
    """A snapshot was committed to a branch."""

    branch: str
    new_snap_id: ObjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitAmended:
    """The tip of a branch was replaced by an amended snapshot."""

    branch: str
    previous_snap_id: ObjectId
    new_snap_id: ObjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class NewDetachedSnapshot:
    """A snapshot was made that no branch points at."""

    new_snap_id: ObjectId


@dataclass(frozen=True, slots=True, kw_only=True)
class GCRan:
    """Garbage was collected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpirationRan:
    """Old snapshots were released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureFlagChanged:
    """A feature was enabled or disabled; ``is_set`` is false when it went back to its default."""

    id: int
    new_value: bool
    is_set: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoStatusChanged:
    """The status was set."""

    status: RepoStatus


UpdateKind: TypeAlias = (
    RepoInitialized
    | RepoMigrated
    | ConfigChanged
    | MetadataChanged
    | TagCreated
    | TagDeleted
    | BranchCreated
    | BranchDeleted
    | BranchReset
    | NewCommit
    | CommitAmended
    | NewDetachedSnapshot
    | GCRan
    | ExpirationRan
    | FeatureFlagChanged
    | RepoStatusChanged
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One entry of the operations log.

    Parameters
    ----------
    kind : UpdateKind
        What was done.
    updated_at_us : int
        When; microseconds since the Unix epoch.
    backup_path : str, optional
        Name under ``overwritten/`` of the repo object in which this entry is the newest; None for
        the newest entry, and for those that an upgrade made up.
    """

    kind: UpdateKind
    updated_at_us: int
    backup_path: str | None = None


# --------------------------------------------------------------------------------------------------
# Tables


class _Type(NamedTuple):
    """How one type of field is described, read and written."""

    kind: Callable[[str], Kind]
    read: Callable[[Table, int, str], Any]
    write: Callable[[Any], Value | None]


def read_status(table: Table) -> RepoStatus:
    """Decode a status table; raises FormatError."""
    availability = table.number(0, "availability", _U8)
    if availability not in list(RepoAvailability):
        raise unknown_kind(table.buffer, f"{table.name}.availability", availability)
    return RepoStatus(
        availability=RepoAvailability(availability),
        set_at_us=table.number(1, "set_at", _U64),
        reason=table.text(2, "limited_availability_reason"),
    )


def status_fields(status: RepoStatus) -> Fields:
    """Return a status as the fields of its table."""
    reason = status.reason
    return {
        0: writer.u8(status.availability),
        1: writer.u64(status.set_at_us),
        2: None if reason is None else writer.string(utf8(reason, "the reason of a status")),
    }


REPO_STATUS: Final = Schema(
    "RepoStatus",
    {
        0: Number("availability", 1, 1),
        1: Number("set_at", 8, 8),
        2: text("limited_availability_reason"),
    },
)
_TEXT = _Type(
    text,
    lambda table, slot, name: table.required_text(slot, name),
    lambda value: writer.string(utf8(value, "a branch or tag name")),
)
_ID = _Type(
    lambda name: Number(name, OBJECT_ID_BYTES, 1),
    lambda table, slot, name: ObjectId(table.required_struct(slot, name, OBJECT_ID_BYTES)),
    writer.struct,
)
_BYTE = _Type(
    lambda name: Number(name, 1, 1),
    lambda table, slot, name: table.number(slot, name, _U8),
    writer.u8,
)
_BOOL = _Type(
    lambda name: Number(name, 1, 1),
    lambda table, slot, name: table.number(slot, name, _U8) != 0,
    lambda value: writer.u8(int(value)),
)
_SHORT = _Type(
    lambda name: Number(name, 2, 2),
    lambda table, slot, name: table.number(slot, name, _U16),
    writer.u16,
)
_STATUS = _Type(
    lambda name: One(name, {0: REPO_STATUS}),
    lambda table, slot, name: read_status(table.table(slot, name, REPO_STATUS.name)),
    lambda value: writer.Table(status_fields(value)),
)

_KINDS: Final[dict[int, tuple[type[Any], dict[str, _Type]]]] = {
    1: (RepoInitialized, {}),
    2: (RepoMigrated, {"from_version": _BYTE, "to_version": _BYTE}),
    3: (ConfigChanged, {}),
    4: (MetadataChanged, {}),
    5: (TagCreated, {"name": _TEXT}),
    6: (TagDeleted, {"name": _TEXT, "previous_snap_id": _ID}),
    7: (BranchCreated, {"name": _TEXT}),
    8: (BranchDeleted, {"name": _TEXT, "previous_snap_id": _ID}),
    9: (BranchReset, {"name": _TEXT, "previous_snap_id": _ID}),
    10: (NewCommit, {"branch": _TEXT, "new_snap_id": _ID}),
    11: (CommitAmended, {"branch": _TEXT, "previous_snap_id": _ID, "new_snap_id": _ID}),
    12: (NewDetachedSnapshot, {"new_snap_id": _ID}),
    13: (GCRan, {}),
    14: (ExpirationRan, {}),
    15: (FeatureFlagChanged, {"id": _SHORT, "new_value": _BOOL, "is_set": _BOOL}),
    16: (RepoStatusChanged, {"status": _STATUS}),
}
_TAGS: Final = {cls: tag for tag, (cls, _) in _KINDS.items()}

UPDATE: Final = Schema(
    "Update",
    {
        0: Number("update_type_type", 1, 1),
        1: One(
            "update_type",
            {
                tag: Schema(
                    cls.__name__,
                    {slot: field.kind(name) for slot, (name, field) in enumerate(fields.items())},
                )
                for tag, (cls, fields) in _KINDS.items()
            },
            tag_slot=0,
        ),
        2: Number("updated_at", 8, 8),
        3: text("backup_path"),
    },
)


def _read_update(table: Table) -> Update:
    tag = table.number(0, "update_type_type", _U8)
    if tag not in _KINDS:
        raise unknown_kind(table.buffer, f"{table.name}.update_type", tag)
    cls, fields = _KINDS[tag]
    child = table.table(1, "update_type", cls.__name__)
    values = {
        name: field.read(child, slot, name) for slot, (name, field) in enumerate(fields.items())
    }
    return Update(
        kind=cls(**values),
        updated_at_us=table.number(2, "updated_at", _U64),
        backup_path=table.text(3, "backup_path"),
    )


def _update_fields(update: Update) -> Fields:
    kind, path = update.kind, update.backup_path
    tag = _TAGS[type(kind)]
    fields = {
        slot: field.write(getattr(kind, name))
        for slot, (name, field) in enumerate(_KINDS[tag][1].items())
    }
    return {
        0: writer.u8(tag),
        1: writer.Table(fields),
        2: writer.u64(update.updated_at_us),
        3: None if path is None else writer.string(utf8(path, "the name of a backup")),
    }


class UpdateLog:
    """Entries of the operations log, newest first, immutable; decoded when asked for.

    Parameters
    ----------
    rows : Rows
        Their tables.
    latest : Update, optional
        The newest entry, where it is known.
    """

    __slots__ = ("_latest", "_rows")

    def __init__(self, rows: Rows, latest: Update | None = None) -> None:
        self._rows = rows
        self._latest = latest

    @classmethod
    def of(cls, updates: Iterable[Update] = ()) -> UpdateLog:
        """Return a log of the given entries, newest first."""
        return cls(Rows.of([_update_fields(update) for update in updates], UPDATE, "new repo"))

    @classmethod
    def from_column(cls, tables: TableVector) -> UpdateLog:
        """Return the log in a file."""
        return cls(Rows(tables.buffer, UPDATE, tables.positions))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> Update:
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return _read_update(self._rows.table(row))

    def __iter__(self) -> Iterator[Update]:
        return (_read_update(self._rows.table(row)) for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, UpdateLog):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<UpdateLog of {len(self)} entries>"

    @property
    def latest(self) -> Update:
        """The newest entry.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; the log is empty, or the entry damaged.
        """
        if self._latest is None:
            self._latest = self._end(0)
        return self._latest

    @property
    def oldest(self) -> Update:
        """The oldest entry; raises as `latest`."""
        return self._end(-1)

    def _end(self, row: int) -> Update:
        if not len(self):
            raise FormatError(f"{self._rows.buffer.key}: the operations log is empty")
        return self[row]

    def prepended(self, update: Update, previous_backup_path: str | None) -> UpdateLog:
        """Return the log with a newer entry.

        Parameters
        ----------
        update : Update
            The new entry, without a backup path.
        previous_backup_path : str or None
            Backup in which the entry that was the newest until now is the newest; None leaves that
            entry as it is.
        """
        fields = [_update_fields(update)]
        kept = np.arange(len(self), dtype=np.int64)
        if previous_backup_path is not None and len(self):
            last = self.latest
            fields.append(
                _update_fields(
                    Update(
                        kind=last.kind,
                        updated_at_us=last.updated_at_us,
                        backup_path=previous_backup_path,
                    )
                )
            )
            kept = kept[1:]
        rows = self._rows.joined(Rows.of(fields, UPDATE, "new repo"))
        added = np.arange(len(self), len(rows), dtype=np.int64)
        return UpdateLog(rows.take(np.concatenate((added, kept))), update)

    def without_last(self, count: int) -> UpdateLog:
        """Return the log without its ``count`` oldest entries."""
        return UpdateLog(self._rows.take(np.arange(max(0, len(self) - count), dtype=np.int64)))

    def blobs(self) -> Blobs:
        """Return the encoded entries as the value of a field; raises as `Rows.spliced`."""
        return self._rows.spliced().blobs()
