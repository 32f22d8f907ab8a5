"""Making a write plan from the shape of a dataset and of what is stored already.

No data is read, so a plan costs nothing however large the data is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from icechunk.dask import _compat
from icechunk.dask.estimate import ArrayPlace, Estimate, estimate_write
from icechunk.dask.grid import (
    AxisGrid,
    aligned_sizes,
    cuts_outer_chunks,
    shares_chunks,
    suggested_chunks,
)
from icechunk.dask.plan import AlignmentProblem, ProblemKind, VariablePlan, WritePlan
from icechunk.dask.reduce import DEFAULT_SPLIT_EVERY
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

    from icechunk.session import Session
    from icechunk.store import IcechunkStore

_MODES: Final = (None, "w", "w-", "a", "a-", "r+")

# How xarray stores a data array without a name, and one named like a coordinate.
_UNNAMED: Final = "__xarray_dataarray_variable__"
_NAME_ATTRIBUTE: Final = "__xarray_dataarray_name__"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    """The options that decide how a plan comes out."""

    existing: Mapping[str, Any] = field(default_factory=dict)
    session: Session | IcechunkStore | None = None
    group: str = ""
    mode: str
    append_dim: Hashable | None
    region: Mapping[Any, slice]
    encoding: Mapping[Any, Mapping[str, Any]]
    check: bool
    align: bool


def as_dataset(obj: Any) -> Any:
    """Return the dataset that stores an xarray object, as xarray itself would make it.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; when it is neither a dataset nor a data array.
    """
    if hasattr(obj, "subtree"):
        raise InvalidInputError(
            "a DataTree is written node by node: for node in tree.subtree: "
            "to_icechunk(node.to_dataset(inherit=False), session, group=node.path)",
            ErrorKind.NOT_ALLOWED,
        )
    if hasattr(obj, "data_vars"):
        return obj
    if not hasattr(obj, "to_dataset"):
        raise InvalidInputError(
            f"expected an xarray Dataset or DataArray, got {type(obj).__name__}.",
            ErrorKind.NOT_ALLOWED,
        )
    if obj.name is None:
        return obj.to_dataset(name=_UNNAMED)
    if obj.name in obj.coords or obj.name in obj.dims:
        dataset = obj.to_dataset(name=_UNNAMED)
        dataset.attrs[_NAME_ATTRIBUTE] = obj.name
        return dataset
    return obj.to_dataset()


def plan_write(
    obj: Any,
    session: Session | IcechunkStore | None = None,
    *,
    group: str | None = None,
    mode: str | None = None,
    append_dim: Hashable | None = None,
    region: Mapping[Any, Any] | None = None,
    encoding: Mapping[Any, Mapping[str, Any]] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    split_every: int | None = None,
) -> WritePlan:
    """Say what writing a dataset would do, without reading or writing its data.

    Parameters
    ----------
    obj : xarray.Dataset or xarray.DataArray
        What would be written.
    session : Session or IcechunkStore, optional
        Where to; needed to see arrays that are there already.
    group : str, optional
        Path of the group; the root when omitted.
    mode : {"w", "w-", "a", "a-", "r+"}, optional
        As in `icechunk.xarray.to_icechunk`.
    append_dim : hashable, optional
        Dimension along which existing arrays grow.
    region : mapping of dimension to slice, optional
        Part of existing arrays that is written; `icechunk.xarray.resolve_region` finds the slices
        that stand behind ``"auto"``.
    encoding : mapping, optional
        Encoding by variable name; replaces what the variable itself brings.
    safe_chunks : bool
        Report blocks that do not fit the zarr chunks.
    align_chunks : bool
        Join blocks that share a zarr chunk instead.
    split_every : int, optional
        How many change sets one merge task takes.

    Returns
    -------
    WritePlan
        One row per variable.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; for something that is no dataset, a mode that there is not, and a
        region of "auto".
    TypeError
        For a region that is no slice, and for what is no session.

    Notes
    -----
    Whether the write is allowed at all is not looked at: ``to_icechunk(..., plan=True)`` also
    refuses what writing would refuse, such as a group that is not empty or a region of none.

    Examples
    --------
    >>> import xarray as xr
    >>> from icechunk.dask import plan_write
    >>> plan = plan_write(xr.Dataset({"v": ("x", [1, 2])}), session, group="g")
    >>> plan.raise_for_problems()
    """
    dataset = as_dataset(obj)
    if mode not in _MODES:
        allowed = ", ".join(map(repr, _MODES[1:]))
        raise InvalidInputError(f"mode={mode!r}: expected {allowed}.", ErrorKind.NOT_ALLOWED)
    for dim, span in (region or {}).items():
        if span == "auto":
            raise InvalidInputError(
                f"region of dimension {dim!r} is 'auto'; a plan needs the slice, which "
                "icechunk.xarray.resolve_region finds.",
                ErrorKind.NOT_ALLOWED,
            )
        if not isinstance(span, slice):
            raise TypeError(f"region of dimension {dim!r} is {span!r}; expected a slice")
    rules = _Rules(
        session=session,
        group=(group or "").strip("/"),
        existing={} if mode in {"w", "w-"} else _existing_arrays(session, group, dataset),
        mode=mode or ("r+" if region is not None and append_dim is None else "a"),
        append_dim=append_dim,
        region=region or {},
        encoding=encoding or {},
        check=safe_chunks and not align_chunks,
        align=align_chunks or not safe_chunks,
    )
    return WritePlan(
        variables=tuple(_rows(dataset, rules)),
        group="/" + (group or "").strip("/"),
        split_every=split_every or DEFAULT_SPLIT_EVERY,
    )


def _existing_arrays(
    session: Session | IcechunkStore | None, group: str | None, dataset: Any
) -> dict[str, Any]:
    if session is None:
        return {}
    store = getattr(session, "store", session)
    if not isinstance(store, Store):
        raise TypeError(
            f"a write goes into a session, not into {type(session).__name__}: "
            "plan_write(ds, repo.writable_session('main'))."
        )
    try:
        root = zarr.open_group(store, path=(group or "").strip("/"), mode="r", zarr_format=3)
    except FileNotFoundError:
        return {}
    nodes = {str(name): root.get(str(name)) for name in dataset.variables}
    return {name: node for name, node in nodes.items() if isinstance(node, zarr.Array)}


def _rows(dataset: Any, rules: _Rules) -> Iterator[VariablePlan]:
    dropped = set(dataset.xindexes) if rules.region else set()
    for name, variable in dataset.variables.items():
        array = rules.existing.get(str(name))
        kept = rules.mode == "a-" and array is not None and rules.append_dim not in variable.dims
        if name not in dropped and not kept:
            yield _row(str(name), _in_stored_order(variable, array), array, rules)


def _in_stored_order(variable: Any, array: Any) -> Any:
    names = getattr(getattr(array, "metadata", None), "dimension_names", None)
    if names is None or names == variable.dims or set(names) != set(variable.dims):
        return variable
    return variable.transpose(*names)


def _row(name: str, variable: Any, array: Any, rules: _Rules) -> VariablePlan:
    dims = tuple(map(str, variable.dims))
    start = _start(variable, array, rules)
    blocks: tuple[tuple[int, ...], ...] | None = variable.chunks
    grids, uneven = _grids(name, variable, array, start, rules)
    problems: list[AlignmentProblem] = list(uneven)
    tasks = 0
    sizes = blocks or tuple((n,) for n in variable.shape)
    if blocks is not None:
        if grids is not None and rules.align:
            sizes = tuple(map(aligned_sizes, blocks, start, grids))
        elif grids is not None and rules.check:
            problems += _problems(name, dims, blocks, start, grids, rules)
        tasks = math.prod(map(len, sizes))
    cost = _cost(name, variable, array, start, grids, tasks, rules)
    return VariablePlan(
        name=name,
        dims=dims,
        shape=tuple(variable.shape),
        dtype=str(variable.dtype),
        zarr_chunk_shape=None if grids is None else tuple(g.unit or g.describe() for g in grids),
        zarr_chunks=None
        if grids is None
        else math.prod(
            grid.chunk_count(at, at + n)
            for grid, at, n in zip(grids, start, variable.shape, strict=True)
        ),
        dask_blocks=0 if blocks is None else math.prod(map(len, blocks)),
        tasks=tasks,
        size_bytes=int(variable.nbytes),
        largest_block_bytes=math.prod(map(max, sizes)) * variable.dtype.itemsize
        if variable.size
        else 0,
        exists=array is not None,
        start=start,
        requests=cost.requests,
        upload_bytes=cost.upload_bytes,
        manifest_bytes=cost.manifest_bytes,
        wire_bytes=cost.wire_bytes,
        problems=tuple(problems),
    )


def _cost(
    name: str,
    variable: Any,
    array: Any,
    start: tuple[int, ...],
    grids: tuple[AxisGrid, ...] | None,
    tasks: int,
    rules: _Rules,
) -> Estimate:
    encoding = rules.encoding.get(name, variable.encoding)
    dtype = variable.dtype if array is None else array.dtype
    item_bytes = np.dtype(encoding.get("dtype") or dtype if array is None else dtype).itemsize
    if grids is None:
        # What zarr chooses for this shape, asked of zarr itself.
        like = {1: "u1", 2: "u2", 4: "u4", 16: "c16"}.get(item_bytes, "u8")
        chosen = zarr.create_array(MemoryStore(), shape=variable.shape, dtype=like)
        grids = tuple(map(AxisGrid.regular, variable.shape, chosen.chunks))
    path = f"/{rules.group}/{name}" if rules.group else f"/{name}"
    place = ArrayPlace.of(rules.session, path)
    return estimate_write(
        grids,
        start,
        variable.shape,
        dims=tuple(map(str, variable.dims)),
        item_bytes=item_bytes,
        tasks=tasks,
        place=place if array is not None else replace(place, manifests=None),
    )


def _start(variable: Any, array: Any, rules: _Rules) -> tuple[int, ...]:
    if array is None:
        return (0,) * len(variable.dims)
    return tuple(
        array.shape[axis]
        if dim == rules.append_dim
        else rules.region.get(dim, slice(None)).indices(array.shape[axis])[0]
        for axis, dim in enumerate(variable.dims)
    )


def _grids(
    name: str, variable: Any, array: Any, start: tuple[int, ...], rules: _Rules
) -> tuple[tuple[AxisGrid, ...] | None, list[AlignmentProblem]]:
    """Return the chunk grid the array has or will have, None if zarr is to choose it."""
    if array is not None and len(array.shape) == variable.ndim:
        lengths = [
            max(n, at + m) for n, at, m in zip(array.shape, start, variable.shape, strict=True)
        ]
        return _compat.write_grid(array, tuple(lengths)), []
    wanted = _encoded_unit(rules.encoding.get(name, variable.encoding), variable.ndim)
    if wanted is None and variable.chunks is None:
        return None, []
    if wanted is not None:
        return tuple(map(AxisGrid.regular, variable.shape, wanted)), []
    uneven = [
        AlignmentProblem(
            kind="uneven",
            variable=name,
            dim=str(dim),
            dask_chunks=sizes,
            zarr_chunks="unknown",
            start=0,
            fix=_chunk_call(str(dim), str(max(sizes))),
        )
        for dim, sizes in zip(variable.dims, variable.chunks, strict=True)
        if len(set(sizes[:-1])) > 1 or sizes[-1] > sizes[0]
    ]
    units = tuple(sizes[0] for sizes in variable.chunks)
    return tuple(map(AxisGrid.regular, variable.shape, units)), uneven


def _encoded_unit(encoding: Mapping[str, Any], ndim: int) -> tuple[int, ...] | None:
    """Return what an encoding says is stored as a whole, if it says so in a way xarray heeds."""
    for key in ("shards", "chunks"):
        value = encoding.get(key)
        if isinstance(value, int):
            return (value,) * ndim
        if isinstance(value, tuple | list) and len(value) == ndim:
            if all(isinstance(n, int) for n in value):
                return tuple(value)
            return None
    return None


def _problems(
    name: str,
    dims: tuple[str, ...],
    blocks: tuple[tuple[int, ...], ...],
    start: tuple[int, ...],
    grids: tuple[AxisGrid, ...],
    rules: _Rules,
) -> Iterator[AlignmentProblem]:
    for dim, sizes, at, grid in zip(dims, blocks, start, grids, strict=True):
        kind: ProblemKind
        if shares_chunks(sizes, at, grid):
            kind = "shared"
        elif rules.mode == "r+" and cuts_outer_chunks(sizes, at, grid):
            kind = "partial"
        else:
            continue
        yield AlignmentProblem(
            kind=kind,
            variable=name,
            dim=dim,
            dask_chunks=sizes,
            zarr_chunks=grid.describe(),
            start=at,
            fix=_chunk_call(dim, suggested_chunks(sizes, at, grid)),
        )


def _chunk_call(dim: str, chunks: str) -> str:
    argument = f"{dim}={chunks}" if dim.isidentifier() else f"{{{dim!r}: {chunks}}}"
    return f"ds = ds.chunk({argument})"
