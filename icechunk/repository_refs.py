"""Branches and tags of a repository.

Source: Icechunk specification, sections "Contents" (of the repo object) and "Refs over history".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._sync.repository_refs import RepositoryRefsTwins
from icechunk.assets.refs import update_repo
from icechunk.core import history
from icechunk.ids import id_text, parse_object_id

if TYPE_CHECKING:
    from icechunk.repository_state import RepositoryState


class RepositoryRefs(RepositoryRefsTwins):
    """The part of a repository that names versions."""

    _state: RepositoryState

    async def list_branches_async(self) -> set[str]:
        """Return the names of all branches."""
        return set((await self._state.info()).branches)

    async def lookup_branch_async(self, branch: str) -> str:
        """Return the snapshot id a branch points at; raises `RefNotFoundError`."""
        return id_text(history.tip_of_branch(await self._state.info(), branch))

    async def create_branch_async(self, branch: str, snapshot_id: str) -> None:
        """Make a branch at a snapshot.

        Raises
        ------
        AlreadyExistsError
            Kind ``branch-already-exists``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``.
        """
        await self._update(history.create_branch(branch, parse_object_id(snapshot_id)))

    async def delete_branch_async(self, branch: str) -> None:
        """Delete a branch; its snapshots stay until they are collected.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        SessionStateError
            Kind ``cannot-delete-main``.
        """
        await self._update(history.delete_branch(branch))

    async def reset_branch_async(
        self, branch: str, snapshot_id: str, *, from_snapshot_id: str | None = None
    ) -> None:
        """Point a branch at another snapshot.

        Parameters
        ----------
        branch : str
            Name.
        snapshot_id : str
            Where it shall point.
        from_snapshot_id : str, optional
            Where it must point now.

        Raises
        ------
        RefNotFoundError, SnapshotNotFoundError
            There is no such branch or snapshot.
        ConflictError
            Kind ``branch-update-conflict``; it is not at ``from_snapshot_id``.
        """
        expected = None if from_snapshot_id is None else parse_object_id(from_snapshot_id)
        target = parse_object_id(snapshot_id)
        await self._update(history.reset_branch(branch, target, expected))

    async def list_tags_async(self) -> set[str]:
        """Return the names of all tags."""
        return set((await self._state.info()).tags)

    async def lookup_tag_async(self, tag: str) -> str:
        """Return the snapshot id a tag points at; raises `RefNotFoundError`."""
        return id_text(history.target_of_tag(await self._state.info(), tag))

    async def create_tag_async(self, tag: str, snapshot_id: str) -> None:
        """Make a tag at a snapshot; it can never be moved.

        Raises
        ------
        AlreadyExistsError
            Kind ``tag-already-exists``, or ``tag-previously-deleted``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``.
        """
        await self._update(history.create_tag(tag, parse_object_id(snapshot_id)))

    async def delete_tag_async(self, tag: str) -> None:
        """Delete a tag; its name can never be used again; raises `RefNotFoundError`."""
        await self._update(history.delete_tag(tag))

    async def _update(self, change: history.Change) -> None:
        await update_repo(self._state.assets, change)
