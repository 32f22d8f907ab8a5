"""Expiration: releasing old snapshots from the history.

Source: Icechunk specification, section "Expiration".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.assets.refs import update_repo
from icechunk.core.expiry import expired
from icechunk.format.repo_info import ExpirationRan, RepoInfo, UpdateKind

if TYPE_CHECKING:
    from icechunk.assets.manager import AssetManager
    from icechunk.ids import ObjectId


async def expire_snapshots(
    assets: AssetManager, older_than_us: int, *, delete_branches: bool, delete_tags: bool
) -> frozenset[ObjectId]:
    """Release snapshots committed before a time, in one update of the repo object.

    Returns
    -------
    frozenset of ObjectId
        Released snapshots; their files stay until garbage is collected.

    Notes
    -----
    Concurrency: when somebody else changes the repo object meanwhile, the plan is made anew.
    """
    released: frozenset[ObjectId] = frozenset()

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        nonlocal released
        after, released = expired(
            info, older_than_us, delete_branches=delete_branches, delete_tags=delete_tags
        )
        return after, ExpirationRan()

    await update_repo(assets, change)
    return released
