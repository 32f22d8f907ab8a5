"""Making an opened source fit for a Zarr store: attributes, encodings, chunks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np

from icechunk.inputs.problems import InputError, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr

    from icechunk.inputs.kinds import Chunks

_KEPT_OF_ZARR: Final = (
    "chunks", "shards", "compressors", "filters", "serializer", "fill_value",
)  # fmt: skip
_SMALL_CHUNK_BYTES: Final = 1_000_000
_LARGE_CHUNK_BYTES: Final = 64_000_000
_WANTED_CHUNK: Final = "16MB"


def cleaned(
    dataset: xr.Dataset, *, zarr_format_3: bool, remark: Callable[[str, str], None]
) -> xr.Dataset:
    """Return a dataset whose attributes and encodings a Zarr store can hold.

    Parameters
    ----------
    dataset : xarray.Dataset
        As opened.
    zarr_format_3 : bool
        The source is a store of the same Zarr format: its compressors can be kept.
    remark : callable
        Told which variable or attribute could not be kept as it was, and what became of it.

    Returns
    -------
    xarray.Dataset
        Shares the data.
    """
    result = dataset.copy()
    result.attrs = {k: _attribute(v, f"attribute {k}", remark) for k, v in dataset.attrs.items()}
    result.encoding = {}
    for name, variable in result.variables.items():
        attributes = dict(variable.attrs)
        _settle_fill(str(name), variable.dtype, attributes, remark)
        variable.attrs = {
            k: v if k == "_FillValue" else _attribute(v, f"attribute {k} of {name}", remark)
            for k, v in attributes.items()
        }
        kept = _KEPT_OF_ZARR if zarr_format_3 else ()
        encoding = {k: variable.encoding[k] for k in kept if k in variable.encoding}
        if variable.dtype.kind in "fc" and "_FillValue" not in variable.attrs:
            # xarray would add one that the source does not have.
            encoding.setdefault("_FillValue", None)
        variable.encoding = encoding
    return result


def _settle_fill(
    name: str, dtype: np.dtype[Any], attributes: dict[str, Any], remark: Callable[[str, str], None]
) -> None:
    """Make fill values what the data's type can hold; no stored value changes its meaning."""
    missing = attributes.get("missing_value")
    if dtype.kind == "f" and is_nan(missing):
        # JSON has no NaN; as _FillValue it has a place of its own, and it means the same.
        attributes.pop("missing_value")
        attributes.setdefault("_FillValue", dtype.type(np.nan))
    fill = attributes.get("_FillValue")
    if not isinstance(fill, int | float | np.number) or dtype.kind not in "iuf":
        return
    if dtype.kind == "f" or _is_integer_in(dtype, float(fill)):
        attributes["_FillValue"] = dtype.type(fill)
        return
    attributes.pop("_FillValue")
    attributes["source_FillValue"] = str(fill)
    remark(name, f"_FillValue {fill} is no {dtype}, so it marks no value; kept as source_FillValue")


def _is_integer_in(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return value.is_integer() and limits.min <= value <= limits.max


def is_nan(value: Any) -> bool:
    """Return whether a value is a float that is not a number."""
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _attribute(value: Any, what: str, remark: Callable[[str, str], None]) -> Any:
    """Return an attribute that JSON can hold."""
    if isinstance(value, bytes | np.bytes_):
        return bytes(value).decode("utf-8", "replace")
    if type(value).__name__ == "Empty":
        return ""  # h5py's value for an attribute without one
    if isinstance(value, np.ndarray):
        return [_attribute(v, what, remark) for v in value.tolist()]
    if isinstance(value, list | tuple):
        return [_attribute(v, what, remark) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        remark(what, f"{value} is no number in JSON; kept as text")
        return str(value)
    return value


def chunked(
    dataset: xr.Dataset, chunks: Chunks | str | None, *, explicit_only: bool = False
) -> xr.Dataset:
    """Choose chunks for arrays that are to be created.

    Parameters
    ----------
    dataset : xarray.Dataset
        With the source's chunks.
    chunks : dict, "auto" or None
        What was asked for; the rest follows the source, unless its chunks are very small or very
        large.
    explicit_only : bool
        Change nothing that was not asked for.

    Returns
    -------
    xarray.Dataset
        Equal dask chunks along each dimension.

    Raises
    ------
    InputError
        A dimension that does not exist.
    """
    wanted = dict(chunks) if isinstance(chunks, dict) else {}
    unknown = sorted(set(wanted) - {str(d) for d in dataset.dims})
    if unknown:
        dims = ", ".join(f"{d} {n}" for d, n in dataset.sizes.items())
        raise InputError(
            f"--chunks: there is no dimension {', '.join(unknown)}",
            f"Dimensions are: {dims}.",
            Reason.USAGE,
        )
    if explicit_only and not wanted and chunks != "auto":
        return dataset
    result = dataset.copy()
    for name, variable in result.variables.items():
        if name in result.xindexes or not variable.ndim or variable.dtype.kind == "O":
            continue
        asked = chunks == "auto" or wanted.keys() & set(map(str, variable.dims))
        if "chunks" in variable.encoding and not asked:
            continue  # chosen by whoever made the Zarr store
        variable.encoding.pop("shards", None)
        sizes = _chunk_sizes(variable, wanted, auto=chunks == "auto")
        variable.encoding.pop("chunks", None)
        result[name] = result[name].chunk(dict(zip(variable.dims, sizes, strict=True)))
    return result


def _chunk_sizes(
    variable: xr.Variable, wanted: Mapping[str, Any], *, auto: bool
) -> tuple[int, ...]:
    present: Sequence[Sequence[int]] = variable.chunks or tuple((n,) for n in variable.shape)
    largest = [max(sizes, default=1) or 1 for sizes in present]
    spec: list[Any] = [
        wanted.get(str(dim), size) for dim, size in zip(variable.dims, largest, strict=True)
    ]
    fixed = [
        n if isinstance(n, int) and n > 0 else length
        for n, length in zip(spec, variable.shape, strict=True)
    ]
    chunk_bytes = math.prod(fixed) * variable.dtype.itemsize
    unusual = chunk_bytes > _LARGE_CHUNK_BYTES or (
        chunk_bytes < _SMALL_CHUNK_BYTES and math.prod(map(len, present)) > 1
    )
    if auto or unusual:
        spec = [wanted.get(str(dim), "auto") for dim in variable.dims]
    resolved = da.core.normalize_chunks(
        tuple(spec), variable.shape, limit=_WANTED_CHUNK, dtype=variable.dtype
    )
    return tuple(max(sizes, default=1) or 1 for sizes in resolved)
