"""Where a job's values go: making the arrays, cutting the units, and writing one of them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import xarray as xr
import zarr

from icechunk.dask import _compat as dask_compat
from icechunk.dask.collect import BlockCollector
from icechunk.dask.ingest.sources import FileSource, Source
from icechunk.dask.ingest.units import Unit, cut_at, cut_evenly
from icechunk.errors import AlreadyExistsError, ErrorKind, InvalidInputError
from icechunk.inputs import joining, prepare, raw
from icechunk.inputs.sources import AS_STORED
from icechunk.xarray import _compat

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from icechunk.dask.grid import AxisGrid
    from icechunk.dask.store import BlockWrite
    from icechunk.session import Session

# How many uncompressed bytes a unit of one large dataset has, where nothing else is said.
_UNIT_BYTES: Final = 256_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Placing:
    """How a source is to be placed in a repository.

    Parameters
    ----------
    group : str or None
        Path of the group; the root when None.
    append_dim : str or None
        Dimension along which sources are joined, and appended to what is there.
    unit_dim : str or None
        Dimension along which the units are cut; ``append_dim`` when there is one, else the first
        of the largest variable.
    unit_size : int or None
        Elements along it per unit; by source, or by size, when None.
    mode : {"w-", "w"}
        Whether a group that is there already is refused or replaced; appending does neither.
    encoding : mapping or None
        Encoding by variable name, for new arrays.
    """

    group: str | None = None
    append_dim: str | None = None
    unit_dim: str | None = None
    unit_size: int | None = None
    mode: str = "w-"
    encoding: Mapping[Any, Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where everything of a job goes; recorded with it.

    Parameters
    ----------
    group : str or None
        Path of the group.
    dim : str or None
        Dimension along which the units are cut; None when there are none but the static one.
    at : int
        Where along it the source begins in the arrays.
    lengths : tuple of int
        Elements of each dataset or file along it.
    names : tuple of str
        Variables that the units write.
    static_names : tuple of str
        Variables without the dimension that are written by a unit of their own. All others are
        small, or in memory, and are written with the arrays' metadata.
    units : tuple of Unit
        All units, by index.
    size_bytes : int
        Uncompressed bytes that the units write.
    """

    group: str | None
    dim: str | None
    at: int
    lengths: tuple[int, ...]
    names: tuple[str, ...]
    static_names: tuple[str, ...]
    units: tuple[Unit, ...]
    size_bytes: int

    def facts(self) -> dict[str, Any]:
        """Return the layout as plain data."""
        return asdict(self) | {"units": [(unit.start, unit.stop) for unit in self.units]}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Layout:
        """Return the layout of `facts`."""
        given = dict(facts)
        spans = given.pop("units")
        units = tuple(Unit(index=i, start=a, stop=b) for i, (a, b) in enumerate(spans))
        for name in ("lengths", "names", "static_names"):
            given[name] = tuple(given[name])
        return cls(**given, units=units)

    def paths(self) -> list[str]:
        """Return the paths of the arrays that units write."""
        group = (self.group or "").strip("/")
        names = (*self.names, *self.static_names)
        return [f"/{group}/{name}" if group else f"/{name}" for name in names]

    def chunks_in(self, session: Session) -> int:
        """Return how many chunks the job's variables have in the range that it writes."""
        total = 0
        length = sum(self.lengths)
        for path in self.paths():
            name = path.rpartition("/")[2]
            array = zarr.open_array(session.store, path=path.strip("/"), mode="r")
            names = getattr(array.metadata, "dimension_names", None) or ()
            spans = [
                (self.at, self.at + length) if dim == self.dim and name in self.names else (0, size)
                for dim, size in zip(names, array.shape, strict=True)
            ]
            grids = dask_compat.write_grid(array, array.shape)
            total += math.prod(g.chunk_count(*span) for g, span in zip(grids, spans, strict=True))
        return total

    def label(self, unit: Unit, source: Source) -> str:
        """Return what a unit holds, for people."""
        if unit.is_static:
            return ", ".join(self.static_names)
        names = [source.names[which] for which, _, _ in self.pieces(unit)]
        span = f"{self.dim} {unit.start}:{unit.stop}"
        if len(names) == 1 and len(source.names) > 1:
            return f"{names[0]}, {span}"
        return span if len(names) == 1 else f"{names[0]} to {names[-1]}, {span}"

    def pieces(self, unit: Unit) -> list[tuple[int, int, int]]:
        """Return which parts of which datasets a unit holds: number, start, stop."""
        found = []
        for which, end in enumerate(accumulate(self.lengths)):
            begin = end - self.lengths[which]
            start, stop = max(unit.start, begin), min(unit.stop, end)
            if start < stop:
                found.append((which, start - begin, stop - begin))
        return found


