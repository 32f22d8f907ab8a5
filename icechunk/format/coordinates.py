"""Chunk coordinates as columns, read from vectors of numbers.

Source: Icechunk specification, sections "Manifest", "Transaction log" and "Behaviours of the
reference not to imitate".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from icechunk._typing import I64Array, U32Array
    from icechunk.format.fb.reader import Buffer

_BEYOND_ANY_GRID: Final = 2**32 - 1


def read_coordinates(
    buffer: Buffer, starts: I64Array, ranks: I64Array
) -> tuple[U32Array, I64Array | None]:
    """Return the coordinates of one array in order, each once.

    Parameters
    ----------
    buffer : Buffer
        File body.
    starts : ndarray of int64, shape (n,)
        Checked position of each coordinate's first number; unit: bytes.
    ranks : ndarray of int64, shape (n,)
        Numbers in each coordinate.

    Returns
    -------
    coords : ndarray of uint32, shape (m, ndim)
        In lexicographic order; unit: chunks. Coordinates of another rank than most have are left
        out: a defect of the reference writes them, and no chunk key leads to them.
    rows : ndarray of int64, shape (m,), or None
        Where each came from; None when nothing was left out or moved.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; a coordinate of 2**32 - 1, although a grid has at most that
        many chunks: the exclusive end of an extent could not be written.
    """
    if not len(starts):
        return np.zeros((0, 0), np.uint32), None
    ndim = int(ranks[0])
    rows: I64Array | None = None
    if bool((ranks != ndim).any()):
        found, counts = np.unique(ranks, return_counts=True)
        ndim = int(found[counts.argmax()])
        rows = np.flatnonzero(ranks == ndim)
        starts = starts[rows]
    coords: U32Array = np.zeros((len(starts), ndim), np.uint32)
    if ndim:
        items = buffer.gather(starts, f"V{4 * ndim}")
        coords = items.view("<u4").reshape(len(starts), ndim)
        if int(coords.max()) == _BEYOND_ANY_GRID:
            raise buffer.error("coordinates", "a coordinate is beyond what any grid can have")
    order = sorting_order(coords)
    if order is not None:
        rows = order if rows is None else rows[order]
        coords = coords[order]
    return coords, rows


def sorting_order(coords: U32Array) -> I64Array | None:
    """Return how to put coordinates in order, None when they are already.

    Parameters
    ----------
    coords : ndarray of uint32, shape (n, ndim)
        Chunk coordinates; unit: chunks.

    Returns
    -------
    ndarray of int64 or None
        Rows in lexicographic order; of equal coordinates only the last.
    """
    before, after = coords[:-1], coords[1:]
    rising = np.zeros(len(before), np.bool_)
    for axis in reversed(range(coords.shape[1])):
        a, b = before[:, axis], after[:, axis]
        rising = (b > a) | ((b == a) & rising)
    if bool(rising.all()):
        return None
    n, ndim = coords.shape
    order: I64Array = np.lexsort(coords.T[::-1]) if ndim else np.arange(n)
    ordered = coords[order]
    last = np.append((ordered[1:] != ordered[:-1]).any(axis=1), True)
    rows: I64Array = order[last]
    return rows
