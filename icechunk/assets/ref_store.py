"""Where branches, tags and the snapshot graph of a repository live: the interface.

Version 2 keeps them in the repo object (`icechunk.assets.repo_object`), version 1 in files of their
own and in the snapshots (`icechunk.assets.ref_files`). What is above asks this one interface.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from icechunk._io.started import Started
    from icechunk.assets.manager import AssetManager
    from icechunk.core.history import Fence
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.format.snapshot import Snapshot
    from icechunk.ids import ObjectId
    from icechunk.storage.base import Version


class RecordSource(Protocol):
    """Finds what is known of a snapshot."""

    def get(self, snapshot_id: ObjectId, /) -> SnapshotRecord | None:
        """Return the record of a snapshot, None when it is not here."""


@dataclass(frozen=True, slots=True)
class Ancestry:
    """A snapshot and all before it.

    Parameters
    ----------
    records : RecordSource
        Has the record of each; it may be decoded only when it is looked at.
    ids : sequence of ObjectId
        Newest first.
    """

    records: RecordSource
    ids: Sequence[ObjectId]


@dataclass(frozen=True, slots=True)
class StoredConfig:
    """The configuration a repository stores.

    Parameters
    ----------
    config : mapping or None
        As `icechunk.persisted_config` reads it; None when none is stored.
    version : Version or None
        What a conditional write of it relies on, where it is an object of its own.
    """

    config: Mapping[str, Any] | None
    version: Version | None = None


class RefStore(ABC):
    """Refs and snapshot graph of a repository, as they are at one moment or later.

    Parameters
    ----------
    assets : AssetManager
        Files of the repository.

    Notes
    -----
    Concurrency: every change is atomic and conditional, so that of two that contradict each other
    one fails.
    """

    def __init__(self, assets: AssetManager) -> None:
        self.assets = assets

    # -- what is allowed ----------------------------------------------------------------------

    @abstractmethod
    def require_writable(self) -> None:
        """Refuse writes where the status of the repository forbids them.

        Raises
        ------
        ReadOnlyError
            Version 2, kind ``read-only-repository``.
        """

    @abstractmethod
    def require_moves(self) -> None:
        """Refuse moves where they are switched off, or where there are none.

        Raises
        ------
        SessionStateError
            Version 2, kind ``feature-flag-disabled``.
        FormatError
            Version 1, kind ``unsupported-spec-version``.
        """

    # -- looking ------------------------------------------------------------------------------

    @abstractmethod
    async def branches(self) -> set[str]:
        """Return the names of all branches."""

    @abstractmethod
    async def tags(self) -> set[str]:
        """Return the names of all tags that are not deleted."""

    @abstractmethod
    async def find_branch(self, branch: str) -> ObjectId | None:
        """Return the tip of a branch, None when there is none of the name."""

    @abstractmethod
    async def tip_of_branch(self, branch: str) -> ObjectId:
        """Return the tip of a branch; raises `RefNotFoundError`."""

    @abstractmethod
    async def target_of_tag(self, tag: str) -> ObjectId:
        """Return the snapshot a tag points at; raises `RefNotFoundError`."""

    @abstractmethod
    async def tip_to_commit_on(self, branch: str, base: ObjectId) -> ObjectId:
        """Return the tip of a branch a session on ``base`` commits to.

        Raises
        ------
        RefNotFoundError
            Version 2, kind ``branch-not-found``; the branch was deleted meanwhile.
        ConflictError
            The same in version 1, with no actual parent.
        """

    @abstractmethod
    async def require_snapshot(self, snapshot_id: ObjectId) -> SnapshotRecord:
        """Return what is known of a snapshot.

        Raises
        ------
        SnapshotNotFoundError
            Version 2; it is not registered.
        StorageError
            Version 1, kind ``object-not-found``; there is no such file.
        """

    @abstractmethod
    async def record_to_amend(self, base: ObjectId) -> SnapshotRecord:
        """Return what is known of a snapshot that is to be replaced by an amendment.

        Raises
        ------
        FormatError
            Version 1, kind ``unsupported-spec-version``; it has no amending.
        """

    @abstractmethod
    def ancestors(self, snapshot_id: ObjectId) -> AsyncIterator[SnapshotRecord]:
        """Yield a snapshot and all before it, newest first; raises as `require_snapshot`."""

    @abstractmethod
    async def ancestry(self, snapshot_id: ObjectId) -> Ancestry:
        """Return a snapshot and all before it; raises as `require_snapshot`."""

    # -- changing -----------------------------------------------------------------------------

    @abstractmethod
    async def create_branch(self, branch: str, snapshot_id: ObjectId) -> None:
        """Make a branch at a snapshot."""

    @abstractmethod
    async def delete_branch(self, branch: str) -> None:
        """Delete a branch."""

    @abstractmethod
    async def reset_branch(
        self, branch: str, snapshot_id: ObjectId, expected: ObjectId | None
    ) -> None:
        """Point a branch at a snapshot; ``expected`` is where it must be now."""

    @abstractmethod
    async def create_tag(self, tag: str, snapshot_id: ObjectId) -> None:
        """Make a tag at a snapshot."""

    @abstractmethod
    async def delete_tag(self, tag: str) -> None:
        """Delete a tag; its name is used up for ever."""

    @abstractmethod
    async def commit(
        self,
        branch: str,
        snapshot: Snapshot,
        base: ObjectId,
        started: Started,
        *,
        moves: bool = False,
        fence: Fence | None = None,
    ) -> None:
        """Make a snapshot the tip of a branch that is at ``base``.

        Parameters
        ----------
        branch : str
            Which.
        snapshot : Snapshot
            What it becomes.
        base : ObjectId
            Where the branch must be.
        started : Started
            Writes the files of the snapshot; they are there before the branch moves.
        moves : bool
            The snapshot moves nodes, which must be allowed at the moment of the change.
        fence : Fence, optional
            Must hold at the moment of the change; version 1 has no metadata to look at.

        Raises
        ------
        ConflictError
            Kind ``commit-conflict``; the branch is elsewhere.
        SessionStateError
            Kind ``feature-flag-disabled``; moves are switched off. Kind ``not-allowed``; the fence
            does not hold.
        """

    @abstractmethod
    async def amend(
        self, branch: str, snapshot: Snapshot, base: ObjectId, *, moves: bool = False
    ) -> None:
        """Put a written snapshot in the place of ``base``, the tip of a branch; else as `commit`.

        Raises
        ------
        ConflictError
            Kind ``commit-conflict``; the branch is elsewhere.
        FormatError
            Version 1, kind ``unsupported-spec-version``.
        """

    @abstractmethod
    async def register(self, snapshot: Snapshot, base: ObjectId, *, moves: bool = False) -> None:
        """Make a written snapshot known that no branch points at; parameters as `commit`."""

    @abstractmethod
    async def expire(
        self, older_than_us: int, *, delete_branches: bool, delete_tags: bool
    ) -> frozenset[ObjectId]:
        """Release snapshots committed before a time from the history.

        Parameters
        ----------
        older_than_us : int
            Microseconds since the Unix epoch.
        delete_branches, delete_tags : bool
            Delete branches (never ``main``) and tags whose snapshot is that old.

        Returns
        -------
        frozenset of ObjectId
            Released snapshots; their files stay until garbage is collected.
        """

    # -- configuration ------------------------------------------------------------------------

    @abstractmethod
    async def read_config(self) -> StoredConfig:
        """Return the stored configuration."""

    @abstractmethod
    async def save_config(self, config: Mapping[str, Any], known: Version | None) -> Version | None:
        """Store a configuration; return what the next change of it relies on.

        Raises
        ------
        ConflictError
            Version 1, kind ``config-updated``; it is not ``known`` any more.
        """