def lay_out(session: Session, source: Source, placing: Placing) -> Layout:
    """Make the arrays a source needs, in a session, and cut the source into units.

    Metadata, and all values that are in memory already, are written here.

    Parameters
    ----------
    session : Session
        Writable, without changes.
    source : Source
        What is to be ingested; its metadata is read.
    placing : Placing
        Where to.

    Raises
    ------
    AlreadyExistsError
        Kind ``not-allowed``; the group holds something.
    InvalidInputError
        Kind ``not-allowed``; the sources do not go together, or not with what is there.
    """
    opened = [(name, source.open(which)) for which, name in enumerate(source.names)]
    whole = joining.combined(opened, placing.append_dim)
    dim = _dimension(whole, placing)
    there = _existing(session, source, placing)
    grows = placing.append_dim is not None and any(
        dim in variable.dims for variable in there.variables.values()
    )
    if grows:
        whole = joining.with_times_of(there, whole)
        joining.check_joinable(whole, source.describe(), there, "the repository", str(dim))
        joining.check_no_overlap(whole, there, str(dim), "the repository")
        whole = joining.without_static(whole, {dim}, set(map(str, there.variables)))
    whole = _chunked(whole, source, grows=grows)
    collector = BlockCollector(align=False)
    if grows and source.as_stored:
        _grow(session, whole, placing.group, str(dim), collector)
    else:
        _dump(session, whole, placing, collector, append_dim=dim if grows else None)
    with_dim = [w for w in collector.writes if dim in _dims(w, whole)]
    static = tuple(w.name for w in collector.writes if dim not in _dims(w, whole))
    axes = [(w, _dims(w, whole).index(str(dim))) for w in with_dim]
    at = axes[0][0].start[axes[0][1]] if axes else 0
    grids = [dask_compat.write_grid(w.target, w.target.shape)[axis] for w, axis in axes]
    # One dataset needs no joining, so it may lack the dimension of the units.
    lengths = tuple(joining.combined([one], placing.append_dim).sizes.get(dim, 0) for one in opened)
    spans = _spans(whole, lengths, at, grids, placing) if with_dim else []
    spans = [(0, 0), *spans] if static else spans
    return Layout(
        group=placing.group,
        dim=None if dim is None else str(dim),
        at=at,
        lengths=lengths,
        names=tuple(w.name for w in with_dim),
        static_names=static,
        units=tuple(Unit(index=i, start=a, stop=b) for i, (a, b) in enumerate(spans)),
        size_bytes=sum(int(w.source.nbytes) for w in collector.writes),
    )


def _dimension(whole: xr.Dataset, placing: Placing) -> str | None:
    dim = placing.append_dim or placing.unit_dim
    if dim is not None:
        if dim not in whole.dims:
            known = ", ".join(map(str, whole.dims))
            raise InvalidInputError(
                f"there is no dimension {dim!r}; there are: {known}.", ErrorKind.NOT_ALLOWED
            )
        return dim
    variables = sorted(whole.variables.values(), key=lambda variable: -variable.nbytes)
    return next((str(v.dims[0]) for v in variables if v.dims), None)


