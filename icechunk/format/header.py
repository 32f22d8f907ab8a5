"""The envelope of metadata files: a fixed header, then one zstd frame with the body.

Source: Icechunk specification, sections "File envelope" and "Limits a writer must respect".
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import zstandard

from icechunk._version import __version__
from icechunk.errors import ErrorKind, FormatError

MAGIC: Final = "ICE🧊CHUNK".encode()
WRITER: Final = f"ic-py-{__version__}"
"""Name of this implementation, as written into every file."""
HEADER_BYTES: Final = 39
MAX_BODY_BYTES: Final = 2**31 - 1
"""Largest decompressed body; FlatBuffers offsets reach no further. Unit: bytes."""
DEFAULT_LEVEL: Final = 3

_WRITER_BYTES: Final = 24
_COMPRESSION_ZSTD: Final = 1
_SPEC_VERSIONS: Final = (1, 2)
# zstd expands at most 2**15 times, so one step past the limit costs at most 64 MiB.
_INPUT_STEP_BYTES: Final = 1 << 11
_ALWAYS_TRUSTED_BYTES: Final = 1 << 20
# A zstd frame that claims to hold more than this many times its own size is read in steps, so that
# a false claim cannot make us allocate what it says; honest metadata is far below.
_TRUSTED_RATIO: Final = 64


# Up to this size a body is compressed by a compressor that is kept: making one costs more than
# the work. What it keeps in memory grows with the largest body. Unit: bytes.
_SMALL_BODY_BYTES: Final = 1 << 18


class _Codecs(threading.local):
    """What compresses and decompresses, kept for each thread: neither can be shared by several."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()
        self._compressors: dict[int, zstandard.ZstdCompressor] = {}

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        """Return the compressor of a level."""
        found = self._compressors.get(level)
        if found is None:
            found = self._compressors[level] = _new_compressor(level)
        return found


def _new_compressor(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=level, write_checksum=True, write_content_size=True)


_codecs: Final = _Codecs()


class FileType(IntEnum):
    """What a file holds; the tag byte of the header."""

    SNAPSHOT = 1
    MANIFEST = 2
    TRANSACTION_LOG = 4
    REPO = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedFile:
    """A file taken out of its envelope.

    Parameters
    ----------
    spec_version : int
        1 or 2; decides how the metadata of snapshots is encoded.
    writer : str
        Free text naming the implementation that wrote the file.
    body : bytes
        Decompressed FlatBuffers buffer.
    """

    spec_version: int
    writer: str
    body: bytes


def encode_file(
    file_type: FileType, body: bytes, *, level: int = DEFAULT_LEVEL, spec_version: int = 2
) -> bytes:
    """Put a body into its envelope.

    Parameters
    ----------
    file_type : FileType
        What the body holds.
    body : bytes
        FlatBuffers buffer.
    level : int
        zstd compression level.
    spec_version : int
        1 or 2.

    Returns
    -------
    bytes
        Header and one zstd frame with content size and checksum.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; the body is 2 GiB or more.

    Notes
    -----
    Source: Icechunk specification, section "File envelope".
    """
    if len(body) > MAX_BODY_BYTES:
        raise FormatError(
            f"a {file_type.name.lower().replace('_', ' ')} of {len(body)} bytes does not fit into "
            f"the format, which ends at {MAX_BODY_BYTES} bytes before compression. Split it: "
            "manifests by ManifestSplittingConfig, large commits into several."
        )
    header = b"".join(
        (
            MAGIC,
            WRITER.encode("ascii").ljust(_WRITER_BYTES),
            bytes((spec_version, file_type, _COMPRESSION_ZSTD)),
        )
    )
    if len(body) <= _SMALL_BODY_BYTES:
        return header + _codecs.compressor(level).compress(body)
    return header + _new_compressor(level).compress(body)


