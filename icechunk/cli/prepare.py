"""From opened sources to one dataset that can be written without losing anything.

Stored values are only meaningful together with the attributes that say how they are packed, so
whatever is joined, source to source or source to repository, must agree in those.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
import xarray as xr

from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.units import bytes_text

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from icechunk.cli.options import Chunks

PACKING: Final = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar",
)  # fmt: skip
"""Attributes that say what a stored number means."""

_KEPT_OF_ZARR: Final = (
    "chunks", "shards", "compressors", "filters", "serializer", "fill_value",
)  # fmt: skip
_SMALL_CHUNK_BYTES: Final = 1_000_000
_LARGE_CHUNK_BYTES: Final = 64_000_000
_WANTED_CHUNK: Final = "16MB"


def cleaned(
    dataset: xr.Dataset, *, zarr_format_3: bool, remark: Callable[[str], None]
) -> xr.Dataset:
    """Return a dataset whose attributes and encodings a Zarr store can hold.

    Parameters
    ----------
    dataset : xarray.Dataset
        As opened.
    zarr_format_3 : bool
        The source is a store of the same Zarr format: its compressors can be kept.
    remark : callable
        Told about everything that could not be kept as it was.

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
    name: str, dtype: np.dtype[Any], attributes: dict[str, Any], remark: Callable[[str], None]
) -> None:
    """Make fill values what the data's type can hold; no stored value changes its meaning."""
    missing = attributes.get("missing_value")
    if dtype.kind == "f" and _is_nan(missing):
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
    remark(f"{name}: _FillValue {fill} is no {dtype} and marks no value; kept as source_FillValue")


def _is_integer_in(dtype: np.dtype[Any], value: float) -> bool:
    limits = np.iinfo(dtype)
    return value.is_integer() and limits.min <= value <= limits.max


