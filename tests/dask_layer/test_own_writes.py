"""Reading what a session has not committed yet, lazily, under every scheduler; forks on workers."""

from __future__ import annotations

import gc
import sys
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster

import icechunk.xarray  # noqa: F401
from icechunk import UnmergedChangesWarning


@pytest.fixture
def session(repo):
    """Return a session with one committed array, one that is new, and a change to the first."""
    times = xr.Dataset({"t": (("x", "y"), np.arange(24.0).reshape(6, 4))})
    session = repo.writable_session("main")
    times.chunk(x=2).to_icechunk(session)
    session.commit("committed")
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="t", mode="r+")[0:2] = -1
    new = zarr.create_array(
        session.store, name="u", shape=(6,), chunks=(3,), dtype="f8", dimension_names=("x",)
    )
    new[:] = 5
    return session


def check_lazily(session):
    lazy = xr.open_zarr(session.store, chunks={}, consolidated=False)
    total, mean = dask.compute(lazy.t.sum(), lazy.u.mean())
    assert float(total) == sum(range(8, 24)) - 8
    assert float(mean) == 5
    array = da.from_zarr(zarr.open_array(session.store, path="t", mode="r"))
    np.testing.assert_array_equal(array[0:3, 0].compute(), [-1, -1, 8])


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"], indirect=True)
def test_uncommitted_changes_are_read_under_every_scheduler(session, scheduler):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_lazily(session)
        zarr.open_array(session.store, path="u", mode="r+")[0] = 5  # and it goes on
        check_lazily(session)
        gc.collect()
    session.commit("read before it was committed")


def watch():
    """Keep the warnings of this worker process."""
    sys.seen_warnings = seen = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, category, *_: seen.append(
        (category.__name__, str(message))
    )


def seen():
    gc.collect()
    return [text for name, text in sys.seen_warnings if name == UnmergedChangesWarning.__name__]


@pytest.mark.slow
def test_on_a_cluster_and_only_forks_that_went_nowhere_warn(session):
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.run(watch)
        check_lazily(session)

        def returned(fork, chunk):
            zarr.open_array(fork.store, path="u", mode="r+")[chunk * 3 : chunk * 3 + 3] = chunk
            return fork

        futures = [client.submit(returned, session.fork(), chunk) for chunk in range(2)]
        session.merge(*client.gather(futures), on_chunk_conflict="error")
        del futures
        ds = xr.Dataset({"v": ("x", da.ones(6, chunks=2))})
        ds.to_icechunk(session, group="more")
        failing = client.submit(lambda fork: returned(fork, 0) and 1 / 0, session.fork())
        assert isinstance(failing.exception(), ZeroDivisionError)
        del failing
        (before,) = client.run(seen).values()

        def dropped(fork):
            returned(fork, 0)

        client.submit(dropped, session.fork()).result()
        (after,) = client.run(seen).values()
    session.commit("by forks")
    u = zarr.open_array(session.store, path="u", mode="r")
    assert u[:].tolist() == [0, 0, 0, 1, 1, 1]
    assert len(before) <= 1, "only the fork of the task that failed"
    assert len(after) == len(before) + 1
    assert "merge" in after[-1]
