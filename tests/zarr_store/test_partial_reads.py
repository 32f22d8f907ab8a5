"""How many requests reads of many parts take."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import given
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import icechunk as ic
from icechunk.assets import virtual
from icechunk.core.byte_ranges import WantedRange, plan_reads
from tests.faults import FaultyStorage
from tests.zarr_store.nodes import array_document, buffer, group_document

if TYPE_CHECKING:
    from pathlib import Path

    from icechunk.storage.base import Storage
    from icechunk.storage.objects import ByteRange, ReadCondition

PROTOTYPE = default_buffer_prototype()
MIB = 1 << 20


class CountingStorage(FaultyStorage):
    """Remembers which ranges were read."""

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        self.reads: list[tuple[str, int | None, int | None]] = []

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        bounds = (byte_range.start, byte_range.stop) if byte_range else (None, None)
        self.reads.append((key, *bounds))
        return await self.inner.get(key, byte_range, condition=condition)


def stored(size: int = 4 * MIB) -> tuple[CountingStorage, ic.IcechunkStore, bytes]:
    """Return a store over an array with one chunk of so many random bytes."""
    storage = CountingStorage(ic.in_memory_storage())
    session = ic.Repository.create(storage).writable_session("main")
    store = session.store
    store.set_sync("a/zarr.json", buffer(array_document(1)))
    data = np.random.default_rng(0).bytes(size)
    store.set_sync("a/c/0", buffer(data))
    store.set_sync("a/c/1", buffer(data[::-1]))
    storage.reads.clear()
    return storage, store, data


def partial(store: ic.IcechunkStore, wanted: list[tuple[str, Any]]) -> list[bytes | None]:
    got = sync(store.get_partial_values(PROTOTYPE, wanted))
    return [None if value is None else value.to_bytes() for value in got]


def test_near_ranges_of_one_chunk_take_one_request() -> None:
    storage, store, data = stored()
    ranges = [(n * 1_000, n * 1_000 + 300) for n in range(1_000)]
    got = partial(store, [("a/c/0", RangeByteRequest(*r)) for r in reversed(ranges)])
    assert got == [data[a:b] for a, b in reversed(ranges)]
    assert [read[1:] for read in storage.reads] == [(0, 999_300)]


def test_ranges_far_from_each_other_take_their_own_requests() -> None:
    storage, store, data = stored(8 * MIB)
    got = partial(
        store,
        [
            ("a/c/0", RangeByteRequest(10, 20)),
            ("a/c/0", SuffixByteRequest(16)),
            ("a/c/1", OffsetByteRequest(8 * MIB - 5)),
            ("a/c/0", RangeByteRequest(15, 40)),
            ("a/c/7", None),
        ],
    )
    assert got == [data[10:20], data[-16:], data[:5][::-1], data[15:40], None]
    assert len(storage.reads) == 3
    assert sum(stop - start for _, start, stop in storage.reads if stop and start) == 30 + 16 + 5


def test_a_request_does_not_grow_without_end() -> None:
    storage, store, data = stored(40 * MIB)
    step = MIB // 2
    wanted = [("a/c/0", RangeByteRequest(at, at + step)) for at in range(0, 40 * MIB, step)]
    assert b"".join(part or b"" for part in partial(store, wanted)) == data
    assert [stop - start for _, start, stop in storage.reads if stop is not None] == [
        16 * MIB,
        16 * MIB,
        8 * MIB,
    ]


def test_neighbours_in_a_shard_take_one_request() -> None:
    storage = CountingStorage(ic.in_memory_storage())
    session = ic.Repository.create(storage).writable_session("main")
    array = zarr.create_array(
        session.store, shape=(64, 64), chunks=(8, 8), shards=(64, 64), dtype="f8", compressors=None
    )
    values = np.arange(64 * 64, dtype="f8").reshape(64, 64)
    array[:] = values
    storage.reads.clear()
    np.testing.assert_array_equal(array[8:24, :16], values[8:24, :16])
    # The index of the shard and its parts; zarr before 3.4 asks for each of the four parts.
    assert len(storage.reads) == (2 if hasattr(session.store, "get_ranges") else 5)


def test_virtual_chunks_that_lie_near_in_one_file_take_one_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = np.random.default_rng(1).bytes(100_000)
    (tmp_path / "data.bin").write_bytes(data)
    prefix = tmp_path.as_uri() + "/"
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(
        ic.VirtualChunkContainer(prefix, ic.local_filesystem_store(str(tmp_path)))
    )
    repo = ic.Repository.create(
        ic.in_memory_storage(), config, authorize_virtual_chunk_access={prefix: None}
    )
    opened: list[CountingStorage] = []

    def counted(*args: Any) -> Storage:
        opened.append(CountingStorage(real(*args)))
        return opened[-1]

    real = virtual.storage_for_container
    monkeypatch.setattr(virtual, "storage_for_container", counted)
    session = repo.writable_session("main")
    session.store.set_sync("a/zarr.json", buffer(array_document(1)))
    session.store.set_virtual_refs_arr(
        "a", (100,), [prefix + "data.bin"] * 100, np.arange(100) * 1_000, np.full(100, 900)
    )
    wanted = [(f"a/c/{n}", None) for n in range(100)]
    wanted += [("a/c/7", SuffixByteRequest(4)), ("a/zarr.json", RangeByteRequest(0, 2))]
    got = partial(session.store, wanted)
    assert got[:100] == [data[n * 1_000 : n * 1_000 + 900] for n in range(100)]
    assert got[100:] == [data[7_896:7_900], array_document(1)[:2]]
    assert [read[1:] for read in opened[0].reads] == [(0, 99_900)]


def test_no_virtual_references_are_none_to_set() -> None:
    _, store, _ = stored(8)
    none = np.array([], np.uint64)
    assert store.set_virtual_refs("a", []) is None
    assert store.set_virtual_refs_arr("a", (0,), [], none, none) is None


def test_errors_say_which_chunk() -> None:
    storage, store, _ = stored()
    with pytest.raises(ic.InvalidInputError, match="does not fit a value of"):
        partial(store, [("a/c/0", RangeByteRequest(0, 5)), ("a/c/1", RangeByteRequest(0, 5 * MIB))])
    store.set_sync("g/zarr.json", buffer(group_document()))
    with pytest.raises(ic.InvalidInputError, match="not an array"):
        partial(store, [("g/c/0", None)])
    gone = [key for key, _ in storage.list_objects() if key.startswith("chunks/")]
    sync(storage.delete_many(gone))
    with pytest.raises(ic.StorageError) as lost:
        partial(store, [("a/c/1", None)])
    assert lost.value.__notes__ == ["while reading chunk (1,) of /a"]


def test_of_many_that_set_if_not_exists_one_does() -> None:
    for size in (4, 4_000):  # in the change set, and as an object
        _, store, _ = stored(8)
        barrier = threading.Barrier(8)
        seen: list[bytes] = []

        def one(
            n: int,
            store: ic.IcechunkStore = store,
            size: int = size,
            barrier: threading.Barrier = barrier,
            seen: list[bytes] = seen,
        ) -> None:
            barrier.wait()
            for chunk in range(2, 30):
                sync(store.set_if_not_exists(f"a/c/{chunk}", buffer(bytes([n]) * size)))
                got = store.get_sync(f"a/c/{chunk}")
                assert got is not None
                seen.append(bytes([chunk]) + got.to_bytes()[:1])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(8)))
        assert len(set(seen)) == 28  # nobody saw a chunk change


# -- the plan -------------------------------------------------------------------------------------

parts = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 200), st.integers(0, 60)).map(
        lambda drawn: WantedRange(place=drawn[0], start=drawn[1], stop=drawn[1] + drawn[2])
    )
)


@given(wanted=parts, gap=st.integers(0, 30), most=st.integers(0, 100))
def test_every_range_is_served_once_and_within_the_limits(
    wanted: list[WantedRange], gap: int, most: int
) -> None:
    reads = plan_reads(wanted, max_gap_bytes=gap, max_read_bytes=most)
    served = [number for read in reads for number in read.serves]
    assert sorted(served) == list(range(len(wanted)))
    for read in reads:
        inside = [wanted[number] for number in read.serves]
        assert len({part.place for part in inside}) == 1
        assert read.start == min(part.start for part in inside)
        assert read.stop == max(part.stop for part in inside)
        assert read.stop - read.start <= max(most, *(p.stop - p.start for p in inside))
        covered = sorted((part.start, part.stop) for part in inside)
        end = covered[0][1]
        for start, stop in covered[1:]:
            assert start - end <= gap
            end = max(end, stop)
