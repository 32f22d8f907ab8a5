"""Blocking twins of `icechunk.repository_rewrites`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from icechunk.session import Session


class RepositoryRewritesTwins:
    """Blocking methods of `icechunk.repository_rewrites.RepositoryRewrites`."""

    __slots__ = ()

    def rearrange_session(self, branch: str) -> Session:
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
        return run(self.rearrange_session_async(branch))
