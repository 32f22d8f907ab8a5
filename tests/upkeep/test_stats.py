"""What the chunks of a repository take, as the official package counts it."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import zarr

import icechunk as ic
from icechunk.ops.stats import ChunkStorageStats
from tests.format.golden import REPOSITORIES, unpack

if TYPE_CHECKING:
    from pathlib import Path


def stats(native: int, virtual: int, inlined: int) -> ChunkStorageStats:
    return ChunkStorageStats(native_bytes=native, virtual_bytes=virtual, inlined_bytes=inlined)


@pytest.mark.parametrize("compressed", [False, True])
def test_each_chunk_counts_once(tmp_path: Path, compressed: bool) -> None:
    (tmp_path / "f").write_bytes(bytes(100_000))
    prefix = f"file://{tmp_path}/"
    config = ic.RepositoryConfig.default()
    if compressed:
        config.manifest = ic.ManifestConfig(
            virtual_chunk_location_compression=ic.ManifestVirtualChunkLocationCompressionConfig(
                min_num_chunks=1
            )
        )
    config.set_virtual_chunk_container(
        ic.VirtualChunkContainer(prefix, ic.local_filesystem_store(str(tmp_path)))
    )
    repo = ic.Repository.create(ic.in_memory_storage(), config)
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    for name, size in (("a", 4000), ("b", 40), ("v", 4000)):
        array = root.create_array(
            name, shape=(size,), chunks=(size // 4,), dtype="f8", compressors=None
        )
        if name != "v":
            array[:] = 1
    for key, offset in (("v/c/0", 0), ("v/c/1", 0), ("v/c/2", 4000)):
        session.store.set_virtual_ref(key, f"{prefix}f", offset=offset, length=8000)
    first = session.commit("1")
    assert repo.chunk_storage_stats() == stats(32_000, 16_000, 320)
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    root["a"][:1000] = 2
    root["b"][:10] = 2
    session.store.set_virtual_ref("v/c/3", f"{prefix}f", offset=4000, length=100)
    session.commit("2")
    expected = stats(40_000, 16_100, 640)
    assert repo.chunk_storage_stats() == expected
    assert repo.chunk_storage_stats(max_decoded_manifest_mem_bytes=1) == expected
    with pytest.warns(DeprecationWarning, match="chunk_storage_stats"):
        assert repo.total_chunks_storage() == 40_000
    repo.reset_branch("main", first)
    assert repo.chunk_storage_stats() == stats(32_000, 16_000, 320)


def test_sums_and_forms() -> None:
    some = stats(1, 20, 300)
    assert (some.total_bytes(), some.non_virtual_bytes()) == (321, 301)
    assert some + some == stats(2, 40, 600)
    assert str(some).splitlines() == [
        "<icechunk.stats.ChunkStorageStats>",
        "native_bytes: 1",
        "virtual_bytes: 20",
        "inlined_bytes: 300",
    ]
    assert "&lt;" in some._repr_html_()
    assert pickle.loads(pickle.dumps(some)) == some
    with pytest.raises(TypeError):
        some + 1  # type: ignore[operator]


@pytest.mark.parametrize("name", [name for name in REPOSITORIES if name.startswith("v2")])
def test_golden(name: str, tmp_path: Path) -> None:
    folder, said = unpack(name, tmp_path)
    repo = ic.Repository.open(ic.local_filesystem_storage(str(folder)))
    found: Any = repo.chunk_storage_stats()
    assert {key: getattr(found, key) for key in said["chunk_storage_stats"]} == said[
        "chunk_storage_stats"
    ]
