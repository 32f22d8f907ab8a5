"""Kerchunk references, version 1, in columns: a dictionary, a JSON file, or a Parquet directory."""

from __future__ import annotations

import base64
import json
import os
import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import fsspec
import numpy as np
import xarray as xr
from fsspec.core import url_to_fs
from virtualizarr.parsers.kerchunk.translator import from_kerchunk_refs
from virtualizarr.parsers.utils import encode_cf_fill_value

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.lake.virtual.manifests import References, variable_of
from icechunk.lake.virtual.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Refs: TypeAlias = "Mapping[str, Any]"

_SIZES_OF_FILES_UNKNOWN: Final = "refers to a whole file, whose size it does not tell"
_CHUNK_KEY: Final = re.compile(r"[0-9]+(\.[0-9]+)*\Z")
_DIMENSIONS: Final = "_ARRAY_DIMENSIONS"
_FILL: Final = "_FillValue"


def load_references(
    refs: Refs | str | os.PathLike[str], storage_options: Mapping[str, Any] | None = None
) -> dict[str, xr.Dataset]:
    """Return the groups that kerchunk references describe, as virtual datasets.

    Parameters
    ----------
    refs : mapping, str or path
        References, or where they are: a JSON file (compressed or not) or a Parquet directory.
    storage_options : mapping, optional
        For fsspec: how to get at the file.

    Returns
    -------
    dict of str to xarray.Dataset
        By path of the group, ``""`` for the root.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; not version 1, with templates or generated references, or not
        references at all.
    StorageError
        The file cannot be read.
    """
    if isinstance(refs, str | os.PathLike):
        found = _read(os.fspath(refs), dict(storage_options or {}))
        if isinstance(found, tuple):
            return _datasets(*found)
        refs = found
    if not isinstance(refs, dict):
        raise _bad(f"they are a {type(refs).__name__}")
    for unsupported in ("templates", "gen"):
        if refs.get(unsupported):
            raise _bad(f"they use {unsupported!r}; expand them first")
    if refs.get("version", 1) != 1:
        raise _bad(f"they are of version {refs['version']!r}")
    return _datasets(*_from_mapping(refs.get("refs", refs)))


def _read(where: str, options: dict[str, Any]) -> Any:
    """Return what a JSON file holds, or the documents and columns of a Parquet directory."""
    try:
        filesystem, path = url_to_fs(where, **options)
        if filesystem.isdir(path):
            return _from_parquet(where, options)
        with fsspec.open(where, "rb", compression="infer", **options) as file:
            return json.load(file)
    except InvalidInputError:
        raise
    except ValueError as e:  # no JSON, no such protocol
        raise _bad(f"{where} cannot be read ({e})") from e
    except Exception as e:  # each file system of fsspec has errors of its own
        raise Source.at(where).unread(e) from e


_Documents: TypeAlias = "dict[str, Any]"
_Arrays: TypeAlias = "dict[str, References]"


def _from_mapping(refs: Refs) -> tuple[_Documents, _Arrays]:
    documents: _Documents = {}
    keys: dict[str, list[str]] = {}
    places: dict[str, list[Any]] = {}
    for key, value in refs.items():
        head, _, name = key.rpartition("/")
        if name.startswith(".z"):
            documents[key] = json.loads(value) if isinstance(value, str | bytes) else value
        elif isinstance(value, str | bytes) or len(value) == 3:
            keys.setdefault(head, []).append(name)
            places.setdefault(head, []).append(value)
        elif name:
            raise _bad(f"{key!r} {_SIZES_OF_FILES_UNKNOWN}")
    arrays = {path: _columns(path, names, places[path], documents) for path, names in keys.items()}
    return documents, arrays


def _columns(path: str, names: list[str], places: list[Any], documents: _Documents) -> References:
    zarray = documents.get(f"{path}/.zarray")
    if zarray is None:
        raise _bad(f"there are chunks of {path!r} but no {path}/.zarray")
    ndim = len(zarray["shape"])
    separator = zarray.get("dimension_separator", ".")
    names = [name.replace(separator, ".") for name in names]
    for name in names[:1]:
        if not _CHUNK_KEY.match(name):
            raise _bad(f"{path}/{name} is no chunk key")
    inlined = {
        _coordinate(name, ndim): _bytes(place)
        for name, place in zip(names, places, strict=True)
        if isinstance(place, str | bytes)
    }
    if inlined:
        pairs = [
            pair for pair in zip(names, places, strict=True) if not isinstance(pair[1], str | bytes)
        ]
        names, places = [n for n, _ in pairs], [p for _, p in pairs]
    try:
        numbers = np.array(" ".join(names).replace(".", " ").split(), np.int64)
        # A scalar's only chunk has the key "0", and no coordinate.
        coords = numbers.reshape(len(names), max(ndim, 1))[:, :ndim]
        offsets = np.array([place[1] for place in places], np.uint64)
        lengths = np.array([place[2] for place in places], np.uint64)
    except (ValueError, TypeError, IndexError, OverflowError) as e:
        raise _bad(f"those of {path!r} have keys or ranges that are none ({e})") from e
    return References(
        coords=coords,
        paths=[_absolute(place[0]) for place in places],
        offsets=offsets,
        lengths=lengths,
        inlined=inlined,
    )


def _coordinate(name: str, ndim: int) -> tuple[int, ...]:
    return tuple(map(int, name.split(".")))[:ndim]


