"""Repositories: sessions that move nodes, and writing manifests anew.

Source: Icechunk specification, sections "Move (v2)" and "rewrite_manifests".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._sync.repository_rewrites import RepositoryRewritesTwins
from icechunk.checkout import SessionMode
from icechunk.session import Session

if TYPE_CHECKING:
    from icechunk.ids import ObjectId
    from icechunk.repository_state import RepositoryState
    from icechunk.session_state import SessionState


class RepositoryRewrites(RepositoryRewritesTwins):
    """The part of a repository that changes where things are, and nothing else."""

    _state: RepositoryState

    if TYPE_CHECKING:

        async def _session_state(
            self, snapshot_id: ObjectId, mode: SessionMode, branch: str | None
        ) -> SessionState: ...

    async def rearrange_session_async(self, branch: str) -> Session:
        """Open the tip of a branch to move its groups and arrays; nothing else can be changed.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        SessionStateError
            Kind ``feature-flag-disabled``; moves are switched off in this repository.
        ReadOnlyError
            Kind ``read-only-repository``; the repository's status forbids writes.
        FormatError
            Kind ``unsupported-spec-version``; a repository of version 1.
        """
        refs = await self._state.refs()
        refs.require_writable()
        refs.require_moves()
        tip = await refs.tip_of_branch(branch)
        return Session(await self._session_state(tip, SessionMode.rearrange, branch))
