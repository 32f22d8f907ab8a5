"""Sessions: replacing the last commit, anonymous snapshots, and moving chunks by reference.

Source: Icechunk specification, sections "Other ways to make snapshots" and "Node changes in a
session".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icechunk._io.loop import run
from icechunk._sync.session_edits import SessionEditsTwins
from icechunk.checkout import SessionMode
from icechunk.core.reindex import plan_reindex, plan_shift, within_grid
from icechunk.errors import ErrorKind, SessionStateError
from icechunk.format.chunk_table import ChunkTable, merged
from icechunk.ids import id_text
from icechunk.paths import NodePath, parse_path
from icechunk.session_state import SessionState, checked_message
from icechunk.transaction import CommitMode, CommitRequest, commit_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from icechunk.format.snapshot import NodeSnapshot


class SessionEdits(SessionEditsTwins):
    """The part of a session that is rarer than setting chunks and committing."""

    _state: SessionState

    # -- snapshots ----------------------------------------------------------------------------

    async def amend_async(
        self, message: str, *, metadata: dict[str, Any] | None = None, allow_empty: bool = False
    ) -> str:
        """Replace the last commit of the branch by one with the session's changes as well.

        Parameters
        ----------
        message : str
            What was done, for the history; the replaced commit's message is gone.
        metadata : dict, optional
            JSON-like facts kept with the snapshot, over the repository's default commit metadata.
        allow_empty : bool
            Make a snapshot although nothing changed: a new message and metadata.

        Returns
        -------
        str
            Id of the new snapshot, whose parent is that of the replaced one; the session becomes
            read-only on it. The replaced snapshot stays readable by its id until it is collected.

        Raises
        ------
        SessionStateError
            Kind ``no-changes-to-commit``; ``no-amend-for-initial-commit``, there is nothing
            before the first snapshot; ``rearrange-session-only``, the last commit moved nodes and
            this session does not; ``commit-not-allowed``, the session is read-only or a fork.
        ConflictError
            Kind ``commit-conflict``; the branch moved. An amendment is never rebased.

        Notes
        -----
        Source: Icechunk specification, section "Other ways to make snapshots". Concurrency:
        atomic, as `commit`.

        Examples
        --------
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> snapshot_id = session.amend("first, with one more value")
        >>> len(repo.ancestry(branch="main"))
        2
        """
        request = CommitRequest(
            mode=CommitMode.AMEND,
            branch=self._require_branch(),
            message=checked_message(message),
            metadata=self._state.commit_metadata(metadata),
            allow_empty=allow_empty,
        )
        return id_text(await commit_changes(self._state.checkout, request))

    async def flush_async(self, message: str, *, metadata: dict[str, Any] | None = None) -> str:
        """Make the changes a snapshot that no branch points at.

        Parameters
        ----------
        message : str
            What was done.
        metadata : dict, optional
            JSON-like facts kept with the snapshot, over the repository's default commit metadata.

        Returns
        -------
        str
            Id of the new snapshot; the session becomes read-only on it. It is garbage, and is
            collected one day, unless a tag or a branch is put on it.

        Raises
        ------
        SessionStateError
            Kind ``commit-not-allowed``; the session is a fork.
        ReadOnlyError
            Kind ``read-only-repository``.

        Notes
        -----
        Source: Icechunk specification, section "Other ways to make snapshots". Sessions without
        changes, read-only ones too, may be flushed. No branch moves, so there is no conflict.

        Examples
        --------
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> snapshot_id = session.flush("on no branch")
        >>> repo.lookup_branch("main") == snapshot_id
        False
        """
        self._refuse_fork()
        request = CommitRequest(
            mode=CommitMode.DETACHED,
            branch=None,
            message=checked_message(message),
            metadata=self._state.commit_metadata(metadata),
            allow_empty=True,
        )
        return id_text(await commit_changes(self._state.checkout, request))

    def _require_branch(self) -> str:
        """Return the branch to commit to; raises `SessionStateError` where there is none."""
        self._refuse_fork()
        state = self._state
        if state.checkout.mode is SessionMode.readonly:
            raise SessionStateError(
                "this session is read-only: nothing can be committed. Open one with "
                "repo.writable_session(branch); after a commit, open a new one.",
                ErrorKind.COMMIT_NOT_ALLOWED,
            )
        if state.branch is None:
            raise SessionStateError("this session is on no branch.", ErrorKind.NOT_ON_BRANCH)
        return state.branch

    def _refuse_fork(self) -> None:
        """Refuse what a fork may not do; here nothing."""

    # -- nodes --------------------------------------------------------------------------------

    async def move_async(self, from_path: str, to_path: str) -> None:
        """Move a group or array, with everything below it, to another path.

        Only sessions of `Repository.rearrange_session` move nodes. Several moves may follow one
        another: two nodes change places by way of a third path.

        Parameters
        ----------
        from_path : str
            Absolute path of the node.
        to_path : str
            Absolute path where it goes. The group above must be there, the path itself must not.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``; there is nothing at ``from_path``.
        AlreadyExistsError
            Kind ``move-wont-overwrite``; there is something at ``to_path``.
        SessionStateError
            Kind ``move-into-self-or-descendant``, also for the root;
            ``move-destination-parent-missing`` or ``move-destination-parent-not-group``;
            ``non-rearrange-session``.
        ReadOnlyError
            Kind ``read-only-session``.
        InvalidInputError
            Kind ``invalid-path``.

        Notes
        -----
        Source: Icechunk specification, section "Move (v2)". Ids, metadata and chunks stay as they
        are; nothing is copied. On rebase a move takes along what others changed in the nodes or
        put below them.

        Examples
        --------
        >>> session = repo.rearrange_session("main")
        >>> session.move("/t", "/temperature")
        """
        checkout = self._state.checkout
        await checkout.ready()
        checkout.move_node(parse_path(from_path), parse_path(to_path))

    # -- chunks -------------------------------------------------------------------------------

    async def shift_array_async(self, array_path: str, chunk_offset: Iterable[int]) -> None:
        """Move every chunk of an array by the same number of chunks.

        Parameters
        ----------
        array_path : str
            Absolute path.
        chunk_offset : iterable of int
            How far along each dimension, of either sign; unit: chunks.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``.
        InvalidInputError
            Kind ``not-an-array``; ``invalid-path``; ``invalid-chunk-index``, an offset for another
            number of dimensions; ``invalid-array-metadata``, the chunk grid is not regular.
        ReadOnlyError
            Kind ``read-only-session``.

        Notes
        -----
        Source: Icechunk specification, section "Node changes in a session". References move, no
        chunk is read or written. Chunks that leave the grid are gone, places they left are empty;
        resize the array first to keep all. Chunks set at the same time by another thread may or
        may not move.

        Examples
        --------
        >>> moved = session.shift_array("/t", (1,))
        >>> zarr.open_array(session.store, path="t", mode="r")[:].tolist()
        [0.0, 0.0, 0.0, 1.0]
        """
        node, table = await self._references(array_path)
        self._state.checkout.set_refs(NodePath(node.path), plan_shift(node, table, chunk_offset))

    def reindex_array(
        self,
        array_path: str,
        forward: Callable[[list[int]], Iterable[int] | None],
        backward: Callable[[list[int]], Iterable[int] | None] | None = None,
    ) -> None:
        """Move each chunk of an array where a function says.

        Parameters
        ----------
        array_path : str
            Absolute path.
        forward : callable
            Called with the coordinate of each chunk that exists; returns the new one, or None to
            let it stay. Where several meet, the last in the order of coordinates stays.
        backward : callable, optional
            The inverse: which coordinate the chunk at a coordinate comes from, None for none. With
            it, places whose chunk left and where none arrived are emptied; without it they keep
            theirs.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``.
        InvalidInputError
            Kind ``not-an-array``; ``invalid-path``; ``invalid-chunk-index``, a new coordinate lies
            outside the grid.
        ReadOnlyError
            Kind ``read-only-session``.

        Notes
        -----
        Source: Icechunk specification, section "Node changes in a session". References move, no
        chunk is read or written. What the functions raise comes out as it is, and nothing has
        changed then. They run in the calling thread.

        Examples
        --------
        >>> session.reindex_array("/t", lambda chunk: [1 - chunk[0]])
        >>> zarr.open_array(session.store, path="t", mode="r")[:].tolist()
        [2.0, 3.0, 0.0, 1.0]
        """
        node, table = run(self._references(array_path))
        changes = plan_reindex(node, table, forward, backward)
        self._state.checkout.set_refs(NodePath(node.path), changes)

    async def _references(self, array_path: str) -> tuple[NodeSnapshot, ChunkTable]:
        """Return an array and all references in its grid, as the session sees them."""
        checkout = self._state.checkout
        await checkout.ready()
        checkout.require_writable()
        node = checkout.require_array(parse_path(array_path))
        tables = [table async for table in checkout.chunk_tables(node)]
        return node, within_grid(merged([ChunkTable.empty(len(node.shape)), *tables]), node)
