"""One file of any format as virtual datasets, by group."""

from __future__ import annotations

import dataclasses
import json
import re
import struct
from typing import TYPE_CHECKING, Any, Final

import h5py  # type: ignore[import-untyped] # it has no annotations
import numpy as np
import obstore
import zarr
from kerchunk.netCDF3 import NetCDF3ToZarr
from obspec_utils.registry import ObjectStoreRegistry
from virtualizarr import open_virtual_dataset
from virtualizarr.manifests import ManifestArray, ManifestGroup, ManifestStore
from virtualizarr.parsers import HDFParser, ZarrParser
from zarr.errors import GroupNotFoundError

from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError
from icechunk.lake.virtual.grib import open_grib
from icechunk.lake.virtual.kerchunk_refs import add_fill_value, load_references
from icechunk.lake.virtual.tiff import open_tiff

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from icechunk.lake.virtual.sources import Source

_HDF5_MAGIC: Final = b"\x89HDF\r\n\x1a\n"
_NETCDF3_MAGIC: Final = b"CDF"
_GRIB_MAGIC: Final = b"GRIB"
_TIFF_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAGIC_BYTES: Final = 8
_ONE_SLASH: Final = re.compile(r"\Afile:/(?!/)")
_DROPPING: Final = {"hdf", "netcdf"}
"""Formats whose parser need not be able to read what is to be left out."""

_UNREADABLE: Final = (
    OSError, ValueError, IndexError, KeyError, EOFError, struct.error, NotImplementedError,
    AttributeError,
)  # fmt: skip
"""What parsers raise for a damaged file, or one that has something they do not know."""

_LOADING: Final = {"loadable_variables", "decode_times"}


def open_source(format_name: str, source: Source, options: dict[str, Any]) -> xr.Dataset:
    """Return one file as a virtual dataset.

    Parameters
    ----------
    format_name : {"hdf", "netcdf", "grib", "zarr", "tiff"}
        Its format.
    source : Source
        The file.
    options : dict
        For the parser; ``drop_variables`` names what to leave out.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; it is of another format, or cannot be referred to.
    """
    dropped = options.get("drop_variables") or ()
    dropped = [dropped] if isinstance(dropped, str) else list(dropped)
    if format_name not in _DROPPING:
        options.pop("drop_variables", None)
    group = options.get("group")
    try:
        opened = _OPENERS[format_name](source, options)
    except IcechunkError:
        raise
    except _UNREADABLE as e:
        raise InvalidInputError(
            f"cannot refer to the chunks of {source.url}, taken for {format_name}: {e}",
            ErrorKind.INVALID_VIRTUAL_REF,
        ) from e
    if not opened.variables:
        raise InvalidInputError(
            f"there are no arrays in {f'group {group}' if group else 'the root'} of {source.url}"
            f"{_with_groups(source)}.",
            ErrorKind.INVALID_VIRTUAL_REF,
        )
    return opened.drop_vars(dropped, errors="ignore")


def _with_groups(source: Source) -> str:
    """Return what to say of the groups of an HDF5 file that have arrays."""
    if source.is_directory() or source.first_bytes(_MAGIC_BYTES) != _HDF5_MAGIC:
        return ""
    groups: set[str] = set()

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset) and "/" in name:
            groups.add(name.rpartition("/")[0])

    with source.opened() as file, h5py.File(file) as opened:
        opened.visititems(visit)
    return f"; give one of its groups: {', '.join(sorted(groups))}" if groups else ""


def format_of(source: Source) -> str:
    """Return the format of a file, by how it begins; a directory is a Zarr store."""
    if source.is_directory():
        return "zarr"
    head = source.first_bytes(_MAGIC_BYTES)
    if head.startswith(_GRIB_MAGIC):
        return "grib"
    if head.startswith(_TIFF_MAGIC):
        return "tiff"
    if head.startswith((_HDF5_MAGIC, _NETCDF3_MAGIC)):
        return "netcdf"
    raise InvalidInputError(
        f"{source.url} is no netCDF, HDF5, GRIB, TIFF or Zarr: it begins with {head!r}.",
        ErrorKind.INVALID_VIRTUAL_REF,
    )


def _hdf(source: Source, options: dict[str, Any]) -> xr.Dataset:
    if source.first_bytes(_MAGIC_BYTES) != _HDF5_MAGIC:
        raise InvalidInputError(f"{source.url} is not an HDF5 file.", ErrorKind.INVALID_VIRTUAL_REF)
    group, drop = options.pop("group", None), options.pop("drop_variables", None)
    parser = HDFParser(group=group, drop_variables=drop)
    opened: xr.Dataset = open_virtual_dataset(source.url, source.registry(), parser, **options)
    return opened


