"""Clients of a lake: making, finding and deleting repositories."""

from __future__ import annotations

import json
import os
import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from icechunk._io.loop import run
from icechunk._sync.lake_client import ClientTwins
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    InvalidInputError,
    RepositoryNotFoundError,
)
from icechunk.lake.catalog import Catalog, RepoEntry
from icechunk.lake.filters import filtered_names
from icechunk.lake.names import Author, RepoName
from icechunk.lake.repo import AsyncRepo, Repo
from icechunk.lake.root import LakeRoot
from icechunk.repository import Repository

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from icechunk.config import RepositoryConfig
    from icechunk.repository_state import VirtualAccess
    from icechunk.storage.base import Storage

_DELETED_AT_ONCE = 1000


class AsyncClient:
    """A lake: a root that holds repositories and the catalog of them.

    Parameters
    ----------
    root : str or path
        A directory, or any storage URL. A lake needs no preparation: the first repository makes
        the catalog.
    author : Author, optional
        Who commits; from ``ICECHUNK_AUTHOR_NAME`` and ``ICECHUNK_AUTHOR_EMAIL`` when omitted.
    **storage_options
        As `icechunk.storage.storage_for_url` takes them.

    Notes
    -----
    Concurrency: any number of processes and machines may use one lake at once; the catalog is
    changed by compare-and-swap.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        author: Author | None = None,
        **storage_options: Any,
    ) -> None:
        self._root = LakeRoot(
            os.fspath(root) if isinstance(root, os.PathLike) else root, storage_options
        )
        self._author = author or Author.from_env()

    @property
    def root(self) -> str:
        """Where the lake is."""
        return self._root.url

    @property
    def author(self) -> Author:
        """Who commits."""
        return self._author

    def __repr__(self) -> str:
        return f"<icechunk.lake.{type(self).__name__} {self._root.storage().description}>"

    async def exists(self) -> bool:
        """Say whether there is a lake at the root: its first repository makes it.

        Raises
        ------
        FormatError
            What is there is no catalog.
        StorageError
            The place cannot be read.
        """
        return await self._root.exists()

    async def create_repo(
        self,
        name: str,
        *,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> AsyncRepo:
        """Make a repository.

        Parameters
        ----------
        name : str
            ``"org/name"``.
        description : str, optional
            For people.
        metadata : mapping, optional
            JSON-like facts, to filter by.
        config : RepositoryConfig, optional
            As for `icechunk.Repository.create`.
        authorize_virtual_chunk_access : mapping, optional
            As for `icechunk.Repository.create`.

        Raises
        ------
        AlreadyExistsError
            The name is taken.
        InvalidInputError
            Kind ``invalid-path``; not such a name.
        """
        repo_name = RepoName.parse(name)
        entry = RepoEntry(
            name=repo_name,
            # A place of its own each time, so that what is left of a deleted repository of the
            # same name is never in the way.
            location=f"repos/{repo_name}-{secrets.token_hex(4)}",
            created_at=datetime.now(UTC),
            description=description,
            metadata=_plain(metadata or {}),
        )
        (await self._root.read()).with_new(entry)  # refuses a name that is taken, before any work
        storage = self._root.storage(entry.location)
        repository = await Repository.create_async(storage, config, authorize_virtual_chunk_access)
        try:
            await self._root.change(lambda catalog: _with_new(catalog, entry))
        except (AlreadyExistsError, ConflictError):
            await _delete_all(storage)  # certainly not in the catalog, else it would have to stay
            raise
        return AsyncRepo(repository, name=repo_name, author=self._author)

    async def get_repo(
        self,
        name: str,
        *,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> AsyncRepo:
        """Open a repository.

        Parameters
        ----------
        name : str
            ``"org/name"``.
        config, authorize_virtual_chunk_access
            As for `icechunk.Repository.open`.

        Raises
        ------
        RepositoryNotFoundError
            Kind ``repository-not-found``; the message lists those there are, or says that there is
            no lake.
        """
        entry = await self._entry(name)
        repository = await Repository.open_async(
            self._root.storage(entry.location), config, authorize_virtual_chunk_access
        )
        return AsyncRepo(repository, name=entry.name, author=self._author)

    async def get_or_create_repo(
        self,
        name: str,
        *,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> AsyncRepo:
        """Open a repository, or make it where there is none; parameters as `create_repo`."""
        access = authorize_virtual_chunk_access
        try:
            return await self.get_repo(name, config=config, authorize_virtual_chunk_access=access)
        except RepositoryNotFoundError:
            pass
        try:
            return await self.create_repo(
                name,
                description=description,
                metadata=metadata,
                config=config,
                authorize_virtual_chunk_access=access,
            )
        except AlreadyExistsError:  # somebody else made it in between
            return await self.get_repo(name, config=config, authorize_virtual_chunk_access=access)

    async def list_repos(
        self, org: str | None = None, *, filter_metadata: str | Mapping[str, Any] | None = None
    ) -> Sequence[RepoEntry]:
        """Return the repositories of the lake, by name; none where no lake is, see `exists`.

        Parameters
        ----------
        org : str, optional
            Only those of one organisation.
        filter_metadata : str or mapping, optional
            Only those whose metadata a JMESPath expression passes, or has these keys and values.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; not a JMESPath expression.
        """
        found = [
            entry
            for name, entry in sorted((await self._root.read()).repos.items())
            if org is None or name.org == org
        ]
        if filter_metadata is None:
            return found
        if isinstance(filter_metadata, str):
            documents = [(str(entry.name), dict(entry.metadata)) for entry in found]
            passed = set(filtered_names(documents, filter_metadata))
            return [entry for entry in found if str(entry.name) in passed]
        wanted = filter_metadata.items()
        absent = object()
        return [
            entry
            for entry in found
            if all(entry.metadata.get(key, absent) == value for key, value in wanted)
        ]

    async def get_metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of a repository; raises as `get_repo`."""
        return dict((await self._entry(name)).metadata)

    async def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata of a repository; raises as `get_repo`."""
        repo_name, plain = RepoName.parse(name), _plain(metadata)
        await self._root.change(lambda catalog: catalog.with_metadata(repo_name, plain))

    async def update_metadata(self, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Set some keys of the metadata of a repository; return all of it afterwards."""
        repo_name, plain = RepoName.parse(name), _plain(metadata)

        def edit(catalog: Catalog) -> Catalog:
            present = catalog.entry(repo_name).metadata
            return catalog.with_metadata(repo_name, {**present, **plain})

        return dict((await self._root.change(edit)).entry(repo_name).metadata)

    async def _entry(self, name: str) -> RepoEntry:
        repo_name, catalog = RepoName.parse(name), await self._root.read()
        if not catalog.repos and not await self._root.exists():
            raise RepositoryNotFoundError(
                f"no repository {name}: there is no lake at {self.root} yet. If the place is "
                f"right, client.create_repo({name!r}) makes both."
            )
        return catalog.entry(repo_name)

    async def delete_repo(self, name: str, *, confirm: str) -> None:
        """Delete a repository with everything in it; there is no way back.

        Parameters
        ----------
        name : str
            ``"org/name"``.
        confirm : str
            The same name once more.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; ``confirm`` is another name.
        RepositoryNotFoundError
            There is none of that name.

        Notes
        -----
        The name goes first, so a deletion that dies on the way leaves objects that nobody finds,
        and never half a repository.
        """
        repo_name = RepoName.parse(name)
        if confirm != name:
            raise InvalidInputError(
                f"nothing was deleted: to delete {name} with all its data, give its name once "
                f"more, confirm={name!r}.",
                ErrorKind.NOT_ALLOWED,
            )
        locations: list[str] = []

        def edit(catalog: Catalog) -> Catalog:
            # As it is now: another may have deleted it and made one of the same name.
            locations[:] = [catalog.entry(repo_name).location]
            return catalog.without(repo_name)

        await self._root.change(edit)
        await _delete_all(self._root.storage(locations[0]))


