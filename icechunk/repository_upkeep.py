"""Upkeep of a repository: expiration.

Source: Icechunk specification, sections "Expiration" and "Garbage collection".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from icechunk._sync.repository_upkeep import RepositoryUpkeepTwins
from icechunk.ids import id_text
from icechunk.ops.expire import expire_snapshots

if TYPE_CHECKING:
    from icechunk.repository_state import RepositoryState

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class RepositoryUpkeep(RepositoryUpkeepTwins):
    """The part of a repository that keeps it small."""

    _state: RepositoryState

    async def expire_snapshots_async(
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
        released = await expire_snapshots(
            self._state.assets,
            _microseconds(older_than),
            delete_branches=delete_expired_branches,
            delete_tags=delete_expired_tags,
        )
        return set(map(id_text, released))


def _microseconds(when: datetime) -> int:
    """Return a time in microseconds since the Unix epoch."""
    if not isinstance(when, datetime):
        raise TypeError(f"expected a datetime, not {type(when).__name__}")
    if when.tzinfo is None:
        raise TypeError("expected a datetime with non-None tzinfo")
    return (when - _EPOCH) // _MICROSECOND
