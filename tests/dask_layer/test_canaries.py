"""What is used of dask and zarr without being promised: fails first when it changes."""

from __future__ import annotations

import asyncio
import functools
import inspect

import dask
import dask.array as da
import numpy as np
import zarr
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from zarr.storage import MemoryStore

import icechunk as ic
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


def test_map_blocks_takes_a_delayed_argument_and_block_indices():
    def look(number, block, shared, index):
        return (number, shared, index)

    shared = dask.delayed({"x": 1}, name="shared", traverse=False)
    source = da.ones((4, 2), chunks=2)
    mapped = _compat.map_indexed_blocks(
        functools.partial(look, 7), source, shared, name="mapped-name"
    )
    (first,), (second,) = dask.get(dict(mapped.__dask_graph__()), mapped.__dask_keys__())
    assert (first, second) == ((7, {"x": 1}, (0, 0)), (7, {"x": 1}, (1, 0)))
    assert mapped.name.startswith("mapped-name")


def test_small_writes_need_no_event_loop():
    """Where zarr has what it takes, a write runs in the calling thread from beginning to end."""
    if _compat.InlinePipeline is None:
        return
    session = ic.Repository.create(ic.in_memory_storage()).writable_session("main")
    for name, options in {
        "plain": {"compressors": None},
        "default": {},
        "sharded": {"shards": (4,)},
        "text": {"dtype": str, "fill_value": ""},
    }.items():
        array = zarr.create_array(
            session.store, name=name, shape=(8,), chunks=(2,), **({"dtype": "i4"} | options)
        )
        writer = _compat.ArrayWriter(array.metadata, _compat.array_config(array), array.path)
        block = np.array(["a", "bc", "d", "e"]) if name == "text" else np.arange(4, dtype="i4")
        writer.write(session.store, (slice(4, 8),), block)
        writer.write(session.store, (slice(1, 2),), block[:1])
        assert writer._pipeline is not None
        assert writer._template is not None
        assert array[4:].tolist() == block.tolist()
        assert array[1] == block[0]


def test_codecs_without_synchronous_methods(monkeypatch):
    session = ic.Repository.create(ic.in_memory_storage()).writable_session("main")
    array = zarr.create_array(session.store, name="a", shape=(8,), chunks=(2,), dtype="i4")
    writer = _compat.ArrayWriter(array.metadata, _compat.array_config(array), array.path)
    writer._pipeline = None
    writer.write(session.store, (slice(4, 8),), np.arange(4))
    assert array[4:].tolist() == [0, 1, 2, 3]


def test_a_zarr_that_waits(monkeypatch):
    """A newer zarr may suspend where this one does not; then it is done zarr's way."""
    if _compat.InlinePipeline is None:
        return

    async def waiting(self, *args, **kwargs):
        await asyncio.sleep(0.01)
        self.write_sync(*args, **kwargs)

    monkeypatch.setattr(_compat.InlinePipeline, "write", waiting)
    session = ic.Repository.create(ic.in_memory_storage()).writable_session("main")
    array = zarr.create_array(session.store, name="a", shape=(8,), chunks=(2,), dtype="i4")
    writer = _compat.ArrayWriter(array.metadata, _compat.array_config(array), array.path)
    writer.write(session.store, (slice(4, 8),), np.arange(4))
    assert writer._pipeline is None
    assert array[4:].tolist() == [0, 1, 2, 3]
