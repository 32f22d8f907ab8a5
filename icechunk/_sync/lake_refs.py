"""Blocking twins of `icechunk.lake.refs`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from icechunk.lake.history import CommitData, Tag


class RefsTwins:
    """Blocking methods of `icechunk.lake.refs.Refs`."""

    __slots__ = ()

    def new_branch(self, branch: str) -> None:
        """Make a branch at the commit the current session is on, and go on there.

        Raises
        ------
        AlreadyExistsError
            Kind ``branch-already-exists``.
        """
        return run(self._async.new_branch(branch))

    def delete_branch(self, branch: str) -> None:
        """Delete a branch; its commits stay until they are collected.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        """
        return run(self._async.delete_branch(branch))

    def tag(
        self,
        tag_name: str,
        commit_id: str | None = None,
        *,
        message: str | None = None,
    ) -> Tag:
        """Give a commit a name that never changes.

        Parameters
        ----------
        tag_name : str
            The name.
        commit_id : str, optional
            The commit, or a branch or tag that names it; the one the current session is on when
            omitted.
        message : str, optional
            What it is for; kept in the repository's metadata.

        Raises
        ------
        AlreadyExistsError
            Kind ``tag-already-exists``.
        RefNotFoundError
            No such commit.
        """
        return run(self._async.tag(tag_name, commit_id, message=message))

    def delete_tag(self, tag_name: str) -> None:
        """Delete a tag; its name can never be used again.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        """
        return run(self._async.delete_tag(tag_name))

    def commit_data(self, refresh: bool = False) -> CommitData:
        """Return the current session's history, and where branches and tags point.

        Parameters
        ----------
        refresh : bool
            First see what others who joined the session did, and where it was moved to.
        """
        return run(self._async.commit_data(refresh))
