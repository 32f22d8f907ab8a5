"""virtualizarr, as the registry has it, writes references into sessions and reads them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import virtualizarr
import xarray as xr
from obspec_utils.registry import ObjectStoreRegistry
from obstore.store import LocalStore
from packaging.version import Version
from virtualizarr.parsers import HDFParser

import icechunk as ic
from tests.peer import run_peer
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path

# zarr before 3.2 warns of the codecs that virtualizarr gives HDF5's filters.
pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

VERSION = Version(virtualizarr.__version__)
FILES = 3
REGISTRY = ObjectStoreRegistry({"file://": LocalStore()})

READ = """
import json, sys
import icechunk as ic
import xarray as xr

storage, prefix = ic.local_filesystem_storage(sys.argv[1]), sys.argv[2]
repo = ic.Repository.open(storage, authorize_virtual_chunk_access={prefix: None})
ds = xr.open_zarr(repo.readonly_session("main").store, consolidated=False).load()
print(json.dumps({name: ds[name].values.astype("f8").tolist() for name in ("t2m", "time", "y")}))
"""


def file(folder: Path, number: int) -> Path:
    """Write 4 hours of a small field as netCDF 4, compressed and in chunks."""
    values = np.random.default_rng(number).random((4, 6, 8)).astype("f4")
    hours = np.arange(4) + 4 * number
    ds = xr.Dataset(
        {"t2m": (("time", "y", "x"), values, {"units": "K"})},
        coords={"time": hours, "y": np.arange(6.0), "x": np.arange(8.0)},
        attrs={"title": "drawn"},
    )
    path = folder / f"f{number}.nc"
    encoding = {
        "t2m": {"chunksizes": (2, 3, 8), "zlib": True, "shuffle": True},
        "time": {"chunksizes": (4,)},
    }
    ds.to_netcdf(path, engine="h5netcdf", encoding=encoding, unlimited_dims=["time"])
    return path


def virtual(path: Path, **kwargs: Any) -> Any:
    return virtualizarr.open_virtual_dataset(
        path.as_uri(), registry=REGISTRY, parser=HDFParser(), **kwargs
    )


def repository(folder: Path, data: Path) -> ic.Repository:
    prefix = data.as_uri() + "/"
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        ic.VirtualChunkContainer(prefix, ic.local_filesystem_store(str(data)))
    )
    repo = ic.Repository.create(
        ic.local_filesystem_storage(str(folder / "repo")),
        config,
        authorize_virtual_chunk_access={prefix: None},
    )
    repo.save_config()
    return repo


def write(repo: ic.Repository, vds: Any, **kwargs: Any) -> None:
    session = repo.writable_session("main")
    vds.vz.to_icechunk(session.store, **kwargs)
    session.commit("virtual")


def read(repo: ic.Repository, **kwargs: Any) -> xr.Dataset:
    store = repo.readonly_session("main").store
    return xr.open_zarr(store, consolidated=False, **kwargs).load()


def together(paths: list[Path]) -> xr.Dataset:
    parts = [xr.load_dataset(path, engine="h5netcdf") for path in paths]
    return xr.concat(parts, "time", data_vars="minimal")


@pytest.mark.peer
def test_written_appended_and_read_by_both(tmp_path: Path) -> None:
    paths = [file(tmp_path, number) for number in range(FILES)]
    repo = repository(tmp_path, tmp_path)
    for number, path in enumerate(paths):
        with virtual(path) as vds:
            write(repo, vds, **({"append_dim": "time"} if number else {}))
    got, expected = read(repo), together(paths)
    xr.testing.assert_identical(got, expected)
    # The fields are references; nothing of them was copied.
    locations = set(repo.readonly_session("main").all_virtual_chunk_locations())
    assert locations == {path.as_uri() for path in paths}
    session = repo.readonly_session("main")
    assert session.chunk_type("t2m", [5, 1, 0]) == ic.ChunkType.virtual
    theirs = run_peer(READ, tmp_path / "repo", tmp_path.as_uri() + "/")
    for name in ("t2m", "time", "y"):
        np.testing.assert_array_equal(theirs[name], expected[name].values)


def test_loaded_variables_are_chunks_of_the_repository(tmp_path: Path) -> None:
    path = file(tmp_path, 0)
    repo = repository(tmp_path, tmp_path)
    with virtual(path, loadable_variables=["time", "y", "x"]) as vds:
        write(repo, vds, group="deep/down")
    xr.testing.assert_identical(read(repo, group="deep/down"), together([path]))
    session = repo.readonly_session("main")
    assert session.chunk_type("deep/down/time", [0]) != ic.ChunkType.virtual
    assert session.chunk_type("deep/down/t2m", [0, 0, 0]) == ic.ChunkType.virtual


@pytest.mark.skipif(Version("2.3") > VERSION, reason="region came with virtualizarr 2.3")
def test_a_region_is_replaced(tmp_path: Path) -> None:
    paths = [file(tmp_path, number) for number in range(3)]
    repo = repository(tmp_path, tmp_path)
    with virtual(paths[0]) as vds:
        write(repo, vds)
    with virtual(paths[1]) as vds:
        write(repo, vds, append_dim="time")
    with virtual(paths[2]) as vds:
        write(repo, vds.drop_vars(["y", "x"]), region={"time": slice(4, 8)})
    expected = together([paths[0], paths[2]])
    np.testing.assert_array_equal(read(repo)["t2m"], expected["t2m"])


def test_a_changed_file_is_noticed_and_a_place_without_container_refused(tmp_path: Path) -> None:
    import os
    import time

    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    path = file(tmp_path / "data", 0)
    repo = repository(tmp_path, tmp_path / "data")
    with virtual(path) as vds:
        write(repo, vds)
    read(repo)
    later = time.time() + 100
    os.utime(path, (later, later))
    with pytest.raises(ic.StorageError) as changed:
        read(repo)
    assert changed.value.kind == "virtual-chunk-modified"
    store = repo.writable_session("main").store
    with virtual(file(tmp_path / "elsewhere", 1)) as vds, pytest.raises(ValueError, match="ontai"):
        vds.vz.to_icechunk(store, group="elsewhere")


def test_a_tree_of_datasets(tmp_path: Path) -> None:
    paths = [file(tmp_path, number) for number in range(2)]
    repo = repository(tmp_path, tmp_path)
    with virtual(paths[0]) as first, virtual(paths[1]) as second:
        tree = xr.DataTree.from_dict({"/one": first, "/two": second})
        session = repo.writable_session("main")
        tree.vz.to_icechunk(session.store)
        session.commit("tree")
    for name, path in zip(("one", "two"), paths, strict=True):
        xr.testing.assert_identical(read(repo, group=name), together([path]))


def test_a_real_file(tmp_path: Path) -> None:
    # A netCDF 4 file of the shared folder; those of version 3 are no HDF5.
    path = shared_dir() / "data" / "basin_mask.nc"
    repo = repository(tmp_path, path.parent)
    with virtual(path) as vds:
        write(repo, vds)
    xr.testing.assert_identical(read(repo), xr.load_dataset(path, engine="h5netcdf"))


@pytest.mark.skipif(Version("2.6") > VERSION, reason="reading came with virtualizarr 2.6")
def test_references_are_read_out_again(tmp_path: Path) -> None:
    from virtualizarr.parsers import IcechunkParser

    path = file(tmp_path, 0)
    repo = repository(tmp_path, tmp_path)
    with virtual(path, loadable_variables=["y"]) as vds:
        write(repo, vds)
    url = (tmp_path / "repo").as_uri()
    # virtualizarr asks the store for its root, to open the repository.
    rooted = ObjectStoreRegistry({"file://": LocalStore("/")})
    parser = IcechunkParser()
    with virtualizarr.open_virtual_dataset(url, registry=rooted, parser=parser) as again:
        entries = again["t2m"].data.manifest.dict()
        assert {entry["path"] for entry in entries.values()} == {path.as_uri()}
        other = tmp_path / "other"
        other.mkdir()
        second = repository(other, tmp_path)
        write(second, again)
    xr.testing.assert_identical(read(second), together([path]))
