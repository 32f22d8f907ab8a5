"""A session that lives beside the repository, so that it outlives every process that works in it.

Everybody who joins writes items of their own to the session's shelf: what they changed since their
last item, or all they changed, which stands for their earlier items. A change is acknowledged once
its item is durable and the session was then seen to be still active; a commit first marks the
session and then reads the items. So what was acknowledged is in the commit.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from icechunk._io.limits import Limiter
from icechunk.assets.refs import now_us
from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.core.changes import ChangeSet, table_of
from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    NotFoundError,
    SessionStateError,
)
from icechunk.ids import parse_object_id
from icechunk.lake.items import item_name, load_parts
from icechunk.lake.record import SessionInfo, State, now
from icechunk.lake.saver import GroupSaver
from icechunk.lake.union import united_changes
from icechunk.session import ForkSession
from icechunk.session_state import SessionState
from icechunk.shelf import Shelf, ShelfItem, ShelfRecord
from icechunk.transaction import require_unconflicted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import timedelta

    from icechunk.format.chunk_table import ChunkRef, ChunkTable, Coordinate
    from icechunk.format.snapshot import NodeSnapshot
    from icechunk.ids import NodeId, ObjectId
    from icechunk.lake.items import Part
    from icechunk.paths import NodePath
    from icechunk.repository import Repository
    from icechunk.store import IcechunkStore


@dataclass(slots=True)
class _Unsaved:
    """What a joiner changed and has not saved: everything, or some chunks."""

    everything: bool = False
    chunks: set[tuple[NodePath, Coordinate]] = field(default_factory=set)

    def add(self, other: _Unsaved) -> None:
        """Take what could not be saved back."""
        self.everything |= other.everything
        self.chunks |= other.chunks


class _SavedFork(ForkSession):
    """A fork that is written through a `LakeStore` alone, which saves each write."""

    @property
    def store(self) -> IcechunkStore:
        """Refuse: what is written past the lake's store is not saved, and in no commit.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; always.
        """
        raise _past_the_store()

    def fork(self) -> ForkSession:
        """Refuse as `store` does."""
        raise _past_the_store()

    def discard_changes(self) -> None:
        """Refuse: what was acknowledged stays; give the whole session up instead."""
        raise SessionStateError(
            "a session of a lake keeps what was written. Give all of it up: session.abandon().",
            ErrorKind.NOT_ALLOWED,
        )

    async def _references(self, array_path: str) -> tuple[NodeSnapshot, ChunkTable]:
        """Refuse as `store` does, before chunks are shifted or reindexed."""
        del array_path
        raise _past_the_store()


def _past_the_store() -> SessionStateError:
    return SessionStateError(
        "a session of a lake is written through its own store, which saves each write: "
        "ds.to_zarr(repo.store, ...), dask.array.store(source, array), or zarr. "
        "to_icechunk and store_dask write to sessions of repo.repository.",
        ErrorKind.NOT_ALLOWED,
    )


class DurableSession:
    """One joiner's view of a durable session.

    Parameters
    ----------
    repository : Repository
        Where it is.
    info : SessionInfo
        The session.
    fork : ForkSession
        Reads what others had done when this one joined, and records what this one does.
    stored : bool
        Whether the session is on the shelf already; else it gets there with the first change.

    Attributes
    ----------
    joiner : str
        Names what this one saves, and its claim on a commit.
    is_stored : bool
        As ``stored``, by now.
    one_commit : Limiter
        Held by the one thread or task that commits.

    Notes
    -----
    Concurrency: any number of threads and event loops.
    """

    def __init__(
        self, repository: Repository, info: SessionInfo, fork: ForkSession, *, stored: bool
    ) -> None:
        self.repository = repository
        self.info = info
        self.fork = fork
        self.is_stored = stored
        self._shelf = Shelf(repository.storage)
        # Sorts by when it joined, so that the last of two is known.
        self.joiner = f"{now_us():016x}{secrets.token_hex(4)}"
        self._number = 0
        self._items: list[str] = []
        self._unsaved = _Unsaved()
        self._saver = GroupSaver(self._save)
        self.one_commit = Limiter(1)

    # -- beginning ----------------------------------------------------------------------------

    @classmethod
    async def begin(cls, repository: Repository, info: SessionInfo) -> DurableSession:
        """Return a new session; nothing is written yet."""
        fork = await _fork(repository, parse_object_id(info.base), ChangeSet())
        return cls(repository, info, fork, stored=False)

    @classmethod
    async def join(cls, repository: Repository, session_id: str) -> DurableSession:
        """Join a session: see what everybody did so far, and add to it.

        Raises
        ------
        NotFoundError
            Kind ``key-not-found``; no such session.
        SessionStateError
            Kind ``not-allowed``; it has expired, or was committed or abandoned. One that somebody
            is committing can be joined, to take the commit over should that have died.
        """
        try:
            record = await Shelf(repository.storage).record(session_id)
        except NotFoundError as e:
            raise NotFoundError(
                f"there is no session {session_id!r} in this repository: it ended and was removed, "
                "or is one of another. repo.list_active_sessions() returns those that are open.",
                ErrorKind.KEY_NOT_FOUND,
            ) from e
        info = SessionInfo.from_record(record)
        if not info.is_active(at := now()):
            info.require_active(at)
        parts = await load_parts(Shelf(repository.storage), session_id)
        inherited = _united([part.changes for part in parts])
        fork = await _fork(repository, parse_object_id(info.base), inherited)
        return cls(repository, info, fork, stored=True)

    def reach(self, repository: Repository) -> None:
        """Go on with the same repository opened with other virtual chunk containers."""
        self.repository = repository
        self.fork.reach(repository.config, repository.state.virtual)

    # -- changing -----------------------------------------------------------------------------

    def require_usable(self) -> None:
        """Refuse a change when the session is known to take none; looks at the clock only.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``.
        """
        self.info.require_active(now())

    def note_chunk(self, path: NodePath, coord: Coordinate) -> None:
        """Note that a chunk was set or deleted."""
        with self.fork.checkout.lock:
            self._unsaved.chunks.add((path, coord))

    def note_all(self) -> None:
        """Note that something else than single chunks was changed."""
        with self.fork.checkout.lock:
            self._unsaved.everything = True

    async def saved(self) -> None:
        """Return when everything noted so far is part of the session, whatever happens here.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the session takes no changes any more.
        StorageError
            The changes could not be written; they are kept, and are written with the next.
        """
        await self._saver.saved()

    async def store(self) -> str:
        """Put the session on its shelf, if it is not there yet, and return its id."""
        if not self.is_stored:
            # The id is random: one that exists was made by another thread or a lost request.
            with suppress(AlreadyExistsError):
                await self._shelf.create(self.info.to_record())
            self.is_stored = True
        return self.info.session_id

    async def _save(self) -> None:
        checkout = self.fork.checkout
        with checkout.lock:
            unsaved, self._unsaved = self._unsaved, _Unsaved()
            base = checkout.snapshot_id
            changes = (
                checkout.changes.copy() if unsaved.everything else _saved_chunks(checkout, unsaved)
            )
        if not unsaved.everything and changes.is_empty():
            return
        try:
            await self._put(base, changes, everything=unsaved.everything)
        except BaseException:
            with checkout.lock:
                self._unsaved.add(unsaved)
            raise

    async def _put(self, base: ObjectId, changes: ChangeSet, *, everything: bool) -> None:
        await self.store()
        self._number += 1
        name = item_name(self.joiner, self._number, everything=everything)
        item = ShelfItem(name=name, base=base, changes=changes)
        if not await self._shelf.put(self.info.session_id, item):
            raise SessionStateError(
                f"somebody else writes to session {self.info.session_id} under this process's "
                "name; join the session again.",
                ErrorKind.NOT_ALLOWED,
            )
        self.info = await self.look()
        self.info.require_active(now())
        before, self._items = self._items, [*self._items, name]
        if everything and before:
            await self._shelf.discard(self.info.session_id, before)
            self._items = [name]

    # -- looking ------------------------------------------------------------------------------

    async def seen(self) -> ChangeSet:
        """Return what all joiners changed, as a reader sees it."""
        await self.saved()
        return _united([part.changes for part in await self.parts()])

    async def refresh(self) -> None:
        """See what others did meanwhile; own changes stay on top.

        Raises
        ------
        RebaseFailedError
            Somebody moved the session to a newer commit, and the same paths were changed here and
            on the branch; names them.
        """
        await self.saved()
        if not self.is_stored:
            return
        self.info = await self.look()
        others = [part.changes for part in await self.parts() if part.joiner != self.joiner]
        base, checkout = parse_object_id(self.info.base), self.fork.checkout
        moved = base != checkout.snapshot_id
        with checkout.lock:
            own = checkout.changes.copy()
        if moved and not own.is_empty():
            # Who moved the session may not have seen what was written here at the same time.
            behind = await checkout_on(self.repository, checkout.snapshot_id, own)
            await require_unconflicted(behind, base)
        self.fork.underlay(await self.repository.state.assets.snapshot(base), _united(others))
        if moved and not checkout.changes.is_empty():
            self.note_all()
            await self.saved()

    async def parts(self) -> list[Part]:
        """Return what every joiner saved."""
        return await load_parts(self._shelf, self.info.session_id) if self.is_stored else []

    async def look(self) -> SessionInfo:
        """Read what is kept of the session now; raises as `saved` when that is gone."""
        try:
            return SessionInfo.from_record(await self._shelf.record(self.info.session_id))
        except NotFoundError as e:
            raise _gone(self.info.session_id) from e

    # -- ending -------------------------------------------------------------------------------

    async def expire_in(self, expires_in: timedelta) -> None:
        """Give the session another life, counted from its start."""
        await self.change(lambda info: info.expiring(expires_in))

    async def attach(self, branch: str) -> None:
        """Make a session that is on no branch commit to one."""
        await self.change(lambda info: replace(info, branch=branch))

    async def abandon(self) -> None:
        """Give the session's changes up; nobody can write to it any more."""
        await self.change(lambda info: replace(info, state=State.ABANDONED))
        await self.discard_items()

    def require_branch(self) -> str:
        """Return the branch the session commits to.

        Raises
        ------
        SessionStateError
            Kind ``not-on-branch``.
        """
        if self.info.branch is None:
            raise SessionStateError(
                "this session was opened on a tag or a commit, so there is no branch to commit "
                "to. Make one at its base: repo.new_branch(name).",
                ErrorKind.NOT_ON_BRANCH,
            )
        return self.info.branch

    async def discard_items(self) -> None:
        """Remove what all joiners kept; the session ended."""
        names = await self._shelf.names(self.info.session_id)
        await self._shelf.discard(self.info.session_id, list(names))

    async def change(
        self, edited: Callable[[SessionInfo], SessionInfo], *, guarded: bool = True
    ) -> None:
        """Change what is kept of the session; guarded, only while it takes changes."""
        await self.store()

        def edit(record: ShelfRecord) -> ShelfRecord:
            info = SessionInfo.from_record(record)
            if guarded:
                info.require_active(now())
            return edited(info).to_record()

        try:
            record = await self._shelf.update(self.info.session_id, edit)
        except NotFoundError as e:
            raise _gone(self.info.session_id) from e
        self.info = SessionInfo.from_record(record)


