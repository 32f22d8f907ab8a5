"""What an open repository is made of, shared by the parts of its public class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from icechunk.assets.manager import AssetManager
from icechunk.assets.refs import read_state
from icechunk.assets.virtual import VirtualReader
from icechunk.core import history
from icechunk.ids import ObjectId, parse_object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.config import RepositoryConfig
    from icechunk.container_access import AnyCredential
    from icechunk.format.repo_info import RepoInfo
    from icechunk.storage.base import Storage

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
    """

    assets: AssetManager
    virtual: VirtualReader
    config: RepositoryConfig
    default_metadata: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, storage: Storage, config: RepositoryConfig, authorized: VirtualAccess | None
    ) -> RepositoryState:
        """Put together a repository at a storage."""
        resolved = config.resolved(storage.default_settings())
        place = storage.with_settings(resolved.storage)
        assets = AssetManager(place, resolved)
        return cls(assets, VirtualReader(resolved, authorized or {}), config)

    async def info(self) -> RepoInfo:
        """Read the repo object."""
        return (await read_state(self.assets)).info


def resolve_version(
    info: RepoInfo, *, branch: str | None, tag: str | None, snapshot_id: str | None
) -> ObjectId:
    """Return the snapshot that exactly one of branch, tag and snapshot id names.

    Raises
    ------
    ValueError
        None or several of the three were given.
    RefNotFoundError, SnapshotNotFoundError
        There is no such version.
    """
    if sum(given is not None for given in (branch, tag, snapshot_id)) != 1:
        raise ValueError("Must provide one of branch, tag, or snapshot_id")
    if branch is not None:
        return history.tip_of_branch(info, branch)
    if tag is not None:
        return history.target_of_tag(info, tag)
    return history.require_snapshot(info, parse_object_id(snapshot_id or "")).id
