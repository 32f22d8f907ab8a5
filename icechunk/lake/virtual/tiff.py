"""TIFF files: one array for each resolution, dimensions ``Y``, ``X`` and ``band``."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import tifffile
import xarray as xr
from virtualizarr.manifests.utils import create_v3_array_metadata

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.lake.virtual.manifests import References, variable_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk._typing import AnyArray
    from icechunk.lake.virtual.sources import Source

_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _ZSTD = 1, 5, 8, 32946, 32773, 50000
_COMPRESSIONS: Final[Mapping[int, list[dict[str, Any]]]] = {
    _NONE: [],
    _DEFLATE: [{"name": "numcodecs.zlib", "configuration": {}}],
    _OLD_DEFLATE: [{"name": "numcodecs.zlib", "configuration": {}}],
    _LZW: [{"name": "imagecodecs_lzw", "configuration": {}}],
    _PACKBITS: [{"name": "imagecodecs_packbits", "configuration": {}}],
    _ZSTD: [{"name": "imagecodecs_zstd", "configuration": {}}],
}
_NO_PREDICTOR, _HORIZONTAL = 1, 2


def open_tiff(source: Source, name: str) -> xr.Dataset:
    """Return the images of a TIFF file as a virtual dataset.

    Parameters
    ----------
    source : Source
        The file.
    name : str
        Of the array, where there is one resolution only; else the arrays are ``"0"``, ``"1"``, ...
        from the finest to the coarsest, from the second on with dimensions of their own.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; not a TIFF file, or stored in a way that no zarr codec reads.
    """
    source.first_bytes(4)  # says what is wrong with the location, if anything is
    with source.opened() as file:
        try:
            with tifffile.TiffFile(file) as tiff:
                variables, geo = _read(source.url, tiff, name)
        except (tifffile.TiffFileError, IndexError, KeyError, struct.error) as e:
            raise _bad(source.url, f"it is no TIFF file that can be read ({e})") from e
    attributes = {key: _plain(value) for key, value in geo.items()}
    return xr.Dataset(variables, attrs={**attributes, "name": name})


def _read(
    url: str, tiff: tifffile.TiffFile, name: str
) -> tuple[dict[str, xr.Variable], Mapping[str, Any]]:
    first, others = tiff.series[0], tiff.series[1:]
    further = [s for s in others if not (s.keyframe.is_mask or s.keyframe.is_reduced)]
    pages = sum(len(series.pages) for series in (first, *further))
    if pages > 1:
        raise _bad(url, f"it holds {pages} images, not one at several resolutions; split it up")
    levels = [level.pages[0] for level in first.levels]
    nodata = tiff.pages[0].tags.get("GDAL_NODATA")
    fill = _number(nodata.value) if nodata is not None else None
    variables = {
        name if len(levels) == 1 else str(index): _variable(url, page, tiff.byteorder, index, fill)
        for index, page in enumerate(levels)
    }
    return variables, tiff.geotiff_metadata or {}


def _variable(url: str, page: Any, byteorder: str, level: int, fill: float | None) -> xr.Variable:
    if page.photometric == tifffile.PHOTOMETRIC.YCBCR or page.compression not in _COMPRESSIONS:
        raise _bad(url, f"its compression {page.compression!r} has no zarr codec here")
    if page.predictor not in {_NO_PREDICTOR, _HORIZONTAL}:
        raise _bad(url, f"its predictor {page.predictor!r} has no zarr codec here")
    if page.bitspersample != 8 * page.dtype.itemsize:
        raise _bad(url, f"its samples have {page.bitspersample} bits each; store whole bytes")
    bands = page.samplesperpixel
    separate = bands > 1 and page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    rows, columns = page.imagelength, page.imagewidth
    chunk_rows, chunk_columns = (
        (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, columns)
    )
    chunk_rows = min(chunk_rows, rows) if not page.is_tiled else chunk_rows
    if not page.is_tiled and rows % chunk_rows:
        raise _bad(
            url,
            f"its last strip has {rows % chunk_rows} rows and the others {chunk_rows}; store it "
            "in tiles",
        )
    if separate:
        raise _bad(url, "its bands are stored one after the other; store them by pixel")
    grid = (-(-rows // chunk_rows), -(-columns // chunk_columns))
    shape: tuple[int, ...] = (rows, columns)
    chunks: tuple[int, ...] = (chunk_rows, chunk_columns)
    dims: tuple[str, ...] = ("Y", "X") if not level else (f"Y_{level}", f"X_{level}")
    if bands > 1:
        shape, chunks, dims = (*shape, bands), (*chunks, bands), (*dims, "band")
    dtype = np.dtype(page.dtype).newbyteorder("<")
    attributes: dict[str, Any] = {} if fill is None else {"nodata": fill}
    metadata = create_v3_array_metadata(
        shape=shape,
        data_type=dtype,
        chunk_shape=chunks,
        fill_value=_held(fill, dtype),
        codecs=_codecs(page, byteorder, chunks),
        attributes=attributes,
        dimension_names=dims,
    )
    return variable_of(metadata, _references(url, page, grid, len(shape)))


def _codecs(page: Any, byteorder: str, chunks: tuple[int, ...]) -> list[dict[str, Any]]:
    codecs: list[dict[str, Any]] = []
    if page.predictor == _HORIZONTAL:
        axis = 1 - len(chunks)
        codecs.append({"name": "imagecodecs_delta", "configuration": {"axis": axis}})
    if page.dtype.itemsize > 1:
        endian = "little" if byteorder == "<" else "big"
        codecs.append({"name": "bytes", "configuration": {"endian": endian}})
    else:
        codecs.append({"name": "bytes"})
    return codecs + _COMPRESSIONS[page.compression]


def _references(url: str, page: Any, grid: tuple[int, int], ndim: int) -> References:
    offsets: AnyArray = np.array(page.dataoffsets, np.uint64)
    lengths: AnyArray = np.array(page.databytecounts, np.uint64)
    coords = np.stack(np.unravel_index(np.arange(len(offsets)), grid), axis=1)
    if ndim > len(grid):
        coords = np.pad(coords, ((0, 0), (0, ndim - len(grid))))
    there = lengths > 0  # a sparse file leaves tiles out
    return References(
        coords=coords[there],
        paths=[url] * int(there.sum()),
        offsets=offsets[there],
        lengths=lengths[there],
    )


def _held(fill: float | None, dtype: np.dtype[Any]) -> float | int:
    """Return what tiles that a sparse file leaves out hold: its value for no data, or 0."""
    if fill is None:
        return 0
    if dtype.kind == "f":
        return fill
    if dtype.kind not in "iu" or not fill.is_integer():
        return 0
    limits = np.iinfo(dtype)
    return int(fill) if limits.min <= fill <= limits.max else 0


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | tuple | list):
        return [_plain(item) for item in np.asarray(value).tolist()]
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, int | float | str | None) else str(value)


def _bad(url: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"cannot refer to the pixels of {url}: {why}.", ErrorKind.INVALID_VIRTUAL_REF
    )
