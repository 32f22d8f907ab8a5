"""Repositories: create, open, and open sessions on them.

Source: Icechunk specification, sections "Storage model and object keys" and "Session".
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from icechunk._display import Block, Shown, plain_fields
from icechunk._earlier.repository import EarlierRepository, access_to_containers
from icechunk._earlier.spelling import either
from icechunk._io.loop import may_run_now, run_either
from icechunk._sync.repository import RepositoryTwins
from icechunk.assets.preload import start_preload
from icechunk.assets.ref_stores import create_refs, version_at
from icechunk.assets.refs import now_us
from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.config import RepositoryConfig
from icechunk.errors import (
    ConflictError,
    ErrorKind,
    InvalidInputError,
)
from icechunk.format.snapshot import ManifestFiles, NodeTable, Snapshot
from icechunk.format.values import plain_value
from icechunk.ids import INITIAL_SNAPSHOT_ID, ObjectId
from icechunk.persisted_config import from_persisted, to_persisted
from icechunk.repository_history import RepositoryHistory
from icechunk.repository_inspect import RepositoryInspect
from icechunk.repository_refs import RepositoryRefs
from icechunk.repository_rewrites import RepositoryRewrites
from icechunk.repository_settings import RepositorySettings
from icechunk.repository_state import (
    RepositoryState,
    VirtualAccess,
    refs_at,
    resolve_version,
    snapshot_as_of,
)
from icechunk.repository_upkeep import RepositoryUpkeep
from icechunk.session import Session
from icechunk.session_state import SessionState
from icechunk.snapshots import AsyncCloseableIterator
from icechunk.store import IcechunkStore
from icechunk.transaction import ENGINE_METADATA_KEY
from icechunk.types import Attribution, SpecVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from datetime import datetime

    from icechunk.core.conflicts import ConflictSolver
    from icechunk.storage.base import Storage, Version
    from icechunk.storage_settings import StorageSettings

__all__ = ["AsyncCloseableIterator", "IcechunkStore", "Repository", "Session"]

T = TypeVar("T")

INITIAL_MESSAGE: Final = "Repository initialized"


class Repository(
    RepositoryTwins,
    RepositoryHistory,
    RepositoryInspect,
    RepositoryRefs,
    RepositoryRewrites,
    RepositorySettings,
    RepositoryUpkeep,
    EarlierRepository,
    Block,
):
    """A versioned collection of Zarr groups and arrays.

    Made by `create`, `open` or `open_or_create`; ``Repository(storage, mode=...)`` calls the one
    that the mode names.

    Parameters
    ----------
    repository : Storage or RepositoryState
        Where it is; or, for the package's own use, what it is made of.
    mode : {"open", "create", "open_or_create"}
        What to do at the storage.

    Notes
    -----
    Concurrency: one repository may be used from any number of threads and event loops at once,
    and pickles. Methods ending in ``_async`` are the coroutines of the blocking ones.
    """

    def __init__(self, repository: RepositoryState | Storage, *, mode: str = "open") -> None:
        if isinstance(repository, RepositoryState):
            self._state = repository
            return
        makers: dict[str, Callable[[Storage], Repository]]
        makers = {"open": self.open, "create": self.create, "open_or_create": self.open_or_create}
        if mode not in makers:
            raise ValueError(f"mode must be one of {', '.join(makers)}, got {mode!r}")
        self._state = makers[mode](repository).state

    # -- create and open ----------------------------------------------------------------------

    @classmethod
    async def create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
        spec_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
        attribution: Attribution | None = None,
        *,
        virtual_chunk_credentials: VirtualAccess | None = None,
    ) -> Self:
        """Make a new, empty repository.

        Parameters
        ----------
        storage : Storage
            Where; nothing may be there yet.
        config : RepositoryConfig, optional
            Kept in the repository where it differs from the defaults.
        authorize_virtual_chunk_access : mapping of str to credential or None, optional
            URL prefixes of virtual chunk containers that may be read, and how to get in.
        spec_version : SpecVersion or int, optional
            Version of the format, 2 by default. Version 1 is for those who still read it; it has
            no amending, no moves, and no repository metadata, status or operations log.
        check_clean_root : bool
            Refuse a place where there are other objects.
        attribution : Attribution, optional
            Who makes the requests.
        virtual_chunk_credentials : mapping of str to credential, optional
            Earlier name of ``authorize_virtual_chunk_access``.

        Returns
        -------
        Repository
            With a branch ``main`` on the initial, empty snapshot.

        Raises
        ------
        InvalidInputError
            Kind ``parent-directory-not-clean``; something is there already.
        ConflictError
            Kind ``repo-info-updated``, in version 1 ``branch-update-conflict``; somebody else
            created a repository at this moment.
        StorageError
            The place cannot be written.

        Examples
        --------
        >>> repo = icechunk.Repository.create(icechunk.in_memory_storage())
        >>> repo.list_branches()
        {'main'}
        """
        version = _checked_version(spec_version)
        given = RepositoryConfig.default().merge(config or RepositoryConfig.default())
        access = access_to_containers(
            given, authorize_virtual_chunk_access, virtual_chunk_credentials
        )
        state = RepositoryState.of(storage, given, access, version)
        state.attribution = attribution or Attribution()
        storage.check_creatable()
        if check_clean_root and not await storage.is_clean():
            raise InvalidInputError(
                f"cannot create a repository at {storage.description}: there are objects already. "
                "Open the repository there, or choose an empty place; check_clean_root=False "
                "skips this test.",
                ErrorKind.PARENT_DIRECTORY_NOT_CLEAN,
            )
        state.config_version = await create_refs(
            state.assets, _initial_snapshot(version), _stored_config(given, storage)
        )
        return cls(state)

    @classmethod
    async def open_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
        attribution: Attribution | None = None,
        *,
        virtual_chunk_credentials: VirtualAccess | None = None,
    ) -> Self:
        """Open an existing repository.

        Parameters
        ----------
        storage : Storage
            Where it is.
        config : RepositoryConfig, optional
            Goes over what is stored in the repository, for this use only.
        authorize_virtual_chunk_access : mapping of str to credential or None, optional
            As for `create_async`.
        attribution : Attribution, optional
            Who makes the requests.
        virtual_chunk_credentials : mapping of str to credential, optional
            Earlier name of ``authorize_virtual_chunk_access``.

        Raises
        ------
        RepositoryNotFoundError
            Kind ``repository-not-found``.
        FormatError
            What is there is damaged, or of a version this package does not know.

        Examples
        --------
        >>> again = icechunk.Repository.open(repo.storage)
        >>> again.lookup_branch("main") == repo.lookup_branch("main")
        True
        """
        refs = await refs_at(storage)
        found = await refs.read_config()
        stored = from_persisted(found.config) if found.config else RepositoryConfig.default()
        effective = stored if config is None else stored.merge(config)
        version = refs.assets.spec_version
        access = access_to_containers(
            effective, authorize_virtual_chunk_access, virtual_chunk_credentials
        )
        state = RepositoryState.of(storage, effective, access, version)
        state.config_version = found.version
        state.attribution = attribution or Attribution()
        return cls(state)

    @classmethod
    async def open_or_create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
        create_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
        attribution: Attribution | None = None,
        *,
        virtual_chunk_credentials: VirtualAccess | None = None,
    ) -> Self:
        """Open the repository at a place, or make one where there is none.

        Parameters and errors as `open_async` and `create_async`.

        Examples
        --------
        >>> storage = icechunk.in_memory_storage()
        >>> repo = icechunk.Repository.open_or_create(storage)
        >>> repo = icechunk.Repository.open_or_create(storage)
        """
        if not await cls.exists_async(storage):
            try:
                return await cls.create_async(
                    storage,
                    config,
                    authorize_virtual_chunk_access,
                    create_version,
                    check_clean_root,
                    attribution,
                    virtual_chunk_credentials=virtual_chunk_credentials,
                )
            except (ConflictError, InvalidInputError):
                # Somebody else may have created it between the two steps.
                if not await cls.exists_async(storage):
                    raise
        return await cls.open_async(
            storage,
            config,
            authorize_virtual_chunk_access,
            attribution,
            virtual_chunk_credentials=virtual_chunk_credentials,
        )

    @staticmethod
    async def exists_async(
        storage: Storage, storage_settings: StorageSettings | None = None
    ) -> bool:
        """Say whether there is a repository at a place; ``storage_settings`` are for this look.

        Examples
        --------
        >>> icechunk.Repository.exists(icechunk.in_memory_storage())
        False
        """
        return await version_at(RepositoryState.place(storage, storage_settings)) is not None

    @staticmethod
    async def fetch_spec_version_async(
        storage: Storage, storage_settings: StorageSettings | None = None
    ) -> SpecVersion | None:
        """Return the version of the repository at a place, None when there is none.

        Examples
        --------
        >>> icechunk.Repository.fetch_spec_version(repo.storage)
        SpecVersion.v2 (current)
        """
        version = await version_at(RepositoryState.place(storage, storage_settings))
        return None if version is None else SpecVersion(version)

    @staticmethod
    async def fetch_config_async(storage: Storage) -> RepositoryConfig | None:
        """Return the configuration stored in a repository, None when none is.

        Examples
        --------
        >>> icechunk.Repository.fetch_config(repo.storage) is None
        True
        """
        found = await (await refs_at(storage)).read_config()
        return from_persisted(found.config) if found.config else None

    async def reopen_async(
        self,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> Self:
        """Return the same repository once more, with another configuration; nothing is read.

        Parameters
        ----------
        config : RepositoryConfig, optional
            Goes over the present configuration.
        authorize_virtual_chunk_access : mapping of str to credential or None, optional
            Instead of the present access; as for `create_async`.

        Examples
        --------
        >>> config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
        >>> repo.reopen(config).config.inline_chunk_threshold_bytes
        0
        """
        old = self._state
        access = authorize_virtual_chunk_access
        state = RepositoryState.of(
            self.storage,
            old.config if config is None else old.config.merge(config),
            old.virtual.authorized if access is None else access,
            old.assets.spec_version,
        )
        state.config_version = old.config_version
        state.attribution = old.attribution
        return type(self)(state)

    async def save_config_async(self) -> None:
        """Store the effective configuration in the repository, for whoever opens it from now on.

        Raises
        ------
        ConflictError
            Version 1 of the format, kind ``config-updated``; somebody else changed it since it was
            read here. In version 2 the last one wins, and the operations log tells.
        ReadOnlyError
            Kind ``read-only-repository``.

        Examples
        --------
        >>> repo.save_config()
        >>> icechunk.Repository.fetch_config(repo.storage) is None
        False
        """
        state = self._state
        settings = RepositoryConfig(storage=self.storage.default_settings())
        stored = to_persisted(settings.merge(state.config))
        refs = await state.refs()
        state.config_version = await refs.save_config(stored, state.config_version)

    # -- what it is ---------------------------------------------------------------------------

    @property
    def state(self) -> RepositoryState:
        """What it is made of; for the package's own use."""
        return self._state

    def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of few small requests, in this thread where none of them waits."""
        return run_either(coro, immediate=self._state.assets.storage.immediate)

    @property
    def storage(self) -> Storage:
        """Where it is."""
        return self._state.assets.storage

    @property
    def config(self) -> RepositoryConfig:
        """Effective configuration, a copy: give a changed one to `reopen`."""
        return copy.deepcopy(self._state.config)

    @property
    def attribution(self) -> Attribution:
        """Who makes the requests, as told when the repository was opened."""
        return self._state.attribution

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """URL prefixes of virtual chunk containers that may be read."""
        return set(self._state.virtual.authorized)

    @property
    def spec_version(self) -> SpecVersion:
        """Version of the on-disk format."""
        return SpecVersion(self._state.assets.spec_version)

    def set_default_commit_metadata(self, metadata: dict[str, Any]) -> None:
        """Give every commit of sessions opened from now on this metadata.

        Raises
        ------
        TypeError
            It is not JSON-like.

        Examples
        --------
        >>> repo.set_default_commit_metadata({"author": "me"})
        >>> repo.default_commit_metadata()
        {'author': 'me'}
        """
        self._state.default_metadata = plain_value(dict(metadata))

    def default_commit_metadata(self) -> dict[str, Any]:
        """Return what `set_default_commit_metadata` set."""
        return dict(self._state.default_metadata)

    def _shown_block(self) -> tuple[str, list[Shown]]:
        fields = plain_fields(storage=self.storage, config="<RepositoryConfig ...>")
        return f"icechunk.Repository (v{int(self.spec_version)})", fields

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._state
        parts = (self.storage, state.config, state.virtual.authorized, state.assets.spec_version)
        return _repository_from_parts, (
            *parts,
            state.default_metadata,
            state.config_version,
            state.attribution,
        )

    # -- sessions -----------------------------------------------------------------------------

    @may_run_now
    async def readonly_session_async(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
        snapshot: str | None = None,
    ) -> Session:
        """Open a version to read.

        Parameters
        ----------
        branch, tag, snapshot_id : str
            Exactly one of them: the tip of a branch, the target of a tag, or a snapshot.
        as_of : datetime, optional
            With a branch: the newest of its snapshots that is not younger than this.
        snapshot : str, optional
            Earlier name of ``snapshot_id``.

        Raises
        ------
        ValueError
            None or several of the three were given, or ``as_of`` without a branch.
        RefNotFoundError
            Kind ``ref-not-found``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``, or ``no-snapshot-at-time``.

        Examples
        --------
        >>> session = repo.readonly_session("main")
        >>> float(zarr.open_array(session.store, path="t", mode="r")[0])
        0.0
        """
        if as_of is not None and branch is None:
            raise ValueError("as_of needs a branch")
        if as_of is not None and getattr(as_of, "tzinfo", None) is None:
            raise TypeError(
                "as_of must be a datetime and have a time zone: use datetime.now(datetime.UTC)"
            )
        snapshot_id = either(snapshot_id, snapshot, "snapshot_id and snapshot")
        refs = await self._state.refs()
        at = await resolve_version(refs, branch=branch, tag=tag, snapshot_id=snapshot_id)
        if as_of is not None:
            at = await snapshot_as_of(refs, at, as_of)
        return Session(await self._session_state(at, SessionMode.readonly, None))

    @may_run_now
    async def writable_session_async(self, branch: str) -> Session:
        """Open the tip of a branch to change it.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.

        Examples
        --------
        >>> session = repo.writable_session("main")
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> snapshot_id = session.commit("one value")
        """
        refs = await self._state.refs()
        refs.require_writable()
        tip = await refs.tip_of_branch(branch)
        return Session(await self._session_state(tip, SessionMode.writable, branch))

    async def _session_state(
        self, snapshot_id: ObjectId, mode: SessionMode, branch: str | None
    ) -> SessionState:
        state = self._state
        snapshot = await state.assets.snapshot(snapshot_id)
        start_preload(state.assets, snapshot)
        base = Base.of(snapshot)
        return SessionState(
            checkout=Checkout(state.assets, state.virtual, snapshot_id, mode, base=base),
            branch=branch,
            config=state.config,
            default_metadata=dict(state.default_metadata),
        )

    @contextmanager
    def transaction(
        self,
        branch: str,
        *,
        message: str,
        metadata: dict[str, Any] | None = None,
        rebase_with: ConflictSolver | None = None,
        rebase_tries: int = 1000,
    ) -> Iterator[IcechunkStore]:
        """Open a store to write to, and commit when the block ends without an exception.

        Parameters as `Session.commit`.

        Yields
        ------
        IcechunkStore
            Writes to it are in the commit, all or none.

        Examples
        --------
        >>> with repo.transaction("main", message="one value") as store:
        ...     zarr.open_array(store, path="t", mode="r+")[0] = 1
        """
        session = self.writable_session(branch)
        yield session.store
        session.commit(
            message, metadata=metadata, rebase_with=rebase_with, rebase_tries=rebase_tries
        )


def _repository_from_parts(
    storage: Storage,
    config: RepositoryConfig,
    authorized: VirtualAccess,
    spec_version: int,
    default_metadata: dict[str, Any],
    config_version: Version | None,
    attribution: Attribution,
) -> Repository:
    state = RepositoryState.of(storage, config, authorized, spec_version)
    state.default_metadata = default_metadata
    state.config_version = config_version
    state.attribution = attribution
    return Repository(state)


def _checked_version(version: SpecVersion | int | None) -> int:
    try:
        return int(SpecVersion.current() if version is None else SpecVersion(int(version)))
    except ValueError:
        raise InvalidInputError(
            f"there is no format version {version}; repositories are of version 1 or 2.",
            ErrorKind.INVALID_COMMIT_CONFIGURATION,
        ) from None


def _stored_config(given: RepositoryConfig, storage: Storage) -> dict[str, Any] | None:
    """Return what a new repository keeps of its configuration (specification section 6)."""
    if given == RepositoryConfig.default():
        return None
    defaults = RepositoryConfig(storage=storage.default_settings())
    return to_persisted(defaults.merge(given))


def _initial_snapshot(spec_version: int) -> Snapshot:
    return Snapshot(
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at_us=now_us(),
        message=INITIAL_MESSAGE,
        metadata={ENGINE_METADATA_KEY: {"is_root": True}},
        nodes=NodeTable.of([]),
        manifest_files=ManifestFiles.empty(),
        spec_version=spec_version,
    )
