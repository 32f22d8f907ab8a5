"""`to_icechunk`: what is its own, beyond what xarray's `to_zarr` does."""

from __future__ import annotations

import importlib
import inspect
import pickle
import subprocess
import sys
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk.xarray
from icechunk.dask import PendingWrite
from icechunk.errors import InvalidInputError, ReadOnlyError
from icechunk.xarray import resolve_region, to_icechunk


def weather(n=20, first=0, chunks=5):
    return xr.Dataset(
        {"t": (("time", "x"), da.arange(n * 4, chunks=4).reshape((n, 4)).rechunk((chunks, 4)))},
        coords={"time": np.arange(first, first + n)},
    )


def reopened(session, **kwargs):
    return xr.open_zarr(session.store, consolidated=False, **kwargs)


def test_as_a_method(repo):
    session = repo.writable_session("main")
    assert weather().to_icechunk(session).chunks > 0
    weather().t.to_icechunk(session, group="array")
    xr.testing.assert_identical(reopened(session).load(), weather().load())
    xr.testing.assert_identical(reopened(session, group="array").t.load(), weather().t.load())


def test_the_method_shows_help():
    method = xr.Dataset().to_icechunk
    parameters = list(inspect.signature(method).parameters)
    assert parameters[:3] == ["session", "group", "mode"]
    assert method.__doc__ == to_icechunk.__doc__
    assert "to_icechunk" in repr(method)
    assert pickle.loads(pickle.dumps(xr.Dataset({"a": 1}))).identical(xr.Dataset({"a": 1}))


def test_importing_again_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(icechunk.xarray)


def test_importing_icechunk_loads_neither_dask_nor_xarray():
    code = "import sys, icechunk; print({'dask', 'xarray', 'distributed'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_official_parameters_come_first():
    names = list(inspect.signature(to_icechunk).parameters)
    assert names[:12] == [
        "obj",
        "session",
        "group",
        "mode",
        "safe_chunks",
        "align_chunks",
        "append_dim",
        "region",
        "encoding",
        "chunkmanager_store_kwargs",
        "split_every",
        "compute",
    ]


def test_a_store_will_do(repo):
    session = repo.writable_session("main")
    to_icechunk(weather(), session.store)
    assert session.has_uncommitted_changes
    with pytest.raises(ReadOnlyError):
        to_icechunk(weather(), session.store.with_read_only(True), mode="w")


def test_a_read_only_session_is_refused(repo):
    with pytest.raises(ReadOnlyError, match="writable_session"):
        to_icechunk(weather(), repo.readonly_session("main"))


def test_a_fork_will_do(repo):
    session = repo.writable_session("main")
    to_icechunk(weather(), session, compute=False)
    session.commit("template")
    session = repo.writable_session("main")
    forks = [pickle.loads(pickle.dumps(session.fork())) for _ in range(2)]
    for number, fork in enumerate(forks):
        part = slice(number * 10, number * 10 + 10)
        to_icechunk(weather().isel(time=part), fork, region={"time": part})
    session.merge(*forks)
    session.commit("filled")
    xr.testing.assert_identical(reopened(repo.readonly_session("main")).load(), weather().load())


MISALIGNED = {"t": {"chunks": (7, 4)}}


@pytest.mark.parametrize("dirty", [False, True])
def test_misaligned_chunks_are_refused_before_anything_is_written(repo, dirty):
    session = repo.writable_session("main")
    if dirty:
        zarr.create_group(session.store).attrs["here"] = "first"
    with pytest.raises(InvalidInputError) as caught:
        weather().to_icechunk(session, encoding=MISALIGNED, mode="w")
    assert isinstance(caught.value, ValueError)
    for part in ("'t'", "'time'", "(5, 5, 5, 5)", "chunks of 7", "ds = ds.chunk(time=7)"):
        assert part in str(caught.value)
    assert session.has_uncommitted_changes == dirty
    if dirty:
        assert zarr.open_group(session.store).attrs["here"] == "first"
    weather().chunk(time=7).to_icechunk(session, encoding=MISALIGNED, mode="w")


def test_the_fix_for_an_append_inside_a_chunk_works(repo):
    session = repo.writable_session("main")
    weather(12).to_icechunk(session)
    ds = weather(20, 12, chunks=10)
    with pytest.raises(InvalidInputError) as caught:
        ds.to_icechunk(session, append_dim="time")
    fix = str(caught.value).split("`")[1]
    scope = {"ds": ds}
    exec(fix, scope)
    scope["ds"].to_icechunk(session, append_dim="time")
    expected = xr.concat([weather(12), ds], "time")
    xr.testing.assert_identical(reopened(session).load(), expected.load())


@pytest.mark.parametrize("option", [{"align_chunks": True}, {"safe_chunks": False}])
@pytest.mark.parametrize("chunks", [1, 3, 11])
def test_joined_blocks_lose_nothing(repo, option, chunks):
    session = repo.writable_session("main")
    weather(13).to_icechunk(session, encoding=MISALIGNED, **option)
    more = weather(30, 13, chunks)
    more.to_icechunk(session, append_dim="time", **option)
    expected = xr.concat([weather(13), more], "time")
    xr.testing.assert_identical(reopened(session).load(), expected.load())


