"""Diffs over several commits, where the logs do not speak of the same kind of coordinates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import zarr

import icechunk as ic


@pytest.fixture
def repo() -> ic.Repository:
    repo = ic.Repository.create(ic.in_memory_storage())
    with repo.transaction("main", message="first") as store:
        zarr.create_array(store, name="a", shape=(4, 4), chunks=(2, 2), dtype="i4")[:] = 1
    return repo


def set_corner(repo: ic.Repository, value: int) -> ic.Session:
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[:2, :2] = value
    return session


def test_an_array_takes_the_place_of_one_of_another_rank(repo: ic.Repository) -> None:
    first = repo.lookup_branch("main")
    set_corner(repo, 2).commit("corner")
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=4, chunks=2, dtype="i4", overwrite=True)[:] = 3
    assert session.status().updated_chunks == {"/a": [[0], [1]]}
    session.commit("replaced")
    diff = repo.diff(from_snapshot_id=first, to_branch="main")
    assert (diff.new_arrays, diff.deleted_arrays) == ({"/a"}, {"/a"})
    assert diff.updated_chunks == {"/a": [[0], [0, 0], [1]]}


def test_all_chunks_of_an_array_were_dropped_by_a_rebase(repo: ic.Repository) -> None:
    first = repo.lookup_branch("main")
    ours = set_corner(repo, 3)
    theirs = set_corner(repo, 2).commit("theirs")
    solver = ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseTheirs)
    dropped = ours.commit("ours", rebase_with=solver)
    assert repo.diff(from_snapshot_id=theirs, to_branch="main").updated_chunks == {"/a": []}
    assert repo.diff(from_snapshot_id=first, to_branch="main").updated_chunks == {"/a": [[0, 0]]}
    assert repo.diff(from_snapshot_id=first, to_snapshot_id=dropped).updated_chunks == {
        "/a": [[0, 0]]
    }
    # What it took the place of is in the log that stands for several commits.
    repo.expire_snapshots(datetime.now(UTC) + timedelta(days=1))
    (array,) = repo.inspect_transaction_log(dropped)["updated_chunks"]
    assert array["chunks"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
