"""Locations of virtual chunks packed with a dictionary: one zstd frame each.

Source: Icechunk specification, section "Location compression". All work is in bulk: a million
locations are compressed by one call and decompressed by another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import zstandard

from icechunk.errors import FormatError
from icechunk.format.bulk import joined, utf8_problem
from icechunk.format.ragged import Ragged

if TYPE_CHECKING:
    from icechunk._typing import BoolArray, I64Array
    from icechunk.resolved_config import LocationCompression

MAX_PACKED_BYTES: Final = 1024
"""Longest location that may be packed: the official reader has room for no more. Unit: bytes."""
MAX_LOCATION_BYTES: Final = 1 << 16
"""Longest location accepted from a frame; unit: bytes."""

_SHORT_SAMPLE_BYTES: Final = 8
_THREADED_ROWS: Final = 20_000
_MAGIC: Final = 0xFD2FB528


def train(locations: Ragged, options: LocationCompression) -> bytes | None:
    """Make a dictionary for the given locations.

    Parameters
    ----------
    locations : Ragged
        Plain locations.
    options : LocationCompression
        Sample and dictionary sizes.

    Returns
    -------
    bytes or None
        zstd dictionary; None when packing would not pay or the training failed. The same
        locations give the same dictionary.

    Notes
    -----
    Source: Icechunk specification, section "Location compression".
    """
    n, wanted = len(locations), options.dictionary_max_training_samples
    if n == 0 or wanted <= 0:
        return None
    chosen = np.sort(np.random.default_rng(n).choice(n, min(n, wanted), replace=False))
    samples: list[bytes | bytearray | memoryview] = list(locations.take(chosen).tolist())
    if 2 * sum(len(sample) < _SHORT_SAMPLE_BYTES for sample in samples) >= len(samples):
        return None
    repeats = -(-options.dictionary_max_size_bytes // sum(map(len, samples)))
    try:
        trained = zstandard.train_dictionary(
            options.dictionary_max_size_bytes, samples * max(1, repeats)
        )
    except (zstandard.ZstdError, ValueError, MemoryError):
        return None
    return trained.as_bytes()


def pack(locations: Ragged, dictionary: bytes, level: int) -> tuple[Ragged, BoolArray]:
    """Pack locations, each into its own frame.

    Parameters
    ----------
    locations : Ragged
        Plain locations.
    dictionary : bytes
        zstd dictionary.
    level : int
        zstd level.

    Returns
    -------
    column : Ragged
        Frames; locations themselves where they stay plain.
    packed : ndarray of bool, shape (n,)
        Which rows are frames. A location over `MAX_PACKED_BYTES` stays plain.
    """
    packed = locations.size <= MAX_PACKED_BYTES
    if bool(packed.all()):
        return _compress(locations, dictionary, level), packed
    rows = np.flatnonzero(packed)
    frames = _compress(locations.take(rows), dictionary, level)
    rest = np.flatnonzero(~packed)
    plain = joined(locations.data, locations.start[rest], locations.size[rest])
    start, size = np.empty(len(packed), np.int64), locations.size.copy()
    start[rows], size[rows] = frames.start, frames.size
    start[rest] = len(frames.data) + np.cumsum(size[rest]) - size[rest]
    return Ragged(bytes(frames.data) + plain, start, size), packed


def unpack(frames: Ragged, dictionary: bytes | None) -> Ragged:
    """Return the locations in frames.

    Parameters
    ----------
    frames : Ragged
        One zstd frame each.
    dictionary : bytes or None
        Dictionary they were made with.

    Returns
    -------
    Ragged
        Plain locations.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; no dictionary, a damaged frame, a location over
        `MAX_LOCATION_BYTES` or one that is not UTF-8.

    Notes
    -----
    A million locations take about 0.3 s. Memory: at most 64 KiB for a location and 1 KiB on
    average.
    """
    if not len(frames):
        return Ragged.empty()
    if not dictionary:
        raise FormatError("packed chunk locations without the dictionary they were packed with")
    try:
        plain = _decompress(frames, dictionary)
    except (zstandard.ZstdError, ValueError) as error:
        raise FormatError(f"damaged packed chunk locations: {error}") from error
    problem = utf8_problem(bytes(plain.data), plain.start[plain.size > 0])
    if problem is not None:
        raise FormatError(f"a packed chunk location is {problem}")
    return plain


def readable_by_all(frames: Ragged) -> BoolArray:
    """Say which frames every known reader has room for; shape ``(n,)``.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; one is no zstd frame.
    """
    if not len(frames):
        return np.zeros(0, np.bool_)
    try:
        declared = _declared_sizes(bytes(frames.data), frames.start, frames.size)
    except ValueError as error:
        raise FormatError(f"damaged packed chunk locations: {error}") from error
    known: BoolArray = (declared >= 0) & (declared <= MAX_PACKED_BYTES)
    return known


def _compress(locations: Ragged, dictionary: bytes, level: int) -> Ragged:
    n = len(locations)
    compressor = zstandard.ZstdCompressor(
        level=level,
        dict_data=zstandard.ZstdCompressionDict(dictionary),
        write_checksum=False,
        write_content_size=True,
        write_dict_id=True,
    )
    frames: list[Any]
    # The bulk call refuses input without a single byte.
    if locations.size.any() and "multi_compress_to_buffer" in zstandard.backend_features:
        segments = np.empty((n, 2), np.uint64)
        segments[:, 0], segments[:, 1] = locations.start, locations.size
        source = zstandard.BufferWithSegments(locations.data, segments.tobytes())
        packed: Any = compressor.multi_compress_to_buffer(
            source, threads=-1 if n > _THREADED_ROWS else 0
        )
        frames = list(packed)
    else:
        frames = list(map(compressor.compress, locations.tolist()))
    size = np.fromiter(map(len, frames), np.int64, n)
    return Ragged(b"".join(frames), np.cumsum(size) - size, size)


def _declared_sizes(data: bytes | bytearray, start: I64Array, size: I64Array) -> I64Array:
    """Return the content size each frame declares, -1 where it declares none; unit: bytes.

    Raises ValueError for what is no zstd frame. Sizes of 2 GiB and more are given as that.
    """
    shortest = 6
    if int(size.min()) < shortest:
        raise ValueError("a frame is too short")
    raw = np.frombuffer(data, np.uint8)
    every_u32 = np.ndarray((len(raw) - 3,), "<u4", raw, 0, (1,))
    if bool((every_u32[start] != _MAGIC).any()):
        raise ValueError("a location is no zstd frame")
    descriptor = raw[start + 4]
    single = (descriptor >> 5) & 1
    # Where the content size is: after magic, descriptor, window (unless single), dictionary id.
    at = 6 - single.astype(np.int64) + np.array([0, 1, 2, 4])[descriptor & 3]
    width = np.array([0, 2, 4, 8])[descriptor >> 6]
    width[(width == 0) & (single == 1)] = 1
    if bool((at + width > size).any()):
        raise ValueError("a frame is too short")
    declared = np.zeros(len(start), np.int64)
    for byte in range(int(width.max())):
        rows = np.flatnonzero(width > byte)
        values = raw[start[rows] + at[rows] + byte].astype(np.int64)
        declared[rows] |= values << 8 * byte if byte < 4 else (values != 0) << 31
    declared[width == 0] = -1
    # Sizes of two bytes are stored less 256, for smaller ones fit into one.
    declared[width == 2] += 256
    return declared


def _decompress(frames: Ragged, dictionary: bytes) -> Ragged:
    """Return the content of frames; raises ZstdError or ValueError."""
    decompressor = zstandard.ZstdDecompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
    data = joined(frames.data, frames.start, frames.size)
    start = np.cumsum(frames.size) - frames.size
    declared = _declared_sizes(data, start, frames.size)
    most = MAX_LOCATION_BYTES + MAX_PACKED_BYTES * len(frames)
    if int(declared.max()) > MAX_LOCATION_BYTES or int(declared.sum()) > most:
        raise ValueError("their content is too long")
    if int(declared.min()) >= 0:
        return _decompress_together(data, declared, decompressor)
    found: list[bytes] = []
    for frame in Ragged(bytes(data), start, frames.size).tolist():
        found.append(decompressor.decompress(frame, MAX_LOCATION_BYTES, allow_extra_data=False))
        most -= len(found[-1])
        if most < 0:
            raise ValueError("their content is too long")
    return Ragged.from_list(found)


def _decompress_together(
    data: bytearray, declared: I64Array, decompressor: zstandard.ZstdDecompressor
) -> Ragged:
    """Read all frames as one stream: zstd checks each frame against the size it declares."""
    total = int(declared.sum())
    stream = decompressor.stream_reader(data, read_across_frames=True)
    pieces: list[bytes] = []
    found = 0
    # In steps, so that what is never there is never allocated.
    while found < total:
        piece = stream.read(min(total - found, max(1 << 20, 64 * len(data))))
        if not piece:
            break
        pieces.append(piece)
        found += len(piece)
    if found != total or stream.read(1):
        raise ValueError("content does not have the size its frames declare")
    return Ragged(
        pieces[0] if len(pieces) == 1 else b"".join(pieces),
        np.cumsum(declared) - declared,
        declared,
    )