def test_uneven_blocks_name_the_fix(repo):
    session = repo.writable_session("main")
    ds = weather().chunk(time=(3, 9, 8))
    with pytest.raises(InvalidInputError, match=r"ds = ds.chunk\(time=9\)"):
        ds.to_icechunk(session)
    assert not session.has_uncommitted_changes


def explode(block):
    raise OSError("disk on fire")


@pytest.mark.parametrize("dirty", [False, True])
def test_a_failure_leaves_a_clean_session_clean(repo, dirty):
    session = repo.writable_session("main")
    if dirty:
        zarr.create_group(session.store, path="other")
    data = da.ones(8, chunks=2).map_blocks(explode, dtype="f8", meta=np.empty((0,)))
    with pytest.raises(OSError, match="disk on fire"):
        xr.Dataset({"t": ("x", data)}).to_icechunk(session, group="g")
    assert session.has_uncommitted_changes == dirty


def test_metadata_that_cannot_be_written_leaves_nothing(repo):
    session = repo.writable_session("main")
    ds = weather().assign(bad=("x", np.array([object()] * 4)))
    with pytest.raises(Exception, match=r"object|serializ|dtype"):
        ds.to_icechunk(session)
    assert not session.has_uncommitted_changes


def test_compute_false_writes_metadata_and_memory_now(repo):
    session = repo.writable_session("main")
    ds = weather().assign(memory=("x", np.ones(4)))
    pending = ds.to_icechunk(session, compute=False)
    assert isinstance(pending, PendingWrite)
    np.testing.assert_array_equal(reopened(session).memory, np.ones(4))
    assert zarr.open_array(session.store, path="t").nchunks_initialized == 0
    receipt = pending.compute()
    assert receipt.blocks == 4
    session.commit("all")
    xr.testing.assert_identical(reopened(repo.readonly_session("main")).load(), ds.load())


def test_compute_false_without_blocks(repo):
    session = repo.writable_session("main")
    pending = xr.Dataset({"a": ("x", np.ones(3))}).to_icechunk(session, compute=False)
    (receipt,) = dask.compute(pending)
    assert (receipt.blocks, receipt.chunks, receipt.size_bytes) == (0, 0, 0)
    session.commit("memory")


def test_two_pending_writes_in_one_session(repo):
    session = repo.writable_session("main")
    first = weather().to_icechunk(session, group="a", compute=False)
    second = weather().to_icechunk(session, group="b", compute=False)
    dask.compute(first, second)
    for group in "ab":
        xr.testing.assert_identical(reopened(session, group=group).load(), weather().load())


def test_several_writes_and_appends_in_one_session(repo):
    session = repo.writable_session("main")
    weather().to_icechunk(session)
    weather(10, 20).to_icechunk(session, append_dim="time")
    weather(10, 30).to_icechunk(session, append_dim="time")
    weather().to_icechunk(session, region="auto")
    session.commit("one")
    session = repo.writable_session("main")
    weather(5).to_icechunk(session, mode="w")
    session.commit("two")
    assert reopened(repo.readonly_session("main")).sizes["time"] == 5


@pytest.mark.parametrize("how", [{"append_dim": "time"}, {"mode": "a"}, {"mode": "r+"}])
def test_a_lazy_scalar_that_is_there_already(repo, how):
    first = weather().assign(run=((), da.asarray(1)))
    assert first.run.chunks == ()
    session = repo.writable_session("main")
    first.to_icechunk(session)
    session.commit("one")
    session = repo.writable_session("main")
    later = weather(first=20 if "append_dim" in how else 0).assign(run=((), da.asarray(2)))
    later.to_icechunk(session, **how)
    session.commit("two")
    found = reopened(repo.readonly_session("main")).load()
    assert found.run == 2
    assert found.sizes["time"] == (40 if "append_dim" in how else 20)


def test_many_variables_in_one_graph(repo):
    session = repo.writable_session("main")
    ds = xr.Dataset({f"v{i}": ("x", da.full(9, i, chunks=3)) for i in range(30)})
    pending = ds.to_icechunk(session, compute=False, split_every=4)
    assert pending.compute().blocks == 90
    xr.testing.assert_identical(reopened(session).load(), ds.load())


def test_store_kwargs(repo):
    session = repo.writable_session("main")
    seen = []

    def scheduler(graph, keys, **kwargs):
        seen.append(kwargs)
        return dask.get(graph, keys)

    weather().to_icechunk(
        session, chunkmanager_store_kwargs={"scheduler": scheduler, "num_workers": 3}
    )
    assert seen == [{"num_workers": 3}]
    for bad in ("lock", "compute", "return_stored"):
        with pytest.raises(InvalidInputError, match=bad):
            weather().to_icechunk(session, chunkmanager_store_kwargs={bad: True}, mode="w")