def _is_nan(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def _attribute(value: Any, what: str, remark: Callable[[str], None]) -> Any:
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
        remark(f"{what}: {value} is no number in JSON; kept as text")
        return str(value)
    return value


def combined(datasets: Sequence[tuple[str, xr.Dataset]], dim: str | None) -> xr.Dataset:
    """Join datasets along one dimension, in the order given.

    Parameters
    ----------
    datasets : sequence of (str, xarray.Dataset)
        Names for messages, and the data.
    dim : str or None
        Dimension to join along; may be None for a single dataset.

    Returns
    -------
    xarray.Dataset
        Variables without the dimension come from the first.

    Raises
    ------
    CommandError
        They differ in variables, types, packing, or in a variable that does not grow.
    """
    if dim is None:
        if len(datasets) > 1:
            raise CommandError(
                f"{len(datasets)} sources, but no dimension to join them along",
                "Name it: --append-dim time. Or ingest them one by one, each to its own --group.",
                ExitCode.USAGE,
            )
        return datasets[0][1]
    grown = [(name, _with_dim(name, dataset, dim)) for name, dataset in datasets]
    (first_name, first), *others = grown
    for name, dataset in others:
        check_joinable(dataset, name, first, first_name, dim)
    if not others:
        return first
    return xr.concat(
        [dataset for _, dataset in grown],
        dim=dim,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )


def _with_dim(name: str, dataset: xr.Dataset, dim: str) -> xr.Dataset:
    if dim in dataset.dims:
        return dataset
    if dim in dataset.variables and not dataset[dim].ndim:
        scalar = dataset.set_coords(dim)
        variables = [n for n in scalar.data_vars if scalar[n].ndim]
        encodings = {n: dict(scalar[n].encoding) for n in variables}
        grown: xr.Dataset = xr.merge(
            [scalar.drop_vars(variables).expand_dims(dim), scalar[variables].expand_dims(dim)],
            combine_attrs="override",
        )
        for variable, encoding in encodings.items():
            grown[variable].encoding = encoding
        return grown
    dims = ", ".join(str(d) for d in dataset.dims)
    raise CommandError(
        f"{name}: there is no dimension {dim}", f"Its dimensions are: {dims}.", ExitCode.USAGE
    )


def check_joinable(
    new: xr.Dataset, new_name: str, base: xr.Dataset, base_name: str, dim: str
) -> None:
    """Refuse to join what would change its meaning.

    Parameters
    ----------
    new, base : xarray.Dataset
        What is appended, and what to.
    new_name, base_name : str
        Names for the message.
    dim : str
        Dimension they are joined along.

    Raises
    ------
    CommandError
        Kind of exit ``CONFLICT``; names the variable and the difference.
    """
    growing = {str(n) for n, v in base.variables.items() if dim in v.dims}
    missing = growing - {str(n) for n in new.variables}
    extra = {str(n) for n, v in new.variables.items() if dim in v.dims} - growing
    for names, lacking, having in ((missing, new_name, base_name), (extra, base_name, new_name)):
        if names:
            raise CommandError(
                f"{', '.join(sorted(names))}: in {having}, but not in {lacking}",
                "What is joined must have the same variables along the dimension.",
                ExitCode.CONFLICT,
            )
    for name in map(str, new.variables):
        if name in base.variables:
            _check_variable(name, new[name].variable, new_name, base[name].variable, base_name, dim)


def _check_variable(
    name: str, new: xr.Variable, new_name: str, base: xr.Variable, base_name: str, dim: str
) -> None:
    check_meaning(name, new, new_name, base, base_name)
    for axis, size in zip(new.dims, new.shape, strict=True):
        if axis != dim and size != base.sizes[axis]:
            raise _difference(
                name, f"length along {axis}", (size, new_name), (base.sizes[axis], base_name)
            )
    if dim not in new.dims and not _same_values(new, base):
        raise CommandError(
            f"{name}: its values in {new_name} are not those in {base_name}",
            f"Only variables along {dim} can differ between what is joined.",
            ExitCode.CONFLICT,
        )


def check_meaning(
    name: str, new: xr.Variable, new_name: str, base: xr.Variable, base_name: str
) -> None:
    """Refuse to put stored numbers beside others that mean something else.

    Raises
    ------
    CommandError
        Dimensions, data type or packing differ.
    """
    if new.dims != base.dims:
        ours, theirs = (", ".join(map(str, v.dims)) for v in (new, base))
        raise _difference(name, "dimensions", (ours, new_name), (theirs, base_name))
    if new.dtype != base.dtype and {new.dtype.kind, base.dtype.kind} - set("OTU"):
        raise _difference(name, "data type", (new.dtype, new_name), (base.dtype, base_name))
    for key in PACKING:
        ours, theirs = _packing(new, key), _packing(base, key)
        if ours != theirs and not (_is_nan(ours) and _is_nan(theirs)):
            raise _difference(
                name,
                key,
                (ours, new_name),
                (theirs, base_name),
                "Joined as they are stored, the values would change their meaning. "
                "--decode stores decoded values and times instead.",
            )


def beside(new: xr.Dataset, new_name: str, base: xr.Dataset, base_name: str) -> xr.Dataset:
    """Return what is to be added to a group, without the coordinates that are there already.

    Raises
    ------
    CommandError
        A dimension, or its coordinate, that what stays in the group uses differently.
    """
    present = [n for n in new.xindexes if n in base.variables and n in new.variables]
    equal = [
        n
        for n in present
        if new.sizes[n] == base.sizes[n] and _same_values(new[n].variable, base[n].variable)
    ]
    staying = [v for n, v in base.variables.items() if n not in new.variables]
    for dim, size in new.sizes.items():
        users = [v for v in staying if dim in v.dims]
        if not users:
            continue
        if size != base.sizes[dim]:
            raise _difference(
                str(dim), "length", (size, new_name), (base.sizes[dim], base_name),
                f"Other variables there use {dim}. --group PATH puts the source elsewhere.",
            )  # fmt: skip
        if dim in present and dim not in equal:
            raise CommandError(
                f"{dim}: its values in {new_name} are not those in {base_name}",
                f"Other variables there use {dim}. --group PATH puts the source elsewhere.",
                ExitCode.CONFLICT,
            )
    return new.drop_vars(equal)


def check_region(
    new: xr.Dataset, new_name: str, base: xr.Dataset, base_name: str, region: Mapping[str, slice]
) -> None:
    """Refuse to write a region whose meaning differs from what is there.

    Raises
    ------
    CommandError
        Packing differs, or the coordinates or static variables of the two.
    """
    for name in map(str, new.variables):
        ours = new[name].variable
        check_meaning(name, ours, new_name, base[name].variable, base_name)
        place = {dim: span for dim, span in region.items() if dim in ours.dims}
        static = name in new.xindexes or not place
        if static and not _same_values(ours, base[name].variable.isel(place)):
            where = f"{base_name} there" if place else base_name
            raise CommandError(
                f"{name}: its values in {new_name} are not those of {where}",
                f"To find the place by values: --region {name}=auto" if place else None,
                ExitCode.CONFLICT,
            )


def _difference(
    name: str,
    what: str,
    ours: tuple[object, str],
    theirs: tuple[object, str],
    hint: str | None = None,
) -> CommandError:
    message = f"{name}: {what} is {ours[0]} in {ours[1]}, but {theirs[0]} in {theirs[1]}"
    return CommandError(message, hint, ExitCode.CONFLICT)


def _packing(variable: xr.Variable, key: str) -> Any:
    value = variable.attrs.get(key)
    return value.item() if isinstance(value, np.generic) else value


def _same_values(one: xr.Variable, other: xr.Variable) -> bool:
    a, b = da.asarray(one.data), da.asarray(other.data)
    equal = a == b
    if one.dtype.kind == "f":
        equal |= da.isnan(a) & da.isnan(b)
    return bool(equal.all().compute())


def check_no_overlap(new: xr.Dataset, base: xr.Dataset, dim: str, place: str) -> None:
    """Refuse to append coordinate values that are there already.

    Raises
    ------
    CommandError
        The same source was probably ingested before.
    """
    if dim not in new.variables or dim not in base.variables:
        return
    repeated = np.intersect1d(new[dim].values, base[dim].values)
    if repeated.size:
        first = new[dim].isel({dim: slice(1)}).copy(data=repeated[:1])
        shown = str(first.values[0])
        raise CommandError(
            f"{repeated.size} of {new.sizes[dim]} values of {dim} are in {place} already, "
            f"the first is {shown}",
            f"Was this ingested before? To write over them: --region {dim}=auto",
            ExitCode.CONFLICT,
        )


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
    CommandError
        A dimension that does not exist.
    """
    wanted = dict(chunks) if isinstance(chunks, dict) else {}
    unknown = sorted(set(wanted) - {str(d) for d in dataset.dims})
    if unknown:
        dims = ", ".join(f"{d} {n}" for d, n in dataset.sizes.items())
        raise CommandError(
            f"--chunks: there is no dimension {', '.join(unknown)}",
            f"Dimensions are: {dims}.",
            ExitCode.USAGE,
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


def describe(dataset: xr.Dataset) -> str:
    """Return what a dataset is in one line."""
    dims = ", ".join(f"{dim} {size}" for dim, size in dataset.sizes.items())
    variables = ", ".join(map(str, dataset.data_vars))
    return f"{variables} ({dims}), {bytes_text(dataset.nbytes)}"


def without_static(dataset: xr.Dataset, dims: set[Hashable], existing: set[str]) -> xr.Dataset:
    """Drop the variables that a partial write cannot touch and that are there already."""
    static = [
        name
        for name, variable in dataset.variables.items()
        if not dims & set(variable.dims) and str(name) in existing
    ]
    return dataset.drop_vars(static)
