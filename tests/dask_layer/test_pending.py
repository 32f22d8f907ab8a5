"""A pending write: its tasks, and that its change set is merged however it is computed."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
import warnings
from collections import Counter

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from dask.delayed import Delayed
from dask.utils import key_split

import icechunk as ic
from icechunk.dask import _compat
from icechunk.dask.grid import AxisGrid
from icechunk.dask.pending import PendingWrite
from icechunk.dask.store import BlockWrite, pending_write
from icechunk.dask.tasks import write_block
from icechunk.errors import SessionStateError, UnmergedChangesWarning

LOCAL = ["synchronous", "threads", "processes"]


def pending(session, source, name="a"):
    chunks = tuple(sizes[0] for sizes in source.chunks)
    target = zarr.create_array(
        session.store, name=name, shape=source.shape, chunks=chunks, dtype=source.dtype
    )
    start = (0,) * source.ndim
    write = BlockWrite(name=name, source=source, target=target, start=start)
    return pending_write([write], session)


def values(session, name="a"):
    return zarr.open_array(session.store, path=name, mode="r")[...]


@pytest.mark.parametrize("scheduler", LOCAL, indirect=True)
@pytest.mark.parametrize("how", ["method", "function", "nested", "delayed", "persist"])
def test_it_is_merged_however_it_is_computed(repo, scheduler, how):
    session = repo.writable_session("main")
    write = pending(session, da.arange(12, chunks=4, dtype="f8"))
    assert isinstance(write, Delayed)
    match how:
        case "method":
            receipt = write.compute()
        case "function":
            (receipt,) = dask.compute(write)
        case "nested":
            (answer,) = dask.compute({"writes": [write]})
            receipt = answer["writes"][0]
        case "delayed":
            receipt = dask.delayed(lambda done: done)(write).compute()
        case "persist":
            receipt = write.persist().compute()
    assert (receipt.blocks, receipt.chunks, receipt.size_bytes) == (3, 3, 96)
    np.testing.assert_array_equal(values(session), np.arange(12.0))


def test_two_writes_computed_together(repo):
    session = repo.writable_session("main")
    first = pending(session, da.ones(4, chunks=2), "a")
    second = pending(session, da.ones(6, chunks=2) * 2, "b")
    receipts = dask.compute(first, second)
    assert [receipt.blocks for receipt in receipts] == [2, 3]
    np.testing.assert_array_equal(values(session, "a"), np.ones(4))
    np.testing.assert_array_equal(values(session, "b"), np.full(6, 2))


def test_nothing_happens_before(repo):
    session = repo.writable_session("main")
    write = pending(session, da.ones(4, chunks=2))
    np.testing.assert_array_equal(values(session), np.zeros(4))
    assert "icechunk-merge" in repr(write)


def test_one_task_per_block_with_readable_names(repo):
    session = repo.writable_session("main")
    source = da.ones((64, 4), chunks=(1, 4)) * 2 + 1
    write = pending(session, source, "wind-u")
    graph = dict(write.__dask_optimize__(write.__dask_graph__(), write.__dask_keys__()))
    counts = Counter(map(key_split, graph))
    assert (counts["icechunk-write-wind-u"], counts["icechunk-merge"]) == (64, 5)
    if _compat.ArrayBlockIdDep is not None:
        assert len(graph) == 64 + 5 + 1, "the source is fused into the writes"


def test_computing_again_writes_again(repo):
    session = repo.writable_session("main")
    write = pending(session, da.ones(4, chunks=2))
    write.compute()
    zarr.open_array(session.store, path="a", mode="r+")[:] = 5
    write.compute()
    np.testing.assert_array_equal(values(session), np.ones(4))


def test_a_receipt_is_merged_once(repo):
    session = repo.writable_session("main")
    receipt = pending(session, da.ones(4, chunks=2)).compute()
    zarr.open_array(session.store, path="a", mode="r+")[:] = 5
    again = pickle.loads(pickle.dumps(receipt))
    assert again.blocks == receipt.blocks
    assert "2 blocks" in repr(again)
    np.testing.assert_array_equal(values(session), np.full(4, 5))


def test_a_session_that_was_committed_meanwhile(repo):
    session = repo.writable_session("main")
    write = pending(session, da.ones(4, chunks=2))
    session.commit("too early")
    with (
        pytest.warns(UnmergedChangesWarning, match="could not be merged"),
        pytest.raises(Exception, match="read-only"),
    ):
        write.compute()


@pytest.mark.parametrize("conflict", [False, True])
def test_a_session_that_was_rebased_meanwhile(repo, conflict):
    session = repo.writable_session("main")
    pending(session, da.zeros(4, chunks=2))
    session.commit("array")
    session = repo.writable_session("main")
    target = zarr.open_array(session.store, path="a", mode="r+")
    write = pending_write(
        [BlockWrite(name="a", source=da.ones(4, chunks=2), target=target, start=(0,))], session
    )
    other = repo.writable_session("main")
    if conflict:
        zarr.open_array(other.store, path="a", mode="r+")[:2] = 5
    else:
        zarr.open_group(other.store, mode="r+").attrs["x"] = 1
    other.commit("other")
    session.rebase(ic.ConflictDetector())
    if conflict:
        with (
            pytest.warns(UnmergedChangesWarning, match="could not be merged"),
            pytest.raises(ic.IcechunkError),
        ):
            write.compute()
        np.testing.assert_array_equal(values(session), [5, 5, 0, 0])
    else:
        write.compute()
        np.testing.assert_array_equal(values(session), np.ones(4))


def test_a_task_that_runs_twice_counts_once(repo):
    """Dask may run a task again; only the result it keeps is merged."""
    session = repo.writable_session("main")
    source = da.ones(4, chunks=2)
    write = pending(session, source)
    graph = dict(write.__dask_graph__())
    job = next(v for k, v in graph.items() if "icechunk-job" in str(k))
    job = getattr(job, "value", job)
    first, second = (write_block(0, np.ones(2), job, (0,)) for _ in range(2))
    assert first.changes.chunk_count() == second.changes.chunk_count() == 1
    write.compute()
    np.testing.assert_array_equal(values(session), np.ones(4))
    assert zarr.open_array(session.store, path="a").nchunks_initialized == 2


def test_two_tasks_on_one_chunk_are_found(repo):
    """The plan prevents this; if it ever happened, the merge would not be silent."""
    session = repo.writable_session("main")
    target = zarr.create_array(session.store, name="a", shape=(4,), chunks=(4,), dtype="f8")
    source = da.ones(4, chunks=2)
    write = pending_write([BlockWrite(name="a", source=source, target=target, start=(0,))], session)
    with pytest.raises(SessionStateError, match=r"two tasks wrote the same chunks of /a: \[0\]"):
        write.compute()
    assert BlockWrite(name="a", source=source, target=target, start=(0,)).aligned().source.chunks
    assert AxisGrid.regular(4, 4).chunk_count(0, 4) == 1


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"], indirect=True)
def test_nothing_is_left_behind(repo, scheduler):
    session = repo.writable_session("main")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pending(session, da.ones((8, 2), chunks=1)).compute()


def test_what_a_task_returns_is_small(repo):
    session = repo.writable_session("main")
    source = da.random.random((1000, 64), chunks=(1, 64))
    receipt = pending(session, source).compute(scheduler="synchronous")
    size = len(pickle.dumps(receipt))
    assert receipt.chunks == 1000
    assert size <= 35 * 1000


def test_scalars(repo):
    session = repo.writable_session("main")
    write = pending(session, da.ones((), chunks=()))
    assert isinstance(write, PendingWrite)
    assert write.compute().chunks == 1
    assert values(session) == 1


def test_it_pickles_as_a_delayed_value(repo):
    session = repo.writable_session("main")
    write = pending(session, da.ones(4, chunks=2))
    twin = cloudpickle.loads(cloudpickle.dumps(write))
    assert twin.compute(scheduler="synchronous").blocks == 2
    np.testing.assert_array_equal(values(session), np.ones(4))


def test_arrays_that_are_expressions():
    code = """
import dask
dask.config.set({"array.query-planning": True})
import dask.array as da, icechunk as ic, zarr
from icechunk.dask import store_dask
session = ic.Repository.create(ic.in_memory_storage()).writable_session("main")
fork = session.fork()
target = zarr.create_array(fork.store, name="a", shape=(8, 4), chunks=(2, 4), dtype="f8")
assert "_array_expr" in type(da.ones(1)).__module__
session.merge(store_dask(sources=[da.ones((8, 4), chunks=(2, 4)) + 1], targets=[target]))
print(zarr.open_array(session.store, path="a")[...].sum())
"""
    if importlib.util.find_spec("dask.array._array_expr") is None:
        return
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "64.0", done.stderr
