"""Repositories: sessions that move nodes, and writing manifests anew.

Source: Icechunk specification, sections "Move (v2)" and "rewrite_manifests".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icechunk._io.loop import may_run_now
from icechunk._sync.repository_rewrites import RepositoryRewritesTwins
from icechunk.checkout import SessionMode
from icechunk.errors import ErrorKind, FormatError
from icechunk.ids import id_text
from icechunk.persisted_conditions import persisted_split_sizes
from icechunk.session import Session
from icechunk.session_state import checked_message
from icechunk.transaction import ENGINE_METADATA_KEY, CommitMode, CommitRequest, commit_changes

if TYPE_CHECKING:
    from icechunk.ids import ObjectId
    from icechunk.repository_state import RepositoryState
    from icechunk.session_state import SessionState
    from icechunk.types import CommitMethod


class RepositoryRewrites(RepositoryRewritesTwins):
    """The part of a repository that changes where things are, and nothing else."""

    _state: RepositoryState

    if TYPE_CHECKING:

        async def _session_state(
            self, snapshot_id: ObjectId, mode: SessionMode, branch: str | None
        ) -> SessionState: ...

    @may_run_now
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

        Examples
        --------
        >>> session = repo.rearrange_session("main")
        >>> session.move("/t", "/temperature")
        >>> snapshot_id = session.commit("a better name")
        """
        refs = await self._state.refs()
        refs.require_writable()
        refs.require_moves()
        tip = await refs.tip_of_branch(branch)
        return Session(await self._session_state(tip, SessionMode.rearrange, branch))

    async def rewrite_manifests_async(
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
        if commit_method not in {CommitMode.NEW.value, CommitMode.AMEND.value}:
            raise ValueError(
                f"commit_method is {commit_method!r}; expected 'new_commit' or 'amend'"
            )
        mode = CommitMode(commit_method)
        if mode is CommitMode.AMEND and self._state.assets.spec_version == 1:
            raise FormatError(
                "this repository is of format version 1, which has no amending: rewrite with "
                "commit_method='new_commit'.",
                ErrorKind.UNSUPPORTED_OPERATION_FOR_VERSION,
            )
        refs = await self._state.refs()
        refs.require_writable()
        tip = await refs.tip_of_branch(branch)
        state = await self._session_state(tip, SessionMode.writable, branch)
        request = CommitRequest(
            mode=mode,
            branch=branch,
            message=checked_message(message),
            metadata={
                **state.commit_metadata(metadata),
                ENGINE_METADATA_KEY: {"splitting_config": self._splitting()},
            },
            allow_empty=True,
            rewrite=True,
        )
        return id_text(await commit_changes(state.checkout, request))

    def _splitting(self) -> dict[str, Any] | None:
        """Return the configured splitting as it is recorded; None where nothing is configured."""
        manifest = self._state.config.manifest
        if manifest is None or manifest.splitting is None:
            return None
        return {"split_sizes": persisted_split_sizes(manifest.splitting)}
