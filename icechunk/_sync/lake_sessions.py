"""Blocking twins of `icechunk.lake.sessions`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from icechunk.lake.durable import DurableSession
    from icechunk.lake.record import SessionInfo
    from icechunk.lake.store import LakeStore


class LocalWriteSessionTwins:
    """Blocking methods of `icechunk.lake.sessions.LocalWriteSession`."""

    __slots__ = ()

    @property
    def durable(self) -> DurableSession:
        """The session beside the repository; for the package's own use."""
        return self._async.durable

    @property
    def info(self) -> SessionInfo:
        """What was last seen of the session: base, branch, times, state."""
        return self._async.info

    @property
    def session_id(self) -> str:
        """Id by which others join it."""
        return self._async.session_id

    @property
    def read_only(self) -> bool:
        """False."""
        return self._async.read_only

    @property
    def base_commit(self) -> str:
        """Id of the commit the session's changes lie on."""
        return self._async.base_commit

    @property
    def branch(self) -> str | None:
        """Branch it commits to; None for one opened on a tag or commit."""
        return self._async.branch

    @property
    def expires_at(self) -> datetime:
        """When it ends by itself, UTC."""
        return self._async.expires_at

    @property
    def store(self) -> LakeStore:
        """A zarr store over the session."""
        return self._async.store

    def update_expiration(self, expires_in: timedelta) -> None:
        """Change how long the session lives.

        Parameters
        ----------
        expires_in : timedelta
            Counted from its start; at most 7 days.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; too long, or not more than nothing.
        SessionStateError
            Kind ``not-allowed``; the session ended already.
        """
        return run(self._async.update_expiration(expires_in))

    def abandon(self) -> None:
        """Discard the session with its changes; nobody can write to it any more.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the session ended already.
        """
        return run(self._async.abandon())

    def refresh(self) -> None:
        """See what others who joined have written since; raises as `update_expiration`."""
        return run(self._async.refresh())

    def modified(self, limit: int = 1000) -> tuple[list[tuple[str, bool]], int]:
        """Return store keys that all joiners changed and whether each was deleted, and how many.

        Parameters
        ----------
        limit : int
            How many keys to return at most; 0 for all.
        """
        return run(self._async.modified(limit))
