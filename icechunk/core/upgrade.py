"""From the refs and snapshots of a version 1 repository to the repo object of version 2.

Source: Icechunk specification, section "Refs over history, upgrade". The operations log is made up
from what is known: when each snapshot was made, and what points at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from icechunk.core.history import MAIN
from icechunk.format.repo_info import (
    BranchCreated,
    NewCommit,
    RepoInfo,
    RepoInitialized,
    RepoMigrated,
    RepoStatus,
    SnapshotTable,
    TagCreated,
    TagDeleted,
    Update,
    UpdateLog,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icechunk.format.repo_info import SnapshotRecord, UpdateKind
    from icechunk.ids import ObjectId

# How long after a snapshot what points at it is said to have been made; unit: microseconds.
_CREATED_AFTER_US: Final = 1000
_DELETED_AFTER_US: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class OldRefs:
    """The refs of a version 1 repository.

    Parameters
    ----------
    branches, tags : mapping of str to ObjectId
        What each points at.
    deleted_tags : mapping of str to ObjectId or None
        What each pointed at, None where that is not known any more.
    """

    branches: Mapping[str, ObjectId]
    tags: Mapping[str, ObjectId]
    deleted_tags: Mapping[str, ObjectId | None]

    def by_age(self) -> list[str]:
        """Return the names of the branches in the order in which they claim snapshots."""
        return sorted(self.branches, key=lambda name: (name != MAIN, name))


def upgraded(
    refs: OldRefs,
    records: Mapping[ObjectId, SnapshotRecord],
    config: Mapping[str, Any] | None,
    now_us: int,
) -> RepoInfo:
    """Return the repo object of an upgraded repository.

    Parameters
    ----------
    refs : OldRefs
        Its refs.
    records : mapping of ObjectId to SnapshotRecord
        Every snapshot that a branch or tag reaches; others are registered no more.
    config : mapping or None
        Stored configuration.
    now_us : int
        Time of the upgrade; microseconds since the Unix epoch.
    """
    root = _root(refs.branches[MAIN], records)
    kinds = sorted(_history(refs, records, root), key=lambda entry: entry[0])
    kinds.append((now_us, RepoMigrated(from_version=1, to_version=2)))
    updates: list[Update] = []
    for when, kind in kinds:
        after = updates[-1].updated_at_us + 1 if updates else 0
        updates.append(Update(kind=kind, updated_at_us=max(when, after)))
    return RepoInfo(
        branches=refs.branches,
        tags=refs.tags,
        deleted_tags=frozenset(refs.deleted_tags),
        snapshots=SnapshotTable.of(records.values()),
        status=RepoStatus(set_at_us=root.flushed_at_us),
        updates=UpdateLog.of(reversed(updates)),
        config=config,
    )


def _root(tip: ObjectId, records: Mapping[ObjectId, SnapshotRecord]) -> SnapshotRecord:
    record = records[tip]
    while record.parent_id is not None:
        record = records[record.parent_id]
    return record


def _history(
    refs: OldRefs, records: Mapping[ObjectId, SnapshotRecord], root: SnapshotRecord
) -> Iterator[tuple[int, UpdateKind]]:
    """Yield when what was done; of equal times the first yielded is the earlier."""
    yield root.flushed_at_us, RepoInitialized()
    claimed: set[ObjectId] = set()
    for branch in refs.by_age():
        at: ObjectId | None = refs.branches[branch]
        while at is not None and at not in claimed:
            claimed.add(at)
            record = records[at]
            if record.parent_id is not None:
                commit = NewCommit(branch=branch, new_snap_id=at)
                yield record.flushed_at_us, commit
            at = record.parent_id
    for branch in sorted(set(refs.branches) - {MAIN}):
        tip = records[refs.branches[branch]]
        yield tip.flushed_at_us + _CREATED_AFTER_US, BranchCreated(name=branch)
    for tag, target in sorted(refs.tags.items()):
        yield records[target].flushed_at_us + _CREATED_AFTER_US, TagCreated(name=tag)
    for tag, gone in sorted(refs.deleted_tags.items()):
        if gone is None:
            continue
        base = records.get(gone, root).flushed_at_us
        yield base + _CREATED_AFTER_US, TagCreated(name=tag)
        yield base + _DELETED_AFTER_US, TagDeleted(name=tag, previous_snap_id=gone)
