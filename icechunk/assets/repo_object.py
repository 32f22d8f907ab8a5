"""Refs and snapshot graph in the repo object: version 2 of the format.

Source: Icechunk specification, section "The repo object in v2".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icechunk.assets.ref_store import Ancestry, RefStore, StoredConfig
from icechunk.assets.refs import RepoState, read_state, require_online, update_repo
from icechunk.core import history
from icechunk.core.changes import ChangeSet
from icechunk.core.commit import transaction_log_of
from icechunk.core.expiry import expired
from icechunk.core.features import Feature, require_feature
from icechunk.errors import ConflictError, ErrorKind
from icechunk.format.repo_info import (
    ConfigChanged,
    ExpirationRan,
    RepoInfo,
    RepoInitialized,
    UpdateKind,
)
from icechunk.storage.objects import LostRaceError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from icechunk._io.started import Started
    from icechunk.assets.manager import AssetManager
    from icechunk.core.history import Fence
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.format.snapshot import Snapshot
    from icechunk.ids import ObjectId
    from icechunk.storage.base import Version


class RepoObject(RefStore):
    """The repo object as it was read once; questions are answered from that reading.

    Parameters
    ----------
    assets : AssetManager
        Files of the repository.
    state : RepoState
        The repo object.
    """

    def __init__(self, assets: AssetManager, state: RepoState) -> None:
        super().__init__(assets)
        self.state = state

    # -- what is allowed ----------------------------------------------------------------------

    def require_writable(self) -> None:
        """Refuse writes to a read-only repository; raises `ReadOnlyError`."""
        require_online(self.state.info, self.assets)

    def require_moves(self) -> None:
        """Refuse moves where they are switched off; raises `SessionStateError`."""
        require_feature(self.state.info, Feature.MOVE_NODE)

    # -- looking ------------------------------------------------------------------------------

    async def branches(self) -> set[str]:
        """Return the names of all branches."""
        return set(self.state.info.branches)

    async def tags(self) -> set[str]:
        """Return the names of all tags."""
        return set(self.state.info.tags)

    async def find_branch(self, branch: str) -> ObjectId | None:
        """Return the tip of a branch, None when there is none of the name."""
        return self.state.info.branches.get(branch)

    async def tip_of_branch(self, branch: str) -> ObjectId:
        """Return the tip of a branch; raises `RefNotFoundError`."""
        return history.tip_of_branch(self.state.info, branch)

    async def target_of_tag(self, tag: str) -> ObjectId:
        """Return the snapshot a tag points at; raises `RefNotFoundError`."""
        return history.target_of_tag(self.state.info, tag)

    async def tip_to_commit_on(self, branch: str, base: ObjectId) -> ObjectId:  # noqa: ARG002 # version 1 reports it
        """Return the tip of a branch; raises `RefNotFoundError`, kind ``branch-not-found``."""
        return history.require_branch(self.state.info, branch)

    async def require_snapshot(self, snapshot_id: ObjectId) -> SnapshotRecord:
        """Return the record of a snapshot; raises `SnapshotNotFoundError`."""
        return history.require_snapshot(self.state.info, snapshot_id)

    async def record_to_amend(self, base: ObjectId) -> SnapshotRecord:
        """Return the record of a snapshot that is to be replaced."""
        return history.require_snapshot(self.state.info, base)

    async def ancestors(self, snapshot_id: ObjectId) -> AsyncIterator[SnapshotRecord]:
        """Yield the records of a snapshot and all before it, newest first."""
        for record in self.state.info.snapshots.ancestry(snapshot_id):
            yield record

    async def ancestry(self, snapshot_id: ObjectId) -> Ancestry:
        """Return a snapshot and all before it."""
        snapshots = self.state.info.snapshots
        return Ancestry(snapshots, list(snapshots.ancestor_ids(snapshot_id)))

    # -- changing -----------------------------------------------------------------------------

    async def create_branch(self, branch: str, snapshot_id: ObjectId) -> None:
        """Make a branch at a snapshot."""
        await self._update(history.create_branch(branch, snapshot_id))

    async def delete_branch(self, branch: str) -> None:
        """Delete a branch."""
        await self._update(history.delete_branch(branch))

    async def reset_branch(
        self, branch: str, snapshot_id: ObjectId, expected: ObjectId | None
    ) -> None:
        """Point a branch at a snapshot; ``expected`` is where it must be now."""
        await self._update(history.reset_branch(branch, snapshot_id, expected))

    async def create_tag(self, tag: str, snapshot_id: ObjectId) -> None:
        """Make a tag at a snapshot."""
        await self._update(history.create_tag(tag, snapshot_id))

    async def delete_tag(self, tag: str) -> None:
        """Delete a tag; its name is used up for ever."""
        await self._update(history.delete_tag(tag))

    async def expire(
        self, older_than_us: int, *, delete_branches: bool, delete_tags: bool
    ) -> frozenset[ObjectId]:
        """Release old snapshots in one update; planned anew when somebody else was faster."""
        released: frozenset[ObjectId] = frozenset()

        def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
            nonlocal released
            after, released = expired(
                info, older_than_us, delete_branches=delete_branches, delete_tags=delete_tags
            )
            return after, ExpirationRan()

        await self._update(change)
        return released

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
        """Make a snapshot the tip of a branch that is at ``base``."""
        change = history.advance_branch(branch, snapshot, base, fence)
        await self._update(_allowed(change, moves=moves), started)

    async def amend(
        self, branch: str, snapshot: Snapshot, base: ObjectId, *, moves: bool = False
    ) -> None:
        """Put a written snapshot in the place of ``base``, the tip of a branch."""
        await self._update(_allowed(history.amend_branch(branch, snapshot, base), moves=moves))

    async def register(self, snapshot: Snapshot, base: ObjectId, *, moves: bool = False) -> None:
        """Make a written snapshot known that no branch points at."""
        await self._update(_allowed(history.register_snapshot(snapshot, base), moves=moves))

    async def _update(self, change: history.Change, started: Started | None = None) -> None:
        await update_repo(self.assets, change, known=self.state, started=started)

    # -- configuration ------------------------------------------------------------------------

    async def read_config(self) -> StoredConfig:
        """Return the stored configuration."""
        return StoredConfig(self.state.info.config)

    async def save_config(self, config: Mapping[str, Any], known: Version | None) -> Version | None:
        """Store a configuration; the last one to do so wins."""

        def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
            return replace(info, config=config), ConfigChanged()

        await self._update(change)
        return known


def _allowed(change: history.Change, *, moves: bool) -> history.Change:
    """Return the change; where it moves nodes, as one that looks whether that is allowed.

    It looks at the very state it replaces: the flag may change while a commit is under way.
    """
    if not moves:
        return change

    def checked(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        require_feature(info, Feature.MOVE_NODE)
        return change(info)

    return checked


async def read_repo_object(assets: AssetManager) -> RepoObject:
    """Read the repo object; raises `RepositoryNotFoundError` when there is none."""
    return RepoObject(assets, await read_state(assets))


async def create_repo_object(
    assets: AssetManager, snapshot: Snapshot, config: Mapping[str, Any] | None
) -> Version | None:
    """Write the first files of a repository; the configuration has no version of its own.

    Raises
    ------
    ConflictError
        Kind ``repo-info-updated``; somebody else created one at this moment.
    """
    await assets.write_snapshot(snapshot)
    log = transaction_log_of(snapshot.id, snapshot.nodes, ChangeSet())
    await assets.write_transaction_log(log)
    info = RepoInfo.initial(
        history.record_of(snapshot, None),
        RepoInitialized(),
        updated_at_us=snapshot.flushed_at_us,
        config=config,
    )
    try:
        await assets.create_repo(info)
    except LostRaceError as e:
        raise ConflictError(
            None,
            None,
            f"somebody else created a repository at {assets.storage.description} at this "
            "moment. Open it.",
            ErrorKind.REPO_INFO_UPDATED,
        ) from e
    return None