def _dims(write: BlockWrite, whole: xr.Dataset) -> tuple[str, ...]:
    names = getattr(write.target.metadata, "dimension_names", None)
    return tuple(map(str, names or whole[write.name].dims))


def _existing(session: Session, source: Source, placing: Placing) -> xr.Dataset:
    """Return what is in the group; nothing when it is to be replaced."""
    if placing.mode == "w" and placing.append_dim is None:
        return xr.Dataset()
    there = open_group(session, placing.group, source)
    if placing.append_dim is None and (there.variables or there.attrs):
        raise _occupied(placing, ", ".join(list(map(str, there.variables))[:6]))
    return there


def _occupied(placing: Placing, what: str) -> AlreadyExistsError:
    return AlreadyExistsError(
        f"group {placing.group or '/'} is not empty: {what}. Pass append_dim= to append, mode='w' "
        "to replace it, or another group=.",
        ErrorKind.NOT_ALLOWED,
    )


def open_group(session: Session, group: str | None, source: Source) -> xr.Dataset:
    """Return a group as the source's values are meant: as stored, or decoded; empty when absent."""
    how: dict[str, Any] = dict(AS_STORED) if source.as_stored else {}
    try:
        opened: xr.Dataset = xr.open_zarr(
            session.store, group=group, consolidated=False, chunks={}, **how
        )
    except FileNotFoundError:
        return xr.Dataset()
    return opened


def _chunked(whole: xr.Dataset, source: Source, *, grows: bool) -> xr.Dataset:
    """Choose the chunks of new arrays: equal ones, since that is what zarr can have."""
    if isinstance(source, FileSource):
        wanted: Any = source.files.chunks
        wanted = dict(wanted) if wanted is not None and not isinstance(wanted, str) else wanted
        return prepare.chunked(whole, wanted, explicit_only=grows)
    sizes = {
        name: {
            dim: blocks[0]
            for dim, blocks in zip(variable.dims, variable.chunks, strict=True)
            if len(set(blocks[:-1])) > 1 or blocks[-1] > blocks[0]
        }
        for name, variable in whole.variables.items()
        if variable.chunks
    }
    even = {name: whole[name].chunk(uneven) for name, uneven in sizes.items() if uneven}
    whole = whole.assign(even)
    scalars = [n for n, v in whole.variables.items() if v.chunks is not None and not v.ndim]
    return whole.assign({name: whole[name].compute() for name in scalars})


def _grow(
    session: Session, whole: xr.Dataset, group: str | None, dim: str, collector: BlockCollector
) -> None:
    """Make existing arrays longer, and write what is in memory as it is."""
    arrays = zarr.open_group(session.store, path=(group or "").strip("/"), mode="r+", zarr_format=3)
    for name, variable in whole.variables.items():
        array = arrays[str(name)]
        if not isinstance(array, zarr.Array) or dim not in variable.dims:
            continue
        place = raw.place_of(variable, array, dim, {})
        array.resize(tuple(max(n, s.stop) for n, s in zip(array.shape, place, strict=True)))
        collector.add(variable.data, array, place)


def _dump(
    session: Session,
    whole: xr.Dataset,
    placing: Placing,
    collector: BlockCollector,
    *,
    append_dim: str | None,
) -> None:
    """Make new arrays, or longer ones, the way xarray does it."""
    _compat.check_names(whole)
    try:
        zarr_store = _compat.open_zarr_store(
            session.store,
            group=placing.group,
            mode=placing.mode if placing.append_dim is None else "a",
            append_dim=append_dim,
            region=None,
            safe_chunks=False,
        )
    except FileExistsError as e:
        raise _occupied(placing, "there are other groups or arrays") from e
    _compat.dump(whole, zarr_store, collector, placing.encoding or {})


def _spans(
    whole: xr.Dataset,
    lengths: Sequence[int],
    at: int,
    grids: Sequence[AxisGrid],
    placing: Placing,
) -> list[tuple[int, int]]:
    length = sum(lengths)
    if placing.unit_size is None and len(lengths) > 1:
        return cut_at(accumulate(lengths), length, at, grids)
    step = placing.unit_size or max(1, math.floor(_UNIT_BYTES * length / max(whole.nbytes, 1)))
    return cut_evenly(length, min(step, length), at, grids)


