"""The one suite that every storage backend passes.

A backend subclasses `StorageConformance` and says how to make a storage at a fresh place, and how
to make another one at the same place, as a second process would.
"""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from icechunk._io import loop
from icechunk._io.loop import run
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage.base import Storage, Version
from icechunk.storage.objects import (
    ByteRange,
    LostRaceError,
    ObjectChangedError,
    ObjectInfo,
    ReadCondition,
)
from icechunk.storage_settings import StorageConcurrencySettings, StorageSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

T = TypeVar("T")


async def listed(storage: Storage, prefix: str = "") -> dict[str, int]:
    return {info.key: info.size_bytes async for info in storage.list(prefix)}


def on_own_loops(count: int, work: Callable[[int], Coroutine[Any, Any, T]]) -> list[T]:
    """Run ``work(i)`` in ``count`` threads at once, each with an event loop of its own."""
    barrier = threading.Barrier(count)

    def body(index: int) -> T:
        async def start() -> T:
            barrier.wait(30)
            return await work(index)

        with asyncio.Runner() as runner:
            return runner.run(start())

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(body, range(count)))


def open_files() -> int:
    """Return how many descriptors this process has, where that can be told."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


class StorageConformance:
    """What `icechunk.storage.base.Storage` promises."""

    threads = 6
    rounds = 5
    many = 1200  # more than one page of a listing

    @pytest.fixture
    def storage(self) -> Storage:
        raise NotImplementedError

    def again(self, storage: Storage) -> Storage:
        """Return another object for the same place."""
        twin: Storage = pickle.loads(pickle.dumps(storage))
        return twin

    def drive(self, storage: Storage) -> Callable[[Coroutine[Any, Any, T]], T]:
        return loop.run_now if storage.immediate else run

    # ------------------------------------------------------------ objects

    def test_what_is_put_is_got(self, storage: Storage) -> None:
        for size in (0, 1, 1000, 3 << 20):
            data = os.urandom(size)
            run(storage.put(f"chunks/N{size}", data))
            assert run(storage.get(f"chunks/N{size}")) == data
            run(storage.put(f"chunks/V{size}", memoryview(data)))
            assert self.drive(storage)(storage.get(f"chunks/V{size}")) == data
        items: Any = memoryview(bytes(80)).cast("d")
        run(storage.put("chunks/items", items))
        assert run(storage.get("chunks/items")) == bytes(80)

    def test_metadata_and_content_type_are_accepted(self, storage: Storage) -> None:
        options: Any = {"metadata": {"icspecver": "2"}, "content_type": "application/json"}
        run(storage.put("refs/branch.main/ref.json", b"{}", **options))
        version = run(storage.put_if_absent("repo", b"1", **options))
        run(storage.put_if_unchanged("repo", b"2", version, **options))
        assert run(storage.get("repo")) == b"2"

    def test_put_replaces(self, storage: Storage) -> None:
        run(storage.put("chunks/A", b"old and long"))
        run(storage.put("chunks/A", b"new"))
        assert run(storage.get("chunks/A")) == b"new"

    def test_a_copy_stays_when_what_it_was_made_of_is_replaced(self, storage: Storage) -> None:
        drive = self.drive(storage)
        version = run(storage.put_if_absent("repo", b"old"))
        drive(storage.put_copy("overwritten/repo.1", b"old", "repo"))
        version = run(storage.put_if_unchanged("repo", b"newer", version))
        assert run(storage.get("overwritten/repo.1")) == b"old"
        drive(storage.put_copy("overwritten/repo.2", b"newer", "repo", metadata={"icspecver": "2"}))
        run(storage.put("repo", b"newest"))
        assert run(storage.get("overwritten/repo.2")) == b"newer"
        # What was read, not what is there by now, or not there.
        drive(storage.put_copy("overwritten/repo.3", b"read a moment ago", "repo"))
        drive(storage.put_copy("overwritten/repo.4", b"of nothing", "nowhere"))
        assert run(storage.get("overwritten/repo.3")) == b"read a moment ago"
        assert run(storage.get("overwritten/repo.4")) == b"of nothing"
        assert run(storage.get("repo")) == b"newest"

    def test_extend(self, storage: Storage) -> None:
        can = "extend" in type(storage).capabilities
        assert can == (storage.pack_bytes > 0)
        run(storage.put("chunks/A", b"first"))
        if not can:
            with pytest.raises(StorageError) as raised:
                run(storage.extend("chunks/A", 5, b"second"))
            assert raised.value.kind == ErrorKind.STORAGE_CONFIG
            return
        drive = self.drive(storage)
        drive(storage.extend("chunks/A", 9, memoryview(b"third")))  # who reserved first is late
        assert drive(storage.get("chunks/A", ByteRange(start=0, stop=5))) == b"first"
        drive(storage.extend("chunks/A", 5, b"2nd!"))
        assert run(storage.get("chunks/A")) == b"first2nd!third"
        run(storage.extend("chunks/A", 14, bytes(3 << 20)))
        assert run(storage.head("chunks/A")).size_bytes == 14 + (3 << 20)
        with pytest.raises(StorageError) as raised:
            drive(storage.extend("chunks/B", 0, b"x"))
        assert raised.value.kind == ErrorKind.OBJECT_NOT_FOUND
        with pytest.raises(InvalidInputError):
            drive(storage.extend("../A", 0, b"x"))

    def test_ranges(self, storage: Storage) -> None:
        data = bytes(range(256)) * 8192  # 2 MiB: above what is read at once
        run(storage.put("chunks/A", data))
        for start, stop in ((0, 1), (5, 5), (10, 300), (0, len(data)), (7, len(data))):
            got = run(storage.get("chunks/A", ByteRange(start=start, stop=stop)))
            assert got == data[start:stop]
        for start, stop in ((0, len(data) + 1), (len(data), len(data) + 9), (9**9, 9**9 + 1)):
            with pytest.raises(StorageError, match="chunks/A") as caught:
                run(storage.get("chunks/A", ByteRange(start=start, stop=stop)))
            assert caught.value.kind == "invalid-object-size"

    def etag_of(self, storage: Storage, key: str) -> str | None:
        """Return the entity tag of an object; None where the storage knows of none."""
        return run(storage.get_versioned(key))[1]

    def test_read_on_condition(self, storage: Storage) -> None:
        data = bytes(range(256)) * 8192
        run(storage.put("chunks/A", data))
        modified_us = run(storage.head("chunks/A")).last_modified_us
        etag = self.etag_of(storage, "chunks/A")
        same = [ReadCondition(), ReadCondition(unmodified_since_us=modified_us)]
        if etag is not None:
            same += [ReadCondition(etag=etag), ReadCondition(etag=etag.strip('"'))]
        changed = [
            ReadCondition(etag="another"),
            ReadCondition(unmodified_since_us=modified_us - 1_000_000),
            ReadCondition(etag=etag or "another", unmodified_since_us=modified_us - 1_000_000),
        ]
        part = ByteRange(start=5, stop=50)
        for condition in same:
            assert run(storage.get("chunks/A", condition=condition)) == data
            assert run(storage.get("chunks/A", part, condition=condition)) == data[5:50]
        for condition in changed:
            for byte_range in (None, part, ByteRange(start=0, stop=len(data) - 1)):
                with pytest.raises(ObjectChangedError, match="chunks/A") as caught:
                    run(storage.get("chunks/A", byte_range, condition=condition))
                assert caught.value.key == "chunks/A"
                assert caught.value.kind == "virtual-chunk-modified"
        if etag is not None:
            run(storage.put("chunks/A", data[::-1]))
            with pytest.raises(ObjectChangedError):
                run(storage.get("chunks/A", part, condition=ReadCondition(etag=etag)))
        with pytest.raises(StorageError) as missing:
            run(storage.get("chunks/B", condition=ReadCondition(etag="another")))
        assert missing.value.kind == "object-not-found"

    def test_impossible_range_is_refused(self) -> None:
        for start, stop in ((-1, 3), (4, 3)):
            with pytest.raises(InvalidInputError):
                ByteRange(start=start, stop=stop)

    def test_missing_object(self, storage: Storage) -> None:
        run(storage.put("chunks/A", b"1"))
        for key in ("repo", "chunks/B", "chunks", "chunks/A/B"):
            for attempt in (storage.get(key), storage.get_versioned(key), storage.head(key)):
                with pytest.raises(StorageError) as caught:
                    run(attempt)
                assert caught.value.kind == "object-not-found"

    def test_head(self, storage: Storage) -> None:
        before = time.time_ns() // 1000
        run(storage.put("chunks/A", b"12345"))
        after = time.time_ns() // 1000
        info = run(storage.head("chunks/A"))
        assert (info.key, info.size_bytes) == ("chunks/A", 5)
        # Some clocks tick in seconds, or lag by a timer tick.
        assert before - 1_100_000 <= info.last_modified_us <= after + 1_100_000

    def test_list(self, storage: Storage) -> None:
        assert run(listed(storage)) == {}
        sizes = {"repo": 1, "chunks/AA": 2, "chunks/AB": 3, "snapshots/AA": 4, "refs/tag.x/r": 5}
        for key, size in sizes.items():
            run(storage.put(key, b"x" * size))
        assert run(listed(storage)) == sizes
        assert run(listed(storage, "chunks/")) == {"chunks/AA": 2, "chunks/AB": 3}
        assert run(listed(storage, "chunks/AB")) == {"chunks/AB": 3}
        assert run(listed(storage, "refs/tag.")) == {"refs/tag.x/r": 5}
        assert run(listed(storage, "rep")) == {"repo": 1}
        assert run(listed(storage, "nothing/")) == {}
        assert run(listed(storage, "nothing")) == {}

    def test_list_can_be_left_early(self, storage: Storage) -> None:
        for index in range(3):
            run(storage.put(f"chunks/{index}", b""))

        async def first() -> ObjectInfo:
            found: AsyncIterator[ObjectInfo] = storage.list("chunks/")
            return await anext(found)

        assert run(first()).key.startswith("chunks/")

    def test_long_list(self, storage: Storage) -> None:
        keys = [f"chunks/{index:05}" for index in range(self.many)]

        async def put_all() -> None:
            for at in range(0, len(keys), 50):
                await asyncio.gather(*(storage.put(key, b"x") for key in keys[at : at + 50]))

        run(put_all())
        assert sorted(run(listed(storage, "chunks/"))) == keys
        run(storage.delete_many(keys[1:]))
        assert sorted(run(listed(storage, "chunks/"))) == keys[:1]

    def test_delete(self, storage: Storage) -> None:
        for key in ("chunks/A", "chunks/B"):
            run(storage.put(key, b"1"))
        run(storage.delete_many([]))
        run(storage.delete_many(["chunks/A", "chunks/never", "nowhere/at/all"]))
        assert run(listed(storage)) == {"chunks/B": 1}
        run(storage.delete_many(["chunks/A"]))

    def test_clean(self, storage: Storage) -> None:
        assert run(storage.is_clean())
        run(storage.put("chunks/A", b"1"))
        assert not run(storage.is_clean())
        run(storage.delete_many(["chunks/A"]))
        assert run(storage.is_clean())

    @pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\0b"])
    def test_key_that_leaves_the_root_is_refused(self, storage: Storage, key: str) -> None:
        for attempt in (storage.put(key, b""), storage.put_if_absent(key, b"")):
            with pytest.raises(InvalidInputError):
                run(attempt)

    # ------------------------------------------------------------ conditions

    def test_create(self, storage: Storage) -> None:
        version = run(storage.put_if_absent("repo", b"1"))
        with pytest.raises(LostRaceError, match="repo") as caught:
            run(storage.put_if_absent("repo", b"2"))
        assert caught.value.key == "repo"
        assert run(storage.get_versioned("repo")) == (b"1", version)

    def test_create_after_delete(self, storage: Storage) -> None:
        run(storage.put_if_absent("repo", b"1"))
        run(storage.delete_many(["repo"]))
        run(storage.put_if_absent("repo", b"2"))
        assert run(storage.get("repo")) == b"2"

    def test_update(self, storage: Storage) -> None:
        first = run(storage.put_if_absent("repo", b"1"))
        second = run(storage.put_if_unchanged("repo", b"2", first))
        assert second != first
        with pytest.raises(LostRaceError):
            run(storage.put_if_unchanged("repo", b"3", first))
        assert run(storage.get_versioned("repo")) == (b"2", second)
        third = run(self.again(storage).put_if_unchanged("repo", b"3" * (2 << 20), second))
        assert run(storage.get_versioned("repo")) == (b"3" * (2 << 20), third)

    def test_update_of_what_is_gone(self, storage: Storage) -> None:
        version = run(storage.put_if_absent("repo", b"1"))
        run(storage.delete_many(["repo"]))
        with pytest.raises(LostRaceError):
            run(storage.put_if_unchanged("repo", b"2", version))
        assert run(storage.is_clean())
        with pytest.raises(LostRaceError):
            run(storage.put_if_unchanged("never/there", b"2", Version("1")))

    def test_update_after_plain_put(self, storage: Storage) -> None:
        version = run(storage.put_if_absent("repo", b"1"))
        run(storage.put("repo", b"other"))
        with pytest.raises(LostRaceError):
            run(storage.put_if_unchanged("repo", b"2", version))

    def test_racing_creates_have_one_winner(self, storage: Storage) -> None:
        storages = [storage, *(self.again(storage) for _ in range(self.threads - 1))]

        for round_ in range(self.rounds):
            key = f"refs/tag.{round_}/ref.json"

            async def create(index: int, key: str = key) -> bytes | None:
                content = f"{index}".encode()
                try:
                    await storages[index].put_if_absent(key, content)
                except LostRaceError:
                    return None
                return content

            winners = [w for w in on_own_loops(self.threads, create) if w is not None]
            assert winners == [run(storage.get(key))]

    def test_racing_updates_lose_nothing(self, storage: Storage) -> None:
        storages = [storage, *(self.again(storage) for _ in range(self.threads - 1))]
        run(storage.put_if_absent("repo", b"0"))

        async def count(index: int) -> None:
            mine = storages[index]
            for _ in range(self.rounds):
                while True:
                    data, version = await mine.get_versioned("repo")
                    try:
                        await mine.put_if_unchanged("repo", str(int(data) + 1).encode(), version)
                        break
                    except LostRaceError:
                        continue

        on_own_loops(self.threads, count)
        assert int(run(storage.get("repo"))) == self.threads * self.rounds

    def test_readers_never_see_half_an_object(self, storage: Storage) -> None:
        run(storage.put("repo", b"0" * 50_000))

        async def work(index: int) -> bool:
            if index == 0:
                for number in range(10):
                    await storage.put("repo", str(number).encode() * 50_000)
                return True
            seen = [await storage.get("repo") for _ in range(10)]
            return all(len(data) == 50_000 and len(set(data)) == 1 for data in seen)

        assert all(on_own_loops(3, work))

    # ------------------------------------------------------------ loops, pickles, text

    def test_many_tasks_on_several_loops(self, storage: Storage) -> None:
        async def work(index: int) -> int:
            keys = [f"chunks/{index}-{number}" for number in range(10)]
            await asyncio.gather(*(storage.put(key, key.encode()) for key in keys))
            return sum(
                data.decode() == key
                for key, data in zip(
                    keys, await asyncio.gather(*map(storage.get, keys)), strict=True
                )
            )

        assert on_own_loops(4, work) == [10] * 4

    def test_cancelled_call_leaves_the_storage_usable(self, storage: Storage) -> None:
        big = os.urandom(2 << 20)
        run(storage.put("chunks/A", big))

        async def give_up() -> None:
            tasks = [asyncio.ensure_future(storage.get("chunks/A")) for _ in range(5)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        open_before = open_files()
        for _ in range(20):
            run(give_up())
        if storage.immediate:  # others keep connections
            deadline = time.monotonic() + 10
            while open_files() > open_before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert open_files() <= open_before
        on_own_loops(2, lambda _: give_up())
        assert run(storage.get("chunks/A")) == big

    def test_immediate_storage_never_waits(self, storage: Storage) -> None:
        if not storage.immediate:
            pytest.skip("only for storages that answer at once")

        async def everything() -> int:
            await storage.put("chunks/A", b"1" * (3 << 20))
            await storage.get("chunks/A", ByteRange(start=1, stop=2 << 20))
            version = await storage.put_if_absent("repo", b"1" * (3 << 20))
            await storage.put_if_unchanged("repo", b"2" * (3 << 20), version)
            await storage.get_versioned("repo")
            await storage.head("repo")
            count = len([info async for info in storage.list("")])
            await storage.delete_many([f"chunks/{n}" for n in range(300)])
            await storage.is_clean()
            return count

        assert loop.run_now(everything()) == 2

    def test_pickles_to_the_same_place(self, storage: Storage) -> None:
        run(storage.put("chunks/A", b"1"))
        twin = pickle.loads(pickle.dumps(storage))
        run(twin.put("chunks/B", b"2"))
        assert run(listed(storage)) == run(listed(twin)) == {"chunks/A": 1, "chunks/B": 1}
        assert twin == storage
        assert hash(twin) == hash(storage)
        assert type(twin) is type(storage)
        assert copy.deepcopy(storage) == storage

    def test_settings(self, storage: Storage) -> None:
        run(storage.put("chunks/A", b"1"))
        default = storage.settings
        assert default.retries is not None
        assert default.retries.max_tries is not None
        given = StorageSettings(
            concurrency=StorageConcurrencySettings(max_concurrent_requests_for_object=7)
        )
        other = storage.with_settings(given)
        given.storage_class = "changed later"
        for twin in (other, pickle.loads(pickle.dumps(other))):
            assert twin.settings.storage_class is None
            assert twin.settings.concurrency is not None
            assert twin.settings.concurrency.max_concurrent_requests_for_object == 7
            assert twin.settings.retries == default.retries
            assert run(twin.get("chunks/A")) == b"1"
        assert storage.settings == default

    def test_official_listing(self, storage: Storage) -> None:
        for key in ("repo", "snapshots/B", "snapshots/A"):
            run(storage.put(key, b"123"))
        assert storage.list_objects() == [("repo", 3), ("snapshots/A", 3), ("snapshots/B", 3)]
        assert storage.list_objects(prefix="snapshots") == [("A", 3), ("B", 3)]
        assert storage.list_objects(prefix="snapshots/") == [("A", 3), ("B", 3)]
        assert storage.list_objects(storage.default_settings(), "snap") == []
        found = storage.list_objects_metadata(prefix="snapshots")
        assert [(info.key, info.size_bytes) for info in found] == [("A", 3), ("B", 3)]
        assert abs(found[0].created_at.timestamp() - time.time()) < 60
        assert found[0].created_at.utcoffset() is not None

    def test_text_form(self, storage: Storage) -> None:
        assert repr(storage) == str(storage)
        first, second, *_ = str(storage).splitlines()
        assert first == "<icechunk.Storage>"
        assert second.startswith("type: ")
        assert "\n" not in storage.description
