"""What a plan guesses, held against what the write then does."""

from __future__ import annotations

import os
import pickle

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import icechunk as ic
import icechunk.xarray
from icechunk.dask import plan_write
from icechunk.dask.grid import AxisGrid
from icechunk.dask.tasks import WriteResult
from tests.s3_server import S3Server


@pytest.fixture
def repo(tmp_path):
    """One file for each chunk: where they share files, sizes vary with the order of the tasks."""
    storage = ic.local_filesystem_storage(tmp_path / "repo", pack_small_chunks=False)
    return ic.Repository.create(storage)


def noise(shape, chunks, dtype="f8"):
    return da.random.default_rng(0).random(shape, chunks=chunks).astype(dtype)


def row(plan, name="t"):
    return next(row for row in plan.variables if row.name == name)


def manifest_bytes(repo, snapshot_id, *before):
    old = {file.id for snapshot in before for file in repo.list_manifest_files(snapshot)}
    return sum(f.size_bytes for f in repo.list_manifest_files(snapshot_id) if f.id not in old)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("shape", "chunks", "dtype"),
    [
        ((1000,), (1,), "f8"),  # all inline
        ((300, 100), (1, 100), "f8"),
        ((60, 10, 40), (1, 5, 40), "f4"),
        ((2000,), (2000,), "f4"),
        ((), (), "f8"),
    ],
)
def test_manifests_and_uploads_of_a_new_array(tmp_path, shape, chunks, dtype, packed):
    storage = ic.local_filesystem_storage(tmp_path / "repo", pack_small_chunks=packed)
    repo = ic.Repository.create(storage)
    dims = ("time", "y", "x")[: len(shape)]
    data = noise(shape, chunks, dtype)
    ds = xr.Dataset({"t": (dims, data)})
    encoding = {"t": {"compressors": None}}
    session = repo.writable_session("main")
    plan = plan_write(ds, session, encoding=encoding)
    report = ds.to_icechunk(session, encoding=encoding)
    written = manifest_bytes(repo, session.commit("written"))
    assert row(plan).manifest_bytes == pytest.approx(written, rel=0.25, abs=60)
    inline = row(plan).upload_bytes == 0
    assert report.stored_bytes == (ds.t.nbytes if inline else row(plan).upload_bytes)


def test_an_append_beside_and_into_manifests(repo):
    ds = xr.Dataset({"t": (("time", "x"), noise((1500, 100), (10, 100)))})
    session = repo.writable_session("main")
    ds.to_icechunk(session)
    first = session.commit("first")
    session = repo.writable_session("main")
    more = xr.Dataset({"t": (("time", "x"), noise((20, 100), (10, 100)))})
    plan = plan_write(more, session, append_dim="time")
    # The manifest is small, so it is read and written again with two references more.
    assert row(plan).requests == 2 + 1 + 1
    more.to_icechunk(session, append_dim="time")
    second = session.commit("second")
    written = manifest_bytes(repo, second, first)
    assert row(plan).manifest_bytes == pytest.approx(written, rel=0.2)


def test_a_region_of_large_manifests(repo):
    ds = xr.Dataset({"t": (("time", "x"), noise((3000, 100), (1, 100)))})
    session = repo.writable_session("main")
    ds.to_icechunk(session, compute=False)
    session.commit("template")
    for part in (slice(0, 2000), slice(2000, 2100), slice(1000, 1001)):
        session = repo.writable_session("main")
        before = session.snapshot_id
        piece = ds.isel(time=part)
        plan = plan_write(piece, session, region={"time": part})
        piece.to_icechunk(session, region={"time": part})
        written = manifest_bytes(repo, session.commit(str(part)), before)
        assert row(plan).manifest_bytes == pytest.approx(written, rel=0.2, abs=60), part


