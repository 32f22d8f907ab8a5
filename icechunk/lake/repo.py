"""Repositories of a lake: a checkout to work in, without holding storage and session objects."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import zarr

from icechunk._io.loop import run
from icechunk._sync.lake_repo import RepoTwins
from icechunk._trees import node_tree
from icechunk.core.merge import ChunkPolicy
from icechunk.errors import (
    ErrorKind,
    InvalidInputError,
    NodeNotFoundError,
    RefNotFoundError,
    SessionStateError,
)
from icechunk.format.snapshot import NodeTable
from icechunk.lake.committing import commit_session, fast_forward
from icechunk.lake.containers import reaching
from icechunk.lake.durable import DurableSession
from icechunk.lake.filters import filtered_names
from icechunk.lake.history import author_metadata
from icechunk.lake.mapping import StoreMapping
from icechunk.lake.record import (
    DEFAULT_EXPIRES_IN,
    DEFAULT_IS_WRITE_SESSION,
    SHELF_KIND,
    SessionInfo,
    checked_life,
    now,
)
from icechunk.lake.refs import AsyncRefs, Refs
from icechunk.lake.sessions import (
    AsyncLocalWriteSession,
    LocalReadSession,
    LocalWriteSession,
    SessionStatus,
)
from icechunk.lake.virtual.repo import AsyncVirtualRepo, VirtualRepo
from icechunk.outline import attributes_of, kept_data, tree_data
from icechunk.paths import sorted_within, user_path
from icechunk.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta

    import xarray as xr
    from rich.tree import Tree
    from zarr.core.common import AccessModeLiteral

    from icechunk.lake.names import Author, RepoName
    from icechunk.repository import Repository
    from icechunk.store import IcechunkStore


class AsyncRepo(AsyncRefs, AsyncVirtualRepo):
    """A repository of a lake; its methods are coroutines.

    Made by `AsyncClient.get_repo` and its like. Everything happens in a session: that of the last
    `checkout`, or one on ``main`` that is opened when it is first needed.

    Parameters
    ----------
    repository : Repository
        The repository.
    name : RepoName
        Its name in the lake.
    author : Author
        Who commits.

    Notes
    -----
    zarr reads and writes arrays through blocking calls of its own; `store` is for them.
    """

    def __init__(self, repository: Repository, *, name: RepoName, author: Author) -> None:
        self._repository = repository
        self._name = name
        self._author = author
        self._session: AsyncLocalWriteSession | LocalReadSession | None = None

    # -- what it is ---------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name in the lake, ``"org/name"``."""
        return str(self._name)

    @property
    def author(self) -> Author:
        """Who commits."""
        return self._author

    @property
    def repository(self) -> Repository:
        """The repository below, with everything the lake does not show."""
        return self._repository

    @property
    def current(self) -> AsyncLocalWriteSession | LocalReadSession | None:
        """The session of the last checkout; None before the first."""
        return self._session

    def __repr__(self) -> str:
        return f"<icechunk.lake.{type(self).__name__} {self.name}>"

    async def ping(self) -> None:
        """Read the repository's refs, to see that it can be reached; raises if not."""
        await self._repository.list_branches_async()

    # -- sessions -----------------------------------------------------------------------------

    async def create_session(
        self,
        ref: str = "main",
        for_writing: bool = DEFAULT_IS_WRITE_SESSION,
        expires_in: timedelta = DEFAULT_EXPIRES_IN,
        message: str | None = None,
    ) -> AsyncLocalWriteSession | LocalReadSession:
        """Open a session; the current one stays current.

        Parameters
        ----------
        ref : str
            Branch, tag or commit id.
        for_writing : bool
            To write; others can then join it at once.
        expires_in : timedelta
            How long it lives; 24 hours by default, 7 days at most.
        message : str, optional
            What it is for.

        Raises
        ------
        RefNotFoundError
            No branch, tag or commit of that name.
        InvalidInputError
            Kind ``not-allowed``; it may not live so long.
        """
        session = await self._opened(ref, expires_in, message, for_writing=for_writing)
        if isinstance(session, AsyncLocalWriteSession):
            await session.durable.store()
        return session

    async def join_session(self, session_id: str) -> AsyncLocalWriteSession:
        """Join a session that somebody else opened; the current one stays current.

        Raises
        ------
        NotFoundError
            Kind ``key-not-found``; there is none of that id.
        SessionStateError
            Kind ``not-allowed``; it ended.
        """
        return AsyncLocalWriteSession(await DurableSession.join(self._repository, session_id))

    async def list_active_sessions(self) -> Sequence[SessionInfo]:
        """Return the sessions that were not committed or abandoned and have not expired.

        Returns
        -------
        list of SessionInfo
            By the time they were opened. One that was checked out and never changed is known
            to its own process only.
        """
        records = await Shelf(self._repository.storage).records(SHELF_KIND)
        at = now()
        return [info for info in map(SessionInfo.from_record, records) if info.is_active(at)]

    async def checkout(
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
        if session_token is not None:
            self._session = await self.join_session(session_token)
        else:
            self._session = await self._opened(ref, expires_in, None, for_writing=for_writing)
        return self._session.base_commit

    async def session(self) -> AsyncLocalWriteSession | LocalReadSession:
        """Return the current session; one to write on ``main`` before the first checkout."""
        if self._session is None:
            await self.checkout()
        return cast("AsyncLocalWriteSession | LocalReadSession", self._session)

    async def _opened(
        self, ref: str, expires_in: timedelta, message: str | None, *, for_writing: bool
    ) -> AsyncLocalWriteSession | LocalReadSession:
        life = checked_life(expires_in)
        branch, commit = await self.resolved(ref)
        if not for_writing:
            session = await self._repository.readonly_session_async(snapshot_id=commit)
            await session.checkout.ready()
            return LocalReadSession(session, branch)
        at = now()
        info = SessionInfo(
            session_id=secrets.token_hex(12),
            base=commit,
            branch=branch,
            created_at=at,
            expires_at=at + life,
            author=self._author,
            message=message,
        )
        return AsyncLocalWriteSession(await DurableSession.begin(self._repository, info))

    async def resolved(self, ref: str) -> tuple[str | None, str]:
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
        repository = self._repository
        if ref in await repository.list_branches_async():
            return ref, await repository.lookup_branch_async(ref)
        if ref in await repository.list_tags_async():
            return None, await repository.lookup_tag_async(ref)
        try:
            return None, (await repository.lookup_snapshot_async(ref)).id
        except (InvalidInputError, KeyError) as e:
            branches = ", ".join(sorted(await repository.list_branches_async()))
            raise RefNotFoundError(
                f"no branch, tag or commit {ref!r} in {self.name}; its branches: {branches}."
            ) from e

    async def reach(self, prefixes: Sequence[str], options: Mapping[str, Any]) -> None:
        """Let the repository read chunks in some places; for the package's own use."""
        self._repository = await reaching(self._repository, prefixes, options)
        (await self._writing()).durable.reach(self._repository)

    async def _writing(self) -> AsyncLocalWriteSession:
        session = await self.session()
        if isinstance(session, AsyncLocalWriteSession):
            return session
        raise SessionStateError(
            f"the current session of {self.name} only reads. Open one to write: "
            "repo.checkout(branch).",
            ErrorKind.NOT_ALLOWED,
        )

    # -- committing ---------------------------------------------------------------------------

    async def commit(
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
        policy = ChunkPolicy(on_chunk_conflict)
        session = await self._writing()
        durable = session.durable
        branch = durable.require_branch()
        done = await commit_session(
            durable,
            message,
            author_metadata(self._author),
            auto_ff=auto_ff,
            policy=policy,
        )
        if done is not None or not checkout_for_writing:
            await self.checkout(branch, for_writing=checkout_for_writing)
        return done

    async def fast_forward(self) -> None:
        """Move the current session to the latest commit of its branch.

        Raises
        ------
        RebaseFailedError
            The same paths were changed in the session and on the branch; they are named.
        """
        await fast_forward((await self._writing()).durable)

    async def status(self, limit: int = 1000) -> SessionStatus:
        """Return what the current session changed.

        Parameters
        ----------
        limit : int
            How many modified paths to return; 0 for all.
        """
        session = await self.session()
        if isinstance(session, LocalReadSession):
            return SessionStatus(
                repo_name=self.name, session=session, modified_paths=[], modified_count=0
            )
        paths, count = await session.modified(limit)
        return SessionStatus(
            repo_name=self.name, session=session, modified_paths=paths, modified_count=count
        )

    # -- contents -----------------------------------------------------------------------------

    async def tree(self, prefix: str = "", *, depth: int = 10, filter: str | None = None) -> Tree:  # noqa: A002 # the document's name
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
        return node_tree(await self.tree_data(prefix, depth=depth, filter=filter))

    async def tree_data(
        self,
        prefix: str = "",
        *,
        depth: int = 10,
        filter: str | None = None,  # noqa: A002 # the document's name
    ) -> dict[str, Any]:
        """Return what `tree` shows as plain data, nested under ``children``."""
        nodes, path = await self._nodes(), user_path("/" + prefix.strip("/"))
        if path != "/" and not sorted_within(nodes.paths, path):
            raise NodeNotFoundError(f"no group or array at {path} in {self.name}.")
        data = tree_data(nodes, path, depth)
        return data if filter is None else kept_data(data, set(_passing(nodes, filter)))

    async def filter_metadata(self, filter: str) -> list[str]:  # noqa: A002 # the document's name
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
        return _passing(await self._nodes(), filter)

    async def _nodes(self) -> NodeTable:
        session = await self.session()
        if isinstance(session, LocalReadSession):
            return session.nodes
        return NodeTable.of(session.durable.fork.checkout.nodes())

    @property
    def store(self) -> IcechunkStore:
        """A zarr store over the current session; needs a `checkout` before."""
        if self._session is None:
            raise SessionStateError(
                f"{self.name} has no session yet: await repo.checkout(ref) first.",
                ErrorKind.NOT_ALLOWED,
            )
        return self._session.store


class Repo(RepoTwins, Refs, VirtualRepo):
    """A repository of a lake, blocking; as `AsyncRepo`.

    Parameters
    ----------
    arepo : AsyncRepo
        The same repository.

    Examples
    --------
    >>> from icechunk.lake import Client
    >>> repo = Client("memory://lake-of-repos").create_repo("ocean/sst")
    >>> group = repo.root_group.create_group("surface", attributes={"level": 0})
    >>> commit = repo.commit("a group")
    >>> repo.filter_metadata("level == `0`")
    ['/surface']
    """

    _async: AsyncRepo

    def __init__(self, arepo: AsyncRepo) -> None:
        self._async = arepo

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncRepo", "Repo")

    def create_session(
        self,
        ref: str = "main",
        for_writing: bool = DEFAULT_IS_WRITE_SESSION,
        expires_in: timedelta = DEFAULT_EXPIRES_IN,
        message: str | None = None,
    ) -> LocalWriteSession | LocalReadSession:
        """Open a session; parameters as `AsyncRepo.create_session`."""
        return _blocking(run(self._async.create_session(ref, for_writing, expires_in, message)))

    def status(self, limit: int = 1000) -> SessionStatus:
        """Return what the current session changed; as `AsyncRepo.status`."""
        status = run(self._async.status(limit))
        session = status.session
        if isinstance(session, AsyncLocalWriteSession):
            return replace(status, session=LocalWriteSession(session))
        return status

    def join_session(self, session_id: str) -> LocalWriteSession:
        """Join a session; as `AsyncRepo.join_session`."""
        return LocalWriteSession(run(self._async.join_session(session_id)))

    @property
    def current(self) -> LocalWriteSession | LocalReadSession | None:
        """The session of the last checkout; None before the first."""
        session = self._async.current
        return None if session is None else _blocking(session)

    def session(self) -> LocalWriteSession | LocalReadSession:
        """Return the current session; one to write on ``main`` before the first checkout."""
        return _blocking(run(self._async.session()))

    @property
    def store(self) -> IcechunkStore:
        """A zarr store over the current session."""
        return self.session().store

    @property
    def mapping(self) -> StoreMapping:
        """The same store as a mapping of keys to bytes."""
        return StoreMapping(self.store)

    @property
    def root_group(self) -> zarr.Group:
        """The zarr group at the root; made where there is none and the session writes."""
        store = self.store
        mode: AccessModeLiteral = "r" if store.read_only else "a"
        return zarr.open_group(store, mode=mode, zarr_format=3)

    def to_xarray(self, group: str | None = None, **kwargs: Any) -> xr.Dataset:
        """Open a group as a dataset.

        Parameters
        ----------
        group : str, optional
            Path of the group; the root when omitted.
        **kwargs
            As `xarray.open_dataset` takes them; engine and format are given.
        """
        import xarray as xr  # noqa: PLC0415 # loaded when it is used

        fixed: dict[str, Any] = {"engine": "zarr", "zarr_format": 3, "consolidated": False}
        return xr.open_dataset(
            self.store,  # type: ignore[arg-type] # xarray's annotation knows no stores of zarr
            group=group,
            **{**fixed, **kwargs},
        )


def _blocking(
    session: AsyncLocalWriteSession | LocalReadSession,
) -> LocalWriteSession | LocalReadSession:
    return session if isinstance(session, LocalReadSession) else LocalWriteSession(session)


def _passing(nodes: NodeTable, expression: str) -> list[str]:
    return filtered_names(((node.path, attributes_of(node)) for node in nodes), expression)
