"""Writing stored values into arrays that exist, without decoding and encoding them again.

xarray packs what it writes to an existing array the way that array says. For values that are packed
already that would be once too often, and unpacking them first would not always give the same bits
back. So what is appended, or goes into a region, goes to the zarr arrays directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from dask.base import is_dask_collection

from icechunk.dask.store import store_dask
from icechunk.inputs.problems import InputError, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray as xr

    from icechunk._typing import AnyArray
    from icechunk.inputs.kinds import Region
    from icechunk.session import Session


def write_values(
    dataset: xr.Dataset,
    session: Session,
    *,
    group: str | None,
    append_dim: str | None,
    region: Mapping[str, slice] | None,
) -> None:
    """Write values into existing arrays, at their end or in a region.

    Parameters
    ----------
    dataset : xarray.Dataset
        What to write, as it is to be stored; every variable is in the repository.
    session : Session
        Where to; on failure it is as it was.
    group : str or None
        Path of the group.
    append_dim : str or None
        Dimension that grows; arrays without it are left alone.
    region : mapping or None
        Part of the arrays; those without any of its dimensions are left alone.
    """
    fork = session.fork()
    arrays = zarr.open_group(fork.store, path=(group or "").strip("/"), mode="r+", zarr_format=3)
    blocks: list[tuple[Any, zarr.Array[Any], tuple[slice, ...]]] = []
    moving = {append_dim} if append_dim else set(region or ())
    try:
        for name, variable in dataset.variables.items():
            array = arrays[str(name)]
            if not isinstance(array, zarr.Array) or not moving & set(variable.dims):
                continue
            place = place_of(variable, array, append_dim, region or {})
            shape = tuple(max(n, s.stop) for n, s in zip(array.shape, place, strict=True))
            if shape != array.shape:
                array.resize(shape)
            if is_dask_collection(variable.data):
                blocks.append((variable.data, array, place))
            else:
                array[place] = variable.values
        if blocks:
            sources, targets, regions = map(list, zip(*blocks, strict=True))
            store_dask(sources=sources, targets=targets, regions=regions, align_chunks=True)
    except BaseException:
        fork.discard_changes()
        raise
    session.merge(fork)


def delete_arrays(session: Session, group: str | None, names: tuple[str, ...]) -> None:
    """Delete arrays that are about to be written anew."""
    if names:
        arrays = zarr.open_group(
            session.store, path=(group or "").strip("/"), mode="r+", zarr_format=3
        )
        for name in names:
            del arrays[name]


def place_of(
    variable: xr.Variable,
    array: zarr.Array[Any],
    append_dim: str | None,
    region: Mapping[str, slice],
) -> tuple[slice, ...]:
    """Return where in an array a variable goes: at the end along ``append_dim``, or in a region."""
    place = []
    for dim, size, length in zip(variable.dims, variable.shape, array.shape, strict=True):
        start = length if dim == append_dim else region.get(str(dim), slice(0)).start or 0
        place.append(slice(start, start + size))
    return tuple(place)


def find_region(
    dataset: xr.Dataset, there: xr.Dataset, region: Region | str, place: str
) -> dict[str, slice]:
    """Return the slices that a region means, and check that the dataset fits there.

    Parameters
    ----------
    dataset : xarray.Dataset
        What is to be written.
    there : xarray.Dataset
        What is stored.
    region : dict or "auto"
        As parsed; "auto" is found by the values of the coordinate.
    place : str
        The repository's name, for messages.

    Returns
    -------
    dict
        A bounded slice for each dimension of the region.

    Raises
    ------
    InputError
        A dimension that is not there, values that are not there, a size that does not fit.
    """
    wanted: dict[str, Any] = (
        dict(region) if isinstance(region, dict) else dict.fromkeys(map(str, dataset.dims), "auto")
    )
    found = {}
    for dim, span in wanted.items():
        if dim not in dataset.dims or dim not in there.dims:
            where = "the source" if dim not in dataset.dims else place
            raise InputError(
                f"--region: there is no dimension {dim} in {where}", None, Reason.USAGE
            )
        size, length = dataset.sizes[dim], there.sizes[dim]
        if span == "auto":
            found[dim] = _by_values(dim, _coordinate(dataset, dim), _coordinate(there, dim), place)
            continue
        start, stop, _ = span.indices(length)
        if stop - start != size or (span.stop or length) > length:
            given = f"{span.start}:{'' if span.stop is None else span.stop}"
            raise InputError(
                f"--region {dim}={given} is {max(stop - start, 0)} of {length} in {place}, "
                f"but the source has {size}",
                f"To find the place by the values of {dim}: --region {dim}=auto",
                Reason.USAGE,
            )
        found[dim] = slice(start, stop)
    for other, size in dataset.sizes.items():
        dim = str(other)
        if dim in there.sizes and dim not in found and size != there.sizes[dim]:
            raise InputError(
                f"{dim} has {size} elements in the source, but {there.sizes[dim]} in {place}",
                f"Say where they go: --region {dim}=START:STOP",
                Reason.USAGE,
            )
    return found


def _coordinate(dataset: xr.Dataset, dim: str) -> AnyArray:
    if dim not in dataset.variables:
        raise InputError(
            f"--region {dim}=auto needs values of {dim}, on both sides",
            f"Give the positions: --region {dim}=START:STOP",
            Reason.USAGE,
        )
    values: AnyArray = dataset[dim].values
    return values


def _by_values(dim: str, ours: AnyArray, theirs: AnyArray, place: str) -> slice:
    starts = np.flatnonzero(theirs == ours[0]) if ours.size else np.array([], int)
    for start in starts.tolist():
        if np.array_equal(theirs[start : start + ours.size], ours):
            return slice(start, start + ours.size)
    raise InputError(
        f"the values of {dim} are not in {place}, or not next to each other there",
        f"To add them at the end: --append-dim {dim}",
        Reason.NOT_FOUND,
    )
