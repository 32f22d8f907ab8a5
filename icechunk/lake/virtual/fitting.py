"""What virtual datasets must agree in, to be joined or put beside what is there.

References stand for stored numbers, which mean something only together with the attributes and
codecs of their array. An array has one of each, so whatever goes into it must agree in them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
import zarr
from virtualizarr.codecs import get_codecs
from virtualizarr.manifests import ManifestArray
from zarr.errors import GroupNotFoundError

from icechunk.inputs.joining import PACKING
from icechunk.inputs.prepare import is_nan
from icechunk.inputs.problems import InputError, Reason
from icechunk.lake.virtual.growing import (
    decoded,
    equal,
    is_scalar_at_hand,
    no_dimension,
    replaced,
    times_as_stored,
    with_values_along,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from icechunk.store import IcechunkStore

_THERE: Final = "the repository"


@dataclass(frozen=True, slots=True)
class Fitted:
    """A virtual dataset as it can be written.

    Parameters
    ----------
    dataset : xarray.Dataset
        Without what is there already.
    append_dim : str or None
        Dimension along which it follows what is there; None where all is new.
    replaced : tuple of str
        Arrays that are to be deleted before.
    """

    dataset: xr.Dataset
    append_dim: str | None
    replaced: tuple[str, ...]


def check_joinable(parts: Sequence[tuple[str, xr.Dataset]], dim: str) -> None:
    """Refuse to join virtual datasets where that would change the meaning of stored values.

    Parameters
    ----------
    parts : sequence of (str, xarray.Dataset)
        Names for messages, and the datasets.
    dim : str
        Dimension they are joined along.

    Raises
    ------
    InputError
        They differ in variables along the dimension, in types, codecs, chunks or packing, or in
        coordinates that do not grow; names file, variable and difference.
    """
    (base_name, base), *others = parts
    for name, part in others:
        _check_same_names(_growing(part, dim), name, _growing(base, dim), base_name)
        for key in map(str, part.variables):
            if key in base.variables:
                ours, theirs = part[key].variable, base[key].variable
                _check_variable(key, (ours, name), (theirs, base_name), dim)


def fitted(
    dataset: xr.Dataset, store: IcechunkStore, path: str, *, append_dim: str | None, replace: bool
) -> Fitted:
    """Return what is to be written of a virtual dataset into a group, and how.

    Parameters
    ----------
    dataset : xarray.Dataset
        The virtual dataset.
    store : IcechunkStore
        Of the session.
    path : str
        Of the group, without slashes at its ends; it need not exist.
    append_dim : str or None
        Dimension along which it is to follow what is there, if anything is.
    replace : bool
        Whether arrays that are there may be replaced.

    Raises
    ------
    InputError
        It does not go with what is there; nothing was written.
    """
    if append_dim is not None and append_dim not in dataset.dims:
        raise no_dimension("what is to be appended", append_dim, dataset)
    group = group_at(store, path)
    arrays = {} if group is None else {name.split("/")[-1]: a for name, a in group.arrays()}
    taken = sorted({str(n) for n in dataset.variables} & set(group.group_keys() if group else ()))
    if taken:
        raise InputError(
            f"/{path} has groups where arrays are to go: {', '.join(taken)}",
            "Give another path.",
            Reason.CONFLICT,
        )
    if not arrays:
        return Fitted(dataset, None, ())
    there = _opened(store, path, arrays, dataset)
    if append_dim is not None and any(name in arrays for name in _growing(dataset, append_dim)):
        return _following(decoded(dataset), arrays, there, path, append_dim)
    return _beside(dataset, arrays, there, path, replace=replace)


def group_at(store: IcechunkStore, path: str) -> zarr.Group | None:
    """Return the group at a path; None where nothing is.

    Raises
    ------
    InputError
        There is an array at the path, or above it.
    """
    parts = path.split("/") if path else []
    group: zarr.Group | None = None
    for depth in range(len(parts) + 1):
        try:
            node = zarr.open(store, path="/".join(parts[:depth]), mode="r", zarr_format=3)
        except (FileNotFoundError, GroupNotFoundError):
            return None
        if isinstance(node, zarr.Array):
            raise InputError(
                f"/{'/'.join(parts[:depth])} is an array, so no group can be at /{path}",
                "Give the path of a group.",
                Reason.CONFLICT,
            )
        group = node
    return group


def _following(
    dataset: xr.Dataset,
    arrays: Mapping[str, zarr.Array[Any]],
    there: Mapping[str, xr.Variable],
    path: str,
    dim: str,
) -> Fitted:
    """Return what follows the arrays of a group; what does not grow stays as it is."""
    where = f"/{path} of {_THERE}"
    growing = {name for name, array in arrays.items() if dim in _dims(array)}
    if not growing:
        raise InputError(
            f"nothing in {where} has a dimension {dim}, so nothing can follow along it",
            f"There are: {', '.join(sorted(arrays))}. Give another path, or another dimension.",
            Reason.CONFLICT,
        )
    single = [
        str(name)
        for name, variable in dataset.variables.items()
        if name in growing and is_scalar_at_hand(variable)
    ]
    dataset = with_values_along(dataset, single, dim)
    _check_same_names(_growing(dataset, dim), "what is to be appended", growing, where)
    kept, counted = [], {}
    for name in map(str, dataset.variables):
        if name not in arrays:
            continue
        variable, array = dataset[name].variable, arrays[name]
        if isinstance(variable.data, ManifestArray):
            _check_array(name, (variable, "what is to be appended"), (array, where), dim)
        else:
            ours, theirs = (variable, "what is to be appended"), (there[name], where)
            _check_variable(name, ours, theirs, dim)
            counted[name] = times_as_stored(name, variable, array.attrs.asdict(), array.dtype)
        if dim not in variable.dims:
            kept.append(name)
    _check_new_values(dataset, there, dim, where)
    return Fitted(replaced(dataset, counted).drop_vars(kept), dim, ())


def _beside(
    dataset: xr.Dataset,
    arrays: Mapping[str, zarr.Array[Any]],
    there: Mapping[str, xr.Variable],
    path: str,
    *,
    replace: bool,
) -> Fitted:
    """Return what is new in a group; coordinates it has already are left out."""
    shared = [str(name) for name in dataset.variables if str(name) in arrays]
    values = decoded(dataset)
    present = [
        name
        for name in shared
        if not isinstance(dataset[name].data, ManifestArray)
        and equal(values[name].variable, there[name])
    ]
    clashing = sorted(set(shared) - set(present))
    if clashing and not replace:
        raise InputError(
            f"in /{path} of {_THERE} there are already: {', '.join(clashing)}",
            "To put these in their place: replace=True, on the command line --replace. To go on "
            "after them: append_dim='time' or the like, --append-dim time.",
            Reason.CONFLICT,
        )
    staying = {name: array for name, array in arrays.items() if name not in clashing}
    for name, array in staying.items():
        for axis, size in zip(_dims(array), array.shape, strict=True):
            if axis in dataset.sizes and dataset.sizes[axis] != size:
                raise InputError(
                    f"{axis}: {dataset.sizes[axis]} elements in what is to be added, but {size} "
                    f"in {name} at /{path}",
                    "A dimension has one length in a group. Give another path.",
                    Reason.CONFLICT,
                )
    return Fitted(dataset.drop_vars(present), None, tuple(clashing))


def _growing(dataset: xr.Dataset, dim: str) -> set[str]:
    return {str(name) for name, variable in dataset.variables.items() if dim in variable.dims}


def _check_same_names(new: Iterable[str], new_name: str, base: Iterable[str], where: str) -> None:
    ours, theirs = set(new), set(base)
    for names, having, lacking in (
        (theirs - ours, where, new_name),
        (ours - theirs, new_name, where),
    ):
        if names:
            raise InputError(
                f"{', '.join(sorted(names))}: in {having}, but not in {lacking}",
                "What is joined must have the same variables along the dimension; "
                "drop_variables=[...] leaves some out.",
                Reason.CONFLICT,
            )


def _check_variable(
    name: str, new: tuple[xr.Variable, str], base: tuple[xr.Variable, str], dim: str
) -> None:
    """Refuse a variable that differs from one of another dataset in more than its values."""
    (ours, new_name), (theirs, base_name) = new, base
    _check_dims(
        name, (ours.dims, ours.shape, new_name), (theirs.dims, theirs.shape, base_name), dim
    )
    virtual = isinstance(ours.data, ManifestArray)
    if virtual != isinstance(theirs.data, ManifestArray):
        raise InputError(
            f"{name}: held by value in {base_name if virtual else new_name}, referred to in the "
            "other",
            "loadable_variables=[...] names what is to be held by value in all.",
            Reason.CONFLICT,
        )
    if virtual:
        _check_stored(name, (ours.data.metadata, ours.attrs, new_name),
                      (theirs.data.metadata, theirs.attrs, base_name))  # fmt: skip
        return
    # Values at hand are decoded: how they were packed does not matter any more.
    if ours.attrs.get("units") != theirs.attrs.get("units"):
        raise _difference(name, "units", (ours.attrs.get("units"), new_name),
                          (theirs.attrs.get("units"), base_name))  # fmt: skip
    if dim not in ours.dims and not equal(ours, theirs):
        raise InputError(
            f"{name}: its values in {new_name} are not those in {base_name}",
            f"Only what lies along {dim} can differ between what is joined.",
            Reason.CONFLICT,
        )


def _check_array(
    name: str, new: tuple[xr.Variable, str], base: tuple[zarr.Array[Any], str], dim: str
) -> None:
    """Refuse references that mean something else than those of an array they are to follow."""
    (variable, new_name), (array, where) = new, base
    ours, theirs = (variable.dims, variable.shape, new_name), (_dims(array), array.shape, where)
    _check_dims(name, ours, theirs, dim)
    if dim not in variable.dims:
        return  # the array stays as it is
    attributes = array.attrs.asdict()
    _check_stored(name, (variable.data.metadata, variable.attrs, new_name),
                  (array.metadata, attributes, where))  # fmt: skip
    if get_codecs(variable.data) != get_codecs(array):
        raise _difference(name, "codecs", (get_codecs(variable.data), new_name),
                          (get_codecs(array), where))  # fmt: skip
    axis = variable.dims.index(dim)
    length, chunk = array.shape[axis], array.chunks[axis]
    if length % chunk:
        raise InputError(
            f"{name} in {where} has {length} elements along {dim} in chunks of {chunk}: its last "
            "chunk is not full, so no references can follow",
            "Only as many elements as fill chunks can be referred to and appended to.",
            Reason.CONFLICT,
        )


def _check_dims(
    name: str,
    new: tuple[Sequence[Any], Sequence[int], str],
    base: tuple[Sequence[Any], Sequence[int], str],
    dim: str,
) -> None:
    (dims, shape, new_name), (base_dims, base_shape, base_name) = new, base
    if tuple(dims) != tuple(base_dims):
        ours, theirs = ", ".join(map(str, dims)), ", ".join(map(str, base_dims))
        raise _difference(name, "dimensions", (ours, new_name), (theirs, base_name))
    for axis, size, base_size in zip(dims, shape, base_shape, strict=True):
        if axis != dim and size != base_size:
            raise _difference(
                name, f"length along {axis}", (size, new_name), (base_size, base_name)
            )


def _check_stored(
    name: str, new: tuple[Any, Mapping[str, Any], str], base: tuple[Any, Mapping[str, Any], str]
) -> None:
    """Refuse stored numbers beside others of another type, chunk shape or packing."""
    (metadata, attributes, new_name), (base_metadata, base_attributes, base_name) = new, base
    pairs = [
        ("data type", metadata.data_type, base_metadata.data_type),
        ("chunk shape", metadata.chunks, base_metadata.chunks),
        ("fill value", metadata.fill_value, base_metadata.fill_value),
        *((key, attributes.get(key), base_attributes.get(key)) for key in PACKING),
    ]
    for what, ours, theirs in pairs:
        one, other = _plain(ours), _plain(theirs)
        if one != other and not (is_nan(one) and is_nan(other)):
            raise _difference(
                name,
                what,
                (one, new_name),
                (other, base_name),
                "One array has one of these. loadable_variables=[...] holds variables by value "
                "instead, and separate groups keep each as it is.",
            )


def _check_new_values(
    dataset: xr.Dataset, there: Mapping[str, xr.Variable], dim: str, where: str
) -> None:
    """Refuse coordinate values that are there already: the file was probably added before."""
    if dim not in there or dim not in dataset.variables:
        return
    new = dataset[dim].variable
    if isinstance(new.data, ManifestArray):
        return
    repeated = np.intersect1d(new.values, there[dim].values)
    if repeated.size:
        raise InputError(
            f"{repeated.size} of {new.size} values of {dim} are in {where} already, the first is "
            f"{repeated[0]}",
            "Was this added before?",
            Reason.CONFLICT,
        )


def _opened(
    store: IcechunkStore, path: str, arrays: Mapping[str, zarr.Array[Any]], dataset: xr.Dataset
) -> dict[str, xr.Variable]:
    """Return the arrays of a group whose values are compared, decoded as the dataset's are."""
    group = xr.backends.ZarrStore.open_group(
        store,
        mode="r",
        group=path or None,
        consolidated=False,
        zarr_format=3,
    )
    found = {}
    for name, variable in dataset.variables.items():
        if name not in arrays or isinstance(variable.data, ManifestArray):
            continue
        if None in _dims(arrays[str(name)]):
            raise InputError(
                f"{name} at /{path} has no names of dimensions",
                "Give another path.",
                Reason.CONFLICT,
            )
        stored = group.open_store_variable(str(name))
        found[str(name)] = xr.conventions.decode_cf_variable(str(name), stored).load()
    return found


def _dims(array: zarr.Array[Any]) -> tuple[Any, ...]:
    return tuple(getattr(array.metadata, "dimension_names", None) or (None,) * array.ndim)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _difference(
    name: str,
    what: str,
    new: tuple[object, str],
    base: tuple[object, str],
    hint: str | None = None,
) -> InputError:
    message = f"{name}: {what} is {new[0]} in {new[1]}, but {base[0]} in {base[1]}"
    return InputError(message, hint, Reason.CONFLICT)
