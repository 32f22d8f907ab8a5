"""Which chunk coordinates an array has.

Source: Icechunk specification, section "Node changes in a session". A dimension without chunks
still has index 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from icechunk.format.chunk_table import Coordinate
    from icechunk.format.snapshot import NodeSnapshot


def grid_of(node: NodeSnapshot) -> tuple[int, ...]:
    """Return how many chunk positions an array has along each dimension."""
    return tuple(max(1, dim.num_chunks) for dim in node.shape)


def in_grid(node: NodeSnapshot, coord: Coordinate) -> bool:
    """Say whether a coordinate lies in an array's chunk grid."""
    shape = node.shape
    if len(coord) != len(shape):
        return False
    for index, dim in zip(coord, shape, strict=True):  # a generator takes twice the time
        if index and index >= dim.num_chunks:
            return False
    return True


def check_coordinate(node: NodeSnapshot, coord: Coordinate) -> None:
    """Refuse a coordinate outside the chunk grid.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-chunk-index``; the message names the array, the chunk and the grid.
    """
    if in_grid(node, coord):
        return
    grid = tuple(dim.num_chunks for dim in node.shape)
    raise InvalidInputError(
        f"chunk {tuple(coord)} is outside the chunk grid {grid} of {node.path}. Resize the array "
        "first, or check the index.",
        ErrorKind.INVALID_CHUNK_INDEX,
    )
