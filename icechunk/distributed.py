"""Fork and merge helpers for any engine that runs tasks elsewhere.

A task forks a session, writes, and hands back what the fork changed; whoever started the tasks
merges that. `ChunkChanges` is what travels: references of the chunks that were written, without
the base they lie on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.core.changes import ChangeSet, ChunkEdits
from icechunk.core.merge import ChunkPolicy
from icechunk.core.spans import spans_text
from icechunk.core.wire import decode_document, encode_document, pack_table, unpack_table
from icechunk.errors import ErrorKind, FormatError, InvalidInputError, SessionStateError
from icechunk.format.chunk_table import ChunkTable, merged, share_coordinates
from icechunk.ids import NodeId, id_text
from icechunk.session import ForkSession
from icechunk.session_state import SessionState
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import zarr

    from icechunk.ids import ObjectId
    from icechunk.session import Session

_RANGES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayChanges:
    """Chunks of one array that were written or deleted.

    Parameters
    ----------
    node_id : NodeId
        Id of the array.
    path : str
        Its path, for messages.
    tables : tuple of ChunkTable
        The references, each coordinate in one of them; deleted chunks have a row too. Large ones
        stay as they came, so that uniting them copies nothing.
    """

    node_id: NodeId
    path: str
    tables: tuple[ChunkTable, ...]


@dataclass(frozen=True, slots=True)
class ChunkChanges:
    """What forks did to chunks, in columns; the value that tasks return.

    Parameters
    ----------
    arrays : tuple of ArrayChanges
        One per array, each array once.

    Notes
    -----
    It pickles as MessagePack in a zstd frame, about 15 bytes for each native chunk, and unpickling
    builds values only.
    """

    arrays: tuple[ArrayChanges, ...] = ()

    @classmethod
    def made_by(cls, fork: ForkSession) -> ChunkChanges:
        """Return the chunk changes of a fork.

        Raises
        ------
        SessionStateError
            Kind ``merge-not-allowed``; the fork created, changed or deleted groups or arrays, so
            it must be merged as a whole.
        """
        checkout = fork.checkout
        changes = checkout.changes
        if changes.new_nodes or changes.updated or changes.deleted:
            raise SessionStateError(
                "a task changed metadata; only chunks can be written in parallel. Create arrays "
                "before forking.",
                ErrorKind.MERGE_NOT_ALLOWED,
            )
        arrays = []
        for node_id, edits in changes.chunks.items():
            node = checkout.base.nodes.by_id(node_id)
            path = id_text(node_id) if node is None else node.path
            arrays.append(ArrayChanges(node_id=node_id, path=path, tables=(edits.table(),)))
        return cls(tuple(arrays))

    @classmethod
    def union(
        cls, parts: Sequence[ChunkChanges], on_chunk_conflict: str = ChunkPolicy.ERROR
    ) -> ChunkChanges:
        """Return the changes of several tasks together; the parts stay as they are.

        Parameters
        ----------
        parts : sequence of ChunkChanges
            In order.
        on_chunk_conflict : {"error", "last"}
            What to do with a chunk that several wrote: fail and name it, or keep the last.

        Raises
        ------
        SessionStateError
            Kind ``merge-failed``; two tasks wrote the same chunk, and the first one's part of it
            is lost. The message names array and chunks.

        Notes
        -----
        Cost: one sort of all rows of each array. Memory: 8 bytes a row while it runs.
        """
        by_node: dict[NodeId, list[ArrayChanges]] = {}
        for part in parts:
            for array in part.arrays:
                by_node.setdefault(array.node_id, []).append(array)
        policy = ChunkPolicy(on_chunk_conflict)
        return cls(tuple(_union(arrays, policy) for arrays in by_node.values()))

    def chunk_count(self) -> int:
        """Return how many chunks were written or deleted."""
        return sum(len(table) for array in self.arrays for table in array.tables)

    def merge_into(
        self,
        session: Session,
        origin: ForkSession,
        on_chunk_conflict: str = ChunkPolicy.ERROR,
    ) -> None:
        """Make these changes part of a session.

        Parameters
        ----------
        session : Session or ForkSession
            Receives them.
        origin : ForkSession
            The fork the tasks worked on forks of; made from ``session``.
        on_chunk_conflict : {"error", "last"}
            What to do with a chunk that was also written to the session since ``origin`` was
            made, so that the tasks did not see it.

        Raises
        ------
        SessionStateError
            Kind ``merge-failed`` or ``merge-not-allowed``; the session was rebased since, an
            array was deleted, or chunks were written by both. Nothing was merged.
        ReadOnlyError
            Kind ``read-only-session``; the session was committed since.
        """
        carrier = twin_of(origin)
        for array in self.arrays:
            for table in array.tables:
                carrier.checkout.changes.edits(array.node_id, table.ndim).extend(table)
        try:
            session.merge(carrier, on_chunk_conflict=on_chunk_conflict)
        finally:
            carrier.mark_carried()

    def __reduce__(self) -> tuple[Any, ...]:
        packed = [(a.node_id, a.path, [*map(pack_table, a.tables)]) for a in self.arrays]
        return (_unpickled, (encode_document({"arrays": packed}),))


def _unpickled(data: bytes) -> ChunkChanges:
    try:
        return ChunkChanges(
            tuple(
                ArrayChanges(
                    node_id=NodeId(node_id), path=path, tables=tuple(map(unpack_table, tables))
                )
                for node_id, path, tables in decode_document(data)["arrays"]
            )
        )
    except (KeyError, TypeError, ValueError) as e:
        raise FormatError(
            f"damaged bytes of a task's changes ({e!r}).", ErrorKind.DESERIALIZATION
        ) from e


def _union(arrays: list[ArrayChanges], policy: ChunkPolicy) -> ArrayChanges:
    first = arrays[0]
    if len(arrays) == 1:
        return first
    tables = [table for array in arrays for table in array.tables]
    if not tables:
        return first
    if share_coordinates(tables):
        if policy is ChunkPolicy.ERROR:
            raise SessionStateError(_shared_chunks(first.path, tables), ErrorKind.MERGE_FAILED)
        tables = [merged(tables)]
    together = ChunkEdits(tables[0].ndim)
    for table in tables:
        together.extend(table)
    return ArrayChanges(node_id=first.node_id, path=first.path, tables=together.tables())


def _shared_chunks(path: str, tables: list[ChunkTable]) -> str:
    coords, counts = np.unique(
        np.concatenate([table.coords for table in tables]), axis=0, return_counts=True
    )
    return (
        f"two tasks wrote the same chunks of {path}: {spans_text(coords[counts > 1], _RANGES)}. "
        "Each chunk must be written whole by one task; align the tasks with the chunk grid."
    )


def twin_of(fork: ForkSession) -> ForkSession:
    """Return a fork without changes of its own on the same base, in a few microseconds.

    Unlike ``fork.fork()`` it does not see what ``fork`` itself changed, so nothing is copied: the
    base is shared. Made for forks that change nothing, such as the one that all tasks share.
    """
    shared = fork.checkout
    checkout = Checkout(
        shared.assets,
        shared.virtual,
        shared.snapshot_id,
        shared.mode,
        base=shared.base,
        pack=shared.pack,
    )
    state = fork._state  # noqa: SLF001 # a second constructor of the session
    return ForkSession(
        SessionState(checkout=checkout, branch=None, config=state.config, inherited=state.inherited)
    )


def fork_at(
    session: Session,
    snapshot_id: ObjectId,
    *,
    inherited: ChangeSet | None = None,
    changes: ChangeSet | None = None,
) -> ForkSession:
    """Return a fork as if a session had been made on another snapshot and forked there.

    With it, change sets that were kept apart from any session (`icechunk.shelf`) become forks
    again: to go on writing with, or to be merged.

    Parameters
    ----------
    session : Session
        A writable session of the repository.
    snapshot_id : ObjectId
        What the changes lie on.
    inherited : ChangeSet, optional
        What the session is taken to have changed before it was forked; the fork sees it and does
        not bring it back.
    changes : ChangeSet, optional
        What the fork itself changed.

    Returns
    -------
    ForkSession
        Nothing is read yet.
    """
    state = session._state  # noqa: SLF001 # a second constructor of the session
    before = ChangeSet() if inherited is None else inherited

    async def load() -> Base:
        return Base.with_inherited(await state.assets.snapshot(snapshot_id), before)

    checkout = Checkout(
        state.assets,
        state.checkout.virtual,
        snapshot_id,
        SessionMode.writable,
        load=load,
        changes=changes,
        pack=state.checkout.pack,
    )
    return ForkSession(
        SessionState(checkout=checkout, branch=None, config=state.config, inherited=before)
    )


def extract_session(zarray: zarr.Array[Any], axis: Any = None, keepdims: Any = None) -> Session:
    """Return the session behind a zarr array.

    Parameters
    ----------
    zarray : zarr.Array
        Opened on ``session.store``.
    axis, keepdims : object
        Ignored; they let this be the first step of a dask reduction.

    Returns
    -------
    Session or ForkSession
        The session the array's store belongs to.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; the array is on another kind of store.

    Examples
    --------
    >>> from icechunk.dask import extract_session
    >>> extract_session(zarr.open_array(session.store, path="t")) == session
    True
    """
    del axis, keepdims
    store = zarray.store_path.store
    if not isinstance(store, IcechunkStore):
        raise InvalidInputError(
            f"array {zarray.path!r} is on a {type(store).__name__}, not on an IcechunkStore.",
            ErrorKind.NOT_ALLOWED,
        )
    return store.session


def merge_sessions(*sessions: Any) -> ForkSession:
    """Merge forks of one session into the first of them.

    Parameters
    ----------
    *sessions : ForkSession, or nested lists of them
        At least one.

    Returns
    -------
    ForkSession
        The first fork, with the changes of all.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; none, or something that is no fork.
    SessionStateError
        Kind ``merge-failed``; two forks changed the same metadata differently.

    Examples
    --------
    >>> from icechunk.distributed import merge_sessions
    >>> fork = merge_sessions([session.fork(), session.fork()])
    """
    forks = list(_flat(sessions))
    if not forks:
        raise InvalidInputError("no sessions to merge.", ErrorKind.NOT_ALLOWED)
    first, *others = {id(fork): fork for fork in forks}.values()  # tasks may share a fork
    first.merge(*others)
    return first


def _flat(sessions: Any) -> Iterator[ForkSession]:
    for item in sessions:
        if isinstance(item, ForkSession):
            yield item
        elif isinstance(item, list | tuple):
            yield from _flat(item)
        else:
            raise InvalidInputError(
                f"cannot merge a {type(item).__name__}; expected sessions made by session.fork().",
                ErrorKind.NOT_ALLOWED,
            )
