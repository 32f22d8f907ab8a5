"""Durable sessions when several do the same at once: commits, fast-forwards, expiry, collection."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import pytest
from zarr.core.buffer import default_buffer_prototype

import icechunk
from icechunk._io.loop import run
from icechunk.dask import store_dask
from icechunk.errors import RebaseFailedError, SessionStateError
from icechunk.lake import Client, Repo, committing
from icechunk.lake.committing import COMMIT_SESSION_KEY, commit_session, fast_forward
from icechunk.lake.record import SessionInfo, State
from icechunk.shelf import Shelf, ShelfItem, ShelfRecord
from tests.lake.conftest import committed_array, make_array

if TYPE_CHECKING:
    from icechunk.core.changes import ChangeSet
    from icechunk.lake.durable import DurableSession


def joined(client: Client, session_id: str) -> Repo:
    repo = client.get_repo("ocean/sst")
    repo.checkout(session_token=session_id)
    return repo


def begun(repo: Repo) -> tuple[str, DurableSession]:
    """Commit an array and open a session that others can join."""
    committed_array(repo)
    session_id = repo.create_session().session_id
    repo.checkout(session_token=session_id)
    return session_id, durable_of(repo)


def durable_of(repo: Repo) -> DurableSession:
    session = repo._async.current
    assert session is not None
    return session.durable


def info_of(repo: Repo, session_id: str) -> SessionInfo:
    return SessionInfo.from_record(run(Shelf(repo.repository.storage).record(session_id)))


def noted(repo: Repo, session_id: str, **changes: Any) -> None:
    """Change what is kept of a session, as another process would."""

    def edit(record: ShelfRecord) -> ShelfRecord:
        return replace(SessionInfo.from_record(record), **changes).to_record()

    run(Shelf(repo.repository.storage).update(session_id, edit))


def test_a_failed_commit_gives_back_only_its_own_claim(client, repo, monkeypatch):
    """Another took it over: were it active again, a write could miss the commit and be lost."""
    session_id, durable = begun(repo)
    repo.root_group["t"][0, 0] = 5
    until = datetime.now(UTC) + timedelta(minutes=1)

    async def overtaken(*_args: object, **_kwargs: object) -> None:
        await durable.change(
            lambda info: replace(info, committer="another", lease_until=until), guarded=False
        )
        raise icechunk.StorageError("the network is gone")

    monkeypatch.setattr(committing, "_commit", overtaken)
    with pytest.raises(icechunk.StorageError, match="network"):
        repo.commit("no")
    info = info_of(repo, session_id)
    assert (info.state, info.committer) == (State.COMMITTING, "another")
    with pytest.raises(SessionStateError, match="being committed"):
        joined(client, session_id).root_group["t"][3, 3] = 1


def test_threads_that_commit_one_session_make_one_commit(client, repo):
    session_id, durable = begun(repo)
    repo.root_group["t"][0, 0] = 5

    def commit(_: int) -> str | None:
        try:
            return run(commit_session(durable, "all", {}, auto_ff=True))
        except SessionStateError as e:
            assert "was committed" in str(e)  # noqa: PT017 # which of them is not known before
            return None

    with ThreadPoolExecutor(4) as pool:
        made = [one for one in pool.map(commit, range(4)) if one is not None]
    assert len(made) == 1
    log = list(client.get_repo("ocean/sst").commit_log)
    assert [c.id for c in log if c.metadata.get(COMMIT_SESSION_KEY) == session_id] == made


def test_a_long_commit_keeps_its_claim(client, repo, monkeypatch):
    session_id, _ = begun(repo)
    repo.root_group["t"][0, 0] = 5
    monkeypatch.setattr(committing, "_LEASE", timedelta(seconds=0.4))
    monkeypatch.setattr(committing, "_RENEWAL", timedelta(seconds=0.05))
    commit_once, claims = committing._commit, set()

    async def slow(*args: Any, **kwargs: Any) -> str | None:
        for _ in range(8):
            await asyncio.sleep(0.1)
            claims.add(info_of_record(await Shelf(repo.repository.storage).record(session_id)))
        with pytest.raises(SessionStateError, match="being committed by another"):
            await commit_session(other, "mine", {}, auto_ff=True)
        return await commit_once(*args, **kwargs)

    other = durable_of(joined(client, session_id))
    monkeypatch.setattr(committing, "_commit", slow)
    assert repo.commit("slow") is not None
    assert len(claims) > 2
    assert info_of(repo, session_id).state is State.COMMITTED


def info_of_record(record: ShelfRecord) -> datetime | None:
    return SessionInfo.from_record(record).lease_until


def test_who_takes_a_commit_over_after_expiry_is_refused(repo):
    """What it needs may have been collected: the commit would lack chunks."""
    session_id, _ = begun(repo)
    repo.root_group["t"][0, 0] = 5
    past = datetime.now(UTC) - timedelta(seconds=1)
    noted(
        repo,
        session_id,
        state=State.COMMITTING,
        committer="dead",
        lease_until=past,
        expires_at=past,
    )
    with pytest.raises(SessionStateError, match="expired while it was being committed"):
        repo.commit("too late")


def test_a_commit_that_began_in_time_keeps_its_chunks(repo):
    """The session expires while it is committed; a collection at that time leaves it alone."""
    make_array(repo, "large", shape=(64, 64), chunks=(64, 64))
    repo.commit("an array")
    session_id = repo.create_session().session_id
    repo.checkout(session_token=session_id)
    repo.root_group["large"][:] = np.random.default_rng(0).random((64, 64))
    soon = datetime.now(UTC) + timedelta(minutes=2)
    past = datetime.now(UTC) - timedelta(seconds=1)
    noted(
        repo,
        session_id,
        state=State.COMMITTING,
        committer="alive",
        lease_until=soon,
        expires_at=past,
    )
    summary = repo.repository.garbage_collect(datetime.now(UTC) + timedelta(hours=1))
    assert summary.chunks_deleted == 0
    noted(repo, session_id, state=State.ACTIVE, committer=None, lease_until=None)
    summary = repo.repository.garbage_collect(datetime.now(UTC) + timedelta(hours=1))
    assert summary.chunks_deleted == 1


def test_the_base_never_moves_back(client, repo, monkeypatch):
    session_id, _ = begun(repo)
    other, third = joined(client, session_id), client.get_repo("ocean/sst")
    make_array(third, "u")
    third.commit("first")
    rebase = committing.rebase_changes

    def move_on() -> None:
        make_array(third, "v")
        third.commit("second")

    async def overtaken(*args: Any) -> None:
        await rebase(*args)
        monkeypatch.setattr(committing, "rebase_changes", rebase)
        await asyncio.to_thread(move_on)
        await fast_forward(durable_of(other))

    monkeypatch.setattr(committing, "rebase_changes", overtaken)
    repo.fast_forward()
    tip = third.repository.lookup_branch("main")
    assert info_of(repo, session_id).base == tip
    assert repo.current.base_commit == other.current.base_commit == tip
    assert "v" in repo.root_group


def test_a_write_during_a_fast_forward_is_checked_before_it_follows(client, repo, monkeypatch):
    """It is acknowledged on the old base, and was not there when the mover looked."""
    session_id, _ = begun(repo)
    other, third = joined(client, session_id), client.get_repo("ocean/sst")
    third.root_group["t"][0, 0] = 9
    third.commit("a chunk")
    rebase = committing.rebase_changes
    array = other.root_group["t"]

    async def meanwhile(*args: Any) -> None:
        await rebase(*args)
        await asyncio.to_thread(array.__setitem__, (0, 0), 4.0)

    monkeypatch.setattr(committing, "rebase_changes", meanwhile)
    repo.fast_forward()
    with pytest.raises(RebaseFailedError, match="/t"):
        other.current.refresh()
    with pytest.raises(RebaseFailedError, match="/t"):
        repo.commit("no")


def test_a_session_is_begun_by_several_threads_at_once(repo):
    committed_array(repo)
    repo.checkout()
    array = repo.root_group["t"]
    with ThreadPoolExecutor(4) as pool:
        stores = [pool.submit(run, durable_of(repo).store()) for _ in range(4)]
        writes = [pool.submit(array.__setitem__, (i, i), 7.0) for i in (0, 3)]
        assert len({one.result() for one in stores}) == 1
        assert [one.result() for one in writes] == [None, None]
    assert repo.commit("both") is not None


def test_collection_meets_what_took_the_place_of_an_item(repo, monkeypatch):
    """Listed, then replaced and removed before it was read: the new one needs its chunks."""
    session_id, durable = begun(repo)
    repo.root_group["t"][0, 0] = 5
    shelf = Shelf(repo.repository.storage)
    (name,) = run(shelf.names(session_id))
    read, changes = Shelf.item, []

    async def replaced_first(self: Shelf, shelf_id: str, item: str) -> ShelfItem:
        monkeypatch.setattr(Shelf, "item", read)
        durable.note_all()
        await durable.saved()
        return await read(self, shelf_id, item)

    async def in_use() -> list[ChangeSet]:
        return [one async for one in shelf.changes_in_use(0)]

    monkeypatch.setattr(Shelf, "item", replaced_first)
    changes = run(in_use())
    assert name not in run(shelf.names(session_id))
    assert [one.chunk_count() for one in changes] == [1]
    assert np.all(repo.root_group["t"][0, 0] == 5)


def test_what_is_set_because_it_was_not_there_is_saved(client, repo):
    make_array(repo)
    repo.commit("an array")
    session_id = repo.create_session().session_id
    repo.checkout(session_token=session_id)
    value = default_buffer_prototype().buffer.from_bytes(bytes(16))
    encoded = make_array(repo, "u", compressors=None)
    assert encoded.nchunks == 4
    run(repo.store.set_if_not_exists("u/c/0/0", value))
    other = joined(client, session_id)
    assert other.root_group["u"][0, 0] == 0
    before = run(Shelf(repo.repository.storage).names(session_id))
    run(repo.store.set_if_not_exists("u/c/0/0", value))
    run(repo.store.set_if_not_exists("u/zarr.json", value))
    assert run(Shelf(repo.repository.storage).names(session_id)) == before


def test_what_would_be_written_past_the_store_is_refused(repo):
    """It would be in the session of this process alone, and no commit would have it."""
    begun(repo)
    source = da.zeros((4, 4), chunks=(2, 2), dtype="f4")
    with pytest.raises(SessionStateError, match="written through its own store"):
        store_dask(sources=[source], targets=[repo.root_group["t"]])
    da.store(source, repo.root_group["t"], lock=False)
    assert repo.commit("through the store") is not None
    assert (repo.root_group["t"][:] == 0).all()


def test_a_paused_commit_does_not_come_after_what_it_lacks(client, repo, monkeypatch):
    """Another took it over, failed and gave the session back; then somebody wrote to it."""
    session_id, _ = begun(repo)
    repo.root_group["t"][0, 0] = 5
    other = joined(client, session_id)
    commit_changes, now = committing.commit_changes, committing.now

    async def fails(*_args: object) -> None:
        raise icechunk.StorageError("the network is gone")

    def meanwhile() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(committing, "now", lambda: now() + timedelta(minutes=3))
            patch.setattr(committing, "commit_changes", fails)
            with pytest.raises(icechunk.StorageError, match="network"):
                other.commit("taken over")
        assert info_of(repo, session_id).state is State.ACTIVE
        other.root_group["t"][3, 3] = 7

    async def paused(*args: Any) -> object:
        monkeypatch.setattr(committing, "commit_changes", commit_changes)
        await asyncio.to_thread(meanwhile)
        return await commit_changes(*args)

    monkeypatch.setattr(committing, "commit_changes", paused)
    with pytest.raises(SessionStateError, match="another process took it over"):
        repo.commit("paused")
    assert len(client.get_repo("ocean/sst").commit_log) == 2
    other.commit("everything")
    array = client.get_repo("ocean/sst").root_group["t"]
    assert (array[0, 0], array[3, 3]) == (5, 7)


def test_a_session_of_an_earlier_release_has_no_fence(repo):
    _, durable = begun(repo)
    record = durable.info.to_record()
    facts = {name: value for name, value in record.facts.items() if name != "fence"}
    assert SessionInfo.from_record(replace(record, facts=facts)) == durable.info