def test_split_every_is_checked_first(repo):
    session = repo.writable_session("main")
    with pytest.raises(InvalidInputError, match="split_every"):
        weather().to_icechunk(session, split_every=1)
    assert not session.has_uncommitted_changes


def test_write_empty_chunks(repo):
    session = repo.writable_session("main")
    zeros = xr.Dataset({"a": ("x", da.zeros(6, chunks=2)), "b": ("x", da.zeros(6, chunks=2))})
    zeros.to_icechunk(
        session,
        encoding={"a": {"fill_value": 0.0}, "b": {"fill_value": 0.0, "write_empty_chunks": True}},
    )
    assert zarr.open_array(session.store, path="a").nchunks_initialized == 0
    assert zarr.open_array(session.store, path="b").nchunks_initialized == 3


def test_the_users_arguments_stay_as_they_are(repo):
    session = repo.writable_session("main")
    encoding = {"t": {"chunks": (5, 4), "fill_value": -1}}
    ds = weather()
    ds.to_icechunk(session, encoding=encoding)
    assert encoding == {"t": {"chunks": (5, 4), "fill_value": -1}}
    assert ds.t.encoding == {}
    region = {"time": "auto"}
    ds.to_icechunk(session, region=region)
    assert region == {"time": "auto"}


def test_resolve_region(repo):
    session = repo.writable_session("main")
    weather().to_icechunk(session)
    part = weather().isel(time=slice(5, 15))
    assert resolve_region(part, session, "auto") == {"time": slice(5, 15), "x": slice(0, 4)}
    assert resolve_region(part, session, {"time": "auto"}) == {"time": slice(5, 15)}
    assert resolve_region(part, session, None) is None


def test_other_chunked_arrays_are_refused(repo):
    class Chunked(np.ndarray):
        chunks = ((2, 2),)

        def compute(self):
            return self

    from icechunk.dask.collect import BlockCollector

    target = zarr.create_array(repo.writable_session("main").store, name="a", shape=4, dtype="f8")
    with pytest.raises(InvalidInputError, match="Chunked; only dask"):
        BlockCollector(align=False).add(np.ones(4).view(Chunked), target)


def test_progress_bar(repo, capsys):
    from dask.diagnostics import ProgressBar

    with ProgressBar():
        weather().to_icechunk(repo.writable_session("main"))
    assert "100%" in capsys.readouterr().out


def test_a_tree_is_told_to_come_node_by_node(repo):
    session = repo.writable_session("main")
    tree = xr.DataTree.from_dict({"/": xr.Dataset({"top": 1}), "/a": weather()})
    with pytest.raises(InvalidInputError, match=r"group=node\.path"):
        to_icechunk(tree, session)
    assert not session.has_uncommitted_changes
    for node in tree.subtree:
        to_icechunk(node.to_dataset(inherit=False), session, group=node.path)
    found = xr.open_datatree(session.store, engine="zarr", consolidated=False)
    xr.testing.assert_identical(found.load(), tree.load())


def test_who_gives_a_repository_is_told_to_open_a_session(repo):
    with pytest.raises(TypeError, match=r"not into Repository.*writable_session"):
        to_icechunk(xr.Dataset({"v": ("x", [1])}), repo)


@pytest.mark.parametrize(
    "how",
    [
        {"mode": "x"},
        {"group": "absent", "region": {"x": slice(0, 2)}},
        {"group": "absent", "append_dim": "x"},
        {"group": "g", "append_dim": "tmie"},
        {"group": "g", "region": {"x": slice(0, 2)}, "append_dim": "x"},
        {"group": "g"},
        {"group": "h", "encoding": {"tpyo": {"chunks": (1,)}}},
        {"group": "g", "mode": "a", "encoding": {"v": {"chunks": (1,)}}},
    ],
)
def test_a_plan_is_refused_where_writing_is(how):
    """It said that all was well."""
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    ds = xr.Dataset({"v": ("x", [1, 2])})
    session = repo.writable_session("main")
    to_icechunk(ds, session, group="g")
    session.commit("g")
    before = repo.storage.list_objects()
    refusals = []
    for plan in (True, False):
        session = repo.writable_session("main")
        with pytest.raises((ValueError, KeyError, OSError)) as caught:
            to_icechunk(ds, session, plan=plan, **how)
        assert not session.has_uncommitted_changes
        refusals.append((type(caught.value), str(caught.value).partition("snapshot_id")[0]))
    assert refusals[0] == refusals[1]
    assert repo.storage.list_objects() == before


def test_a_plan_sees_what_its_session_changed_and_leaves_it_alone():
    repo = icechunk.Repository.create(icechunk.in_memory_storage())
    ds = xr.Dataset({"v": ("x", [1, 2])})
    session = repo.writable_session("main")
    to_icechunk(ds, session, group="g")
    assert to_icechunk(ds, session, group="g", mode="r+", plan=True).variables[0].exists
    to_icechunk(ds, session, group="g", mode="w", plan=True)
    assert xr.open_zarr(session.store, group="g", consolidated=False).v.values.tolist() == [1, 2]