def _netcdf(source: Source, options: dict[str, Any]) -> xr.Dataset:
    if not source.first_bytes(_MAGIC_BYTES).startswith(_NETCDF3_MAGIC):
        return _hdf(source, options)
    options.pop("drop_variables", None)
    loading = {name: options.pop(name) for name in _LOADING & options.keys()}
    # kerchunk's reader of netCDF-3, because VirtualiZarr's gives up at a fill value that is not of
    # the variable's type, which real files have. No value can be equal to that, so it is left out.
    where = source.filesystem_path() if source.scheme == "file" else source.url
    reader = NetCDF3ToZarr(
        where, storage_options=dict(source.options), inline_threshold=0, **options
    )
    for variable in reader.variables.values():
        for name in ("_FillValue", "missing_value"):
            # A variable along the unlimited dimension has no data here, so no type of its own.
            dtype = np.dtype(variable.typecode())
            if not _can_mark(variable._attributes.get(name), dtype):  # noqa: SLF001 # scipy has no other way
                del variable._attributes[name]  # noqa: SLF001
    places = {
        key: [source.url, *place[1:]] if isinstance(place, list) else place
        for key, place in reader.translate()["refs"].items()
    }
    # kerchunk makes text of every attribute, and has one fill value where a variable has two.
    for name, variable in reader.variables.items():
        attributes = _plain(variable._attributes)  # noqa: SLF001
        places[f"{name}/.zattrs"] = {**attributes, "_ARRAY_DIMENSIONS": list(variable.dimensions)}
        if "_FillValue" in attributes:
            document = json.loads(str(places[f"{name}/.zarray"]))
            places[f"{name}/.zarray"] = {**document, "fill_value": attributes["_FillValue"]}
    places[".zattrs"] = _plain(reader._attributes)  # noqa: SLF001
    virtual = load_references({"version": 1, "refs": places})[""]
    arrays = {str(name): variable.data for name, variable in virtual.variables.items()}
    group = ManifestGroup(arrays=arrays, attributes=virtual.attrs)
    store = ManifestStore(group=group, registry=source.registry())
    loaded: xr.Dataset = store.to_virtual_dataset(**loading)
    return loaded


def _can_mark(fill: Any, dtype: np.dtype[Any]) -> bool:
    """Say whether a value of a type can be equal to a fill value; True where there is none."""
    if fill is None or dtype.kind != "i":
        return True
    limits, number = np.iinfo(dtype), float(np.ravel(fill)[0])
    return number.is_integer() and limits.min <= number <= limits.max


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a netCDF-3 file as JSON has them."""
    plain = {
        name: value.decode("utf-8", "replace")
        if isinstance(value, bytes)
        else np.asarray(value).tolist()
        for name, value in attributes.items()
        if name != "filename"  # kerchunk's own
    }
    if isinstance(fill := plain.get("_FillValue"), list):
        plain["_FillValue"] = fill[0]
    return plain


def _grib(source: Source, options: dict[str, Any]) -> xr.Dataset:
    return open_grib(source, **options)


def _zarr(source: Source, options: dict[str, Any]) -> xr.Dataset:
    if source.scheme == "file":
        store: Any = obstore.store.LocalStore()
        registry = ObjectStoreRegistry({"file://": store})
    else:
        store = obstore.store.from_url(source.bucket, **source.obstore_options())
        registry = ObjectStoreRegistry({source.bucket.rstrip("/"): store})
    group = options.pop("group", None)
    try:
        fills = _fill_values(store, source.key, group)
    except obstore.exceptions.BaseError as e:
        raise source.unread(e) from e

    def parsed(url: str, registry: ObjectStoreRegistry[Any]) -> ManifestStore:
        return _with_fill_values(ZarrParser(group=group)(url, registry), fills)

    opened: xr.Dataset = open_virtual_dataset(source.url, registry, parsed, **options)
    require_complete(source, group, {str(name) for name in opened.variables})
    # Earlier releases of VirtualiZarr write file:/data for file:///data.
    renamed: xr.Dataset = opened.vz.rename_paths(lambda url: _ONE_SLASH.sub("file:///", url))
    return renamed


def require_complete(source: Source, group: str | None, found: set[str]) -> None:
    """Refuse a Zarr group of which arrays were not found.

    Some releases of zarr leave names out when they list an object store.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; names the arrays.
    """
    lost = [name for name in source.zarr_arrays(group) if name not in found]
    if lost:
        raise InvalidInputError(
            f"zarr {zarr.__version__} does not find all arrays of {source.url}: "
            f"{', '.join(sorted(lost))}. Use a later release of zarr.",
            ErrorKind.INVALID_VIRTUAL_REF,
        )


def _fill_values(store: Any, key: str, group: str | None) -> dict[str, Any]:
    """Return the fill values of the arrays of a Zarr version 2 group; none of version 3."""
    path = "/".join(part for part in (key, group) if part)
    reader = zarr.storage.ObjectStore(store, read_only=True)
    try:
        opened = zarr.open_group(reader, path=path, mode="r")
    except GroupNotFoundError as e:
        raise InvalidInputError(
            f"there is no Zarr group at {path} of the store.", ErrorKind.INVALID_VIRTUAL_REF
        ) from e
    if opened.metadata.zarr_format != 2:
        return {}
    return {name: array.metadata.fill_value for name, array in opened.arrays()}


def _with_fill_values(found: ManifestStore, fills: Mapping[str, Any]) -> ManifestStore:
    """Return a store whose arrays say in an attribute what marks a missing value."""
    if not fills:
        return found
    group, arrays = found._group, {}  # noqa: SLF001 # it has no other way
    for name, array in group.arrays.items():
        attributes = dict(array.metadata.attributes)
        add_fill_value(attributes, fills.get(name), np.dtype(array.dtype))
        metadata = dataclasses.replace(array.metadata, attributes=attributes)
        arrays[name] = ManifestArray(metadata=metadata, chunkmanifest=array.manifest)
    changed = ManifestGroup(
        arrays=arrays, groups=dict(group.groups), attributes=group.metadata.attributes
    )
    return ManifestStore(group=changed, registry=found._registry)  # noqa: SLF001


def _tiff(source: Source, options: dict[str, Any]) -> xr.Dataset:
    return open_tiff(source, **options)


_OPENERS: Final = {"hdf": _hdf, "netcdf": _netcdf, "grib": _grib, "zarr": _zarr, "tiff": _tiff}
