"""Fetching the manifests that a session will most likely need, before it asks.

Source: Icechunk specification, section "Repository configuration" (``manifest.preload``).
Coordinate arrays are small and read by everybody who opens a dataset, so over a network their
manifests come while the caller is still busy with the metadata. Nothing depends on it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from icechunk._io.limits import gather_limited
from icechunk._io.loop import io_loop
from icechunk.errors import IcechunkError
from icechunk.format.snapshot import NodeKind
from icechunk.ids import ObjectId, id_text

if TYPE_CHECKING:
    from icechunk.assets.manager import AssetManager
    from icechunk.format.snapshot import NodeSnapshot, Snapshot
    from icechunk.resolved_config import PreloadRules

_CONCURRENT_READS: Final = 8

logger = logging.getLogger(__name__)


def manifests_to_preload(snapshot: Snapshot, rules: PreloadRules) -> list[ObjectId]:
    """Choose manifests by the configured conditions.

    Parameters
    ----------
    snapshot : Snapshot
        What a session was opened on.
    rules : PreloadRules
        Which arrays, how many of them to look at, and how many references in all.

    Returns
    -------
    list of ObjectId
        Manifests of the arrays whose condition holds, until the next array's references would
        pass the limit.
    """
    chosen: list[ObjectId] = []
    total = scanned = 0
    for path in snapshot.nodes.paths:
        if scanned >= rules.max_arrays_to_scan:
            break
        node = snapshot.nodes.get(path)
        if node is None or node.kind is not NodeKind.ARRAY:
            continue
        scanned += 1
        references = _references(node, snapshot)
        if not references or not rules.condition.matches(path, references):
            continue
        if total + references > rules.max_total_refs:
            break
        total += references
        chosen += [node.manifests.id_at(which) for which in range(len(node.manifests))]
    return chosen


def _references(node: NodeSnapshot, snapshot: Snapshot) -> int:
    """Return how many references an array's manifests hold, by the snapshot's records."""
    files = snapshot.manifest_files
    rows = [files.find(node.manifests.id_at(which)) for which in range(len(node.manifests))]
    return sum(int(files.num_chunk_refs[row]) for row in rows if row >= 0)


def start_preload(assets: AssetManager, snapshot: Snapshot) -> None:
    """Fetch the chosen manifests into the cache, on the I/O thread, without waiting for them.

    Does nothing over storage that answers at once, where there is no waiting to save.
    """
    if assets.storage.immediate:
        return
    chosen = manifests_to_preload(snapshot, assets.config.preload)
    if chosen:
        asyncio.run_coroutine_threadsafe(_fetch(assets, chosen), io_loop())


async def _fetch(assets: AssetManager, chosen: list[ObjectId]) -> None:
    async def one(manifest_id: ObjectId) -> None:
        try:
            await assets.manifest(manifest_id)
        except IcechunkError as e:
            # Whoever needs it will meet the same error, and be told.
            logger.debug("manifest %s was not preloaded: %s", id_text(manifest_id), e)

    await gather_limited(_CONCURRENT_READS, [one(manifest_id) for manifest_id in chosen])
