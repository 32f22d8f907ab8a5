"""Sessions: reading and writing one version of a repository, and committing.

Source: Icechunk specification, sections "Session", "Commit", "Rebase" and "Fork and merge".
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._cases import check_limit
from icechunk._display import Block, Shown, plain_fields
from icechunk._io.loop import may_run_now, run_either
from icechunk._io.registry import Registry
from icechunk._sync.session import SessionTwins
from icechunk.assets.chunk_pack import ChunkPack
from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.core.changes import ChangeSet
from icechunk.core.conflicts import ConflictSolver, checked_solver
from icechunk.core.merge import ChunkPolicy, chunks_are_apart, merge_changes
from icechunk.core.wire import decode_document, encode_document, pack_changes, unpack_changes
from icechunk.errors import (
    ErrorKind,
    FormatError,
    ReadOnlyError,
    SessionStateError,
    UnmergedChangesWarning,
)
from icechunk.ids import NodeId, ObjectId, id_text
from icechunk.session_edits import SessionEdits
from icechunk.session_look import SessionLook
from icechunk.session_state import Place, SessionState, checked_message, recipe_of
from icechunk.store import IcechunkStore
from icechunk.transaction import (
    CommitRequest,
    commit_changes,
    rebase_changes,
    require_unconflicted,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.virtual import VirtualReader
    from icechunk.config import RepositoryConfig
    from icechunk.format.snapshot import Snapshot

T = TypeVar("T")

# Up to so many changed chunks a commit is over before anybody would press Ctrl-C.
_FEW_CHUNKS: Final = 10_000


class Session(SessionTwins, SessionEdits, SessionLook, Block):
    """One version of a repository, to read, or to change and commit.

    Made by `Repository.readonly_session` and `Repository.writable_session`, not by calling the
    class.

    Notes
    -----
    Concurrency: one session may be used from any number of threads and event loops at once. It
    pickles: a read-only one as itself, a writable one as a `fork` of it.

    Examples
    --------
    >>> session = repo.writable_session("main")
    >>> session.branch, session.has_uncommitted_changes
    ('main', False)
    """

    def __init__(self, session: SessionState) -> None:
        self._state = session

    # -- what it is ---------------------------------------------------------------------------

    @property
    def checkout(self) -> Checkout:
        """Nodes and chunks below the zarr store; for the package's own use."""
        return self._state.checkout

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""
        return self.checkout.mode is SessionMode.readonly

    @property
    def mode(self) -> SessionMode:
        """What the session may do."""
        return self.checkout.mode

    @property
    def snapshot_id(self) -> str:
        """Id of the snapshot the session is based on."""
        return id_text(self.checkout.snapshot_id)

    @property
    def branch(self) -> str | None:
        """Branch that commits go to; None for read-only sessions and forks."""
        return None if self.read_only else self._state.branch

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        return not self.checkout.changes.is_empty()

    @property
    def store(self) -> IcechunkStore:
        """A zarr store over this session."""
        return IcechunkStore(self, None)

    @property
    def config(self) -> RepositoryConfig:
        """Configuration of the repository."""
        return self._state.config

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Session):
            return NotImplemented
        return self.__dask_tokenize__() == other.__dask_tokenize__()

    def __hash__(self) -> int:
        return hash(self._state.assets.storage.description)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        """Return what identifies the contents: the snapshot, or this very session."""
        if self.read_only:
            return ("icechunk", self._state.assets.storage.description, self.snapshot_id)
        return ("icechunk", self._state.token)

    def _shown_block(self) -> tuple[str, list[Shown]]:
        fields = plain_fields(read_only=self.read_only, snapshot_id=self.snapshot_id)
        if not self.read_only:
            fields += plain_fields(
                branch=self.branch, has_uncommitted_changes=self.has_uncommitted_changes
            )
        return f"icechunk.session.{type(self).__name__}", fields

    def __reduce__(self) -> tuple[Any, ...]:
        if self.read_only:
            return _session_from_parts, (self._recipe(), self._bytes(ChangeSet(), ChangeSet()))
        return self.fork().__reduce__()

    def _recipe(self) -> bytes:
        """Return what a session elsewhere opens the repository with; a fork passes on its own."""
        state, virtual = self._state, self.checkout.virtual
        place = state.came_from
        if place is not None and place.has(state.assets, virtual, state.config):
            return place.recipe
        return recipe_of(state.assets, virtual, state.config)

    def _bytes(self, inherited: ChangeSet, own: ChangeSet) -> bytes:
        return encode_document(
            {
                "base": self.checkout.snapshot_id,
                "mode": int(self.checkout.mode),
                "inherited": pack_changes(inherited),
                "own": pack_changes(own),
            }
        )

    def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of this session, in this thread where that is less work."""
        with self.checkout.lock:
            few = self.checkout.changes.chunk_rows() <= _FEW_CHUNKS
        return run_either(coro, immediate=few and self._state.assets.storage.immediate)

    # -- committing ---------------------------------------------------------------------------

    @may_run_now
    async def commit_async(
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
        branch = self._require_branch()
        request = CommitRequest(
            branch=branch,
            message=checked_message(message),
            metadata=self._state.commit_metadata(metadata),
            allow_empty=allow_empty,
            solver=None if rebase_with is None else checked_solver(rebase_with),
            max_rebases=check_limit("rebase_tries", rebase_tries, at_least=0),
        )
        return id_text(await commit_changes(self.checkout, request))

    @may_run_now
    async def rebase_async(self, solver: ConflictSolver) -> None:
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
        await rebase_changes(self.checkout, self._require_branch(), checked_solver(solver))

    def discard_changes(self) -> None:
        """Forget everything that was not committed.

        Raises
        ------
        ReadOnlyError
            Kind ``read-only-session``.

        Examples
        --------
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> session.discard_changes()
        >>> session.has_uncommitted_changes
        False
        """
        if self.read_only:
            raise ReadOnlyError(
                "a read-only session has no changes to discard.", ErrorKind.READ_ONLY_SESSION
            )
        with self.checkout.lock:
            self.checkout.changes = ChangeSet()
            self.checkout.pack = ChunkPack()  # what is garbage now may be collected

    # -- forks --------------------------------------------------------------------------------

    def fork(self) -> ForkSession:
        """Return a session for a task elsewhere, to be merged back.

        The fork sees what this session changed so far, records its own changes, pickles, and is
        given to `merge` when it is done.

        Raises
        ------
        SessionStateError
            Kind ``cannot-fork-read-only-session``.

        Examples
        --------
        >>> fork = session.fork()  # send it to a task elsewhere
        >>> zarr.open_array(fork.store, path="t", mode="r+")[0] = 1
        >>> session.merge(fork)
        """
        checkout = self.checkout
        if checkout.mode is SessionMode.readonly:
            raise SessionStateError(
                "a read-only session cannot be forked; it pickles as it is.",
                ErrorKind.CANNOT_FORK_READ_ONLY_SESSION,
            )
        with checkout.lock:
            inherited = self._state.inherited.copy()
            merge_changes(inherited, checkout.changes.copy())
        return ForkSession(_fork_state(self._state, checkout.snapshot_id, inherited))

    @may_run_now
    async def merge_async(
        self, *others: Session, on_chunk_conflict: str = ChunkPolicy.LAST
    ) -> None:
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
        self.checkout.require_writable()
        policy = ChunkPolicy(on_chunk_conflict)
        await self.checkout.ready()
        for other in others:
            await self._check_fork(other)
        with self.checkout.lock:
            changes = self.checkout.changes
            brought = [other.checkout.changes for other in others]
            if policy is ChunkPolicy.ERROR and chunks_are_apart([changes, *brought]):
                policy = ChunkPolicy.LAST  # there is nothing to be found by looking at each
            for other in others:
                merge_changes(
                    changes,
                    other.checkout.changes,
                    path_of=self._path_of,
                    policy=policy,
                    known=other._state.inherited,  # noqa: SLF001 # a fork is a session
                )
                if isinstance(other, ForkSession):
                    other.mark_carried()

    async def _check_fork(self, other: Session) -> None:
        mergeable = isinstance(other, Session) and other is not self
        if not mergeable or other.checkout.mode is not SessionMode.writable:
            raise SessionStateError(
                "only forks, and other writable sessions, can be merged: make forks with "
                "session.fork().",
                ErrorKind.MERGE_NOT_ALLOWED,
            )
        here, there = (s.checkout.assets.storage.description for s in (self, other))
        if isinstance(other, ForkSession) and here != there:
            raise SessionStateError(
                f"this fork is of the repository at {there}, where its chunks are, and cannot be "
                f"merged into a session of that at {here}.",
                ErrorKind.MERGE_NOT_ALLOWED,
            )
        if other.checkout.snapshot_id != self.checkout.snapshot_id:
            await other.checkout.ready()
            await require_unconflicted(other.checkout, self.checkout.snapshot_id)

    def _path_of(self, node_id: NodeId) -> str | None:
        """Return the path of a node this session knows, None for others."""
        node = self.checkout.base.nodes.by_id(node_id)
        if node is None:
            new = self.checkout.changes.new_nodes.values()
            node = next((n for n in new if n.id == node_id), None)
        return None if node is None else node.path


class ForkSession(Session):
    """A session for a task elsewhere: made by `Session.fork`, given back to `Session.merge`.

    Notes
    -----
    Pickles as bytes that hold only values: the base's id, what the parent session had changed,
    and what this fork changed. A fork that is dropped with changes that went nowhere warns.

    Examples
    --------
    >>> fork = session.fork()
    >>> fork.read_only
    False
    """

    @property
    def mode(self) -> SessionMode:
        """Read-only: a fork cannot commit, although it takes changes."""
        return SessionMode.readonly

    @property
    def branch(self) -> None:
        """None: a fork is on no branch."""
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        self.mark_carried()
        own = self.checkout.changes
        return _session_from_parts, (self._recipe(), self._bytes(self._state.inherited, own))

    def __del__(self) -> None:
        state = getattr(self, "_state", None)
        if state is not None and not state.carried and not state.checkout.changes.is_empty():
            warnings.warn(
                "a fork was dropped with changes that were neither merged nor pickled; they are "
                "lost. Give it to session.merge(fork).",
                UnmergedChangesWarning,
                stacklevel=2,
                source=self,
            )

    def mark_carried(self) -> None:
        """Note that the changes went on: merged into a session, or pickled."""
        self._state.carried = True

    def underlay(self, snapshot: Snapshot, inherited: ChangeSet) -> None:
        """Lie on another snapshot and on what others changed since; own changes stay on top.

        For those who keep a fork's changes elsewhere and know that they fit there.
        """
        self.checkout.underlay(Base.with_inherited(snapshot, inherited))
        self._state.inherited = inherited

    def reach(self, config: RepositoryConfig, virtual: VirtualReader) -> None:
        """Read virtual chunks as another configuration says."""
        self._state.config = config
        self.checkout.virtual = virtual

    def discard_changes(self) -> None:
        """Forget everything this fork changed."""
        super().discard_changes()

    async def move_async(self, from_path: str, to_path: str) -> None:
        """Refuse: a fork moves no nodes, since they could not be merged back."""
        raise SessionStateError(
            f"cannot move {from_path} to {to_path}: a fork moves no nodes. Move them in a session "
            "of repo.rearrange_session(branch).",
            ErrorKind.NON_REARRANGE_SESSION,
        )

    def _refuse_fork(self) -> None:
        raise SessionStateError(
            "a fork cannot commit, amend, flush or rebase: merge it into the session it came from, "
            "and commit that.",
            ErrorKind.COMMIT_NOT_ALLOWED,
        )


def _fork_state(parent: SessionState, snapshot_id: ObjectId, inherited: ChangeSet) -> SessionState:
    checkout = parent.checkout
    return SessionState(
        checkout=_forked_checkout(
            checkout.assets,
            checkout.virtual,
            snapshot_id,
            inherited,
            ChangeSet(),
            checkout.mode,
            checkout.pack,
        ),
        branch=None,
        config=parent.config,
        inherited=inherited,
        came_from=parent.came_from,
    )


def _forked_checkout(
    assets: AssetManager,
    virtual: VirtualReader,
    snapshot_id: ObjectId,
    inherited: ChangeSet,
    own: ChangeSet,
    mode: SessionMode,
    pack: ChunkPack | None = None,
) -> Checkout:
    async def load() -> Base:
        return Base.with_inherited(await assets.snapshot(snapshot_id), inherited)

    return Checkout(assets, virtual, snapshot_id, mode, load=load, changes=own, pack=pack)


_places: Final[Registry[bytes, Place]] = Registry(kept=8)


def _session_from_parts(recipe: bytes, data: bytes) -> Session:
    """Return a session in another process, or again in this one; reads nothing yet."""
    document = decode_document(data)
    try:
        base, mode = ObjectId(document["base"]), SessionMode(document["mode"])
        inherited = unpack_changes(document["inherited"])
        own = unpack_changes(document["own"])
    except (KeyError, TypeError, ValueError) as e:
        raise FormatError(f"damaged session bytes ({e!r}).", ErrorKind.DESERIALIZATION) from e
    place = _places.get(recipe, lambda: Place.of(recipe))
    checkout = _forked_checkout(place.assets, place.virtual, base, inherited, own, mode)
    state = SessionState(
        checkout=checkout, branch=None, config=place.config, inherited=inherited, came_from=place
    )
    return Session(state) if mode is SessionMode.readonly else ForkSession(state)
