"""Ingestion jobs: what they write, commit, prove, refuse, and go on with."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.dask import CommitEvery, Files, Ingest, list_jobs, remove_job, show_job
from icechunk.dask.ingest.jobs import METADATA_KEY
from icechunk.dask.ingest.sources import source_of
from icechunk.dask.ingest.units import parse_ranges
from icechunk.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    RebaseFailedError,
    SessionStateError,
    StorageError,
)
from icechunk.events import Advanced, Committed, Failed, Finished, Started, UnitFailed, UnitFinished
from icechunk.shelf import Shelf
from tests.peer import run_peer

SYNC = {"scheduler": "synchronous"}


class StoppedError(Exception):
    """Raised by an observer, to stop a job at an event."""


def field(start=0, stop=24, *, chunk=4, **attrs):
    """Return data along time, with chunks of zeros, static data and coordinates."""
    time = np.arange(start, stop)
    values = (time[:, None] * 10 + np.arange(6)).astype("i4")
    values[time < 4] = 0
    return xr.Dataset(
        {
            "t": (("time", "x"), da.from_array(values, chunks=(chunk, 3)), {"units": "K"}),
            "step": ("time", da.from_array(time * 2.5, chunks=chunk)),
            "mask": ("x", da.from_array(np.arange(6) % 2, chunks=2)),
            "one": ((), da.from_array(np.float64(1.5))),
        },
        coords={"time": time, "x": np.arange(6.0)},
        attrs=attrs,
    )


def new_repo(**kwargs):
    return ic.Repository.create(ic.in_memory_storage(), **kwargs)


def opened(repo, group=None):
    store = repo.readonly_session("main").store
    return xr.open_zarr(store, group=group, consolidated=False).compute(**SYNC)


def held(repo, job_id):
    """Return the units of a job's commits, newest commit first."""
    named = [info.metadata.get(METADATA_KEY, {}) for info in repo.ancestry(branch="main")]
    return [n["units"] for n in named if n.get("job") == job_id]


def stop_at(kind, count=1):
    seen = []

    def observe(event):
        if isinstance(event, kind):
            seen.append(event)
            if len(seen) == count:
                raise StoppedError

    return observe


def stopped_job(repo, source, kind=UnitFinished, count=2, **kwargs):
    """Run a job up to an event; return its id."""
    job = Ingest(
        repo, "main", source, job_id="job", compute_kwargs=SYNC, progress=stop_at(kind, count),
        **kwargs,
    )  # fmt: skip
    with pytest.raises(StoppedError):
        job.run()
    return "job"


# -- writing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("units_at_once", [1, 3])
def test_how_far_a_job_is_is_told_after_each_block(units_at_once):
    events = []
    job = Ingest(
        new_repo(), "main", field(), unit_size=8, compute_kwargs=SYNC, progress=events.append,
        units_at_once=units_at_once,
    )  # fmt: skip
    summary = job.run()
    amounts = [event.done for event in events if isinstance(event, Advanced)]
    assert max(amount.units for amount in amounts) == 4
    assert amounts[-1] == events[-1].done
    assert amounts[-1].size_bytes == summary.report.size_bytes
    assert len({amount.size_bytes for amount in amounts}) > 4, "also within a unit"
    sizes = [amount.size_bytes for amount in amounts]
    assert sizes == sorted(sizes)


def test_a_summary_shows_what_was_looked_at():
    job = {"compute_kwargs": SYNC, "unit_size": 8}
    plain = Ingest(new_repo(), "main", field(), **job).run()
    assert str(plain).endswith("0 missing")
    summary = Ingest(new_repo(), "main", field(), read_back="all", **job).run()
    blocks = summary.proof.blocks_read_back
    assert blocks > 0
    assert str(summary).endswith(f"0 missing, {blocks} blocks read back")
    shown = summary._repr_html_()
    assert "<td" in shown
    assert f"<p>Complete in snapshot {summary.proof.snapshot_id}: " in shown


def test_a_resumed_job_goes_on_where_it_was():
    repo = new_repo()
    stopped_job(repo, field(), unit_size=8)
    events = []
    Ingest.resume(repo, "job", field(), compute_kwargs=SYNC, progress=events.append)
    started = next(event for event in events if isinstance(event, Started))
    amounts = [event.done for event in events if isinstance(event, Advanced)]
    assert started.done.units == 2
    assert amounts[0].size_bytes > started.done.size_bytes
    assert amounts[-1].units == 4


