"""Virtual ingestion: every format and kind of place, read back as the files read themselves."""

from __future__ import annotations

import base64
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import icechunk
import icechunk.lake
from icechunk.errors import IcechunkError, InvalidInputError, SessionStateError, StorageError
from icechunk.lake.virtual.formats import format_of
from icechunk.lake.virtual.kerchunk_refs import load_references
from icechunk.lake.virtual.manifests import References, variable_of
from icechunk.lake.virtual.sources import Source
from tests.shared_data import shared_dir
from tests.web_server import WebServer

# VirtualiZarr, xarray and zarr warn about each other's newer and older ways.
pytestmark = pytest.mark.filterwarnings("ignore")

REAL = [
    ("basin_mask.nc", "netcdf", "h5netcdf"),
    ("eraint_uvz.nc", "netcdf", "scipy"),
    ("era5-2mt-2019-03-uk.grib", "grib", "cfgrib"),
]


def data_file(name: str) -> str:
    return str(shared_dir() / "data" / name)


def month(number: int, *, steps: int = 2) -> xr.Dataset:
    """Return a dataset of one month; values tell where they are from."""
    times = np.datetime64("2020-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "h")
    times = times + number * np.timedelta64(31, "D")
    values = number * 1000 + np.arange(steps * 20, dtype="f4").reshape(steps, 4, 5)
    return xr.Dataset(
        {"t": (("time", "y", "x"), values, {"units": "K"})},
        {"time": times, "y": np.arange(4.0), "x": np.arange(5.0)},
        {"title": "months"},
    )


def write_months(folder: Path, count: int, engine: str = "h5netcdf") -> list[str]:
    paths = []
    for number in range(count):
        path = folder / f"month {number}.nc"  # the blank is on purpose
        month(number).to_netcdf(path, engine=engine)
        paths.append(str(path))
    return paths


@pytest.mark.parametrize(("name", "kind", "engine"), REAL)
def test_real_files(repo, name, kind, engine):
    path = data_file(name)
    assert format_of(Source.at(path)) == kind
    getattr(repo, f"add_virtual_{kind}")(path, "data")
    repo.commit("virtual")
    with xr.open_dataset(path, engine=engine) as direct:
        if engine == "cfgrib":
            direct.attrs.pop("history")
        xr.testing.assert_equal(repo.to_xarray("data").load(), direct.load())
    status = repo.repository.readonly_session("main").all_virtual_chunk_locations()
    assert status


@pytest.mark.parametrize("engine", ["h5netcdf", "scipy"])
def test_many_files_and_one_more(repo, tmp_path, engine):
    paths = write_months(tmp_path, 4, engine)
    repo.add_virtual_netcdf(paths[:3], "deep/er", concat_dim="time")
    repo.commit("three")
    repo.add_virtual_netcdf(paths[3], "deep/er", append_dim="time")
    repo.commit("and one")
    expected = xr.concat([month(n) for n in range(4)], "time")
    xr.testing.assert_equal(repo.to_xarray("deep/er").load(), expected)
    assert repo.to_xarray("deep/er").attrs["title"] == "months"


def test_several_files_need_a_dimension(repo, tmp_path):
    paths = write_months(tmp_path, 2)
    with pytest.raises(InvalidInputError, match="concat_dim"):
        repo.add_virtual_netcdf(paths, "x")
    with pytest.raises(InvalidInputError, match="depth"):
        repo.add_virtual_netcdf(paths, "x", concat_dim="depth")


@pytest.mark.slow
def test_on_a_cluster(repo, tmp_path):
    from distributed import Client as DaskClient
    from distributed import LocalCluster

    paths = write_months(tmp_path, 3)
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        DaskClient(cluster),
    ):
        repo.add_virtual_netcdf(paths, "m", concat_dim="time")
    repo.commit("by workers")
    expected = xr.concat([month(n) for n in range(3)], "time")
    xr.testing.assert_equal(repo.to_xarray("m").load(), expected)


