"""The kind of ref store each version of the format has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from icechunk.assets.manager import exists
from icechunk.assets.ref_files import RefFiles
from icechunk.assets.repo_object import RepoObject

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.ref_store import RefStore
    from icechunk.format.snapshot import Snapshot
    from icechunk.storage.base import Storage, Version

_KINDS: Final[Mapping[int, type[RefFiles | RepoObject]]] = {1: RefFiles, 2: RepoObject}


async def read_refs(assets: AssetManager) -> RefStore:
    """Return the refs of a repository as they are now.

    Raises
    ------
    RepositoryNotFoundError
        There is no repository of this version.
    FormatError
        What is there is damaged or foreign.
    """
    return await _KINDS[assets.spec_version].read(assets)


async def create_refs(
    assets: AssetManager, snapshot: Snapshot, config: Mapping[str, Any] | None
) -> Version | None:
    """Write the first files of a repository; return what the next change of its config relies on.

    Raises
    ------
    ConflictError
        Somebody else just did.
    """
    return await _KINDS[assets.spec_version].create(assets, snapshot, config)


async def version_at(storage: Storage) -> int | None:
    """Return the version of the repository at a place, None when there is none.

    An upgrade may leave files of version 1 behind, so version 2 goes first.
    """
    for version in sorted(_KINDS, reverse=True):
        if await exists(storage, _KINDS[version].MARK):
            return version
    return None
