"""What an open repository is made of, shared by the parts of its public class."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from icechunk._earlier.repository import access_to_containers
from icechunk.assets.manager import AssetManager
from icechunk.assets.ref_stores import read_refs, version_at
from icechunk.assets.virtual import VirtualReader
from icechunk.config import RepositoryConfig
from icechunk.errors import ErrorKind, RepositoryNotFoundError, SnapshotNotFoundError
from icechunk.ids import ObjectId, parse_object_id
from icechunk.storage.base import Storage
from icechunk.types import Attribution

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from icechunk.assets.ref_store import RefStore
    from icechunk.container_access import AnyCredential
    from icechunk.storage.base import Version
    from icechunk.storage_settings import StorageSettings

VirtualAccess: TypeAlias = "Mapping[str, AnyCredential | None]"
"""URL prefixes of virtual chunk containers that may be read, and how to get in."""


@dataclass(slots=True, eq=False)
class RepositoryState:
    """What an open repository is made of.

    Parameters
    ----------
    assets : AssetManager
        Its files.
    virtual : VirtualReader
        Reads chunks outside of it.
    config : RepositoryConfig
        Effective configuration, as the user sees it.
    default_metadata : dict
        Commit metadata that every commit gets.
    attribution : Attribution
        Who makes the requests, as told when the repository was opened.
    config_version : Version or None
        Of the stored configuration that was read, where it is an object of its own.
    """

    assets: AssetManager
    virtual: VirtualReader
    config: RepositoryConfig
    default_metadata: dict[str, Any] = field(default_factory=dict)
    attribution: Attribution = field(default_factory=Attribution)
    config_version: Version | None = None

    @classmethod
    def of(
        cls,
        storage: Storage,
        config: RepositoryConfig,
        authorized: VirtualAccess | None,
        spec_version: int = 2,
    ) -> RepositoryState:
        """Put together a repository at a storage; raises as `place`."""
        resolved = config.resolved(cls.place(storage).default_settings())
        access = access_to_containers(config, authorized)
        place = storage.with_settings(resolved.storage)
        assets = AssetManager(place, resolved, spec_version)
        return cls(assets, VirtualReader(resolved, access), copy.deepcopy(config))

    @staticmethod
    def place(storage: Storage, settings: StorageSettings | None = None) -> Storage:
        """Return a storage with other settings, if there are any.

        Raises
        ------
        TypeError
            It is something else, mostly a path.
        """
        if not isinstance(storage, Storage):
            raise TypeError(
                f"storage must be an icechunk.Storage, not {type(storage).__name__}. A directory: "
                "icechunk.local_filesystem_storage(path); S3: icechunk.s3_storage(bucket=..., "
                "prefix=...); any URL: icechunk.storage.storage_for_url(url)."
            )
        return storage if settings is None else storage.with_settings(settings)

    async def refs(self) -> RefStore:
        """Read branches, tags and the snapshot graph."""
        return await read_refs(self.assets)


async def refs_at(storage: Storage) -> RefStore:
    """Return the refs of the repository at a place, whatever its version.

    Raises
    ------
    RepositoryNotFoundError
        There is none.
    """
    config = RepositoryConfig.default()
    try:
        return await RepositoryState.of(storage, config, None).refs()
    except RepositoryNotFoundError:
        version = await version_at(storage)
        if version is None:
            raise
    return await RepositoryState.of(storage, config, None, version).refs()


async def resolve_version(
    refs: RefStore, *, branch: str | None, tag: str | None, snapshot_id: str | None
) -> ObjectId:
    """Return the snapshot that exactly one of branch, tag and snapshot id names.

    Raises
    ------
    ValueError
        None or several of the three were given.
    RefNotFoundError, SnapshotNotFoundError
        There is no such version. In version 1 of the format an unknown snapshot is a StorageError,
        kind ``object-not-found``.
    """
    if sum(given is not None for given in (branch, tag, snapshot_id)) != 1:
        raise ValueError("Must provide one of branch, tag, or snapshot_id")
    if branch is not None:
        return await refs.tip_of_branch(branch)
    if tag is not None:
        return await refs.target_of_tag(tag)
    return (await refs.require_snapshot(parse_object_id(snapshot_id or ""))).id


async def snapshot_as_of(refs: RefStore, tip: ObjectId, as_of: datetime) -> ObjectId:
    """Return the newest snapshot up to ``tip`` that is as old as a time.

    Raises
    ------
    SnapshotNotFoundError
        Kind ``no-snapshot-at-time``; there is none.
    """
    limit_us = int(as_of.timestamp() * 1_000_000)
    async for record in refs.ancestors(tip):
        if record.flushed_at_us <= limit_us:
            return record.id
    raise SnapshotNotFoundError(
        f"no snapshot on this branch is as old as {as_of.isoformat()}.",
        ErrorKind.NO_SNAPSHOT_AT_TIME,
    )
