"""The history of a repository as the lake shows it: commits with their authors, and tags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, overload

from icechunk._tables import TextTable
from icechunk._units import time_text
from icechunk.lake.names import Author

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from icechunk.snapshots import SnapshotInfo

AUTHOR_NAME_KEY: Final = "author_name"
AUTHOR_EMAIL_KEY: Final = "author_email"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """One commit.

    Parameters
    ----------
    id : str
        Snapshot id.
    parent_id : str or None
        Of the commit before; None for the first.
    message : str
        What was done.
    author : Author
        Who did it, where that is known.
    commit_time : datetime
        When, UTC.
    metadata : dict
        All commit metadata.
    """

    id: str
    parent_id: str | None
    message: str
    author: Author
    commit_time: datetime
    metadata: Mapping[str, Any]

    @classmethod
    def of(cls, snapshot: SnapshotInfo) -> Self:
        """Return the commit that a snapshot is."""
        metadata = snapshot.metadata
        name, email = metadata.get(AUTHOR_NAME_KEY), metadata.get(AUTHOR_EMAIL_KEY)
        return cls(
            id=snapshot.id,
            parent_id=snapshot.parent_id,
            message=snapshot.message,
            author=Author(
                name=None if name is None else str(name),
                email=None if email is None else str(email),
            ),
            commit_time=snapshot.written_at,
            metadata=metadata,
        )


class CommitLog(Sequence[Commit]):
    """Commits, newest first.

    Parameters
    ----------
    repo_name : str
        Name of the repository.
    commits : sequence of Commit
        Newest first.
    """

    def __init__(self, repo_name: str, commits: Sequence[Commit]) -> None:
        self.repo_name = repo_name
        self._commits = tuple(commits)

    def __len__(self) -> int:
        return len(self._commits)

    @overload
    def __getitem__(self, index: int) -> Commit: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Commit]: ...

    def __getitem__(self, index: int | slice) -> Commit | Sequence[Commit]:
        return self._commits[index]

    def __iter__(self) -> Iterator[Commit]:
        return iter(self._commits)

    def _table(self) -> TextTable:
        return TextTable(
            title=f"commits of {self.repo_name}",
            columns=("commit", "written", "author", "message"),
            rows=[
                (c.id, time_text(c.commit_time), str(c.author), c.message.partition("\n")[0])
                for c in self._commits
            ],
            left=4,
        )

    def __repr__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitData:
    """What a session stands on: its history, and where branches and tags point.

    Parameters
    ----------
    commits : CommitLog
        The session's base and all before it, newest first.
    branches, tags : dict of str to str
        Name to commit id.
    """

    commits: CommitLog
    branches: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """A name for a commit that never changes.

    Parameters
    ----------
    name : str
        Its name.
    commit_id : str
        The commit.
    message : str or None
        What it is for.
    """

    name: str
    commit_id: str
    message: str | None = None


def author_metadata(author: Author) -> dict[str, str]:
    """Return what a commit's metadata says of its author."""
    both = {AUTHOR_NAME_KEY: author.name, AUTHOR_EMAIL_KEY: author.email}
    return {key: value for key, value in both.items() if value is not None}