# -- one unit ---------------------------------------------------------------------------------


def unit_writes(
    fork: Session, source: Source, layout: Layout, unit: Unit, there: xr.Dataset
) -> list[BlockWrite]:
    """Return the writes that make up a unit; nothing is written yet.

    Parameters
    ----------
    fork : Session
        Where to; knows the arrays.
    source : Source
        Only what the unit needs of it is opened.
    layout : Layout
        Of the job.
    unit : Unit
        Which.
    there : xarray.Dataset
        The group as `open_group` returns it.

    Returns
    -------
    list of BlockWrite
        Aligned with the chunks of the arrays.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; a source is not what it was when the job was planned.
    """
    collector = BlockCollector(align=True)
    if unit.is_static:
        static = source.open(0)
        for name in layout.static_names:
            variable = static[name].variable
            only = xr.Dataset({name: variable})
            whole = {str(dim): slice(0, size) for dim, size in only.sizes.items()}
            _collect(fork, only, layout, whole, collector, as_stored=source.as_stored)
        return collector.writes
    dataset = _unit_dataset(source, layout, unit, there)
    span = slice(layout.at + unit.start, layout.at + unit.stop)
    region = {str(layout.dim): span}
    _collect(fork, dataset, layout, region, collector, as_stored=source.as_stored)
    return collector.writes


def _unit_dataset(source: Source, layout: Layout, unit: Unit, there: xr.Dataset) -> xr.Dataset:
    dim = str(layout.dim)
    parts = []
    pieces = layout.pieces(unit)
    for which, _, _ in pieces:
        name = source.names[which]
        joined = source.open(which)
        if len(source.names) > 1 or dim not in joined.dims:
            joined = joining.combined([(name, joined)], dim)
        if joined.sizes[dim] != layout.lengths[which]:
            raise InvalidInputError(
                f"{name} has {joined.sizes[dim]} elements along {dim}; when the job was "
                f"planned it had {layout.lengths[which]}. Start a new job.",
                ErrorKind.NOT_ALLOWED,
            )
        only = joining.with_times_of(there, joined).reset_coords()
        only = only.drop_vars(set(only.variables) - set(layout.names))
        parts.append((name, only))
    whole = joining.combined(parts, dim)
    start = pieces[0][1]
    return whole.isel({dim: slice(start, start + unit.stop - unit.start)})


def _collect(
    fork: Session,
    dataset: xr.Dataset,
    layout: Layout,
    region: Mapping[str, slice],
    collector: BlockCollector,
    *,
    as_stored: bool,
) -> None:
    # What was in memory when the job was planned is written; here everything is to be a task.
    dataset = dataset.chunk()
    if as_stored:
        arrays = zarr.open_group(
            fork.store, path=(layout.group or "").strip("/"), mode="r+", zarr_format=3
        )
        for name, variable in dataset.variables.items():
            array = arrays[str(name)]
            assert isinstance(array, zarr.Array), "the job made it"
            collector.add(variable.data, array, raw.place_of(variable, array, None, region))
        return
    zarr_store = _compat.open_zarr_store(
        fork.store,
        group=layout.group,
        mode="r+",
        append_dim=None,
        region=dict(region),
        safe_chunks=False,
    )
    fitted, _ = _compat.fit_region(dataset, zarr_store)
    _compat.dump(fitted, zarr_store, collector, {})


def boxes_of(write: BlockWrite) -> list[tuple[int, int]]:
    """Return which chunks a write covers: along each axis the first, and the one after the last."""
    grids = dask_compat.write_grid(write.target, write.target.shape)
    box = []
    for grid, start, size in zip(grids, write.start, write.source.shape, strict=True):
        first = grid.chunk_count(0, start + 1) - 1
        box.append((first, first + grid.chunk_count(start, start + size)))
    return box
