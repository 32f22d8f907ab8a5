"""Many ids at once: as columns, as sorted sets, and out of the names of files.

Source: Icechunk specification, section "Identifiers". A repository can have a hundred million
chunks, so ids are rows of bytes here, never Python objects.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.ids import OBJECT_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, BoolArray, U8Array

_ID_CHARACTERS: Final = 20
_ALPHABET: Final = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_NO_DIGIT: Final = 32
_DIGITS: Final = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[np.frombuffer(_ALPHABET, np.uint8)] = np.arange(32, dtype=np.uint8)
# A character carries five bits, so the last of the 20 has four that must be zero.
_SPARE_BITS: Final = 0b1111


def id_column(ids: Sequence[bytes]) -> U8Array:
    """Return object ids as a column, shape ``(n, 12)``."""
    return np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), OBJECT_ID_BYTES)


def ids_of_names(names: Sequence[str]) -> tuple[U8Array, BoolArray]:
    """Return the ids that file names spell.

    Parameters
    ----------
    names : sequence of str
        Names without folder.

    Returns
    -------
    ndarray of uint8, shape (n, 12)
        Ids; zero where the name is none.
    ndarray of bool, shape (n,)
        Where the name is an id, written the one way the format writes it.
    """
    good = np.array([len(name) == _ID_CHARACTERS and name.isascii() for name in names], np.bool_)
    blank = "!" * _ID_CHARACTERS
    text = "".join(name if ok else blank for name, ok in zip(names, good, strict=True))
    digits = _DIGITS[np.frombuffer(text.encode("ascii"), np.uint8)]
    digits = digits.reshape(len(names), _ID_CHARACTERS)
    good &= (digits != _NO_DIGIT).all(axis=1)
    if len(names):
        good &= (digits[:, -1] & _SPARE_BITS) == 0
    digits[~good] = 0
    bits = np.unpackbits(digits[:, :, None], axis=2)[:, :, 3:]
    bits = bits.reshape(len(names), _ID_CHARACTERS * 5)[:, : OBJECT_ID_BYTES * 8]
    return np.packbits(bits, axis=1), good


class KeySet:
    """A growing set of byte rows of one width, as sorted columns.

    Parameters
    ----------
    width : int
        Bytes per row.

    Notes
    -----
    Kept as a few sorted runs, each at least twice as long as the next, which are merged as they
    grow: adding n rows costs O(n log n) in all, and memory is what the distinct rows take, twice
    that while a merge runs. Concurrency: not safe for two threads at once.
    """

    __slots__ = ("_dtype", "_runs", "width")

    def __init__(self, width: int = OBJECT_ID_BYTES) -> None:
        self.width = width
        # Strings of fixed length: numpy compares them byte by byte. It drops trailing zero bytes
        # when it hands one out, which is no loss among rows of one width.
        self._dtype = np.dtype(f"S{width}")
        self._runs: list[AnyArray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def add(self, rows: U8Array) -> BoolArray:
        """Add rows, shape ``(n, width)``; return which of them are new, each distinct one once."""
        keys = self._keys(rows)
        distinct, first = np.unique(keys, return_index=True)
        fresh = ~self._holds(distinct)
        self._append(distinct[fresh])
        new = np.zeros(len(keys), np.bool_)
        new[first[fresh]] = True
        return new

    def holds(self, rows: U8Array) -> BoolArray:
        """Say which rows, shape ``(n, width)``, are in the set."""
        keys = self._keys(rows)
        # Sorted, neighbours take the same way through a run, which is several times as fast.
        order = np.argsort(keys)
        found = np.empty(len(keys), np.bool_)
        found[order] = self._holds(keys[order])
        return found

    def _holds(self, keys: AnyArray) -> BoolArray:
        found = np.zeros(len(keys), np.bool_)
        for run in self._runs:
            places = np.searchsorted(run, keys)
            places[places == len(run)] = 0
            found |= run[places] == keys
        return found

    def _append(self, run: AnyArray) -> None:
        if not len(run):
            return
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            merged = np.concatenate((self._runs.pop(), run))
            merged.sort(kind="stable")  # finds the two sorted halves and merges them
            run = merged
        self._runs.append(run)

    def _keys(self, rows: U8Array) -> AnyArray:
        keys: AnyArray = np.ascontiguousarray(rows).reshape(-1).view(self._dtype)
        return keys
