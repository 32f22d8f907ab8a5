"""Real processes that commit to one branch at once, and that are killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

import icechunk as ic
from tests.s3_server import BUCKET, KEY, SECRET, S3Server
from tests.transactions.writer import open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITER = Path(__file__).with_name("writer.py")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with S3Server.running() as server:
        yield server


@pytest.fixture(params=["local", "s3"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "repo")
    server = request.getfixturevalue("s3_server")
    return json.dumps(
        {
            "bucket": BUCKET,
            "prefix": f"{tmp_path.name}-{random.randrange(10**9)}",
            "region": "us-east-1",
            "endpoint_url": server.url,
            "allow_http": True,
            "force_path_style": True,
            "access_key_id": KEY,
            "secret_access_key": SECRET,
        }
    )


def create(where: str, chunks: int) -> ic.Repository:
    repo = ic.Repository.create(open_storage(where))
    with repo.transaction("main", message="template") as store:
        zarr.create_array(
            store, name="a", shape=(chunks * 10,), chunks=(10,), dtype="f8", compressors=None
        )
    return repo


def start(where: str, first: int, last: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, str(WRITER), where, str(first), str(last)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str], timeout_seconds: float = 120) -> None:
    out, _ = process.communicate(timeout=timeout_seconds)
    assert process.returncode == 0, out


def values(repo: ic.Repository) -> np.ndarray:
    store = repo.readonly_session("main").store
    return np.asarray(zarr.open_array(store, path="a", mode="r")[:]).reshape(-1, 10)


def test_two_processes_that_append_different_regions_both_land(where: str) -> None:
    repo = create(where, 16)
    writers = [start(where, 0, 8), start(where, 8, 16)]
    for writer in writers:
        go(writer)
    for writer in writers:
        finish(writer)
    assert (values(repo) == np.arange(1, 17)[:, None]).all()
    history = list(repo.ancestry(branch="main"))
    assert len(history) == 18
    assert sorted(s.message for s in history[:16]) == sorted(f"chunk {i}" for i in range(16))
    times = [s.written_at for s in history]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("writers", "commits"),
    [
        pytest.param(6, 4),
        pytest.param(16, 25, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_many_processes_on_one_branch_all_land_once(where: str, writers: int, commits: int) -> None:
    """N x M commits without any coordination: none lost, none doubled, nobody gives up."""
    total = writers * commits
    repo = create(where, total)
    processes = [start(where, n * commits, (n + 1) * commits) for n in range(writers)]
    for process in processes:
        go(process)
    for process in processes:
        finish(process, 800)
    assert (values(repo) == np.arange(1, total + 1)[:, None]).all(), "none lost"
    history = list(repo.ancestry(branch="main"))[:-2]
    assert sorted(s.message for s in history) == sorted(f"chunk {i}" for i in range(total))


def test_two_that_write_the_same_chunk_one_is_told_array_and_chunk(where: str) -> None:
    repo = create(where, 4)
    first, second = repo.writable_session("main"), repo.writable_session("main")
    for session in (first, second):
        zarr.open_array(session.store, path="a", mode="r+")[20:30] = 1.0
    first.commit("first")
    with pytest.raises(ic.RebaseFailedError) as caught:
        second.commit("second", rebase_with=ic.ConflictDetector())
    assert "/a" in str(caught.value)
    assert "[2]" in str(caught.value)
    conflict = caught.value.conflicts[0]
    assert conflict.conflict_type is ic.ConflictType.ChunkDoubleUpdate
    assert conflict.conflicted_chunks == [[2]]
    assert second.has_uncommitted_changes
    second.commit("again", rebase_with=ic.BasicConflictSolver())
    assert [s.message for s in repo.ancestry(branch="main")][:2] == ["again", "first"]


def test_without_a_solver_a_moved_branch_is_a_conflict_with_both_ids(where: str) -> None:
    repo = create(where, 4)
    base = repo.lookup_branch("main")
    first, second = repo.writable_session("main"), repo.writable_session("main")
    zarr.open_array(first.store, path="a", mode="r+")[0:10] = 1.0
    zarr.open_array(second.store, path="a", mode="r+")[10:20] = 1.0
    landed = first.commit("first")
    with pytest.raises(ic.ConflictError) as caught:
        second.commit("second")
    assert (caught.value.expected_parent, caught.value.actual_parent) == (base, landed)
    assert repo.lookup_branch("main") == landed


@pytest.mark.slow
def test_a_killed_writer_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    where = str(tmp_path / "repo")
    repo = create(where, 400)
    rng = random.Random(7)
    done = 0
    for _ in range(12):
        process = start(where, done, 400)
        go(process)
        time.sleep(rng.uniform(0.02, 0.25))
        process.send_signal(signal.SIGKILL)
        out, _ = process.communicate()
        reported = [int(line) for line in out.split()]
        history = [s.message for s in repo.ancestry(branch="main")]
        landed = [int(m.removeprefix("chunk ")) for m in history if m.startswith("chunk ")][::-1]
        assert landed == list(range(len(landed)))
        # The last commit may have landed without the process living to say so.
        assert len(landed) - done in {len(reported), len(reported) + 1}
        done = len(landed)
        expected = np.where(np.arange(400) < done, np.arange(1, 401), 0)
        assert (values(ic.Repository.open(open_storage(where))) == expected[:, None]).all()
    finisher = start(where, done, min(done + 3, 400))
    go(finisher)
    finish(finisher)
    assert len(list(repo.ancestry(branch="main"))) == done + 2 + min(3, 400 - done)
