"""Which manifests of one region a commit joins with its own, so that appending stays cheap.

A region of the chunk grid may have several manifests, as long as they do not overlap. An append
then need not write again what all appends before it wrote: it joins a small last manifest until
that is large enough to be left alone. What so accumulates is joined in turn, eight at a time, as in
a log-structured merge tree: the number of manifests grows with the logarithm of the references, and
each reference is written again only that often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from icechunk._typing import AnyArray, BoolArray, I64Array

SMALL_MANIFEST: Final = 1024
"""Below so many references a manifest is joined by the next that is written beside it."""

MANIFESTS_PER_TIER: Final = 8
"""So many manifests of about the same size become one."""


def manifests_to_join(
    extents: I64Array, box: I64Array, count: int, small: int = SMALL_MANIFEST
) -> BoolArray:
    """Decide which manifests of a region are read and written again with some changes.

    Parameters
    ----------
    extents : ndarray of int64, shape (n, ndim, 2)
        Half-open extents of the region's manifests; unit: chunks.
    box : ndarray of int64, shape (ndim, 2)
        The smallest half-open box around the changes.
    count : int
        How many chunks change; at least 1.
    small : int
        References below which a manifest is joined by the next; at least 1.

    Returns
    -------
    ndarray of bool, shape (n,)
        Those that overlap the changes, or what is joined with them, and so many others that few
        manifests of one tier are left.

    Notes
    -----
    The volume of its extents stands for how many references a manifest has; a sparse one has less.
    Cost: O(n) for each manifest that is joined.
    """
    join = np.zeros(len(extents), np.bool_)
    volumes = np.prod(extents[:, :, 1] - extents[:, :, 0], axis=1, dtype=np.float64)
    tiers = _tiers(volumes, small)
    low, high = box[:, 0].copy(), box[:, 1].copy()
    size = float(count)
    while True:
        overlaps = ((extents[:, :, 0] < high) & (extents[:, :, 1] > low)).all(axis=1)
        more = overlaps & ~join
        if not more.any():
            tier = _tiers(np.array([size]), small)[0]
            more = ~join & (tiers == tier)
            if tier and np.count_nonzero(more) < MANIFESTS_PER_TIER - 1:
                return join
            if not more.any():
                return join
        join |= more
        size += volumes[more].sum()
        low = np.minimum(low, extents[more][:, :, 0].min(axis=0))
        high = np.maximum(high, extents[more][:, :, 1].max(axis=0))


def _tiers(volumes: AnyArray, small: int) -> I64Array:
    """Return 0 for less than ``small``, 1 from there on, 2 from eight times that on, and so on."""
    steps = np.log(np.maximum(volumes / small, 1 / 2)) / np.log(MANIFESTS_PER_TIER)
    tiers: I64Array = np.floor(steps + 1e-9).astype(np.int64) + 1
    return np.maximum(tiers, 0)
