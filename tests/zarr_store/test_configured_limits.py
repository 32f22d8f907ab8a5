"""Options of a configuration that say how much is done at once, or kept: they act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import icechunk as ic
from icechunk.assets import manager
from tests.upkeep.test_limits import SlowStorage
from tests.zarr_store.test_partial_reads import CountingStorage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CHUNKS = 12
CHUNK_BYTES = 8_000
PARTS = [(f"a/c/{i}", None) for i in range(CHUNKS)]


def made() -> ic.Storage:
    """Return a place with an array of 12 chunks, each an object, in 12 manifests."""
    storage = ic.in_memory_storage()
    each = {ic.ManifestSplitCondition.AnyArray(): {ic.ManifestSplitDimCondition.Any(): 1}}
    splitting = ic.ManifestSplittingConfig.from_dict(each)
    config = ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=splitting))
    repo = ic.Repository.create(storage, config)
    repo.save_config()
    with repo.transaction("main", message="data") as store:
        array = zarr.create_array(
            store, name="a", shape=CHUNKS * 1000, chunks=1000, dtype="f8", compressors=None
        )
        array[:] = np.arange(CHUNKS * 1000)
    assert len(repo.list_manifest_files(repo.lookup_branch("main"))) == CHUNKS
    return storage


def read_all(repo: ic.Repository) -> None:
    store = repo.readonly_session("main").store
    values = sync(store.get_partial_values(default_buffer_prototype(), PARTS))
    assert [len(value) for value in values if value is not None] == [CHUNK_BYTES] * CHUNKS


@pytest.mark.parametrize("most", [1, 3])
def test_requests_of_one_call_for_many_parts(most: int) -> None:
    storage = SlowStorage(made())
    read_all(ic.Repository.open(storage, ic.RepositoryConfig(get_partial_values_concurrency=most)))
    assert storage.most["chunks"] == most


@pytest.mark.parametrize("most", [1, 3, None])
def test_manifests_read_by_a_commit(most: int | None) -> None:
    storage = SlowStorage(made())
    manifest = ic.ManifestConfig(
        preload=ic.ManifestPreloadConfig(max_total_refs=0),
        max_concurrent_manifest_fetches_during_commit=most,
    )
    repo = ic.Repository.open(storage, ic.RepositoryConfig(manifest=manifest))
    repo.rewrite_manifests("anew", branch="main")
    assert storage.most["manifests"] == (most or CHUNKS)


@pytest.mark.parametrize("most", [1, 3])
def test_metadata_files_decoded_in_parallel(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = SlowStorage(made())
    in_thread: Callable[[Callable[[], Any]], Awaitable[Any]] = manager.in_thread

    async def watched(parse: Callable[[], Any]) -> Any:
        await storage._busy("decodes")
        return await in_thread(parse)

    monkeypatch.setattr(manager, "in_thread", watched)
    monkeypatch.setattr(manager, "_DECODE_INLINE_BYTES", 0)
    read_all(ic.Repository.open(storage, ic.RepositoryConfig(max_concurrent_decodes=most)))
    assert storage.most["decodes"] == most


@pytest.mark.parametrize(
    ("kept_bytes", "second"), [(0, 12), (CHUNKS * CHUNK_BYTES, 0), (3 * CHUNK_BYTES, 12)]
)
def test_chunks_kept_in_memory(kept_bytes: int, second: int) -> None:
    storage = CountingStorage(made())
    caching = ic.CachingConfig(num_bytes_chunks=kept_bytes)
    repo = ic.Repository.open(storage, ic.RepositoryConfig(caching=caching))

    for expected in (CHUNKS, second):  # sessions of one repository share what is kept
        array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
        storage.reads.clear()
        for i in range(CHUNKS):
            assert array[i * 1000 + 1] == i * 1000 + 1
        assert sum(key.startswith("chunks/") for key, *_ in storage.reads) == expected
    storage.reads.clear()
    assert array[-1] == CHUNKS * 1000 - 1
    assert bool(storage.reads) is not bool(kept_bytes)
