"""Earlier way of writing a dataset in steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icechunk.dask.collect import BlockCollector
from icechunk.dask.planner import plan_write
from icechunk.dask.reduce import checked_split_every
from icechunk.dask.store import checked_store_kwargs, pending_write
from icechunk.xarray import _compat
from icechunk.xarray.writer import resolve_region

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, MutableMapping

    import zarr
    from xarray import Dataset
    from xarray.backends import ZarrStore

    from icechunk.store import IcechunkStore
    from icechunk.xarray.writer import Mode, Region


class _EagerLater(BlockCollector):
    """Keeps arrays in memory for later, too."""

    def __init__(self, *, align: bool) -> None:
        super().__init__(align=align)
        self.eager: list[Callable[[], None]] = []

    def add(
        self, source: Any, target: zarr.Array[Any], region: tuple[slice, ...] | None = None
    ) -> None:
        if hasattr(source, "chunks"):
            super().add(source, target, region)
        else:
            self.eager.append(lambda: super(_EagerLater, self).add(source, target, region))


class XarrayDatasetWriter:
    """Write a dataset in three steps: metadata, data in memory, dask arrays.

    Earlier form of `icechunk.xarray.to_icechunk`, which takes all three at once.

    Parameters
    ----------
    dataset : xarray.Dataset
        What to write.
    store : IcechunkStore
        Where to; writable.
    safe_chunks : bool
        As for `icechunk.xarray.to_icechunk`.
    group, mode, append_dim, region
        As for `icechunk.xarray.to_icechunk`.

    Raises
    ------
    InvalidInputError
        From ``write_metadata``, kind ``not-allowed``; dask chunks that do not fit.

    Examples
    --------
    >>> import icechunk, xarray as xr
    >>> from icechunk.xarray import XarrayDatasetWriter
    >>> repo = icechunk.Repository.create(icechunk.in_memory_storage())
    >>> session = repo.writable_session("main")
    >>> writer = XarrayDatasetWriter(xr.Dataset({"t": ("x", [1, 2])}), store=session.store)
    >>> writer.write_metadata()
    >>> writer.write_eager()
    >>> writer.write_lazy()
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        store: IcechunkStore,
        safe_chunks: bool = True,
        group: str | None = None,
        mode: Mode = None,
        append_dim: Hashable | None = None,
        region: Region = None,
    ) -> None:
        self.dataset = dataset
        self.store = store
        self.safe_chunks = safe_chunks
        self._collected: _EagerLater | None = None
        self._open_group(group=group, mode=mode, append_dim=append_dim, region=region)

    def _open_group(
        self,
        *,
        group: str | None,
        mode: Mode,
        append_dim: Hashable | None,
        region: Region,
    ) -> None:
        """Choose where to write; named as it was, for users called it."""
        self._group = group
        self._mode = _compat.choose_mode(mode, append_dim, region)
        self._append_dim = append_dim
        self._region = region

    def write_metadata(self, encoding: Mapping[Any, Any] | None = None) -> None:
        """Make or resize arrays and write attributes; `to_icechunk` does this first."""
        region = resolve_region(
            self.dataset, self.store, self._region, group=self._group, mode=self._mode
        )
        plan_write(
            self.dataset,
            self.store,
            group=self._group,
            mode=self._mode,
            append_dim=self._append_dim,
            region=region,
            encoding=encoding,
            safe_chunks=self.safe_chunks,
        ).raise_for_problems()
        zarr_store: ZarrStore = _compat.open_zarr_store(
            self.store,
            group=self._group,
            mode=self._mode,
            append_dim=self._append_dim,
            region=region,
            safe_chunks=self.safe_chunks,
        )
        fitted, _ = _compat.fit_region(self.dataset, zarr_store)
        collected = _EagerLater(align=not self.safe_chunks)
        _compat.dump(fitted, zarr_store, collected, encoding or {})
        self._collected = collected

    def write_eager(self) -> None:
        """Write variables in memory; `to_icechunk` does this second."""
        for write in self._after_metadata().eager:
            write()

    def write_lazy(
        self,
        chunkmanager_store_kwargs: MutableMapping[Any, Any] | None = None,
        split_every: int | None = None,
    ) -> None:
        """Write dask arrays; `to_icechunk` does this last."""
        writes = self._after_metadata().writes
        if writes:
            pending_write(
                writes,
                self.store.session,
                split_every=checked_split_every(split_every),
                compute_kwargs=checked_store_kwargs(chunkmanager_store_kwargs),
            ).compute()

    def _after_metadata(self) -> _EagerLater:
        if self._collected is None:
            raise ValueError("call write_metadata first: it makes the arrays")
        return self._collected
