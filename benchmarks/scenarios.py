"""Scenarios on local files, with names that both packages have."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.core.buffer import cpu, default_buffer_prototype

import icechunk as ic

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.measure import Recorder

FUSED_PIPELINE = "zarr.core.codec_pipeline.FusedCodecPipeline"
ELEMENTS = 8192  # of 4 bytes, in each chunk of `native`
RAW_BYTES = 1024
FORK_CHUNKS = 500
AT_ONCE = 64


def create(place: Path, **options: Any) -> Any:
    """Create a repository in a folder."""
    return ic.Repository.create(ic.local_filesystem_storage(str(place)), **options)


def reopened(place: Path) -> Any:
    """Open the repository in a folder anew, with nothing in its caches."""
    return ic.Repository.open(ic.local_filesystem_storage(str(place)))


def plain_array(store: Any, shape: tuple[int, ...], chunks: tuple[int, ...], dtype: str) -> Any:
    """Create the array ``a``, whose chunks are not compressed."""
    return zarr.create_array(
        store, name="a", shape=shape, chunks=chunks, dtype=dtype, compressors=None, filters=None
    )


def fused() -> AbstractContextManager[Any]:
    """Switch zarr to its fused codec pipeline; fails where zarr has none."""
    if not hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline"):
        raise RuntimeError(f"zarr {zarr.__version__} has no fused codec pipeline")
    context: AbstractContextManager[Any] = zarr.config.set({"codec_pipeline.path": FUSED_PIPELINE})
    return context


def values(size: int) -> np.ndarray[Any, Any]:
    """Return what the chunks of `native` hold; shape ``(size * ELEMENTS,)``."""
    return np.random.default_rng(0).random(size * ELEMENTS, dtype="f4")


def native(place: Path, size: int, record: Recorder, name: str = "native") -> None:
    """Write chunks of 32 KiB through zarr, commit, and read all in a repository opened anew."""
    session = create(place).writable_session("main")
    array = plain_array(session.store, (size * ELEMENTS,), (ELEMENTS,), "f4")
    written = values(size)
    with record.time(f"{name}.write"):
        array[:] = written
    with record.time(f"{name}.commit"):
        session.commit("written")
    store = reopened(place).readonly_session("main").store
    with record.time(f"{name}.open_read_all"):
        read = zarr.open_array(store, path="a", mode="r")[:]
    assert np.array_equal(written, read)


def native_fused(place: Path, size: int, record: Recorder) -> None:
    """Do the same with zarr's fused codec pipeline."""
    with fused():
        native(place, size, record, "native_fused")


def side_by_side(count: int, work: Callable[[int], Awaitable[None]]) -> None:
    """Do the work for each number, a limited number at once, in an event loop of its own."""

    async def everything() -> None:
        turns = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with turns:
                await work(number)

        await asyncio.gather(*(one(number) for number in range(count)))

    asyncio.run(everything())


def raw(place: Path, size: int, record: Recorder) -> None:
    """Write and read chunks of 1 KiB by the store's own methods."""
    session = create(place).writable_session("main")
    plain_array(session.store, (size * RAW_BYTES,), (RAW_BYTES,), "u1")
    store, prototype, payload = session.store, default_buffer_prototype(), os.urandom(RAW_BYTES)

    async def put(number: int) -> None:
        await store.set(f"a/c/{number}", cpu.Buffer.from_bytes(payload))

    with record.time("raw.set"):
        side_by_side(size, put)
    with record.time("raw.commit"):
        session.commit("written")
    store = reopened(place).readonly_session("main").store

    async def get(number: int) -> None:
        found = await store.get(f"a/c/{number}", prototype)
        assert len(found) == RAW_BYTES

    with record.time("raw.get"):
        side_by_side(size, get)

    async def keys() -> list[str]:
        return [key async for key in store.list()]

    with record.time("raw.list"):
        listed = asyncio.run(keys())
    assert len(listed) >= size


def virtual_references(
    place: Path, size: int, record: Recorder, name: str
) -> tuple[int, list[str], Any]:
    """Set about `size` virtual references, and commit.

    Returns the length of a side of the chunk grid, which is a square, and what a caller would still
    hold, for the peak of memory counts it: the locations, and the session.
    """
    source = place / "source"
    source.mkdir()
    config = ic.RepositoryConfig.default()
    files = ic.local_filesystem_store(str(source))
    container = ic.VirtualChunkContainer(f"file://{source}/", files)
    config.set_virtual_chunk_container(container)
    session = create(place / "repo", config=config).writable_session("main")
    side = int(size**0.5)
    plain_array(session.store, (side * 10, side * 10), (10, 10), "u1")
    locations = [
        f"file://{source}/year={i % 40}/month={i % 12}/file-{i // 100}.nc" for i in range(side**2)
    ]
    offsets = np.arange(side**2, dtype="u8") * 100
    lengths = np.full(side**2, 100, "u8")
    with record.time(f"{name}.set_arr"):
        session.store.set_virtual_refs_arr("a", (side, side), locations, offsets, lengths)
    with record.time(f"{name}.commit"):
        session.commit("references")
    return side, locations, session


