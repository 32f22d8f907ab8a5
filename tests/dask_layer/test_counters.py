"""Counting by worker, progress from a cluster, and what workers keep to themselves."""

from __future__ import annotations

import os
import signal
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

import icechunk.xarray  # noqa: F401
from icechunk.dask import WriteCounters
from icechunk.events import Advanced, Finished, Started

pytestmark = [
    pytest.mark.slow,
    # Killed workers close connections in the middle of a message.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client():
    config = {"distributed.worker.daemon": True, "distributed.scheduler.allowed-failures": 5}
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


def weather(n=24):
    data = da.random.default_rng(1).random((n, 100), chunks=(2, 100))
    return xr.Dataset({"t": (("time", "x"), data)})


def test_counts_by_worker(client, repo):
    session = repo.writable_session("main")
    encoding = {"t": {"chunks": (1, 100), "compressors": None}}
    with WriteCounters(client) as counters:
        weather().to_icechunk(session, encoding=encoding)
        counts = counters.counts()
    assert len(counts.workers) == 2
    assert (counts.total.blocks, counts.total.chunks, counts.total.retries) == (12, 24, 0)
    assert counts.total.size_bytes == counts.total.stored_bytes == 24 * 800
    assert counts.total.seconds > 0
    assert all(row.blocks > 0 for row in counts.workers)
    for text in (str(counts), counts._repr_html_()):
        assert counts.workers[0].worker in text
        assert "19.2 kB" in text
    assert counts.to_dict()["total"]["chunks"] == 24
    session.discard_changes()


def test_failures_and_retries_are_counted(client, repo, tmp_path):
    def fail_once(block, block_info=None):
        mark = tmp_path / f"tried-{block_info[0]['chunk-location'][0]}"
        if not mark.exists():
            mark.touch()
            raise OSError("try again")
        return block

    session = repo.writable_session("main")
    ds = weather()
    # Fused with the write, so that this is what fails.
    data = ds.t.data.map_blocks(fail_once, dtype="f8", meta=np.empty((0, 0)))
    with WriteCounters(client) as counters:
        ds.assign(t=(("time", "x"), data)).to_icechunk(
            session, chunkmanager_store_kwargs={"retries": 2}
        )
        total = counters.counts().total
    assert (total.blocks, total.failed, total.retries) == (12, 12, 12)
    session.discard_changes()


def test_a_worker_that_dies_leaves_its_row(client, repo, tmp_path):
    def deadly(block, block_info=None):
        time.sleep(0.02)
        mark = tmp_path / "killed"
        if block_info[0]["chunk-location"][0] == 9 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    session = repo.writable_session("main")
    ds = weather()
    data = ds.t.data.map_blocks(deadly, dtype="f8", meta=np.empty((0, 0)))
    with WriteCounters(client) as counters:
        ds.assign(t=(("time", "x"), data)).to_icechunk(session)
        counts = counters.counts()
    assert counts.total.retries >= 1
    # Blocks whose results died with the worker were written again.
    assert counts.total.blocks >= 12
    report = sum(
        edits.table().coords.shape[0] for edits in session.checkout.changes.chunks.values()
    )
    assert report == 12
    session.discard_changes()
    client.wait_for_workers(2, timeout=60)


def test_progress_from_a_cluster(client, repo):
    def slowly(block):
        time.sleep(0.05)
        return block

    session, seen = repo.writable_session("main"), []
    ds = weather()
    data = ds.t.data.map_blocks(slowly, dtype="f8", meta=np.empty((0, 0)))
    report = ds.assign(t=(("time", "x"), data)).to_icechunk(session, progress=seen.append)
    assert isinstance(seen[0], Started)
    assert seen[0].total.chunks == 12
    middle = [event.done for event in seen if isinstance(event, Advanced)]
    assert [done.size_bytes for done in middle] == sorted(done.size_bytes for done in middle)
    assert any(0 < done.chunks < 12 for done in middle)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].done == report.amount
    assert len({event.job_id for event in seen}) == 1
    session.discard_changes()
