"""What a repository tells about its snapshots.

Source: Icechunk specification, section "Contents" (of the repo object).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from icechunk.core.diff import Diff
from icechunk.ids import id_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from icechunk.format.repo_info import SnapshotRecord, SnapshotTable
    from icechunk.ids import ObjectId

__all__ = ["Diff", "SnapshotHistory", "SnapshotInfo"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One committed version.

    Parameters
    ----------
    id : str
        Snapshot id.
    parent_id : str or None
        The version before; None for the first.
    written_at : datetime
        When it was committed, UTC.
    message : str
        Commit message.
    metadata : dict
        Commit metadata.
    """

    id: str
    parent_id: str | None
    written_at: datetime
    message: str
    metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record: SnapshotRecord) -> SnapshotInfo:
        """Return what the repo object holds of a snapshot, in public terms."""
        return cls(
            id=id_text(record.id),
            parent_id=None if record.parent_id is None else id_text(record.parent_id),
            written_at=time_of(record.flushed_at_us),
            message=record.message,
            metadata=record.metadata,
        )

    @property
    def commit_message(self) -> str:
        """The message; earlier name of ``message``."""
        return self.message

    def __str__(self) -> str:
        return (
            "<icechunk.snapshots.SnapshotInfo>\n"
            f"id: {self.id}\n"
            f"parent_id: {self.parent_id}\n"
            f"written_at: {self.written_at.isoformat()}\n"
            f"message: {self.message}\n"
            f"metadata: {self.metadata}\n"
        )


def time_of(microseconds: int) -> datetime:
    """Return a time of the format, microseconds since the epoch, as UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


class SnapshotHistory:
    """The ancestry of a snapshot, newest first.

    Iterates lazily, steps with ``next``, and answers ``len`` and ``[i]``, so code for every
    generation of the API works with it.

    Parameters
    ----------
    table : SnapshotTable
        All snapshots of the repository.
    ids : sequence of ObjectId
        The ancestry in it; records are decoded when they are looked at.
    """

    def __init__(self, table: SnapshotTable, ids: Sequence[ObjectId]) -> None:
        self._table = table
        self._ids = ids
        self._next = 0

    def _info(self, snapshot_id: ObjectId) -> SnapshotInfo:
        record = self._table.get(snapshot_id)
        assert record is not None, "an ancestry consists of registered snapshots"
        return SnapshotInfo.of(record)

    def __iter__(self) -> Iterator[SnapshotInfo]:
        return map(self._info, self._ids)

    def __next__(self) -> SnapshotInfo:
        if self._next >= len(self._ids):
            raise StopIteration
        self._next += 1
        return self._info(self._ids[self._next - 1])

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> SnapshotInfo:
        return self._info(self._ids[index])

    def __repr__(self) -> str:
        return f"<ancestry of {len(self)} snapshots, newest first>"
