"""Names of zarr and dask that are not public, or that changed between versions.

Ranges: zarr 3.1 to 3.4, dask 2024.11 to 2026.8. `tests/dask_layer/test_canaries.py` fails as soon
as one of them is gone or behaves differently.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr
from dask.array.core import Array as GraphArray
from dask.array.optimization import optimize as optimize_arrays
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import StorePath

from icechunk._io.loop import run_now
from icechunk.dask.grid import AxisGrid
from icechunk.errors import InternalError

try:  # from dask 2025.5 on, with the parameter of map_blocks that it is for
    from dask.layers import ArrayBlockIdDep
except ImportError:
    ArrayBlockIdDep = None

try:  # from zarr 3.4 on
    from zarr.core.codec_pipeline import FusedCodecPipeline
except ImportError:
    InlinePipeline: Any = None
else:

    class InlinePipeline(FusedCodecPipeline):  # type: ignore[no-redef]
        """Encodes and stores in the calling thread.

        zarr's own synchronous pipeline does the same in a thread that its event loop waits for.
        """

        async def write(
            self, batch_info: Iterable[Any], value: Any, drop_axes: tuple[int, ...] = ()
        ) -> None:
            """Write a batch of chunks."""
            self.write_sync(batch_info, value, drop_axes)


if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from icechunk.store import IcechunkStore

__all__ = ["ArrayWriter", "array_config", "map_indexed_blocks", "optimize_arrays", "write_grid"]


def map_indexed_blocks(func: Callable[..., Any], source: Any, shared: Any, *, name: str) -> Any:
    """Return an array of ``func(block, shared, index)`` for each block of a dask array.

    ``map_blocks`` makes a layer that dask fuses with the layers before it. The public way to a
    block's index, a parameter called ``block_id``, adds three nodes to the graph of every task;
    from dask 2025.5 on an argument may be a ``BlockwiseDep`` instead. Before, and where arrays are
    expressions (dask's option ``array.query-planning``), the layer is made here, not fused.
    """
    meta = np.empty((0,) * source.ndim, dtype=object)
    if ArrayBlockIdDep is not None and isinstance(source, GraphArray):
        ids = ArrayBlockIdDep(source.chunks)
        return da.map_blocks(func, source, shared, ids, name=name, dtype=object, meta=meta)
    if hasattr(source, "expr"):
        source = source.optimize()
    layer = {
        (name, *key[1:]): (partial(_at_index, func, key[1:]), key, shared.key)
        for key in flatten(source.__dask_keys__())
    }
    graph = HighLevelGraph.from_collections(name, layer, dependencies=[source, shared])
    return GraphArray(graph, name, source.chunks, meta=meta)


def _at_index(func: Callable[..., Any], index: tuple[int, ...], block: Any, shared: Any) -> Any:
    return func(block, shared, index)


def array_config(array: zarr.Array[Any]) -> Any:
    """Return an array's run-time configuration (order, write_empty_chunks).

    ``Array.config`` is public from zarr 3.1.3 on; before, the asynchronous array had it as
    ``_config``.
    """
    config = getattr(array, "config", None)
    return array._async_array._config if config is None else config  # noqa: SLF001


def on_store(metadata: Any, config: Any, store: IcechunkStore, path: str) -> zarr.Array[Any]:
    """Return an array made of metadata that is known already, without reading the store.

    All names are public; that the constructors take these parameters is not promised.
    """
    return zarr.Array(
        zarr.AsyncArray(metadata=metadata, store_path=StorePath(store, path), config=config)
    )


class ArrayWriter:
    """Writes regions of one zarr array into any number of stores that have it.

    zarr hands every write to its own event loop, in another thread. A worker that writes many
    small blocks spends more time on that than on writing, and all its threads queue for the one
    loop. Over storage that never waits (memory, local files) the same zarr code is run here in the
    calling thread instead. Where that does not work (zarr before 3.4, codecs without synchronous
    methods) it is done zarr's way.

    Parameters
    ----------
    metadata : ArrayV3Metadata
        The array's metadata.
    config : ArrayConfig
        The array's run-time configuration.
    path : str
        Path of the array in the stores.
    """

    def __init__(self, metadata: Any, config: Any, path: str) -> None:
        self._metadata = metadata
        self._config = config
        self._path = path
        self._pipeline = _inline_pipeline(metadata, config)
        self._template: Any = None

    def write(self, store: IcechunkStore, region: tuple[slice, ...], block: Any) -> None:
        """Write a block into a region of the array in a store."""
        if self._pipeline is not None and store._supports_sync_io:  # noqa: SLF001 # zarr's name
            try:
                run_now(self._inline_array(store).setitem(region, block))
            except (InternalError, RuntimeError):
                # This zarr waits for something on the way, or asks for the event loop that is not
                # there. What was written is written again; another error comes again.
                self._pipeline = None
            else:
                return
        on_store(self._metadata, self._config, store, self._path)[region] = block

    def _inline_array(self, store: IcechunkStore) -> Any:
        if self._template is None:
            array = on_store(self._metadata, self._config, store, self._path)._async_array  # noqa: SLF001
            object.__setattr__(array, "codec_pipeline", self._pipeline)
            self._template = array
        # Making an array costs as much as writing a small chunk; a copy differs in its store only.
        array = copy.copy(self._template)
        object.__setattr__(array, "store_path", StorePath(store, self._path))
        return array


def _inline_pipeline(metadata: Any, config: Any) -> Any:
    """Return a pipeline that never waits, None if zarr has none or not for all of the codecs."""
    if InlinePipeline is None:
        return None
    grid = metadata.chunk_grid
    spec = ArraySpec(
        # Only the rank matters here: every chunk brings its own shape when it is encoded.
        shape=getattr(grid, "chunk_shape", (1,) * len(metadata.shape)),
        dtype=metadata.data_type,
        fill_value=metadata.fill_value,
        config=config,
        prototype=default_buffer_prototype(),
    )
    pipeline = InlinePipeline.from_codecs(metadata.codecs).evolve_from_array_spec(spec)
    return None if pipeline.sync_transform is None else pipeline


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
