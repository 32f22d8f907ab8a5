"""Virtual datasets joined, appended and put beside each other: right, or refused."""

from __future__ import annotations

import base64
import importlib.metadata
import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

import eccodes
import fsspec
import h5py
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.memory import MemoryFileSystem
from kerchunk.hdf import SingleHdf5ToZarr
from packaging.version import Version

from icechunk.errors import InvalidInputError, StorageError
from icechunk.lake.virtual import writing
from icechunk.lake.virtual.formats import require_complete
from icechunk.lake.virtual.sources import Source
from tests.lake.test_virtual import data_file

if TYPE_CHECKING:
    from pathlib import Path

    from icechunk.lake import Client, Repo

# VirtualiZarr, xarray and zarr warn about each other's newer and older ways.
pytestmark = pytest.mark.filterwarnings("ignore")

DAY = np.timedelta64(1, "D")


def write(  # what files differ in
    path: Path,
    first_day: int,
    *,
    steps: int = 2,
    scale: float = 1.0,
    fill: int = -9999,
    units: str = "K",
    x: tuple[int, ...] = (0, 1, 2),
    chunk: int = 1,
    times: str = "days since 1979-01-01",
    more: bool = False,
    hour: int = 0,
) -> str:
    """Write packed temperatures whose values are the number of the day."""
    days = np.arange(first_day, first_day + steps)
    data = np.repeat(days[:, None].astype("f8"), len(x), axis=1)
    time = np.datetime64("1979-01-01", "ns") + days * DAY + np.timedelta64(hour, "h")
    dataset = xr.Dataset(
        {"t": (("time", "x"), data, {"units": units})}, {"time": time, "x": list(x)}
    )
    packing = {
        "dtype": "i2",
        "scale_factor": scale,
        "_FillValue": fill,
        "chunksizes": (chunk, len(x)),
    }
    encoding: dict[str, Any] = {"t": packing, "time": {"units": times, "dtype": "i8"}}
    if more:
        dataset["more"], encoding["more"] = dataset.t * 2, packing
    dataset.to_netcdf(path, engine="h5netcdf", encoding=encoding)
    return str(path)


# -- missing values ---------------------------------------------------------------------------


def _netcdf(
    repo: Repo, path: Path, data: xr.Dataset, encoding: dict[str, Any], engine: str
) -> None:
    kind: dict[str, Any] = {"format": "NETCDF3_64BIT"} if engine == "scipy" else {}
    data.to_netcdf(path, engine=engine, encoding={"p": encoding}, **kind)
    repo.add_virtual_netcdf(str(path), "g")


def _zarr(repo: Repo, path: Path, data: xr.Dataset, encoding: dict[str, Any], version: int) -> None:
    data.to_zarr(path, zarr_format=version, consolidated=False, encoding={"p": encoding})
    repo.add_virtual_zarr(str(path), "g")


def _kerchunk(repo: Repo, path: Path, data: xr.Dataset, encoding: dict[str, Any]) -> None:
    data.to_netcdf(path, engine="h5netcdf", encoding={"p": encoding})
    references = SingleHdf5ToZarr(str(path), inline_threshold=0).translate()
    repo.add_kerchunk_references(references, "g")


@pytest.mark.parametrize("packed", [{"dtype": "i2", "scale_factor": 0.5}, {"dtype": "f4"}])
@pytest.mark.parametrize("source", ["netcdf3", "netcdf4", "zarr2", "zarr3", "kerchunk"])
def test_missing_values_are_missing(repo: Repo, tmp_path: Path, source: str, packed: dict) -> None:
    data = xr.Dataset({"p": (("x",), np.array([1.0, np.nan, 3.0]))})
    encoding = {**packed, "_FillValue": -9999}
    path = tmp_path / "source"
    if source.startswith("netcdf"):
        _netcdf(repo, path, data, encoding, "scipy" if source == "netcdf3" else "h5netcdf")
    elif source.startswith("zarr"):
        _zarr(repo, path, data, encoding, int(source[-1]))
    else:
        _kerchunk(repo, path, data, encoding)
    np.testing.assert_array_equal(repo.to_xarray("g").p, [1, np.nan, 3])


