"""The zarr store over a session.

Source: Icechunk specification, section "Zarr store surface". Keys are parsed in `icechunk.paths`,
chunks and nodes are the checkout's; this module only answers zarr's questions in those terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from icechunk._io.loop import run_either
from icechunk.checkout import Checkout, RangeRequest, SessionMode
from icechunk.errors import (
    ErrorKind,
    InvalidInputError,
    NodeNotFoundError,
    ReadOnlyError,
    SessionStateError,
)
from icechunk.format.chunk_table import InlineRef
from icechunk.format.snapshot import NodeKind
from icechunk.paths import (
    METADATA_NAME,
    ROOT,
    ChunkKey,
    MetadataKey,
    NodePath,
    Zarr2Key,
    chunk_key_prefix,
    metadata_key,
    parse_key,
    user_path,
)
from icechunk.virtual_references import VirtualReferences

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from icechunk.format.chunk_table import ChunkRef, ChunkTable
    from icechunk.format.snapshot import NodeSnapshot
    from icechunk.session import Session


class IcechunkStore(VirtualReferences, Store):
    """A zarr store: what ``session.store`` is.

    Parameters
    ----------
    store : Session
        The session to read and write through.
    read_only : bool or None
        Refuse writes; by default whatever the session allows.

    Notes
    -----
    Concurrency: one store may be used from any number of threads and event loops at once. Over
    memory and local files it also answers zarr's synchronous methods, with no event loop between.
    """

    def __init__(
        self, store: Session, read_only: bool | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, read_only=bool(read_only), **kwargs)
        self._session = store
        self._checkout: Checkout = store.checkout
        self._is_open = True

    # -- what it is ---------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session this store reads and writes through."""
        return self._session

    @property
    def read_only(self) -> bool:
        """Whether writes are refused; True as soon as the session is committed."""
        return self._read_only or self._checkout.mode is not SessionMode.writable

    @property
    def supports_writes(self) -> bool:
        """True: zarr asks about the kind of store, not about this session."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """True, as `supports_writes`."""
        return True

    @property
    def supports_partial_writes(self) -> Literal[False]:
        """False: a chunk is replaced whole."""
        return False

    @property
    def supports_listing(self) -> bool:
        """True."""
        return True

    @property
    def supports_consolidated_metadata(self) -> bool:
        """False: a snapshot already holds all metadata in one file."""
        return False

    @property
    def _supports_sync_io(self) -> bool:
        """Whether zarr should use the synchronous methods (see `zarr.abc.store`).

        They work over every storage; where each call waits for a network, zarr's own concurrent
        calls are faster.
        """
        return self._checkout.assets.storage.immediate

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store over the same session with another read-only flag."""
        return type(self)(self._session, read_only)

    @classmethod
    async def open(cls, *args: Any, **kwargs: Any) -> Self:
        """Return a store over a session; same arguments as the class."""
        return cls(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IcechunkStore) and self._session == other._session

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return (
            "<icechunk.IcechunkStore>\n"
            f"read_only: {self.read_only}\n"
            f"snapshot_id: {self._session.snapshot_id}\n"
            f"branch: {self._session.branch}\n"
        )

    __str__ = __repr__

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._session, self._read_only)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("icechunk.IcechunkStore", self._session.__dask_tokenize__(), self._read_only)

    # -- reading ------------------------------------------------------------------------------

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return the value of a key or a part of it, None when there is none.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-key``, ``not-an-array`` or ``invalid-byte-range``.
        """
        data = await self._get(key, byte_range)
        if data is None:
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return what `get` returns, blocking; where storage answers at once, without a loop."""
        return run_either(self.get(key, prototype, byte_range), immediate=self._supports_sync_io)

    async def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        request = _range_request(byte_range)
        match parse_key(key):
            case ChunkKey(path, coord):
                return await self._checkout.read_chunk(path, coord, request)
            case MetadataKey(path):
                node = self._checkout.node(path)
                if node is None or request is None:
                    return None if node is None else node.user_data
                start, stop = request.within(len(node.user_data))
                return node.user_data[start:stop]
        return None

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several values or parts of values, None where there is none."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Say whether a key has a value."""
        match parse_key(key):
            case Zarr2Key():
                raise _no_zarr2(key)
            case MetadataKey(path):
                return self._checkout.node(path) is not None
            case ChunkKey(path, coord):
                node = self._array_or_none(path)
                return node is not None and await self._checkout.chunk_ref(node, coord) is not None

    async def getsize(self, key: str) -> int:
        """Return the length of a value in bytes, 0 for an absent chunk of an array.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``; or ``key-not-found`` for Zarr version 2 keys.
        """
        match parse_key(key):
            case Zarr2Key():
                raise _no_zarr2(key)
            case MetadataKey(path):
                node = self._checkout.node(path)
                if node is None:
                    raise NodeNotFoundError(f"no node at {path}.", ErrorKind.NODE_NOT_FOUND)
                return len(node.user_data)
            case ChunkKey(path, coord):
                node = self._checkout.require_array(path)
                ref = await self._checkout.chunk_ref(node, coord)
                return 0 if ref is None else _length(ref)

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the sum of the lengths of all values at or below a node, in bytes."""
        total = 0
        for path in self._paths_below(prefix):
            node = self._checkout.node(path)
            if node is None:
                continue
            total += len(node.user_data)
            if node.kind is NodeKind.ARRAY:
                async for table in self._checkout.chunk_tables(node):
                    total += int(table.length.sum())
        return total

    def _array_or_none(self, path: NodePath) -> NodeSnapshot | None:
        return None if self._checkout.node(path) is None else self._checkout.require_array(path)

    # -- writing ------------------------------------------------------------------------------

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Set the value of a key; chunk bytes go to storage at once.

        Raises
        ------
        ReadOnlyError
            Kind ``read-only-store``.
        InvalidInputError
            Kind ``invalid-key``, ``bad-metadata``, ``invalid-chunk-index``, ``not-an-array`` or
            ``zero-length-chunk``.
        NodeNotFoundError
            Kind ``node-not-found``; no array at the path of a chunk.
        AlreadyExistsError
            Kind ``node-already-exists``; a node of the other kind is there.
        """
        if byte_range is not None:
            raise _unimplemented("a part of a value cannot be set; set it whole")
        self._check_settable()
        match parse_key(key):
            case ChunkKey(path, coord):
                await self._checkout.write_chunk(path, coord, _bytes_of(value))
            case MetadataKey(path):
                self._checkout.set_document(path, value.to_bytes())
            case Zarr2Key(name):
                raise _unimplemented(f"{name} belongs to Zarr version 2; store version 3 metadata")

    def set_sync(self, key: str, value: Buffer) -> None:
        """Do what `set` does, blocking; see `get_sync`."""
        run_either(self.set(key, value), immediate=self._supports_sync_io)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Set the value of a key that has none; else do nothing."""
        self._check_settable()
        if not await self.exists(key):
            await self.set(key, value)

    async def set_partial_values(
        self,
        key_start_values: Iterable[tuple[str, int, bytes]],  # noqa: ARG002
    ) -> None:
        """Refuse: a value is set whole."""
        raise _unimplemented("parts of values cannot be set; set them whole")

    async def delete(self, key: str) -> None:
        """Delete a chunk, or a node with everything below it; nothing there is no error."""
        self._check_deletable()
        match parse_key(key):
            case ChunkKey(path, coord):
                await self._checkout.delete_chunks(path, coord)
            case MetadataKey(path):
                self._checkout.delete_node(path)

    def delete_sync(self, key: str) -> None:
        """Do what `delete` does, blocking; see `get_sync`."""
        run_either(self.delete(key), immediate=self._supports_sync_io)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a node with everything below it, or the chunks below a chunk prefix."""
        self._check_deletable()
        text = prefix.strip("/")
        path = user_path(text) if text else ROOT
        self._checkout.delete_node(path)
        if text:
            chunks = _chunk_prefix(text)
            if chunks is not None:
                await self._checkout.delete_chunks(chunks.path, chunks.coord)

    async def clear(self) -> None:
        """Delete all nodes."""
        self._check_deletable()
        self._checkout.delete_node(ROOT)

    def _check_settable(self) -> None:
        if self.read_only:
            if not self._read_only:
                self._require_no_rearrange()
            raise ReadOnlyError(
                "this store is read-only. Get one from repo.writable_session(branch).store; after "
                "a commit, open a new session.",
                ErrorKind.READ_ONLY_STORE,
            )

    def _require_no_rearrange(self) -> None:
        if self._checkout.mode is SessionMode.rearrange:
            self._checkout.require_writable()

    def _check_deletable(self) -> None:
        self._checkout.require_writable()
        self._check_settable()

    # -- listing ------------------------------------------------------------------------------

    async def list(self) -> AsyncIterator[str]:
        """Yield every key."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys of a node and of everything below it; ``""`` is everything.

        Raises
        ------
        InvalidInputError
            Kind ``bad-key-prefix``; there is no node of that path.
        """
        paths = self._paths_below(prefix)
        for path in paths:
            yield metadata_key(path)
        for path in paths:
            node = self._checkout.node(path)
            if node is not None and node.kind is NodeKind.ARRAY:
                async for table in self._checkout.chunk_tables(node):
                    for key in _chunk_keys(path, table):
                        yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names directly below a prefix, without the prefix."""
        text = prefix.strip("/")
        path = _path_or_none(text)
        node = None if path is None else self._checkout.node(path)
        if node is None or path is None:
            async for name in self._list_chunk_dir(text):
                yield name
            return
        yield METADATA_NAME
        if node.kind is NodeKind.ARRAY:
            yield "c"
        seen: set[str] = set()
        skip = 1 if path == ROOT else len(path) + 1
        for below in self._checkout.paths_within(path):
            name = below[skip:].partition("/")[0]
            if name and name not in seen:
                seen.add(name)
                yield name

    async def _list_chunk_dir(self, text: str) -> AsyncIterator[str]:
        chunks = _chunk_prefix(text)
        node = None if chunks is None else self._checkout.node(chunks.path)
        if chunks is None or node is None or node.kind is not NodeKind.ARRAY:
            return
        depth = len(chunks.coord)
        if depth >= len(node.shape):
            return
        values: set[int] = set()
        async for table in self._checkout.chunk_tables(node):
            inside = (table.coords[:, :depth] == chunks.coord).all(axis=1)
            values.update(np.unique(table.coords[inside, depth]).tolist())
        for value in sorted(values):
            yield str(value)

    async def is_empty(self, prefix: str) -> bool:
        """Say whether there is no key below a prefix."""
        text = prefix.strip("/")
        path = _path_or_none(text)
        if path is not None and self._checkout.paths_within(path):
            return False
        async for _ in self._list_chunk_dir(text):
            return False
        return True

    def _paths_below(self, prefix: str) -> Sequence[NodePath]:
        text = prefix.strip("/")
        if not text:
            return [*self._checkout.paths()]
        path = _path_or_none(text)
        if path is None or self._checkout.node(path) is None:
            raise InvalidInputError(
                f"no group or array at prefix {prefix!r}; list_dir lists chunk directories.",
                ErrorKind.BAD_KEY_PREFIX,
            )
        return self._checkout.paths_within(path)

    async def array_chunk_iterator(
        self, array_path: str, batch_size: int = 1000
    ) -> AsyncIterator[Sequence[Sequence[int]]]:
        """Yield the coordinates of the chunks of an array, in batches.

        Raises
        ------
        NodeNotFoundError, InvalidInputError
            No array at the path.
        """
        node = self._checkout.require_array(user_path(array_path))
        async for table in self._checkout.chunk_tables(node, batch_size):
            yield table.coords.tolist()

    # -- the rest ------------------------------------------------------------------------------

    def sync_clear(self) -> None:
        """Delete all nodes, blocking."""
        self._check_deletable()
        self._checkout.delete_node(ROOT)


def _range_request(request: ByteRequest | None) -> RangeRequest | None:
    match request:
        case None:
            return None
        case RangeByteRequest(start, end):
            return RangeRequest(start=start, stop=end)
        case OffsetByteRequest(offset):
            return RangeRequest(start=offset)
        case SuffixByteRequest(suffix):
            return RangeRequest(suffix=suffix)
    raise InvalidInputError(f"not a byte range: {request!r}", ErrorKind.INVALID_BYTE_RANGE)


def _bytes_of(value: Buffer) -> memoryview:
    return memoryview(cast("Any", value.as_buffer_like())).cast("B")


def _length(ref: ChunkRef) -> int:
    return len(ref.data) if isinstance(ref, InlineRef) else ref.length


def _path_or_none(text: str) -> NodePath | None:
    try:
        return user_path(text) if text else ROOT
    except InvalidInputError:
        return None


def _chunk_prefix(text: str) -> ChunkKey | None:
    """Return array and leading coordinate of a prefix like ``a/c`` or ``a/c/0``."""
    try:
        parsed = parse_key(text)
    except InvalidInputError:
        return None
    return parsed if isinstance(parsed, ChunkKey) else None


def _chunk_keys(path: NodePath, table: ChunkTable) -> list[str]:
    prefix = chunk_key_prefix(path)
    if table.ndim == 0:
        return [prefix] * len(table)
    columns = [map(str, table.coords[:, axis].tolist()) for axis in range(table.ndim)]
    return [f"{prefix}/{'/'.join(numbers)}" for numbers in zip(*columns, strict=True)]


def _no_zarr2(key: str) -> NodeNotFoundError:
    return NodeNotFoundError(
        f"{key!r} belongs to Zarr version 2, which this store never holds.",
        ErrorKind.KEY_NOT_FOUND,
    )


def _unimplemented(what: str) -> SessionStateError:
    return SessionStateError(f"{what}.", ErrorKind.UNIMPLEMENTED)
