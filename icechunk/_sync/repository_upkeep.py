"""Blocking twins of `icechunk.repository_upkeep`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from datetime import datetime


class RepositoryUpkeepTwins:
    """Blocking methods of `icechunk.repository_upkeep.RepositoryUpkeep`."""

    __slots__ = ()

    def expire_snapshots(
        self,
        older_than: datetime,
        *,
        delete_expired_branches: bool = False,
        delete_expired_tags: bool = False,
    ) -> set[str]:
        """Release old snapshots from the history, so that garbage collection can delete them.

        Tips of branches and targets of tags stay, whatever their age, and so does the first
        snapshot. The next younger snapshot takes the first one as parent. It keeps the
        transaction logs of those between, so that sessions can still be rebased over them and
        `diff` still tells what they changed.

        Parameters
        ----------
        older_than : datetime
            Snapshots committed before this expire; with a time zone.
        delete_expired_branches : bool
            Delete branches whose tip is that old, but never ``main``.
        delete_expired_tags : bool
            Delete tags whose target is that old; their names cannot be used again.

        Returns
        -------
        set of str
            Ids of the released snapshots; their files stay until they are collected.

        Raises
        ------
        TypeError
            ``older_than`` has no time zone.
        ReadOnlyError
            Kind ``read-only-repository``.

        Notes
        -----
        Concurrency: one conditional update; whoever commits meanwhile is not disturbed.
        """
        return run(
            self.expire_snapshots_async(
                older_than,
                delete_expired_branches=delete_expired_branches,
                delete_expired_tags=delete_expired_tags,
            )
        )