def _bytes(value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        return value
    if value.startswith("base64:"):
        return base64.b64decode(value[len("base64:") :])
    return value.encode()


def _absolute(url: str) -> str:
    return url if "://" in url else f"file://{url}" if url.startswith("/") else _relative(url)


def _relative(url: str) -> str:
    raise _bad(f"{url!r} is relative; give absolute URLs")


def _from_parquet(where: str, options: dict[str, Any]) -> tuple[_Documents, _Arrays]:
    """Read the directory that kerchunk's LazyReferenceMapper writes."""
    import pandas as pd  # noqa: PLC0415 # it is slow to load, and only this reads Parquet

    filesystem, root = url_to_fs(where, **options)
    with filesystem.open(f"{root}/.zmetadata") as file:
        index = json.load(file)
    documents, record_size = index["metadata"], index["record_size"]
    arrays: _Arrays = {}
    for key, zarray in documents.items():
        path, _, name = key.rpartition("/")
        if name != ".zarray":
            continue
        grid = [-(-n // max(c, 1)) for n, c in zip(zarray["shape"], zarray["chunks"], strict=True)]
        frames = []
        for number in range(-(-int(np.prod(grid)) // record_size)):
            file_path = f"{root}/{path}/refs.{number}.parq"
            if filesystem.exists(file_path):
                with filesystem.open(file_path) as file:
                    frame = pd.read_parquet(file)
                frame["row"] = np.arange(len(frame)) + number * record_size
                frames.append(frame)
        if frames:
            arrays[path] = _of_frame(pd.concat(frames), grid)
    return documents, arrays


def _of_frame(frame: Any, grid: list[int]) -> References:
    frame = frame[frame["row"] < int(np.prod(grid))]  # the last file is filled up
    rows = frame["row"].to_numpy()
    paths = frame["path"].astype(object).where(frame["path"].notna(), None).to_numpy()
    raw = frame["raw"].to_numpy() if "raw" in frame else np.full(len(frame), None)
    given = np.array([value is not None for value in raw], bool)
    referred = np.array([bool(path) for path in paths], bool) & ~given
    coords = np.stack(np.unravel_index(rows, grid), axis=1) if grid else rows.reshape(-1, 1)[:, :0]
    return References(
        coords=coords[referred],
        paths=[_absolute(path) for path in paths[referred]],
        offsets=frame["offset"].to_numpy()[referred].astype(np.uint64),
        lengths=frame["size"].to_numpy()[referred].astype(np.uint64),
        inlined={
            tuple(coord): _bytes(value)
            for coord, value in zip(coords[given].tolist(), raw[given], strict=True)
        },
    )


def _datasets(documents: _Documents, arrays: _Arrays) -> dict[str, xr.Dataset]:
    groups: dict[str, dict[str, xr.Variable]] = {}
    for key in documents:
        head, _, name = key.rpartition("/")
        if name == ".zgroup":
            groups.setdefault(head, {})
    for path, zarray in _arrays_in(documents):
        parent, _, name = path.rpartition("/")
        attributes = dict(documents.get(f"{path}/.zattrs", {}))
        dims = attributes.pop(_DIMENSIONS, None) or [
            f"{name}_{axis}" for axis in range(len(zarray["shape"]))
        ]
        add_fill_value(attributes, zarray["fill_value"], np.dtype(zarray["dtype"]))
        metadata = from_kerchunk_refs({**zarray, "dimension_names": dims}, attributes)
        empty = References(
            coords=np.zeros((0, len(zarray["shape"])), np.int64),
            paths=[],
            offsets=np.zeros(0, np.uint64),
            lengths=np.zeros(0, np.uint64),
        )
        variable = variable_of(metadata, arrays.get(path, empty))
        groups.setdefault(parent, {})[name] = variable
    if not any(groups.values()):
        raise _bad("there is no array in them")
    return {
        path: _dataset(variables, documents.get(f"{path}/.zattrs".lstrip("/"), {}))
        for path, variables in groups.items()
    }


def add_fill_value(attributes: dict[str, Any], fill: Any, dtype: np.dtype[Any]) -> None:
    """Say in the attributes of an array what marks a missing value.

    Zarr version 2 says it by ``fill_value``, and that is what xarray reads there; in version 3 it
    reads the attribute ``_FillValue`` alone.

    Parameters
    ----------
    attributes : dict
        Of the array; an attribute of that name that is text already stays as it is.
    fill : object
        The fill value of version 2; None for none.
    dtype : numpy.dtype
        Of the array.
    """
    present = attributes.get(_FILL)
    marked = present if fill is None else fill
    if marked is None or (isinstance(present, str) and dtype.kind == "f"):
        return
    if dtype.kind in "iuf":
        attributes[_FILL] = encode_cf_fill_value(dtype.type(marked), dtype)
    elif dtype.kind == "b":
        attributes[_FILL] = bool(marked)


def _arrays_in(documents: _Documents) -> Iterator[tuple[str, Any]]:
    for key, document in documents.items():
        head, _, name = key.rpartition("/")
        if name == ".zarray":
            yield head, document


def _dataset(variables: dict[str, xr.Variable], attributes: Mapping[str, Any]) -> xr.Dataset:
    return dataset_of(variables, dict(attributes))


def dataset_of(variables: Mapping[str, xr.Variable], attributes: dict[str, Any]) -> xr.Dataset:
    """Return variables as a dataset; those named in ``coordinates`` become coordinates."""
    named = str(attributes.pop("coordinates", "")).split()
    for variable in variables.values():
        named += str(variable.attrs.get("coordinates", "")).split()
    coords = {
        name: variable
        for name, variable in variables.items()
        if name in named or variable.dims == (name,)
    }
    data = {name: variable for name, variable in variables.items() if name not in coords}
    # No index is built: that would load what the references stand for.
    return xr.Dataset(data, xr.Coordinates(coords, indexes={}), attributes)


def _bad(why: str) -> InvalidInputError:
    return InvalidInputError(
        f"cannot use these kerchunk references: {why}. Version 1 is expected, without templates.",
        ErrorKind.INVALID_VIRTUAL_REF,
    )
