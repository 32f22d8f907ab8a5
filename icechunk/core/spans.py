"""Chunk coordinates as ranges that people can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icechunk.format.chunk_table import sorted_unique

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import I64Array, U32Array

Span = list[list[int]]
"""A box of chunks: half-open ``[start, stop]`` along each axis."""


def grid_spans(coordinates: U32Array | Sequence[Sequence[int]]) -> list[Span]:
    """Cover chunk coordinates with disjoint boxes.

    Parameters
    ----------
    coordinates : ndarray of uint32, shape (n, ndim), or sequence of sequence of int
        Chunk positions, all with the same number of axes; unit: chunks.

    Returns
    -------
    list of list of [int, int]
        Boxes in C order whose union is exactly the given chunks; not always the fewest. A scalar's
        single chunk is one empty box.

    Notes
    -----
    Boxes grow along the last axis first, then equal ones that touch are joined along the axis
    before it, and so on. Cost: O(n log n) for each axis, in columns.
    """
    if not len(coordinates):
        return []
    coords = np.asarray(coordinates, np.uint32)
    if not coords.shape[1]:
        return [[]]
    starts = sorted_unique(coords).astype(np.int64)
    boxes = np.stack([starts, starts + 1], axis=-1)
    for axis in reversed(range(boxes.shape[1])):
        boxes = _joined(boxes, axis)
    order = np.lexsort(boxes[:, ::-1, 0].T)
    spans: list[Span] = boxes[order].tolist()
    return spans


def _joined(boxes: I64Array, axis: int) -> I64Array:
    """Join boxes that touch along one axis and agree in all others; shape ``(n, ndim, 2)``."""
    others = np.delete(boxes, axis, axis=1).reshape(len(boxes), -1)
    order = np.lexsort((boxes[:, axis, 0], *others.T[::-1]))
    boxes, others = boxes[order], others[order]
    touches = (others[1:] == others[:-1]).all(axis=1)
    touches &= boxes[1:, axis, 0] == boxes[:-1, axis, 1]
    first = np.flatnonzero(np.append(True, ~touches))
    last = np.append(first[1:] - 1, len(boxes) - 1)
    joined = boxes[first]
    joined[:, axis, 1] = boxes[last, axis, 1]
    return joined


def span_text(span: Span) -> str:
    """Return a box as people write it: ``[0:24, 0, 3:5]``."""
    sides = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in span]
    return f"[{', '.join(sides)}]"


def spans_text(coordinates: U32Array | Sequence[Sequence[int]], most: int) -> str:
    """Return chunk coordinates as at most so many boxes, and how many more there are."""
    spans = grid_spans(coordinates)
    shown = ", ".join(map(span_text, spans[:most]))
    more = len(spans) - most
    return f"{shown} and {more:,} more ranges" if more > 0 else shown
