"""``icechunk ingest`` on small files, in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.codecs import BloscCodec

import icechunk
from icechunk.cli import writing
from tests.cli.conftest import series
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

RAW: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_coords": False}


def stored(path: Path, group: str | None = None, **how: Any) -> xr.Dataset:
    repo = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path)))
    session = repo.readonly_session("main")
    dataset: xr.Dataset = xr.open_zarr(
        session.store, group=group, consolidated=False, **(RAW | how)
    )
    return dataset.load()


def source(*paths: Path) -> xr.Dataset:
    """Return what the files hold, as it is stored there, joined along time."""
    parts = [xr.open_dataset(path, engine="netcdf4", **RAW).load() for path in paths]
    for part in parts:
        part.close()
    how: dict[str, Any] = {
        "data_vars": "minimal",
        "coords": "minimal",
        "compat": "override",
        "join": "override",
    }
    return xr.concat(parts, dim="time", **how) if len(parts) > 1 else parts[0]


def all_of(cli: Cli, *names: str) -> xr.Dataset:
    return source(*(cli.directory / name for name in names))


def commits(cli: Cli) -> int:
    return len(cli("log", "repo", "--json").data) - 1


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for number, (start, stop) in enumerate([(0, 4), (4, 8), (8, 11)]):
        series(start, stop).to_netcdf(tmp_path / f"{number}.nc", engine="netcdf4")
    return ["0.nc", "1.nc", "2.nc"]


def test_one_file(cli: Cli, files: list[str]) -> None:
    result = cli("ingest", files[0], "repo", "--json", "--message", "hello", "--metadata", "by=me")
    assert result.data["repository"] == "repo"
    (commit,) = result.data["commits"]
    assert commit["message"] == "hello"
    assert commit["variables"] == ["t", "time", "x"] or set(commit["variables"]) == {
        "t",
        "time",
        "x",
    }
    assert cli("log", "repo", "--json").data[0]["metadata"]["by"] == "me"
    xr.testing.assert_identical(stored(cli.directory / "repo"), all_of(cli, files[0]))


def test_several_files_are_one_commit(cli: Cli, files: list[str]) -> None:
    result = cli("ingest", *files, "repo", "--append-dim", "time")
    assert "created the repository repo" in result.err
    assert result.out == ""
    assert commits(cli) == 1
    xr.testing.assert_identical(stored(cli.directory / "repo"), all_of(cli, *files))


def test_commit_each(cli: Cli, files: list[str]) -> None:
    cli("ingest", *files, "repo", "--append-dim", "time", "--commit-each")
    assert commits(cli) == 3
    assert cli("log", "repo", "--json").data[0]["message"] == "Append 2.nc"
    xr.testing.assert_identical(stored(cli.directory / "repo"), all_of(cli, *files))


def test_append_to_chunks_that_are_not_full(cli: Cli, files: list[str]) -> None:
    cli("ingest", files[0], "repo", "--chunks", "time=3,x=2")
    cli("ingest", *files[1:], "repo", "--append-dim", "time")
    xr.testing.assert_identical(stored(cli.directory / "repo"), all_of(cli, *files))
    assert cli("ls", "repo", "t", "--json").data[0]["chunks"] == [3, 2]


def test_the_same_file_twice_is_a_conflict(cli: Cli, files: list[str]) -> None:
    cli("ingest", files[0], "repo", "--append-dim", "time")
    result = cli("ingest", files[0], "repo", "--append-dim", "time", code=4)
    assert "4 of 4 values of time are in repo already" in result.err
    assert "--region time=auto" in result.err
    assert commits(cli) == 1


def test_several_files_without_a_dimension(cli: Cli, files: list[str]) -> None:
    assert "--append-dim time" in cli("ingest", *files, "repo", code=2).err
    assert not (cli.directory / "repo").exists()


def test_a_group_that_is_there(cli: Cli, files: list[str]) -> None:
    cli("ingest", files[0], "repo")
    result = cli("ingest", files[1], "repo", code=4)
    assert "not empty" in result.err
    for way in ("--append-dim", "--mode a", "--mode w", "--group"):
        assert way in result.err
    cli("ingest", files[1], "repo", "--mode", "w")
    xr.testing.assert_identical(stored(cli.directory / "repo"), all_of(cli, files[1]))
    cli("ingest", files[2], "repo", "--group", "other/place")
    xr.testing.assert_identical(
        stored(cli.directory / "repo", "other/place"), all_of(cli, files[2])
    )
    xr.testing.assert_identical(stored(cli.directory / "repo"), all_of(cli, files[1]))


def test_add_a_variable(cli: Cli, files: list[str]) -> None:
    cli("ingest", files[0], "repo")
    more = series(0, 4).rename(t="u")
    more.to_netcdf(cli.directory / "more.nc", engine="netcdf4")
    cli("ingest", "more.nc", "repo", "--mode", "a")
    assert set(stored(cli.directory / "repo").data_vars) == {"t", "u"}


@pytest.mark.parametrize("region", ["time=4:8", "time=auto", "auto"])
def test_region(cli: Cli, files: list[str], region: str) -> None:
    cli("ingest", *files, "repo", "--append-dim", "time")
    series(4, 8, offset=500).to_netcdf(cli.directory / "fix.nc", engine="netcdf4")
    cli("ingest", "fix.nc", "repo", "--region", region)
    expected = all_of(cli, *files)
    expected.t[4:8] += 500
    xr.testing.assert_identical(stored(cli.directory / "repo"), expected)
    assert cli("log", "repo", "--json").data[0]["message"] == "Update fix.nc"


def test_region_of_nothing(cli: Cli, files: list[str]) -> None:
    assert "no arrays" in cli("ingest", files[0], "repo", "--region", "time=0:4", code=3).err
    cli("ingest", files[0], "repo2", "--region", "time=0:4", "--append-dim", "time", code=2)
    cli("ingest", *files, "repo2", "--region", "time=0:4", code=2)


def test_plan_writes_nothing(cli: Cli, files: list[str]) -> None:
    data = cli("ingest", *files, "repo", "--append-dim", "time", "--plan", "--json").data
    assert data["creates_repository"]
    assert data["commits"] == 1
    t = next(row for row in data["variables"] if row["name"] == "t")
    assert t["shape"] == [11, 4]
    assert not (cli.directory / "repo").exists()
    cli("ingest", files[0], "repo")
    shown = cli("ingest", files[1], "repo", "--append-dim", "time", "--plan").out
    assert "float32" in shown
    assert "in all" in shown
    assert commits(cli) == 1


def test_plan_for_memory_and_for_nowhere(cli: Cli, files: list[str]) -> None:
    assert cli("ingest", files[0], "memory://plan", "--plan", "--json").data["creates_repository"]
    cli("ingest", files[0], "nowhere", "--plan", "--no-create", code=3)


def test_no_create(cli: Cli, files: list[str]) -> None:
    assert "no repository" in cli("ingest", files[0], "repo", "--no-create", code=3).err
    assert not (cli.directory / "repo").exists()
    cli("ingest", files[0], "repo", "--branch", "other", code=3)


def test_memory_cannot_be_shared_with_processes(cli: Cli, files: list[str]) -> None:
    assert "one process" in cli("ingest", files[0], "memory://x", "--workers", "2", code=2).err
    cli("ingest", files[0], "memory://alone")
    cli("ingest", files[0], "repo", "--workers", "1", "--scheduler", "tcp://x:1", code=2)


def test_chunks(cli: Cli, files: list[str]) -> None:
    assert "no dimension tme" in cli("ingest", files[0], "repo", "--chunks", "tme=2", code=2).err
    cli("ingest", files[0], "repo", "--chunks", "time=2", "--chunks", "x=-1")
    assert cli("ls", "repo", "t", "--json").data[0]["chunks"] == [2, 4]


def test_large_chunks_are_cut_and_small_ones_joined(cli: Cli) -> None:
    large = xr.Dataset({"v": (("y", "x"), np.arange(9_000_000.0).reshape(3000, 3000))})
    large.to_netcdf(cli.directory / "large.nc", engine="scipy")
    cli("ingest", "large.nc", "repo")
    (node,) = cli("ls", "repo", "v", "--json").data
    assert 4_000_000 < np.prod(node["chunks"]) * 8 < 32_000_000
    np.testing.assert_array_equal(stored(cli.directory / "repo").v, large.v)


def packed(start: int, stop: int, **attributes: Any) -> xr.Dataset:
    values = np.arange(start, stop, dtype="i2")
    attrs = {"scale_factor": 0.5, "add_offset": 3.0, "_FillValue": np.int16(-9)} | attributes
    return xr.Dataset(
        {"p": ("time", values, attrs)},
        {"time": ("time", np.arange(start, stop), {"units": "days since 2000-01-01"})},
    )


def save(dataset: xr.Dataset, path: Path) -> None:
    dataset.to_netcdf(path, engine="netcdf4")


def test_packed_values_stay_packed(cli: Cli) -> None:
    save(packed(-9, 9), cli.directory / "p.nc")
    cli("ingest", "p.nc", "repo")
    there = stored(cli.directory / "repo")
    assert there.p.dtype == np.int16
    xr.testing.assert_identical(there, all_of(cli, "p.nc"))
    decoded = stored(cli.directory / "repo", mask_and_scale=True, decode_times=True)
    assert np.isnan(decoded.p[0])
    assert decoded.p[1] == -8 * 0.5 + 3.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"scale_factor": 0.25}, "scale_factor is 0.25"),
        ({"add_offset": 0.0}, "add_offset"),
        ({"_FillValue": np.int16(0)}, "_FillValue"),
    ],
)
def test_packing_that_differs_is_refused(cli: Cli, change: dict[str, Any], named: str) -> None:
    save(packed(0, 3), cli.directory / "a.nc")
    save(packed(3, 6, **change), cli.directory / "b.nc")
    result = cli("ingest", "a.nc", "b.nc", "repo", "--append-dim", "time", code=4)
    assert named in result.err
    assert "--decode" in result.err
    cli("ingest", "a.nc", "repo", "--append-dim", "time")
    assert named in cli("ingest", "b.nc", "repo", "--append-dim", "time", code=4).err
    assert named in cli("ingest", "b.nc", "repo", "--region", "time=0:3", code=4).err
    assert commits(cli) == 1


def test_decode_joins_what_is_packed_differently(cli: Cli) -> None:
    save(packed(0, 3), cli.directory / "a.nc")
    save(packed(3, 6, scale_factor=0.25), cli.directory / "b.nc")
    cli("ingest", "a.nc", "b.nc", "repo", "--append-dim", "time", "--decode")
    there = stored(cli.directory / "repo", mask_and_scale=True, decode_times=True)
    assert there.p.values.tolist() == [3.0, 3.5, 4.0, 3.75, 4.0, 4.25]
    assert str(there.time.values[5])[:10] == "2000-01-06"


def test_times_that_count_from_other_moments(cli: Cli) -> None:
    """The packed values stay; the times are the same times, counted like the first file's."""
    first = packed(0, 3)
    save(first, cli.directory / "a.nc")
    for name, start in (("b.nc", 3), ("c.nc", 5)):
        later = packed(start, start + 2)
        later["time"] = ("time", np.arange(2), {"units": f"days since 2000-01-0{start + 1}"})
        save(later, cli.directory / name)
    cli("ingest", "a.nc", "b.nc", "repo", "--append-dim", "time")
    cli("ingest", "c.nc", "repo", "--append-dim", "time")
    there = stored(cli.directory / "repo")
    assert there.time.values.tolist() == list(range(7))
    assert there.time.attrs["units"] == "days since 2000-01-01"
    assert there.p.values.tolist() == list(range(7))
    assert there.p.dtype == np.int16
    assert cli("ingest", "c.nc", "repo", "--append-dim", "time", code=4).err.count("time") >= 1
    cli("ingest", "c.nc", "repo", "--region", "time=auto")
    half = packed(7, 8)
    half["time"] = ("time", np.array([180]), {"units": "hours since 2000-01-01"})
    save(half, cli.directory / "half.nc")
    result = cli("ingest", "half.nc", "repo", "--append-dim", "time", code=4)
    assert "time: units is hours since 2000-01-01" in result.err