@pytest.mark.parametrize("version", [1, 2])
def test_a_dataset_in_one_commit(version):
    repo = new_repo(spec_version=version)
    events = []
    summary = Ingest(
        repo, "main", field(title="x"), unit_size=8, metadata={"who": "me"}, message="all of it",
        job_id="job", compute_kwargs=SYNC, progress=events.append,
    ).run()  # fmt: skip
    xr.testing.assert_identical(opened(repo), field(title="x").compute())
    assert held(repo, "job") == ["0-3"]
    tip = next(iter(repo.ancestry(branch="main")))
    assert (tip.message, tip.metadata["who"]) == ("all of it", "me")
    proof = summary.proof
    # 12 chunks of t, the first two of them zeros; 6 of step; 3 of mask.
    assert (proof.expected, proof.present, proof.fill, proof.missing) == (21, 19, 2, 0)
    assert proof.is_complete
    assert summary.report.units == 4
    assert {a.path: a.chunks for a in summary.report.arrays} == {"/t": 10, "/step": 6, "/mask": 3}
    kinds = [type(event) for event in events]
    assert kinds[0] is Started
    assert kinds[-2:] == [Committed, Finished]
    assert kinds.count(UnitFinished) == 4
    assert events[-1].done.chunks == 19
    assert "21 chunks expected, 19 stored, 2 all fill value" in str(summary)


@pytest.mark.parametrize(
    ("every", "units"), [(1, ["3", "2", "1", "0"]), (3, ["3", "0-2"]), ("1h", ["0-3"])]
)
def test_commits_in_between(every, units):
    repo = new_repo()
    summary = Ingest(
        repo, "main", field(), unit_size=8, commit_every=every, job_id="job", compute_kwargs=SYNC
    ).run()
    assert held(repo, "job") == units
    assert [c.snapshot_id for c in summary.commits] == list(summary.report.snapshot_ids)
    xr.testing.assert_identical(opened(repo), field().compute())


def test_commits_by_size():
    repo = new_repo()
    # A unit of 8 steps has 8 * 6 * 4 bytes of t and 8 * 8 of step.
    every = CommitEvery(size_bytes=500)
    Ingest(
        repo, "main", field(), unit_size=8, commit_every=every, job_id="job", compute_kwargs=SYNC
    ).run()
    assert held(repo, "job") == ["3", "0-2"]


def test_datasets_are_appended_in_units_that_share_no_chunk():
    repo = new_repo()
    Ingest(repo, "main", field(0, 8), append_dim="time", compute_kwargs=SYNC).run()
    parts = [field(8, 12), field(12, 15), field(15, 20), field(20, 22)]
    Ingest(repo, "main", parts, append_dim="time", job_id="more", compute_kwargs=SYNC).run()
    # Chunks have four steps, so the second and third part are one unit.
    assert held(repo, "more") == ["0-2"]
    xr.testing.assert_identical(opened(repo), field(0, 22).compute())


def test_an_append_that_begins_inside_a_chunk():
    repo = new_repo()
    Ingest(repo, "main", field(0, 6), append_dim="time", compute_kwargs=SYNC).run()
    Ingest(repo, "main", field(6, 21), append_dim="time", unit_size=4, compute_kwargs=SYNC).run()
    xr.testing.assert_identical(opened(repo), field(0, 21).compute())


def test_values_are_encoded_as_xarray_does_it():
    ds = field()
    ds["t"] = ds["t"].astype("f8") / 10
    ds = ds.assign_coords(time=np.datetime64("2026-01-01", "ns") + ds["time"].values * 3600 * 10**9)
    packing = {"scale_factor": 0.1, "dtype": "i2", "_FillValue": -1, "chunks": (4, 6)}
    repo = new_repo()
    Ingest(repo, "main", ds, encoding={"t": packing}, unit_size=4, compute_kwargs=SYNC).run()
    array = zarr.open_array(repo.readonly_session("main").store, path="t", mode="r")
    assert (array.dtype, array.chunks) == (np.dtype("i2"), (4, 6))
    xr.testing.assert_allclose(opened(repo), ds.compute(), atol=1e-9)