class Client(ClientTwins):
    """A lake, blocking; parameters and methods as those of `AsyncClient`.

    Examples
    --------
    >>> from icechunk.lake import Client
    >>> client = Client("memory://lake-of-examples")
    >>> repo = client.create_repo("ocean/sst", metadata={"level": 3})
    >>> [str(entry.name) for entry in client.list_repos(filter_metadata="level == `3`")]
    ['ocean/sst']
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        author: Author | None = None,
        **storage_options: Any,
    ) -> None:
        self._async = AsyncClient(root, author=author, **storage_options)

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncClient", "Client")

    def create_repo(
        self,
        name: str,
        *,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> Repo:
        """Make a repository; parameters as `AsyncClient.create_repo`."""
        made = self._async.create_repo(
            name,
            description=description,
            metadata=metadata,
            config=config,
            authorize_virtual_chunk_access=authorize_virtual_chunk_access,
        )
        return Repo(run(made))

    def get_repo(
        self,
        name: str,
        *,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> Repo:
        """Open a repository; parameters as `AsyncClient.get_repo`."""
        opened = self._async.get_repo(
            name, config=config, authorize_virtual_chunk_access=authorize_virtual_chunk_access
        )
        return Repo(run(opened))

    def get_or_create_repo(
        self,
        name: str,
        *,
        description: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        config: RepositoryConfig | None = None,
        authorize_virtual_chunk_access: VirtualAccess | None = None,
    ) -> Repo:
        """Open or make a repository; parameters as `AsyncClient.get_or_create_repo`."""
        made = self._async.get_or_create_repo(
            name,
            description=description,
            metadata=metadata,
            config=config,
            authorize_virtual_chunk_access=authorize_virtual_chunk_access,
        )
        return Repo(run(made))


def _with_new(catalog: Catalog, entry: RepoEntry) -> Catalog:
    """Return the catalog with an entry, be it that an earlier try got there unnoticed."""
    present = catalog.repos.get(entry.name)
    if present is not None and present.location == entry.location:
        return catalog
    return catalog.with_new(entry)


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata as it is read back; TypeError where it is not JSON-like."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(metadata)))
    return plain


async def _delete_all(storage: Storage) -> None:
    keys = [found.key async for found in storage.list("")]
    for start in range(0, len(keys), _DELETED_AT_ONCE):
        await storage.delete_many(keys[start : start + _DELETED_AT_ONCE])
