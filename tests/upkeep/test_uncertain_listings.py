"""Listings that lag behind and clocks that differ: nothing that is needed is ever deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from tests.faults import UncertainListing

if TYPE_CHECKING:
    from icechunk.storage.base import Storage

HOUR = timedelta(hours=1)


def history(storage: Storage) -> ic.Repository:
    """Return a repository with three commits on main and a branch that was deleted."""
    repo = ic.Repository.create(storage)
    session = repo.writable_session("main")
    array = zarr.create_array(
        session.store, name="a", shape=(4000,), chunks=(1000,), dtype="f8", compressors=None
    )
    array[:] = 0.0  # zarr stores no chunks that are all fill value
    session.commit("0")
    for number in (1, 2):
        session = repo.writable_session("main")
        zarr.open_array(session.store, path="a")[:] = float(number)
        session.commit(str(number))
    repo.create_branch("other", repo.lookup_branch("main"))
    session = repo.writable_session("other")
    zarr.open_array(session.store, path="a")[:] = 9.0
    session.commit("other")
    repo.delete_branch("other")
    return repo


def values(repo: ic.Repository) -> list[float]:
    found = []
    for snapshot in list(repo.ancestry(branch="main"))[:-1]:  # the first of all is empty
        session = repo.readonly_session(snapshot_id=snapshot.id)
        data: Any = zarr.open_array(session.store, path="a", mode="r")[:]
        assert len(np.unique(data)) == 1
        found.append(float(data[0]))
    return found


@pytest.mark.parametrize(
    "how", [{"every": 2}, {"every": 3}, {"ghosts": True}, {"every": 2, "ghosts": True}]
)
def test_listings_that_lag_behind(how: dict[str, Any]) -> None:
    inner = ic.in_memory_storage()
    repo = history(UncertainListing(inner, **how))
    for _ in range(3):  # the second time everything that was deleted may be listed again
        repo.garbage_collect(datetime.now(UTC) + HOUR)
        assert values(repo) == [2.0, 1.0, 0.0]
    # What a listing left out is found the next time.
    direct = ic.Repository.open(inner)
    direct.garbage_collect(datetime.now(UTC) + HOUR)
    assert values(direct) == [2.0, 1.0, 0.0]
    assert len(inner.list_objects(prefix="chunks")) == 8


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_clocks_that_differ(skew: timedelta) -> None:
    """The cut-off is compared with the storage's clock; what is reachable stays in any case."""
    inner = ic.in_memory_storage()
    storage = UncertainListing(inner, skew_us=round(skew / timedelta(microseconds=1)))
    repo = history(storage)
    kept = inner.list_objects(prefix="chunks")
    repo.garbage_collect(datetime.now(UTC) + skew - timedelta(minutes=10))
    assert inner.list_objects(prefix="chunks") == kept  # all are younger, by that clock
    repo.garbage_collect(datetime.now(UTC) + 3 * HOUR)
    assert values(repo) == [2.0, 1.0, 0.0]
    assert len(inner.list_objects(prefix="chunks")) == 8
