"""What is used of dask and zarr without being promised: fails first when it changes."""

from __future__ import annotations

import inspect

import dask.array as da
import numpy as np
import zarr
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from zarr.storage import MemoryStore

from icechunk.dask import _compat


def test_an_array_can_be_made_from_metadata_without_reading():
    store, elsewhere = MemoryStore(), MemoryStore()
    array = zarr.create_array(
        store, name="a/b", shape=(4,), chunks=(2,), dtype="i4", config={"write_empty_chunks": True}
    )
    config = _compat.array_config(array)
    assert config.write_empty_chunks
    twin = _compat.on_store(array.metadata, config, elsewhere, array.path)
    twin[:2] = 0
    assert [key for key in elsewhere._store_dict if not key.endswith("json")] == ["a/b/c/0"]
    assert _compat.array_config(twin).write_empty_chunks


def test_the_unit_of_writing():
    store = MemoryStore()
    plain = zarr.create_array(store, name="a", shape=(9,), chunks=(2,), dtype="i4")
    sharded = zarr.create_array(store, name="b", shape=(9,), chunks=(2,), shards=(4,), dtype="i4")
    assert _compat.write_grid(plain, (9,))[0].unit == 2
    assert _compat.write_grid(sharded, (9,))[0].unit == 4


def test_grids_with_chunks_of_different_sizes():
    if "rectilinear_chunks" not in zarr.config.get("array"):
        return
    with zarr.config.set({"array.rectilinear_chunks": True}):
        array = zarr.create_array(
            MemoryStore(), name="a", shape=(9,), chunks=((2, 3, 4),), dtype="i4"
        )
        (grid,) = _compat.write_grid(array, (9,))
    assert grid.describe() == "(2, 3, 4)"


def test_array_optimization():
    source = da.ones(4, chunks=2) + 1
    graph = _compat.optimize_arrays(source.__dask_graph__(), source.__dask_keys__())
    assert len(graph) == 2


def test_delayed_takes_a_key_and_a_graph():
    assert list(inspect.signature(Delayed.__init__).parameters)[:3] == ["self", "key", "dsk"]
    graph = HighLevelGraph.from_collections("k", {"k": (sum, [1, 2])}, dependencies=[])
    assert Delayed("k", graph).compute() == 3


def test_map_blocks_takes_a_delayed_argument_and_a_block_id():
    import dask

    def look(block, shared, number, block_id=()):
        return (shared, number, block_id)

    shared = dask.delayed({"x": 1}, name="shared", traverse=False)
    mapped = da.map_blocks(
        look, da.ones(4, chunks=2), shared, 7, dtype=object, meta=np.empty((0,), dtype=object)
    )
    assert dask.get(dict(mapped.__dask_graph__()), mapped.__dask_keys__()) in (
        [({"x": 1}, 7, (0,)), ({"x": 1}, 7, (1,))],
        (({"x": 1}, 7, (0,)), ({"x": 1}, 7, (1,))),
    )