def manifest_bytes(place: Path) -> int:
    """Return what the manifests of a repository take."""
    return sum(file.stat().st_size for file in (place / "manifests").iterdir())


def virtual(place: Path, size: int, record: Recorder) -> None:
    """Set a million virtual references, look one up cold, list the locations, change one."""
    side, locations, written = virtual_references(place, size, record, "virtual")
    with record.time("virtual.open_lookup_one"):
        repo = reopened(place / "repo")
        cold = repo.readonly_session("main")
        cold.chunk_type("/a", [side // 2, side // 3])
    with record.time("virtual.all_locations"):
        found = cold.all_virtual_chunk_locations()
    assert found
    record.add("virtual.manifest_bytes", manifest_bytes(place / "repo") / 1e6, "MB")
    session = repo.writable_session("main")
    with record.time("virtual.update_one_commit"):
        session.store.set_virtual_ref("a/c/0/0", locations[5], offset=7, length=100)
        session.commit("one")
    assert written.snapshot_id != session.snapshot_id


def write_part(repo: Any, number: int, length: int) -> None:
    """Commit one chunk in a session of its own."""
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="a", mode="r+")
    array[number * length : (number + 1) * length] = np.arange(float(length)) + number
    session.commit(f"chunk {number}")


def commits(place: Path, size: int, record: Recorder) -> None:
    """Commit one chunk after the other; the last sixth says how the cost grows with history."""
    repo = create(place)
    session = repo.writable_session("main")
    plain_array(session.store, (size * 1000,), (1000,), "f8")
    session.commit("template")
    seconds, worked = [], []
    for number in range(size):
        began, cpu_began = time.perf_counter(), time.process_time()
        write_part(repo, number, 1000)
        seconds.append(time.perf_counter() - began)
        worked.append(time.process_time() - cpu_began)
    part = max(1, size // 6)
    record.add("commits.all", sum(seconds), "s", sum(worked))
    record.add("commits.first_mean", sum(seconds[:part]) / part, "s", sum(worked[:part]) / part)
    record.add("commits.last_mean", sum(seconds[-part:]) / part, "s", sum(worked[-part:]) / part)
    with record.time("commits.ancestry"):
        history = list(repo.ancestry(branch="main"))
    assert len(history) == size + 2


def forks(place: Path, size: int, record: Recorder, chunks: int = FORK_CHUNKS) -> None:
    """Write chunks of 4 KiB into pickled forks, pickle them back, merge them, and commit."""
    repo = create(place)
    session = repo.writable_session("main")
    plain_array(session.store, (size * chunks * 512,), (512,), "f8")
    session.commit("template")
    session = repo.writable_session("main")
    payload, blob = cpu.Buffer.from_bytes(os.urandom(4096)), pickle.dumps(session.fork())
    back = []
    with record.time("forks.write_pickle"):
        for number in range(size):
            fork = pickle.loads(blob)  # noqa: S301 # our own

            async def put(chunks: int, store: Any = fork.store, first: int = number) -> None:
                base = first * chunks
                keys = (f"a/c/{base + chunk}" for chunk in range(chunks))
                await asyncio.gather(*(store.set(key, payload) for key in keys))

            asyncio.run(put(chunks))
            back.append(pickle.dumps(fork))
    record.add("forks.pickled_bytes", sum(map(len, back)) / 1e6, "MB")
    with record.time("forks.unpickle_merge"):
        session.merge(*[pickle.loads(one) for one in back])  # noqa: S301 # our own
    with record.time("forks.commit"):
        session.commit("merged")


def nodes(place: Path, size: int, record: Recorder) -> None:
    """Create groups with an array each, list them in a repository opened anew, change one."""
    pairs = max(1, size // 2)
    repo = create(place)
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    with record.time("nodes.create"):
        for number in range(pairs):
            group = root.create_group(f"g{number:05d}")
            group.create_array("a", shape=(10,), chunks=(10,), dtype="f4")
    with record.time("nodes.commit"):
        session.commit("nodes")
    cold = reopened(place).readonly_session("main")
    with record.time("nodes.open_members"):
        members = list(zarr.open_group(cold.store, mode="r").members(max_depth=None))
    assert len(members) == 2 * pairs
    session = repo.writable_session("main")
    with record.time("nodes.touch_one_commit"):
        zarr.open_group(session.store, path="g00000", mode="r+").attrs["x"] = 1
        session.commit("one")


def rebase(place: Path, size: int, record: Recorder) -> None:
    """Commit a session that others have overtaken in other chunks."""
    repo = create(place)
    session = repo.writable_session("main")
    plain_array(session.store, ((size + 1) * 100,), (100,), "f8")
    session.commit("template")
    late = repo.writable_session("main")
    zarr.open_array(late.store, path="a", mode="r+")[-100:] = 7.0
    for number in range(size):
        write_part(repo, number, 100)
    with record.time("rebase.commit"):
        late.commit("late", rebase_with=ic.ConflictDetector())
