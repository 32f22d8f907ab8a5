"""What the chunks of an array are, in columns: as the official package gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import icechunk as ic
from tests.peer import run_peer

if TYPE_CHECKING:
    from pathlib import Path

READ = """
import asyncio, json, sys
import icechunk as ic

repo = ic.Repository.open(ic.local_filesystem_storage(sys.argv[1]))
store = repo.readonly_session("main").store

async def columns(path, size):
    found = []
    batches = store.array_chunk_iterator(path, size)
    async for coords, kinds, paths, offsets, lengths, inlined in batches:
        found += [
            [c, int(k), p, int(o), int(n), inlined.get(i, b"").hex()]
            for i, (c, k, p, o, n) in enumerate(
                zip(coords.tolist(), kinds, paths, offsets, lengths)
            )
        ]
        types = [str(coords.dtype), str(kinds.dtype), str(offsets.dtype), str(lengths.dtype)]
        found.append([type(paths).__name__, len(paths), list(coords.shape), *types])
    return found

async def all_of_them():
    return {f"{p} {n}": await columns(p, n) for p in ("a", "/b", "z", "e") for n in (100000, 2)}

print(json.dumps(asyncio.run(all_of_them())))
"""


def filled(folder: Path) -> ic.Repository:
    prefix = folder.as_uri() + "/"
    config = ic.RepositoryConfig.default()
    here = ic.local_filesystem_store(str(folder))
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(prefix, here))
    named = ic.VirtualChunkContainer(prefix + "n/", here, name="nm")
    config.set_virtual_chunk_container(named)
    repo = ic.Repository.create(ic.local_filesystem_storage(str(folder / "repo")), config)
    repo.save_config()
    with repo.transaction("main", message="filled") as store:
        root = zarr.create_group(store)
        plain: dict[str, Any] = {"dtype": "f8", "compressors": None}
        root.create_array("a", shape=(12, 4), chunks=(2, 2), **plain)[:2] = 1
        root.create_array("b", shape=(3000,), chunks=(1000,), **plain)[1000:] = 2
        root.create_array("z", shape=(), **plain)[...] = 3
        root.create_array("e", shape=(4,), chunks=(2,), **plain)
        store.set_virtual_ref("a/c/3/1", prefix + "é x.bin", offset=5, length=10)
        store.set_virtual_ref("a/c/4/0", "vcc://nm/y.bin", offset=6, length=11)
    return repo


async def columns(store: ic.IcechunkStore, path: str, size: int) -> list[Any]:
    found: list[Any] = []
    async for coords, kinds, paths, offsets, lengths, inlined in store.array_chunk_iterator(
        path, size
    ):
        found += [
            [c, int(k), p, int(o), int(n), inlined.get(i, b"").hex()]
            for i, (c, k, p, o, n) in enumerate(
                zip(coords.tolist(), kinds, paths, offsets, lengths, strict=True)
            )
        ]
        types = [str(coords.dtype), str(kinds.dtype), str(offsets.dtype), str(lengths.dtype)]
        found.append([type(paths).__name__, len(paths), list(coords.shape), *types])
    return found


@pytest.mark.peer
def test_the_columns_are_those_of_the_official_package(tmp_path: Path) -> None:
    repo = filled(tmp_path)
    store = repo.readonly_session("main").store
    ours = {
        f"{path} {size}": sync(columns(store, path, size))
        for path in ("a", "/b", "z", "e")
        for size in (100_000, 2)
    }
    assert ours == run_peer(READ, tmp_path / "repo")


def test_columns_of_a_session_with_changes(tmp_path: Path) -> None:
    repo = filled(tmp_path)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="b", mode="r+")[:1000] = 1
    sync(session.store.delete("b/c/2"))
    rows = {tuple(row[0]): row for row in sync(columns(session.store, "b", 9)) if len(row) == 6}
    assert set(rows) == {(0,), (1,)}
    assert rows[0,][1] == ic.ChunkType.native
    assert np.array([1], np.uint8) == ic.ChunkType.native
    prefix = tmp_path.as_uri() + "/"
    names = [row[2] for row in sync(columns(session.store, "a", 9)) if row[1] == 2]
    assert names == [prefix + "%C3%A9%20x.bin", prefix + "n/y.bin"]


def test_what_is_no_array_or_no_batch_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path).readonly_session("main").store
    with pytest.raises(ic.NodeNotFoundError):
        sync(columns(store, "nope", 10))
    with pytest.raises(ic.InvalidInputError, match="group"):
        sync(columns(store, "", 10))
    with pytest.raises(ic.InvalidInputError, match="at least 1"):
        sync(columns(store, "a", 0))
