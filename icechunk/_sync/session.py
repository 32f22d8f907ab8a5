"""Blocking twins of `icechunk.session`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.core.merge import ChunkPolicy

if TYPE_CHECKING:
    from typing import Any

    from icechunk.core.conflicts import ConflictSolver
    from icechunk.session import Session


class SessionTwins:
    """Blocking methods of `icechunk.session.Session`."""

    __slots__ = ()

    def commit(
        self,
        message: str,
        metadata: dict[str, Any] | None = None,
        *,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1000,
        allow_empty: bool = False,
    ) -> str:
        """Make the changes a new snapshot and move the branch to it.

        Parameters
        ----------
        message : str
            What was done, for the history.
        metadata : dict, optional
            JSON-like facts kept with the snapshot, over the repository's default commit metadata.
        rebase_with : ConflictSolver, optional
            When the branch moved meanwhile: rebase with this solver and try again. Waits between
            tries grow and are random; manifests whose array nobody else touched are written once.
        rebase_tries : int
            How often to rebase at most.
        allow_empty : bool
            Make a snapshot although nothing changed.

        Returns
        -------
        str
            Id of the new snapshot; the session becomes read-only on it.

        Raises
        ------
        SessionStateError
            Kind ``no-changes-to-commit``.
            Kind ``commit-not-allowed``; the session is read-only.
        ReadOnlyError
            Kind ``read-only-repository``.
        ConflictError
            Kind ``commit-conflict``; the branch moved. ``expected_parent`` is the session's base
            and ``actual_parent`` the tip. The session keeps its changes.
        RebaseFailedError
            Kind ``rebase-failed``; names the arrays and chunks in conflict.
        TypeError, ValueError
            The message is not text, the metadata is not JSON-like, or an option is none.
        InvalidInputError
            Kind ``invalid-commit-configuration``; the message cannot be encoded as UTF-8.

        Notes
        -----
        Source: Icechunk specification, section "Commit". Concurrency: atomic. Whatever fails or
        dies on the way leaves the branch as it was.

        Examples
        --------
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> snapshot_id = session.commit("one value", {"source": "sensor 1"})
        >>> session.read_only
        True
        """
        return self._run(
            self.commit_async(
                message,
                metadata,
                rebase_with=rebase_with,
                rebase_tries=rebase_tries,
                allow_empty=allow_empty,
            )
        )

    def rebase(self, solver: ConflictSolver) -> None:
        """Move the changes onto the present tip of the branch; nothing is committed.

        Parameters
        ----------
        solver : ConflictSolver
            Decides about conflicts: `ConflictDetector` or `BasicConflictSolver`.

        Raises
        ------
        RebaseFailedError
            Kind ``rebase-failed``; names the arrays and chunks in conflict. The session is on the
            last commit before the conflict and keeps its changes.
        SessionStateError
            Kind ``rebase-tx-log-pruned``.

        Examples
        --------
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> session.rebase(icechunk.ConflictDetector())
        """
        return self._run(self.rebase_async(solver))

    def merge(self, *others: Session, on_chunk_conflict: str = ChunkPolicy.LAST) -> None:
        """Take the changes of forks into this session.

        Parameters
        ----------
        *others : ForkSession
            Forks of this session, or of forks of it. As in earlier releases also another writable
            session, which keeps its changes.
        on_chunk_conflict : {"last", "error"}
            What to do with a chunk that two of them wrote: keep the one merged last, or fail and
            name it.

        Raises
        ------
        SessionStateError
            Kind ``merge-failed``; two sides touched the same array, group or chunks in ways that
            do not go together, and the message names them. The session has what was merged
            before. Kind ``merge-not-allowed``; something given is neither a fork nor a writable
            session.
        ConflictError
            A fork was made on an older snapshot, and its changes conflict with what was committed
            since.

        Examples
        --------
        >>> forks = [session.fork(), session.fork()]
        >>> for start, fork in zip([0, 2], forks):
        ...     zarr.open_array(fork.store, path="t", mode="r+")[start : start + 2] = 1
        >>> session.merge(*forks)
        >>> snapshot_id = session.commit("by two tasks")
        """
        return self._run(self.merge_async(*others, on_chunk_conflict=on_chunk_conflict))
