"""A program that collects garbage of a repository, or writes to it, until it is stopped.

Run by `test_processes`: ``python collected_beside.py collect|write|forks PATH ...``. Its standard
output says how far it is, line by line.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import zarr

import icechunk as ic
from icechunk.ops import sweep  # noqa: F401  (loaded before the first deletion)


def say(*what: object) -> None:
    print(*what, flush=True)


def collect(path: str, seconds: str) -> None:
    """Collect again and again what is older than so many seconds."""
    repo = ic.Repository.open(ic.local_filesystem_storage(path))
    say("ready")
    while True:
        cutoff = datetime.now(UTC) - timedelta(seconds=float(seconds))
        summary = repo.garbage_collect(cutoff)
        say("collected", summary.chunks_deleted, summary.snapshots_deleted)


def write(path: str, branch: str, commits: str) -> None:
    """Commit, amend, leave snapshots behind, and check what was written each time."""
    repo = ic.Repository.open(ic.local_filesystem_storage(path))
    say("ready")
    for number in range(1, int(commits) + 1):
        session = repo.writable_session(branch)
        values = np.arange(8) + 100 * number
        forks: list[Any] = [session.fork(), session.fork()]
        for fork, part in zip(forks, (slice(0, 4), slice(4, 8)), strict=True):
            zarr.open_array(fork.store, path=branch, mode="r+")[part] = values[part]
        session.merge(*forks)
        if number % 3:
            session.commit(f"{number}", rebase_with=ic.ConflictDetector())
        else:
            session.amend(f"{number}", rebase_with=ic.ConflictDetector()) if False else (
                session.amend(f"{number}")
            )
        got = zarr.open_array(repo.readonly_session(branch).store, path=branch, mode="r")[:]
        assert got.tolist() == values.tolist(), (got, values)
        say("committed", number)
    say("done")


if __name__ == "__main__":
    {"collect": collect, "write": write}[sys.argv[1]](*sys.argv[2:])
