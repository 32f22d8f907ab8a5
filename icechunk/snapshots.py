"""What a repository tells about its snapshots.

Source: Icechunk specification, section "Contents" (of the repo object).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from icechunk._display import Block, Displayed, Plain, Shown, plain_fields, shown_time
from icechunk._earlier.values import EarlierSnapshotInfo
from icechunk.ancestry_graph import AncestryGraph
from icechunk.core.diff import Diff
from icechunk.format.repo_info import SnapshotRecord
from icechunk.ids import id_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from icechunk.assets.ref_store import RecordSource
    from icechunk.ids import ObjectId

__all__ = [
    "AncestryGraph",
    "AsyncCloseableIterator",
    "Diff",
    "ManifestFileInfo",
    "SnapshotHistory",
    "SnapshotInfo",
]

_Item_co = TypeVar("_Item_co", covariant=True)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SnapshotInfo(EarlierSnapshotInfo, Block):
    """One committed version.

    What it says is decoded when it is asked for, so a long history costs little until somebody
    looks at it.

    Parameters
    ----------
    record : SnapshotRecord
        What the repository holds of the snapshot.
    """

    __slots__ = ("_record",)

    def __init__(self, record: SnapshotRecord) -> None:
        self._record = record

    @property
    def id(self) -> str:
        """Snapshot id."""
        return id_text(self._record.id)

    @property
    def parent_id(self) -> str | None:
        """Id of the version before; None for the first."""
        parent = self._record.parent_id
        return None if parent is None else id_text(parent)

    @property
    def written_at(self) -> datetime:
        """When it was committed, UTC."""
        return time_of(self._record.flushed_at_us)

    @property
    def message(self) -> str:
        """Commit message."""
        return self._record.message

    @property
    def metadata(self) -> dict[str, Any]:
        """Commit metadata."""
        return self._record.metadata

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SnapshotInfo) and self._record == other._record

    def __hash__(self) -> int:
        return hash(self._record)

    def __reduce__(self) -> tuple[Any, ...]:
        record = self._record
        parts = (record.id, record.parent_id, record.flushed_at_us, record.message)
        return _info_from_parts, (*parts, record.metadata, record.pruned_logs)

    def _shown_block(self) -> tuple[str, list[Shown]]:
        return "icechunk.snapshots.SnapshotInfo", plain_fields(
            id=self.id,
            parent_id=self.parent_id,
            written_at=shown_time(self.written_at),
            message=self.message,
            metadata=self.metadata,
        )


def _info_from_parts(
    snapshot_id: ObjectId,
    parent_id: ObjectId | None,
    flushed_at_us: int,
    message: str,
    metadata: dict[str, Any],
    pruned_logs: tuple[ObjectId, ...],
) -> SnapshotInfo:
    return SnapshotInfo(
        SnapshotRecord(
            id=snapshot_id,
            parent_id=parent_id,
            flushed_at_us=flushed_at_us,
            message=message,
            metadata=metadata,
            pruned_logs=pruned_logs,
        )
    )


@dataclass(frozen=True, slots=True, repr=False)
class ManifestFileInfo(Displayed):
    """A manifest that a snapshot uses.

    Parameters
    ----------
    id : str
        Its id.
    size_bytes : int
        Size of the file; unit: bytes.
    num_chunk_refs : int
        References in it.
    """

    _display_name: ClassVar[str] = "icechunk.snapshots.ManifestFileInfo"

    id: str
    size_bytes: int
    num_chunk_refs: int

    def _display_fields(self) -> Iterable[Shown]:
        return [
            Shown(name="id", value=Plain(self.id)),
            Shown(name="size_bytes", value=self.size_bytes),
            Shown(name="num_chunk_refs", value=self.num_chunk_refs),
        ]

    def __repr__(self) -> str:
        return str(self)


def time_of(microseconds: int) -> datetime:
    """Return a time of the format, microseconds since the epoch, as UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds_of(when: datetime) -> int:
    """Return a time as the format has it, microseconds since the epoch."""
    return (when - _EPOCH) // timedelta(microseconds=1)


@runtime_checkable
class AsyncCloseableIterator(Protocol[_Item_co]):
    """An asynchronous iterator that may be left early: what `Repository.async_ancestry` gives.

    Any asynchronous generator is one; `SnapshotHistory` is one as well.
    """

    def __aiter__(self) -> Self:
        """Return the iterator itself."""

    async def __anext__(self) -> _Item_co:
        """Return the next item; raises StopAsyncIteration after the last."""

    async def aclose(self) -> None:
        """Stop early and let go of what is held."""


class SnapshotHistory:
    """The ancestry of a snapshot, newest first.

    Iterates lazily, with ``for`` and ``async for``, steps with ``next``, and answers ``len`` and
    ``[i]``, so code for every generation of the API works with it.

    Parameters
    ----------
    records : RecordSource
        Has the record of each; it may be decoded only when it is looked at.
    ids : sequence of ObjectId
        The ancestry.
    """

    def __init__(self, records: RecordSource, ids: Sequence[ObjectId]) -> None:
        self._records = records
        self._ids = ids
        self._next = 0

    def _record(self, snapshot_id: ObjectId) -> SnapshotRecord:
        record = self._records.get(snapshot_id)
        assert record is not None, "an ancestry consists of registered snapshots"
        return record

    def __iter__(self) -> Iterator[SnapshotInfo]:
        return map(SnapshotInfo, map(self._record, self._ids))

    def __next__(self) -> SnapshotInfo:
        if self._next >= len(self._ids):
            raise StopIteration
        self._next += 1
        return SnapshotInfo(self._record(self._ids[self._next - 1]))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> SnapshotInfo:
        found = next(self, None)
        if found is None:
            raise StopAsyncIteration
        return found

    async def aclose(self) -> None:
        """Stop stepping: there is no next one any more."""
        self._next = len(self._ids)

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> SnapshotInfo:
        return SnapshotInfo(self._record(self._ids[index]))

    def __repr__(self) -> str:
        return f"<ancestry of {len(self)} snapshots, newest first>"
