"""Shortening the history of a repository: what expires, and what nobody can reach any more.

Source: Icechunk specification, sections "Expiration" and "Garbage collection". No file is touched
here: these are pure functions from one state of the repo object to the next.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from icechunk.format.repo_info import MAIN_BRANCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from icechunk._typing import BoolArray, U8Array
    from icechunk.format.repo_info import RepoInfo, SnapshotRecord, SnapshotTable
    from icechunk.ids import ObjectId


def expired(
    info: RepoInfo, older_than_us: int, *, delete_branches: bool, delete_tags: bool
) -> tuple[RepoInfo, frozenset[ObjectId]]:
    """Release the snapshots that are older than a time.

    Parameters
    ----------
    info : RepoInfo
        Present state.
    older_than_us : int
        Snapshots committed before this expire; microseconds since the Unix epoch.
    delete_branches, delete_tags : bool
        Delete branches (never ``main``) and tags whose snapshot expired, instead of keeping it.

    Returns
    -------
    RepoInfo
        Next state; its operations log is unchanged.
    frozenset of ObjectId
        Released snapshots. What is kept of the history behind them are their transaction logs.
    """
    table = info.snapshots
    old = (table.flushed_at_us < np.uint64(max(0, older_than_us))) & (table.parents >= 0)

    def stays(tip: ObjectId) -> bool:
        return not old[table.row(tip)]

    branches = {
        name: tip
        for name, tip in info.branches.items()
        if not delete_branches or name == MAIN_BRANCH or stays(tip)
    }
    tags = {name: tip for name, tip in info.tags.items() if not delete_tags or stays(tip)}
    released = old
    for tip in (*branches.values(), *tags.values()):
        released[table.row(tip)] = False
    shortened = _without(table, released, ends=table.parents < 0)
    after = replace(
        info,
        branches=branches,
        tags=tags,
        deleted_tags=info.deleted_tags | (info.tags.keys() - tags.keys()),
        snapshots=shortened,
    )
    return after, frozenset(_ids(table, released))


def without_unreachable(
    info: RepoInfo, is_old: Callable[[U8Array], BoolArray]
) -> tuple[RepoInfo, frozenset[ObjectId]]:
    """Remove the old snapshots that no branch or tag leads to.

    Parameters
    ----------
    info : RepoInfo
        Present state.
    is_old : callable
        Says of a column of ids, shape ``(n, 12)``, which snapshots' files are old.

    Returns
    -------
    RepoInfo
        Next state; its operations log is unchanged.
    frozenset of ObjectId
        Removed snapshots.
    """
    table = info.snapshots
    removed = ~reachable(table, (*info.branches.values(), *info.tags.values()))
    removed &= is_old(table.ids)
    after = replace(info, snapshots=_without(table, removed, ends=~removed))
    return after, frozenset(_ids(table, removed))


def reachable(table: SnapshotTable, tips: Iterable[ObjectId]) -> BoolArray:
    """Say which snapshots are ancestors of some tip, or a tip itself; shape ``(n,)``."""
    seen = np.zeros(len(table), np.bool_)
    parents = table.parents.tolist()
    for tip in tips:
        row = table.row(tip)
        while row >= 0 and not seen[row]:
            seen[row] = True
            row = parents[row]
    return seen


def _without(table: SnapshotTable, removed: BoolArray, *, ends: BoolArray) -> SnapshotTable:
    """Remove rows; a kept one below them goes to its nearest ancestor among ``ends``.

    It then names the logs of everything that was skipped, so that its history can still be
    compared and rebased over.
    """
    if not removed.any():
        return table
    parents = table.parents.tolist()
    below = ~removed & (table.parents >= 0) & removed[table.parents]
    records: dict[int, SnapshotRecord] = {}

    def record(row: int) -> SnapshotRecord:
        found = records.get(row)
        if found is None:
            found = table.get(table.id_at(row))
            assert found is not None, "the row is in the table"
            records[row] = found
        return found

    moved = []
    for row in np.flatnonzero(below).tolist():
        skipped = list(_up_to(parents, parents[row], ends))
        end = parents[skipped[-1]]
        logs: list[ObjectId] = []
        for ancestor in map(record, reversed(skipped)):
            logs += (*ancestor.pruned_logs, ancestor.id)
        logs += record(row).pruned_logs
        moved.append(record(row).moved(table.id_at(end) if end >= 0 else None, logs))
    return table.replaced(moved, _ids(table, removed))


def _up_to(parents: list[int], row: int, ends: BoolArray) -> Iterator[int]:
    """Yield a row and those above it, as far as the first that is an end."""
    while row >= 0 and not ends[row]:
        yield row
        row = parents[row]


def _ids(table: SnapshotTable, rows: BoolArray) -> list[ObjectId]:
    return [table.id_at(row) for row in np.flatnonzero(rows).tolist()]
