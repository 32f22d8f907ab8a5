"""Earlier names of what a repository does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias

from icechunk._earlier.spelling import either
from icechunk.errors import ConflictError, RebaseFailedError
from icechunk.snapshots import SnapshotHistory, SnapshotInfo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.config import RepositoryConfig
    from icechunk.container_access import AnyCredential

SnapshotMetadata: TypeAlias = SnapshotInfo
"""Earlier name of `icechunk.SnapshotInfo`."""

ConflictErrorData: TypeAlias = ConflictError
"""Earlier name of what `icechunk.ConflictError` now says itself: its two parents."""

RebaseFailedData: TypeAlias = RebaseFailedError
"""Earlier name of what `icechunk.RebaseFailedError` now says itself: snapshot and conflicts."""


class _HasAncestry(Protocol):
    def ancestry(self, *, branch: str | None = None) -> SnapshotHistory: ...


class EarlierRepository:
    """Earlier names of `Repository`."""

    def log(self: _HasAncestry, branch: str = "main") -> SnapshotHistory:
        """Return the history of a branch, newest first.

        Earlier name of ``ancestry(branch=...)``.

        Examples
        --------
        >>> import icechunk
        >>> repo = icechunk.Repository.create(icechunk.in_memory_storage())
        >>> [snapshot.commit_message for snapshot in repo.log("main")]
        ['Repository initialized']
        """
        return self.ancestry(branch=branch)


def access_to_containers(
    config: RepositoryConfig,
    authorized: Mapping[str, AnyCredential | None] | None,
    virtual_chunk_credentials: Mapping[str, AnyCredential | None] | None = None,
) -> dict[str, AnyCredential | None]:
    """Return credentials by url prefix.

    Parameters
    ----------
    config : RepositoryConfig
        Has the containers.
    authorized : mapping of str to credential or None
        Under its present name: by url prefix, or by the name of the container, as earlier.
    virtual_chunk_credentials : mapping of str to credential
        The same under its earlier name.

    Raises
    ------
    ValueError
        Both were given.
    """
    names = "authorize_virtual_chunk_access and virtual_chunk_credentials"
    given = either(authorized, virtual_chunk_credentials, names) or {}
    containers = config.virtual_chunk_containers or {}
    by_name = {c.name: c.url_prefix for c in containers.values() if c.name is not None}
    return {
        key if key in containers else by_name.get(key, key): credential
        for key, credential in given.items()
    }
