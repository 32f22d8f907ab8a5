"""Which manifests a commit keeps, reads again and writes.

Source: Icechunk specification, sections "Splitting" and "What a commit does to manifests". A chunk
grid is cut into regions, one manifest each; the manifests of one array never overlap, because a
reader looks only into the first whose extents contain a coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.core.manifest_tiers import manifests_to_join
from icechunk.format.chunk_table import ChunkTable, merged, overlay, rows_by_coordinate
from icechunk.manifest_config import UNSPLIT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from icechunk._typing import BoolArray, I64Array, U32Array
    from icechunk.format.snapshot import ManifestRefs, NodeSnapshot
    from icechunk.resolved_config import SplittingRules

DEFAULT_REFERENCES_PER_MANIFEST: Final = 65_536
"""Bound of a manifest where no splitting is configured; see `default_split`."""


@dataclass(frozen=True, slots=True, eq=False)
class ManifestPlan:
    """What a commit does with the manifests an array had.

    Parameters
    ----------
    keep : ndarray of int64
        Rows of the old `ManifestRefs` that stay as they are.
    load : ndarray of int64
        Rows whose references must be read and written again.
    """

    keep: I64Array
    load: I64Array

    @classmethod
    def rewriting(cls, old: ManifestRefs) -> ManifestPlan:
        """Return the plan that keeps nothing and reads everything."""
        return cls(np.zeros(0, np.int64), np.arange(len(old.ids), dtype=np.int64))


def split_of(node: NodeSnapshot, rules: SplittingRules | None) -> tuple[int, ...]:
    """Return chunks per manifest along each axis of an array, as configured or by default."""
    if rules is None:
        return default_split(tuple(dim.num_chunks for dim in node.shape))
    return rules.split_for(node.path, node.dimension_names, len(node.shape))


def default_split(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Return chunks per manifest along each axis for an array without configured splitting.

    Parameters
    ----------
    grid : tuple of int
        Chunks along each axis; unit: chunks.

    Returns
    -------
    tuple of int
        Whole trailing axes as long as their product stays within
        `DEFAULT_REFERENCES_PER_MANIFEST`, then a slab of the next axis, then one of each before.
        The leading axis is always cut, where the rest leaves room.

    Notes
    -----
    A change of one chunk so rewrites a bounded number of references however large the array. The
    cuts do not depend on the length of the leading axis, so appending along it moves none.
    """
    sizes: list[int] = []
    room = DEFAULT_REFERENCES_PER_MANIFEST
    for axis in range(len(grid) - 1, 0, -1):
        whole = grid[axis] <= room
        sizes.append(UNSPLIT if whole else room)
        room = max(1, room // max(1, grid[axis])) if whole else 1
    return (room, *reversed(sizes)) if grid else ()


def plan_manifests(
    old: ManifestRefs,
    changed: U32Array,
    grid: tuple[int, ...],
    split: tuple[int, ...],
    *,
    small: int = 0,
) -> ManifestPlan:
    """Decide which old manifests stay.

    Parameters
    ----------
    old : ManifestRefs
        The array's manifests in the base snapshot.
    changed : ndarray of uint32, shape (n, ndim)
        Coordinates set or deleted.
    grid : tuple of int
        The new chunk grid; unit: chunks.
    split : tuple of int
        Chunks per manifest along each axis.
    small : int
        Let a region have several manifests where the changes overlap none of them, as
        `icechunk.core.manifest_tiers` decides with this least size; unit: references. With 0 a
        region has one manifest, as who configured the splitting wants it.

    Returns
    -------
    ManifestPlan
        A manifest stays when it lies within one region of the grid and nothing in that region
        changes; otherwise its references are read and written again, but for ``small``.
    """
    count = len(old.ids)
    if old.extents.shape[1] != len(grid):
        # The array's rank changed: no old coordinate lies in the new grid.
        return ManifestPlan(np.zeros(0, np.int64), np.zeros(0, np.int64))
    low, high = _regions_of(old.extents, split)
    whole = (low == high).all(axis=1) & _inside(old.extents, grid)
    boxes = [(low[row], high[row]) for row in np.flatnonzero(~whole)]
    touched = np.zeros(count, np.bool_)
    for box_low, box_high in boxes:
        touched |= ((low >= box_low) & (low <= box_high)).all(axis=1)
    if len(changed) and count:
        rows_by_region: dict[tuple[int, ...], list[int]] = {}
        for row, region in enumerate(low.tolist()):
            rows_by_region.setdefault(tuple(region), []).append(row)
        for region, coords in _by_region(changed, split):
            rows = np.array(rows_by_region.get(region, ()), np.int64)
            # A manifest of several regions is written again in each of them.
            if small and len(rows) and whole[rows].all() and not touched[rows].any():
                extents = old.extents[rows].astype(np.int64)
                rows = rows[manifests_to_join(extents, *_box(coords), small)]
            touched[rows] = True
    load = ~whole | touched
    return ManifestPlan(np.flatnonzero(~load), np.flatnonzero(load))


def _by_region(
    changed: U32Array, split: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], U32Array]]:
    """Yield each region in which something changes, and the coordinates of that."""
    regions = _regions(changed, split)
    if not split or bool((regions == regions[0]).all()):
        yield tuple(regions[0].tolist()), changed
        return
    for rows in rows_by_coordinate(regions):
        coords = changed[rows]
        yield tuple((coords[0] // np.array(split, np.uint32)).tolist()), coords


def _box(coords: U32Array) -> tuple[I64Array, int]:
    """Return the half-open box around coordinates, shape (ndim, 2), and how many there are."""
    wide = coords.astype(np.int64)
    return np.stack([wide.min(axis=0), wide.max(axis=0) + 1], axis=1), len(coords)


def _regions_of(extents: U32Array, split: tuple[int, ...]) -> tuple[I64Array, I64Array]:
    size = np.array(split, np.int64)
    bounds = extents.astype(np.int64)
    return bounds[:, :, 0] // size, (bounds[:, :, 1] - 1) // size


def _inside(extents: U32Array, grid: tuple[int, ...]) -> BoolArray:
    return (extents[:, :, 1] <= np.array(grid, np.int64)).all(axis=1)


def split_table(
    loaded: Sequence[ChunkTable], changes: ChunkTable, grid: tuple[int, ...], split: tuple[int, ...]
) -> list[ChunkTable]:
    """Lay changes over old references and cut the result into one table per manifest to write.

    Parameters
    ----------
    loaded : sequence of ChunkTable
        The references of the manifests that `plan_manifests` wants read.
    changes : ChunkTable
        What the session set and deleted.
    grid, split : tuple of int
        As for `plan_manifests`.

    Returns
    -------
    list of ChunkTable
        Non-empty, one for each region that has references; references outside the grid are gone.
    """
    ndim = len(grid)
    older = merged([ChunkTable.empty(ndim), *(t for t in loaded if t.ndim == ndim)])
    table = overlay(older, changes).without_deleted()
    # An axis without chunks still has the coordinate 0 (specification, "Node changes").
    box = np.array([(0, max(1, chunks)) for chunks in grid], np.uint64).reshape(ndim, 2)
    inside = table.within(box)  # type: ignore[arg-type]
    if not bool(inside.all()):
        table = table.take(inside)
    if not len(table):
        return []
    regions = _regions(table.coords, split)
    if ndim == 0 or bool((regions == regions[0]).all()):
        return [table]
    return [table.take(rows) for rows in rows_by_coordinate(regions)]


def _regions(coords: U32Array, split: tuple[int, ...]) -> U32Array:
    return coords // np.array(split, np.uint32)