def test_groups_of_a_zarr_store_and_what_is_left_out(repo: Repo, tmp_path: Path) -> None:
    data = xr.Dataset({"p": (("x",), [1.0, np.nan]), "q": (("x",), [1.0, 2.0])})
    data.to_zarr(tmp_path / "z", group="deep", zarr_format=2, encoding={"p": {"_FillValue": -1.0}})
    repo.add_virtual_zarr(str(tmp_path / "z"), "g", group="deep", drop_variables="q")
    xr.testing.assert_equal(repo.to_xarray("g").load(), data[["p"]])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_of_a_zarr_store_are_never_left_out(tmp_path: Path, zarr_format: int) -> None:
    """Some releases of zarr do so; a group is none, and what was read is complete."""
    data = xr.Dataset({"t": (("x",), [1.0]), "q": (("x",), [2.0])})
    store = tmp_path / "z"
    for group in (None, "deep"):
        data.to_zarr(store, group=group, zarr_format=zarr_format, consolidated=False, mode="a")
    for group in (None, "deep"):
        require_complete(Source.at(store), group, {"t", "q"})
        with pytest.raises(InvalidInputError, match=r"does not find all arrays .*: t"):
            require_complete(Source.at(store), group, {"q"})


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
def test_attributes_and_variables_left_out(repo: Repo, tmp_path: Path, engine: str) -> None:
    attributes = {"valid_range": np.array([0, 100], "i4"), "flags": "a b", "number": np.int32(3)}
    data = xr.Dataset({"p": (("x",), [1.0, 2.0], attributes), "q": ((), 3.0)}, attrs={"year": 1979})
    data.to_netcdf(tmp_path / "a.nc", engine=engine)
    repo.add_virtual_netcdf(str(tmp_path / "a.nc"), "g", drop_variables=["q"])
    found = repo.to_xarray("g")
    assert list(found.variables) == ["p"]
    assert (found.p.attrs["valid_range"], found.p.attrs["number"]) == ([0, 100], 3)
    assert (found.p.attrs["flags"], found.attrs["year"]) == ("a b", 1979)


# -- joining and appending --------------------------------------------------------------------

DIFFERENT = [
    ({"scale": 0.5}, "t: scale_factor is 0.5"),
    ({"units": "degC"}, "t: units is degC"),
    ({"fill": -1}, "t: .*fill value|_FillValue"),
    ({"x": (7, 8, 9)}, "x: its values in"),
    ({"x": (0, 1)}, "length along x is 2"),
    ({"more": True}, "more: in"),
    ({"chunk": 2}, "t: chunk shape"),
]


@pytest.mark.parametrize(("other", "why"), DIFFERENT)
def test_files_that_differ_are_not_joined(
    repo: Repo, tmp_path: Path, other: dict, why: str
) -> None:
    first, second = write(tmp_path / "a.nc", 0), write(tmp_path / "b.nc", 2, **other)
    for files in ([first, second], [second, first]):
        with pytest.raises(InvalidInputError, match=why.partition(" is ")[0]) as caught:
            repo.add_virtual_netcdf(files, "g", concat_dim="time")
        assert "b.nc" in str(caught.value)
    assert repo.status().modified_paths == []


@pytest.mark.parametrize(("other", "why"), DIFFERENT)
def test_files_that_differ_are_not_appended(
    repo: Repo, tmp_path: Path, other: dict, why: str
) -> None:
    repo.add_virtual_netcdf(write(tmp_path / "a.nc", 0), "g")
    repo.commit("first")
    with pytest.raises(InvalidInputError, match=why):
        repo.add_virtual_netcdf(write(tmp_path / "b.nc", 2, **other), "g", append_dim="time")
    assert repo.status().modified_paths == []