def test_hdf5_with_chunks_filters_and_groups(repo, tmp_path):
    values = np.arange(600, dtype="<i4").reshape(20, 30)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("g")
        group.create_dataset("v", data=values, chunks=(7, 30), compression="gzip", shuffle=True)
        group["v"].attrs["units"] = "m"
    repo.add_virtual_hdf(str(tmp_path / "a.h5"), "h", group="g")
    repo.commit("hdf5")
    np.testing.assert_array_equal(repo.root_group["h/v"][:], values)
    assert repo.root_group["h/v"].attrs["units"] == "m"
    with pytest.raises(InvalidInputError, match=r"no arrays in the root of .*its groups: g"):
        repo.add_virtual_hdf(str(tmp_path / "a.h5"), "i")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr(repo, tmp_path, zarr_format):
    data = month(1).drop_vars("time")
    store = str(tmp_path / "z.zarr")
    data.chunk(x=2).to_zarr(store, zarr_format=zarr_format, consolidated=False)
    assert format_of(Source.at(store)) == "zarr"
    repo.add_virtual_zarr(store, "z")
    repo.commit("zarr")
    xr.testing.assert_equal(repo.to_xarray("z").load(), data)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "byteorder"),
    [
        ((64, 60), "u2", {}, "<"),
        ((64, 60), "u2", {"tile": (32, 32), "compression": "deflate"}, "<"),
        ((64, 64), "i2", {"tile": (32, 32), "compression": "lzw", "predictor": True}, "<"),
        (
            (64, 60, 3),
            "u1",
            {"tile": (32, 32), "compression": "deflate", "photometric": "rgb"},
            "<",
        ),
        ((64, 64), "f4", {"tile": (32, 32), "compression": "zstd"}, ">"),
    ],
)
def test_tiff_with_overviews(repo, tmp_path, shape, dtype, options, byteorder):
    values = np.random.default_rng(0).integers(0, 250, shape).astype(dtype)
    path = tmp_path / "image.tif"
    with tifffile.TiffWriter(path, byteorder=byteorder) as file:
        file.write(values, subifds=1, **options)
        file.write(values[::2, ::2], subfiletype=1, **options)
    repo.add_virtual_tiff(str(path), "scene", "image")
    repo.commit("tiff")
    group = repo.root_group["scene"]
    np.testing.assert_array_equal(group["0"][...], values)
    np.testing.assert_array_equal(group["1"][...], values[::2, ::2])
    assert group["0"].metadata.dimension_names == ("Y", "X", "band")[: values.ndim]
    assert repo.to_xarray("scene")["1"].shape[:2] == (32, -(-shape[1] // 2))


def test_tiff_with_one_level_has_the_given_name(repo, tmp_path):
    values = np.arange(64, dtype="u2").reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", values)
    repo.add_virtual_tiff(str(tmp_path / "a.tif"), "scene", "dem")
    np.testing.assert_array_equal(repo.root_group["scene/dem"][...], values)


def test_tiff_that_no_codec_reads(repo, tmp_path):
    pixels = np.zeros((64, 64, 3), "u1")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "b.tif", pixels[:37, :, 0], rowsperstrip=10)
    for name, why in (("a", "bands"), ("b", "last strip"), ("missing", "cannot read")):
        with pytest.raises((InvalidInputError, StorageError), match=why):
            repo.add_virtual_tiff(str(tmp_path / f"{name}.tif"), "s", "x")
    grey = {"photometric": "minisblack", "tile": (32, 32)}
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((3, 64, 64), "u1"), **grey)
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((64, 64), "u1"), **grey)
        file.write(np.zeros((32, 64), "f4"), **grey)
    tifffile.imwrite(tmp_path / "bits.tif", np.zeros((64, 64), bool))
    for name, why in (("pages", "3 images"), ("two", "2 images"), ("bits", "samples have 1 bits")):
        with pytest.raises(InvalidInputError, match=why):
            repo.add_virtual_tiff(str(tmp_path / f"{name}.tif"), "s", "x")
    (tmp_path / "c.tif").write_bytes(b"II*\0garbage")
    with pytest.raises(InvalidInputError, match="no TIFF file"):
        repo.add_virtual_tiff(str(tmp_path / "c.tif"), "s", "x")
    assert repo.status().modified_paths == []


