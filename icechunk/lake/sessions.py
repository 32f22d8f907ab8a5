"""Sessions of a lake as its users hold them: to write, together, or to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icechunk._io.loop import run
from icechunk._sync.lake_sessions import LocalWriteSessionTwins
from icechunk.format.chunk_table import ChunkKind
from icechunk.lake.durable import DurableSession
from icechunk.lake.store import LakeStore
from icechunk.paths import NodePath, chunk_key_prefix, metadata_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime, timedelta

    from icechunk.core.changes import ChangeSet
    from icechunk.format.snapshot import NodeTable
    from icechunk.lake.record import SessionInfo
    from icechunk.repository import Repository
    from icechunk.session import Session
    from icechunk.store import IcechunkStore


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatus:
    """What a session changed.

    Parameters
    ----------
    repo_name : str
        Name of the repository.
    session : AsyncLocalWriteSession, LocalWriteSession or LocalReadSession
        The session.
    modified_paths : list of (str, bool)
        Store keys that were changed, such as ``"sst/c/0/4"``, and whether each was deleted; as
        many as were asked for.
    modified_count : int
        How many there are.
    """

    repo_name: str
    session: AsyncLocalWriteSession | LocalWriteSession | LocalReadSession
    modified_paths: list[tuple[str, bool]]
    modified_count: int

    def __str__(self) -> str:
        lines = [f"{'-' if gone else '~'} {path}" for path, gone in self.modified_paths]
        more = self.modified_count - len(lines)
        if more:
            lines.append(f"... and {more:,} more")
        head = f"{self.repo_name}, session {self.session.session_id or 'to read'}"
        return "\n".join([head, *(lines or ["no changes"])])


class AsyncLocalWriteSession:
    """A session to write, which others can join; its methods are coroutines.

    Made by `AsyncRepo.create_session` and `AsyncRepo.join_session`, not by calling the class.

    Notes
    -----
    What was written stays in the session until it is committed, abandoned or expires, whatever
    happens to the processes that wrote it. In another process a pickled one joins under its id.
    """

    def __init__(self, durable: DurableSession) -> None:
        self._durable = durable

    def __reduce__(self) -> tuple[Any, ...]:
        durable = self._durable
        return _joined, (durable.repository, run(durable.store()))

    @property
    def durable(self) -> DurableSession:
        """The session beside the repository; for the package's own use."""
        return self._durable

    @property
    def info(self) -> SessionInfo:
        """What was last seen of the session: base, branch, times, state."""
        return self._durable.info

    @property
    def session_id(self) -> str:
        """Id by which others join it."""
        return self.info.session_id

    @property
    def read_only(self) -> bool:
        """False."""
        return False

    @property
    def base_commit(self) -> str:
        """Id of the commit the session's changes lie on."""
        return self.info.base

    @property
    def branch(self) -> str | None:
        """Branch it commits to; None for one opened on a tag or commit."""
        return self.info.branch

    @property
    def expires_at(self) -> datetime:
        """When it ends by itself, UTC."""
        return self.info.expires_at

    @property
    def store(self) -> LakeStore:
        """A zarr store over the session."""
        return LakeStore(self._durable)

    def __repr__(self) -> str:
        info = self.info
        return (
            f"<icechunk.lake.{type(self).__name__} {info.session_id} on {info.branch or info.base},"
            f" {info.state}, expires {info.expires_at:%Y-%m-%d %H:%M:%S} UTC>"
        )

    async def update_expiration(self, expires_in: timedelta) -> None:
        """Change how long the session lives.

        Parameters
        ----------
        expires_in : timedelta
            Counted from its start; at most 7 days.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; too long, or not more than nothing.
        SessionStateError
            Kind ``not-allowed``; the session ended already.
        """
        await self._durable.expire_in(expires_in)

    async def abandon(self) -> None:
        """Discard the session with its changes; nobody can write to it any more.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the session ended already.
        """
        await self._durable.abandon()

    async def refresh(self) -> None:
        """See what others who joined have written since; raises as `update_expiration`."""
        await self._durable.refresh()

    async def modified(self, limit: int = 1000) -> tuple[list[tuple[str, bool]], int]:
        """Return store keys that all joiners changed and whether each was deleted, and how many.

        Parameters
        ----------
        limit : int
            How many keys to return at most; 0 for all.
        """
        base = self._durable.fork.checkout.base.snapshot.nodes
        changes = await self._durable.seen()
        paths = []
        for index, item in enumerate(_modified(base, changes)):
            if limit and index >= limit:
                break
            paths.append(item)
        return paths, _count(changes)


class LocalWriteSession(LocalWriteSessionTwins):
    """A session to write, blocking; as `AsyncLocalWriteSession`.

    Parameters
    ----------
    session : AsyncLocalWriteSession
        The same session.
    """

    def __init__(self, session: AsyncLocalWriteSession) -> None:
        self._async = session

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncLocal", "Local")


class LocalReadSession:
    """A session to read one version.

    Parameters
    ----------
    session : Session
        Read-only, on that version.
    branch : str or None
        The branch it was opened on.
    """

    def __init__(self, session: Session, branch: str | None) -> None:
        self._session = session
        self._branch = branch

    @property
    def session_id(self) -> None:
        """None: nobody needs to join a session that only reads."""
        return

    @property
    def read_only(self) -> bool:
        """True."""
        return True

    @property
    def base_commit(self) -> str:
        """Id of the commit that is read."""
        return self._session.snapshot_id

    @property
    def branch(self) -> str | None:
        """The branch it was opened on; None for a tag or commit."""
        return self._branch

    @property
    def store(self) -> IcechunkStore:
        """A read-only zarr store."""
        return self._session.store

    @property
    def nodes(self) -> NodeTable:
        """Groups and arrays of the version; for the package's own use."""
        return self._session.checkout.base.nodes

    def __repr__(self) -> str:
        return f"<icechunk.lake.LocalReadSession on {self._branch or self.base_commit}>"


def _joined(repository: Repository, session_id: str) -> AsyncLocalWriteSession:
    return AsyncLocalWriteSession(run(DurableSession.join(repository, session_id)))


def _modified(base: NodeTable, changes: ChangeSet) -> Iterator[tuple[str, bool]]:
    """Yield the store keys of a change set, nodes first, and whether each was deleted."""
    new = {node.id: path for path, node in changes.new_nodes.items()}
    for path in changes.sorted_new():
        yield metadata_key(path), False
    for node_id in changes.updated:
        node = base.by_id(node_id)
        if node is not None:
            yield metadata_key(NodePath(node.path)), False
    for gone in changes.deleted.values():
        yield metadata_key(gone.path), True
    for node_id, edits in changes.chunks.items():
        node = base.by_id(node_id)
        path = NodePath(node.path) if node is not None else new[node_id]
        prefix = chunk_key_prefix(path)
        table = edits.table()
        for coord, kind in zip(table.coords.tolist(), table.kind.tolist(), strict=True):
            yield "/".join([prefix, *map(str, coord)]), kind == ChunkKind.DELETED


def _count(changes: ChangeSet) -> int:
    nodes = len(changes.new_nodes) + len(changes.updated) + len(changes.deleted)
    return nodes + changes.chunk_count()
