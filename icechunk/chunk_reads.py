"""Reading chunks and parts of chunks; many at once with as few requests as is sensible.

Source: Icechunk specification, sections "Manifests: reading a chunk" and "Zarr store surface".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from icechunk._io.limits import gather_limited
from icechunk.core.byte_ranges import WantedRange, plan_reads
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.format.chunk_table import InlineRef, NativeRef
from icechunk.format.snapshot import NodeKind
from icechunk.storage.objects import ByteRange

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from icechunk.checkout import Checkout
    from icechunk.core.byte_ranges import PlannedRead
    from icechunk.format.chunk_table import ChunkRef, Coordinate, VirtualRef
    from icechunk.paths import NodePath

# What zarr takes for the parts of a shard.
_MAX_GAP_BYTES: Final = 1 << 20
_MAX_READ_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A part of a chunk as a user asks for it; unit: bytes.

    Parameters
    ----------
    start : int or None
        First byte; None for a suffix.
    stop : int or None
        Byte after the last; None to the end.
    suffix : int or None
        Number of last bytes, instead of the other two.
    """

    start: int | None = None
    stop: int | None = None
    suffix: int | None = None

    def within(self, length: int) -> tuple[int, int]:
        """Return the range in a value of so many bytes (specification 22.1).

        Raises
        ------
        InvalidInputError
            Kind ``invalid-byte-range``; the value is shorter.
        """
        if self.suffix is not None:
            start, stop = length - self.suffix, length
            good = start >= 0
        else:
            start = self.start or 0
            stop = length if self.stop is None else self.stop
            good = start < length and start <= stop <= length
        if not good:
            raise InvalidInputError(
                f"{self} does not fit a value of {length} bytes.", ErrorKind.INVALID_BYTE_RANGE
            )
        return start, stop


ChunkPart: TypeAlias = "tuple[NodePath, Coordinate, RangeRequest | None]"


async def read_chunk(
    checkout: Checkout, path: NodePath, coord: Coordinate, byte_range: RangeRequest | None = None
) -> bytes | None:
    """Return the bytes of a chunk or a range of them, None when it is absent.

    Raises
    ------
    InvalidInputError
        Kind ``not-an-array``, or ``invalid-byte-range``.
    StorageError
        The chunk could not be read; a note names array and chunk.
    """
    try:
        ref = await _reference(checkout, path, coord)
        if ref is None:
            return None
        if isinstance(ref, InlineRef):
            if byte_range is None:
                return ref.data
            start, stop = byte_range.within(len(ref.data))
            return ref.data[start:stop]
        start, stop = _bounds(byte_range, ref.length)
        return await _read_object(checkout, ref, ref.offset + start, ref.offset + stop)
    except StorageError as e:
        e.add_note(f"while reading chunk {coord} of {path}")
        raise


async def read_parts(
    checkout: Checkout, parts: Sequence[ChunkPart]
) -> list[bytes | memoryview | None]:
    """Return chunks or ranges of chunks, None for each that is absent.

    Parameters
    ----------
    checkout : Checkout
        Where the chunks are.
    parts : sequence of (path, coordinate, range)
        None as range is the whole chunk.

    Returns
    -------
    list of bytes or memoryview or None
        In the order of ``parts``.

    Raises
    ------
    InvalidInputError, StorageError
        As `read_chunk`; the first error ends the others.

    Notes
    -----
    Concurrency: ``get_partial_values_concurrency`` requests for chunks at once. Ranges of one
    object with at most 1 MiB between them share a request of up to 16 MiB.
    """
    limit = checkout.assets.config.max_concurrent_requests
    places = list(dict.fromkeys((path, coord) for path, coord, _ in parts))
    found = await gather_limited(limit, (_reference(checkout, *place) for place in places))
    refs = dict(zip(places, found, strict=True))
    values: list[bytes | memoryview | None] = [None] * len(parts)
    outside: list[tuple[int, NativeRef | VirtualRef]] = []
    wanted: list[WantedRange] = []
    for number, (path, coord, request) in enumerate(parts):
        ref = refs[path, coord]
        if isinstance(ref, InlineRef):
            start, stop = _bounds(request, len(ref.data))
            values[number] = ref.data[start:stop]
        elif ref is not None:
            start, stop = _bounds(request, ref.length)
            outside.append((number, ref))
            wanted.append(
                WantedRange(place=_place(ref), start=ref.offset + start, stop=ref.offset + stop)
            )

    async def one(read: PlannedRead) -> None:
        first, ref = outside[read.serves[0]]
        try:
            data = memoryview(await _read_object(checkout, ref, read.start, read.stop))
        except StorageError as e:
            path, coord, _ = parts[first]
            e.add_note(f"while reading chunk {coord} of {path}")
            raise
        for served in read.serves:
            part = wanted[served]
            values[outside[served][0]] = data[part.start - read.start : part.stop - read.start]

    reads = plan_reads(wanted, max_gap_bytes=_MAX_GAP_BYTES, max_read_bytes=_MAX_READ_BYTES)
    await gather_limited(checkout.assets.config.get_partial_values_concurrency, map(one, reads))
    return values


async def _reference(checkout: Checkout, path: NodePath, coord: Coordinate) -> ChunkRef | None:
    node = checkout.node(path)
    if node is None:
        return None
    if node.kind is not NodeKind.ARRAY:
        raise InvalidInputError(f"{path} is a group, not an array.", ErrorKind.NOT_AN_ARRAY)
    return await checkout.chunk_ref(node, coord)


def _bounds(request: RangeRequest | None, length: int) -> tuple[int, int]:
    return (0, length) if request is None else request.within(length)


def _place(ref: NativeRef | VirtualRef) -> Hashable:
    """Return what two references share when one request may serve both."""
    if isinstance(ref, NativeRef):
        return ref.chunk_id
    return ref.location, ref.etag, ref.last_modified


async def _read_object(
    checkout: Checkout, ref: NativeRef | VirtualRef, start: int, stop: int
) -> bytes:
    byte_range = ByteRange(start=start, stop=stop)
    if isinstance(ref, NativeRef):
        return await checkout.assets.read_chunk(ref.chunk_id, byte_range)
    return await checkout.virtual.read(ref, byte_range)
