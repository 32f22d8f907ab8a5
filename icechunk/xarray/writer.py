"""Writing xarray objects into a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from icechunk._earlier.spelling import takes_earlier
from icechunk.dask.collect import BlockCollector
from icechunk.dask.planner import as_dataset, plan_write
from icechunk.dask.reduce import checked_split_every
from icechunk.dask.store import checked_store_kwargs, pending_write
from icechunk.errors import ErrorKind, ReadOnlyError
from icechunk.store import IcechunkStore
from icechunk.xarray import _compat

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, MutableMapping

    from xarray import DataArray, Dataset

    from icechunk.dask.pending import PendingWrite
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
) -> None: ...


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
) -> PendingWrite | None: ...


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
) -> PendingWrite | None:
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

    Returns
    -------
    PendingWrite or None
        A dask ``Delayed`` with ``compute=False``: computing it writes the blocks and merges their
        change sets into the session.

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
    >>> session = repo.writable_session("main")  # doctest: +SKIP
    >>> ds.to_icechunk(session)  # doctest: +SKIP
    >>> session.commit("first month")  # doctest: +SKIP
    """
    target = _writable(session)
    dataset = as_dataset(obj)
    _compat.check_names(dataset)
    chosen = _compat.choose_mode(mode, append_dim, region)
    split_every = checked_split_every(split_every)
    compute_kwargs = checked_store_kwargs(chunkmanager_store_kwargs)
    if _has_auto(region):
        region = resolve_region(dataset, target, region, group=group, mode=chosen)
    plan_write(
        dataset,
        target,
        group=group,
        mode=chosen,
        append_dim=append_dim,
        region=region,  # type: ignore[arg-type] # resolved above
        encoding=encoding,
        safe_chunks=safe_chunks,
        align_chunks=align_chunks,
    ).raise_for_problems()
    align = align_chunks or not safe_chunks

    def dump(into: Session) -> BlockCollector:
        zarr_store = _compat.open_zarr_store(
            into.store,
            group=group,
            mode=chosen,
            append_dim=append_dim,
            region=region,
            safe_chunks=not align,
        )
        fitted, _ = _compat.fit_region(dataset, zarr_store)
        collector = BlockCollector(align=align)
        _compat.dump(fitted, zarr_store, collector, encoding or {})
        return collector

    return _write(target, dump, split_every, compute_kwargs, compute=compute)


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
    return session if isinstance(session, IcechunkStore) else session.store


def _writable(session: Session | IcechunkStore) -> Session:
    store = _store_of(session)
    if store.read_only:
        raise ReadOnlyError(
            "this session is read-only. Open one with repo.writable_session(branch); after a "
            "commit, open a new one.",
            ErrorKind.READ_ONLY_SESSION,
        )
    return store.session


def _write(
    target: Session,
    dump: Callable[[Session], BlockCollector],
    split_every: int,
    compute_kwargs: Mapping[str, Any],
    *,
    compute: bool,
) -> PendingWrite | None:
    """Write metadata and data in memory, then the blocks, now or later.

    All of it goes to a fork first, so that a failure leaves nothing behind. A session with changes
    of its own cannot be treated so: changes to one array on both sides of a fork do not merge.
    """
    fork = None if target.has_uncommitted_changes else target.fork()
    into = target if fork is None else fork
    try:
        writes = dump(into).writes
        if compute and writes:
            pending_write(
                writes, into, split_every=split_every, compute_kwargs=compute_kwargs
            ).compute()
    except BaseException:
        if fork is not None:
            fork.discard_changes()
        raise
    if fork is not None:
        target.merge(fork)
    if compute:
        return None
    return pending_write(writes, target, split_every=split_every, compute_kwargs=compute_kwargs)
