"""What the caches of decoded objects keep: bounded by number and by memory, weighed as they are."""

from __future__ import annotations

import gc
import os
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

import icechunk
from icechunk.assets import weights
from icechunk.assets.cache import Weight, WeightedCache
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.manifest import Manifest, encode_manifest, parse_manifest
from icechunk.format.node import DimensionShape, ManifestRefs, NodeKind, NodeSnapshot
from icechunk.format.ragged import Ragged
from icechunk.format.snapshot import (
    ManifestFiles,
    NodeTable,
    Snapshot,
    encode_snapshot,
    parse_snapshot,
)
from icechunk.format.transaction_log import TransactionLog
from icechunk.ids import NodeId, new_object_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NODE = NodeId(b"abcdefgh")


def cache(max_count: int, bytes_each: int) -> WeightedCache[str, bytes]:
    """Return a cache of strings that count for one each and take what they are long."""
    return WeightedCache(max_count, bytes_each, lambda value: Weight(1, len(value)))


def native_table(n: int) -> ChunkTable:
    coords = np.zeros((n, 3), np.uint32)
    coords[:, 0] = np.arange(n)
    ids = np.frombuffer(os.urandom(12 * n), np.uint8)
    return ChunkTable.native(coords, ids, np.full(n, 100, np.uint64))


def manifest_of(table: ChunkTable) -> Manifest:
    return Manifest(id=new_object_id(), arrays=((NODE, table),))


def snapshot_of(count: int, manifests: int) -> Snapshot:
    nodes = [
        NodeSnapshot(
            id=NodeId(os.urandom(8)),
            path=f"/g/array{number}",
            user_data=os.urandom(1000),
            kind=NodeKind.ARRAY,
            shape=(DimensionShape(array_length=10, num_chunks=10),) * 3,
            dimension_names=("a", "b", "c"),
            manifests=ManifestRefs.of(
                [new_object_id() for _ in range(manifests)],
                [np.zeros((3, 2), np.uint32)] * manifests,
                3,
            ),
        )
        for number in range(count)
    ]
    return Snapshot(
        id=new_object_id(),
        parent_id=None,
        flushed_at_us=1,
        message="made",
        nodes=NodeTable.of(nodes),
        manifest_files=ManifestFiles.empty(),
    )


def memory_of(make: Callable[[], object], times: int = 10) -> float:
    """Return how much memory what a function makes takes, on average; unit: bytes."""
    make()
    gc.collect()
    tracemalloc.start()
    kept = [make() for _ in range(times)]
    gc.collect()
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / len(kept)


def test_the_least_recently_used_values_make_room_for_number_and_for_memory() -> None:
    kept = cache(4, 10)
    for key in "abcd":
        kept.put(key, b"12345")
    kept.get("a")
    kept.put("e", b"12345")
    assert kept.get("b") is None
    assert kept.get("a") == b"12345"
    kept.put("f", b"x" * 30)  # 20 + 30 bytes are more than the 40 there are
    assert kept.get("f") is not None
    assert kept.weight == Weight(3, 40)
    kept.put("f", b"y")  # in the place of the other value
    assert kept.weight == Weight(3, 11)


def test_a_value_larger_than_the_memory_of_all_is_kept_alone() -> None:
    kept = cache(4, 10)
    kept.put("a", b"1")
    kept.put("b", b"x" * 1000)
    assert (len(kept), kept.get("a")) == (1, None)
    assert kept.get("b") is not None
    kept.put("c", b"1")
    assert (len(kept), kept.weight) == (1, Weight(1, 1))


def test_a_cache_of_nothing_keeps_nothing() -> None:
    kept = cache(0, 10)
    kept.put("a", b"")
    assert (len(kept), kept.weight) == (0, Weight(0, 0))