def test_nothing_is_appended_to_a_chunk_that_is_not_full(repo: Repo, tmp_path: Path) -> None:
    repo.add_virtual_netcdf(write(tmp_path / "a.nc", 0, steps=3, chunk=2), "g")
    with pytest.raises(InvalidInputError, match="last chunk is not full"):
        repo.add_virtual_netcdf(write(tmp_path / "b.nc", 3, chunk=2), "g", append_dim="time")
    np.testing.assert_array_equal(repo.to_xarray("g").t[:, 0], [0, 1, 2])


def test_what_is_there_already_is_not_appended_again(repo: Repo, tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", 0)
    repo.add_virtual_netcdf(path, "g", append_dim="time")
    with pytest.raises(InvalidInputError, match="2 of 2 values of time are in"):
        repo.add_virtual_netcdf(path, "g", append_dim="time")


def test_times_are_counted_as_those_that_are_there(repo: Repo, tmp_path: Path) -> None:
    repo.add_virtual_netcdf(write(tmp_path / "a.nc", 0), "g", append_dim="time")
    later = write(tmp_path / "b.nc", 2, times="hours since 1979-01-02")
    repo.add_virtual_netcdf(later, "g", append_dim="time")
    expected = np.datetime64("1979-01-01", "ns") + np.arange(4) * DAY
    np.testing.assert_array_equal(repo.to_xarray("g").time, expected)
    between = write(tmp_path / "c.nc", 4, times="hours since 1979-01-01", hour=6)
    with pytest.raises(InvalidInputError, match="cannot be counted in 'days since 1979-01-01'"):
        repo.add_virtual_netcdf(between, "g", append_dim="time")


def test_several_files_are_appended_at_once(repo: Repo, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{day}.nc", day) for day in (0, 2, 4, 6)]
    for some in (paths[:2], paths[2:]):
        repo.add_virtual_netcdf(some, "g", append_dim="time")
    np.testing.assert_array_equal(repo.to_xarray("g").t[:, 0], np.arange(8))


@pytest.mark.parametrize("engine", ["scipy", "h5netcdf"])
def test_files_that_are_one_step_each(repo: Repo, tmp_path: Path, engine: str) -> None:
    paths = []
    for day in range(4):
        time = np.datetime64("2000-01-01", "ns") + day * DAY
        data = xr.Dataset(
            {"p": (("x",), np.arange(3.0) + day), "crs": ((), 0)},
            {"time": time, "x": np.arange(3), "run": time - DAY, "member": 7},
        )
        data.to_netcdf(tmp_path / f"{day}.nc", engine=engine)
        paths.append(str(tmp_path / f"{day}.nc"))
    repo.add_virtual_netcdf(paths[:2], "all", concat_dim="time")
    repo.add_virtual_netcdf(paths[2:], "all", append_dim="time")
    for path in paths:
        repo.add_virtual_netcdf(path, "each", append_dim="time")
    for group in ("all", "each"):
        found = repo.to_xarray(group).load()
        assert found.p.dims == ("time", "x")
        np.testing.assert_array_equal(found.p[:, 0], np.arange(4))
        np.testing.assert_array_equal(
            found.time, np.datetime64("2000-01-01", "ns") + np.arange(4) * DAY
        )
        np.testing.assert_array_equal(found.run, found.time - DAY)
        assert (found.member.dims, int(found.member)) == ((), 7)


def test_grib_files_of_one_message_each(repo: Repo, tmp_path: Path) -> None:
    source, paths = data_file("era5-2mt-2019-03-uk.grib"), []
    with open(source, "rb") as file:  # ecCodes asks for the descriptor
        for number in range(4):
            message = eccodes.codes_grib_new_from_file(file)
            path = tmp_path / f"{number}.grib"
            path.write_bytes(eccodes.codes_get_message(message))
            eccodes.codes_release(message)
            paths.append(str(path))
    repo.add_virtual_grib(paths[:2], "g", concat_dim="time")
    repo.add_virtual_grib(paths[2], "g", append_dim="time")
    repo.add_virtual_grib(paths[3], "g", append_dim="time")
    with xr.open_dataset(source, engine="cfgrib") as direct:
        first = direct.isel(time=slice(4)).load()
    xr.testing.assert_equal(repo.to_xarray("g").load(), first)
    (tmp_path / "no.grib").write_bytes(b"GRIB and no more")
    with pytest.raises(InvalidInputError, match="cannot refer to the messages"):
        repo.add_virtual_grib(str(tmp_path / "no.grib"), "n")


def references(hours: list[int], since: str, place: str) -> dict[str, Any]:
    """Return references to two rows, with times in them."""
    common = {"zarr_format": 2, "fill_value": None, "order": "C", "compressor": None,
              "filters": None}  # fmt: skip
    inline = base64.b64encode(np.array(hours, "<i8").tobytes()).decode()
    return {
        "version": 1,
        "refs": {
            ".zgroup": '{"zarr_format": 2}',
            "time/.zarray": json.dumps({**common, "dtype": "<i8", "shape": [2], "chunks": [2]}),
            "time/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["time"], "units": since}),
            "time/0": f"base64:{inline}",
            "p/.zarray": json.dumps({**common, "dtype": "<f4", "shape": [2], "chunks": [1]}),
            "p/.zattrs": json.dumps({"_ARRAY_DIMENSIONS": ["time"]}),
            "p/0": [place, 0, 4],
            "p/1": [place, 4, 4],
        },
    }


def test_times_within_references_are_times(repo: Repo, tmp_path: Path) -> None:
    path = tmp_path / "raw.bin"
    path.write_bytes(np.array([1, 2], "<f4").tobytes())
    repo.add_kerchunk_references(references([0, 1], "hours since 2000-01-01", str(path)), "g")
    later = references([0, 1], "hours since 2000-01-02", str(path))
    repo.add_kerchunk_references(later, "g", append_dim="time")
    expected = np.array(
        ["2000-01-01T00", "2000-01-01T01", "2000-01-02T00", "2000-01-02T01"], "M8[ns]"
    )
    np.testing.assert_array_equal(repo.to_xarray("g").time, expected)
    np.testing.assert_array_equal(repo.to_xarray("g").p, [1, 2, 1, 2])


# -- beside what is there ---------------------------------------------------------------------


def test_arrays_that_are_there_are_replaced_only_when_asked(repo: Repo, tmp_path: Path) -> None:
    repo.add_virtual_netcdf(write(tmp_path / "a.nc", 0, steps=4), "g")
    repo.commit("first")
    shorter = write(tmp_path / "b.nc", 10, scale=0.5, units="degC")
    with pytest.raises(InvalidInputError, match="already: t, time") as caught:
        repo.add_virtual_netcdf(shorter, "g")
    assert "--replace" in str(caught.value)
    assert repo.status().modified_paths == []
    with pytest.raises(InvalidInputError, match="choose one"):
        repo.add_virtual_netcdf(shorter, "g", replace=True, append_dim="time")
    repo.add_virtual_netcdf(shorter, "g", replace=True)
    repo.commit("second")
    with xr.open_dataset(shorter, engine="h5netcdf") as direct:
        xr.testing.assert_identical(repo.to_xarray("g").load(), direct.load())


def test_variables_of_several_files_share_coordinates(repo: Repo, tmp_path: Path) -> None:
    area = np.arange(6.0).reshape(2, 3)
    one = xr.Dataset({"a": (("y", "x"), area)}, {"x": [1, 2, 3], "lat": (("y", "x"), area)})
    two = xr.Dataset({"b": (("y", "x"), area)}, {"x": [1, 2, 3]})
    other = xr.Dataset({"c": (("x",), [1.0, 2.0])}, {"x": [1, 2]})
    for name, data in {"one": one, "two": two, "other": other}.items():
        data.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    repo.add_virtual_netcdf(str(tmp_path / "one.nc"), "g")
    repo.add_virtual_netcdf(str(tmp_path / "two.nc"), "g")
    xr.testing.assert_equal(repo.to_xarray("g").load(), xr.merge([one, two]))
    with pytest.raises(InvalidInputError, match="already: x"):
        repo.add_virtual_netcdf(str(tmp_path / "other.nc"), "g")
    with pytest.raises(InvalidInputError, match="one length in a group"):
        repo.add_virtual_netcdf(str(tmp_path / "other.nc"), "g", replace=True)


def test_arrays_without_names_of_dimensions_are_no_hindrance(repo: Repo, tmp_path: Path) -> None:
    repo.root_group.create_array("flags", shape=(3,), dtype="i1")
    for day in (0, 2):
        repo.add_virtual_netcdf(write(tmp_path / f"{day}.nc", day), "", append_dim="time")
    np.testing.assert_array_equal(repo.root_group["t"][:, 0], np.arange(4))
    repo.root_group.create_array("other/time", shape=(2,), dtype="i1")
    with pytest.raises(InvalidInputError, match="time at /other has no names"):
        repo.add_virtual_netcdf(write(tmp_path / "4.nc", 4), "other")


def test_places_that_are_none(repo: Repo, tmp_path: Path) -> None:
    path = write(tmp_path / "a.nc", 0)
    repo.add_virtual_netcdf(path, "g")
    repo.root_group.create_group("h/t")
    for where, why in (("g/t", "is an array"), ("g/t/deeper", "is an array"), ("h", "has groups")):
        with pytest.raises(InvalidInputError, match=why):
            repo.add_virtual_netcdf(path, where)
    with pytest.raises(InvalidInputError, match="'tme' is no dimension"):
        repo.add_virtual_netcdf(write(tmp_path / "b.nc", 2), "g", append_dim="tme")
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["t"] = np.arange(3)
    repo.add_virtual_hdf(str(tmp_path / "f.h5"), "f")
    with pytest.raises(InvalidInputError, match="nothing in /f"):
        repo.add_virtual_netcdf(write(tmp_path / "c.nc", 2), "f", append_dim="time")
    with pytest.raises(InvalidInputError, match="cannot reach nosuch://"):
        repo.add_virtual_netcdf("nosuch://a/b.nc", "n")
    with pytest.raises(InvalidInputError, match="no Zarr group"):
        repo.add_virtual_zarr(str(tmp_path), "n")
    with pytest.raises(InvalidInputError, match="0 files"):
        repo.add_virtual_netcdf([], "n")


def test_a_change_while_a_file_is_looked_at_is_noticed(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time is taken before the contents, so what came between is a change."""
    path = tmp_path / "a.nc"
    write(path, 0)
    real = writing.open_source

    def and_changed(*arguments: Any) -> xr.Dataset:
        opened = real(*arguments)
        write(path, 100)
        later = path.stat().st_mtime + 10
        os.utime(path, (later, later))
        return opened

    monkeypatch.setattr(writing, "open_source", and_changed)
    repo = client.create_repo("a/b")
    repo.add_virtual_netcdf(str(path), "g")
    with pytest.raises(StorageError) as caught:
        repo.to_xarray("g").t.load()
    assert caught.value.kind == "virtual-chunk-modified"


def test_memory_is_no_place_for_references(repo: Repo) -> None:
    with pytest.raises(InvalidInputError, match="this process's memory"):
        repo.add_virtual_netcdf("memory://folder/a.nc", "g")


class _Shelf(MemoryFileSystem):  # type: ignore[misc] # fsspec has no annotations
    """A file system that only fsspec knows."""

    protocol = "shelf"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("shelf://").strip("/")


class _Broken(_Shelf):
    protocol = "broken"

    def cat_file(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError("no credentials\nand much more")


def test_errors_of_a_file_system_are_ours(repo: Repo) -> None:
    fsspec.register_implementation("broken", _Broken, clobber=True)
    for add in (repo.add_virtual_netcdf, repo.add_virtual_grib):
        with pytest.raises(StorageError, match=r"cannot read broken://a/b: no credentials\. Check"):
            add("broken://a/b", "n")


def test_a_file_system_that_only_fsspec_knows(repo: Repo, client: Client, tmp_path: Path) -> None:
    fsspec.register_implementation("shelf", _Shelf, clobber=True)
    shelf = fsspec.filesystem("shelf")
    for name, day in (("a", 0), ("b", 2)):
        shelf.put_file(write(tmp_path / f"{name}.nc", day), f"/folder/{name}.nc")
    files = ["shelf://folder/a.nc", "shelf://folder/b.nc"]
    repo.add_virtual_netcdf(files, "g", concat_dim="time")
    repo.commit("from a shelf")
    np.testing.assert_array_equal(repo.to_xarray("g").t[:, 0], np.arange(4))
    (prefix,) = repo.repository.config.virtual_chunk_containers
    later = client.get_repo(repo.name, authorize_virtual_chunk_access={prefix: None})
    np.testing.assert_array_equal(later.to_xarray("g").t[:, 0], np.arange(4))


def test_netcdf3_with_an_unlimited_dimension(repo: Repo, tmp_path: Path) -> None:
    data = xr.Dataset(
        {
            "a": (("time", "x"), np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]])),
            "b": (("time",), np.array([1, 2], "i1")),
            "c": (("x",), [1.0, 2.0, 3.0]),
        },
        {"time": np.array(["2000-01-01", "2000-01-02"], "M8[ns]")},
    )
    for name, variables in (("several", ["a", "b", "c"]), ("one", ["a", "c"])):
        path, encoding = tmp_path / f"{name}.nc", {"a": {"dtype": "i2", "_FillValue": -9}}
        data[variables].to_netcdf(path, engine="scipy", unlimited_dims=["time"], encoding=encoding)
        repo.add_virtual_netcdf(str(path), name)
        with xr.open_dataset(path, engine="scipy") as direct:
            xr.testing.assert_equal(repo.to_xarray(name).load(), direct.load())


def test_texts_of_any_length_are_held_by_value(repo: Repo, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["names"] = np.array(["a", "bb"], dtype=h5py.string_dtype())
    if Version(importlib.metadata.version("virtualizarr")) < Version("2.6"):  # Python 3.11
        with pytest.raises(InvalidInputError, match="cannot refer to the chunks of file:"):
            repo.add_virtual_hdf(str(tmp_path / "a.h5"), "g")
        return
    repo.add_virtual_hdf(str(tmp_path / "a.h5"), "g")
    assert repo.to_xarray("g").names.values.tolist() == ["a", "bb"]


def test_damaged_files_and_what_is_no_argument(repo: Repo, tmp_path: Path) -> None:
    whole = write(tmp_path / "a.nc", 0)
    (tmp_path / "cut.nc").write_bytes((tmp_path / "a.nc").read_bytes()[:900])
    xr.Dataset({"p": (("x",), [1.0])}).to_netcdf(tmp_path / "old.nc", engine="scipy")
    (tmp_path / "cut3.nc").write_bytes((tmp_path / "old.nc").read_bytes()[:40])
    for name in ("cut", "cut3"):
        with pytest.raises(InvalidInputError, match="cannot refer to the chunks of file:"):
            repo.add_virtual_netcdf(str(tmp_path / f"{name}.nc"), "g")
    with pytest.raises(InvalidInputError, match="not the path of a group: None"):
        repo.add_virtual_netcdf(whole, None)  # type: ignore[arg-type] # on purpose
    with pytest.raises(TypeError, match="contact_dim"):
        repo.add_virtual_netcdf(whole, "g", contact_dim="time")


def test_files_of_references_that_are_none(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{nope")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match=r"bad.json cannot be read"):
        repo.add_kerchunk_references(tmp_path / "bad.json", "g")
    for name in ("missing.json", "empty"):
        with pytest.raises(StorageError) as caught:
            repo.add_kerchunk_references(str(tmp_path / name), "g")
        assert caught.value.kind == "object-not-found"
