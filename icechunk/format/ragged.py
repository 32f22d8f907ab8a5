"""A column of byte strings of different lengths, over one shared buffer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from icechunk.format.columns import constant, separate, taken

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from icechunk._typing import BoolArray, I64Array


# Rows looked at together, so that what is gathered stays in the processor's cache.
_BLOCK_ROWS: Final = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """A column of byte strings: ``data[start[i] : start[i] + size[i]]`` is element ``i``.

    Selecting rows never copies the bytes, so a column taken from a decoded file keeps that file's
    buffer alive until `compact` is called.

    Parameters
    ----------
    data : bytes
        Shared buffer.
    start : ndarray of int64, shape (n,)
        First byte of each element; unit: bytes.
    size : ndarray of int64, shape (n,)
        Length of each element; unit: bytes.
    """

    data: bytes | memoryview
    start: I64Array
    size: I64Array

    @classmethod
    def empty(cls, n: int = 0) -> Self:
        """Return a column of ``n`` empty strings."""
        zeros = constant(0, n, np.int64)
        return cls(b"", zeros, zeros)

    @classmethod
    def from_list(cls, values: Sequence[bytes]) -> Self:
        """Return a column holding a copy of the given strings."""
        n = len(values)
        size = np.fromiter(map(len, values), np.int64, n)
        start = np.zeros(n, np.int64)
        np.cumsum(size[:-1], out=start[1:])
        return cls(b"".join(values), start, size)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, row: int) -> bytes:
        start = int(self.start[row])
        return bytes(self.data[start : start + int(self.size[row])])

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.tolist())

    def tolist(self) -> list[bytes]:
        """Return every element as ``bytes``."""
        data = self.data if isinstance(self.data, bytes) else bytes(self.data)
        stop = self.start + self.size
        return [data[a:b] for a, b in zip(self.start.tolist(), stop.tolist(), strict=True)]

    def take(self, rows: I64Array | BoolArray | slice) -> Self:
        """Return the selected rows; the buffer is shared."""
        return type(self)(self.data, taken(self.start, rows), taken(self.size, rows))

    def starts_with(self, prefix: bytes) -> BoolArray:
        """Say for each element whether it begins with a prefix.

        Notes
        -----
        Cost: one gather of as many bytes as the prefix has from each element, in blocks.
        """
        matches = self.size >= len(prefix)
        if not prefix or prefix.endswith(b"\0"):  # numpy does not see NULs at the end
            return np.array([item.startswith(prefix) for item in self.tolist()], np.bool_)
        rows = np.flatnonzero(matches)
        width = len(prefix)
        if not len(rows):
            return matches
        data = np.frombuffer(self.data, np.uint8)
        # A view in which item i is the string of this width that starts at byte i.
        every = np.ndarray((len(data) - width + 1,), f"S{width}", data, 0, (1,))
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = rows[first : first + _BLOCK_ROWS]
            matches[block] = every[self.start[block]] == prefix
        return matches

    def compact(self) -> Self:
        """Return the same column over a buffer that holds nothing else."""
        total = int(self.size.sum())
        if total == len(self.data) and self.is_contiguous():
            return self
        if self.is_contiguous() and len(self):
            first = int(self.start[0])
            data = bytes(self.data[first : first + total])
            return type(self)(data, self.start - first, separate(self.size))
        return self.from_list(self.tolist())

    def is_contiguous(self) -> bool:
        """Say whether each element starts where the one before ends."""
        return bool((self.start[1:] == self.start[:-1] + self.size[:-1]).all())


def concat(columns: Iterable[Ragged]) -> Ragged:
    """Return the rows of all columns, one after the other.

    Columns over the same buffer keep sharing it; others are compacted and joined.
    """
    parts = list(columns)
    if not parts:
        return Ragged.empty()
    if len(parts) == 1:
        return parts[0]
    if not any(len(part.data) for part in parts):
        return Ragged.empty(sum(map(len, parts)))
    if all(part.data is parts[0].data for part in parts):
        data = parts[0].data
        shifts = [0] * len(parts)
    else:
        parts = [part.compact() for part in parts]
        data = b"".join(part.data for part in parts)
        shifts = [0, *accumulate(len(part.data) for part in parts[:-1])]
    start = np.concatenate([part.start + s for part, s in zip(parts, shifts, strict=True)])
    return Ragged(data, start, np.concatenate([part.size for part in parts]))