def test_tiff_without_data(repo, tmp_path):
    options = {"tile": (16, 16), "extratags": [(42113, "s", 0, "255", True)]}
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((32, 32), "u1"), **options)
    repo.add_virtual_tiff(str(tmp_path / "a.tif"), "scene", "image")
    array = repo.root_group["scene/image"]
    assert (array.fill_value, array.attrs["nodata"]) == (255, 255)


# -- kerchunk references ----------------------------------------------------------------------


def references(count: int, url: str) -> dict[str, object]:
    """Return references to ``count`` rows of ten float32 each, and an inline coordinate."""
    common = {"fill_value": None, "order": "C", "compressor": None, "filters": None}
    zarray = {**common, "zarr_format": 2, "dtype": "<f4"}
    inline = base64.b64encode(np.arange(10, dtype="<i4").tobytes()).decode()
    refs: dict[str, object] = {
        ".zgroup": json.dumps({"zarr_format": 2}),
        ".zattrs": json.dumps({"title": "by kerchunk"}),
        "t/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["time", "x"], "units": "K"}),
        "t/.zarray": json.dumps({**zarray, "shape": [count, 10], "chunks": [1, 10]}),
        "x/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["x"]}),
        "x/.zarray": json.dumps({**zarray, "dtype": "<i4", "shape": [10], "chunks": [10]}),
        "x/0": f"base64:{inline}",
    }
    for row in range(count):
        refs[f"t/{row}.0"] = [url, row * 40, 40]
    return {"version": 1, "refs": refs}


@pytest.fixture
def raw(tmp_path: Path) -> tuple[str, np.ndarray]:
    values = np.arange(70, dtype="<f4").reshape(7, 10)
    (tmp_path / "raw.bin").write_bytes(values.tobytes())
    return str(tmp_path / "raw.bin"), values


def _as_dict(refs: dict[str, object], _folder: Path) -> object:
    return refs


def _as_json(refs: dict[str, object], folder: Path) -> object:
    (folder / "refs.json").write_text(json.dumps(refs))
    return str(folder / "refs.json")


def _as_parquet(refs: dict[str, object], folder: Path) -> object:
    from fsspec.implementations.reference import LazyReferenceMapper

    target = str(folder / "refs.parq")
    mapper = LazyReferenceMapper.create(
        root=target, fs=fsspec.filesystem("file"), record_size=3, engine="pyarrow"
    )
    for key, value in refs["refs"].items():
        mapper[key] = value.encode() if isinstance(value, str) else value
    mapper.flush()
    return target


@pytest.mark.parametrize("form", [_as_dict, _as_json, _as_parquet])
def test_kerchunk_references(repo, raw, tmp_path, form):
    path, values = raw
    repo.add_kerchunk_references(form(references(7, path), tmp_path), "k")
    repo.commit("references")
    found = repo.to_xarray("k").load()
    np.testing.assert_array_equal(found.t, values)
    np.testing.assert_array_equal(found.x, np.arange(10))
    assert found.t.attrs["units"] == "K"


def test_kerchunk_references_append_and_have_groups(repo, raw):
    path, values = raw
    repo.add_kerchunk_references(references(7, path), "k")
    repo.add_kerchunk_references(references(7, path), "k", append_dim="time")
    np.testing.assert_array_equal(repo.root_group["k/t"][:], np.concatenate([values, values]))
    flat = references(7, path)["refs"]
    nested = {key if key == ".zgroup" else f"deep/{key}": value for key, value in flat.items()} | {
        "deep/.zgroup": '{"zarr_format": 2}'
    }
    repo.add_kerchunk_references({"version": 1, "refs": nested}, "n")
    np.testing.assert_array_equal(repo.root_group["n/deep/t"][:], values)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"templates": {"u": "s3://b"}}, "templates"),
        ({"gen": [{"key": "x"}]}, "gen"),
        ({"version": 2}, "version"),
        ({"refs": {"t/0.0": ["s3://b/x", 0, 4]}}, "no t/.zarray"),
        ({"refs": {}}, "no array"),
    ],
)
def test_references_that_cannot_be_used(change, why):
    with pytest.raises(InvalidInputError, match=why):
        load_references({**references(2, "s3://b/x"), **change})


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("t/0.0", ["file.nc", 0, 40], "relative"),
        ("t/0.0", ["s3://b/x"], "whole file"),
        ("t/0.0", ["s3://b/x", -1, 40], "ranges"),
        ("t/9.0", ["s3://b/x", 0, 40], "chunk grid"),
        ("t/a.0", ["s3://b/x", 0, 40], "keys or ranges|no chunk key"),
    ],
)
def test_references_with_a_damaged_entry(key, value, why):
    refs = references(2, "s3://b/x")
    refs["refs"][key] = value
    with pytest.raises(InvalidInputError, match=why):
        load_references(refs)


