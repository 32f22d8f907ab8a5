"""The kind of ref store each version of the format has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from icechunk.assets.manager import REPO_KEY, exists
from icechunk.assets.ref_files import REF_FILES_MARK, create_ref_files, read_ref_files
from icechunk.assets.repo_object import create_repo_object, read_repo_object

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.ref_store import RefStore
    from icechunk.format.snapshot import Snapshot
    from icechunk.storage.base import Storage, Version


@dataclass(frozen=True, slots=True)
class _Kind:
    """How refs are found, read and made; ``mark`` is the object they are known by."""

    mark: str
    read: Callable[[AssetManager], Awaitable[RefStore]]
    create: Callable[[AssetManager, Snapshot, Mapping[str, Any] | None], Awaitable[Version | None]]


_KINDS: Final = {
    1: _Kind(REF_FILES_MARK, read_ref_files, create_ref_files),
    2: _Kind(REPO_KEY, read_repo_object, create_repo_object),
}


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
        if await exists(storage, _KINDS[version].mark):
            return version
    return None
