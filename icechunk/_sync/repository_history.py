"""Blocking twins of `icechunk.repository_history`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from icechunk.ancestry_graph import AncestryGraph
    from icechunk.core.diff import Diff
    from icechunk.snapshots import SnapshotHistory, SnapshotInfo


class RepositoryHistoryTwins:
    """Blocking methods of `icechunk.repository_history.RepositoryHistory`."""

    __slots__ = ()

    def ancestry(
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
        return self._run(
            self.ancestry_async(branch=branch, tag=tag, snapshot_id=snapshot_id, snapshot=snapshot)
        )

    def ancestry_graph(
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
        return run(
            self.ancestry_graph_async(branch=branch, tag=tag, snapshot_id=snapshot_id, plain=plain)
        )

    def lookup_snapshot(self, snapshot_id: str) -> SnapshotInfo:
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
        return self._run(self.lookup_snapshot_async(snapshot_id))

    def diff(
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
        return run(
            self.diff_async(
                from_branch=from_branch,
                from_tag=from_tag,
                from_snapshot_id=from_snapshot_id,
                to_branch=to_branch,
                to_tag=to_tag,
                to_snapshot_id=to_snapshot_id,
            )
        )