def test_what_does_not_grow_must_be_equal(cli: Cli, files: list[str]) -> None:
    moved = series(4, 8).assign_coords(x=np.arange(4.0) + 1)
    save(moved, cli.directory / "moved.nc")
    for args in ((files[0], "moved.nc"), ("moved.nc",)):
        if len(args) == 1:
            cli("ingest", files[0], "repo")
        result = cli("ingest", *args, "repo", "--append-dim", "time", code=4)
        assert "x: its values in moved.nc are not those in" in result.err
    renamed = series(4, 8).rename(t="s")
    save(renamed, cli.directory / "renamed.nc")
    assert "but not in" in cli("ingest", "renamed.nc", "repo", "--append-dim", "time", code=4).err
    wide = xr.Dataset({"t": (("time", "x"), np.zeros((2, 5), "f4"))}, {"time": [20, 21]})
    save(wide, cli.directory / "wide.nc")
    assert commits(cli) == 1


def test_a_scalar_coordinate_becomes_the_dimension(cli: Cli) -> None:
    for hour in (0, 1, 2):
        save(series(0, 3).isel(time=hour), cli.directory / f"h{hour}.nc")
    cli("ingest", "h0.nc", "h1.nc", "h2.nc", "repo", "--append-dim", "time")
    there = stored(cli.directory / "repo")
    assert there.t.dims == ("time", "x")
    np.testing.assert_array_equal(there.t, series(0, 3).t)
    np.testing.assert_array_equal(there.time, [0, 1, 2])
    result = cli("ingest", "h0.nc", "repo2", "--append-dim", "level", code=2)
    assert "no dimension level" in result.err


