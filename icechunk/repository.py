"""Repositories: create, open, and open sessions on them.

Source: Icechunk specification, sections "Storage model and object keys" and "Session".
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Self

from icechunk._sync.repository import RepositoryTwins
from icechunk.assets.manager import REPO_KEY, AssetManager
from icechunk.assets.refs import now_us, read_state
from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.config import RepositoryConfig
from icechunk.core import history
from icechunk.core.changes import ChangeSet
from icechunk.core.commit import transaction_log_of
from icechunk.errors import (
    ConflictError,
    ErrorKind,
    InvalidInputError,
    SnapshotNotFoundError,
    StorageError,
)
from icechunk.format.repo_info import RepoInfo, RepoInitialized, SnapshotRecord
from icechunk.format.snapshot import ManifestFiles, NodeTable, Snapshot
from icechunk.ids import INITIAL_SNAPSHOT_ID, ObjectId
from icechunk.persisted_config import from_persisted, to_persisted
from icechunk.repository_history import RepositoryHistory
from icechunk.repository_refs import RepositoryRefs
from icechunk.repository_state import RepositoryState, VirtualAccess, resolve_version
from icechunk.repository_upkeep import RepositoryUpkeep
from icechunk.session import Session
from icechunk.session_state import SessionState
from icechunk.storage.base import LostRaceError
from icechunk.transaction import ENGINE_METADATA_KEY
from icechunk.types import SpecVersion

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from icechunk.core.conflicts import ConflictSolver
    from icechunk.storage.base import Storage
    from icechunk.store import IcechunkStore

INITIAL_MESSAGE: Final = "Repository initialized"


class Repository(RepositoryTwins, RepositoryHistory, RepositoryRefs, RepositoryUpkeep):
    """A versioned collection of Zarr groups and arrays.

    Made by `create`, `open` or `open_or_create`, not by calling the class.

    Notes
    -----
    Concurrency: one repository may be used from any number of threads and event loops at once,
    and pickles. Methods ending in ``_async`` are the coroutines of the blocking ones.
    """

    def __init__(self, repository: RepositoryState) -> None:
        self._state = repository

    # -- create and open ----------------------------------------------------------------------

    @classmethod
    async def create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
        spec_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
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
            Version of the format; 2 is what can be made.
        check_clean_root : bool
            Refuse a place where there are other objects.

        Returns
        -------
        Repository
            With a branch ``main`` on the initial, empty snapshot.

        Raises
        ------
        InvalidInputError
            Kind ``parent-directory-not-clean``; something is there already.
        ConflictError
            Kind ``repo-info-updated``; somebody else created a repository at this moment.
        StorageError
            The place cannot be written.
        """
        _check_version(spec_version)
        given = config or RepositoryConfig.default()
        state = RepositoryState.of(storage, given, authorize_virtual_chunk_access)
        if check_clean_root and not await storage.is_clean():
            raise InvalidInputError(
                f"cannot create a repository at {storage.description}: there are objects already. "
                "Open the repository there, or choose an empty place; check_clean_root=False "
                "skips this test.",
                ErrorKind.PARENT_DIRECTORY_NOT_CLEAN,
            )
        await _write_initial(state.assets, _stored_config(given, storage))
        return cls(state)

    @classmethod
    async def open_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
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

        Raises
        ------
        RepositoryNotFoundError
            Kind ``repository-not-found``.
        FormatError
            What is there is damaged, or of a version this package does not know.
        """
        reader = RepositoryState.of(storage, RepositoryConfig.default(), None)
        info = (await read_state(reader.assets)).info
        stored = from_persisted(info.config) if info.config else RepositoryConfig.default()
        effective = stored if config is None else stored.merge(config)
        return cls(RepositoryState.of(storage, effective, authorize_virtual_chunk_access))

    @classmethod
    async def open_or_create_async(
        cls,
        storage: Storage,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
        create_version: SpecVersion | int | None = None,
        check_clean_root: bool = True,
    ) -> Self:
        """Open the repository at a place, or make one where there is none.

        Parameters and errors as `open_async` and `create_async`.
        """
        if not await cls.exists_async(storage):
            try:
                return await cls.create_async(
                    storage,
                    config,
                    authorize_virtual_chunk_access,
                    create_version,
                    check_clean_root,
                )
            except (ConflictError, InvalidInputError):
                # Somebody else may have created it between the two steps.
                if not await cls.exists_async(storage):
                    raise
        return await cls.open_async(storage, config, authorize_virtual_chunk_access)

    @staticmethod
    async def exists_async(storage: Storage) -> bool:
        """Say whether there is a repository at a place."""
        try:
            await storage.head(REPO_KEY)
        except StorageError as e:
            if e.kind == ErrorKind.OBJECT_NOT_FOUND:
                return False
            raise
        return True

    @staticmethod
    async def fetch_config_async(storage: Storage) -> RepositoryConfig | None:
        """Return the configuration stored in a repository, None when none is."""
        reader = RepositoryState.of(storage, RepositoryConfig.default(), None)
        info = (await read_state(reader.assets)).info
        return from_persisted(info.config) if info.config else None

    # -- what it is ---------------------------------------------------------------------------

    @property
    def storage(self) -> Storage:
        """Where it is."""
        return self._state.assets.storage

    @property
    def config(self) -> RepositoryConfig:
        """Effective configuration; changing it changes nothing here."""
        return self._state.config

    @property
    def authorized_virtual_container_prefixes(self) -> set[str]:
        """URL prefixes of virtual chunk containers that may be read."""
        return set(self._state.virtual.authorized)

    @property
    def spec_version(self) -> SpecVersion:
        """Version of the on-disk format."""
        return SpecVersion.v2

    def set_default_commit_metadata(self, metadata: dict[str, Any]) -> None:
        """Give every commit of sessions opened from now on this metadata."""
        self._state.default_metadata = dict(metadata)

    def default_commit_metadata(self) -> dict[str, Any]:
        """Return what `set_default_commit_metadata` set."""
        return dict(self._state.default_metadata)

    def __repr__(self) -> str:
        storage = repr(self.storage).rstrip().replace("\n", "\n    ")
        return f"<icechunk.Repository (v{int(self.spec_version)})>\nstorage:\n    {storage}\n"

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._state
        parts = (self.storage, state.config, state.virtual.authorized, state.default_metadata)
        return _repository_from_parts, parts

    # -- sessions -----------------------------------------------------------------------------

    async def readonly_session_async(
        self,
        branch: str | None = None,
        *,
        tag: str | None = None,
        snapshot_id: str | None = None,
        as_of: datetime | None = None,
    ) -> Session:
        """Open a version to read.

        Parameters
        ----------
        branch, tag, snapshot_id : str
            Exactly one of them: the tip of a branch, the target of a tag, or a snapshot.
        as_of : datetime, optional
            With a branch: the newest of its snapshots that is not younger than this.

        Raises
        ------
        ValueError
            None or several of the three were given, or ``as_of`` without a branch.
        RefNotFoundError
            Kind ``ref-not-found``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``, or ``no-snapshot-at-time``.
        """
        if as_of is not None and branch is None:
            raise ValueError("as_of needs a branch")
        info = await self._state.info()
        at = resolve_version(info, branch=branch, tag=tag, snapshot_id=snapshot_id)
        if as_of is not None:
            at = _snapshot_as_of(info, at, as_of)
        return Session(await self._session_state(at, SessionMode.READONLY, None))

    async def writable_session_async(self, branch: str) -> Session:
        """Open the tip of a branch to change it.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        """
        tip = history.tip_of_branch(await self._state.info(), branch)
        return Session(await self._session_state(tip, SessionMode.WRITABLE, branch))

    async def _session_state(
        self, snapshot_id: ObjectId, mode: SessionMode, branch: str | None
    ) -> SessionState:
        state = self._state
        base = Base.of(await state.assets.snapshot(snapshot_id))
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
    default_metadata: dict[str, Any],
) -> Repository:
    state = RepositoryState.of(storage, config, authorized)
    state.default_metadata = default_metadata
    return Repository(state)


def _check_version(version: SpecVersion | int | None) -> None:
    if version is not None and int(version) != int(SpecVersion.v2):
        raise InvalidInputError(
            f"new repositories are of format version 2, not {int(version)}.",
            ErrorKind.INVALID_COMMIT_CONFIGURATION,
        )


def _stored_config(given: RepositoryConfig, storage: Storage) -> dict[str, Any] | None:
    """Return what a new repository keeps of its configuration (specification section 6)."""
    if given == RepositoryConfig.default():
        return None
    defaults = RepositoryConfig(storage=storage.default_settings())
    return to_persisted(defaults.merge(given))


async def _write_initial(assets: AssetManager, config: dict[str, Any] | None) -> None:
    now = now_us()
    metadata = {ENGINE_METADATA_KEY: {"is_root": True}}
    snapshot = Snapshot(
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at_us=now,
        message=INITIAL_MESSAGE,
        metadata=metadata,
        nodes=NodeTable.of([]),
        manifest_files=ManifestFiles.empty(),
        spec_version=2,
    )
    record = SnapshotRecord(
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at_us=now,
        message=INITIAL_MESSAGE,
        metadata=metadata,
        pruned_logs=(),
    )
    await assets.write_snapshot(snapshot)
    log = transaction_log_of(INITIAL_SNAPSHOT_ID, snapshot.nodes, ChangeSet())
    await assets.write_transaction_log(log)
    info = RepoInfo.initial(record, RepoInitialized(), updated_at_us=now, config=config)
    try:
        await assets.create_repo(info)
    except LostRaceError as e:
        raise ConflictError(
            None,
            None,
            f"somebody else created a repository at {assets.storage.description} at this moment. "
            "Open it.",
            ErrorKind.REPO_INFO_UPDATED,
        ) from e


def _snapshot_as_of(info: RepoInfo, tip: ObjectId, as_of: datetime) -> ObjectId:
    limit_us = int(as_of.timestamp() * 1_000_000)
    for record in info.snapshots.ancestry(tip):
        if record.flushed_at_us <= limit_us:
            return record.id
    raise SnapshotNotFoundError(
        f"no snapshot on this branch is as old as {as_of.isoformat()}.",
        ErrorKind.NO_SNAPSHOT_AT_TIME,
    )