@pytest.mark.parametrize("references", [1, 1000])
def test_manifests_weigh_what_they_take(references: int) -> None:
    def written() -> Manifest:
        return manifest_of(native_table(references).indexed())

    def read() -> Manifest:
        manifest = parse_manifest(encode_manifest(written()), key="manifests/X")
        manifest.arrays[0][1].indexed()
        return manifest

    for make in (written, read):
        weight = weights.manifest_weight(make())
        assert weight.units == references
        assert weight.size_bytes == pytest.approx(memory_of(make), rel=0.5)


@pytest.mark.parametrize(("count", "manifests"), [(1, 1), (4, 100), (200, 1)])
def test_snapshots_weigh_what_they_take_once_all_nodes_are_decoded(
    count: int, manifests: int
) -> None:
    def read() -> Snapshot:
        snapshot = parse_snapshot(encode_snapshot(snapshot_of(count, manifests)), key="snapshots/X")
        assert len(list(snapshot.nodes)) == count
        return snapshot

    weight = weights.snapshot_weight(read())
    assert weight.units == count
    assert weight.size_bytes == pytest.approx(memory_of(read, 5), rel=0.5)


def test_transaction_logs_count_nodes_and_chunks() -> None:
    log = TransactionLog(
        id=new_object_id(),
        new_arrays=frozenset({NODE}),
        updated_groups=frozenset({NODE}),
        updated_chunks={NODE: np.zeros((10, 3), np.uint32)},
    )
    weight = weights.log_weight(log)
    assert weight.units == 12
    assert weight.size_bytes > 120


def test_a_manifest_that_is_kept_does_not_keep_the_columns_of_all_others() -> None:
    n = 10_000
    native = native_table(n)
    locations = [b"s3://bucket/some/long/prefix/%08d.nc" % number for number in range(n)]
    zeros = np.zeros(n, np.uint64)
    virtual = ChunkTable.virtual(native.coords, Ragged.from_list(locations), zeros, zeros + 7)
    for table in (native, virtual):
        part = manifest_of(table.take(slice(100, 200)))
        own = weights.on_its_own(part)
        assert own.arrays[0][1] == part.arrays[0][1]
        assert weights.manifest_weight(part).size_bytes > n * 20
        assert weights.manifest_weight(own).size_bytes < 100 * 150 + 3072
        whole = manifest_of(table)
        assert weights.on_its_own(whole).arrays[0][1].coords is table.coords


def test_many_small_commits_keep_the_caches_within_their_limits(tmp_path: Path) -> None:
    sizes = icechunk.CachingConfig(
        num_snapshot_nodes=100, num_chunk_refs=500, num_transaction_changes=50
    )
    config = icechunk.RepositoryConfig(caching=sizes, inline_chunk_threshold_bytes=0)
    storage = icechunk.local_filesystem_storage(str(tmp_path))
    repo = icechunk.Repository.create(storage, config)
    session = repo.writable_session("main")
    array = zarr.create_array(session.store, shape=(300,), chunks=(1,), dtype="i4")
    session.commit("an array")
    caches = [getattr(repo._state.assets, name) for name in ("_snapshots", "_manifests", "_logs")]
    limits = [(100, 512), (500, 48), (50, 64)]
    for number in range(300):
        session = repo.writable_session("main")
        array = zarr.open_array(session.store)
        array[number] = number
        session.commit(f"step {number}")
        for cached, (most, bytes_each) in zip(caches, limits, strict=True):
            assert cached.weight.units <= most
            assert cached.weight.size_bytes <= most * bytes_each or len(cached) == 1
    # Their weights are those of what they hold, also after all that made room.
    for cached in caches:
        assert cached.weight.units == sum(w.units for _, w in cached._items.values())
        assert cached.weight.size_bytes == sum(w.size_bytes for _, w in cached._items.values())
    assert all(0 < len(cached) < 30 for cached in caches)
    values = zarr.open_array(repo.readonly_session("main").store, mode="r")[:]
    np.testing.assert_array_equal(values, np.arange(300))