def test_units_along_another_dimension_in_a_group():
    repo = new_repo()
    job = Ingest(repo, "main", field(), group="a/b", unit_dim="x", unit_size=3, compute_kwargs=SYNC)
    summary = job.run()
    # The chunks of two and of three meet at 6 only; step has no x and is a unit of its own.
    assert summary.report.units == 2
    xr.testing.assert_identical(opened(repo, "a/b"), field().compute())


def test_data_in_memory_is_written_with_the_arrays():
    repo = new_repo()
    summary = Ingest(repo, "main", field().compute(), job_id="job", compute_kwargs=SYNC).run()
    assert summary.report.units == 0
    assert held(repo, "job") == [""]
    xr.testing.assert_identical(opened(repo), field().compute())


def test_a_group_that_is_there_is_refused_or_replaced():
    repo = new_repo()
    Ingest(repo, "main", field(), compute_kwargs=SYNC).run()
    with pytest.raises(AlreadyExistsError, match="group / is not empty: "):
        Ingest(repo, "main", field(), compute_kwargs=SYNC).run()
    other = field(100, 108)
    Ingest(repo, "main", other, mode="w", compute_kwargs=SYNC).run()
    xr.testing.assert_identical(opened(repo), other.compute())


def test_files_are_stored_as_they_are(tmp_path):
    paths = []
    for number in range(3):
        ds = field(number * 8, number * 8 + 8).compute().drop_vars(["mask", "one"])
        ds["t"].attrs |= {"scale_factor": 0.1}
        ds["time"].attrs["units"] = f"days since 2026-01-{1 + 8 * number:02d}"
        ds = ds.assign_coords(time=("time", np.arange(8), ds["time"].attrs))
        paths.append(tmp_path / f"{number}.nc")
        ds.to_netcdf(paths[-1], engine="scipy")
    repo = new_repo()
    first = Files(paths=[str(paths[0])], chunks={"time": 4})
    Ingest(repo, "main", first, append_dim="time", compute_kwargs=SYNC).run()
    Ingest(repo, "main", paths[1:], append_dim="time", job_id="job", compute_kwargs=SYNC).run()
    assert held(repo, "job") == ["0-1"]
    raw = xr.open_zarr(
        repo.readonly_session("main").store, consolidated=False, mask_and_scale=False,
        decode_times=False,
    )  # fmt: skip
    np.testing.assert_array_equal(raw["t"].values, field()["t"].values)
    np.testing.assert_array_equal(raw["time"].values, np.arange(24))
    assert raw["t"].attrs["scale_factor"] == 0.1


def test_units_at_the_same_time_and_on_threads():
    repo = new_repo()
    options = {"unit_size": 4, "units_at_once": 3, "commit_every": 2, "job_id": "job"}
    Ingest(repo, "main", field(), compute_kwargs={"scheduler": "threads"}, **options).run()
    xr.testing.assert_identical(opened(repo), field().compute())
    assert len(held(repo, "job")) >= 3


# -- going on ---------------------------------------------------------------------------------


def test_only_what_is_left_is_written():
    repo = new_repo()
    stopped_job(repo, field(), unit_size=4, count=3)
    job = show_job(repo, "job")
    assert (job.state, job.units, job.kept, job.committed) == ("failed", 7, 3, 0)
    assert job.error == "StoppedError"
    events = []
    summary = Ingest.resume(repo, "job", field(), compute_kwargs=SYNC, progress=events.append)
    assert events[0].done.units == 3
    assert sum(isinstance(event, UnitFinished) for event in events) == 4
    assert summary.report.units == 7
    assert held(repo, "job") == ["0-6"]
    xr.testing.assert_identical(opened(repo), field().compute())
    assert show_job(repo, "job").state == "finished"
    assert Ingest.resume(repo, "job").to_dict() == summary.to_dict()
    assert [key for key, _ in repo.storage.list_objects(prefix="x-shelf")] == ["job/record"]


def test_a_commit_that_was_not_recorded_is_found():
    repo = new_repo()
    stopped_job(repo, field(), Committed, 2, unit_size=4, commit_every=2)
    shelf = Shelf(repo.storage)
    run(shelf.update("job", lambda r: replace(r, facts={**r.facts, "commits": []})))
    Ingest.resume(repo, "job", field(), compute_kwargs=SYNC)
    assert held(repo, "job") == ["6", "4-5", "2-3", "0-1"]
    xr.testing.assert_identical(opened(repo), field().compute())


