"""Names of zarr and dask that are not public, or that changed between versions.

Ranges: zarr 3.1 to 3.4, dask 2024.11 to 2026.8. `tests/dask_layer/test_canaries.py` fails as soon
as one of them is gone or behaves differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr
from dask.array.optimization import optimize as optimize_arrays
from zarr.storage import StorePath

from icechunk.dask.grid import AxisGrid

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["array_config", "on_store", "optimize_arrays", "write_grid"]


def array_config(array: zarr.Array[Any]) -> Any:
    """Return an array's run-time configuration (order, write_empty_chunks).

    ``Array.config`` is public from zarr 3.1.3 on; before, the asynchronous array had it as
    ``_config``.
    """
    config = getattr(array, "config", None)
    return array._async_array._config if config is None else config  # noqa: SLF001


def on_store(metadata: Any, config: Any, store: Store, path: str) -> zarr.Array[Any]:
    """Return an array made of metadata that is known already, without reading the store.

    All names are public; that the constructors take these parameters is not promised.
    """
    return zarr.Array(
        zarr.AsyncArray(metadata=metadata, store_path=StorePath(store, path), config=config)
    )


def write_grid(array: zarr.Array[Any], shape: tuple[int, ...]) -> tuple[AxisGrid, ...]:
    """Return what is stored as a whole along each axis: shards, else chunks.

    ``Array.chunks`` raises NotImplementedError for chunk grids with chunks of different sizes,
    which zarr has from 3.2 on together with ``write_chunk_sizes``.
    """
    try:
        units = array.shards or array.chunks
    except NotImplementedError:
        return tuple(map(AxisGrid.of_sizes, array.write_chunk_sizes))
    return tuple(map(AxisGrid.regular, shape, units))
