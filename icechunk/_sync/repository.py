"""Blocking twins of `icechunk.repository`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Self

    from icechunk.config import RepositoryConfig
    from icechunk.repository_state import VirtualAccess
    from icechunk.session import Session
    from icechunk.storage.base import Storage
    from icechunk.storage_settings import StorageSettings
    from icechunk.types import Attribution, SpecVersion


class RepositoryTwins:
    """Blocking methods of `icechunk.repository.Repository`."""

    __slots__ = ()

    @classmethod
    def create(
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
        return run(
            cls.create_async(
                storage,
                config,
                authorize_virtual_chunk_access,
                spec_version,
                check_clean_root,
                attribution,
                virtual_chunk_credentials=virtual_chunk_credentials,
            )
        )

    @classmethod
    def open(
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
            As for `create`.
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
        return run(
            cls.open_async(
                storage,
                config,
                authorize_virtual_chunk_access,
                attribution,
                virtual_chunk_credentials=virtual_chunk_credentials,
            )
        )

    @classmethod
    def open_or_create(
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

        Parameters and errors as `open` and `create`.

        Examples
        --------
        >>> storage = icechunk.in_memory_storage()
        >>> repo = icechunk.Repository.open_or_create(storage)
        >>> repo = icechunk.Repository.open_or_create(storage)
        """
        return run(
            cls.open_or_create_async(
                storage,
                config,
                authorize_virtual_chunk_access,
                create_version,
                check_clean_root,
                attribution,
                virtual_chunk_credentials=virtual_chunk_credentials,
            )
        )

    @classmethod
    def exists(cls, storage: Storage, storage_settings: StorageSettings | None = None) -> bool:
        """Say whether there is a repository at a place; ``storage_settings`` are for this look.

        Examples
        --------
        >>> icechunk.Repository.exists(icechunk.in_memory_storage())
        False
        """
        return run(cls.exists_async(storage, storage_settings))

    @classmethod
    def fetch_spec_version(
        cls,
        storage: Storage,
        storage_settings: StorageSettings | None = None,
    ) -> SpecVersion | None:
        """Return the version of the repository at a place, None when there is none.

        Examples
        --------
        >>> icechunk.Repository.fetch_spec_version(repo.storage)
        SpecVersion.v2 (current)
        """
        return run(cls.fetch_spec_version_async(storage, storage_settings))

    @classmethod
    def fetch_config(cls, storage: Storage) -> RepositoryConfig | None:
        """Return the configuration stored in a repository, None when none is.

        Examples
        --------
        >>> icechunk.Repository.fetch_config(repo.storage) is None
        True
        """
        return run(cls.fetch_config_async(storage))

    def reopen(
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
            Instead of the present access; as for `create`.

        Examples
        --------
        >>> config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=0)
        >>> repo.reopen(config).config.inline_chunk_threshold_bytes
        0
        """
        return run(self.reopen_async(config, authorize_virtual_chunk_access))

    def save_config(self) -> None:
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
        return run(self.save_config_async())

    def readonly_session(
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
        return self._run(
            self.readonly_session_async(
                branch, tag=tag, snapshot_id=snapshot_id, as_of=as_of, snapshot=snapshot
            )
        )

    def writable_session(self, branch: str) -> Session:
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
        return self._run(self.writable_session_async(branch))