def test_datasets_are_recognised():
    repo = new_repo()
    stopped_job(repo, field(), unit_size=4)
    with pytest.raises(InvalidInputError, match="give them again"):
        Ingest.resume(repo, "job")
    for other in (field(0, 25), field().astype("f4"), field().assign_coords(x=np.arange(6) + 1.0)):
        with pytest.raises(InvalidInputError, match="not what job job was started on"):
            Ingest.resume(repo, "job", other)


def test_files_are_recorded_and_must_not_change(tmp_path):
    paths = [tmp_path / f"{n}.nc" for n in range(3)]
    for number, path in enumerate(paths):
        field(number * 4, number * 4 + 4).compute().to_netcdf(path, engine="scipy")
    repo = new_repo()
    secret = {"storage_options": {"secret": "hush"}}
    files = Files(paths=[str(p) for p in paths], chunks={"time": 4}, open_options={})
    stopped_job(repo, files, append_dim="time", count=1)
    assert b"hush" not in b"".join(
        run(repo.storage.get(f"x-shelf/{key}"))
        for key, _ in repo.storage.list_objects(prefix="x-shelf")
    )
    assert (
        "storage_options"
        not in source_of(Files(paths=["a"], open_options=secret)).facts()["open_options"]
    )
    with pytest.raises(InvalidInputError, match="not the files job"):
        Ingest.resume(repo, "job", [str(paths[0])])
    field(4, 8).compute().isel(x=slice(3)).to_netcdf(paths[1], engine="scipy")
    with pytest.raises(InvalidInputError, match="has changed since the job was planned"):
        Ingest.resume(repo, "job", compute_kwargs=SYNC)


def test_a_unit_that_fails_is_tried_again():
    failures = []

    def sometimes(block):
        if block.size and block.flat[0] == 80 and len(failures) < 1:
            failures.append(block)
            raise OSError("the disk is tired")
        return block

    ds = field()
    ds["t"] = ds["t"].copy(data=ds["t"].data.map_blocks(sometimes, meta=np.empty((0, 0), "i4")))
    events = []
    repo = new_repo()
    summary = Ingest(
        repo, "main", ds, unit_size=4, compute_kwargs=SYNC, progress=events.append
    ).run()
    (failed,) = [event for event in events if isinstance(event, UnitFailed)]
    assert (failed.unit_id, failed.will_retry, failed.error) == (
        "unit-000003", True, "the disk is tired",
    )  # fmt: skip
    assert summary.report.retries == 1
    xr.testing.assert_identical(opened(repo), field().compute())
    failures.clear()
    with pytest.raises(OSError, match="tired") as caught:
        Ingest(repo, "main", ds, group="g", retries=0, job_id="j", compute_kwargs=SYNC).run()
    assert any("while writing unit-0" in note for note in caught.value.__notes__)
    assert any("Ingest.resume(repo, 'j', source)" in note for note in caught.value.__notes__)


def test_units_that_are_under_way_when_a_job_stops_end_unheard(caplog):
    """They filled the terminal with errors of a cluster that was gone, after the last word."""
    go_on = threading.Event()

    def meet(block):
        if block.size and block.flat[0] == 80:
            raise OSError("the disk is tired")
        if block.size and block.flat[0] == 120:
            assert go_on.wait(60)
            raise OSError("there is no disk any more")
        return block

    ds = field(4, 16)
    ds["t"] = ds["t"].copy(data=ds["t"].data.map_blocks(meet, meta=np.empty((0, 0), "i4")))
    events = []
    job = Ingest(
        new_repo(), "main", ds[["t"]], unit_size=4, units_at_once=3, retries=0,
        compute_kwargs=SYNC, progress=events.append,
    )  # fmt: skip
    with pytest.raises(OSError, match="tired"):
        job.run()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("icechunk-ingest"):
            thread.join(60)
    assert isinstance(events[-1], Failed)
    assert "any more" not in caplog.text


