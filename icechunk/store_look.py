"""The part of a store that looks: values, sizes and listings.

Source: Icechunk specification, section "Zarr store surface".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

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
from icechunk.chunk_reads import RangeRequest, read_chunk, read_parts
from icechunk.core.virtual_refs import location_texts
from icechunk.errors import ErrorKind, InvalidInputError, NodeNotFoundError
from icechunk.format.chunk_table import ChunkKind, InlineRef
from icechunk.format.snapshot import NodeKind
from icechunk.ids import ObjectId, id_text
from icechunk.paths import (
    METADATA_NAME,
    ROOT,
    ChunkKey,
    MetadataKey,
    NodePath,
    Zarr2Key,
    chunk_key_prefix,
    metadata_key,
    parse_chunk_prefix,
    parse_key,
    user_path,
)
from icechunk.types import ChunkType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from icechunk._typing import U8Array, U32Array, U64Array
    from icechunk.checkout import Checkout
    from icechunk.chunk_reads import ChunkPart
    from icechunk.format.chunk_table import ChunkRef, ChunkTable
    from icechunk.format.snapshot import NodeSnapshot


ChunkColumns: TypeAlias = (
    "tuple[U32Array, U8Array, list[str], U64Array, U64Array, dict[int, bytes]]"
)
"""Coordinates, kinds, locations, offsets, lengths and inline bytes of some chunks."""

_CHUNK_TYPES: Final = np.zeros(256, np.uint8)
_CHUNK_TYPES[[ChunkKind.INLINE, ChunkKind.NATIVE, ChunkKind.VIRTUAL]] = [
    ChunkType.inline,
    ChunkType.native,
    ChunkType.virtual,
]


class StoreLook(Store):
    """The part of a store that tells what is there."""

    _checkout: Checkout

    @property
    def supports_listing(self) -> bool:
        """True."""
        return True

    @property
    def supports_consolidated_metadata(self) -> bool:
        """False: a snapshot already holds all metadata in one file."""
        return False

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

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.get("nothing/zarr.json")) is None
        True
        """
        return _buffer(await self._get(key, byte_range), prototype)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return what `get` returns, blocking; where storage answers at once, without a loop."""
        immediate = self._checkout.assets.storage.immediate
        return run_either(self.get(key, prototype, byte_range), immediate=immediate)

    async def _get(self, key: str, byte_range: ByteRequest | None) -> bytes | None:
        request = _range_request(byte_range)
        match parse_key(key):
            case ChunkKey(path, coord):
                return await read_chunk(self._checkout, path, coord, request)
            case MetadataKey(path):
                return self._document(path, request)
        return None

    def _document(self, path: NodePath, request: RangeRequest | None) -> bytes | None:
        node = self._checkout.node(path)
        if node is None or request is None:
            return None if node is None else node.user_data
        start, stop = request.within(len(node.user_data))
        return node.user_data[start:stop]

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return several values or parts of values, None where there is none.

        Parts that are near to each other, in one chunk or in chunks that lie in one object, are
        read together, and what is not near at the same time.

        Raises
        ------
        InvalidInputError
            As `get`.
        """
        values: list[bytes | memoryview | None] = []
        parts: dict[int, ChunkPart] = {}
        for key, byte_range in key_ranges:
            request = _range_request(byte_range)
            value = None
            match parse_key(key):
                case ChunkKey(path, coord):
                    parts[len(values)] = path, coord, request
                case MetadataKey(path):
                    value = self._document(path, request)
            values.append(value)
        read = await read_parts(self._checkout, list(parts.values()))
        for number, data in zip(parts, read, strict=True):
            values[number] = data
        return [_buffer(value, prototype) for value in values]

    async def exists(self, key: str) -> bool:
        """Say whether a key has a value.

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.exists("t/c/0"))
        True
        """
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

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.getsize("t/c/0"))
        16
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

    # -- listing ------------------------------------------------------------------------------

    async def list(self) -> AsyncIterator[str]:
        """Yield every key.

        Examples
        --------
        >>> import asyncio
        >>> async def keys():
        ...     return sorted([key async for key in session.store.list()])
        >>> asyncio.run(keys())
        ['t/c/0', 't/c/1', 't/zarr.json', 'zarr.json']
        """
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the keys of a node and of everything below it; ``""`` is everything.

        Raises
        ------
        InvalidInputError
            Kind ``bad-key-prefix``; there is no node of that path.

        Examples
        --------
        >>> import asyncio
        >>> async def keys():
        ...     return sorted([key async for key in session.store.list_prefix("t")])
        >>> asyncio.run(keys())
        ['t/c/0', 't/c/1', 't/zarr.json']
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
        """Yield the names directly below a prefix, without the prefix.

        Examples
        --------
        >>> import asyncio
        >>> async def names():
        ...     return sorted([name async for name in session.store.list_dir("")])
        >>> asyncio.run(names())
        ['t', 'zarr.json']
        """
        text = prefix.strip("/")
        path = _path_or_none(text)
        node = None if path is None else self._checkout.node(path)
        if node is None or path is None:
            async for name in self._list_chunk_dir(text):
                yield name
            return
        yield METADATA_NAME
        seen: set[str] = set()
        if node.kind is NodeKind.ARRAY:
            yield "c"
            seen.add("c")
        skip = 1 if path == ROOT else len(path) + 1
        for below in self._checkout.paths_within(path):
            name = below[skip:].partition("/")[0]
            if name and name not in seen:
                seen.add(name)
                yield name

    async def _list_chunk_dir(self, text: str) -> AsyncIterator[str]:
        chunks = parse_chunk_prefix(text)
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
        """Say whether there is no key below a prefix.

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.is_empty(""))
        False
        """
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
        self, array_path: str, batch_size: int = 100_000
    ) -> AsyncIterator[ChunkColumns]:
        """Yield the chunks of an array that are there, in batches of columns.

        Parameters
        ----------
        array_path : str
            Path of the array.
        batch_size : int
            Most chunks of one batch.

        Yields
        ------
        coordinates : numpy.ndarray
            Shape ``(n, ndim)``, uint32; unit: chunks.
        kinds : numpy.ndarray
            Shape ``(n,)``, uint8: numbers of `ChunkType`.
        locations : list of str
            Id of a native chunk, URL of a virtual one, empty for inline ones.
        offsets, lengths : numpy.ndarray
            Shape ``(n,)``, uint64; unit: bytes.
        inline : dict of int to bytes
            Bytes of the inline chunks, by row.

        Raises
        ------
        NodeNotFoundError, InvalidInputError
            No array at the path, or a batch size below 1.

        Examples
        --------
        >>> import asyncio
        >>> async def batches():
        ...     return [batch async for batch in session.store.array_chunk_iterator("/t")]
        >>> [(coordinates, kinds, *_)] = asyncio.run(batches())
        >>> coordinates.tolist(), kinds.tolist()
        ([[0], [1]], [3, 3])
        """
        if batch_size < 1:
            raise InvalidInputError(f"batches of {batch_size} chunks; at least 1 is needed.")
        node = self._checkout.require_array(user_path(array_path))
        async for table in self._checkout.chunk_tables(node, batch_size):
            yield _columns(table.unpacked(), self._checkout.virtual.full_location)


