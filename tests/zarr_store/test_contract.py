"""zarr's own tests of a store, over memory, local files and S3.

They set and get keys and values that no Zarr hierarchy has (``foo``, ``c/0`` without an array, a
``zarr.json`` of three letters), and a store over a session refuses those. Each test that does is
overridden here with Zarr keys, and asks the same; `OVERRIDDEN` has the reasons. All others run as
they come with the installed zarr.
"""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import pytest
import zarr
from zarr.abc.store import (
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.testing.store import StoreTests

import icechunk as ic
from icechunk._io.loop import on_io_thread
from icechunk.chunk_reads import read_chunk
from tests.s3_server import S3Server
from tests.zarr_store.nodes import array_document, buffer, group_document, with_array_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from zarr.abc.store import ByteRequest

PROTOTYPE = default_buffer_prototype()
DATA = b"\x01\x02\x03\x04"

_KEYS = "its keys are no Zarr keys"
_DOCUMENTS = "its documents are no Zarr metadata"
_EMPTY = "its chunks are empty, and a chunk has at least one byte"
_OPEN = "a store is open as long as its session"
_REFUSAL = "refusals are the package's own errors"
OVERRIDDEN = {
    "test_clear": _KEYS,
    "test_delete": _DOCUMENTS,
    "test_delete_dir": _DOCUMENTS,
    "test_delete_sync": _KEYS,
    "test_delete_sync_missing": _KEYS,
    "test_delete_sync_visible_to_async_get": _KEYS,
    "test_delete_nonexistent_key_does_not_raise": _KEYS,
    "test_exists": _KEYS,
    "test_get": f"{_KEYS}; {_EMPTY}",
    "test_get_bytes": _KEYS,
    "test_get_bytes_sync": _KEYS,
    "test_get_json": _KEYS,
    "test_get_json_sync": _KEYS,
    "test_get_many": _KEYS,
    "test_get_not_open": f"{_KEYS}; {_OPEN}",
    "test_get_partial_values": _KEYS,
    "test_get_raises": _REFUSAL,
    "test_get_sync": _KEYS,
    "test_get_sync_byte_range_parity": f"{_KEYS}; {_REFUSAL}",
    "test_get_sync_missing": _KEYS,
    "test_getsize": f"{_KEYS}; {_EMPTY}",
    "test_getsize_prefix": _KEYS,
    "test_getsize_raises": _REFUSAL,
    "test_is_empty": _KEYS,
    "test_list": _EMPTY,
    "test_list_dir": _KEYS,
    "test_list_empty_path": _EMPTY,
    "test_list_prefix": _DOCUMENTS,
    "test_read_only_store_raises": _REFUSAL,
    "test_serializable_store": _KEYS,
    "test_set": f"{_KEYS}; {_EMPTY}",
    "test_set_if_not_exists": _KEYS,
    "test_set_many": f"{_KEYS}; {_DOCUMENTS}",
    "test_set_not_open": f"{_KEYS}; {_OPEN}",
    "test_set_sync": _KEYS,
    "test_sync_async_set_get_parity": _KEYS,
    "test_with_read_only_store": f"{_OPEN}; {_REFUSAL}",
}
_ABSTRACT = {"test_store_repr", "test_store_supports_writes", "test_store_supports_listing"}

RANGES = [
    (None, DATA),
    (RangeByteRequest(1, 4), DATA[1:4]),
    (OffsetByteRequest(1), DATA[1:]),
    (SuffixByteRequest(1), DATA[-1:]),
]


@pytest.fixture(scope="module")
def s3_server() -> Iterator[S3Server]:
    with S3Server.running() as server:
        yield server


async def collected(keys: AsyncIterator[str]) -> list[str]:
    return sorted([key async for key in keys])


class Contract(StoreTests[ic.IcechunkStore, cpu.Buffer]):
    store_cls = ic.IcechunkStore
    buffer_cls = cpu.Buffer

    # -- what every subclass of zarr's tests gives ---------------------------------------------

    @pytest.fixture
    def store_kwargs(self, storage: ic.Storage) -> dict[str, Any]:
        repo = ic.Repository.create(storage)
        return {"store": repo.writable_session("main"), "read_only": False}

    async def set(self, store: ic.IcechunkStore, key: str, value: Buffer) -> None:
        """Set a chunk below the store, and make the array it needs."""
        parsed = with_array_for(store, key)
        await store.session.checkout.write_chunk(parsed.path, parsed.coord, value.to_bytes())

    async def get(self, store: ic.IcechunkStore, key: str) -> Buffer:
        """Read a chunk below the store, by the reference the session has."""
        parsed = with_array_for(store, key)
        data = await read_chunk(store.session.checkout, parsed.path, parsed.coord)
        assert data is not None
        return buffer(data)

    def test_store_repr(self, store: ic.IcechunkStore) -> None:
        assert repr(store).startswith("<icechunk.IcechunkStore>\nread_only: False\n")
        assert str(store) == repr(store)

    def test_store_supports_writes(self, store: ic.IcechunkStore) -> None:
        assert store.supports_writes
        assert store.supports_deletes

    def test_store_supports_listing(self, store: ic.IcechunkStore) -> None:
        assert store.supports_listing

    # -- opening --------------------------------------------------------------------------------

    async def test_serializable_store(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        copy = pickle.loads(pickle.dumps(store))
        # A writable session travels as a fork of itself, so that is what the copy is over.
        assert copy.read_only == store.read_only
        assert (await copy.get("foo/c/0", PROTOTYPE)).to_bytes() == DATA
        store.session.commit("done")
        assert pickle.loads(pickle.dumps(store)) == store
        assert pickle.loads(pickle.dumps(store)).read_only

    async def test_get_not_open(self, store_not_open: ic.IcechunkStore) -> None:
        assert store_not_open._is_open
        await self.set(store_not_open, "foo/c/0", buffer(DATA))
        got = await store_not_open.get("foo/c/0", PROTOTYPE)
        assert got is not None
        assert got.to_bytes() == DATA

    async def test_set_not_open(self, store_not_open: ic.IcechunkStore) -> None:
        with_array_for(store_not_open, "foo/c/0")
        await store_not_open.set("foo/c/0", buffer(DATA))
        assert (await self.get(store_not_open, "foo/c/0")).to_bytes() == DATA

    async def test_read_only_store_raises(self, open_kwargs: dict[str, Any]) -> None:
        store = await self.store_cls.open(**{**open_kwargs, "read_only": True})
        await self._refuses_writes(store)

    async def _refuses_writes(self, store: ic.IcechunkStore) -> None:
        assert store.read_only
        with pytest.raises(ic.ReadOnlyError) as refused:
            await store.set("zarr.json", buffer(group_document()))
        assert refused.value.kind == "read-only-store"
        for method in (store.delete, store.delete_dir):
            with pytest.raises(ic.ReadOnlyError):
                await method("zarr.json")
        for call in (store.set_if_not_exists("k", buffer(b"")), store.clear()):
            with pytest.raises(ic.ReadOnlyError):
                await call
        with pytest.raises(ic.ReadOnlyError):
            store.set_sync("zarr.json", buffer(group_document()))
        with pytest.raises(ic.ReadOnlyError):
            store.delete_sync("zarr.json")
        with pytest.raises(ic.ReadOnlyError):
            store.sync_clear()

    async def test_with_read_only_store(self, open_kwargs: dict[str, Any]) -> None:
        store = await self.store_cls.open(**{**open_kwargs, "read_only": True})
        writer = store.with_read_only(read_only=False)
        assert not writer.read_only
        await writer.set("foo/zarr.json", buffer(group_document()))
        assert await store.exists("foo/zarr.json")
        await self._refuses_writes(store)
        await self._refuses_writes(store.with_read_only(read_only=True))
        await writer.delete("foo/zarr.json")
        assert not await store.exists("foo/zarr.json")

    async def test_what_a_read_only_session_refuses_no_store_allows(
        self, store: ic.IcechunkStore
    ) -> None:
        await store.set("zarr.json", buffer(group_document()))
        store.session.commit("done")
        assert store.read_only
        await self._refuses_writes(store.with_read_only(read_only=False))

    # -- reading --------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ["foo/c/0", "foo/bar/c/0/7", "scalar/c"])
    @pytest.mark.parametrize(("byte_range", "expected"), RANGES)
    async def test_get(
        self, store: ic.IcechunkStore, key: str, byte_range: ByteRequest | None, expected: bytes
    ) -> None:
        await self.set(store, key, buffer(DATA))
        got = await store.get(key, PROTOTYPE, byte_range)
        assert got is not None
        assert got.to_bytes() == expected
        # As an object of its own, too; so far it was in the change set.
        large = DATA * 1_000
        await self.set(store, key, buffer(large))
        got = await store.get(key, PROTOTYPE, byte_range)
        assert got is not None
        match byte_range:
            case SuffixByteRequest():
                assert got.to_bytes() == large[-1:]
            case OffsetByteRequest():
                assert got.to_bytes() == large[1:]
            case RangeByteRequest():
                assert got.to_bytes() == large[1:4]
            case None:
                assert got.to_bytes() == large

    async def test_get_raises(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        with pytest.raises(ValueError, match="not a byte range") as refused:
            await store.get("foo/c/0", PROTOTYPE, (0, 2))  # type: ignore[arg-type]
        assert isinstance(refused.value, ic.InvalidInputError)

    async def test_get_many(self, store: ic.IcechunkStore) -> None:
        keys = [f"foo/c/{n}" for n in range(10)]
        for key in keys:
            await self.set(store, key, buffer(key.encode()))
        requests = [(key, PROTOTYPE, None) for key in keys]
        got = {key: value async for key, value in store._get_many(requests)}
        assert {key: value.to_bytes() for key, value in got.items() if value is not None} == {
            key: key.encode() for key in keys
        }

    if hasattr(Store, "_get_bytes"):  # zarr 3.1 from 3.1.6 on, and 3.2 and 3.3

        async def test_get_bytes(self, store: ic.IcechunkStore) -> None:
            await self.set(store, "foo/c/0", buffer(DATA))
            assert await store._get_bytes("foo/c/0", prototype=PROTOTYPE) == DATA
            with pytest.raises(FileNotFoundError):
                await store._get_bytes("foo/c/1", prototype=PROTOTYPE)

        def test_get_bytes_sync(self, store: ic.IcechunkStore) -> None:
            sync(self.set(store, "foo/c/0", buffer(DATA)))
            assert store._get_bytes_sync("foo/c/0", prototype=PROTOTYPE) == DATA

        async def test_get_json(self, store: ic.IcechunkStore) -> None:
            await store.set("zarr.json", buffer(group_document({"a": 1})))
            got = await store._get_json("zarr.json", prototype=PROTOTYPE)
            assert got["attributes"] == {"a": 1}

        def test_get_json_sync(self, store: ic.IcechunkStore) -> None:
            sync(store.set("zarr.json", buffer(group_document({"a": 1}))))
            got = store._get_json_sync("zarr.json", prototype=PROTOTYPE)
            assert got["attributes"] == {"a": 1}

    @pytest.mark.parametrize(
        "key_ranges",
        [
            [],
            [("foo/zarr.json", RangeByteRequest(0, 2))],
            [("foo/c/0", RangeByteRequest(0, 2)), ("foo/zarr.json", None)],
            [
                ("foo/c/0", RangeByteRequest(0, 2)),
                ("foo/c/1", SuffixByteRequest(2)),
                ("foo/c/2", OffsetByteRequest(2)),
                ("foo/c/0", SuffixByteRequest(1)),
                ("foo/c/0", None),
            ],
        ],
    )
    async def test_get_partial_values(
        self, store: ic.IcechunkStore, key_ranges: list[tuple[str, ByteRequest | None]]
    ) -> None:
        for key in ("foo/c/0", "foo/c/1", "foo/c/2"):
            await self.set(store, key, buffer(key.encode() * 300))
        got = await store.get_partial_values(PROTOTYPE, (pair for pair in key_ranges))
        single = [await store.get(key, PROTOTYPE, byte_range) for key, byte_range in key_ranges]
        assert None not in got
        assert [g.to_bytes() for g in got if g] == [s.to_bytes() for s in single if s]
        assert await store.get_partial_values(PROTOTYPE, [("foo/c/9", None)]) == [None]

    async def test_exists(self, store: ic.IcechunkStore) -> None:
        assert not await store.exists("foo/zarr.json")
        assert not await store.exists("foo/c/0")
        await store.set("foo/zarr.json", buffer(array_document(1)))
        assert await store.exists("foo/zarr.json")
        assert not await store.exists("foo/c/0")
        await store.set("foo/c/0", buffer(DATA))
        assert await store.exists("foo/c/0")

    @pytest.mark.parametrize("key", ["foo/c/0", "foo/bar/c/0/7", "scalar/c"])
    @pytest.mark.parametrize("size", [1, 4, 5_000])
    async def test_getsize(self, store: ic.IcechunkStore, key: str, size: int) -> None:
        await self.set(store, key, buffer(b"x" * size))
        assert await store.getsize(key) == size

    async def test_getsize_prefix(self, store: ic.IcechunkStore) -> None:
        for key in ("foo/c/0/0", "foo/c/0/1", "foo/bar/c/1/0", "foo-bar/c/1/1", "foofoo/c"):
            await self.set(store, key, buffer(DATA))
        # Documents count as the values they are.
        assert await store.getsize_prefix("foo") == 3 * len(DATA) + 2 * len(array_document(2))
        assert await store.getsize_prefix("foo/bar/") == len(DATA) + len(array_document(2))

    async def test_getsize_raises(self, store: ic.IcechunkStore) -> None:
        for key in ("foo/c/1000", "foo/zarr.json"):
            with pytest.raises(ic.NodeNotFoundError):
                await store.getsize(key)

    # -- writing --------------------------------------------------------------------------------

    @pytest.mark.parametrize("key", ["foo/c/0", "foo/bar/c/0/7", "scalar/c"])
    @pytest.mark.parametrize("size", [1, 4, 5_000])
    async def test_set(self, store: ic.IcechunkStore, key: str, size: int) -> None:
        with_array_for(store, key)
        data = bytes(n % 251 for n in range(size))
        await store.set(key, buffer(data))
        assert (await self.get(store, key)).to_bytes() == data

    async def test_set_many(self, store: ic.IcechunkStore) -> None:
        values = {
            "zarr.json": group_document(),
            "foo/zarr.json": array_document(1),
            "foo/bar/zarr.json": array_document(2, {"a": 1}),
        }
        await store._set_many((key, buffer(value)) for key, value in values.items())
        chunks = {"foo/c/0": DATA, "foo/c/1": DATA * 2_000, "foo/bar/c/0/0": DATA}
        await store._set_many((key, buffer(value)) for key, value in chunks.items())
        for key, value in (values | chunks).items():
            got = await store.get(key, PROTOTYPE)
            assert got is not None
            assert got.to_bytes() == value

    async def test_set_if_not_exists(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(b"0000"))
        await store.set_if_not_exists("foo/c/0", buffer(b"1111"))
        await store.set_if_not_exists("foo/c/1", buffer(b"1111"))
        await store.set_if_not_exists("foo/zarr.json", buffer(b"not even looked at"))
        await store.set_if_not_exists("bar/zarr.json", buffer(group_document()))
        assert (await self.get(store, "foo/c/0")).to_bytes() == b"0000"
        assert (await self.get(store, "foo/c/1")).to_bytes() == b"1111"
        assert await store.exists("bar/zarr.json")

    # -- deleting -------------------------------------------------------------------------------

    async def test_delete(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        await self.set(store, "foo/c/1", buffer(DATA))
        await store.delete("foo/c/0")
        assert await collected(store.list()) == ["foo/c/1", "foo/zarr.json"]
        await store.delete("foo/zarr.json")
        assert await collected(store.list()) == []

    async def test_delete_dir(self, store: ic.IcechunkStore) -> None:
        await store.set("zarr.json", buffer(group_document()))
        await store.set("foo-bar/zarr.json", buffer(group_document()))
        await self.set(store, "foo/c/0", buffer(DATA))
        await store.delete_dir("foo")
        assert await collected(store.list()) == ["foo-bar/zarr.json", "zarr.json"]

    async def test_delete_nonexistent_key_does_not_raise(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        for key in ("bar/zarr.json", "bar/c/0", "foo/c/7"):
            await store.delete(key)
        assert await collected(store.list()) == ["foo/c/0", "foo/zarr.json"]

    async def test_clear(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        await store.clear()
        assert await store.is_empty("")
        await self.set(store, "foo/c/0", buffer(DATA))
        store.sync_clear()
        assert await store.is_empty("")

    # -- listing --------------------------------------------------------------------------------

    async def test_is_empty(self, store: ic.IcechunkStore) -> None:
        assert await store.is_empty("")
        await self.set(store, "foo/bar/c/0", buffer(DATA))
        for prefix in ("", "foo", "foo/", "foo/bar", "foo/bar/c", "foo/bar/c/0"):
            assert await store.is_empty(prefix) == (prefix == "foo/bar/c/0"), prefix
        for prefix in ("fo", "spam/", "foo/bar/c/1"):
            assert await store.is_empty(prefix)

    async def test_list(self, store: ic.IcechunkStore) -> None:
        assert await collected(store.list()) == []
        keys = [f"foo/c/{n}" for n in range(10)]
        for key in keys:
            await self.set(store, key, buffer(DATA))
        assert await collected(store.list()) == [*keys, "foo/zarr.json"]

    async def test_list_prefix(self, store: ic.IcechunkStore) -> None:
        keys = ["zarr.json", "a/zarr.json", "a/b/zarr.json", "a/b/c/zarr.json", "a-b/zarr.json"]
        for key in keys:
            await store.set(key, buffer(group_document()))
        for prefix in ("", "a/", "a/b/", "a/b/c/"):
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert await collected(store.list_prefix(prefix)) == expected

    async def test_list_empty_path(self, store: ic.IcechunkStore) -> None:
        for key in ("foo/bar/c/1", "foo/baz/c/0"):
            await self.set(store, key, buffer(DATA))
        bar = ["foo/bar/c/1", "foo/bar/zarr.json"]
        every = [*bar, "foo/baz/c/0", "foo/baz/zarr.json"]
        assert await collected(store.list()) == every
        assert await collected(store.list_prefix("")) == every
        assert await collected(store.list_prefix("foo/bar/")) == bar

    async def test_list_dir(self, store: ic.IcechunkStore) -> None:
        assert await collected(store.list_dir("")) == []
        assert await collected(store.list_dir("foo")) == []
        await store.set("foo/zarr.json", buffer(group_document()))
        for key in ("foo/bar/c/1/0", "foo/bar/c/1/3", "foo/baz/c/0"):
            await self.set(store, key, buffer(DATA))
        for slash in ("", "/"):
            assert await collected(store.list_dir(f"foo{slash}")) == ["bar", "baz", "zarr.json"]
            assert await collected(store.list_dir(f"foo/bar{slash}")) == ["c", "zarr.json"]
            assert await collected(store.list_dir(f"foo/bar/c{slash}")) == ["1"]
            assert await collected(store.list_dir(f"foo/bar/c/1{slash}")) == ["0", "3"]

    # -- without an event loop --------------------------------------------------------------------

    def test_get_sync(self, store: ic.IcechunkStore) -> None:
        sync(self.set(store, "foo/c/0", buffer(DATA * 1_000)))
        got = store.get_sync("foo/c/0")
        assert got is not None
        assert got.to_bytes() == DATA * 1_000

    def test_get_sync_missing(self, store: ic.IcechunkStore) -> None:
        for key in ("foo/c/0", "foo/zarr.json", ".zgroup"):
            assert store.get_sync(key) is None

    def test_set_sync(self, store: ic.IcechunkStore) -> None:
        store.set_sync("foo/zarr.json", buffer(array_document(1)))
        for data in (DATA, DATA * 1_000):
            store.set_sync("foo/c/0", buffer(data))
            assert sync(self.get(store, "foo/c/0")).to_bytes() == data

    def test_delete_sync(self, store: ic.IcechunkStore) -> None:
        sync(self.set(store, "foo/c/0", buffer(DATA)))
        store.delete_sync("foo/c/0")
        assert store.get_sync("foo/c/0") is None
        store.delete_sync("foo/zarr.json")
        assert store.get_sync("foo/zarr.json") is None

    def test_delete_sync_missing(self, store: ic.IcechunkStore) -> None:
        for key in ("foo/c/0", "foo/zarr.json", ".zgroup"):
            store.delete_sync(key)

    @pytest.mark.parametrize("direction", ["set_async_get_sync", "set_sync_get_async"])
    async def test_sync_async_set_get_parity(self, store: ic.IcechunkStore, direction: str) -> None:
        with_array_for(store, "foo/c/0")
        if direction == "set_async_get_sync":
            await store.set("foo/c/0", buffer(DATA))
            got = store.get_sync("foo/c/0")
        else:
            store.set_sync("foo/c/0", buffer(DATA))
            got = await store.get("foo/c/0", PROTOTYPE)
        assert got is not None
        assert got.to_bytes() == DATA

    async def test_delete_sync_visible_to_async_get(self, store: ic.IcechunkStore) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        store.delete_sync("foo/c/0")
        assert await store.get("foo/c/0", PROTOTYPE) is None

    @pytest.mark.parametrize("byte_range", [case[0] for case in RANGES])
    async def test_get_sync_byte_range_parity(
        self, store: ic.IcechunkStore, byte_range: ByteRequest | None
    ) -> None:
        await self.set(store, "foo/c/0", buffer(DATA))
        now = store.get_sync("foo/c/0", byte_range=byte_range)
        later = await store.get("foo/c/0", PROTOTYPE, byte_range)
        assert now is not None
        assert later is not None
        assert now.to_bytes() == later.to_bytes()
        past_the_end = RangeByteRequest(10, 20)
        with pytest.raises(ic.InvalidInputError):
            store.get_sync("foo/c/0", byte_range=past_the_end)
        with pytest.raises(ic.InvalidInputError):
            await store.get("foo/c/0", PROTOTYPE, past_the_end)

    @pytest.mark.parametrize("key", ["foo/c/0", "g/zarr.json"])
    async def test_what_is_no_buffer(self, store: ic.IcechunkStore, key: str) -> None:
        data: Any = b'{"zarr_format": 3, "node_type": "group"}'
        with pytest.raises(TypeError, match="from_bytes"):
            await store.set(key, data)
        with pytest.raises(TypeError, match="from_bytes"):
            await store.set_if_not_exists(key, data)
        assert not await store.exists(key)

    @pytest.mark.parametrize("shape", [(), (4,)])
    async def test_a_folder_of_no_chunks_is_nothing_to_delete(
        self, store: ic.IcechunkStore, shape: tuple[int, ...]
    ) -> None:
        array = zarr.create_array(
            store, name="z", shape=shape, chunks=(2,) * len(shape), dtype="i1"
        )
        chunk = "z/c" + "/0" * len(shape)
        zarr.create_group(store, path="g")
        for folder in (chunk, "z/c", "g/c", "g/c/0", "nothing/c"):
            await store.delete_dir(folder)
        assert store.session.status().updated_chunks == {}
        array[...] = 1
        await store.delete_dir(chunk)
        assert not await store.exists(chunk)


class TestInMemory(Contract):
    @pytest.fixture
    def storage(self) -> ic.Storage:
        return ic.in_memory_storage()


class TestLocal(Contract):
    @pytest.fixture
    def storage(self, tmp_path: Path) -> ic.Storage:
        return ic.local_filesystem_storage(str(tmp_path / "repo"))


class TestS3(Contract):
    @pytest.fixture
    def storage(self, s3_server: S3Server, tmp_path: Path) -> ic.Storage:
        return ic.s3_storage(**s3_server.options(prefix=f"{tmp_path.parent.name}{tmp_path.name}"))

    async def test_a_blocking_call_from_the_thread_it_would_wait_for_is_refused(
        self, store: ic.IcechunkStore
    ) -> None:
        async def call() -> None:
            store.get_sync("zarr.json")

        with pytest.raises(ic.SessionStateError, match="wait for itself"):
            await on_io_thread(call())


def test_only_those_named_are_overridden() -> None:
    """The table is complete, and every other test of zarr's runs as it is."""
    theirs = {name for name in vars(StoreTests) if name.startswith("test_")}
    own = {name for name in vars(Contract) if name in theirs} - _ABSTRACT
    of_some_version = {
        name
        for name in OVERRIDDEN
        if name not in theirs  # zarr before or after 3.2
    }
    assert own == set(OVERRIDDEN) - of_some_version
    assert len(theirs - own - _ABSTRACT) >= 5


@pytest.mark.parametrize("length", [4, 40])
async def test_a_key_of_another_rank_has_no_value(
    length: int,
) -> None:
    each = {ic.ManifestSplitCondition.AnyArray(): {ic.ManifestSplitDimCondition.Any(): 1}}
    splitting = ic.ManifestSplittingConfig.from_dict(each)
    config = ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=splitting))
    repo = ic.Repository.create(ic.in_memory_storage(), config)
    with repo.transaction("main", message="two dimensions") as target:
        zarr.create_array(target, name="z", shape=(length, 4), chunks=(2, 2), dtype="i1")[:] = 1
    for there in (repo.readonly_session("main").store, repo.writable_session("main").store):
        assert await there.exists("z/c/0/0")
        for key in ("z/c", "z/c/0", "z/c/0/0/0"):
            assert not await there.exists(key)
            assert await there.get(key, PROTOTYPE) is None
            assert await there.getsize(key) == 0
            assert await there.get_partial_values(PROTOTYPE, [(key, None)]) == [None]
