"""Opening files and stores lazily through xarray, with every value and attribute as it is stored.

The engine is chosen by what a file contains, not by what it is called.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import xarray as xr
import zarr

from icechunk.errors import IcechunkError
from icechunk.inputs.kinds import is_url
from icechunk.inputs.problems import InputError, Reason
from icechunk.repository import Repository
from icechunk.storage import local_filesystem_storage

if TYPE_CHECKING:
    from collections.abc import Mapping

ICECHUNK: Final = "icechunk"
_MAGIC: Final = {
    b"CDF\x01": "netcdf3",
    b"CDF\x02": "netcdf3",
    b"CDF\x05": "netcdf5",
    b"\x89HDF": "hdf5",
    b"GRIB": "grib",
}
_HDF5_BLOCK: Final = 512
_ENGINES: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "netcdf3": {"scipy": ("scipy",), "netcdf4": ("netCDF4",)},
    "netcdf5": {"netcdf4": ("netCDF4",)},
    "hdf5": {"h5netcdf": ("h5netcdf", "h5py"), "netcdf4": ("netCDF4",)},
    "grib": {"cfgrib": ("cfgrib", "eccodes")},
}
_EXTRAS: Final = {"netcdf3": "netcdf", "netcdf5": "netcdf", "hdf5": "netcdf", "grib": "grib"}
AS_STORED: Final = {
    "mask_and_scale": False,
    "decode_times": False,
    "decode_timedelta": False,
    "decode_coords": False,
    "concat_characters": True,
}
"""Options of xarray that leave values and attributes as they are."""


def open_source(
    source: str, *, engine: str | None, options: Mapping[str, Any], decode: bool
) -> tuple[xr.Dataset, bool]:
    """Open one source lazily.

    Parameters
    ----------
    source : str
        Path or URL.
    engine : str or None
        An xarray engine, or ``icechunk``; None to look at the content.
    options : mapping
        Passed to the engine.
    decode : bool
        Decode packed values and times; else everything is as stored.

    Returns
    -------
    dataset : xarray.Dataset
        With dask arrays chunked as the source is.
    zarr_format_3 : bool
        Whether its encodings are those of the Zarr format that is written here.

    Raises
    ------
    InputError
        Nothing there, nothing known, a library missing, or content that cannot be read.
    """
    chosen = engine or _engine_of(source)
    how: dict[str, Any] = {} if decode else dict(AS_STORED)
    try:
        if chosen == ICECHUNK:
            return _open_repository(source, how), True
        if chosen == "zarr":
            return _open_zarr(source, how, options)
        if chosen == "cfgrib":
            # Its index files would otherwise be left beside the data.
            options = {"indexpath": "", **options}
        if chosen == "h5netcdf":
            options = {"phony_dims": "access", **options}
        path = source if is_url(source) else str(Path(source).expanduser().resolve())
        dataset = xr.open_dataset(
            path,
            engine=chosen,
            chunks={},
            backend_kwargs=dict(options),
            **how,
        )
    except (InputError, IcechunkError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{source}: cannot be read with engine {chosen}: {_first_line(error)}",
            _reading_hint(chosen, error),
        ) from error
    return dataset, False


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reading_hint(engine: str, error: Exception) -> str | None:
    if engine == "cfgrib" and "multiple values" in str(error):
        return (
            "The file mixes fields that do not fit one grid of dimensions. Pick some, such as "
            """--open-option 'filter_by_keys={"typeOfLevel": "surface"}'."""
        )
    if engine not in xr.backends.list_engines():
        return f"Engines here: {', '.join(sorted(xr.backends.list_engines()))}."
    return None


def _open_zarr(
    source: str, how: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[xr.Dataset, bool]:
    group = zarr.open_group(
        source,
        mode="r",
        path=options.get("group", ""),
        storage_options=options.get("storage_options"),
    )
    # Said outright, because xarray warns when it has to find out.
    consolidated = group.metadata.consolidated_metadata is not None
    dataset = xr.open_dataset(
        source,
        engine="zarr",
        chunks={},
        backend_kwargs={"consolidated": consolidated, **options},
        **how,
    )
    return dataset, group.metadata.zarr_format == 3


def _open_repository(source: str, how: Mapping[str, Any]) -> xr.Dataset:
    session = Repository.open(local_filesystem_storage(source)).readonly_session("main")
    dataset: xr.Dataset = xr.open_zarr(session.store, consolidated=False, chunks={}, **how)
    return dataset


def _engine_of(source: str) -> str:
    if is_url(source):
        return _engine_of_url(source)
    path = Path(source).expanduser()
    if path.is_dir():
        if (path / "repo").is_file():
            return ICECHUNK
        if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata")):
            return "zarr"
        raise InputError(
            f"{source}: this directory is no Zarr store and no repository",
            "Name the files in it instead.",
            Reason.USAGE,
        )
    if not path.is_file():
        raise InputError(f"{source}: no such file", None, Reason.NOT_FOUND)
    kind = _kind_of(path)
    if kind is None:
        raise InputError(
            f"{source}: not a netCDF, HDF5 or GRIB file",
            "If xarray can open it, name the engine with --engine.",
        )
    for engine, modules in _ENGINES[kind].items():
        if all(find_spec(module) is not None for module in modules):
            return engine
    raise InputError(
        f"{source}: reading it needs {' or '.join(_ENGINES[kind])}",
        f"pip install 'icechunk[{_EXTRAS[kind]}]'",
    )


def _engine_of_url(source: str) -> str:
    bare = source.partition("?")[0].rstrip("/")
    if bare.endswith((".nc", ".nc4", ".h5", ".hdf5", ".grib", ".grib2", ".grb")):
        raise InputError(
            f"{source}: only Zarr stores are read from URLs",
            "Download the file first, or name an engine that opens URLs with --engine.",
            Reason.USAGE,
        )
    return "zarr"


def _kind_of(path: Path) -> str | None:
    """Return the kind of a file by its first bytes; HDF5 may begin at 512, 1024, 2048, ..."""
    with path.open("rb") as file:
        start = file.read(4)
        if start in _MAGIC:
            return _MAGIC[start]
        size, offset = path.stat().st_size, _HDF5_BLOCK
        while offset < size:
            file.seek(offset)
            if _MAGIC.get(file.read(4)) == "hdf5":
                return "hdf5"
            offset *= 2
    return None