def _columns(table: ChunkTable, full_location: Callable[[str], str]) -> ChunkColumns:
    inline = table.kind == ChunkKind.INLINE
    locations = [""] * len(table)
    for row in np.flatnonzero(table.kind == ChunkKind.NATIVE).tolist():
        locations[row] = id_text(ObjectId(table.chunk_id[row].tobytes()))
    virtual = np.flatnonzero(table.kind == ChunkKind.VIRTUAL)
    for row, text in zip(
        virtual.tolist(), location_texts(table.payload.take(virtual)), strict=True
    ):
        locations[row] = full_location(text)
    lengths = np.where(inline, table.payload.size.astype(np.uint64), table.length)
    data = {row: table.payload[row] for row in np.flatnonzero(inline).tolist()}
    offsets = np.where(inline, np.uint64(0), table.offset)
    return table.coords, _CHUNK_TYPES[table.kind], locations, offsets, lengths, data


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


def _buffer(data: bytes | memoryview | None, prototype: BufferPrototype | None) -> Buffer | None:
    if data is None:
        return None
    return (prototype or default_buffer_prototype()).buffer.from_bytes(data)


def _length(ref: ChunkRef) -> int:
    return len(ref.data) if isinstance(ref, InlineRef) else ref.length


def _path_or_none(text: str) -> NodePath | None:
    try:
        return user_path(text) if text else ROOT
    except InvalidInputError:
        return None


def _chunk_keys(path: NodePath, table: ChunkTable) -> list[str]:
    prefix = chunk_key_prefix(path)
    if table.ndim == 0:
        return [prefix] * len(table)
    columns = [map(str, table.coords[:, axis].tolist()) for axis in range(table.ndim)]
    return [f"{prefix}/{'/'.join(numbers)}" for numbers in zip(*columns, strict=True)]


def _no_zarr2(key: str) -> NodeNotFoundError:
    return NodeNotFoundError(
        f"{key!r} belongs to Zarr version 2, which this store never holds; create it with "
        "zarr_format=3.",
        ErrorKind.KEY_NOT_FOUND,
    )
