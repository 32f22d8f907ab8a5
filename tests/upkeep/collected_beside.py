"""What the processes of the tests do: collect garbage again and again, or write meanwhile.

Run as ``python collected_beside.py collect PATH`` or ``... write PATH BRANCH COMMITS``; prints a
line when it is ready and after each step.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import zarr

import icechunk as ic


def collect(path: str) -> None:
    """Collect what is older than an hour, until killed."""
    repo = ic.Repository.open(ic.local_filesystem_storage(path))
    print("ready", flush=True)
    while True:
        repo.garbage_collect(datetime.now(UTC) - timedelta(hours=1))
        print("collected", flush=True)


def write(path: str, branch: str, commits: str) -> None:
    """Write through forks, commit or amend, and check what is there each time."""
    repo = ic.Repository.open(ic.local_filesystem_storage(path))
    print("ready", flush=True)
    for number in range(1, int(commits) + 1):
        session = repo.writable_session(branch)
        values = np.arange(8) + 100 * number
        forks: list[Any] = [session.fork(), session.fork()]
        for fork, part in zip(forks, (slice(0, 4), slice(4, 8)), strict=True):
            zarr.open_array(fork.store, path=branch, mode="r+")[part] = values[part]
        session.merge(*forks)
        (session.commit if number % 3 else session.amend)(f"{branch} {number}")
        got = zarr.open_array(repo.readonly_session(branch).store, path=branch, mode="r")
        assert np.asarray(got[:]).tolist() == values.tolist()
        print(number, flush=True)


if __name__ == "__main__":
    {"collect": collect, "write": write}[sys.argv[1]](*sys.argv[2:])