def test_two_processes_on_one_job_commit_each_unit_once():
    repo = new_repo()
    stopped_job(repo, field(), unit_size=4, count=1, commit_every=1)
    summaries = []

    def go_on():
        summaries.append(
            Ingest.resume(ic.Repository.open(repo.storage), "job", field(), compute_kwargs=SYNC)
        )

    threads = [threading.Thread(target=go_on) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert summaries
    units = sorted(n for text in held(repo, "job") for n in parse_ranges(text))
    assert units == list(range(7))
    xr.testing.assert_identical(opened(repo), field().compute())


# -- beside others ----------------------------------------------------------------------------


def test_commits_of_others_are_kept_and_conflicts_are_not_overwritten():
    repo = new_repo()
    stopped_job(repo, field(), Committed, 1, unit_size=4, commit_every=2)
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="t", mode="r+")
    array[22:, :3] = 7  # in the last unit
    session.commit("mine")
    with pytest.raises(RebaseFailedError, match="t"):
        Ingest.resume(repo, "job", field(), compute_kwargs=SYNC)
    assert held(repo, "job") == ["4-5", "2-3", "0-1"]
    assert show_job(repo, "job").state == "failed"
    assert opened(repo)["t"].values[23, 0] == 7


def test_a_chunk_that_others_wrote_over_is_no_missing_one():
    repo = new_repo()
    stopped_job(repo, field(), Committed, 1, unit_size=4, commit_every=2)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="step", mode="r+")[:4] = 9  # committed by the job
    session.commit("mine")
    proof = Ingest.resume(repo, "job", field(), compute_kwargs=SYNC).proof
    assert (proof.replaced, proof.missing, proof.is_complete) == (1, 0, True)


@pytest.mark.parametrize("committed", [0, 1])
def test_a_branch_that_was_reset_is_not_written_to(committed):
    repo = new_repo()
    initial = repo.lookup_branch("main")
    with repo.transaction("main", message="x") as store:
        zarr.create_group(store, path="x")
    with pytest.raises(AlreadyExistsError, match="there are other groups"):
        Ingest(repo, "main", field()).run()
    kind = Committed if committed else UnitFinished
    stopped_job(repo, field(), kind, 1, unit_size=4, commit_every=2, group="g")
    repo.reset_branch("main", initial)
    with pytest.raises(SessionStateError, match="does not lead back to snapshot"):
        Ingest.resume(repo, "job", field(), compute_kwargs=SYNC)
    assert repo.lookup_branch("main") == initial


def test_jobs_are_listed_and_removed():
    repo = new_repo()
    assert list_jobs(repo) == []
    stopped_job(repo, field(), unit_size=4)
    Ingest(repo, "main", field(), group="g", job_id="second", compute_kwargs=SYNC).run()
    assert [(job.job_id, job.state) for job in list_jobs(repo)] == [
        ("job", "failed"), ("second", "finished"),
    ]  # fmt: skip
    with pytest.raises(AlreadyExistsError, match="goes on"):
        Ingest(repo, "main", field(), group="h", job_id="job").run()
    assert remove_job(repo, "job").kept == 2
    for act in (show_job, remove_job, Ingest.resume):
        with pytest.raises(NotFoundError, match="job"):
            act(repo, "job")
    remove_job(repo, "second")
    assert repo.storage.list_objects(prefix="x-shelf") == []
    with pytest.raises(NotFoundError, match="no job"):
        Ingest.resume(repo, "never")


def chunk_keys(repo):
    return {key for key, _ in repo.storage.list_objects() if key.startswith("chunks/")}


def uninlined():
    config = ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 0
    return config


def test_our_garbage_collection_leaves_a_job_alone_until_it_is_removed():
    repo = new_repo(config=uninlined())
    stopped_job(repo, field(), unit_size=4)
    before = chunk_keys(repo)
    later = datetime.now(UTC) + timedelta(hours=1)
    assert repo.garbage_collect(later).chunks_deleted == 0
    Ingest.resume(repo, "job", field(), compute_kwargs=SYNC)
    assert before <= chunk_keys(repo)
    xr.testing.assert_identical(opened(repo), field().compute())
    repo = new_repo(config=uninlined())
    stopped_job(repo, field(), unit_size=4)
    remove_job(repo, "job")
    assert repo.garbage_collect(later).chunks_deleted == len(before)


PEER_COLLECTS = """
import json, sys, datetime, icechunk
repo = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
print(json.dumps(repo.garbage_collect(later).chunks_deleted))
"""


