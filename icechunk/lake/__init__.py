"""The lake: many repositories under one root, and sessions that several processes share.

Examples
--------
>>> from icechunk.lake import Client
>>> repo = Client("memory://first-lake").create_repo("weather/forecast")
>>> repo.branches
['main']
"""

from icechunk.lake.catalog import RepoEntry
from icechunk.lake.client import AsyncClient, Client
from icechunk.lake.history import Commit, CommitData, CommitLog, Tag
from icechunk.lake.names import Author
from icechunk.lake.record import SessionInfo
from icechunk.lake.repo import AsyncRepo, Repo
from icechunk.lake.sessions import (
    AsyncLocalWriteSession,
    LocalReadSession,
    LocalWriteSession,
    SessionStatus,
)

__all__ = [
    "AsyncClient",
    "AsyncLocalWriteSession",
    "AsyncRepo",
    "Author",
    "Client",
    "Commit",
    "CommitData",
    "CommitLog",
    "LocalReadSession",
    "LocalWriteSession",
    "Repo",
    "RepoEntry",
    "SessionInfo",
    "SessionStatus",
    "Tag",
]
