"""The history of a repository: ancestry, snapshots, differences.

Source: Icechunk specification, sections "Diff" and "Refs over history".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._earlier.spelling import either
from icechunk._io.loop import may_run_now
from icechunk._sync.repository_history import RepositoryHistoryTwins
from icechunk.ancestry_graph import PALETTE, AncestryGraph, graph_of, lane_order
from icechunk.core.diff import Diff, diff_of
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.ids import ObjectId, id_text, parse_object_id
from icechunk.repository_state import RepositoryState, resolve_version
from icechunk.snapshots import SnapshotHistory, SnapshotInfo

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.ref_store import RefStore
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.format.transaction_log import TransactionLog


class RepositoryHistory(RepositoryHistoryTwins):
    """The part of a repository that looks back."""

    _state: RepositoryState

    @may_run_now
    async def ancestry_async(
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        snapshot: str | None = None,
    ) -> SnapshotHistory:
        """Return a version and all before it, newest first.

        Parameters
        ----------
        branch, tag, snapshot_id : str
            Exactly one of them.
        snapshot : str
            Earlier name of ``snapshot_id``.

        Raises
        ------
        ValueError
            None or several of the three were given.
        RefNotFoundError, SnapshotNotFoundError
            There is no such version.

        Examples
        --------
        >>> [snapshot.message for snapshot in repo.ancestry(branch="main")]
        ['first', 'Repository initialized']
        >>> repo.ancestry(branch="main")[0].message
        'first'
        """
        snapshot_id = either(snapshot_id, snapshot, "snapshot_id and snapshot")
        refs = await self._state.refs()
        at = await resolve_version(refs, branch=branch, tag=tag, snapshot_id=snapshot_id)
        found = await refs.ancestry(at)
        return SnapshotHistory(found.records, found.ids)

    async def async_ancestry(
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
    ) -> AsyncIterator[SnapshotInfo]:
        """Yield a version and all before it, newest first; parameters as `ancestry_async`.

        Examples
        --------
        >>> import asyncio
        >>> async def messages():
        ...     return [s.message async for s in repo.async_ancestry(branch="main")]
        >>> asyncio.run(messages())
        ['first', 'Repository initialized']
        """
        refs = await self._state.refs()
        at = await resolve_version(refs, branch=branch, tag=tag, snapshot_id=snapshot_id)
        async for record in refs.ancestors(at):
            yield SnapshotInfo(record)

    async def ancestry_graph_async(
        self,
        *,
        branch: str | None = None,
        tag: str | None = None,
        snapshot_id: str | None = None,
        plain: bool = False,
    ) -> AncestryGraph:
        """Return the history as a drawing, to print or to show in a notebook.

        Parameters
        ----------
        branch, tag, snapshot_id : str, optional
            At most one: draw the history of this version; of all branches when none is given.
        plain : bool
            Draw text without colours.

        Raises
        ------
        ValueError
            Several of the three were given.
        RefNotFoundError, SnapshotNotFoundError
            There is no such version.

        Examples
        --------
        >>> print(repo.ancestry_graph(plain=True))  # doctest: +ELLIPSIS
        ● ... (main) first
        ...
        """
        refs = await self._state.refs()
        branches = lane_order(await refs.branches())
        tags = {name: await refs.target_of_tag(name) for name in await refs.tags()}
        if branch is None and tag is None and snapshot_id is None:
            tips = [(name, await refs.tip_of_branch(name)) for name in branches]
            histories = [(name, await refs.ancestry(tip)) for name, tip in tips]
            return graph_of(histories, tags, plain=plain)
        at = await resolve_version(refs, branch=branch, tag=tag, snapshot_id=snapshot_id)
        # A branch keeps the colour it has among all of them.
        lane = branches.index(branch) if branch is not None else 0
        histories = [(branch or "", await refs.ancestry(at))]
        return graph_of(histories, tags, colors=PALETTE[lane % len(PALETTE) :], plain=plain)

    @may_run_now
    async def lookup_snapshot_async(self, snapshot_id: str) -> SnapshotInfo:
        """Return what is known of a snapshot.

        Raises
        ------
        SnapshotNotFoundError
            Kind ``snapshot-not-found``.

        Examples
        --------
        >>> repo.lookup_snapshot(repo.lookup_branch("main")).message
        'first'
        """
        refs = await self._state.refs()
        return SnapshotInfo(await refs.require_snapshot(parse_object_id(snapshot_id)))

    async def diff_async(
        self,
        *,
        from_branch: str | None = None,
        from_tag: str | None = None,
        from_snapshot_id: str | None = None,
        to_branch: str | None = None,
        to_tag: str | None = None,
        to_snapshot_id: str | None = None,
    ) -> Diff:
        """Return what changed from one version to a later one.

        Parameters
        ----------
        from_branch, from_tag, from_snapshot_id : str
            Exactly one: the earlier version, an ancestor of the later one.
        to_branch, to_tag, to_snapshot_id : str
            Exactly one: the later version.

        Raises
        ------
        InvalidInputError
            Kind ``bad-snapshot-chain-for-diff``; the first is no proper ancestor of the second.

        Examples
        --------
        >>> root = repo.ancestry(branch="main")[-1]
        >>> repo.diff(from_snapshot_id=root.id, to_branch="main").new_arrays
        {'/t'}
        """
        refs = await self._state.refs()
        older = await resolve_version(
            refs, branch=from_branch, tag=from_tag, snapshot_id=from_snapshot_id
        )
        newer = await resolve_version(
            refs, branch=to_branch, tag=to_tag, snapshot_id=to_snapshot_id
        )
        assets = self._state.assets
        logs = [
            log
            for record in await _records_between(refs, older, newer)
            for log in await _logs_of(assets, record)
        ]
        return diff_of(
            logs, (await assets.snapshot(newer)).nodes, (await assets.snapshot(older)).nodes
        )


async def _logs_of(assets: AssetManager, record: SnapshotRecord) -> list[TransactionLog]:
    """Return the log of a commit and of those that were pruned before it, newest first.

    A pruned log may be gone: other implementations collect them.
    """
    logs = [await assets.transaction_log(record.id)]
    for log_id in reversed(record.pruned_logs):
        try:
            logs.append(await assets.transaction_log(log_id))
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
    return logs


async def _records_between(
    refs: RefStore, older: ObjectId, newer: ObjectId
) -> list[SnapshotRecord]:
    """Return the records after ``older`` up to ``newer``, newest first."""
    between: list[SnapshotRecord] = []
    async for record in refs.ancestors(newer):
        if record.id == older:
            if between:
                return between
            break
        between.append(record)
    raise InvalidInputError(
        f"no diff from {id_text(older)} to {id_text(newer)}: the first is no proper ancestor of "
        "the second.",
        ErrorKind.BAD_SNAPSHOT_CHAIN_FOR_DIFF,
    )
