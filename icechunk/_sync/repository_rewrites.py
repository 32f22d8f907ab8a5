"""Blocking twins of `icechunk.repository_rewrites`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from typing import Any

    from icechunk.session import Session
    from icechunk.types import CommitMethod


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

        Examples
        --------
        >>> session = repo.rearrange_session("main")
        >>> session.move("/t", "/temperature")
        >>> snapshot_id = session.commit("a better name")
        """
        return self._run(self.rearrange_session_async(branch))

    def rewrite_manifests(
        self,
        message: str,
        *,
        branch: str,
        metadata: dict[str, Any] | None = None,
        commit_method: CommitMethod = "new_commit",
    ) -> str:
        """Write all manifests of a branch's tip again, as the configuration splits them now.

        A commit writes only the manifests of what it changes, so after a change of the splitting
        the others stay as they were until this is done.

        Parameters
        ----------
        message : str
            Commit message.
        branch : str
            Branch to commit to.
        metadata : dict, optional
            JSON-like facts kept with the snapshot, over the repository's default commit metadata.
            Under ``__icechunk`` the splitting is recorded.
        commit_method : {"new_commit", "amend"}
            Put the snapshot after the branch's tip, or in its place.

        Returns
        -------
        str
            Id of the new snapshot, which has the same groups, arrays and chunks.

        Raises
        ------
        ValueError
            Another ``commit_method``.
        RefNotFoundError
            Kind ``ref-not-found``.
        ConflictError
            Kind ``commit-conflict``; somebody else committed meanwhile. Try again.
        SessionStateError
            Kind ``no-amend-for-initial-commit``, or ``rearrange-session-only``: a commit that
            moved nodes is not amended by this.
        ReadOnlyError
            Kind ``read-only-repository``.
        FormatError
            Kind ``unsupported-operation-for-version``; amending, in version 1.

        Notes
        -----
        Source: Icechunk specification, section "rewrite_manifests". Memory: the references of up
        to 8 arrays at a time.

        Examples
        --------
        >>> snapshot_id = repo.rewrite_manifests("split again", branch="main")
        """
        return run(
            self.rewrite_manifests_async(
                message, branch=branch, metadata=metadata, commit_method=commit_method
            )
        )
