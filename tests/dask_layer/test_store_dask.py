"""`store_dask`: dask arrays into zarr arrays of a fork."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
import zarr

from icechunk.dask import ForkSession, store_dask
from icechunk.dask.store import BlockWrite, pending_write
from icechunk.errors import InvalidInputError, SessionStateError, UnmergedChangesWarning


def arrays(session, **shapes):
    return {
        name: zarr.create_array(session.store, name=name, shape=shape, chunks=chunks, dtype="f8")
        for name, (shape, chunks) in shapes.items()
    }


def on_fork(fork, *names):
    return [zarr.open_array(fork.store, path=name, mode="r+") for name in names]


def read(repo, name):
    return zarr.open_array(repo.readonly_session("main").store, path=name, mode="r")[...]


@pytest.mark.parametrize("scheduler", ["synchronous", "threads", "processes"], indirect=True)
def test_every_scheduler(repo, scheduler):
    session = repo.writable_session("main")
    arrays(session, a=((6, 8), (2, 4)), b=((10,), (5,)))
    session.commit("arrays")
    session = repo.writable_session("main")
    fork = session.fork()
    a, b = da.random.random((6, 8), chunks=(2, 4)), da.arange(10, chunks=5, dtype="f8")
    a, b = dask.persist(a, b)
    merged = store_dask(sources=[a, b], targets=on_fork(fork, "a", "b"), split_every=3)
    assert isinstance(merged, ForkSession)
    session.merge(merged)
    session.commit("values")
    np.testing.assert_array_equal(read(repo, "a"), a.compute())
    np.testing.assert_array_equal(read(repo, "b"), b.compute())


def test_arrays_made_in_the_fork_come_back_too(repo):
    session = repo.writable_session("main")
    fork = session.fork()
    arrays(fork, new=((4,), (2,)))
    session.merge(store_dask(sources=[da.ones(4, chunks=2)], targets=on_fork(fork, "new")))
    np.testing.assert_array_equal(zarr.open_array(session.store, path="new")[:], np.ones(4))


def test_regions(repo):
    session = repo.writable_session("main")
    arrays(session, a=((10, 4), (2, 4)))
    fork = session.fork()
    store_dask(
        sources=[da.ones((4, 4), chunks=(2, 4))],
        targets=on_fork(fork, "a"),
        regions=[(slice(4, 8),)],
    )
    session.merge(fork)
    expected = np.zeros((10, 4))
    expected[4:8] = 1
    np.testing.assert_array_equal(zarr.open_array(session.store, path="a")[...], expected)


def test_fill_values_delete_chunks(repo):
    session = repo.writable_session("main")
    arrays(session, a=((4,), (2,)))["a"][:] = 7
    session.commit("sevens")
    session = repo.writable_session("main")
    fork = session.fork()
    session.merge(store_dask(sources=[da.zeros(4, chunks=2)], targets=on_fork(fork, "a")))
    session.commit("zeros")
    np.testing.assert_array_equal(read(repo, "a"), np.zeros(4))
    store = repo.readonly_session("main").store
    assert zarr.open_array(store, path="a", mode="r").nchunks_initialized == 0


def test_blocks_that_share_a_chunk_are_refused_or_joined(repo):
    session = repo.writable_session("main")
    arrays(session, a=((12,), (5,)))
    fork = session.fork()
    source = da.arange(12, chunks=3, dtype="f8")
    with pytest.raises(InvalidInputError) as caught:
        store_dask(sources=[source], targets=on_fork(fork, "a"))
    for part in ("'a'", "axis 0", "(3, 3, 3, 3)", "chunks of 5", "rechunk({0: 5})", "Nothing"):
        assert part in str(caught.value)
    assert not fork.has_uncommitted_changes
    store_dask(sources=[source], targets=on_fork(fork, "a"), align_chunks=True)
    session.merge(fork)
    np.testing.assert_array_equal(zarr.open_array(session.store, path="a")[:], np.arange(12.0))


def test_targets_must_be_on_one_fork(repo):
    session = repo.writable_session("main")
    arrays(session, a=((4,), (2,)), b=((4,), (2,)))
    first, second = session.fork(), session.fork()
    ones = da.ones(4, chunks=2)
    with pytest.raises(InvalidInputError, match="different forks"):
        store_dask(sources=[ones, ones], targets=[*on_fork(first, "a"), *on_fork(second, "b")])
    with pytest.raises(InvalidInputError, match="store of a fork"):
        store_dask(sources=[ones], targets=[zarr.open_array(session.store, path="a")])
    with pytest.raises(InvalidInputError, match="MemoryStore"):
        store_dask(sources=[ones], targets=[zarr.zeros((4,), store=zarr.storage.MemoryStore())])
    with pytest.raises(InvalidInputError, match="no targets"):
        store_dask(sources=[], targets=[])


def test_lengths_and_shapes_must_fit(repo):
    session = repo.writable_session("main")
    arrays(session, a=((4,), (2,)))
    fork = session.fork()
    with pytest.raises(InvalidInputError, match="2 sources, 1 targets"):
        store_dask(sources=[da.ones(4), da.ones(4)], targets=on_fork(fork, "a"))
    with pytest.raises(InvalidInputError, match="does not fit"):
        store_dask(sources=[da.ones(5)], targets=on_fork(fork, "a"))
    with pytest.raises(InvalidInputError, match="step 1"):
        store_dask(sources=[da.ones(2)], targets=on_fork(fork, "a"), regions=[(slice(0, 4, 2),)])
    with pytest.raises(InvalidInputError, match="lock"):
        store_dask(sources=[da.ones(4)], targets=on_fork(fork, "a"), lock=True)


def test_a_failing_block_leaves_the_fork_as_it_was(repo):
    session = repo.writable_session("main")
    arrays(session, a=((8,), (2,)))
    fork = session.fork()

    def fail_late(block, block_id=None):
        if block_id == (3,):
            raise OSError("disk on fire")
        return block

    source = da.ones(8, chunks=2).map_blocks(fail_late, dtype="f8", meta=np.empty((0,)))
    with pytest.raises(OSError, match="disk on fire"):
        store_dask(sources=[source], targets=on_fork(fork, "a"), scheduler="synchronous")
    assert not fork.has_uncommitted_changes


def test_runtime_configuration_travels(repo):
    session = repo.writable_session("main")
    fork = session.fork()
    target = zarr.create_array(
        fork.store,
        name="a",
        shape=(4,),
        chunks=(2,),
        dtype="f8",
        config={"write_empty_chunks": True},
    )
    session.merge(store_dask(sources=[da.zeros(4, chunks=2)], targets=[target]))
    assert zarr.open_array(session.store, path="a").nchunks_initialized == 2


def test_sharded_targets(repo):
    session = repo.writable_session("main")
    fork = session.fork()
    target = zarr.create_array(
        fork.store, name="a", shape=(8, 8), chunks=(2, 2), shards=(4, 8), dtype="i4"
    )
    source = da.arange(64, chunks=16, dtype="i4").reshape((8, 8)).rechunk((2, 8))
    with pytest.raises(InvalidInputError, match="chunks of 4"):
        store_dask(sources=[source], targets=[target])
    session.merge(store_dask(sources=[source.rechunk((4, 8))], targets=[target]))
    values = zarr.open_array(session.store, path="a")[...]
    np.testing.assert_array_equal(values, np.arange(64).reshape(8, 8))


@pytest.mark.parametrize("scheduler", ["threads", "processes"], indirect=True)
def test_two_tasks_that_each_wrote_a_part_of_one_chunk_are_refused_by_name(repo, scheduler):
    session = repo.writable_session("main")
    arrays(session, a=((20,), (10,)))
    session.commit("arrays")
    session = repo.writable_session("main")
    halves = {
        "sources": [da.ones(5, chunks=5), da.full(5, 2.0, chunks=5)],
        "regions": [(slice(10, 15),), (slice(15, 20),)],
    }
    fork = session.fork()
    with pytest.raises(SessionStateError, match=r"the same chunks of /a: \[1\]") as caught:
        store_dask(targets=on_fork(fork, "a", "a"), **halves)
    assert caught.value.kind == "merge-failed"
    assert not fork.has_uncommitted_changes
    fork = store_dask(targets=on_fork(fork, "a", "a"), on_chunk_conflict="last", **halves)
    session.merge(fork)
    session.commit("the later one's chunk, whole")
    assert read(repo, "a").tolist() == [0.0] * 15 + [2.0] * 5


def test_a_chunk_written_otherwise_while_a_write_was_pending_is_refused_by_name(repo):
    session = repo.writable_session("main")
    targets = arrays(session, a=((20,), (10,)))
    write = BlockWrite(name="a", source=da.ones(20, chunks=10), target=targets["a"], start=(0,))
    targets["a"][0:5] = 7  # before: the tasks build on it
    pending = pending_write([write], session)
    targets["a"][10:15] = 7  # since: the tasks do not know of it
    with (
        pytest.raises(SessionStateError, match=r"the same chunks of /a: \[1\]"),
        pytest.warns(UnmergedChangesWarning, match="could not be merged"),
    ):
        pending.compute()
