"""The write plan: what it counts, what it refuses, and that it reads no data."""

from __future__ import annotations

import json

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk as ic
from icechunk.dask import plan_write
from icechunk.errors import InvalidInputError


def weather(chunks=(5, 10)):
    return xr.Dataset(
        {
            "t": (("time", "x"), da.zeros((20, 10), chunks=chunks)),
            "mask": ("x", np.arange(10.0)),
        },
        coords={"time": np.arange(20)},
    )


def rows(plan):
    return {row.name: row for row in plan.variables}


def test_counts_and_totals():
    plan = plan_write(weather())
    t = rows(plan)["t"]
    assert t.zarr_chunk_shape == (5, 10)
    assert (t.zarr_chunks, t.dask_blocks, t.tasks) == (4, 4, 4)
    assert (t.size_bytes, t.largest_block_bytes) == (1600, 400)
    assert not t.exists
    mask = rows(plan)["mask"]
    assert (mask.zarr_chunk_shape, mask.zarr_chunks, mask.dask_blocks, mask.tasks) == (
        None,
        None,
        0,
        0,
    )
    assert plan.size_bytes == 1600 + 80 + 160
    assert (plan.write_tasks, plan.merge_tasks, plan.largest_block_bytes) == (4, 1, 400)
    assert plan.problems == ()


def test_what_is_no_mode_and_no_session():
    repo = ic.Repository.create(ic.in_memory_storage())
    with pytest.raises(InvalidInputError, match=r"mode='x': expected 'w', 'w-', 'a', 'a-', 'r\+'"):
        plan_write(weather(), mode="x")
    with pytest.raises(TypeError, match="into a session, not into Repository"):
        plan_write(weather(), repo)


def test_a_plan_computes_nothing():
    def explode(block):
        raise AssertionError("computed")

    data = da.zeros((10,), chunks=5).map_blocks(explode, dtype="f8", meta=np.empty((0,)))
    plan = plan_write(xr.Dataset({"t": ("x", data)}))
    assert plan.write_tasks == 2


def test_encoding_replaces_what_the_variable_brings():
    ds = weather()
    ds.t.encoding["chunks"] = (20, 5)
    assert rows(plan_write(ds, align_chunks=True))["t"].zarr_chunk_shape == (20, 5)
    assert rows(plan_write(ds, encoding={"t": {}}))["t"].zarr_chunk_shape == (5, 10)
    plan = plan_write(ds, encoding={"t": {"chunks": (1, 10), "shards": (5, 10)}})
    assert rows(plan)["t"].zarr_chunk_shape == (5, 10)


def test_joined_blocks_are_fewer_tasks_and_larger():
    plan = plan_write(weather(), encoding={"t": {"chunks": (10, 10)}}, align_chunks=True)
    t = rows(plan)["t"]
    assert (t.dask_blocks, t.tasks, t.zarr_chunks, t.largest_block_bytes) == (4, 2, 2, 800)
    assert not plan.problems


def test_a_problem_names_everything_needed():
    plan = plan_write(weather(), encoding={"t": {"chunks": (7, 10)}})
    (problem,) = plan.problems
    assert (problem.kind, problem.variable, problem.dim) == ("shared", "t", "time")
    for part in ("'t'", "'time'", "(5, 5, 5, 5)", "7", "ds = ds.chunk(time=7)", "align_chunks"):
        assert part in str(problem)
    with pytest.raises(InvalidInputError, match="nothing was written"):
        plan.raise_for_problems()


def test_uneven_blocks_of_a_new_array():
    (problem,) = plan_write(weather(chunks=((3, 9, 8), 10))).problems
    assert problem.kind == "uneven"
    assert "ds = ds.chunk(time=9)" in str(problem)


def test_a_dimension_that_is_no_identifier():
    ds = xr.Dataset({"t": (("my dim",), da.zeros(10, chunks=3))})
    (problem,) = plan_write(ds, encoding={"t": {"chunks": (5,)}}).problems
    assert "ds.chunk({'my dim': 5})" in problem.fix


def test_appending_inside_a_chunk(repo):
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="t", shape=(25,), chunks=(10,), dtype="f8", dimension_names=["time"]
    )
    ds = xr.Dataset({"t": ("time", da.zeros(30, chunks=10))})
    plan = plan_write(ds, session, append_dim="time")
    (problem,) = plan.problems
    assert "(5,) + (10,) * 2 + (5,)" in problem.fix
    good = ds.chunk(time=(5, 10, 10, 5))
    plan = plan_write(good, session, append_dim="time")
    assert not plan.problems
    row = rows(plan)["t"]
    assert (row.exists, row.start, row.zarr_chunks) == (True, (25,), 4)


def test_a_region_with_mode_r_plus(repo):
    session = repo.writable_session("main")
    zarr.create_array(
        session.store, name="t", shape=(25,), chunks=(10,), dtype="f8", dimension_names=["time"]
    )
    ds = xr.Dataset({"t": ("time", da.zeros(10, chunks=4))})
    (problem,) = plan_write(ds, session, region={"time": slice(5, 15)}).problems
    assert problem.kind == "shared"
    single = xr.Dataset({"t": ("time", da.zeros(10, chunks=10))})
    (problem,) = plan_write(single, session, region={"time": slice(5, 15)}).problems
    assert problem.kind == "partial"
    assert "safe_chunks=False" in str(problem)
    assert not plan_write(single, session, region={"time": slice(5, 15)}, mode="a").problems
    whole = xr.Dataset({"t": ("time", da.zeros(10, chunks=10))})
    assert not plan_write(whole, session, region={"time": slice(10, 20)}).problems


def test_a_region_must_be_resolved():
    with pytest.raises(InvalidInputError, match="resolve_region"):
        plan_write(weather(), region={"time": "auto"})


def test_only_xarray_objects():
    with pytest.raises(InvalidInputError, match="Dataset or DataArray"):
        plan_write(np.zeros(3))


def test_data_arrays_with_and_without_a_name():
    array = xr.DataArray(da.zeros(4, chunks=2), dims="x", name="u").rename(None)
    assert plan_write(array).variables[0].name == "__xarray_dataarray_variable__"
    assert plan_write(array.rename("t")).variables[0].name == "t"


def test_zero_size_and_scalars():
    ds = xr.Dataset({"e": ("x", da.zeros((0,), chunks=5)), "s": ((), da.zeros(()))})
    plan = plan_write(ds)
    assert rows(plan)["e"].zarr_chunks == 0
    assert rows(plan)["s"].zarr_chunks == 1
    assert rows(plan)["s"].size_bytes == 8


def test_text_html_and_dict():
    plan = plan_write(weather(), encoding={"t": {"chunks": (7, 10)}})
    text = str(plan)
    assert "20 x 10" in text
    assert "1.84 kB" in text
    assert "! variable 't'" in text
    assert len({len(line.rstrip()) for line in text.splitlines()[1:2]}) == 1
    html = plan._repr_html_()
    assert "<table>" in html
    assert "&#x27;t&#x27;" in html
    loaded = json.loads(json.dumps(plan.to_dict()))
    assert loaded["write_tasks"] == 4
    assert loaded["variables"][0]["name"] == "t"
    assert loaded["variables"][0]["problems"]
