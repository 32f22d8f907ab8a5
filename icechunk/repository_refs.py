"""Branches and tags of a repository.

Source: Icechunk specification, sections "Contents" (of the repo object) and "Refs over history".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import may_run_now
from icechunk._sync.repository_refs import RepositoryRefsTwins
from icechunk.ids import id_text, parse_object_id

if TYPE_CHECKING:
    from icechunk.repository_state import RepositoryState


class RepositoryRefs(RepositoryRefsTwins):
    """The part of a repository that names versions."""

    _state: RepositoryState

    @may_run_now
    async def list_branches_async(self) -> set[str]:
        """Return the names of all branches.

        Examples
        --------
        >>> repo.list_branches()
        {'main'}
        """
        return await (await self._state.refs()).branches()

    @may_run_now
    async def lookup_branch_async(self, branch: str) -> str:
        """Return the snapshot id a branch points at; raises `RefNotFoundError`.

        Examples
        --------
        >>> repo.lookup_branch("main") == repo.ancestry(branch="main")[0].id
        True
        """
        return id_text(await (await self._state.refs()).tip_of_branch(branch))

    @may_run_now
    async def create_branch_async(self, branch: str, snapshot_id: str) -> None:
        """Make a branch at a snapshot.

        Raises
        ------
        AlreadyExistsError
            Kind ``branch-already-exists``. In version 1 of the format that is a ConflictError, kind
            ``branch-update-conflict``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``.

        Examples
        --------
        >>> repo.create_branch("dev", repo.lookup_branch("main"))
        >>> sorted(repo.list_branches())
        ['dev', 'main']
        """
        target = parse_object_id(snapshot_id)
        await (await self._state.refs()).create_branch(branch, target)

    @may_run_now
    async def delete_branch_async(self, branch: str) -> None:
        """Delete a branch; its snapshots stay until they are collected.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        SessionStateError
            Kind ``cannot-delete-main``.

        Examples
        --------
        >>> repo.create_branch("dev", repo.lookup_branch("main"))
        >>> repo.delete_branch("dev")
        """
        await (await self._state.refs()).delete_branch(branch)

    @may_run_now
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

        Examples
        --------
        >>> newest, before = repo.ancestry(branch="main")
        >>> repo.reset_branch("main", before.id, from_snapshot_id=newest.id)
        """
        expected = None if from_snapshot_id is None else parse_object_id(from_snapshot_id)
        target = parse_object_id(snapshot_id)
        await (await self._state.refs()).reset_branch(branch, target, expected)

    @may_run_now
    async def list_tags_async(self) -> set[str]:
        """Return the names of all tags.

        Examples
        --------
        >>> repo.list_tags()
        set()
        """
        return await (await self._state.refs()).tags()

    @may_run_now
    async def lookup_tag_async(self, tag: str) -> str:
        """Return the snapshot id a tag points at; raises `RefNotFoundError`.

        Examples
        --------
        >>> repo.create_tag("v1", repo.lookup_branch("main"))
        >>> repo.lookup_tag("v1") == repo.lookup_branch("main")
        True
        """
        return id_text(await (await self._state.refs()).target_of_tag(tag))

    @may_run_now
    async def create_tag_async(self, tag: str, snapshot_id: str) -> None:
        """Make a tag at a snapshot; it can never be moved.

        Raises
        ------
        AlreadyExistsError
            Kind ``tag-already-exists``, or ``tag-previously-deleted``.
        SnapshotNotFoundError
            Kind ``snapshot-not-found``.

        Examples
        --------
        >>> repo.create_tag("v1", repo.lookup_branch("main"))
        >>> repo.readonly_session(tag="v1").read_only
        True
        """
        target = parse_object_id(snapshot_id)
        await (await self._state.refs()).create_tag(tag, target)

    @may_run_now
    async def delete_tag_async(self, tag: str) -> None:
        """Delete a tag; its name can never be used again; raises `RefNotFoundError`.

        Examples
        --------
        >>> repo.create_tag("v1", repo.lookup_branch("main"))
        >>> repo.delete_tag("v1")
        """
        await (await self._state.refs()).delete_tag(tag)