def test_columns_of_references():
    metadata = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(5, 4), chunks=(2, 4), dtype="f4", fill_value=7
    ).metadata
    given = References(
        coords=np.array([[2, 0], [0, 0]]),
        paths=["s3://b/y", "s3://b/x"],
        offsets=np.array([5, 6], np.uint64),
        lengths=np.array([7, 8], np.uint64),
    )
    manifest = variable_of(metadata, given).data.manifest
    assert manifest.dict() == {
        "0.0": {"path": "s3://b/x", "offset": 6, "length": 8},
        "2.0": {"path": "s3://b/y", "offset": 5, "length": 7},
    }


# -- places, containers, changed files --------------------------------------------------------


def test_containers_and_authorisation_are_set_up_by_the_call(client, repo, tmp_path):
    (path,) = write_months(tmp_path, 1)
    repo.add_virtual_netcdf(path, "m")
    repo.commit("one")
    prefixes = list(repo.repository.config.virtual_chunk_containers)
    assert prefixes == [f"{tmp_path.as_uri()}/"]
    later = client.get_repo(repo.name)
    with pytest.raises(IcechunkError, match="authorize_virtual_chunk_access"):
        later.to_xarray("m").t.load()
    allowed = client.get_repo(repo.name, authorize_virtual_chunk_access=dict.fromkeys(prefixes))
    xr.testing.assert_equal(allowed.to_xarray("m").load(), month(0))


def test_containers_that_others_stored_meanwhile_stay(client, repo, tmp_path):
    """And nothing else is stored of what one who opened the repository set for himself."""
    config = icechunk.RepositoryConfig(inline_chunk_threshold_bytes=7)
    others = [client.get_repo(repo.name, config=config) for _ in range(3)]
    for number, other in enumerate(others):
        folder = tmp_path / str(number)
        folder.mkdir()
        other.checkout()
        other.add_virtual_netcdf(write_months(folder, 1), "m", concat_dim="time")
    stored = icechunk.Repository.fetch_config(repo.repository.storage)
    assert sorted(stored.virtual_chunk_containers) == [
        f"{(tmp_path / str(number)).as_uri()}/" for number in range(3)
    ]
    assert stored.inline_chunk_threshold_bytes is None


def test_a_session_that_cannot_be_written_is_refused_before_files_are_read(repo):
    repo.checkout("main", for_writing=False)
    with pytest.raises(SessionStateError, match="only reads"):
        repo.add_virtual_netcdf("/nowhere.nc", "m")
    with pytest.raises(SessionStateError, match="only reads"):
        repo.add_kerchunk_references("/nowhere.json", "m")


def test_a_file_that_has_changed_is_not_read(repo, tmp_path):
    (path,) = write_months(tmp_path, 1)
    repo.add_virtual_netcdf(path, "m")
    repo.commit("one")
    repo.to_xarray("m").t.load()
    later = time.time() + 10
    os.utime(path, (later, later))
    with pytest.raises(StorageError, match=r"modified|changed") as caught:
        repo.to_xarray("m").t.load()
    assert caught.value.kind == "virtual-chunk-modified"


