"""What workers of a cluster are spared: clients, credential calls, memory; and what they leave."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster

import icechunk as ic
import icechunk.xarray
from icechunk._io.clients import ClientPool
from icechunk.storage._obstore_clients import OpenStores
from tests.s3_server import BUCKET, KEY, SECRET, S3Server

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture(scope="module")
def server():
    with S3Server.running() as server:
        yield server


def open_clients():
    """Return how many clients of storage this process has, of whichever library."""
    found = gc.get_objects()
    pooled = sum(len(pool._entries) for pool in found if isinstance(pool, ClientPool))
    return pooled + sum(isinstance(client, OpenStores) for client in found)


def credentials(folder):
    with Path(folder, str(os.getpid())).open("a") as file:
        file.write("called\n")
    return ic.S3StaticCredentials(
        access_key_id=KEY,
        secret_access_key=SECRET,
        expires_after=datetime.now(UTC) + timedelta(hours=1),
    )


def calls_by_process(folder):
    return {int(path.name): len(path.read_text().split()) for path in folder.iterdir()}


def test_one_client_and_one_call_for_credentials_per_process(client, server, tmp_path):
    storage = ic.s3_storage(
        bucket=BUCKET,
        prefix="manners",
        region="us-east-1",
        endpoint_url=server.url,
        allow_http=True,
        force_path_style=True,
        get_credentials=partial(credentials, str(tmp_path)),
    )
    repo = ic.Repository.create(storage)
    data = da.random.default_rng(0).random((60, 100), chunks=(1, 100))
    ds = xr.Dataset(dict.fromkeys(("t", "p"), (("time", "x"), data)))
    for number in range(2):
        session = repo.writable_session("main")
        ds.to_icechunk(session, mode="w" if number else None)
        session.commit(f"write {number}")
    workers = set(client.run(os.getpid).values())
    assert set(client.run(open_clients).values()) == {1}
    # 240 tasks, two threads in each worker, two writes: still one call in each process.
    assert calls_by_process(tmp_path) == dict.fromkeys({*workers, os.getpid()}, 1)
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=None)
    np.testing.assert_array_equal(found.t.values, data.compute(scheduler="synchronous"))


def test_chunks_of_one_task_are_written_together(client, server):
    repo = ic.Repository.create(ic.s3_storage(**server.options(prefix="together")))
    session = repo.writable_session("main")
    ds = xr.Dataset({"t": ("x", da.random.default_rng(0).random(1600, chunks=1600))})
    server.fault("sleep", "PUT", "/together/chunks/", count=8)
    began = time.monotonic()
    ds.to_icechunk(session, encoding={"t": {"chunks": (200,)}})
    # Eight chunks of one task, each of which takes a second.
    assert time.monotonic() - began < 4
    server.no_faults()
    session.commit("written")


def test_failed_tasks_leave_no_reachable_trace(client, repo):
    def explode_late(block, block_info=None):
        if block_info[0]["chunk-location"][0] == 7:
            time.sleep(0.2)
            raise OSError("disk on fire")
        return block

    session = repo.writable_session("main")
    good = xr.Dataset(
        {"t": (("y", "x"), da.random.default_rng(0).random((8, 100), chunks=(1, 100)))}
    )
    data = good.t.data.map_blocks(explode_late, dtype="f8", meta=np.empty((0, 0)))
    with pytest.raises(OSError, match="disk on fire"):
        good.assign(t=(("y", "x"), data)).to_icechunk(session)
    assert not session.has_uncommitted_changes
    orphans = len(list(repo.storage.list_objects(prefix="chunks/")))
    assert orphans > 0
    good.to_icechunk(session)
    session.commit("the second time")
    everything = datetime.now(UTC) + timedelta(seconds=5)
    summary = repo.garbage_collect(everything)
    assert summary.chunks_deleted == orphans
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=None)
    xr.testing.assert_equal(found.compute(), good.compute(scheduler="synchronous"))


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def test_memory_stays_at_the_blocks_in_flight(repo):
    """One worker with little memory writes ten times as much as it has."""
    block_mib, blocks, limit_mib = 8, 375, 300
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(
            n_workers=1,
            threads_per_worker=2,
            processes=True,
            memory_limit=limit_mib * 2**20,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        items = block_mib * 2**20 // 8
        # Compresses to nothing, so that the test is about memory and not about the disk; copied,
        # because dask's own ones take no memory.
        ones = da.ones((blocks, items), chunks=(1, items)).map_blocks(np.array)
        ds = xr.Dataset({"t": (("time", "x"), ones)})
        first = ds.isel(time=slice(0, 4))
        session = repo.writable_session("main")
        first.to_icechunk(session, group="first")  # everything is loaded after that
        (before,) = client.run(peak_mib).values()
        report = ds.to_icechunk(session, group="all")
        (after,) = client.run(peak_mib).values()
    assert report.size_bytes >= 10 * limit_mib * 2**20
    assert report.chunks == blocks
    # Two threads, each with a block, a copy of it, the encoded chunk, and the next one on its way.
    assert after - before < 12 * block_mib, (before, after)


def fill(location, start, stop):
    """Write a region of the template and commit it, in a process without dask's help."""
    repo = ic.Repository.open(ic.local_filesystem_storage(location))
    session = repo.writable_session("main")
    part = template_values().isel(time=slice(start, stop))
    with dask.config.set(scheduler="synchronous"):
        part.to_icechunk(session, region={"time": slice(start, stop)})
    return session.commit(f"{start} to {stop}", rebase_with=ic.ConflictDetector(), rebase_tries=100)


def template_values():
    values = np.random.default_rng(3).random((24, 50))
    return xr.Dataset({"t": (("time", "x"), da.from_array(values, chunks=(2, 50)))})


def test_processes_fill_a_template_by_regions(repo, tmp_path):
    session = repo.writable_session("main")
    template_values().to_icechunk(session, compute=False)
    session.commit("template")
    tasks = [(str(tmp_path / "repo"), start, start + 4) for start in range(0, 24, 4)]
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        snapshots = pool.starmap(fill, tasks)
    history = [commit.id for commit in repo.ancestry(branch="main")]
    assert len(set(snapshots)) == 6
    assert set(snapshots) <= set(history)
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=None)
    np.testing.assert_array_equal(found.t.values, template_values().t.values)
    assert zarr.open_array(repo.readonly_session("main").store, path="t").nchunks_initialized == 12


def test_workers_fill_a_template_and_commit_by_themselves(client, repo, tmp_path):
    session = repo.writable_session("main")
    template_values().to_icechunk(session, compute=False)
    session.commit("template")
    futures = [
        client.submit(fill, str(tmp_path / "repo"), start, start + 4, pure=False)
        for start in range(0, 24, 4)
    ]
    assert len(set(client.gather(futures))) == 6
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False, chunks=None)
    np.testing.assert_array_equal(found.t.values, template_values().t.values)
