"""Copying and checking many byte strings at once, without a Python object for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from icechunk._typing import I64Array, U8Array

# Strings up to this size are copied together with all others of the same size.
_LARGEST_GROUPED_BYTES: Final = 1024


def copy_strings(
    out: U8Array, positions: I64Array, data: bytes | memoryview, start: I64Array, size: I64Array
) -> None:
    """Copy byte strings out of one buffer into another.

    Parameters
    ----------
    out : ndarray of uint8
        Buffer to write to.
    positions : ndarray of int64, shape (n,)
        Where each string goes in ``out``; unit: bytes.
    data : bytes
        Buffer to read from.
    start, size : ndarray of int64, shape (n,)
        Where each string is in ``data``; unit: bytes. Must be inside; not checked.

    Notes
    -----
    Strings of one size are one numpy assignment, so a million short ones take about 30 ms.
    """
    if not len(start):
        return
    source = np.frombuffer(data, np.uint8)
    small = np.flatnonzero(size <= _LARGEST_GROUPED_BYTES)
    order = small[np.argsort(size[small].astype(np.uint16), kind="stable")]
    counts = np.bincount(size[small], minlength=1)
    stop = 0
    for width in np.flatnonzero(counts).tolist():
        first, stop = stop, stop + int(counts[width])
        if width == 0:
            continue
        rows = order[first:stop]
        # Views in which item i is the string of this width that starts at byte i.
        source_items = np.ndarray((len(source) - width + 1,), f"V{width}", source, 0, (1,))
        out_items = np.ndarray((len(out) - width + 1,), f"V{width}", out, 0, (1,))
        out_items[positions[rows]] = source_items[start[rows]]
    for row in np.flatnonzero(size > _LARGEST_GROUPED_BYTES).tolist():
        to, at, width = int(positions[row]), int(start[row]), int(size[row])
        out[to : to + width] = source[at : at + width]


def joined(data: bytes | memoryview, start: I64Array, size: I64Array) -> bytearray:
    """Return byte strings of one buffer one after the other."""
    stop = np.cumsum(size)
    out = bytearray(int(stop[-1]) if len(stop) else 0)
    copy_strings(np.frombuffer(out, np.uint8), stop - size, data, start, size)
    return out


def utf8_problem(data: bytes | bytearray, start: I64Array) -> str | None:
    """Say what is wrong with UTF-8 strings that lie one after the other.

    Parameters
    ----------
    data : bytes or bytearray
        All strings, and nothing else.
    start : ndarray of int64, shape (n,)
        Where each string that is not empty begins; unit: bytes.

    Returns
    -------
    str or None
        None when every string is UTF-8.
    """
    if data.isascii():
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8: {error.reason}"
    # All together are UTF-8, so each is, unless one begins inside a character.
    heads = np.frombuffer(data, np.uint8)[start]
    return "not UTF-8: begins inside a character" if bool(((heads & 0xC0) == 0x80).any()) else None
