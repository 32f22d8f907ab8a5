"""Jobs on a cluster of real processes: a worker killed, the scheduler killed, and resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from icechunk.dask import Ingest, show_job
from icechunk.dask.ingest.jobs import METADATA_KEY
from icechunk.dask.ingest.units import parse_ranges
from icechunk.events import UnitFailed, UnitFinished

if TYPE_CHECKING:
    from collections.abc import Iterator

    import icechunk as ic

pytestmark = [
    pytest.mark.slow,
    # What is killed closes connections in the middle of a message.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).resolve().parents[2]
UNITS, BLOCKS = 8, 4


def source() -> xr.Dataset:
    """Return blocks that take long enough to be interrupted."""
    data = da.from_array(np.arange(UNITS * BLOCKS * 10.0).reshape(-1, 10), chunks=(1, 10))
    return xr.Dataset({"t": (("time", "x"), data.map_blocks(slowly, dtype="f8"))})


def slowly(block: np.ndarray) -> np.ndarray:
    time.sleep(0.1)
    return block


def check(repo: ic.Repository) -> None:
    """Every value is there, and every unit in exactly one commit."""
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
    expected = np.arange(UNITS * BLOCKS * 10.0).reshape(-1, 10)
    np.testing.assert_array_equal(found["t"].compute(scheduler="synchronous"), expected)
    held = [info.metadata.get(METADATA_KEY, {"units": ""}) for info in repo.ancestry(branch="main")]
    units = sorted(unit for named in held for unit in parse_ranges(named["units"]))
    assert units == list(range(UNITS))


OPTIONS = {"unit_dim": "time", "unit_size": BLOCKS, "commit_every": 3, "job_id": "job"}


def test_a_worker_is_killed_while_it_writes(repo: ic.Repository) -> None:
    config = {"distributed.worker.daemon": True, "distributed.scheduler.allowed-failures": 5}
    killed: list[int] = []
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):

        def kill_one(event: object) -> None:
            if isinstance(event, UnitFinished) and not killed:
                killed.append(next(iter(client.run(os.getpid).values())))
                os.kill(killed[0], signal.SIGKILL)

        summary = Ingest(
            repo, "main", source(), progress=kill_one, units_at_once=2, read_back="all", **OPTIONS
        ).run()
    assert killed
    assert summary.proof.present == summary.proof.blocks_read_back == UNITS * BLOCKS
    check(repo)


@contextlib.contextmanager
def scheduler_and_workers(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a scheduler and two workers, each a process of its own."""
    file = str(directory / "scheduler.json")
    env = os.environ | {"PYTHONPATH": str(ROOT)}

    def start(module: str, *args: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", "--scheduler-file", file]
        return subprocess.Popen(
            [*command, *args], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    scheduler = start("dask_scheduler", "--port", "0", "--no-dashboard")
    worker = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--death-timeout", "20")
    workers = [start("dask_worker", *worker) for _ in range(2)]
    try:
        yield scheduler, file
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait(20)


def test_the_scheduler_is_killed_and_the_job_resumed(repo: ic.Repository, tmp_path: Path) -> None:
    timeouts = {"distributed.comm.timeouts.connect": "3s"}
    failed: list[UnitFailed] = []
    with (
        dask.config.set(timeouts),
        scheduler_and_workers(tmp_path) as (scheduler, file),
        Client(scheduler_file=file, timeout=60) as client,
    ):
        client.wait_for_workers(2, timeout=60)

        def kill_it(event: object) -> None:
            if isinstance(event, UnitFinished) and event.unit_id == "unit-000003":
                scheduler.kill()
            if isinstance(event, UnitFailed):
                failed.append(event)

        with pytest.raises(BaseException, match=r".*") as caught:
            Ingest(
                repo, "main", source(), progress=kill_it, units_at_once=1, retries=0, **OPTIONS
            ).run()
    assert any("goes on" in note for note in caught.value.__notes__)
    job = show_job(repo, "job")
    assert (job.state, job.kept, job.committed) == ("failed", 4, 3)
    Ingest.resume(repo, "job", source(), compute_kwargs={"scheduler": "threads"})
    check(repo)
