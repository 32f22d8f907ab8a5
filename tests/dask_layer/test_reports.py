"""What a write tells: its report, its events, and the plan in its place."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk.xarray  # noqa: F401
from icechunk.dask import IngestReport, WritePlan, plan_write, store_dask
from icechunk.errors import InvalidInputError
from icechunk.events import Advanced, Failed, Finished, Started


def weather(chunks=(5, 100)):
    return xr.Dataset(
        {
            "t": (("time", "x"), da.random.default_rng(0).random((20, 100), chunks=chunks)),
            "mask": ("x", np.arange(100.0)),
        },
        coords={"time": np.arange(20)},
    )


ENCODING = {name: {"compressors": None} for name in ("t", "mask", "time")}


def test_a_report_is_what_was_stored(repo):
    session = repo.writable_session("main")
    report = weather().to_icechunk(session, group="g", encoding=ENCODING)
    assert isinstance(report, IngestReport)
    assert [row.path for row in report.arrays] == ["/g/mask", "/g/t", "/g/time"]
    assert [row.chunks for row in report.arrays] == [1, 4, 1]
    assert [row.size_bytes for row in report.arrays] == [800, 16_000, 160]
    assert report.stored_bytes == report.size_bytes
    assert report.tasks == 4
    assert report.seconds > 0
    session.commit("written")
    files = repo.chunk_storage_stats()
    assert files.native_bytes == 800 + 16_000  # the times are in the manifest


def test_only_what_this_write_did(repo):
    session = repo.writable_session("main")
    weather().to_icechunk(session, encoding=ENCODING)
    part = weather()[["t"]].isel(time=slice(0, 5))
    report = part.to_icechunk(session, group="other", encoding={"t": {"compressors": None}})
    assert {row.path: row.chunks for row in report.arrays} == {"/other/t": 1, "/other/time": 1}


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"], indirect=True)
def test_events_tell_how_far_it_is(repo, scheduler):
    seen = []
    report = weather().to_icechunk(repo.writable_session("main"), progress=seen.append)
    assert isinstance(seen[0], Started)
    assert seen[0].total.size_bytes == report.size_bytes
    done = [event.done.size_bytes for event in seen if isinstance(event, Advanced)]
    assert done == [960, 960 + 4000, 960 + 8000, 960 + 12_000, 960 + 16_000]
    assert isinstance(seen[-1], Finished)
    assert seen[-1].done == report.amount


def test_a_failure_is_told_too(repo):
    def explode(block):
        raise OSError("disk on fire")

    data = da.ones(8, chunks=2).map_blocks(explode, dtype="f8", meta=np.empty((0,)))
    session, seen = repo.writable_session("main"), []
    with pytest.raises(OSError, match="disk on fire"):
        xr.Dataset({"t": ("x", data)}).to_icechunk(session, progress=seen.append)
    assert isinstance(seen[-1], Failed)
    assert seen[-1].error == "disk on fire"
    assert not session.has_uncommitted_changes


def test_a_bar_is_shown_when_asked_for(repo, capsys):
    weather().to_icechunk(repo.writable_session("main"))
    assert capsys.readouterr() == ("", "")
    weather().to_icechunk(repo.writable_session("main"), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("writing: 17.0 kB, 6 chunks, ")


def test_progress_of_the_other_ways_to_write(repo):
    session, seen = repo.writable_session("main"), []
    pending = weather().to_icechunk(session, compute=False)
    pending.compute(progress=seen.append)
    assert seen[-1].done.chunks == 4
    session.commit("written")
    fork = repo.writable_session("main").fork()
    target = zarr.open_array(fork.store, path="t", mode="r+")
    source = da.zeros((20, 100), chunks=(5, 100))
    store_dask(sources=[source], targets=[target], progress=seen.append)
    assert isinstance(seen[-1], Finished)
    assert seen[-1].done.size_bytes == 16_000
    fork.discard_changes()


def test_a_plan_writes_nothing(repo):
    session = repo.writable_session("main")
    plan = weather().to_icechunk(session, plan=True)
    assert isinstance(plan, WritePlan)
    assert plan == plan_write(weather(), session)
    assert not session.has_uncommitted_changes
    assert list(repo.storage.list_objects(prefix="chunks/")) == []


@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        ((7, 100), {"append_dim": "time"}),
        ((3, 40), {"append_dim": "time"}),
        ((4, 100), {"region": {"time": slice(0, 20)}}),
        ((20, 30), {"region": {"time": slice(0, 20)}}),
        (((3, 3, 4, 10), (100,)), {"group": "uneven"}),
    ],
)
def test_the_printed_call_fixes_the_problem(repo, chunks, options):
    session = repo.writable_session("main")
    weather((6, 50)).isel(time=slice(0, 15)).to_icechunk(session)  # ends inside a chunk
    if "region" in options:
        weather((6, 50)).isel(time=slice(15, 20)).to_icechunk(
            session, append_dim="time", align_chunks=True
        )
    session.commit("there")
    ds = weather(chunks)[["t"]]
    if "region" in options:
        ds = ds.drop_vars("time")
    session = repo.writable_session("main")
    plan = ds.to_icechunk(session, plan=True, **options)
    assert plan.problems
    with pytest.raises(InvalidInputError) as error:
        ds.to_icechunk(session, **options)
    for problem in plan.problems:
        assert problem.fix in str(error.value)
        assert problem.fix in str(plan)
        names = {"ds": ds}
        exec(problem.fix, names)  # what a user would paste
        ds = names["ds"]
    assert not ds.to_icechunk(session, plan=True, **options).problems
    ds.to_icechunk(session, **options)
    found = xr.open_zarr(session.store, group=options.get("group"), consolidated=False)
    np.testing.assert_array_equal(found.t[-20:].values, ds.t.values)
