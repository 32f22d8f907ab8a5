"""A commit that stops at any write leaves the old state or the new, and never a third."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import in_thread
from icechunk.errors import StorageError
from tests.faults import Died, FaultyStorage


class Waiting(FaultyStorage):
    """Makes writes wait a little, so that others can be under way, as on a network."""

    immediate = False

    def __init__(self, inner: ic.Storage) -> None:
        super().__init__(inner)
        self.under_way: list[str] = []
        self.beside: dict[str, list[str]] = {}

    async def _write(self, key: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        self.under_way.append(key)
        try:
            for _ in range(20):
                await asyncio.sleep(0)
            self.beside[key] = sorted(other for other in self.under_way if other != key)
            return await super()._write(key, method, *args, **kwargs)
        finally:
            self.under_way.remove(key)


def prepared(kind: type[FaultyStorage] = FaultyStorage) -> tuple[Any, ic.Repository]:
    storage = kind(ic.in_memory_storage())
    repo = ic.Repository.create(storage)
    with repo.transaction("main", message="first") as store:
        root = zarr.create_group(store)
        for name in ("a", "b"):
            array = root.create_array(
                name, shape=(4000,), chunks=(1000,), dtype="f8", compressors=None
            )
            array[:] = 1.0
    storage.writes.clear()
    return storage, repo


def change(repo: ic.Repository) -> ic.Session:
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    root["a"][:1000] = 2.0
    root["b"][:] = 3.0
    root.require_group("new").attrs["x"] = 1
    return session


def seen(storage: ic.Storage) -> tuple[list[str], bool, list[float]]:
    """Read everything with a new repository object, as another process would."""
    repo = ic.Repository.open(storage)
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    values = [*np.asarray(root["a"][::1000]).tolist(), *np.asarray(root["b"][::1000]).tolist()]
    return [s.message for s in repo.ancestry(branch="main")], "new" in root, values


OLD = (["first", "Repository initialized"], False, [1.0] * 8)
NEW = (["second", "first", "Repository initialized"], True, [2.0, 1.0, 1.0, 1.0, *[3.0] * 4])


def writes_of_a_commit(kind: type[FaultyStorage] = FaultyStorage) -> int:
    storage, repo = prepared(kind)
    change(repo).commit("second")
    assert seen(storage.inner) == NEW
    return len(storage.writes)


@pytest.mark.parametrize("kind", [FaultyStorage, Waiting])
@pytest.mark.parametrize("how", ["die before", "die after", "error"])
def test_stopping_at_any_write(how: str, kind: type[FaultyStorage]) -> None:
    outcomes = set()
    for step in range(writes_of_a_commit(kind)):
        storage, repo = prepared(kind)
        storage.fail_at, storage.how = step, how
        with pytest.raises((Died, StorageError)):
            change(repo).commit("second")
        state = seen(storage.inner)
        assert state in (OLD, NEW)
        outcomes.add(state == NEW)
        # Whatever is left behind, the next writer commits as if nothing had happened.
        storage.fail_at = -1
        change(ic.Repository.open(storage)).commit("second")
        assert seen(storage.inner)[1:] == NEW[1:]
    assert outcomes == ({False, True} if how == "die after" else {False})


def test_the_branch_moves_with_the_last_write() -> None:
    storage, repo = prepared()
    change(repo).commit("second")
    assert storage.writes[-1] == "repo"
    assert storage.writes[-2].startswith("overwritten/repo.")
    assert sum(key == "repo" for key in storage.writes) == 1


def test_all_other_files_are_written_at_once_and_are_there_before_the_branch_moves() -> None:
    storage, repo = prepared(Waiting)
    session = change(repo)
    storage.writes.clear()
    session.commit("second")
    assert storage.writes[-1] == "repo"
    assert storage.beside["repo"] == []
    others = sorted(storage.writes[:-1])
    kinds = [key.partition("/")[0] for key in others]
    assert kinds == ["manifests", "manifests", "overwritten", "snapshots", "transactions"]
    together = max((storage.beside[key] for key in others), key=len)
    assert len(together) == len(others) - 1


def test_a_file_that_could_not_be_written_goes_before_a_lost_race() -> None:
    """Else a rebase would count on a manifest that is not there."""
    storage, repo = prepared(Waiting)
    session, other = change(repo), repo.writable_session("main")
    zarr.open_array(other.store, path="a", mode="r+")[3000:] = 9.0

    def somebody_else_commits() -> None:
        storage.fail_at = -1
        other.commit("other")
        storage.fail_at, storage.how = len(storage.writes), "error"

    real, raced = storage.get_versioned, []

    async def slow(key: str) -> Any:
        found = await real(key)
        if not raced:
            raced.append(key)
            await asyncio.to_thread(somebody_else_commits)
        return found

    storage.get_versioned = slow
    with pytest.raises(StorageError, match="injected fault while writing manifests"):
        session.commit("second", rebase_with=ic.ConflictDetector())
    assert seen(storage.inner)[0] == ["other", "first", "Repository initialized"]
    session.commit("second", rebase_with=ic.ConflictDetector())
    assert seen(storage.inner)[2] == [2.0, 1.0, 1.0, 9.0, *[3.0] * 4]


@pytest.mark.parametrize("how", ["lost race", "lost reply"])
def test_losing_the_reply_or_the_race_neither_loses_nor_doubles_the_commit(how: str) -> None:
    storage, repo = prepared()
    storage.fail_at, storage.how = writes_of_a_commit() - 1, how
    change(repo).commit("second")
    assert seen(storage.inner) == NEW


def test_a_lost_race_reuses_manifests_of_arrays_nobody_touched() -> None:
    storage, repo = prepared()
    session, other = change(repo), repo.writable_session("main")
    zarr.open_array(other.store, path="a", mode="r+")[3000:] = 9.0
    other.commit("other")
    storage.writes.clear()
    session.commit("second", rebase_with=ic.ConflictDetector())
    messages, has_new, values = seen(storage.inner)
    assert messages == ["second", "other", "first", "Repository initialized"]
    assert has_new
    assert values == [2.0, 1.0, 1.0, 9.0, *[3.0] * 4]
    assert not any(key.startswith("chunks/") for key in storage.writes)


def test_a_race_lost_after_the_files_were_written_writes_no_manifest_twice() -> None:
    storage, repo = prepared()
    session = change(repo)
    real, raced = storage.put_if_unchanged, []

    def commit_other() -> None:
        other = ic.Repository.open(storage.inner).writable_session("main")
        zarr.open_array(other.store, path="a", mode="r+")[3000:] = 9.0
        other.commit("other")

    async def other_commits_first(key: str, *args: Any, **kwargs: Any) -> Any:
        if key == "repo" and not raced:
            raced.append(True)
            await in_thread(commit_other)
        return await real(key, *args, **kwargs)

    storage.put_if_unchanged = other_commits_first
    storage.writes.clear()
    session.commit("second", rebase_with=ic.ConflictDetector())
    manifests = [key for key in storage.writes if key.startswith("manifests/")]
    # Array b: once. Array a: once before the race was lost, once on what the other committed.
    assert len(manifests) == 3
    assert seen(storage.inner)[2] == [2.0, 1.0, 1.0, 9.0, *[3.0] * 4]


def test_what_is_written_while_a_commit_is_under_way_is_refused_not_lost() -> None:
    storage, repo = prepared()
    session = change(repo)
    real, refused = storage.put_if_unchanged, []

    def write_more() -> None:
        for act in (
            lambda: zarr.open_array(session.store, path="a", mode="r+").__setitem__(0, 7.0),
            lambda: zarr.create_group(session.store, path="late"),
            lambda: session.commit("again", allow_empty=True),
        ):
            with pytest.raises(ic.SessionStateError, match="under way"):
                act()
            refused.append(True)

    async def write_first(key: str, *args: Any, **kwargs: Any) -> Any:
        if key == "repo":
            await in_thread(write_more)
        return await real(key, *args, **kwargs)

    storage.put_if_unchanged = write_first
    session.commit("second")
    assert len(refused) == 3
    assert seen(storage.inner) == NEW


def test_a_failed_commit_leaves_the_session_as_it_was() -> None:
    storage, repo = prepared()
    session = change(repo)
    storage.writes.clear()
    storage.fail_at, storage.how = 0, "error"
    with pytest.raises(StorageError):
        session.commit("second")
    zarr.open_array(session.store, path="a", mode="r+")[1000:2000] = 5.0
    storage.fail_at = -1
    session.commit("second")
    assert seen(storage.inner)[2] == [2.0, 5.0, 1.0, 1.0, *[3.0] * 4]
