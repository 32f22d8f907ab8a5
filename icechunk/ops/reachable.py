"""Which snapshots branches and tags lead to, in either version of the format.

Source: Icechunk specification, sections "Garbage collection" and "References in v1".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icechunk.assets.manager import AssetManager
from icechunk.assets.ref_files import read_ref_files
from icechunk.assets.refs import read_state
from icechunk.core.expiry import reachable
from icechunk.core.id_columns import id_column

if TYPE_CHECKING:
    from icechunk._typing import U8Array
    from icechunk.ids import ObjectId


async def reachable_snapshots(assets: AssetManager) -> U8Array:
    """Return the ids of all snapshots that a branch or a tag leads to.

    Parameters
    ----------
    assets : AssetManager
        Of the repository.

    Returns
    -------
    numpy.ndarray
        Shape ``(n, 12)``; every id once, in no order that means anything.

    Raises
    ------
    StorageError, FormatError
        Version 1: a snapshot on the way is missing or damaged.
    SessionStateError
        Kind ``not-allowed``; it was opened as version 1 and has been upgraded since.
    """
    if assets.spec_version == 1:
        return id_column(sorted(await _in_version_1(assets)))
    info = (await read_state(assets)).info
    tips = (*info.branches.values(), *info.tags.values())
    found: U8Array = info.snapshots.ids[np.flatnonzero(reachable(info.snapshots, tips))]
    return found


async def _in_version_1(assets: AssetManager) -> set[ObjectId]:
    # Expiration changes snapshot files in place, so none that was read earlier is trusted.
    refs = await read_ref_files(AssetManager(assets.storage, assets.config, 1))
    await refs.folder.require_in_use()
    tips = [await refs.tip_of_branch(name) for name in await refs.branches()]
    tips += [await refs.target_of_tag(name) for name in await refs.tags()]
    found: set[ObjectId] = set()
    for tip in tips:
        async for record in refs.ancestors(tip):
            if record.id in found:
                break
            found.add(record.id)
    return found