def parse_file(
    data: bytes, file_type: FileType, *, key: str, max_body_bytes: int = MAX_BODY_BYTES
) -> ParsedFile:
    """Take a body out of its envelope.

    Parameters
    ----------
    data : bytes
        Whole file.
    file_type : FileType
        What the file must hold.
    key : str
        Key of the file, for messages.
    max_body_bytes : int
        Largest decompressed size accepted; unit: bytes.

    Returns
    -------
    ParsedFile
        Version, writer and decompressed body.

    Raises
    ------
    FormatError
        Kind ``unsupported-spec-version`` for a version other than 1 and 2, else
        ``invalid-file-format``: short file, wrong magic, other type, unknown compression, damaged
        or oversized body.

    Notes
    -----
    Source: Icechunk specification, section "File envelope". Memory: at most twice the body, and no
    more than 64 MiB over the bound, whatever the file claims.
    """
    if len(data) < HEADER_BYTES:
        raise FormatError(
            f"{key}: file of {len(data)} bytes is shorter than the {HEADER_BYTES}-byte header"
        )
    if data[: len(MAGIC)] != MAGIC:
        raise FormatError(f"{key}: header magic is not that of an Icechunk file")
    writer = bytes(data[len(MAGIC) : len(MAGIC) + _WRITER_BYTES]).decode("utf-8", "replace")
    spec_version, found_type, compression = data[HEADER_BYTES - 3 : HEADER_BYTES]
    if spec_version not in _SPEC_VERSIONS:
        raise FormatError(
            f"{key}: spec version {spec_version} is not supported (known: 1 and 2). "
            f"The file was written by {writer.rstrip()!r}; a newer icechunk may read it.",
            ErrorKind.UNSUPPORTED_SPEC_VERSION,
        )
    if found_type != file_type:
        raise FormatError(
            f"{key}: header file type is {found_type}, expected {file_type:d} ({file_type.name})"
        )
    if compression != _COMPRESSION_ZSTD:
        raise FormatError(f"{key}: header compression is {compression}, expected 1 (zstd)")
    body = decompress(memoryview(data)[HEADER_BYTES:], key, max_body_bytes)
    return ParsedFile(spec_version=spec_version, writer=writer.rstrip(" "), body=body)


def declared_body_bytes(data: bytes) -> int | None:
    """Return how large a file says its decompressed body is, None when it does not say."""
    try:
        declared = zstandard.frame_content_size(memoryview(data)[HEADER_BYTES:])
    except zstandard.ZstdError:
        return None
    return None if declared < 0 else int(declared)


def decompress(frame: memoryview, key: str, max_body_bytes: int) -> bytes:
    """Return the content of one zstd frame, in memory bounded by what the frame can really hold.

    Parameters
    ----------
    frame : memoryview
        The frame and nothing else.
    key : str
        What the bytes are, for messages.
    max_body_bytes : int
        Largest content accepted; unit: bytes.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; damaged, or larger than it may be.
    """
    try:
        declared = zstandard.frame_content_size(frame)
        if declared > max_body_bytes:
            raise FormatError(
                f"{key}: body of {declared} bytes is over the limit of {max_body_bytes} bytes"
            )
        if 0 < declared <= _ALWAYS_TRUSTED_BYTES + _TRUSTED_RATIO * len(frame):
            body = _codecs.decompressor.decompress(frame, allow_extra_data=False)
        else:
            limit = max_body_bytes if declared < 0 else declared
            body = _decompress_in_steps(frame, key, limit)
    except zstandard.ZstdError as error:
        raise FormatError(f"{key}: damaged zstd body: {error}") from error
    if declared >= 0 and len(body) != declared:
        raise FormatError(f"{key}: body has {len(body)} bytes, its zstd frame declares {declared}")
    return body


def _decompress_in_steps(frame: memoryview, key: str, limit: int) -> bytes:
    source = zstandard.ZstdDecompressor().decompressobj()
    pieces: list[bytes] = []
    total = 0
    position = 0
    while position < len(frame) and not source.eof:
        piece = source.decompress(frame[position : position + _INPUT_STEP_BYTES])
        position += _INPUT_STEP_BYTES
        total += len(piece)
        if total > limit:
            raise FormatError(f"{key}: body is larger than the limit of {limit} bytes")
        pieces.append(piece)
    if not source.eof:
        raise FormatError(f"{key}: zstd body ends early, after {total} bytes of content")
    if source.unused_data or position < len(frame):
        raise FormatError(f"{key}: bytes after the end of the zstd body")
    return b"".join(pieces)
