"""Blocking twins of `icechunk.session_edits`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any


class SessionEditsTwins:
    """Blocking methods of `icechunk.session_edits.SessionEdits`."""

    __slots__ = ()

    def amend(
        self,
        message: str,
        *,
        metadata: dict[str, Any] | None = None,
        allow_empty: bool = False,
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
        return run(self.amend_async(message, metadata=metadata, allow_empty=allow_empty))

    def flush(self, message: str, *, metadata: dict[str, Any] | None = None) -> str:
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
        return run(self.flush_async(message, metadata=metadata))

    def move(self, from_path: str, to_path: str) -> None:
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
        return run(self.move_async(from_path, to_path))

    def shift_array(self, array_path: str, chunk_offset: Iterable[int]) -> None:
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
        return run(self.shift_array_async(array_path, chunk_offset))
