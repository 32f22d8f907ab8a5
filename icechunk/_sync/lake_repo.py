"""Blocking twins of `icechunk.lake.repo`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run
from icechunk.core.merge import ChunkPolicy
from icechunk.lake.record import DEFAULT_EXPIRES_IN, DEFAULT_IS_WRITE_SESSION

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from typing import Any

    from rich.tree import Tree

    from icechunk.lake.names import Author
    from icechunk.lake.record import SessionInfo
    from icechunk.repository import Repository


class RepoTwins:
    """Blocking methods of `icechunk.lake.repo.Repo`."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Name in the lake, ``"org/name"``."""
        return self._async.name

    @property
    def author(self) -> Author:
        """Who commits."""
        return self._async.author

    @property
    def repository(self) -> Repository:
        """The repository below, with everything the lake does not show."""
        return self._async.repository

    def ping(self) -> None:
        """Read the repository's refs, to see that it can be reached; raises if not."""
        return run(self._async.ping())

    def list_active_sessions(self) -> Sequence[SessionInfo]:
        """Return the sessions that were not committed or abandoned and have not expired.

        Returns
        -------
        list of SessionInfo
            By the time they were opened. One that was checked out and never changed is known
            to its own process only.
        """
        return run(self._async.list_active_sessions())

    def checkout(
        self,
        ref: str = "main",
        session_token: str | None = None,
        for_writing: bool = DEFAULT_IS_WRITE_SESSION,
        expires_in: timedelta = DEFAULT_EXPIRES_IN,
    ) -> str:
        """Make a session on a version the current one, or join one.

        Parameters
        ----------
        ref : str
            Branch, tag or commit id.
        session_token : str, optional
            Id of a session to join instead.
        for_writing : bool
            To write.
        expires_in : timedelta
            How long the session lives; 24 hours by default, 7 days at most.

        Returns
        -------
        str
            Id of the commit the session is on.

        Raises
        ------
        RefNotFoundError, NotFoundError, SessionStateError, InvalidInputError
            As `create_session` and `join_session`.
        """
        return run(self._async.checkout(ref, session_token, for_writing, expires_in))

    def resolved(self, ref: str) -> tuple[str | None, str]:
        """Return the branch that a ref names, if it does, and its commit.

        Parameters
        ----------
        ref : str
            Branch, tag or commit id.

        Raises
        ------
        RefNotFoundError
            There is none of that name.
        """
        return run(self._async.resolved(ref))

    def reach(self, prefixes: Sequence[str], options: Mapping[str, Any]) -> None:
        """Let the repository read chunks in some places; for the package's own use."""
        return run(self._async.reach(prefixes, options))

    def commit(
        self,
        message: str,
        auto_ff: bool = True,
        checkout_for_writing: bool = DEFAULT_IS_WRITE_SESSION,
        *,
        on_chunk_conflict: str = ChunkPolicy.ERROR,
    ) -> str | None:
        """Commit what everybody did in the current session, and open a new one on the branch.

        Parameters
        ----------
        message : str
            What was done.
        auto_ff : bool
            Where the branch moved: go on, unless the same paths were changed there.
        checkout_for_writing : bool
            Whether the new session is to write.
        on_chunk_conflict : {"error", "last"}
            What to do with a chunk that two who joined wrote: name it and commit nothing, or keep
            that of the one who joined last, such as one who did the work of a dead process again.

        Returns
        -------
        str or None
            Id of the new commit; None when nothing was changed.

        Raises
        ------
        SessionStateError
            Kind ``merge-failed``; two who joined wrote the same chunk: it is named. Kind
            ``not-on-branch``; the session is on a tag or commit. Kind ``not-allowed``; it ended,
            or somebody is committing it.
        RebaseFailedError
            The same paths were changed on the branch; they are named.
        ConflictError
            The branch moved, and ``auto_ff`` is off.
        """
        return run(
            self._async.commit(
                message, auto_ff, checkout_for_writing, on_chunk_conflict=on_chunk_conflict
            )
        )

    def fast_forward(self) -> None:
        """Move the current session to the latest commit of its branch.

        Raises
        ------
        RebaseFailedError
            The same paths were changed in the session and on the branch; they are named.
        """
        return run(self._async.fast_forward())

    def tree(self, prefix: str = "", *, depth: int = 10, filter: str | None = None) -> Tree:
        """Return groups and arrays as a tree, for a terminal or a notebook.

        Parameters
        ----------
        prefix : str
            Path of the group to start at.
        depth : int
            How many levels to show at most.
        filter : str, optional
            Show only nodes whose attributes pass a JMESPath expression, and the groups above them.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; not a JMESPath expression.
        NodeNotFoundError
            Kind ``node-not-found``; nothing at the prefix.
        """
        return run(self._async.tree(prefix, depth=depth, filter=filter))

    def tree_data(
        self,
        prefix: str = "",
        *,
        depth: int = 10,
        filter: str | None = None,
    ) -> dict[str, Any]:
        """Return what `tree` shows as plain data, nested under ``children``."""
        return run(self._async.tree_data(prefix, depth=depth, filter=filter))

    def filter_metadata(self, filter: str) -> list[str]:
        """Return the paths of groups and arrays whose attributes pass a JMESPath expression.

        Parameters
        ----------
        filter : str
            The expression. A NaN is the text "NaN"; two missing keys are equal.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; not a JMESPath expression.
        """
        return run(self._async.filter_metadata(filter))
