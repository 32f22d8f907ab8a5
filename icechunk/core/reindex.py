"""Moving the chunks of an array to other coordinates, by reference.

Source: Icechunk specification, section "Node changes in a session" (shift_array, reindex_array).
Only references move; no chunk is read or written.
"""

from __future__ import annotations

import json
from operator import index
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.core.grid import grid_of
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.chunk_table import ChunkTable, Coordinate, overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from icechunk.format.snapshot import NodeSnapshot

    Remap = Callable[[list[int]], Iterable[int] | None]

_FARTHEST: Final = 2**32
"""A shift by this many chunks leaves every grid there can be."""


def within_grid(table: ChunkTable, node: NodeSnapshot) -> ChunkTable:
    """Return the references that lie in an array's grid; others do not exist any more."""
    box = np.array([(0, size) for size in grid_of(node)], np.uint64).reshape(table.ndim, 2)
    return table.take(table.within(box))  # type: ignore[arg-type]


def plan_shift(node: NodeSnapshot, table: ChunkTable, offset: Iterable[int]) -> ChunkTable:
    """Return the chunk changes that move every reference by the same offset.

    Parameters
    ----------
    node : NodeSnapshot
        The array.
    table : ChunkTable
        All its references, without deletions.
    offset : iterable of int
        How far along each dimension, of either sign; unit: chunks.

    Returns
    -------
    ChunkTable
        References at their new coordinates, and deletions where none arrived. What would leave the
        grid is gone.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-chunk-index``; an offset for another number of dimensions. Kind
        ``invalid-array-metadata``; the chunk grid is not regular.
    """
    steps = [max(-_FARTHEST, min(_FARTHEST, index(step))) for step in offset]
    if len(steps) != table.ndim:
        raise InvalidInputError(
            f"cannot shift {node.path} by {tuple(steps)}: it has {table.ndim} dimensions. Give "
            "one number of chunks for each.",
            ErrorKind.INVALID_CHUNK_INDEX,
        )
    grid_name = json.loads(node.user_data)["chunk_grid"]["name"]
    if grid_name != "regular":
        raise InvalidInputError(
            f"cannot shift {node.path}: its chunk grid is {grid_name}, so a chunk does not fit "
            "where another was. Only regular grids can be shifted.",
            ErrorKind.INVALID_ARRAY_METADATA,
        )
    target = table.coords.astype(np.int64) + np.array(steps, np.int64)
    inside = ((target >= 0) & (target < np.array(grid_of(node), np.int64))).all(axis=1)
    arrived = table.take(inside).relocated(target[inside])
    return overlay(ChunkTable.deleted(table.coords), arrived)


def plan_reindex(
    node: NodeSnapshot, table: ChunkTable, forward: Remap, backward: Remap | None
) -> ChunkTable:
    """Return the chunk changes that move each reference where a function says.

    Parameters
    ----------
    node : NodeSnapshot
        The array.
    table : ChunkTable
        All its references, without deletions.
    forward : callable
        New coordinate of a reference, None to let it stay; called once for each. Where several
        meet, the last one in the order of coordinates stays.
    backward : callable, optional
        Where the reference at a coordinate would come from. A coordinate that had a reference,
        gets none, and comes from nowhere or from an empty place, is cleared. Without it nothing is
        cleared: what is not written over keeps its reference.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-chunk-index``; a new coordinate outside the grid.
    """
    grid = grid_of(node)
    coords = table.coords.tolist()
    rows: list[int] = []
    targets: list[Coordinate] = []
    for row, coord in enumerate(coords):
        answer = forward(coord.copy())
        if answer is not None:
            rows.append(row)
            targets.append(_checked(answer, grid, node, coord))
    arrived = table.take(np.array(rows, np.int64)).relocated(
        np.array(targets, np.uint32).reshape(len(rows), table.ndim)
    )
    if backward is None:
        return arrived
    cleared = [
        row for row, coord in enumerate(coords) if not _is_filled(backward(coord.copy()), table)
    ]
    return overlay(ChunkTable.deleted(table.coords[cleared]), arrived)


def _checked(
    answer: Iterable[int], grid: tuple[int, ...], node: NodeSnapshot, source: list[int]
) -> Coordinate:
    target = tuple(index(number) for number in answer)
    if len(target) == len(grid) and all(
        0 <= number < size for number, size in zip(target, grid, strict=True)
    ):
        return target
    raise InvalidInputError(
        f"chunk {tuple(source)} of {node.path} cannot go to {target}: the chunk grid is {grid}. "
        "Return a coordinate in it, or None to let the chunk stay.",
        ErrorKind.INVALID_CHUNK_INDEX,
    )


def _is_filled(answer: Iterable[int] | None, table: ChunkTable) -> bool:
    if answer is None:
        return False
    source = tuple(index(number) for number in answer)
    return len(source) == table.ndim and min(source, default=0) >= 0 and table.find(source) >= 0
