"""Writing through a distributed cluster of real processes, some of which get killed."""

from __future__ import annotations

import os
import signal
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster, wait
from distributed.diagnostics.progressbar import TextProgressBar

import icechunk.xarray  # noqa: F401
from icechunk.dask import store_dask
from icechunk.errors import InvalidInputError

pytestmark = [
    pytest.mark.slow,
    # Killed workers close connections in the middle of a message.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    config = {
        "distributed.worker.daemon": True,
        "distributed.scheduler.allowed-failures": 5,
        "distributed.comm.retry.count": 2,
    }
    with (
        dask.config.set(config),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def weather(n=20, **kwargs):
    data = da.random.default_rng(1).random((n, 40), chunks=(1, 40), **kwargs)
    return xr.Dataset(
        {"t": (("time", "x"), data), "mask": ("x", np.arange(40.0))},
        coords={"time": np.arange(n)},
    )


def check(repo, expected):
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
    xr.testing.assert_identical(found.compute(scheduler="synchronous"), expected)


@pytest.mark.parametrize("how", ["now", "method", "function", "future", "persist"])
def test_it_is_merged_however_it_is_computed(client, repo, how):
    session = repo.writable_session("main")
    ds = weather()
    pending = ds.to_icechunk(session, compute=how == "now")
    match how:
        case "method":
            assert pending.compute().blocks == 20
        case "function":
            dask.compute({"nested": [pending]})
        case "future":
            future = client.compute(pending)
            del pending
            assert future.result().chunks == 20
        case "persist":
            assert pending.persist().compute().chunks == 20
    session.commit("written")
    check(repo, ds.compute(scheduler="synchronous"))


def test_a_cluster_in_this_process(repo):
    session = repo.writable_session("main")
    ds = weather()
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as inside,
        Client(inside),
    ):
        ds.to_icechunk(session)
        pending = ds.to_icechunk(session, group="again", compute=False)
        dask.compute(pending)
        session.commit("written")
        check(repo, ds.compute(scheduler="synchronous"))


def test_appends_and_store_dask(client, repo):
    session = repo.writable_session("main")
    ds = weather()
    ds.to_icechunk(session)
    later = ds.assign_coords(time=ds.time + 20)
    later.to_icechunk(session, append_dim="time")
    session.commit("two periods")
    session = repo.writable_session("main")
    fork = session.fork()
    target = zarr.open_array(fork.store, path="mask", mode="r+")
    source = da.zeros(40, chunks=target.chunks)
    session.merge(store_dask(sources=[source], targets=[target]))
    session.commit("no mask")
    expected = xr.concat([ds, later], "time", data_vars="minimal").compute(scheduler="synchronous")
    expected["mask"][:] = 0
    check(repo, expected)


def test_region_writes_from_many_workers(client, repo):
    session = repo.writable_session("main")
    ds = weather(12)
    ds.to_icechunk(session, compute=False)
    session.commit("template")
    session = repo.writable_session("main")

    def write(fork, start):

        part = slice(start, start + 3)
        with dask.config.set(scheduler="synchronous"):
            weather(12)[["t"]].isel(time=part).drop_vars("time").to_icechunk(
                fork, region={"time": part}
            )
        return fork

    futures = [client.submit(write, session.fork(), start) for start in range(0, 12, 3)]
    session.merge(*client.gather(futures))
    session.commit("filled")
    check(repo, ds.compute(scheduler="synchronous"))


def test_errors_come_back_as_they_were(client, repo):
    session = repo.writable_session("main")

    def explode(block):
        raise OSError("disk on fire")

    data = da.ones(8, chunks=2).map_blocks(explode, dtype="f8", meta=np.empty((0,)))
    with pytest.raises(OSError, match="disk on fire"):
        xr.Dataset({"t": ("x", data)}).to_icechunk(session)
    assert not session.has_uncommitted_changes
    with pytest.raises(InvalidInputError, match="nothing was written"):
        weather().to_icechunk(session, encoding={"t": {"chunks": (3, 40)}})


def test_a_failed_task_is_tried_again(client, repo, tmp_path):
    def fail_once(block, block_info=None):
        mark = tmp_path / f"tried-{block_info[0]['chunk-location'][0]}"
        if not mark.exists():
            mark.touch()
            raise OSError("try again")
        return block

    session = repo.writable_session("main")
    ds = weather(6)
    expected = ds.compute(scheduler="synchronous")
    ds["t"] = ds.t.copy(data=ds.t.data.map_blocks(fail_once, dtype="f8", meta=np.empty((0, 0))))
    ds.to_icechunk(session, chunkmanager_store_kwargs={"retries": 2})
    session.commit("at last")
    check(repo, expected)


def test_a_killed_worker_loses_and_doubles_nothing(client, repo, tmp_path):
    """One worker kills itself in the middle, holding results that have to be made again."""

    def slow_and_deadly(block, block_info=None):
        time.sleep(0.02)
        (index, *_) = block_info[0]["chunk-location"]
        mark = tmp_path / "killed"
        if index == 25 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    session = repo.writable_session("main")
    ds = weather(60)
    expected = ds.compute(scheduler="synchronous")
    data = ds.t.data.map_blocks(slow_and_deadly, dtype="f8", meta=np.empty((0, 0)))
    ds["t"] = ds.t.copy(data=data)
    ds.to_icechunk(session)
    assert (tmp_path / "killed").exists()
    assert zarr.open_array(session.store, path="t", mode="r").nchunks_initialized == 60
    session.commit("survived")
    check(repo, expected)
    wait(client.submit(int, 1))


def test_progress_shows_readable_names(client, repo, capsys):
    pending = weather().to_icechunk(repo.writable_session("main"), compute=False)
    future = client.compute(pending)
    TextProgressBar([future.key], scheduler=client.scheduler.address, interval="20ms")
    future.result()
    prefixes = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert any(prefix.startswith("icechunk-write-t") for prefix in prefixes)
