"""Collections in processes of their own, killed at any moment, beside processes that write."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import zarr

import icechunk as ic
from tests.upkeep.test_gc import check, keys

PROGRAM = Path(__file__).with_name("collected_beside.py")
BRANCHES = ["one", "two"]
COMMITS = 8
A_DAY = 86_400


def with_garbage(path: Path) -> ic.Repository:
    """Return a repository with a branch for each writer, and a lot that nobody needs."""
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=0)
    repo = ic.Repository.create(ic.local_filesystem_storage(str(path)), config)
    repo.save_config()
    with repo.transaction("main", message="arrays") as store:
        for name in (*BRANCHES, "old"):
            array = zarr.create_array(store, name=name, shape=(8,), chunks=(2,), dtype="i8")
            array[:] = 1
    start = repo.lookup_branch("main")
    for branch in BRANCHES:
        repo.create_branch(branch, start)
    for number in range(12):
        repo.create_branch("gone", start)
        for again in range(2):
            session = repo.writable_session("gone")
            zarr.open_array(session.store, path="old", mode="r+")[:] = 10 * number + again + 1
            session.commit("left behind")
        repo.delete_branch("gone")
    yesterday = time.time() - A_DAY
    for file in path.rglob("*"):
        if file.is_file():
            os.utime(file, (yesterday, yesterday))
    return repo


def start(*arguments: object) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROGRAM.parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.slow
def test_killed_collections_beside_writers_lose_nothing_and_finish(tmp_path: Path) -> None:
    path = tmp_path / "repo"
    repo = with_garbage(path)
    storage = ic.local_filesystem_storage(str(path))
    before = len(keys(storage, "chunks/"))
    writers = [start("write", path, branch, COMMITS) for branch in BRANCHES]
    rng = random.Random(4)
    kills = 0
    while any(writer.poll() is None for writer in writers):
        collector = start("collect", path)
        time.sleep(rng.uniform(0, 0.3))
        collector.send_signal(signal.SIGKILL)
        collector.wait(20)
        assert collector.stdout is not None
        collector.stdout.close()
        kills += 1
        check(storage)  # whole, with whatever is deleted so far
    for writer in writers:
        assert writer.stdout is not None
        lines = writer.stdout.read().split()
        writer.stdout.close()
        assert writer.wait(20) == 0
        assert lines == [str(number) for number in range(1, COMMITS + 1)]
    assert kills >= 1
    # One that is let finish deletes what the killed ones left, and nothing that is young.
    repo.garbage_collect(datetime.now(UTC) - timedelta(hours=1))
    assert repo.garbage_collect(datetime.now(UTC) - timedelta(hours=1)).chunks_deleted == 0
    left_behind = 12 * 2  # the small chunks of a commit share a file
    written = 2 * COMMITS
    assert len(keys(storage, "chunks/")) == before - left_behind + written
    check(storage)
    for branch in BRANCHES:
        array = zarr.open_array(repo.readonly_session(branch).store, path=branch, mode="r")
        assert np.asarray(array[:]).tolist() == (np.arange(8) + 100 * COMMITS).tolist()


def test_forks_in_flight_keep_their_chunks(tmp_path: Path) -> None:
    """What forks wrote is in no snapshot yet; it is younger than the cut-off."""
    path = tmp_path / "repo"
    repo = with_garbage(path)
    session = repo.writable_session("one")
    forks = [session.fork(), session.fork()]
    for fork, part in zip(forks, (slice(0, 4), slice(4, 8)), strict=True):
        zarr.open_array(fork.store, path="one", mode="r+")[part] = 7
    other = ic.Repository.open(ic.local_filesystem_storage(str(path)))
    summary = other.garbage_collect(datetime.now(UTC) - timedelta(hours=1))
    assert (summary.snapshots_deleted, summary.chunks_deleted) == (24, 24)
    session.merge(*forks)
    session.commit("merged")
    got = zarr.open_array(other.readonly_session("one").store, path="one", mode="r")
    assert np.asarray(got[:]).tolist() == [7] * 8
    check(ic.local_filesystem_storage(str(path)))