@pytest.mark.parametrize("name", ["a.txt", "b.nc", "c.grib"])
def test_files_of_no_known_format(repo, tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing that anybody knows" * 9)
    with pytest.raises(InvalidInputError, match="begins with"):
        format_of(Source.at(tmp_path / name))
    with pytest.raises(InvalidInputError, match="HDF5"):
        repo.add_virtual_netcdf(str(tmp_path / name), "x")
    with pytest.raises(StorageError, match="cannot read"):
        repo.add_virtual_netcdf(str(tmp_path / "missing.nc"), "x")


def test_where_sources_are():
    assert Source.at("gcs://b/x/y.nc").url == "gs://b/x/y.nc"
    assert Source.at("s3a://b/x/y.nc").bucket == "s3://b/"
    assert Source.at("https://h/x/y.nc").folder == "https://h/x/"
    assert Source.at("/data/a b.nc").url == "file:///data/a%20b.nc"
    assert "hidden!" not in repr(Source.at("s3://b/x", {"secret": "hidden!"}))
    for bad in ("s3://", "zip://a.nc::s3://b/x.zip"):
        with pytest.raises(InvalidInputError):
            Source.at(bad)


def test_a_file_system_of_fsspec(repo, tmp_path):
    """One that has no kind of its own: read through fsspec, referred to by its URL."""
    (path,) = write_months(tmp_path, 1)
    repo.add_virtual_netcdf(f"local://{path}", "m")
    xr.testing.assert_equal(repo.to_xarray("m").load(), month(0))


def test_files_on_a_web_server(repo, tmp_path):
    month(0).to_netcdf(tmp_path / "month.nc", engine="h5netcdf")
    tifffile.imwrite(tmp_path / "a.tif", np.arange(64, dtype="u2").reshape(8, 8))
    with WebServer.running(tmp_path) as server:
        repo.add_virtual_netcdf(f"{server.url}/month.nc", "m")
        repo.add_virtual_tiff(f"{server.url}/a.tif", "scene", "dem")
        repo.commit("from the web")
        xr.testing.assert_equal(repo.to_xarray("m").load(), month(0))
        assert repo.root_group["scene/dem"][7, 7] == 63
        later = time.time() + 10
        os.utime(tmp_path / "month.nc", (later, later))
        with pytest.raises(StorageError) as caught:
            repo.to_xarray("m").t.load()
        assert caught.value.kind == "virtual-chunk-modified"
        with pytest.raises(InvalidInputError, match="cannot list"):
            repo.add_virtual_zarr(f"{server.url}/z.zarr", "z")


@pytest.fixture(scope="module")
def s3_server():
    from tests.s3_server import S3Server

    with S3Server.running() as server:
        yield server


def test_files_on_s3(client, s3_server, tmp_path, monkeypatch):
    from tests.s3_server import BUCKET, KEY, SECRET

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    options = {
        "key": KEY,
        "secret": SECRET,
        "client_kwargs": {"endpoint_url": s3_server.url, "region_name": "us-east-1"},
    }
    remote = fsspec.filesystem("s3", **options)
    urls = []
    for path in write_months(tmp_path, 2):
        name = f"months/{Path(path).name.replace(' ', '_')}"
        remote.put_file(path, f"{BUCKET}/{name}")
        urls.append(f"s3://{BUCKET}/{name}")
    values = np.random.default_rng(0).integers(0, 250, (64, 64)).astype("u1")
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(32, 32), compression="deflate")
    remote.put_file(str(tmp_path / "a.tif"), f"{BUCKET}/a.tif")
    grib = data_file("era5-2mt-2019-03-uk.grib")
    remote.put_file(str(grib), f"{BUCKET}/a.grib")
    month(0).drop_vars("time").to_zarr(str(tmp_path / "z"), zarr_format=3, consolidated=False)
    remote.put(str(tmp_path / "z"), f"{BUCKET}/z", recursive=True)

    repo = client.create_repo("on/s3")
    repo.add_virtual_netcdf(urls, "m", concat_dim="time", storage_options=options)
    repo.add_virtual_tiff(f"s3://{BUCKET}/a.tif", "scene", "image", storage_options=options)
    repo.add_virtual_grib(f"s3://{BUCKET}/a.grib", "g", storage_options=options)
    repo.add_virtual_zarr(f"s3://{BUCKET}/z", "z", storage_options=options)
    repo.commit("from S3")
    expected = xr.concat([month(0), month(1)], "time")
    xr.testing.assert_equal(repo.to_xarray("m").load(), expected)
    np.testing.assert_array_equal(repo.root_group["scene/image"][...], values)
    with xr.open_dataset(grib, engine="cfgrib") as direct:
        xr.testing.assert_equal(repo.to_xarray("g").t2m[:3].load(), direct.t2m[:3].load())
    xr.testing.assert_equal(repo.to_xarray("z").load(), month(0).drop_vars("time"))
    assert SECRET not in repr(repo.repository.config)


