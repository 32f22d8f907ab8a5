"""The merge tree and the official helper functions."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import zarr
from dask.local import get_sync

import icechunk.dask
from icechunk.dask.reduce import checked_split_every, count_merges, merge_layer
from icechunk.errors import InvalidInputError


def joined(parts):
    return [leaf for part in parts for leaf in part]


@pytest.mark.parametrize("leaves", [0, 1, 2, 3, 16, 17, 100])
@pytest.mark.parametrize("split_every", [2, 3, 16])
def test_the_tree_takes_each_leaf_once(leaves, split_every):
    keys = [("leaf", i) for i in range(leaves)]
    key, layer = merge_layer(
        "m",
        keys,
        split_every=split_every,
        merge=joined,
        finish=joined,
    )
    assert len(layer) == count_merges(leaves, split_every)
    graph = layer | {key: [i] for i, key in enumerate(keys)}
    graph = {k: (v if isinstance(v, tuple) else (list, [v[0]])) for k, v in graph.items()}
    assert get_sync(graph, key) == list(range(leaves))
    assert all(len(task[1]) <= split_every for task in layer.values())


def test_split_every_is_checked():
    assert checked_split_every(None) >= 2
    for bad in (1, 0, -3, 2.5, True, "4"):
        with pytest.raises(InvalidInputError, match="split_every"):
            checked_split_every(bad)


def test_computing_meta():
    @icechunk.dask.computing_meta
    def add(a, b):
        return a + b

    assert add(1, b=2) == 3
    meta = add(1, b=2, computing_meta=True)
    assert meta.dtype == object


def forked_array(repo):
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(12,), chunks=(3,), dtype="f8")
    fork = session.fork()
    return session, fork, zarr.open_array(fork.store, path="a", mode="r+")


@pytest.mark.parametrize("scheduler", ["synchronous", "processes"], indirect=True)
def test_session_merge_reduction(repo, scheduler):
    session, _, target = forked_array(repo)
    source = da.arange(12, chunks=3, dtype="f8")
    stored = da.store(
        source, target, lock=False, return_stored=True, load_stored=False, compute=False
    )
    merged = icechunk.dask.session_merge_reduction(
        stored if isinstance(stored, da.Array) else list(stored), split_every=2
    )
    assert isinstance(merged, icechunk.dask.ForkSession)
    session.merge(merged)
    session.commit("stored")
    store = repo.readonly_session("main").store
    np.testing.assert_array_equal(zarr.open_array(store, path="a")[:], np.arange(12.0))


def test_nothing_to_merge():
    with pytest.raises(InvalidInputError, match="no arrays"):
        icechunk.dask.session_merge_reduction([], split_every=None)
    with pytest.raises(InvalidInputError, match="no sessions"):
        icechunk.dask.merge_sessions()
    with pytest.raises(InvalidInputError, match="cannot merge a str"):
        icechunk.dask.merge_sessions(["x"])


def test_helpers_of_a_reduction(repo):
    session, fork, target = forked_array(repo)
    assert icechunk.dask.extract_session(target, axis=(0,), keepdims=True) is fork
    other = session.fork()
    zarr.open_array(other.store, path="a", mode="r+")[:3] = 1
    target[3:6] = 2
    merged = icechunk.dask.merge_sessions_array_kwargs([[fork], [other]], axis=0, keepdims=True)
    session.merge(merged)
    values = zarr.open_array(session.store, path="a")[:6]
    np.testing.assert_array_equal(values, [1, 1, 1, 2, 2, 2])
    with pytest.raises(InvalidInputError, match="MemoryStore"):
        icechunk.dask.extract_session(zarr.zeros((1,), store=zarr.storage.MemoryStore()))
