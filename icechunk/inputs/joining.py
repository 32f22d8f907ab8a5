"""Joining datasets, source to source and source to repository, without changing their meaning.

Stored values are only meaningful together with the attributes that say how they are packed, so
whatever is joined must agree in those, and in everything that does not grow.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import dask.array as da
import numpy as np
import xarray as xr

from icechunk.inputs.prepare import is_nan
from icechunk.inputs.problems import InputError, Reason

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

PACKING: Final = (
    "scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "units", "calendar",
)  # fmt: skip
"""Attributes that say what a stored number means."""


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
    InputError
        They differ in variables, types, packing, or in a variable that does not grow.
    """
    if dim is None:
        if len(datasets) > 1:
            raise InputError(
                f"{len(datasets)} sources, but no dimension to join them along",
                "Name it: --append-dim time. Or ingest them one by one, each to its own --group.",
                Reason.USAGE,
            )
        return datasets[0][1]
    grown = [(name, _with_dim(name, dataset, dim)) for name, dataset in datasets]
    (first_name, first), *others = grown
    parts = [first]
    for name, dataset in others:
        part = with_times_of(first, dataset)
        check_joinable(part, name, first, first_name, dim)
        parts.append(part)
    if not others:
        return first
    return xr.concat(
        parts,
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
    raise InputError(
        f"{name}: there is no dimension {dim}", f"Its dimensions are: {dims}.", Reason.USAGE
    )


def with_times_of(base: xr.Dataset, new: xr.Dataset) -> xr.Dataset:
    """Count times since the same moment as those they are joined with, where that is exact.

    Files of a series often count from their own beginning. The times are the same times, with
    other numbers; everything else stays as it is stored.

    Parameters
    ----------
    base : xarray.Dataset
        What is joined with.
    new : xarray.Dataset
        With times as numbers and their units.

    Returns
    -------
    xarray.Dataset
        Times that cannot be counted so, in the same type and without loss, are left alone.
    """
    result = new
    for name in map(str, new.variables):
        if name not in base.variables:
            continue
        ours, theirs = new[name].variable, base[name].variable
        since = all(" since " in str(v.attrs.get("units", "")) for v in (ours, theirs))
        if since and any(ours.attrs.get(k) != theirs.attrs.get(k) for k in ("units", "calendar")):
            converted = _counted_like(ours, theirs)
            if converted is not None:
                result = result.assign({name: converted})
    return result


def _counted_like(ours: xr.Variable, theirs: xr.Variable) -> xr.Variable | None:
    units = {k: theirs.attrs[k] for k in ("units", "calendar") if k in theirs.attrs}
    try:
        times = xr.conventions.decode_cf_variable("t", ours)
        times.encoding = {**units, "dtype": theirs.dtype}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoded = xr.conventions.encode_cf_variable(times)
        back = xr.conventions.decode_cf_variable("t", encoded)
        exact = encoded.dtype == theirs.dtype and np.array_equal(back.values, times.values)
    except (ValueError, TypeError, OverflowError, Warning):
        return None
    if not exact:
        return None
    return xr.Variable(ours.dims, encoded.values, {**ours.attrs, **units})


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
    InputError
        Kind of exit ``CONFLICT``; names the variable and the difference.
    """
    growing = {str(n) for n, v in base.variables.items() if dim in v.dims}
    missing = growing - {str(n) for n in new.variables}
    extra = {str(n) for n, v in new.variables.items() if dim in v.dims} - growing
    for names, lacking, having in ((missing, new_name, base_name), (extra, base_name, new_name)):
        if names:
            raise InputError(
                f"{', '.join(sorted(names))}: in {having}, but not in {lacking}",
                "What is joined must have the same variables along the dimension.",
                Reason.CONFLICT,
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
        raise InputError(
            f"{name}: its values in {new_name} are not those in {base_name}",
            f"Only variables along {dim} can differ between what is joined.",
            Reason.CONFLICT,
        )


def check_meaning(
    name: str, new: xr.Variable, new_name: str, base: xr.Variable, base_name: str
) -> None:
    """Refuse to put stored numbers beside others that mean something else.

    Raises
    ------
    InputError
        Dimensions, data type or packing differ.
    """
    if new.dims != base.dims:
        ours, theirs = (", ".join(map(str, v.dims)) for v in (new, base))
        raise _difference(name, "dimensions", (ours, new_name), (theirs, base_name))
    if new.dtype != base.dtype and {new.dtype.kind, base.dtype.kind} - set("OTU"):
        raise _difference(name, "data type", (new.dtype, new_name), (base.dtype, base_name))
    for key in PACKING:
        ours, theirs = _packing(new, key), _packing(base, key)
        if ours != theirs and not (is_nan(ours) and is_nan(theirs)):
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
    InputError
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
            raise InputError(
                f"{dim}: its values in {new_name} are not those in {base_name}",
                f"Other variables there use {dim}. --group PATH puts the source elsewhere.",
                Reason.CONFLICT,
            )
    return new.drop_vars(equal)


def check_region(
    new: xr.Dataset, new_name: str, base: xr.Dataset, base_name: str, region: Mapping[str, slice]
) -> None:
    """Refuse to write a region whose meaning differs from what is there.

    Raises
    ------
    InputError
        Packing differs, or the coordinates or static variables of the two.
    """
    for name in map(str, new.variables):
        ours = new[name].variable
        check_meaning(name, ours, new_name, base[name].variable, base_name)
        place = {dim: span for dim, span in region.items() if dim in ours.dims}
        static = name in new.xindexes or not place
        if static and not _same_values(ours, base[name].variable.isel(place)):
            where = f"{base_name} there" if place else base_name
            raise InputError(
                f"{name}: its values in {new_name} are not those of {where}",
                f"To find the place by values: --region {name}=auto" if place else None,
                Reason.CONFLICT,
            )


def check_no_overlap(new: xr.Dataset, base: xr.Dataset, dim: str, place: str) -> None:
    """Refuse to append coordinate values that are there already.

    Raises
    ------
    InputError
        The same source was probably ingested before.
    """
    if dim not in new.variables or dim not in base.variables:
        return
    repeated = np.intersect1d(new[dim].values, base[dim].values)
    if repeated.size:
        first = new[dim].isel({dim: slice(1)}).copy(data=repeated[:1])
        shown = str(first.values[0])
        raise InputError(
            f"{repeated.size} of {new.sizes[dim]} values of {dim} are in {place} already, "
            f"the first is {shown}",
            f"Was this ingested before? To write over them: --region {dim}=auto",
            Reason.CONFLICT,
        )


def _difference(
    name: str,
    what: str,
    ours: tuple[object, str],
    theirs: tuple[object, str],
    hint: str | None = None,
) -> InputError:
    message = f"{name}: {what} is {ours[0]} in {ours[1]}, but {theirs[0]} in {theirs[1]}"
    return InputError(message, hint, Reason.CONFLICT)


def _packing(variable: xr.Variable, key: str) -> Any:
    value = variable.attrs.get(key)
    return value.item() if isinstance(value, np.generic) else value


def _same_values(one: xr.Variable, other: xr.Variable) -> bool:
    a, b = da.asarray(one.data), da.asarray(other.data)
    equal = a == b
    if one.dtype.kind == "f":
        equal |= da.isnan(a) & da.isnan(b)
    return bool(equal.all().compute())


def without_static(dataset: xr.Dataset, dims: set[Hashable], existing: set[str]) -> xr.Dataset:
    """Drop the variables that a partial write cannot touch and that are there already."""
    static = [
        name
        for name, variable in dataset.variables.items()
        if not dims & set(variable.dims) and str(name) in existing
    ]
    return dataset.drop_vars(static)
