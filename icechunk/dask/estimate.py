"""What a write will cost in requests and bytes, guessed before it is made.

The figures behind the guesses were measured on manifests of 1 to 50,000 references in one to four
dimensions; `tests/dask_layer/test_estimates.py` holds them against real writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.assets.chunk_pack import ChunkPack
from icechunk.core.manifest_tiers import SMALL_MANIFEST
from icechunk.core.manifests import default_split, plan_manifests
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk.dask.grid import AxisGrid
    from icechunk.format.snapshot import ManifestRefs
    from icechunk.resolved_config import SplittingRules
    from icechunk.session import Session

COMMIT_REQUESTS: Final = 5
"""Read and write the repository file, keep its old version, write snapshot and transaction log."""

_MANIFEST_BYTES: Final = 150
_REFERENCE_BYTES: Final = 22
# Chunks in one object share its id.
_PACKED_REFERENCE_BYTES: Final = 9
# The bytes of an inline chunk are beside its coordinates, without an id.
_INLINE_REFERENCE_BYTES: Final = 10
_CHANGE_SET_BYTES: Final = 370
_CHANGED_REFERENCE_BYTES: Final = 15
_INLINE_THRESHOLD_BYTES: Final = 512
# Beyond that the chunks are not listed one by one to see which manifests they are in.
_MOST_CHUNKS_LISTED: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the write of one variable is likely to cost.

    Parameters
    ----------
    requests : int
        Requests to storage.
    upload_bytes : int
        Bytes of chunks before compression; chunks in manifests are not uploaded by themselves.
    manifest_bytes : int
        Bytes of the manifests that are written.
    wire_bytes : int
        Bytes of the change sets that tasks return.
    """

    requests: int = 0
    upload_bytes: int = 0
    manifest_bytes: int = 0
    wire_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPlace:
    """What a repository has, or is told to do, where an array goes.

    Parameters
    ----------
    manifests : ManifestRefs or None
        Of the array in the base snapshot; None for a new one.
    splitting : SplittingRules or None
        How manifests are cut, as configured.
    inline_threshold_bytes : int
        Chunks up to this size are kept in the manifest.
    pack_bytes : int
        How large objects may grow that small chunks share; 0 where each is an object.
    path : str
        Path of the array.
    """

    path: str
    manifests: ManifestRefs | None = None
    splitting: SplittingRules | None = None
    inline_threshold_bytes: int = _INLINE_THRESHOLD_BYTES
    pack_bytes: int = 0

    @classmethod
    def of(cls, session: Session | IcechunkStore | None, path: str) -> ArrayPlace:
        """Look at a session, which must have been read from, or at nothing."""
        if session is None:
            return cls(path=path)
        owner = session.session if isinstance(session, IcechunkStore) else session
        checkout = owner.checkout
        node = checkout.base.nodes.get(path)
        config = checkout.assets.config
        return cls(
            path=path,
            manifests=None if node is None else node.manifests,
            splitting=config.splitting,
            inline_threshold_bytes=config.inline_chunk_threshold_bytes,
            pack_bytes=checkout.assets.storage.pack_bytes,
        )


def estimate_write(
    grids: Sequence[AxisGrid],
    start: Sequence[int],
    shape: Sequence[int],
    *,
    dims: Sequence[str],
    item_bytes: int,
    tasks: int,
    place: ArrayPlace,
) -> Estimate:
    """Guess what writing a region of one array costs.

    Parameters
    ----------
    grids : sequence of AxisGrid
        The chunks of the array, which has its new shape.
    start, shape : sequence of int
        The region; unit: elements.
    dims : sequence of str
        Names of the dimensions.
    item_bytes : int
        Bytes of one element as it is encoded, before compression.
    tasks : int
        Tasks that write.
    place : ArrayPlace
        Where the array goes.

    Returns
    -------
    Estimate
        Exact for requests and uploaded bytes where no chunk is left out for being empty and none
        is compressed below the inline threshold.
    """
    spans = [
        (grid.chunk_index(at), grid.chunk_index(at) + grid.chunk_count(at, at + n))
        for grid, at, n in zip(grids, start, shape, strict=True)
    ]
    chunks = math.prod(stop - first for first, stop in spans)
    if not chunks:
        return Estimate()
    chunk_bytes = math.prod(grid.mean_chunk() for grid in grids) * item_bytes
    inline = chunk_bytes <= place.inline_threshold_bytes
    whole = math.prod(
        grid.whole_chunk_count(at, at + n) for grid, at, n in zip(grids, start, shape, strict=True)
    )
    uploads = 0 if inline else chunks
    downloads = 0 if inline or place.manifests is None else chunks - whole
    written, loaded, references = _manifests(grids, spans, dims, place)
    if inline:
        reference_bytes = chunk_bytes + _INLINE_REFERENCE_BYTES
    elif ChunkPack.takes(math.ceil(chunk_bytes), place.pack_bytes):
        reference_bytes = _PACKED_REFERENCE_BYTES
    else:
        reference_bytes = _REFERENCE_BYTES
    per_change = chunk_bytes if inline else 0
    return Estimate(
        requests=uploads + downloads + written + loaded,
        upload_bytes=round(uploads * chunk_bytes),
        manifest_bytes=round(written * _MANIFEST_BYTES + references * reference_bytes),
        wire_bytes=round(
            tasks * _CHANGE_SET_BYTES + chunks * (_CHANGED_REFERENCE_BYTES + per_change)
            if tasks
            else 0
        ),
    )


def _manifests(
    grids: Sequence[AxisGrid],
    spans: Sequence[tuple[int, int]],
    dims: Sequence[str],
    place: ArrayPlace,
) -> tuple[int, int, int]:
    """Return manifests written, manifests read, and references written."""
    grid = tuple(axis.chunk_count(0, axis.length) for axis in grids)
    if place.splitting is None:
        split = default_split(grid)
    else:
        split = place.splitting.split_for(place.path, tuple(dims), len(grid))
    written = math.prod(
        (stop - 1) // n - first // n + 1 for (first, stop), n in zip(spans, split, strict=True)
    )
    chunks = math.prod(stop - first for first, stop in spans)
    old = place.manifests
    if old is None or not len(old.ids) or old.extents.shape[1] != len(grid):
        return written, 0, chunks
    box = np.array(spans, np.int64).reshape(-1, 2)
    bounds = old.extents.astype(np.int64)
    if chunks <= _MOST_CHUNKS_LISTED:
        lengths = [stop - first for first, stop in spans]
        within = np.indices(lengths, np.uint32).reshape(len(spans), chunks).T
        coords = within + box[:, 0].astype(np.uint32)
        small = SMALL_MANIFEST if place.splitting is None else 0
        bounds = bounds[plan_manifests(old, coords, grid, split, small=small).load]
    # What the loaded manifests have besides the chunks that are written.
    volume = np.prod(bounds[:, :, 1] - bounds[:, :, 0], axis=1)
    shared = np.minimum(bounds[:, :, 1], box[:, 1]) - np.maximum(bounds[:, :, 0], box[:, 0])
    besides = volume - np.prod(np.maximum(shared, 0), axis=1)
    return written, len(bounds), chunks + int(besides.sum())