def test_attributes_that_json_cannot_hold(cli: Cli) -> None:
    values = np.array([1.0, np.nan], "f4")
    attributes = {"missing_value": np.float32(np.nan), "limit": np.inf, "flags": np.array([1, 2])}
    dataset = xr.Dataset({"v": ("x", values, attributes), "i": ("x", np.array([1, 2], "i2"))})
    dataset.to_netcdf(
        cli.directory / "odd.nc", engine="netcdf4", encoding={"v": {"_FillValue": None}}
    )
    result = cli("ingest", "odd.nc", "repo")
    assert "limit of v" in result.err
    there = stored(cli.directory / "repo")
    assert np.isnan(there.v.attrs.pop("_FillValue"))
    assert there.v.attrs == {"limit": "inf", "flags": [1, 2]}
    np.testing.assert_array_equal(there.v, values)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_stores(cli: Cli, zarr_format: int) -> None:
    series(0, 5).chunk(time=2).to_zarr(
        cli.directory / "s.zarr", zarr_format=zarr_format, consolidated=False
    )
    cli("ingest", "s.zarr", "repo", "--chunks", "time=2")
    there = stored(cli.directory / "repo")
    np.testing.assert_array_equal(there.t, series(0, 5).t)
    assert there.t.attrs["units"] == "K"