def test_configured_splitting(tmp_path):
    every = ic.ManifestSplitCondition.AnyArray()
    dims = {ic.ManifestSplitDimCondition.DimensionName("time"): 100}
    splitting = ic.ManifestSplittingConfig.from_dict({every: dims})
    config = ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=splitting))
    storage = ic.local_filesystem_storage(str(tmp_path / "cut"), pack_small_chunks=False)
    repo = ic.Repository.create(storage, config)
    session = repo.writable_session("main")
    ds = xr.Dataset({"t": (("time", "x"), noise((350, 100), (1, 100)))})
    plan = plan_write(ds, session)
    ds.to_icechunk(session)
    snapshot_id = session.commit("cut in four")
    assert len(repo.list_manifest_files(snapshot_id)) == row(plan).requests - 350 == 4
    assert row(plan).manifest_bytes == pytest.approx(manifest_bytes(repo, snapshot_id), rel=0.2)


@pytest.mark.parametrize(("chunk", "count"), [(1, 400), (100, 40)])
def test_wire_bytes_are_what_results_weigh(repo, chunk, count, monkeypatch):
    ds = xr.Dataset({"t": (("time", "x"), noise((count, 100), (chunk * 4, 100)))})
    session = repo.writable_session("main")
    encoding = {"t": {"chunks": (chunk, 100)}}
    plan = plan_write(ds, session, encoding=encoding)
    sizes = []
    dumped = WriteResult.__init__

    def weigh(self, **kwargs):
        dumped(self, **kwargs)
        if self.blocks == 1:
            sizes.append(len(pickle.dumps(self)))

    monkeypatch.setattr(WriteResult, "__init__", weigh)
    ds.to_icechunk(session, encoding=encoding)
    session.discard_changes()
    assert row(plan).tasks > 0
    assert row(plan).wire_bytes == pytest.approx(sum(sizes[: row(plan).tasks]), rel=0.35)


def test_requests_are_those_an_object_store_sees():
    with S3Server.running() as server:
        repo = ic.Repository.create(ic.s3_storage(**server.options(prefix=os.urandom(4).hex())))
        ds = xr.Dataset(
            {"t": (("time", "x"), noise((45, 100), (10, 100))), "small": ("x", np.arange(100))}
        )
        encoding = {"t": {"compressors": None}, "small": {"compressors": None}}

        def requests_of(write):
            session = repo.writable_session("main")
            before = len(server.requests("/test-bucket/"))
            plan, options = write(session)
            before = len(server.requests("/test-bucket/"))
            options.pop("what").to_icechunk(session, **options)
            session.commit("written")
            return plan, len(server.requests("/test-bucket/")) - before

        def create(session):
            return plan_write(ds, session, encoding=encoding), {"what": ds, "encoding": encoding}

        def append(session):
            # Begins inside a chunk, which has to be read.
            options = {"append_dim": "time", "align_chunks": True}
            more = ds[["t"]].isel(time=slice(15))
            return plan_write(more, session, **options), {"what": more, **options}

        plan, seen = requests_of(create)
        assert plan.requests == seen == 5 + 1 + 1 + 1 + 5
        plan, seen = requests_of(append)
        assert plan.requests - row(plan).requests == 5
        assert seen <= plan.requests <= seen + 1  # the manifest is in the cache


def test_chunks_of_a_range():
    regular = AxisGrid.regular(25, 10)
    assert [regular.chunk_index(n) for n in (0, 9, 10, 24)] == [0, 0, 1, 2]
    assert regular.whole_chunk_count(0, 25) == 3
    assert regular.whole_chunk_count(5, 25) == 2
    assert regular.whole_chunk_count(0, 24) == 2
    assert regular.whole_chunk_count(12, 13) == 0
    uneven = AxisGrid.of_sizes((3, 5, 2))
    assert [uneven.chunk_index(n) for n in (0, 3, 8, 9)] == [0, 1, 2, 2]
    assert uneven.whole_chunk_count(0, 8) == 2
    assert uneven.whole_chunk_count(1, 10) == 2
    assert uneven.mean_chunk() == pytest.approx(10 / 3)
