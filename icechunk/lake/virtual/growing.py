"""Giving virtual datasets a dimension that they have as a single value only."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from virtualizarr.manifests import ManifestArray

from icechunk.inputs.problems import InputError, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence


def no_dimension(what: str, dim: str, dataset: xr.Dataset) -> InputError:
    """Return the error for a dimension that a dataset does not have."""
    return InputError(
        f"{dim!r} is no dimension or coordinate of {what}",
        f"Its dimensions are: {', '.join(map(str, dataset.dims)) or 'none'}.",
        Reason.USAGE,
    )


def virtual_scalars(dataset: xr.Dataset) -> list[str]:
    """Return the names of the single values that are referred to instead of being at hand."""
    return [
        str(name)
        for name, variable in dataset.variables.items()
        if not variable.ndim and isinstance(variable.data, ManifestArray)
    ]


def with_dimension(part: xr.Dataset, dim: str, name: str) -> xr.Dataset:
    """Return the dataset of a file that is one step along a dimension, with that dimension.

    Parameters
    ----------
    part : xarray.Dataset
        Has the dimension, or a single value of that name.
    dim : str
        The dimension.
    name : str
        Of the file, for messages.

    Returns
    -------
    xarray.Dataset
        Data variables of at least one dimension and times that are single values got it in
        addition; other single values and coordinates are as they were.

    Raises
    ------
    InputError
        The file has nothing of that name.
    """
    if dim in part.dims:
        return part
    if dim not in part.variables or part[dim].ndim:
        raise no_dimension(name, dim, part)
    grown = {}
    for key, variable in part.variables.items():
        is_time = not variable.ndim and _is_time(variable)
        if key == dim or is_time or (variable.ndim and key in part.data_vars):
            grown[key] = _grown(variable, dim)
    return replaced(part.set_coords(dim), grown)


def with_values_along(part: xr.Dataset, names: Sequence[str], dim: str) -> xr.Dataset:
    """Return a dataset in which some single values are repeated along a dimension."""
    size = part.sizes[dim]
    grown = {}
    for name in names:
        variable = part[name].variable
        grown[name] = xr.Variable(
            (dim,), np.repeat(variable.values, size), variable.attrs, variable.encoding
        )
    return replaced(part, grown)


def varying_scalars(parts: Sequence[xr.Dataset]) -> list[str]:
    """Return the names of the single values at hand that are not the same in all datasets."""
    first, *others = parts
    return [
        str(name)
        for name, variable in first.variables.items()
        if is_scalar_at_hand(variable)
        and all(name in o.variables and is_scalar_at_hand(o[name].variable) for o in others)
        and not all(equal(variable, other[name].variable) for other in others)
    ]


def equal(one: xr.Variable, other: xr.Variable) -> bool:
    """Say whether two variables have the same dimensions and values; NaN is equal to NaN."""
    same: bool = one.equals(other)  # type: ignore[no-untyped-call] # xarray's
    return same


def is_scalar_at_hand(variable: xr.Variable) -> bool:
    """Say whether a variable is a single value that was loaded."""
    return not variable.ndim and not isinstance(variable.data, ManifestArray)


def decoded(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset whose values at hand are all decoded, as some parsers leave them."""
    raw = {
        name: xr.conventions.decode_cf_variable(str(name), variable)
        for name, variable in dataset.variables.items()
        if not isinstance(variable.data, ManifestArray)
    }
    return replaced(dataset, raw)


def times_as_stored(
    name: str, variable: xr.Variable, attributes: dict[str, Any], dtype: np.dtype[Any]
) -> xr.Variable:
    """Return times as numbers, counted as an array that they are to follow counts them.

    Parameters
    ----------
    name : str
        Of the variable, for messages.
    variable : xarray.Variable
        Decoded; what is no time is returned as it is.
    attributes : dict
        Of the array.
    dtype : numpy.dtype
        Of the array.

    Raises
    ------
    InputError
        They cannot be counted so without loss.
    """
    units = {key: attributes[key] for key in ("units", "calendar") if key in attributes}
    if variable.dtype.kind not in "mMO" or "units" not in units:
        return variable
    times = variable.copy()
    times.encoding = {**units, "dtype": dtype}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            encoded = xr.conventions.encode_cf_variable(times, name=name)
        back = xr.conventions.decode_cf_variable(name, encoded)
        exact = encoded.dtype == dtype and np.array_equal(back.values, times.values)
    except (ValueError, TypeError, OverflowError, Warning):
        exact = False
    if not exact:
        raise InputError(
            f"{name}: these times cannot be counted in {units['units']!r} as {dtype}, as those are "
            "that are there",
            "Put them into a group of their own.",
            Reason.CONFLICT,
        )
    return xr.Variable(encoded.dims, encoded.values, {**variable.attrs, **units})


def replaced(dataset: xr.Dataset, variables: dict[Any, xr.Variable]) -> xr.Dataset:
    """Return a dataset with other variables under names it has; no index is built."""
    every = {**dataset.variables, **variables}
    coords = {name: every[name] for name in dataset.coords}
    data = {name: every[name] for name in dataset.data_vars}
    result = xr.Dataset(data, xr.Coordinates(coords, indexes={}), dataset.attrs)
    result.encoding = dataset.encoding
    return result


def _grown(variable: xr.Variable, dim: str) -> xr.Variable:
    data = variable.data
    if not isinstance(data, ManifestArray):
        values = np.expand_dims(variable.values, 0)
        return xr.Variable((dim, *variable.dims), values, variable.attrs, variable.encoding)
    # VirtualiZarr adds an axis to arrays whose axes have no names only.
    names = (dim, *map(str, variable.dims))
    bare = dataclasses.replace(data.metadata, dimension_names=None)
    grown: ManifestArray = np.expand_dims(
        ManifestArray(metadata=bare, chunkmanifest=data.manifest), axis=0
    )
    metadata = dataclasses.replace(grown.metadata, dimension_names=names)
    array = ManifestArray(metadata=metadata, chunkmanifest=grown.manifest)
    return xr.Variable(names, array, variable.attrs, variable.encoding)


def _is_time(variable: xr.Variable) -> bool:
    return variable.dtype.kind == "M" or " since " in str(variable.attrs.get("units", ""))