def test_prepared_references_go_in_fast_enough_to_count(repo):
    """The target is 100,000 a second; this only sees that nothing is done one by one."""
    refs = references(20_000, "s3://bucket/file.bin")
    repo.add_kerchunk_references(refs, "k", reference_options={"anon": True})
    repo.commit("many")
    session = repo.repository.readonly_session("main")
    assert len(session.all_virtual_chunk_locations()) == 20_000


def test_the_command_line(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from icechunk.cli.main import app

    monkeypatch.chdir(tmp_path)
    paths = write_months(tmp_path, 3)

    def run_command(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments))
        assert done.exit_code == code, done.output
        return done.stdout

    shown = run_command("virtualize", *paths[:2], "r", "--concat-dim", "time", "--json")
    assert json.loads(shown)["references"] >= 2
    run_command("virtualize", paths[2], "r", "--append-dim", "time", "-m", "one more")
    prefix = f"{tmp_path.as_uri()}/"
    repository = icechunk.Repository.open(
        icechunk.local_filesystem_storage(str(tmp_path / "r")),
        authorize_virtual_chunk_access={prefix: None},
    )
    opened = xr.open_zarr(repository.readonly_session("main").store, consolidated=False)
    xr.testing.assert_equal(opened.load(), xr.concat([month(n) for n in range(3)], "time"))
    month(0).to_netcdf(tmp_path / "deep.nc", engine="h5netcdf", group="g")
    run_command("virtualize", "deep.nc", "r", "-g", "d", code=2)
    run_command("virtualize", "deep.nc", "r", "-g", "d", "--from-group", "g")
    run_command("virtualize", "deep.nc", "r", "-g", "d", "--from-group", "g", code=4)
    run_command("virtualize", "deep.nc", "r", "-g", "d", "--from-group", "g", "--replace")
    run_command("virtualize", paths[0], paths[1], code=2)
    run_command("virtualize", "r", code=2)
    run_command("virtualize", "nothing.nc", "r", code=3)
    run_command("virtualize", *paths, "r", "--format", "nonsense", code=2)


def test_lake_commands(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from icechunk.cli.main import app

    monkeypatch.chdir(tmp_path)

    def run_command(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(app, ["lake", *arguments])
        assert done.exit_code == code, done.output
        return done.stdout

    for command in (
        ["ls", "L"],
        ["ls", "L", "--json"],
        ["tree", "L", "a/b"],
        ["sessions", "L", "a/b"],
    ):
        run_command(*command, code=3)
    made = json.loads(
        run_command(
            "create", "L", "a/b", "--metadata", "level=3", "--description", "words", "--json"
        )
    )
    assert made["metadata"] == {"level": 3}
    run_command("create", "L", "a/b", code=4)
    run_command("create", "L", "nonsense", code=2)
    assert "a/b" in run_command("ls", "L", "--filter", "level == `3`")
    assert json.loads(run_command("ls", "L", "--filter", "level == `4`", "--json")) == []
    repo = icechunk.lake.Client("L").get_repo("a/b")
    repo.root_group.create_array("t", shape=(2,), dtype="i4", attributes={"units": "K"})
    session = json.loads(run_command("sessions", "L", "a/b", "--json"))[0]
    assert session["session_id"] == repo.current.session_id
    assert datetime.fromisoformat(session["expires_at"]) > datetime.now(UTC)
    assert "active" in run_command("sessions", "L", "a/b")
    repo.commit("an array")
    assert "int32" in run_command("tree", "L", "a/b")
    tree = json.loads(run_command("tree", "L", "a/b", "--filter", "units == 'K'", "--json"))
    assert [child["path"] for child in tree["children"]] == ["/t"]
    run_command("tree", "L", "a/c", code=3)
    run_command("tree", "L", "a/b", "--ref", "nothing", code=3)
    run_command("delete", "L", "a/b", code=2)
    run_command("delete", "L", "a/b", "--confirm", "a/c", code=2)
    run_command("delete", "L", "a/b", "--confirm", "a/b")
    assert json.loads(run_command("ls", "L", "--json")) == []
    assert "no repositories" in run_command("ls", "L")
