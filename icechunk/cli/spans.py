"""Chunk coordinates as ranges that people can read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Span = list[list[int]]
"""A box of chunks: half-open ``[start, stop]`` along each axis."""


def grid_spans(coordinates: Iterable[Sequence[int]]) -> list[Span]:
    """Cover chunk coordinates with disjoint boxes.

    Parameters
    ----------
    coordinates : iterable of sequence of int
        Chunk positions, all with the same number of axes; each once.

    Returns
    -------
    list of list of [int, int]
        Boxes in C order whose union is exactly the given chunks; not always the fewest. A scalar's
        single chunk is one empty box.

    Notes
    -----
    Boxes grow along the last axis first, then equal ones that touch are joined along the axis
    before it, and so on. Cost: O(n log n) for each axis.
    """
    rows = sorted({tuple(c) for c in coordinates})
    boxes = [tuple((i, i + 1) for i in row) for row in rows]
    if not boxes or not boxes[0]:
        return [[list(side) for side in box] for box in boxes]
    for axis in reversed(range(len(boxes[0]))):
        boxes = _joined(boxes, axis)
    return [[list(side) for side in box] for box in sorted(boxes)]


def _joined(
    boxes: list[tuple[tuple[int, int], ...]], axis: int
) -> list[tuple[tuple[int, int], ...]]:
    """Join boxes that touch along one axis and agree in all others."""
    joined: list[tuple[tuple[int, int], ...]] = []
    for box in sorted(boxes, key=lambda b: (b[:axis], b[axis + 1 :], b[axis])):
        last = joined[-1] if joined else None
        if (
            last is not None
            and last[:axis] == box[:axis]
            and last[axis + 1 :] == box[axis + 1 :]
            and last[axis][1] == box[axis][0]
        ):
            joined[-1] = (*box[:axis], (last[axis][0], box[axis][1]), *box[axis + 1 :])
        else:
            joined.append(box)
    return joined


def span_text(span: Span) -> str:
    """Return a box as people write it: ``[0:24, 0, 3:5]``."""
    sides = [str(start) if stop == start + 1 else f"{start}:{stop}" for start, stop in span]
    return f"[{', '.join(sides)}]"
