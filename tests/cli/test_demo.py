"""``icechunk demo``: the whole main job, interrupted, killed, and damaged."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk
from icechunk.cli.exits import ExitCode
from icechunk.cli.weather import plan_archive, weather
from icechunk.ids import INITIAL_SNAPSHOT_ID, id_text

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli


def open_repo(path: Path) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))


@pytest.mark.slow
def test_the_demo_with_two_processes(cli: Cli) -> None:
    result = cli.process("demo", "--size", "4MB", "--json")
    data = result.data
    assert data["repository"] == "./icechunk-demo"
    assert len(data["commits"]) == 2
    archive = plan_archive(4_000_000)
    assert data["size_bytes"] == archive.size_bytes
    assert data["verified_values"] > archive.steps * archive.lat * archive.lon * 5
    for text in ("t2m", "Write the first period", "Append the second period", "tasks"):
        assert text in result.err
    assert str(cli.directory) not in result.err
    repo = open_repo(cli.directory / "icechunk-demo")
    history = [info.id for info in repo.ancestry(branch="main")]
    assert history[:2] == [c["id"] for c in reversed(data["commits"])]
    stored = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
    xr.testing.assert_identical(stored.load(), weather(archive, 0, archive.steps).load())


def test_the_demo_in_this_process(cli: Cli) -> None:
    result = cli("demo", "here", "--size", "1MB", "--workers", "0")
    assert "read back and equal" in result.err
    assert "icechunk tree here" in result.err
    again = cli("demo", "here", "--size", "1MB", "--workers", "0", code=4)
    assert "there is a repository at here already" in again.err
    assert "icechunk log here" in again.err
    assert len(cli("log", "here", "--json").data) == 3


def test_the_demo_in_memory(cli: Cli) -> None:
    cli("demo", "memory://demo", "--size", "1MB", "--workers", "0")
    assert "one process" in cli("demo", "memory://other", "--size", "1MB", code=2).err


def test_places_that_are_taken(cli: Cli) -> None:
    (cli.directory / "file").write_text("x")
    assert "is a file" in cli("demo", "file", code=4).err
    (cli.directory / "full").mkdir()
    (cli.directory / "full" / "x").write_text("x")
    assert "something else in it" in cli("demo", "full", code=4).err
    assert [p.name for p in (cli.directory / "full").iterdir()] == ["x"]
    assert "no size" in cli("demo", "new", "--size", "much", code=2).err


def test_damage_is_found(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value changed between writing and checking ends with its own exit code."""
    from icechunk.cli import demo_job

    verify = demo_job._verify

    def damage_and_verify(narrator, client, repo, archive):  # type: ignore[no-untyped-def]
        session = repo.writable_session("main")
        array = zarr.open_array(session.store, path="v10", mode="r+")
        array[1, 2, 3] = np.float32(1e9)
        session.commit("damage")
        return verify(narrator, client, repo, archive)

    monkeypatch.setattr(demo_job, "_verify", damage_and_verify)
    result = cli("demo", "here", "--size", "1MB", "--workers", "0", code=ExitCode.MISMATCH)
    assert "read back differently: v10" in result.err


def wait_until_chunks(path: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the demo is in the middle of writing its first period."""
    for _ in range(1200):
        chunks = path / "chunks"
        if chunks.is_dir() and sum(1 for _ in chunks.iterdir()) >= 2:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("the demo wrote nothing")


def stopped(process: subprocess.Popen[str], sent: signal.Signals) -> tuple[str, str]:
    """Send a signal, again if nothing comes of it: Python loses one that falls into a finalizer."""
    for _ in range(6):
        process.send_signal(sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)
    pytest.fail("it does not stop")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_of_writing(cli: Cli, sent: signal.Signals) -> None:
    path = cli.directory / "stopped"
    process = subprocess.Popen(
        cli.command("demo", path.name, "--size", "1GB"),
        cwd=cli.directory,
        env=cli.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until_chunks(path, process)
        out, err = stopped(process, sent)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    initial = id_text(INITIAL_SNAPSHOT_ID)
    if sent is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == ExitCode.INTERRUPTED
        assert out == ""
        assert "interrupted. Nothing was committed to stopped" in err
        assert "Traceback" not in err
    repo = open_repo(path)
    assert repo.lookup_branch("main") == initial
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="after", shape=(2,), chunks=(1,), dtype="i4")[:] = 7
    session.commit("life goes on")
    array = zarr.open_array(open_repo(path).readonly_session("main").store, path="after", mode="r")
    assert np.array_equal(array[:], [7, 7])
