"""A session that lives beside the repository, so that it outlives every process that works in it.

Everybody who joins writes items of their own to the session's shelf: what they changed since their
last item, or all they changed, which stands for their earlier items. A change is acknowledged once
its item is durable and the session was then seen to be still active; a commit first marks the
session and then reads the items. So what was acknowledged is in the commit.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from icechunk._io.limits import Limiter, gather_limited
from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.core.changes import ChangeSet, table_of
from icechunk.core.conflicts import ConflictDetector
from icechunk.core.merge import merge_changes
from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    FormatError,
    IcechunkError,
    NotFoundError,
    SessionStateError,
)
from icechunk.ids import id_text, parse_object_id
from icechunk.lake.record import SessionInfo, State, now
from icechunk.lake.saver import GroupSaver
from icechunk.lake.union import united_changes
from icechunk.session import ForkSession
from icechunk.session_state import SessionState
from icechunk.shelf import Shelf, ShelfItem, ShelfRecord
from icechunk.transaction import CommitRequest, commit_changes, rebase_changes, require_unconflicted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from typing import Any

    from icechunk.format.chunk_table import ChunkRef, Coordinate
    from icechunk.ids import NodeId, ObjectId
    from icechunk.paths import NodePath
    from icechunk.repository import Repository

COMMIT_SESSION_KEY: Final = "lake_session"
"""Commit metadata that names the session a commit was made of."""

_ITEM: Final = re.compile(r"(?P<joiner>[0-9a-f]+)-(?P<number>[0-9]{10})-(?P<what>all|more)")
_LEASE: Final = timedelta(minutes=2)
_RENEWAL: Final = timedelta(seconds=30)
_READ_TRIES: Final = 20
_CONCURRENT_READS: Final = 16
_REBASES: Final = 1000


@dataclass(slots=True)
class _Unsaved:
    """What a joiner changed and has not saved: everything, or some chunks."""

    everything: bool = False
    chunks: set[tuple[NodePath, Coordinate]] = field(default_factory=set)

    def add(self, other: _Unsaved) -> None:
        """Take what could not be saved back."""
        self.everything |= other.everything
        self.chunks |= other.chunks


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
        self._stored = stored
        self._shelf = Shelf(repository.storage)
        self._joiner = secrets.token_hex(8)
        self._number = 0
        self._items: list[str] = []
        self._unsaved = _Unsaved()
        self._saver = GroupSaver(self._save)
        self._one_commit = Limiter(1)

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
        info = SessionInfo.from_record(await Shelf(repository.storage).record(session_id))
        if not info.is_active(at := now()):
            info.require_active(at)
        parts = await _load(Shelf(repository.storage), session_id)
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
        if not self._stored:
            # The id is random: one that exists was made by another thread or a lost request.
            with suppress(AlreadyExistsError):
                await self._shelf.create(self.info.to_record())
            self._stored = True
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
        name = f"{self._joiner}-{self._number:010}-{'all' if everything else 'more'}"
        item = ShelfItem(name=name, base=base, changes=changes)
        if not await self._shelf.put(self.info.session_id, item):
            raise SessionStateError(
                f"somebody else writes to session {self.info.session_id} under this process's "
                "name; join the session again.",
                ErrorKind.NOT_ALLOWED,
            )
        self.info = await self._look()
        self.info.require_active(now())
        before, self._items = self._items, [*self._items, name]
        if everything and before:
            await self._shelf.discard(self.info.session_id, before)
            self._items = [name]

    # -- looking ------------------------------------------------------------------------------

    async def seen(self) -> ChangeSet:
        """Return what all joiners changed, as a reader sees it."""
        await self.saved()
        return _united([part.changes for part in await self._parts()])

    async def refresh(self) -> None:
        """See what others did meanwhile; own changes stay on top.

        Raises
        ------
        RebaseFailedError
            Somebody moved the session to a newer commit, and the same paths were changed here and
            on the branch; names them.
        """
        await self.saved()
        if not self._stored:
            return
        self.info = await self._look()
        others = [part.changes for part in await self._parts() if part.joiner != self._joiner]
        base, checkout = parse_object_id(self.info.base), self.fork.checkout
        moved = base != checkout.snapshot_id
        with checkout.lock:
            own = checkout.changes.copy()
        if moved and not own.is_empty():
            # Who moved the session may not have seen what was written here at the same time.
            behind = await _checkout(self.repository, checkout.snapshot_id, own)
            await require_unconflicted(behind, base)
        self.fork.underlay(await self.repository.state.assets.snapshot(base), _united(others))
        if moved and not checkout.changes.is_empty():
            self.note_all()
            await self.saved()

    async def _parts(self) -> list[_Part]:
        return await _load(self._shelf, self.info.session_id) if self._stored else []

    async def _look(self) -> SessionInfo:
        try:
            return SessionInfo.from_record(await self._shelf.record(self.info.session_id))
        except NotFoundError as e:
            raise _gone(self.info.session_id) from e

    # -- ending -------------------------------------------------------------------------------

    async def expire_in(self, expires_in: timedelta) -> None:
        """Give the session another life, counted from its start."""
        await self._change(lambda info: info.expiring(expires_in))

    async def attach(self, branch: str) -> None:
        """Make a session that is on no branch commit to one."""
        await self._change(lambda info: replace(info, branch=branch))

    async def abandon(self) -> None:
        """Give the session's changes up; nobody can write to it any more."""
        await self._change(lambda info: replace(info, state=State.ABANDONED))
        await self._discard_items()

    async def fast_forward(self) -> None:
        """Move the session to the tip of its branch.

        Raises
        ------
        RebaseFailedError
            The same paths were changed here and on the branch; names them.
        """
        branch = self.require_branch()
        await self.saved()
        await self.store()
        self.info = await self._look()
        before = self.info.base
        checkout = await self._united_checkout()
        await rebase_changes(checkout, branch, ConflictDetector())
        tip = id_text(checkout.snapshot_id)
        # Who was faster may have moved it further; back it never goes.
        await self._change(lambda info: replace(info, base=tip) if info.base == before else info)
        await self.refresh()

    async def commit(
        self, message: str, metadata: Mapping[str, Any], *, auto_ff: bool
    ) -> str | None:
        """Make the changes of all joiners one commit; None when there are none.

        Parameters
        ----------
        message : str
            Commit message.
        metadata : mapping
            Commit metadata; the session's id is added.
        auto_ff : bool
            Whether to go on where the branch moved and nobody changed the same paths.

        Raises
        ------
        SessionStateError
            Kind ``merge-failed``; two joiners wrote the same chunk: array and chunk are named. Kind
            ``not-allowed``; somebody else is committing, or the session ended. Kind
            ``not-on-branch``; it was opened on a tag or a commit.
        ConflictError
            The branch moved: without ``auto_ff`` always, else where the same paths were changed.

        Notes
        -----
        A session is committed once. Whoever dies between the commit and the note of it leaves the
        session marked; the next one to commit it looks for the session in the history first.
        """
        self.require_branch()
        await self.saved()
        if not self._stored:
            self.require_usable()
            return None
        async with self._one_commit, self._claim_held():
            try:
                done = await self._found_in_history()
                if done is None:
                    done = await self._commit_once(message, metadata, auto_ff=auto_ff)
            except IcechunkError:
                done = await self._found_in_history()
                if done is None:
                    await self._change(self._released, guarded=False)
                    raise
            if done is None:
                await self._change(self._released, guarded=False)
                return None
            await self._change(
                lambda info: replace(info, state=State.COMMITTED, commit=done), guarded=False
            )
        await self._discard_items()
        return done

    @asynccontextmanager
    async def _claim_held(self) -> AsyncIterator[None]:
        """Mark the session as being committed by this joiner, for as long as that takes.

        A claim that ran out is taken over, so it is renewed while its holder lives.
        """
        await self._change(self._claimed, guarded=False)

        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEWAL.total_seconds())
                try:
                    await self._change(self._renewed, guarded=False)
                except IcechunkError:
                    continue  # the next time may come before the claim runs out

        renewal = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.wait([renewal])

    async def _commit_once(
        self, message: str, metadata: Mapping[str, Any], *, auto_ff: bool
    ) -> str | None:
        checkout = await self._united_checkout()
        if checkout.changes.is_empty():
            return None
        default = self.repository.state.default_metadata
        request = CommitRequest(
            branch=self.require_branch(),
            message=message,
            metadata={**default, **metadata, COMMIT_SESSION_KEY: self.info.session_id},
            solver=ConflictDetector() if auto_ff else None,
            max_rebases=_REBASES,
        )
        return id_text(await commit_changes(checkout, request))

    async def _united_checkout(self) -> Checkout:
        """Return the base with the changes of all joiners, which go together."""
        base = parse_object_id(self.info.base)
        parts = await self._parts()
        for part in parts:
            if part.base != base:  # it has not followed a fast-forward yet
                behind = await _checkout(self.repository, part.base, part.changes)
                await require_unconflicted(behind, base)
        nodes = (await self.repository.state.assets.snapshot(base)).nodes
        changes = united_changes([part.changes for part in parts], nodes)
        return await _checkout(self.repository, base, changes)

    async def _found_in_history(self) -> str | None:
        """Return the commit this session became, if somebody died before noting it."""
        async for snapshot in self.repository.async_ancestry(branch=self.require_branch()):
            if snapshot.id == self.info.base:
                return None
            if snapshot.metadata.get(COMMIT_SESSION_KEY) == self.info.session_id:
                return snapshot.id
        return None

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

    def _claimed(self, info: SessionInfo) -> SessionInfo:
        """Return the session as it is while this one commits it."""
        at = now()
        if info.state is State.COMMITTING:
            if info.committer != self._joiner and info.lease_until and at < info.lease_until:
                raise SessionStateError(
                    f"session {info.session_id} is being committed by another process. Should "
                    f"that have died, commit again after {info.lease_until:%H:%M:%S} UTC.",
                    ErrorKind.NOT_ALLOWED,
                )
            if at >= info.expires_at:  # what it needs may have been collected since
                raise SessionStateError(
                    f"session {info.session_id} expired while it was being committed. If that "
                    f"went well, its commit is in the history of {info.branch}; else open a new "
                    "session: repo.checkout(ref).",
                    ErrorKind.NOT_ALLOWED,
                )
        else:
            info.require_active(at)
        return replace(
            info, state=State.COMMITTING, committer=self._joiner, lease_until=at + _LEASE
        )

    def _renewed(self, info: SessionInfo) -> SessionInfo:
        """Return the session with a longer claim, if this one still commits it."""
        return replace(info, lease_until=now() + _LEASE) if self._holds(info) else info

    def _released(self, info: SessionInfo) -> SessionInfo:
        """Return the session taking changes again, unless another took the commit over."""
        if not self._holds(info):
            return info
        return replace(info, state=State.ACTIVE, committer=None, lease_until=None)

    def _holds(self, info: SessionInfo) -> bool:
        return info.state is State.COMMITTING and info.committer == self._joiner

    async def _discard_items(self) -> None:
        names = await self._shelf.names(self.info.session_id)
        await self._shelf.discard(self.info.session_id, list(names))

    async def _change(
        self, change: Callable[[SessionInfo], SessionInfo], *, guarded: bool = True
    ) -> None:
        """Change what is kept of the session; guarded, only while it takes changes."""
        await self.store()

        def edit(record: ShelfRecord) -> ShelfRecord:
            info = SessionInfo.from_record(record)
            if guarded:
                info.require_active(now())
            return change(info).to_record()

        try:
            record = await self._shelf.update(self.info.session_id, edit)
        except NotFoundError as e:
            raise _gone(self.info.session_id) from e
        self.info = SessionInfo.from_record(record)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one joiner did, and the snapshot it lies on."""

    joiner: str
    base: ObjectId
    changes: ChangeSet


async def _load(shelf: Shelf, session_id: str) -> list[_Part]:
    """Read what every joiner saved, in the order in which their names sort."""
    for _ in range(_READ_TRIES):
        try:
            return await _load_listed(shelf, session_id, await shelf.names(session_id))
        except NotFoundError:
            continue  # an item gave way to one that stands for it; that one is listed now
    raise SessionStateError(
        f"session {session_id} is changed so fast that it could not be read; try again.",
        ErrorKind.NOT_ALLOWED,
    )


async def _load_listed(shelf: Shelf, session_id: str, names: Iterable[str]) -> list[_Part]:
    wanted: dict[str, list[str]] = {}
    for name in sorted(names):
        found = _ITEM.fullmatch(name)
        if found is None:
            raise FormatError(
                f"session {session_id} has an item {name} that this version does not know.",
                ErrorKind.DESERIALIZATION,
            )
        if found["what"] == "all":
            wanted[found["joiner"]] = []
        wanted.setdefault(found["joiner"], []).append(name)
    reads = [shelf.item(session_id, name) for names in wanted.values() for name in names]
    items = {item.name: item for item in await gather_limited(_CONCURRENT_READS, reads)}
    return [_part(joiner, [items[name] for name in names]) for joiner, names in wanted.items()]


def _part(joiner: str, items: Sequence[ShelfItem]) -> _Part:
    changes = ChangeSet()
    base = None
    for item in items:
        if item.base is None or item.changes is None:
            raise FormatError(f"item {item.name} holds no changes.", ErrorKind.DESERIALIZATION)
        base = base or item.base  # conflicts are looked for since the oldest
        merge_changes(changes, item.changes)
    assert base is not None, "each joiner was found by an item"
    return _Part(joiner, base, changes)


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
    checkout = await _checkout(repository, base, ChangeSet())
    state = SessionState(checkout=checkout, branch=None, config=repository.config)
    fork = ForkSession(state)
    fork.underlay(checkout.base.snapshot, inherited)
    fork.mark_carried()
    return fork


async def _checkout(repository: Repository, base: ObjectId, changes: ChangeSet) -> Checkout:
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
