"""Branches, tags and history of a lake's repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icechunk._io.loop import run
from icechunk._sync.lake_refs import RefsTwins
from icechunk.lake.history import Commit, CommitData, CommitLog, Tag
from icechunk.lake.sessions import AsyncLocalWriteSession, LocalReadSession

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from icechunk.lake.names import RepoName
    from icechunk.repository import Repository

_TAG_MESSAGE: Final = "lake_tag_message:"


class AsyncRefs:
    """The part of a repository that has branches, tags and history; coroutines."""

    _repository: Repository

    _name: RepoName
    session: Callable[[], Awaitable[AsyncLocalWriteSession | LocalReadSession]]
    checkout: Callable[..., Awaitable[str]]
    resolved: Callable[[str], Awaitable[tuple[str | None, str]]]

    async def branches(self) -> list[str]:
        """Return the names of all branches, sorted."""
        return sorted(await self._repository.list_branches_async())

    async def tags(self) -> list[str]:
        """Return the names of all tags, sorted."""
        return sorted(await self._repository.list_tags_async())

    async def new_branch(self, branch: str) -> None:
        """Make a branch at the commit the current session is on, and go on there.

        Raises
        ------
        AlreadyExistsError
            Kind ``branch-already-exists``.
        """
        session = await self.session()
        await self._repository.create_branch_async(branch, session.base_commit)
        if isinstance(session, LocalReadSession):
            await self.checkout(branch, for_writing=False)
        else:
            await session.durable.attach(branch)

    async def delete_branch(self, branch: str) -> None:
        """Delete a branch; its commits stay until they are collected.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        """
        await self._repository.delete_branch_async(branch)

    async def tag(
        self, tag_name: str, commit_id: str | None = None, *, message: str | None = None
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
        if commit_id is None:
            commit = (await self.session()).base_commit
        else:
            _, commit = await self.resolved(commit_id)
        await self._repository.create_tag_async(tag_name, commit)
        if message is not None:
            # A key of its own, so that tags made at the same time keep their messages.
            await self._repository.update_metadata_async({_TAG_MESSAGE + tag_name: message})
        return Tag(name=tag_name, commit_id=commit, message=message)

    async def delete_tag(self, tag_name: str) -> None:
        """Delete a tag; its name can never be used again.

        Raises
        ------
        RefNotFoundError
            Kind ``ref-not-found``.
        """
        await self._repository.delete_tag_async(tag_name)

    async def commit_log(self) -> CommitLog:
        """Return the commit the current session is on and all before it, newest first."""
        base = (await self.session()).base_commit
        history = await self._repository.ancestry_async(snapshot_id=base)
        return CommitLog(str(self._name), [Commit.of(snapshot) for snapshot in history])

    async def commit_data(self, refresh: bool = False) -> CommitData:
        """Return the current session's history, and where branches and tags point.

        Parameters
        ----------
        refresh : bool
            First see what others who joined the session did, and where it was moved to.
        """
        session = await self.session()
        if refresh and isinstance(session, AsyncLocalWriteSession):
            await session.refresh()
        repository = self._repository
        branches = {
            name: await repository.lookup_branch_async(name) for name in await self.branches()
        }
        tags = {name: await repository.lookup_tag_async(name) for name in await self.tags()}
        return CommitData(commits=await self.commit_log(), branches=branches, tags=tags)


class Refs(RefsTwins):
    """The part of a repository that has branches, tags and history, blocking."""

    _async: AsyncRefs

    @property
    def branches(self) -> list[str]:
        """The names of all branches, sorted."""
        return run(self._async.branches())

    @property
    def tags(self) -> list[str]:
        """The names of all tags, sorted."""
        return run(self._async.tags())

    @property
    def commit_log(self) -> CommitLog:
        """The commit the current session is on and all before it, newest first."""
        return run(self._async.commit_log())