def test_the_compressors_of_a_zarr_store_are_kept(cli: Cli) -> None:
    codec = BloscCodec(cname="lz4", clevel=3)
    encoding = {"t": {"compressors": (codec,), "chunks": (2, 4), "fill_value": 5}}
    series(0, 5).to_zarr(cli.directory / "s.zarr", encoding=encoding, consolidated=False)
    cli("ingest", "s.zarr", "repo")
    cli("ingest", "repo", "copy")
    for name in ("repo", "copy"):
        repo = icechunk.Repository.open(
            icechunk.local_filesystem_storage(str(cli.directory / name))
        )
        array: Any = zarr.open_array(repo.readonly_session("main").store, path="t", mode="r")
        assert array.compressors[0].to_dict()["configuration"]["cname"] == "lz4"
        assert array.chunks == (2, 4)
        assert array.fill_value == 5


def test_grib(cli: Cli) -> None:
    pytest.importorskip("cfgrib")
    source = shared_dir() / "data" / "era5-2mt-2019-03-uk.grib"
    cli("ingest", source, "repo", "--chunks", "time=48")
    expected = xr.open_dataset(
        source, engine="cfgrib", backend_kwargs={"indexpath": ""}, **(RAW | {"decode_coords": True})
    )
    there = stored(cli.directory / "repo")
    np.testing.assert_array_equal(there.t2m, expected.t2m)
    np.testing.assert_array_equal(there.valid_time, expected.valid_time)
    assert there.t2m.attrs["GRIB_shortName"] == "2t"


def test_sources_that_cannot_be_read(cli: Cli, files: list[str]) -> None:
    assert "no such file" in cli("ingest", "nothing.nc", "repo", code=3).err
    (cli.directory / "text.nc").write_text("hello, this is no netCDF")
    assert "--engine" in cli("ingest", "text.nc", "repo", code=1).err
    whole = (cli.directory / files[0]).read_bytes()
    (cli.directory / "half.nc").write_bytes(whole[: len(whole) // 2])
    assert "half.nc: cannot be read" in cli("ingest", "half.nc", "repo", code=1).err
    (cli.directory / "half3.nc").write_bytes(b"CDF\x01\x00\x00")
    assert "half3.nc: cannot be read" in cli("ingest", "half3.nc", "repo", code=1).err
    (cli.directory / "dir").mkdir()
    assert "no Zarr store" in cli("ingest", "dir", "repo", code=2).err
    assert "from URLs" in cli("ingest", "https://example.org/x.nc", "repo", code=2).err
    xr.Dataset().to_netcdf(cli.directory / "empty.nc", engine="netcdf4")
    assert "no variables" in cli("ingest", "empty.nc", "repo", code=2).err
    assert not (cli.directory / "repo").exists()


def test_a_missing_library_names_the_extra(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icechunk.inputs.sources.find_spec", lambda _name: None)
    (cli.directory / "x.grib").write_bytes(b"GRIB....")
    assert "pip install 'icechunk[grib]'" in cli("ingest", "x.grib", "repo", code=1).err


def test_two_appends_at_once_one_is_told(
    cli: Cli, files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else commits between planning and commit."""
    cli("ingest", files[0], "repo")
    original = writing.commit

    def commit_late(*args: Any) -> str:
        monkeypatch.undo()
        cli("ingest", files[1], "repo", "--append-dim", "time")
        return original(*args)

    monkeypatch.setattr(writing, "commit", commit_late)
    result = cli("ingest", files[2], "repo", "--append-dim", "time", code=4)
    assert "Nothing was committed" in result.err
    assert stored(cli.directory / "repo").sizes["time"] == 8
