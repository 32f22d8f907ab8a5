"""GRIB files, editions 1 and 2: one chunk for each message, structured as cfgrib reads them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cfgrib
import eccodes
import numpy as np
import xarray as xr
from virtualizarr.manifests.utils import create_v3_array_metadata

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.lake.virtual.codec import GRIB_CODEC
from icechunk.lake.virtual.manifests import References, variable_of

if TYPE_CHECKING:
    from icechunk._typing import AnyArray
    from icechunk.lake.virtual.sources import Source


def open_grib(source: Source, **backend_kwargs: Any) -> xr.Dataset:
    """Return a GRIB file as a virtual dataset.

    Parameters
    ----------
    source : Source
        The file. One that is not local is read once, whole: messages are found by going through.
    **backend_kwargs
        As `cfgrib.open_file` takes them, such as ``filter_by_keys``.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; no GRIB file, or its messages do not make one dataset.
    """
    source.first_bytes(4)  # says what is wrong with the location, if anything is
    try:
        return _opened(source, backend_kwargs)
    except (EOFError, cfgrib.DatasetBuildError, eccodes.CodesInternalError) as e:
        raise InvalidInputError(
            f"cannot refer to the messages of {source.url}: {e}. Where they do not make one "
            "dataset, filter_by_keys={...} chooses some.",
            ErrorKind.INVALID_VIRTUAL_REF,
        ) from e


def _opened(source: Source, backend_kwargs: dict[str, Any]) -> xr.Dataset:
    if source.scheme == "file":
        return _virtual(source.filesystem_path(), source.url, backend_kwargs)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "messages.grib"
        source.download(local)
        return _virtual(str(local), source.url, backend_kwargs)


def _virtual(path: str, url: str, backend_kwargs: dict[str, Any]) -> xr.Dataset:
    # The index is kept in memory: nothing is written beside somebody's data.
    opened = cfgrib.open_file(path, **{"indexpath": "", **backend_kwargs})
    lengths = _lengths(path)
    variables = {}
    for name, variable in opened.variables.items():
        if isinstance(variable.data, cfgrib.dataset.OnDiskArray):
            variables[name] = _references(variable, url, lengths)
        else:
            variables[name] = xr.Variable(
                variable.dimensions, np.asarray(variable.data), variable.attributes
            )
    data = {name for name, variable in opened.variables.items() if _is_data(variable)}
    attributes = {k: v for k, v in opened.attributes.items() if k != "history"}
    coords = {name: variable for name, variable in variables.items() if name not in data}
    return xr.Dataset({name: variables[name] for name in data}, coords, attributes)


def _is_data(variable: Any) -> bool:
    return isinstance(variable.data, cfgrib.dataset.OnDiskArray)


def _references(variable: Any, url: str, lengths: dict[int, int]) -> xr.Variable:
    data = variable.data
    field_ndim = data.geo_ndim
    shape, field_shape = data.shape, data.shape[len(data.shape) - field_ndim :]
    coords, offsets = [], []
    for coord, (offset, *_) in data.field_id_index.items():
        coords.append((*coord, *[0] * field_ndim))
        # Of a message with several fields cfgrib keeps the place and the field's number.
        offsets.append(offset if isinstance(offset, int) else offset[0])
    metadata = create_v3_array_metadata(
        shape=shape,
        data_type=np.dtype(data.dtype),
        chunk_shape=(*[1] * (len(shape) - field_ndim), *field_shape),
        fill_value=np.nan,
        codecs=[{"name": GRIB_CODEC, "configuration": {}}],
        attributes=_plain(variable.attributes),
        dimension_names=variable.dimensions,
    )
    places: AnyArray = np.array(offsets, np.uint64)
    return variable_of(
        metadata,
        References(
            coords=np.array(coords, np.int64).reshape(len(coords), len(shape)),
            paths=[url] * len(coords),
            offsets=places,
            lengths=np.array([lengths[offset] for offset in offsets], np.uint64),
        ),
    )


def _lengths(path: str) -> dict[int, int]:
    """Return the length of every message by its offset; unit: bytes."""
    found: dict[int, int] = {}
    with open(path, "rb") as file:  # noqa: PTH123 # eccodes asks for the descriptor
        while (message := eccodes.codes_grib_new_from_file(file, headers_only=True)) is not None:
            offset = int(eccodes.codes_get_message_offset(message))
            found[offset] = int(eccodes.codes_get(message, "totalLength"))
            eccodes.codes_release(message)
    return found


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in attributes.items()}
