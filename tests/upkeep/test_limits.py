"""The limits of upkeep on memory and requests hold, and its columns of ids are right."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.budget import Budget
from icechunk._io.loop import run
from icechunk.core.id_columns import KeySet, id_column, ids_of_names
from icechunk.ids import id_text, new_object_id
from icechunk.ops import reading
from icechunk.ops.reading import ReadLimits
from icechunk.ops.sweep import Sweep, SweepLimits
from tests.faults import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from icechunk.format.snapshot import ManifestFiles
    from icechunk.storage.objects import ByteRange, ObjectInfo, ReadCondition


class SlowStorage(FaultyStorage):
    """Never answers at once, and notes how many requests it has at one time."""

    immediate = False

    def __init__(self, inner: ic.Storage) -> None:
        super().__init__(inner)
        self.at_once: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.bytes_at_once = 0
        self.prefixes: list[str] = []

    async def _busy(self, what: str) -> None:
        self.at_once[what] = self.at_once.get(what, 0) + 1
        self.most[what] = max(self.most.get(what, 0), self.at_once[what])
        await asyncio.sleep(0.001)
        self.at_once[what] -= 1

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        await self._busy(key.partition("/")[0])
        return await super().get(key, byte_range, condition=condition)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        self.prefixes.append(prefix)
        await self._busy("list")
        async for info in self.inner.list(prefix):
            yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        await self._busy("delete")
        await self.inner.delete_many(keys)


def made() -> tuple[SlowStorage, ic.Repository, ManifestFiles]:
    """Return a repository of 30 snapshots and as many manifests."""
    inner = ic.in_memory_storage()
    repo = ic.Repository.create(inner)
    with repo.transaction("main", message="arrays") as store:
        zarr.create_array(store, name="a", shape=(30,), chunks=(1,), dtype="i4")
    for i in range(30):
        with repo.transaction("main", message=str(i)) as store:
            zarr.open_array(store, path="a", mode="r+")[i] = i + 1
    storage = SlowStorage(inner)
    assets = ic.Repository.open(storage)._state.assets
    ids = [info.id for info in repo.ancestry(branch="main")]
    from icechunk.ids import parse_object_id

    limits = ReadLimits(max_snapshots_in_memory=3)
    storage.most.clear()
    files = run(reading.manifests_of(assets, map(parse_object_id, ids), limits))
    assert storage.most["snapshots"] == 3
    return storage, ic.Repository.open(storage), files


def test_the_limits_on_snapshots_and_fetches_hold() -> None:
    storage, repo, files = made()
    assert len(files) == 30
    seen: list[int] = []
    limits = ReadLimits(max_concurrent_manifest_fetches=4)
    use = lambda manifest: seen.append(len(manifest.arrays[0][1]))
    run(reading.reduce_manifests(repo._state.assets, files, limits, use))
    assert storage.most["manifests"] == 4
    assert sorted(seen) == list(range(1, 31))


def test_the_limit_on_compressed_bytes_holds() -> None:
    storage, repo, files = made()
    largest = int(files.size_bytes.max())
    limits = ReadLimits(max_compressed_manifest_mem_bytes=2 * largest)
    run(reading.reduce_manifests(repo._state.assets, files, limits, lambda _: None))
    smallest = sorted(files.size_bytes.tolist())
    allowed = next(n for n in range(31) if sum(smallest[: n + 1]) > 2 * largest)
    assert 2 <= storage.most["manifests"] <= allowed


def test_a_manifest_larger_than_the_limits_is_read_alone() -> None:
    storage, repo, files = made()
    limits = ReadLimits(max_compressed_manifest_mem_bytes=1, max_decoded_manifest_mem_bytes=1)
    seen: list[Any] = []
    run(reading.reduce_manifests(repo._state.assets, files, limits, seen.append))
    assert len(seen) == 30
    assert storage.most["manifests"] == 1


def test_the_limit_on_decoded_bytes_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    _, repo, files = made()
    monkeypatch.setattr(reading, "_DECODE_INLINE_BYTES", 0)  # every one in a thread
    inside, most, lock = 0, 0, threading.Lock()
    gate = threading.Semaphore(0)

    def use(_: Any) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.acquire(timeout=0.01)
        with lock:
            inside -= 1

    unlimited = ReadLimits()
    run(reading.reduce_manifests(repo._state.assets, files, unlimited, use))
    assert most > 1
    most = 0
    limits = ReadLimits(max_decoded_manifest_mem_bytes=1)
    run(reading.reduce_manifests(repo._state.assets, files, limits, use))
    assert most == 1


def test_a_budget_is_held_to_and_first_come_first_served() -> None:
    async def main() -> None:
        budget, used, most, order = Budget(10), 0, 0, []

        async def one(n: int, amount: int) -> None:
            nonlocal used, most
            async with budget.holding(amount):
                order.append(n)
                used += min(amount, 10)
                most = max(most, used)
                await asyncio.sleep(0)
                used -= min(amount, 10)

        rng = random.Random(3)
        await asyncio.gather(*(one(n, rng.choice([1, 3, 9, 25])) for n in range(200)))
        assert (used, most, order) == (0, 10, sorted(order))
        # A waiter that is cancelled, before or after it was let in, takes nothing away.
        async with budget.holding(10):
            waiting = [asyncio.create_task(one(n, 10)) for n in range(3)]
            await asyncio.sleep(0)
            waiting[1].cancel()
        waiting[0].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        async with asyncio.timeout(1), budget.holding(10):
            pass

    asyncio.run(main())


@pytest.mark.parametrize("parallel", [None, 1, 5])
@pytest.mark.parametrize("in_parts", [False, True])
def test_the_limits_on_deletes_and_listings_hold(parallel: int | None, in_parts: bool) -> None:
    inner = ic.in_memory_storage()
    ids = [new_object_id() for _ in range(6500)]

    async def fill() -> None:
        for object_id in ids:
            await inner.put(f"chunks/{id_text(object_id)}", b"12345")

    run(fill())
    keep = KeySet()
    keep.add(id_column(ids[:500]))
    storage = SlowStorage(inner)
    limits = SweepLimits(max_concurrent_deletes=2, max_concurrent_listings=parallel)
    sweep = Sweep(
        storage, "chunks/", keep.holds, 2**62, limits, dry_run=False, advance=lambda _: None
    )
    swept = run(sweep.run(in_parts=in_parts))
    assert (swept.objects, swept.size_bytes, swept.failed) == (6000, 30_000, 0)
    assert {key for key, _ in inner.list_objects()} == {f"chunks/{id_text(i)}" for i in ids[:500]}
    assert storage.most["delete"] <= 2
    assert in_parts or storage.most["delete"] == 2
    assert len(storage.prefixes) == (32 if in_parts else 1)
    assert storage.most["list"] <= (parallel or 32)


def test_ids_of_names_are_what_one_by_one_gives() -> None:
    ids = [new_object_id() for _ in range(300)] + [bytes(12), b"\xff" * 12]
    good = [id_text(raw) for raw in ids]
    bad = [
        "",
        "README",
        "x" * 20,
        "0" * 19,
        "0" * 21,
        "É" * 20,
        good[0].lower(),
        "Z" * 20,
        "0" * 18 + "0I",
    ]
    names = good + bad
    order = list(range(len(names)))
    random.Random(1).shuffle(order)
    columns, valid = ids_of_names([names[i] for i in order])
    for row, i in enumerate(order):
        assert bool(valid[row]) == (i < len(good)), names[i]
        if i < len(good):
            assert columns[row].tobytes() == ids[i]
    assert ids_of_names([])[0].shape == (0, 12)


@pytest.mark.parametrize("width", [12, 32])
def test_a_key_set_is_a_set(width: int) -> None:
    rng = np.random.default_rng(5)
    keys, model = KeySet(width), set()
    for _ in range(60):
        rows = rng.integers(0, 2, (int(rng.integers(0, 40)), width), np.uint8)
        rows[:, 4:] = 0  # many are equal, and many end with zeros
        new = keys.add(rows)
        expected = set()
        for row, is_new in zip(rows, new, strict=True):
            raw = row.tobytes()
            assert not (is_new and (raw in model or raw in expected))
            expected.add(raw)
        assert int(new.sum()) == len(expected - model)
        model |= expected
        assert len(keys) == len(model)
        probe = rng.integers(0, 2, (20, width), np.uint8)
        assert keys.holds(probe).tolist() == [row.tobytes() in model for row in probe]
    assert len(keys._runs) < 8
