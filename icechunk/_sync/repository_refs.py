"""Blocking twins of `icechunk.repository_refs`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations


class RepositoryRefsTwins:
    """Blocking methods of `icechunk.repository_refs.RepositoryRefs`."""

    __slots__ = ()

    def list_branches(self) -> set[str]:
        """Return the names of all branches.

        Examples
        --------
        >>> repo.list_branches()
        {'main'}
        """
        return self._run(self.list_branches_async())

    def lookup_branch(self, branch: str) -> str:
        """Return the snapshot id a branch points at; raises `RefNotFoundError`.

        Examples
        --------
        >>> repo.lookup_branch("main") == repo.ancestry(branch="main")[0].id
        True
        """
        return self._run(self.lookup_branch_async(branch))

    def create_branch(self, branch: str, snapshot_id: str) -> None:
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
        return self._run(self.create_branch_async(branch, snapshot_id))

    def delete_branch(self, branch: str) -> None:
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
        return self._run(self.delete_branch_async(branch))

    def reset_branch(
        self,
        branch: str,
        snapshot_id: str,
        *,
        from_snapshot_id: str | None = None,
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
        return self._run(
            self.reset_branch_async(branch, snapshot_id, from_snapshot_id=from_snapshot_id)
        )

    def list_tags(self) -> set[str]:
        """Return the names of all tags.

        Examples
        --------
        >>> repo.list_tags()
        set()
        """
        return self._run(self.list_tags_async())

    def lookup_tag(self, tag: str) -> str:
        """Return the snapshot id a tag points at; raises `RefNotFoundError`.

        Examples
        --------
        >>> repo.create_tag("v1", repo.lookup_branch("main"))
        >>> repo.lookup_tag("v1") == repo.lookup_branch("main")
        True
        """
        return self._run(self.lookup_tag_async(tag))

    def create_tag(self, tag: str, snapshot_id: str) -> None:
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
        return self._run(self.create_tag_async(tag, snapshot_id))

    def delete_tag(self, tag: str) -> None:
        """Delete a tag; its name can never be used again; raises `RefNotFoundError`.

        Examples
        --------
        >>> repo.create_tag("v1", repo.lookup_branch("main"))
        >>> repo.delete_tag("v1")
        """
        return self._run(self.delete_tag_async(tag))
