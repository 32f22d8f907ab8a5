"""Expiration of a version 1 repository, run under either implementation."""

from __future__ import annotations

import time
from typing import Any

import zarr

import icechunk as ic

CUTS = ["c1", "b1", "c3", "c4", "c5"]
ROOT = "1CECHNKREP0F1RSTCMT0"


def shortened(place: str, cut: str, delete: bool) -> dict[str, Any]:
    """Make a small history, expire what is older than one commit, and tell what is left."""
    storage = ic.local_filesystem_storage(place)
    repo = ic.Repository.create(storage, spec_version=1)
    ids = {}

    def commit(branch: str, name: str) -> None:
        session = repo.writable_session(branch)
        zarr.create_group(session.store, path=name)
        ids[name] = session.commit(name)
        time.sleep(0.002)

    commit("main", "c1")
    commit("main", "c2")
    repo.create_tag("t1", ids["c1"])
    repo.create_branch("b", ids["c2"])
    commit("b", "b1")
    repo.create_branch("old", ids["c2"])
    commit("main", "c3")
    repo.create_tag("t3", ids["c3"])
    commit("main", "c4")
    commit("main", "c5")
    when = repo.lookup_snapshot(ids[cut]).written_at
    released = repo.expire_snapshots(
        when, delete_expired_branches=delete, delete_expired_tags=delete
    )
    names = {snapshot_id: name for name, snapshot_id in ids.items()} | {ROOT: "root"}
    left = ic.Repository.open(storage)

    def line(**at: str) -> list[str]:
        return [names[snapshot.id] for snapshot in left.ancestry(**at)]

    return {
        "released": sorted(names[snapshot_id] for snapshot_id in released),
        "branches": {name: line(branch=name) for name in sorted(left.list_branches())},
        "tags": {name: line(tag=name) for name in sorted(left.list_tags())},
    }


def all_cases(place: str) -> dict[str, Any]:
    """Return what is left in every case."""
    return {
        f"{cut} {delete}": shortened(f"{place}/{cut}-{delete}", cut, delete)
        for cut in CUTS
        for delete in (False, True)
    }