@pytest.mark.peer
def test_units_that_the_official_collection_took_are_written_again(tmp_path):
    place = str(tmp_path / "repo")
    repo = ic.Repository.create(ic.local_filesystem_storage(place), config=uninlined())
    ds = field().drop_vars(["one", "x", "time"])  # so the setup has no chunks
    stopped_job(repo, ds, unit_size=4)
    before = chunk_keys(repo)
    assert run_peer(PEER_COLLECTS, place) == len(before) > 0
    assert not chunk_keys(repo)
    assert len(list_jobs(repo)) == 1
    summary = Ingest.resume(repo, "job", ds, compute_kwargs=SYNC)
    assert summary.proof.is_complete
    assert summary.proof.objects_checked == summary.proof.present == 19
    assert held(repo, "job") == ["0-6"]
    xr.testing.assert_identical(opened(repo), ds.compute())


# -- proof ------------------------------------------------------------------------------------


def written_at(info):
    return info.created_at


def after_commit(act):
    def observe(event):
        if isinstance(event, Committed):
            act()

    return observe


@pytest.mark.parametrize("whose", ["first", "last"])
def test_a_chunk_object_that_is_gone_is_found(whose):
    repo = new_repo(config=uninlined())

    def lose():
        # The arrays' coordinates are written before anything else.
        infos = sorted(repo.storage.list_objects_metadata(prefix="chunks"), key=written_at)
        info = infos[0 if whose == "first" else -1]
        run(repo.storage.delete_many([f"chunks/{info.key}"]))

    job = Ingest(
        repo, "main", field(), verify="objects", progress=after_commit(lose), compute_kwargs=SYNC
    )
    with pytest.raises(StorageError, match="1 of 21 chunks are not in snapshot"):
        job.run()


# What zarr 3.1 says of text of fixed length.
@pytest.mark.filterwarnings("ignore:The data type")
@pytest.mark.parametrize("how", ["sample", "all"])
def test_what_is_read_back_has_the_same_checksum(how):
    ds = field()
    ds["f"] = ("time", da.from_array(np.array([np.nan, -0.0, 0.0, 1.5] * 6, "f4"), chunks=4))
    ds["text"] = ("time", da.from_array(np.array([f"v{n}" for n in range(24)]), chunks=4))
    repo = new_repo()
    proof = Ingest(repo, "main", ds, unit_size=8, read_back=how, compute_kwargs=SYNC).run().proof
    assert proof.blocks_read_back == 33
    xr.testing.assert_equal(opened(repo), ds.compute())


def test_values_that_changed_on_the_way_are_found():
    config = uninlined()
    repo = new_repo(config=config)
    encoding = {"t": {"compressors": None}, "step": {"compressors": None}}

    def damage():
        for key in chunk_keys(repo):
            data = run(repo.storage.get(key))
            if len(data) == 32:  # chunks of step
                run(repo.storage.put(key, bytes(32)))

    job = Ingest(
        repo, "main", field(), encoding=encoding, read_back="all", progress=after_commit(damage),
        compute_kwargs=SYNC,
    )  # fmt: skip
    with pytest.raises(StorageError, match=r"6 of 21 blocks read back differ .* step\[0:4\]"):
        job.run()


# -- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "text"),
    [
        (None, {}, "expected an xarray Dataset"),
        ([], {}, "nothing to ingest"),
        (Files(paths=[]), {}, "nothing to ingest"),
        ("no-such.nc", {}, "no such file"),
        (field(), {"append_dim": "nope"}, "no dimension"),
        (field(), {"unit_dim": "nope"}, "no dimension 'nope'; there are: time, x"),
        (field(), {"append_dim": "time", "mode": "w"}, "append_dim goes with neither"),
        (field(), {"append_dim": "time", "unit_dim": "x"}, "append_dim goes with neither"),
        (field(), {"mode": "a"}, "mode='a': expected 'w-', 'w'"),
        (field(), {"verify": "all"}, "verify='all'"),
        (field(), {"read_back": "some"}, "read_back='some'"),
        (field(), {"unit_size": 0}, "unit_size=0: it is at least 1"),
        (field(), {"units_at_once": 0}, "units_at_once=0"),
        (field(), {"commit_every": "soon"}, "commit_every='soon'"),
        (field(), {"job_id": "a/b"}, "cannot be used as a name"),
        (field(), {"compute_kwargs": {"lock": True}}, "cannot be passed to the writer"),
        ([field(0, 4), field(4, 8).drop_vars("step")], {"append_dim": "time"}, "step: in"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(source, options, text):
    repo = new_repo()
    before = repo.storage.list_objects()
    with pytest.raises(InvalidInputError, match=text):
        Ingest(repo, "main", source, **options).run()
    assert repo.storage.list_objects() == before
