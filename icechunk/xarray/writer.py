"""Writing xarray objects into a session."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

from icechunk._earlier.spelling import takes_earlier
from icechunk.dask.collect import BlockCollector
from icechunk.dask.planner import as_dataset, plan_write
from icechunk.dask.reduce import checked_split_every
from icechunk.dask.reporting import report_of, session_amounts
from icechunk.dask.store import checked_store_kwargs, pending_write
from icechunk.errors import ErrorKind, ReadOnlyError
from icechunk.events import NOTHING, Amount, as_part_of
from icechunk.progress import operation
from icechunk.store import IcechunkStore
from icechunk.xarray import _compat

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Hashable,
        Iterator,
        Mapping,
        MutableMapping,
        Sequence,
    )

    from xarray import DataArray, Dataset
    from xarray.backends import ZarrStore

    from icechunk.dask.pending import PendingWrite
    from icechunk.dask.plan import VariablePlan, WritePlan
    from icechunk.dask.store import BlockWrite
    from icechunk.progress import ProgressOption
    from icechunk.report import IngestReport
    from icechunk.session import Session

    Region = Mapping[str, slice | Literal["auto"]] | Literal["auto"] | None
    Mode = Literal["w", "w-", "a", "a-", "r+"] | None


@overload
def to_icechunk(
    obj: DataArray | Dataset,
    session: Session | IcechunkStore,
    *,
    group: str | None = ...,
    mode: Mode = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    append_dim: Hashable | None = ...,
    region: Region = ...,
    encoding: Mapping[Any, Any] | None = ...,
    chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = ...,
    split_every: int | None = ...,
    compute: Literal[True] = ...,
    plan: Literal[False] = ...,
    progress: ProgressOption = ...,
) -> IngestReport: ...


@overload
def to_icechunk(
    obj: DataArray | Dataset,
    session: Session | IcechunkStore,
    *,
    group: str | None = ...,
    mode: Mode = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    append_dim: Hashable | None = ...,
    region: Region = ...,
    encoding: Mapping[Any, Any] | None = ...,
    chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = ...,
    split_every: int | None = ...,
    compute: bool = ...,
    plan: Literal[True],
    progress: ProgressOption = ...,
) -> WritePlan: ...


@overload
def to_icechunk(
    obj: DataArray | Dataset,
    session: Session | IcechunkStore,
    *,
    group: str | None = ...,
    mode: Mode = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    append_dim: Hashable | None = ...,
    region: Region = ...,
    encoding: Mapping[Any, Any] | None = ...,
    chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = ...,
    split_every: int | None = ...,
    compute: bool,
    plan: bool = ...,
    progress: ProgressOption = ...,
) -> PendingWrite | IngestReport | WritePlan: ...


@takes_earlier(dataset="obj", store="session")
def to_icechunk(
    obj: DataArray | Dataset,
    session: Session | IcechunkStore,
    *,
    group: str | None = None,
    mode: Mode = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    append_dim: Hashable | None = None,
    region: Region = None,
    encoding: Mapping[Any, Any] | None = None,
    chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = None,
    split_every: int | None = None,
    compute: bool = True,
    plan: bool = False,
    progress: ProgressOption = False,
) -> PendingWrite | IngestReport | WritePlan:
    """Write an xarray object into a session.

    Metadata and variables in memory are written first. Then every block of a dask array is a task
    of its own, which writes its chunks straight to storage, in whatever process it runs, and
    returns only their references. These are merged and become part of the session, to be
    committed by you. The parameters mean what they mean in `xarray.Dataset.to_zarr`.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
        What to write.
    session : Session, ForkSession or IcechunkStore
        Where to; writable.
    group : str, optional
        Path of the group; the root when omitted.
    mode : {"w", "w-", "a", "a-", "r+"}, optional
        ``w`` replaces the group, ``w-`` refuses an existing one, ``a`` adds and overwrites
        variables, ``a-`` only appends, ``r+`` only changes values of existing arrays. Omitted:
        ``a`` with ``append_dim``, ``r+`` with ``region``, else ``w-``.
    safe_chunks : bool, default: True
        Refuse dask blocks that do not fit the zarr chunks. False joins blocks that share a chunk,
        and lets a region begin or end inside a chunk, where another writer may lose its part.
    align_chunks : bool, default: False
        Join blocks that share a zarr chunk, instead of refusing them; needs the memory of both.
    append_dim : hashable, optional
        Dimension along which existing arrays grow.
    region : mapping of dimension to slice or "auto", or "auto", optional
        Part of existing arrays to write; "auto" finds it by the coordinate values.
    encoding : mapping, optional
        Encoding by variable name, for new variables: ``chunks``, ``shards``, ``compressors``,
        ``filters``, ``serializer``, ``fill_value``, ``dtype``, ``write_empty_chunks``, ...
    chunkmanager_store_kwargs : mapping, optional
        Passed to ``dask.compute``, for example ``{"scheduler": "synchronous"}``.
    split_every : int, optional
        How many change sets one merge task takes; 16 when omitted.
    compute : bool, default: True
        Write dask arrays now. False returns the write instead, metadata and variables in memory
        being written already.
    plan : bool, default: False
        Write nothing, and return what would be written: tasks, chunks, bytes, requests, and
        dask blocks that do not fit, with the call that fixes each.
    progress : bool or callable, default: False
        Show a bar, in the terminal or the notebook; or call a function with each event, see
        `icechunk.events`.

    Returns
    -------
    IngestReport
        What was written, array by array.
    PendingWrite
        With ``compute=False``, a dask ``Delayed``: computing it writes the blocks and merges their
        change sets into the session.
    WritePlan
        With ``plan=True``.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; dask chunks that do not fit (naming variable, dimension, both
        chunkings and the call that fixes it), raised before anything is written.
    ReadOnlyError
        Kind ``read-only-session``.
    ValueError, TypeError, KeyError
        What ``Dataset.to_zarr`` raises for parameters that do not fit.

    Notes
    -----
    When it fails in a session that had no uncommitted changes, the session is as it was.

    Examples
    --------
    >>> import xarray as xr
    >>> from icechunk.xarray import to_icechunk
    >>> report = to_icechunk(xr.Dataset({"v": ("x", [1, 2])}), session, group="g")
    >>> snapshot_id = session.commit("a dataset")
    """
    target = _writable(session)
    dataset = as_dataset(obj)
    _compat.check_names(dataset)
    chosen = _compat.choose_mode(mode, append_dim, region)
    split_every = checked_split_every(split_every)
    compute_kwargs = checked_store_kwargs(chunkmanager_store_kwargs)
    if _has_auto(region):
        region = resolve_region(dataset, target, region, group=group, mode=chosen)
    planned = plan_write(
        dataset,
        target,
        group=group,
        mode=chosen,
        append_dim=append_dim,
        region=region,  # type: ignore[arg-type] # resolved above
        encoding=encoding,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
        split_every=split_every,
    )
    align = align_chunks or not safe_chunks

    def opened(into: Session) -> tuple[Dataset, ZarrStore]:
        zarr_store = _compat.open_zarr_store(
            into.store,
            group=group,
            mode=chosen,
            append_dim=append_dim,
            region=region,
            safe_chunks=not align,
        )
        return _compat.fit_region(dataset, zarr_store)[0], zarr_store

    if plan:
        # What could not be written is no plan: the same errors, found on a copy that is dropped.
        copy = target.fork()
        try:
            _compat.check_plan(*opened(copy), encoding or {})
        finally:
            copy.discard_changes()
        return planned
    planned.raise_for_problems()

    def dump(into: Session) -> BlockCollector:
        collector = BlockCollector(align=align)
        _compat.dump(*opened(into), collector, encoding or {})
        return collector

    def pending(writes: Sequence[BlockWrite], into: Session) -> PendingWrite:
        return pending_write(writes, into, split_every=split_every, compute_kwargs=compute_kwargs)

    if compute:
        return _write_now(target, planned, dump, pending, progress)
    with _transaction(target) as into:
        writes = dump(into).writes
    return pending(writes, target)


def resolve_region(
    obj: DataArray | Dataset,
    session: Session | IcechunkStore,
    region: Region,
    *,
    group: str | None = None,
    mode: Mode = None,
) -> dict[str, slice] | None:
    """Return the slices that stand behind ``"auto"`` in a region.

    Parameters
    ----------
    obj : xarray.DataArray or xarray.Dataset
        What is to be written.
    session : Session, ForkSession or IcechunkStore
        Where to.
    region : mapping of dimension to slice or "auto", or "auto", or None
        The region as given to `to_icechunk`.
    group : str, optional
        Path of the group; the root when omitted.
    mode : {"a", "r+"}, optional
        ``r+`` when omitted.

    Returns
    -------
    dict or None
        A slice for each dimension named, or for all with "auto"; None for None.

    Raises
    ------
    KeyError
        A coordinate value is not in the stored array.
    ValueError
        The values are not contiguous there, or the region does not fit the dataset.

    Examples
    --------
    >>> import xarray as xr
    >>> from icechunk.xarray import resolve_region, to_icechunk
    >>> ds = xr.Dataset({"v": ("x", [1, 2, 3, 4])}, coords={"x": [10, 20, 30, 40]})
    >>> report = to_icechunk(ds, session, group="g")
    >>> region = resolve_region(ds.isel(x=slice(1, 3)), session, "auto", group="g")
    >>> region["x"] == slice(1, 3)
    True
    """
    if region is None:
        return None
    zarr_store = _compat.open_zarr_store(
        _store_of(session),
        group=group,
        mode=_compat.choose_mode(mode, None, region),
        append_dim=None,
        region=region,
        safe_chunks=True,
    )
    _, slices = _compat.fit_region(as_dataset(obj), zarr_store)
    return slices


def _has_auto(region: Region) -> bool:
    return region == "auto" or (region is not None and "auto" in region.values())


def _store_of(session: Session | IcechunkStore) -> IcechunkStore:
    store = session if isinstance(session, IcechunkStore) else getattr(session, "store", None)
    if not isinstance(store, IcechunkStore):
        raise TypeError(
            f"to_icechunk writes into a session, not into {type(session).__name__}: session = "
            "repo.writable_session('main'), ds.to_icechunk(session), session.commit(message)."
        )
    return store


def _writable(session: Session | IcechunkStore) -> Session:
    store = _store_of(session)
    if store.read_only:
        raise ReadOnlyError(
            "this session is read-only. Open one with repo.writable_session(branch); after a "
            "commit, open a new one.",
            ErrorKind.READ_ONLY_SESSION,
        )
    return store.session


@contextmanager
def _transaction(target: Session) -> Iterator[Session]:
    """Give a session to write into, whose changes become the target's in the end.

    All goes to a fork first, so that a failure leaves nothing behind. A session with changes of its
    own cannot be treated so: changes to one array on both sides of a fork do not merge.
    """
    if target.has_uncommitted_changes:
        yield target
        return
    fork = target.fork()
    try:
        yield fork
    except BaseException:
        fork.discard_changes()
        raise
    target.merge(fork)


def _write_now(
    target: Session,
    planned: WritePlan,
    dump: Callable[[Session], BlockCollector],
    pending: Callable[[Sequence[BlockWrite], Session], PendingWrite],
    progress: ProgressOption,
) -> IngestReport:
    """Write metadata and data in memory, then the blocks, and tell how far it is."""
    rows = planned.variables
    in_memory = sum((_amount(row) for row in rows if not row.tasks), NOTHING)
    total = sum(map(_amount, rows), NOTHING)
    with operation(progress, "writing", total) as running:
        with _transaction(target) as into:
            before = session_amounts(into)
            writes = dump(into).writes
            running.advance_to(in_memory)
            if writes:
                part = as_part_of(running.job_id, in_memory, running.tell) if progress else False
                pending(writes, into).compute(progress=part)
            after = session_amounts(into)
        gained = {path: now - before.get(path, NOTHING) for path, now in after.items()}
        prefix = planned.group.rstrip("/")
        report = report_of(
            running.job_id,
            {path: amount for path, amount in gained.items() if amount != NOTHING},
            {f"{prefix}/{row.name}": row.size_bytes for row in rows},
            tasks=planned.write_tasks,
            seconds=running.seconds,
        )
        running.done = report.amount
    return report


def _amount(row: VariablePlan) -> Amount:
    return Amount(tasks=row.tasks, chunks=row.zarr_chunks or 0, size_bytes=row.size_bytes)
