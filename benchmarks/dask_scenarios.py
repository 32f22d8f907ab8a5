"""Scenarios with dask and xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster

from benchmarks.scenarios import create
from icechunk.xarray import to_icechunk

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Recorder

WIDTH = 10_000
ENCODING = {"t": {"compressors": None}}


def dataset(steps: int) -> xr.Dataset:
    """Return a dataset of blocks of 40 kB, computed by one task each after fusion."""
    blocks: Any = da.zeros((steps, WIDTH), chunks=(1, WIDTH), dtype="f4") + np.float32(1)
    return xr.Dataset({"t": (("time", "x"), blocks)})


def threads(place: Path, size: int, record: Recorder) -> None:
    """Write and read by dask's threads."""
    repo = create(place)
    session = repo.writable_session("main")
    with dask.config.set(scheduler="threads"):
        with record.time("dask.threads.to_icechunk"):
            to_icechunk(dataset(size), session, encoding=ENCODING)
        with record.time("dask.threads.commit"):
            session.commit("written")
        with record.time("dask.threads.read"):
            store = repo.readonly_session("main").store
            total = xr.open_zarr(store, consolidated=False)["t"].sum().compute()
    assert float(total) == size * WIDTH


def cluster(place: Path, size: int, record: Recorder) -> None:
    """Write on a cluster of two processes."""
    session = create(place).writable_session("main")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as workers,
        Client(workers),
    ):
        with record.time("dask.cluster.to_icechunk"):
            to_icechunk(dataset(size), session, encoding=ENCODING)
        with record.time("dask.cluster.commit"):
            session.commit("written")
