"""Checksums of blocks of values, taken where they are written and again where they are read."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChecksum:
    """Checksum of one block of an array.

    Parameters
    ----------
    path : str
        Of the array.
    start, stop : tuple of int
        Half-open range along each axis, in elements.
    checksum : int
        As `checksum_of` gives it.
    """

    path: str
    start: tuple[int, ...]
    stop: tuple[int, ...]
    checksum: int

    def region(self) -> tuple[slice, ...]:
        """Return where the block is."""
        return tuple(map(slice, self.start, self.stop))

    def region_text(self) -> str:
        """Return where the block is, as text."""
        return ", ".join(f"{a}:{b}" for a, b in zip(self.start, self.stop, strict=True))


def checksum_of(values: Any, dtype: Any) -> int:
    """Return a checksum of values as an array of some type holds them.

    All NaN are one, and so are both zeros: an array that drops chunks of its fill value does not
    tell them apart either.

    Parameters
    ----------
    values : array
        In memory.
    dtype : numpy.dtype
        Type of the array that holds them.

    Returns
    -------
    int
        CRC-32 over shape and values.
    """
    array = np.asarray(values)
    start = zlib.crc32(repr(array.shape).encode())
    if array.dtype.kind in "OT" or np.dtype(dtype).kind in "OT":
        return zlib.crc32(repr(array.astype(object).tolist()).encode("utf-8", "replace"), start)
    array = array.astype(np.dtype(dtype).newbyteorder("<"), copy=False)
    if array.dtype.kind in "fc":
        array = np.where(np.isnan(array), array.dtype.type(np.nan), array + array.dtype.type(0))
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, start)