def _united(changes: Sequence[ChangeSet]) -> ChangeSet:
    return united_changes(changes, None)


def _saved_chunks(checkout: Checkout, unsaved: _Unsaved) -> ChangeSet:
    """Return the present references of some chunks; those of arrays that are gone are left out."""
    rows: dict[NodeId, dict[Coordinate, ChunkRef | None]] = {}
    for path, coord in unsaved.chunks:
        node = checkout.node(path)
        edits = None if node is None else checkout.changes.chunks.get(node.id)
        if node is None or edits is None:
            continue
        changed, ref = edits.find(coord)
        if changed:
            rows.setdefault(node.id, {})[coord] = ref
    changes = ChangeSet()
    for node_id, refs in rows.items():
        ndim = len(next(iter(refs)))
        changes.edits(node_id, ndim).extend(table_of(refs, ndim))
    return changes


async def _fork(repository: Repository, base: ObjectId, inherited: ChangeSet) -> ForkSession:
    """Return a fork whose changes are saved elsewhere, so that dropping it loses nothing."""
    checkout = await checkout_on(repository, base, ChangeSet())
    state = SessionState(checkout=checkout, branch=None, config=repository.config)
    fork = _SavedFork(state)
    fork.underlay(checkout.base.snapshot, inherited)
    fork.mark_carried()
    return fork


async def checkout_on(repository: Repository, base: ObjectId, changes: ChangeSet) -> Checkout:
    """Return some changes on a snapshot of a repository."""
    state = repository.state
    snapshot = await state.assets.snapshot(base)
    return Checkout(
        state.assets,
        state.virtual,
        base,
        SessionMode.writable,
        base=Base.of(snapshot),
        changes=changes,
    )


def _gone(session_id: str) -> SessionStateError:
    return SessionStateError(
        f"session {session_id} is gone: it ended, and what was kept of it was removed. Open a new "
        "one: repo.checkout(ref) or repo.create_session(ref).",
        ErrorKind.NOT_ALLOWED,
    )
