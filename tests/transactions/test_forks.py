"""Forks: what they see, how they travel, and how they come back."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import tracemalloc
import warnings
from typing import TYPE_CHECKING

import cloudpickle
import numpy as np
import pytest
import zarr
from dask.base import tokenize
from zarr.core.buffer import cpu
from zarr.core.sync import sync

import icechunk as ic
from icechunk.core.merge import ChunkPolicy
from icechunk.format.chunk_table import ChunkTable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def repo(tmp_path: Path) -> ic.Repository:
    repo = ic.Repository.create(ic.local_filesystem_storage(tmp_path / "repo"))
    with repo.transaction("main", message="template") as store:
        zarr.create_array(store, name="a", shape=(6000,), chunks=(1000,), dtype="f8")
    return repo


def write(session: ic.Session, chunk: int, value: float, path: str = "a") -> None:
    array = zarr.open_array(session.store, path=path, mode="r+")
    array[chunk * 1000 : (chunk + 1) * 1000] = value


def read(session: ic.Session, path: str = "a") -> list[float]:
    array = zarr.open_array(session.store, path=path, mode="r")
    return np.asarray(array[::1000]).tolist()


def test_a_fork_sees_uncommitted_changes_and_keeps_its_own_apart(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    write(session, 0, 1.0)
    zarr.create_array(session.store, name="new", shape=(2000,), chunks=(1000,), dtype="f8")
    fork = session.fork()
    write(fork, 1, 2.0)
    write(fork, 1, 3.0, "new")
    assert read(fork) == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert read(session) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert (fork.branch, fork.read_only, fork.mode) == (None, False, ic.SessionMode.readonly)
    session.merge(fork)
    assert read(session) == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert read(session, "new") == [0.0, 3.0]
    session.commit("both")
    assert read(repo.readonly_session("main")) == [1.0, 2.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_a_writable_session_travels_as_a_fork(repo: ic.Repository, module: object) -> None:
    session = repo.writable_session("main")
    write(session, 0, 1.0)
    twin = pickle.loads(module.dumps(session))  # type: ignore[attr-defined]
    assert isinstance(twin, ic.ForkSession)
    assert read(twin) == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    write(twin, 2, 5.0)
    session.merge(pickle.loads(pickle.dumps(twin)))
    assert read(session)[:3] == [1.0, 0.0, 5.0]


def test_the_store_of_a_session_travels_with_it(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    write(session, 0, 1.0)
    store = pickle.loads(pickle.dumps(session.store))
    assert np.asarray(zarr.open_array(store, path="a", mode="r")[0]) == 1.0
    assert isinstance(store.session, ic.ForkSession)


@pytest.mark.parametrize("times", [1, 2])
def test_what_a_store_that_travelled_would_lose_it_refuses(repo: ic.Repository, times: int) -> None:
    store = repo.writable_session("main").store
    for _ in range(times):
        store = pickle.loads(pickle.dumps(store))
    array = zarr.open_array(store, path="a", mode="r+")
    with pytest.raises(ic.SessionStateError, match=r"in no commit.*to_icechunk.*session\.fork"):
        array[0] = 1.0
    with pytest.raises(ic.SessionStateError, match="in no commit"):
        store.with_read_only(False).set_virtual_ref("a/c/0", "file:///x", offset=0, length=4)
    assert not store.session.has_uncommitted_changes


def test_what_comes_back_in_a_fork_is_written_through_its_own_store(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    fork = pickle.loads(pickle.dumps(session.store)).session
    write(fork, 0, 1.0)
    session.merge(fork)
    assert read(session)[0] == 1.0


def test_unpickling_reads_nothing(repo: ic.Repository, tmp_path: Path) -> None:
    data = pickle.dumps(repo.writable_session("main").fork())
    (tmp_path / "repo").rename(tmp_path / "away")
    script = "import pickle, sys; f = pickle.loads(sys.stdin.buffer.read()); print(f.snapshot_id)"
    done = subprocess.run(
        [sys.executable, "-c", script], input=data, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == repo_tip(tmp_path / "away")


def repo_tip(path: Path) -> str:
    return ic.Repository.open(ic.local_filesystem_storage(path)).lookup_branch("main")


def test_a_fork_of_a_fork_merges_step_by_step(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    outer = session.fork()
    write(outer, 0, 1.0)
    inner = outer.fork()
    assert read(inner)[0] == 1.0
    write(inner, 1, 2.0)
    outer.merge(inner)
    session.merge(outer)
    assert read(session)[:2] == [1.0, 2.0]


def test_the_wire_takes_at_most_35_bytes_a_chunk(repo: ic.Repository) -> None:
    with repo.transaction("main", message="large") as store:
        zarr.create_array(store, name="large", shape=(400, 400), chunks=(4, 4), dtype="f8")
    fork = repo.writable_session("main").fork()
    rng = np.random.default_rng(0)
    for i in range(1000):
        key = f"large/c/{i // 100}/{i % 100}"
        data = cpu.Buffer.from_bytes(rng.bytes(600 + int(rng.integers(0, 2000))))
        sync(fork.store.set(key, data))
    bare = len(pickle.dumps(repo.writable_session("main").fork()))
    assert (len(pickle.dumps(fork)) - bare) / 1000 <= 35


def test_a_fork_dropped_with_changes_warns(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    lost = [session.fork()]
    write(lost[0], 0, 1.0)
    with pytest.warns(ic.UnmergedChangesWarning, match="merge"):
        lost.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merged, sent, empty = session.fork(), session.fork(), session.fork()
        write(merged, 0, 1.0)
        write(sent, 1, 1.0)
        session.merge(merged)
        pickle.dumps(sent)
        del merged, sent, empty
        gc.collect()


def test_the_same_chunk_from_two_forks(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    forks = [session.fork(), session.fork()]
    for value, fork in enumerate(forks):
        write(fork, 3, float(value + 1))
    other = repo.writable_session("main")
    with pytest.raises(ic.SessionStateError) as caught:
        other.merge(*forks, on_chunk_conflict=ChunkPolicy.ERROR)
    assert caught.value.kind == "merge-failed"
    assert "/a" in str(caught.value)
    assert "[3]" in str(caught.value)
    session.merge(*forks)
    assert read(session)[3] == 2.0


def test_a_fork_of_an_older_snapshot_merges_unless_it_conflicts(repo: ic.Repository) -> None:
    old = repo.writable_session("main")
    good, bad = old.fork(), old.fork()
    write(good, 0, 1.0)
    write(bad, 5, 1.0)
    write(old, 5, 9.0)
    old.commit("meanwhile")
    session = repo.writable_session("main")
    session.merge(good)
    with pytest.raises(ic.RebaseFailedError, match=r"/a.*\[5\]"):
        session.merge(bad)
    bad.mark_carried()
    assert read(session) == [1.0, 0.0, 0.0, 0.0, 0.0, 9.0]


def test_changes_to_what_the_session_deleted_do_not_merge(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="new", shape=(2000,), chunks=(1000,), dtype="f8")
    fork = session.fork()
    write(fork, 0, 1.0, "new")
    sync(session.store.delete_dir("new"))
    with pytest.raises(ic.SessionStateError) as caught:
        session.merge(fork)
    fork.mark_carried()
    assert caught.value.kind == "merge-failed"


def test_tokens_are_stable_for_what_cannot_change(repo: ic.Repository) -> None:
    first, second = repo.readonly_session("main"), repo.readonly_session("main")
    assert tokenize(first.store) == tokenize(second.store)
    assert tokenize(pickle.loads(pickle.dumps(first))) == tokenize(second)
    assert first == second
    writable = repo.writable_session("main")
    assert tokenize(writable.store) == tokenize(writable.store)
    assert tokenize(writable) != tokenize(repo.writable_session("main"))


def test_damaged_session_bytes_are_refused(repo: ic.Repository) -> None:
    function, (recipe, data) = repo.writable_session("main").fork().__reduce__()
    for cut in (0, 3, len(data) // 2, len(data) - 1):
        with pytest.raises(ic.FormatError):
            function(recipe, data[:cut])


def test_what_travels_keeps_no_secret_in_its_text() -> None:
    storage = ic.s3_storage(
        bucket="b", prefix="p", access_key_id="AKEY", secret_access_key="very-secret"
    )
    for text in (repr(storage), str(storage)):
        assert "very-secret" not in text
    assert "very-secret" not in repr(pickle.loads(pickle.dumps(storage)))


def test_a_fork_of_another_repository_is_refused(repo: ic.Repository, tmp_path: Path) -> None:
    elsewhere = ic.Repository.create(ic.local_filesystem_storage(tmp_path / "elsewhere"))
    fork = elsewhere.writable_session("main").fork()
    session = repo.writable_session("main")
    with pytest.raises(ic.SessionStateError, match="elsewhere, where its chunks are"):
        session.merge(fork)


@pytest.mark.parametrize("policy", list(ChunkPolicy))
@pytest.mark.parametrize("interleaved", [False, True])
def test_merging_takes_at_most_three_times_what_the_forks_weigh_on_the_wire(
    policy: ChunkPolicy, interleaved: bool
) -> None:
    """What arrives counts as well; ids and lengths are random, as of chunks on object storage."""
    forks, chunks = 16, 200_000
    repo = ic.Repository.create(ic.in_memory_storage())
    with repo.transaction("main", message="array") as store:
        zarr.create_array(store, name="a", shape=(chunks,), chunks=(1,), dtype="f8")
    session = repo.writable_session("main")
    node = session.checkout.require_array("/a")
    rng = np.random.default_rng(1)
    wire = []
    for number in range(forks):
        every = np.arange(chunks)
        mine = every[number::forks] if interleaved else np.array_split(every, forks)[number]
        fork = session.fork()
        ids = rng.integers(0, 256, (len(mine), 12), np.uint8)
        table = ChunkTable.native(mine[:, None], ids, rng.integers(40_000, 60_000, len(mine)))
        fork.checkout.changes.edits(node.id, 1).extend(table)
        wire.append(pickle.dumps(fork))
    del fork, table
    gc.collect()
    tracemalloc.start()
    try:
        session.merge(*map(pickle.loads, wire), on_chunk_conflict=policy)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes <= 3 * sum(map(len, wire))
    assert session.checkout.changes.chunk_count() == chunks
    twice = session.fork()
    twice.checkout.changes.edits(node.id, 1).extend(
        ChunkTable.native(np.array([[7]]), np.ones((1, 12), np.uint8), [1])
    )
    if policy is ChunkPolicy.LAST:
        session.merge(twice, on_chunk_conflict=policy)
        return
    # The fork saw chunk 7, so replacing it is no conflict; somebody else's fork did not.
    session.merge(twice, on_chunk_conflict=policy)
    stranger = repo.writable_session("main").fork()
    stranger.checkout.changes.edits(node.id, 1).extend(
        ChunkTable.native(np.array([[8]]), np.ones((1, 12), np.uint8), [1])
    )
    with pytest.raises(ic.SessionStateError, match="same chunks of /a: \\[8\\]"):
        session.merge(stranger, on_chunk_conflict=policy)
    stranger.mark_carried()
