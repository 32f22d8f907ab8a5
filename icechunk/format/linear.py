"""Chunk coordinates as one sortable number each, for looking up and merging rows.

A coordinate's number is its position, in C order, within a box that holds all that is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from icechunk._typing import AnyArray, I64Array, U32Array

_LARGEST_KEY: Final = 2**63


class Linear:
    """The coordinates of a table as one sortable number each, within their bounding box."""

    __slots__ = ("bounds", "dense", "keys", "origin", "strides")

    def __init__(self, coords: U32Array, box: U32Array) -> None:
        self.bounds = [(int(low), int(high)) for low, high in box]
        self.origin, self.strides = strides_of(box)
        self.keys = keys_of(coords, self.origin, self.strides)
        volume = 1
        for low, high in self.bounds:
            volume *= high - low
        self.dense = volume == len(coords)

    def find(self, coord: tuple[int, ...]) -> int:
        """Return the row of a coordinate, -1 when it has none."""
        if self.strides is None:
            # numpy drops trailing NUL bytes of the keys it hands out, so they go here as well.
            wanted: Any = np.array(coord, ">u4").tobytes().rstrip(b"\0")
        else:
            wanted = 0
            for c, stride, (low, high) in zip(coord, self.strides, self.bounds, strict=True):
                if c < low or c >= high:
                    return -1
                wanted += (c - low) * stride
            if self.dense:
                return int(wanted)
            wanted = np.uint64(wanted)
        row = int(self.keys.searchsorted(wanted))
        return row if row < len(self.keys) and self.keys[row] == wanted else -1

    def find_many(self, coords: U32Array) -> I64Array:
        """Return the row of each coordinate; only where coordinates have numbers as keys."""
        inside = np.ones(len(coords), np.bool_)
        for column, (low, high) in zip(coords.T, self.bounds, strict=True):
            inside &= (column >= low) & (column < high)
        found = np.full(len(coords), -1, np.int64)
        wanted = keys_of(coords[inside], self.origin, self.strides)
        rows = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        found[inside] = np.where(self.keys[rows] == wanted, rows, -1)
        return found


def joint_box(*groups: U32Array) -> U32Array:
    """Return the half-open box that holds all coordinates, shape ``(ndim, 2)``; unit: chunks."""
    ndim = groups[0].shape[1]
    box = np.empty((ndim, 2), np.uint64)
    box[:, 0] = np.min([coords.min(axis=0) for coords in groups], axis=0)
    box[:, 1] = np.max([coords.max(axis=0) for coords in groups], axis=0) + np.uint64(1)
    return box  # type: ignore[return-value]


def strides_of(box: AnyArray) -> tuple[list[int], list[int] | None]:
    """Return origin and C-order strides of a box; no strides when its volume is too large."""
    origin = [int(low) for low in box[:, 0]]
    strides: list[int] = []
    volume = 1
    for low, high in box[::-1]:
        strides.insert(0, volume)
        volume *= int(high) - int(low)
    return origin, strides if volume < _LARGEST_KEY else None


def keys_of(coords: U32Array, origin: list[int], strides: list[int] | None) -> AnyArray:
    """Return one sortable key per coordinate, in the order of the coordinates themselves.

    A box too large for 64 bits falls back to the big-endian bytes of the coordinates.
    """
    if strides is None:
        return coords.astype(">u4").view(f"S{4 * coords.shape[1]}").reshape(len(coords))
    keys = np.zeros(len(coords), np.uint64)
    for axis, stride in enumerate(strides):
        keys += (coords[:, axis].astype(np.uint64) - np.uint64(origin[axis])) * np.uint64(stride)
    return keys
