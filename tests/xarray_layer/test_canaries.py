"""What is used of xarray without being promised: fails first when it changes."""

from __future__ import annotations

import inspect

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from xarray.backends import ZarrStore
from xarray.backends.common import ArrayWriter
from zarr.storage import MemoryStore

from icechunk.dask.collect import BlockCollector
from icechunk.xarray import _compat


def test_modes():
    assert _compat.choose_mode(None, None, None) == "w-"
    assert _compat.choose_mode(None, "time", None) == "a"
    assert _compat.choose_mode(None, None, {"x": slice(3)}) == "r+"
    with pytest.raises(ValueError, match="append_dim"):
        _compat.choose_mode("w", "time", None)


def test_names():
    _compat.check_names(xr.Dataset({"a": 1}))
    with pytest.raises(TypeError):
        _compat.check_names(xr.Dataset({1: 1}))


def test_zarr_store_parameters():
    wanted = {
        "store",
        "mode",
        "group",
        "consolidated",
        "consolidate_on_close",
        "append_dim",
        "write_region",
        "safe_chunks",
        "zarr_format",
    }
    assert wanted <= set(inspect.signature(ZarrStore.open_group).parameters)


def test_what_a_plan_is_refused_for():
    store = MemoryStore()
    ds = xr.Dataset({"m": ("x", np.arange(4.0))})
    ds.to_zarr(store, consolidated=False, zarr_format=3)
    how = {"group": None, "region": None, "safe_chunks": True}
    opened = _compat.open_zarr_store(store, mode="a", append_dim="x", **how)
    _compat.check_plan(ds, opened, {})
    with pytest.raises(KeyError, match="y"):
        _compat.check_plan(ds, opened, {"y": {}})
    with pytest.raises(ValueError, match="already exists, but encoding"):
        _compat.check_plan(ds, opened, {"m": {}})
    opened = _compat.open_zarr_store(store, mode="a", append_dim="z", **how)
    with pytest.raises(ValueError, match="append_dim='z' does not match any existing"):
        _compat.check_plan(ds, opened, {})


def test_the_collector_stands_in_for_an_array_writer():
    theirs = list(inspect.signature(ArrayWriter.add).parameters)
    ours = list(inspect.signature(BlockCollector.add).parameters)
    assert theirs == ours


def test_the_whole_way():
    store = MemoryStore()
    ds = xr.Dataset(
        {"d": ("x", da.ones(4, chunks=2)), "m": ("x", np.arange(4.0))}, {"x": np.arange(4)}
    )
    zarr_store = _compat.open_zarr_store(
        store, group=None, mode="w-", append_dim=None, region=None, safe_chunks=True
    )
    collector = BlockCollector(align=False)
    fitted, slices = _compat.fit_region(ds, zarr_store)
    assert slices is None
    _compat.dump(fitted, zarr_store, collector, {"d": {"chunks": (2,)}})
    (write,) = collector.writes
    assert write.target.chunks == (2,)
    assert write.start == (0,)
    np.testing.assert_array_equal(zarr.open_array(store, path="m")[:], np.arange(4.0))


def test_automatic_regions():
    store = MemoryStore()
    ds = xr.Dataset({"m": ("x", np.arange(4.0))}, {"x": np.arange(4)})
    ds.to_zarr(store, consolidated=False, zarr_format=3)
    zarr_store = _compat.open_zarr_store(
        store, group=None, mode="r+", append_dim=None, region="auto", safe_chunks=True
    )
    fitted, slices = _compat.fit_region(ds.isel(x=slice(1, 3)), zarr_store)
    assert slices == {"x": slice(1, 3)}
    assert "x" not in fitted.variables
