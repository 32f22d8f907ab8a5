"""Setting virtual references through the store.

Source: Icechunk specification, section "Virtual chunks". A virtual chunk is a range of bytes of an
object that the repository does not own.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from icechunk._sync.virtual_references import VirtualReferencesTwins
from icechunk.core.grid import check_coordinate
from icechunk.core.virtual_refs import normalise_location, normalise_locations
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.ragged import Ragged
from icechunk.paths import ChunkKey, parse_key, user_path
from icechunk.virtual_containers import VirtualChunkSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, I64Array, U32Array
    from icechunk.checkout import Checkout


class VirtualReferences(VirtualReferencesTwins):
    """The part of a store that sets references to chunks outside the repository."""

    _checkout: Checkout

    def _check_settable(self) -> None:
        raise NotImplementedError

    async def set_virtual_ref_async(
        self,
        key: str,
        location: str,
        *,
        offset: int,
        length: int,
        checksum: str | datetime | None = None,
        validate_container: bool = True,
    ) -> None:
        """Let a chunk be a range of bytes of an object outside the repository.

        Parameters
        ----------
        key : str
            Store key of the chunk, such as ``"array/c/0/1"``.
        location : str
            Absolute URL of the object, or ``vcc://NAME/REST`` relative to a named container.
        offset, length : int
            Range in the object; unit: bytes.
        checksum : str or datetime or None
            Etag the object must have, or the latest time it may have been modified; with a time
            zone.
        validate_container : bool
            Require that a virtual chunk container matches the location.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-key``, ``invalid-virtual-ref``, ``no-container-for-virtual-chunk``,
            ``invalid-chunk-index``, ``not-an-array`` or ``zero-length-chunk``.
        NodeNotFoundError
            Kind ``node-not-found``.
        TypeError, ValueError
            An argument of another type, a time without zone, a number that cannot be stored.

        Examples
        --------
        >>> session.store.set_virtual_ref(
        ...     "t/c/0", "s3://bucket/file", offset=0, length=16, validate_container=False
        ... )
        >>> session.all_virtual_chunk_locations()
        ['s3://bucket/file']
        """
        self._check_settable()
        parsed = parse_key(key)
        if not isinstance(parsed, ChunkKey):
            raise InvalidInputError(f"{key!r} is not the key of a chunk.", ErrorKind.INVALID_KEY)
        chunk = VirtualChunkSpec((), location, offset, length)  # refuses what no reference can hold
        where = normalise_location(chunk.location)
        if validate_container:
            self._checkout.virtual.require_container(where)
        check_coordinate(self._checkout.require_array(parsed.path), parsed.coord)
        table = _virtual_table(
            np.array([parsed.coord], np.uint32).reshape(1, -1),
            Ragged.from_list([where.encode()]),
            np.array([chunk.offset], np.uint64),
            np.array([chunk.length], np.uint64),
            _usable_checksum(checksum),
        )
        self._checkout.set_refs(parsed.path, table)

    async def set_virtual_refs_async(
        self,
        array_path: str,
        chunks: list[VirtualChunkSpec],
        *,
        validate_containers: bool = True,
    ) -> list[tuple[int, ...]] | None:
        """Let many chunks of an array be ranges of objects outside the repository.

        Parameters
        ----------
        array_path : str
            Path of the array.
        chunks : list of VirtualChunkSpec
            Coordinate, location, range and checksum of each.
        validate_containers : bool
            Leave out chunks whose location no container matches.

        Returns
        -------
        list of tuple of int, or None
            Coordinates left out because no container matches; None when there are none.

        Raises
        ------
        NodeNotFoundError, InvalidInputError, TypeError, ValueError
            As `set_virtual_ref_async`, but for the container.

        Examples
        --------
        >>> spec = icechunk.VirtualChunkSpec([0], "s3://bucket/file", 0, 16)
        >>> session.store.set_virtual_refs("t", [spec], validate_containers=False)
        """
        self._check_settable()
        path = user_path(array_path)
        node = self._checkout.require_array(path)
        for chunk in chunks:
            if not isinstance(chunk, VirtualChunkSpec):
                raise TypeError(f"expected VirtualChunkSpec, not {type(chunk).__name__}")
            check_coordinate(node, tuple(chunk.index))
        where = normalise_locations([chunk.location for chunk in chunks])
        coords = np.array([chunk.index for chunk in chunks], np.uint32)
        coords = coords.reshape(len(chunks), len(node.shape))
        good = self._with_container(where, validate=validate_containers)
        table = _virtual_table(
            coords[good],
            where.take(good),
            np.array([chunk.offset for chunk in chunks], np.uint64)[good],
            np.array([chunk.length for chunk in chunks], np.uint64)[good],
            [_checksum(chunks[i]) for i in good],
        )
        self._checkout.set_refs(path, table)
        return _left_out(coords, good)

    async def set_virtual_refs_arr_async(
        self,
        array_path: str,
        chunk_grid_shape: tuple[int, ...],
        locations: list[str],
        offsets: AnyArray,
        lengths: AnyArray,
        *,
        validate_containers: bool = True,
        arr_offset: tuple[int, ...] | None = None,
        checksum: str | datetime | None = None,
    ) -> list[tuple[int, ...]] | None:
        """Set the virtual references of a whole block of the chunk grid, in C order.

        Parameters
        ----------
        array_path : str
            Path of the array.
        chunk_grid_shape : tuple of int
            Shape of the block; unit: chunks. Its product is the number of references.
        locations : list of str
            Absolute URL of each chunk; an empty string leaves that chunk out.
        offsets, lengths : ndarray of uint64
            Range of each chunk in its object; unit: bytes.
        validate_containers : bool
            Leave out chunks whose location no container matches.
        arr_offset : tuple of int or None
            Where the block starts in the grid; the origin by default. Unit: chunks.
        checksum : str or datetime or None
            One checksum for all; a time with a time zone.

        Returns
        -------
        list of tuple of int, or None
            Coordinates left out because no container matches; None when there are none.

        Raises
        ------
        NodeNotFoundError, InvalidInputError, TypeError, ValueError
            As `set_virtual_ref_async`, but for the container.

        Examples
        --------
        >>> session.store.set_virtual_refs_arr(
        ...     "t",
        ...     (2,),
        ...     ["s3://bucket/file", "s3://bucket/file"],
        ...     np.array([0, 16]),
        ...     np.array([16, 16]),
        ...     validate_containers=False,
        ... )
        """
        self._check_settable()
        path = user_path(array_path)
        node = self._checkout.require_array(path)
        count = _block_size(chunk_grid_shape, locations, offsets, lengths)
        offsets = _whole_numbers(offsets, "offsets")
        lengths = _whole_numbers(lengths, "lengths")
        origin = _origin(arr_offset, chunk_grid_shape)
        if count:
            last = tuple(o + n - 1 for o, n in zip(origin, chunk_grid_shape, strict=True))
            check_coordinate(node, last)
        coords = np.indices(chunk_grid_shape, np.uint32).reshape(len(chunk_grid_shape), count).T
        coords = coords + np.array(origin, np.uint32)
        where, coords, offsets, lengths = _without_blanks(locations, coords, offsets, lengths)
        good = self._with_container(where, validate=validate_containers)
        every = len(good) == len(where)
        pick: Any = slice(None) if every else good
        table = _virtual_table(
            coords[pick],
            where.take(pick),
            offsets[pick],
            lengths[pick],
            _usable_checksum(checksum),
        )
        self._checkout.set_refs(path, table)
        return None if every else _left_out(coords, good)

    def _with_container(self, where: Ragged, *, validate: bool) -> AnyArray:
        """Return the rows whose location some container matches."""
        if not validate:
            return np.arange(len(where))
        return self._checkout.virtual.rows_with_container(where)


def _virtual_table(
    coords: AnyArray,
    where: Ragged,
    offsets: AnyArray,
    lengths: AnyArray,
    checksum: str | datetime | Sequence[str | datetime | None] | None,
) -> ChunkTable:
    if len(lengths) and not bool(np.all(lengths)):
        coord = tuple(coords[np.flatnonzero(lengths == 0)[0]].tolist())
        raise InvalidInputError(f"virtual chunk {coord} has length 0.", ErrorKind.ZERO_LENGTH_CHUNK)
    n = len(coords)
    etag: Ragged | None = None
    modified: AnyArray | None = None
    if isinstance(checksum, str):
        shared = Ragged.from_list([checksum.encode()])
        etag = shared.take(np.zeros(n, np.int64))
    elif isinstance(checksum, datetime):
        modified = np.full(n, _seconds(checksum), np.uint32)
    elif checksum is not None and any(c is not None for c in checksum):
        etag = Ragged.from_list([c.encode() if isinstance(c, str) else b"" for c in checksum])
        modified = np.array(
            [_seconds(c) if isinstance(c, datetime) else 0 for c in checksum], np.uint32
        )
    return ChunkTable.virtual(coords, where, offsets, lengths, etag=etag, last_modified=modified)


def _usable_checksum(checksum: object) -> str | datetime | None:
    """Return a checksum that is one; what is none would let every change of the object pass."""
    match checksum:
        case None | str():
            return checksum
        case datetime() if checksum.tzinfo is not None:
            return checksum
        case datetime():
            raise TypeError("checksum must have a time zone: use datetime.now(datetime.UTC)")
    raise TypeError(f"checksum must be a str, a datetime or None, not {type(checksum).__name__}")


def _seconds(when: datetime) -> int:
    seconds = int(when.timestamp())
    if not 0 <= seconds < 2**32:
        raise InvalidInputError(
            f"the time of a checksum must be between 1970 and 2106, got {when}.",
            ErrorKind.INVALID_VIRTUAL_REF,
        )
    return seconds


def _whole_numbers(values: AnyArray, name: str) -> AnyArray:
    """Return offsets or lengths as they are stored, without wrapping or rounding any."""
    column = np.asarray(values)
    if column.size and column.dtype.kind not in "iu":
        raise TypeError(f"{name} must be whole numbers, not {column.dtype}")
    if column.dtype.kind == "i" and bool((column < 0).any()):
        raise InvalidInputError(
            f"{name} must be at least 0, got {column.min()}.", ErrorKind.INVALID_VIRTUAL_REF
        )
    return column.astype(np.uint64, copy=False)


def _origin(arr_offset: Sequence[int] | None, shape: Sequence[int]) -> tuple[int, ...]:
    """Return where a block of chunks starts."""
    if arr_offset is None:
        return (0,) * len(shape)
    if len(arr_offset) != len(shape) or min(arr_offset, default=0) < 0:
        raise InvalidInputError(
            f"arr_offset {tuple(arr_offset)} does not fit a block of {tuple(shape)} chunks: it has "
            "one number, 0 or more, for each dimension.",
            ErrorKind.INVALID_CHUNK_INDEX,
        )
    return tuple(arr_offset)


def _checksum(chunk: VirtualChunkSpec) -> str | datetime | None:
    if chunk.etag_checksum is not None:
        return chunk.etag_checksum
    return chunk.last_updated_at_checksum


def _left_out(coords: U32Array, good: I64Array) -> list[tuple[int, ...]] | None:
    bad = np.ones(len(coords), np.bool_)
    bad[good] = False
    return [tuple(coord) for coord in coords[bad].tolist()] or None


def _block_size(
    shape: tuple[int, ...], locations: Sequence[str], offsets: AnyArray, lengths: AnyArray
) -> int:
    count = int(np.prod(shape, dtype=np.int64))
    if not len(locations) == len(offsets) == len(lengths) == count:
        raise InvalidInputError(
            f"a block of {shape} chunks needs {count} locations, offsets and lengths; got "
            f"{len(locations)}, {len(offsets)} and {len(lengths)}.",
            ErrorKind.INVALID_VIRTUAL_REF,
        )
    return count


def _without_blanks(
    locations: Sequence[str], coords: U32Array, offsets: AnyArray, lengths: AnyArray
) -> tuple[Ragged, U32Array, AnyArray, AnyArray]:
    """Drop the chunks whose location is an empty string: they have no reference."""
    if "" not in locations:
        return normalise_locations(locations), coords, offsets, lengths
    rows = np.array([i for i, location in enumerate(locations) if location], np.int64)
    where = normalise_locations([location for location in locations if location])
    return where, coords[rows], offsets[rows], lengths[rows]
