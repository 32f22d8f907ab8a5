"""Durable sessions: several processes in one, deaths, expiry, commits that are made once."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import dask.array as da
import numpy as np
import pytest
import zarr

import icechunk
from icechunk._io.loop import run
from icechunk.errors import (
    FormatError,
    IcechunkError,
    NotFoundError,
    RebaseFailedError,
    SessionStateError,
)
from icechunk.lake import Client, LocalWriteSession, Repo, committing
from icechunk.lake.committing import COMMIT_SESSION_KEY
from icechunk.lake.durable import DurableSession
from icechunk.lake.record import SessionInfo, State
from icechunk.lake.repo import AsyncRepo
from icechunk.lake.saver import GroupSaver
from icechunk.shelf import Shelf, ShelfItem, ShelfRecord
from tests.faults import Died, FaultyStorage
from tests.lake.conftest import AUTHOR, ROOT, committed_array, elsewhere, make_array
from tests.s3_server import BUCKET, KEY, SECRET, S3Server

JOIN = """
import sys
from icechunk.lake import Client
root, session_id, *rest = sys.argv[1:]
repo = Client(root).get_repo("ocean/sst")
repo.checkout(session_token=session_id)
"""


def joined(client: Client, session_id: str) -> Repo:
    repo = client.get_repo("ocean/sst")
    repo.checkout(session_token=session_id)
    return repo


def opened(repo: Repo, **options: object) -> LocalWriteSession:
    """Open a session that others can join and make it the current one."""
    session = repo.create_session(**options)
    repo.checkout(session_token=session.session_id)
    return session


def test_two_processes_write_and_one_commits_all(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    elsewhere(JOIN + "repo.root_group['t'][2:] = 20", client.root, session_id)
    repo.root_group["t"][:2] = 10
    commit = repo.commit("by two")
    np.testing.assert_array_equal(repo.root_group["t"][:, 0], [10, 10, 20, 20])
    assert repo.commit_log[0].metadata[COMMIT_SESSION_KEY] == session_id
    assert repo.commit_log[0].id == commit


def test_an_array_that_one_made_is_filled_by_others(client, repo):
    session_id = opened(repo).session_id
    make_array(repo, shape=(4, 4))
    code = JOIN + "i = int(rest[0]); repo.root_group['t'][2 * i : 2 * i + 2] = i"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: elsewhere(code, client.root, session_id, str(i)), range(2)))
    repo.current.refresh()
    np.testing.assert_array_equal(repo.root_group["t"][::2, 0], range(2))
    repo.commit("filled")
    np.testing.assert_array_equal(repo.root_group["t"][::2, 3], range(2))


def test_what_a_killed_process_wrote_stays(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    code = JOIN + (
        "repo.root_group['t'][:2, :2] = 5\n"
        "repo.root_group.create_array('new', shape=(2,), dtype='i4')[:] = 7\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    elsewhere(code, client.root, session_id, expect=-9)
    repo.current.refresh()
    assert repo.root_group["t"][0, 0] == 5
    repo.commit("of somebody who is dead")
    assert repo.root_group["new"][1] == 7


@pytest.mark.slow
def test_every_acknowledged_write_of_a_killed_process_stays(client, repo):
    make_array(repo, shape=(400,), chunks=(1,), dtype="i4")
    repo.commit("an array")
    session_id = opened(repo).session_id
    code = JOIN + (
        "a = repo.root_group['t']\n"
        "for i in range(400):\n"
        "    a[i] = i + 1\n"
        "    print(i, flush=True)\n"
    )
    command = [sys.executable, "-c", code, client.root, session_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        seen = list(map(int, itertools.islice(process.stdout, 57)))
        process.kill()
        seen += map(int, process.stdout.read().split())
    acknowledged = max(seen)
    repo.commit("after a death")
    values = repo.root_group["t"][:]
    np.testing.assert_array_equal(values[: acknowledged + 1], np.arange(acknowledged + 1) + 1)
    assert set(values[acknowledged + 2 :]) <= {-1}


def test_two_who_wrote_one_chunk_are_told_at_commit(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    repo.root_group["t"][0, 0] = 1
    other.root_group["t"][1, 1] = 2
    with pytest.raises(SessionStateError, match=r"/t") as caught:
        repo.commit("both")
    assert caught.value.kind == "merge-failed"
    assert repo.current.info.state is State.ACTIVE
    assert repo.list_active_sessions()[0].session_id == session_id


def test_who_does_the_work_of_a_dead_process_again_may_replace_it(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    code = JOIN + (
        "repo.root_group['t'][:2] = 5\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    elsewhere(code, client.root, session_id, expect=-9)
    again = joined(client, session_id)
    again.root_group["t"][:2] = 6
    with pytest.raises(SessionStateError, match="/t"):
        again.commit("who knows which")
    with pytest.raises(ValueError, match="latest"):
        again.commit("no such way", on_chunk_conflict="latest")
    again.commit("the later one", on_chunk_conflict="last")
    assert repo.checkout() == again.current.base_commit
    np.testing.assert_array_equal(repo.root_group["t"][:, 0], [6, 6, 8, 12])


def test_what_was_acknowledged_is_not_discarded_past_the_store(repo):
    committed_array(repo)
    fork = repo.store.session
    for past in (
        fork.discard_changes,
        lambda: fork.shift_array("/t", [1, 0]),
        lambda: fork.reindex_array("/t", lambda coord: coord),
        fork.fork,
    ):
        with pytest.raises(SessionStateError, match="lake"):
            past()


def test_garbage_collection_removes_what_is_left_of_ended_sessions(repo):
    committed_array(repo)
    opened(repo)
    repo.root_group["t"][:] = 3
    repo.commit("committed")
    gone = repo.create_session()
    gone.abandon()
    live = repo.create_session()
    shelf = Shelf(repo.repository.storage)
    assert len(run(shelf.records())) >= 3
    repo.repository.garbage_collect(datetime.now(UTC) + timedelta(seconds=1))
    assert [record.shelf_id for record in run(shelf.records())] == [live.session_id]


def test_groups_made_alike_by_several_are_one(client, repo):
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    make_array(repo, "g/a")[:] = 1
    make_array(other, "g/b")[:] = 2
    repo.commit("both below one group")
    assert sorted(repo.root_group["g"].array_keys()) == ["a", "b"]
    assert (repo.root_group["g/a"][0, 0], repo.root_group["g/b"][0, 0]) == (1, 2)


def test_one_array_made_by_two_is_a_conflict(client, repo):
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    make_array(repo)
    make_array(other)
    with pytest.raises(SessionStateError, match="/t"):
        other.commit("twice")


def test_deleting_and_making_again(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    del other.root_group["t"]
    make_array(other, shape=(2, 2))[:] = 4
    repo.commit("made again by another")
    assert repo.root_group["t"].shape == (2, 2)
    assert repo.root_group["t"][1, 1] == 4


def test_one_deletes_what_another_changes(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    del other.root_group["t"]
    repo.root_group["t"][:] = 4
    with pytest.raises(SessionStateError, match="/t"):
        repo.commit("both")


def test_expired_sessions_refuse(client, repo, monkeypatch):
    committed_array(repo)
    session = opened(repo, expires_in=timedelta(hours=1))
    array = repo.root_group["t"]
    array[0, 0] = 1
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr("icechunk.lake.durable.now", lambda: later)
    monkeypatch.setattr("icechunk.lake.committing.now", lambda: later)
    monkeypatch.setattr("icechunk.lake.repo.now", lambda: later)
    with pytest.raises(SessionStateError, match="expired at"):
        array[0, 0] = 2
    with pytest.raises(SessionStateError, match="expired at"):
        repo.join_session(session.session_id)
    with pytest.raises(SessionStateError, match="expired at"):
        repo.commit("too late")
    assert repo.list_active_sessions() == []


def test_a_longer_life(repo):
    session = opened(repo, expires_in=timedelta(hours=1))
    session.update_expiration(timedelta(days=7))
    assert session.expires_at == session.info.created_at + timedelta(days=7)
    assert repo.list_active_sessions()[0].expires_at == session.expires_at
    with pytest.raises(icechunk.InvalidInputError, match="7 days"):
        session.update_expiration(timedelta(days=8))


def test_abandoned_sessions_refuse_everywhere(client, repo):
    committed_array(repo)
    session = opened(repo)
    other = joined(client, session.session_id)
    array = other.root_group["t"]
    array[:2, :2] = 3
    session.abandon()
    with pytest.raises(SessionStateError, match="was abandoned"):
        array[2:, 2:] = 3
    with pytest.raises(SessionStateError, match="was abandoned"):
        repo.join_session(session.session_id)
    with pytest.raises(SessionStateError, match="was abandoned"):
        session.abandon()
    assert repo.list_active_sessions() == []
    repo.checkout()
    assert repo.root_group["t"][0, 0] == 0


def test_a_committed_session_refuses_and_says_what_it_became(client, repo):
    committed_array(repo)
    session = opened(repo)
    other = joined(client, session.session_id)
    array = other.root_group["t"]
    repo.root_group["t"][0, 0] = 1
    commit = repo.commit("done")
    with pytest.raises(SessionStateError, match=f"was committed as {commit}"):
        array[3, 3] = 3
    with pytest.raises(SessionStateError, match="was committed"):
        other.commit("again")


def test_unknown_sessions(repo):
    with pytest.raises(NotFoundError):
        repo.join_session("0123456789ab")
    with pytest.raises(icechunk.InvalidInputError):
        repo.checkout(session_token="../x")


def test_active_sessions_are_listed_by_time(repo):
    first = repo.create_session(message="one")
    time.sleep(0.002)
    second = repo.create_session("main", expires_in=timedelta(days=1), message="two")
    repo.create_session(for_writing=False)
    found = repo.list_active_sessions()
    assert [info.session_id for info in found] == [first.session_id, second.session_id]
    assert [info.message for info in found] == ["one", "two"]
    assert found[0].author == AUTHOR
    first.abandon()
    assert len(repo.list_active_sessions()) == 1


def test_a_checkout_that_changed_nothing_leaves_nothing(client, repo):
    repo.checkout()
    assert repo.status().modified_paths == []
    assert repo.list_active_sessions() == []
    assert repo.commit("nothing") is None


def test_garbage_collection_keeps_what_open_sessions_need(client, repo):
    make_array(repo, shape=(64, 64), chunks=(32, 32))
    repo.commit("an array")
    opened(repo)
    repo.root_group["t"][:32, :32] = np.random.default_rng(0).random((32, 32))
    gone = repo.create_session()
    zarr.open_group(gone.store)["t"][32:, 32:] = np.random.default_rng(1).random((32, 32))
    gone.abandon()
    summary = repo.repository.garbage_collect(datetime.now(UTC) + timedelta(seconds=1))
    assert summary.chunks_deleted == 1
    repo.commit("kept")
    expected = np.random.default_rng(0).random((32, 32)).astype("f4")
    np.testing.assert_array_equal(repo.root_group["t"][:32, :32], expected)


def test_stores_travel_and_what_is_written_elsewhere_is_there(client, repo):
    make_array(repo, shape=(8, 4))
    store = repo.store
    twin = pickle.loads(pickle.dumps(store))
    assert twin.session_id == store.session_id
    zarr.open_group(twin)["t"][:2] = 6
    repo.current.refresh()
    assert repo.root_group["t"][0, 0] == 6
    data = da.full((8, 4), 9, chunks=(2, 4), dtype="f4")
    data.store(zarr.open_group(store)["t"], lock=False, scheduler="processes", num_workers=2)
    repo.current.refresh()
    with pytest.raises(SessionStateError, match="/t"):  # the two of rows 0 and 1
        repo.commit("both wrote the first chunks")


def test_virtual_references_and_deletions_are_saved(client, repo, tmp_path):
    config = icechunk.RepositoryConfig.default()
    prefix = f"{tmp_path.as_uri()}/"
    place = icechunk.local_filesystem_store(str(tmp_path))
    config.set_virtual_chunk_container(icechunk.VirtualChunkContainer(prefix, place))
    (tmp_path / "chunk").write_bytes(np.full(4, 8, "f4").tobytes())
    access = {prefix: None}
    repo = client.create_repo("a/b", config=config, authorize_virtual_chunk_access=access)
    array = make_array(repo, compressors=None)
    array[:] = 1
    repo.store.set_virtual_ref("t/c/0/0", f"{prefix}chunk", offset=0, length=16)
    spec = icechunk.VirtualChunkSpec([0, 1], f"{prefix}chunk", 0, 16)
    assert repo.store.set_virtual_refs("t", [spec]) is None
    lengths = np.full(1, 16, np.uint64)
    repo.store.set_virtual_refs_arr(
        "t", (1, 1), [f"{prefix}chunk"], lengths * 0, lengths, arr_offset=(1, 0)
    )
    del repo.mapping["t/c/1/1"]
    other = client.get_repo("a/b", authorize_virtual_chunk_access=access)
    other.checkout(session_token=repo.current.session_id)
    assert [other.root_group["t"][i, j] for i, j in ((0, 0), (0, 2), (2, 0), (2, 2))] == [
        8,
        8,
        8,
        -1,
    ]
    other.mapping.erase_prefix("t")
    assert "t" not in other.root_group
    with pytest.raises(SessionStateError, match="merge failed"):
        repo.commit("one changed what the other deleted")


def test_following_a_fast_forward_that_another_made(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    other.root_group["t"][2:, 2:] = 4
    third = client.get_repo("ocean/sst")
    make_array(third, "u")
    tip = third.commit("something else")
    repo.fast_forward()
    other.root_group["t"][2:, :2] = 5  # still on the old base, which is fine
    repo.root_group["u"][:] = 6
    other.current.refresh()
    assert other.current.base_commit == tip
    assert other.root_group["u"][0, 0] == 6
    assert other.commit("all", auto_ff=False) is not None
    assert (other.root_group["t"][3, 3], other.root_group["t"][3, 0]) == (4, 5)


def test_who_lags_behind_a_fast_forward_and_conflicts_is_found(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    other = joined(client, session_id)
    other.root_group["t"][0, 0] = 4  # before anybody knows
    third = client.get_repo("ocean/sst")
    third.root_group["t"][0, 0] = 9
    third.commit("the same chunk")
    with pytest.raises(RebaseFailedError, match="/t"):
        repo.fast_forward()
    with pytest.raises(RebaseFailedError, match="/t"):
        repo.commit("no")


# -- deaths during a commit -------------------------------------------------------------------


def _repo_over(storage: FaultyStorage, session_id: str) -> AsyncRepo:
    """Return a repository over a storage that fails, joined to a session."""
    arepo = AsyncRepo(icechunk.Repository.open(storage), name="ocean/sst", author=AUTHOR)
    run(arepo.checkout(session_token=session_id))
    return arepo


def _state(repo: Repo, session_id: str) -> State:
    record = run(Shelf(repo.repository.storage).record(session_id))
    return SessionInfo.from_record(record).state


@pytest.mark.parametrize("how", ["die before", "die after", "error", "lost reply"])
def test_a_death_at_any_write_of_a_commit_loses_and_doubles_nothing(client, how, monkeypatch):
    """The next one to commit finds the commit, or makes it; each once."""
    monkeypatch.setattr(committing, "_LEASE", timedelta())
    for fail_at in itertools.count():
        repo = client.create_repo(f"org{how.split()[-1]}/r{fail_at}")
        make_array(repo)
        repo.commit("an array")
        session_id = opened(repo).session_id
        repo.root_group["t"][:] = 5
        storage = FaultyStorage(repo.repository.storage)
        dying = _repo_over(storage, session_id)
        storage.fail_at, storage.writes[:] = fail_at, []
        outcome = None
        with contextlib.suppress(Died, IcechunkError):
            outcome = run(dying.commit("all"))
        survived = fail_at >= len(storage.writes)
        storage.fail_at = -1
        found = client.get_repo(f"org{how.split()[-1]}/r{fail_at}")
        if outcome is None:
            if _state(found, session_id) is State.COMMITTED:  # noted before the death
                with pytest.raises(SessionStateError, match="was committed"):
                    found.checkout(session_token=session_id)
            else:
                found.checkout(session_token=session_id)
                outcome = found.commit("all")
        found.checkout("main", for_writing=False)
        assert (found.root_group["t"][:] == 5).all(), fail_at
        made = [c for c in found.commit_log if c.metadata.get(COMMIT_SESSION_KEY) == session_id]
        assert len(made) == 1, fail_at
        assert outcome in {None, made[0].id}
        if survived:
            break
    assert fail_at > 5


def test_a_commit_under_way_is_left_alone_until_its_time_is_over(client, repo, monkeypatch):
    committed_array(repo)
    session = opened(repo)
    repo.root_group["t"][:] = 5
    lease = {"state": State.COMMITTING, "committer": "somebody", "lease_until": None}
    lease["lease_until"] = datetime.now(UTC) + timedelta(minutes=1)

    def claimed(record: ShelfRecord) -> ShelfRecord:
        return replace(SessionInfo.from_record(record), **lease).to_record()

    run(Shelf(repo.repository.storage).update(session.session_id, claimed))
    with pytest.raises(SessionStateError, match="is being committed by another"):
        repo.commit("no")
    with pytest.raises(SessionStateError, match="being committed"):
        session.abandon()
    later = datetime.now(UTC) + timedelta(minutes=2)
    monkeypatch.setattr(committing, "now", lambda: later)
    assert repo.commit("taken over") is not None


def test_a_write_that_cannot_be_saved_is_saved_with_the_next(client, repo):
    committed_array(repo)
    session_id = opened(repo).session_id
    storage = FaultyStorage(repo.repository.storage)
    arepo = _repo_over(storage, session_id)
    array = zarr.open_group(arepo.store)["t"]
    # The chunk is in the change set; the item is the only write.
    storage.fail_at, storage.how, storage.writes[:] = 0, "error", []
    with pytest.raises(icechunk.StorageError, match="injected"):
        array[0, 0] = 3
    storage.fail_at = -1
    array[3, 3] = 4
    other = joined(client, session_id)
    assert (other.root_group["t"][0, 0], other.root_group["t"][3, 3]) == (3, 4)


@pytest.mark.parametrize("name", ["nonsense", "00-0000000001-other"])
def test_items_of_a_later_version_are_refused(repo, name):
    session = opened(repo)
    run(Shelf(repo.repository.storage).put(session.session_id, ShelfItem(name=name)))
    with pytest.raises(FormatError, match="does not know"):
        repo.join_session(session.session_id)


def test_records_that_are_no_sessions(repo):
    shelf = Shelf(repo.repository.storage)
    run(shelf.create(ShelfRecord(shelf_id="other", kind="session", facts={"base": 1})))
    with pytest.raises(FormatError, match="is no session"):
        repo.join_session("other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_to_join(repo):
    make_array(repo)
    child = os.fork()
    if not child:
        code = 1
        try:
            repo.root_group["t"][:] = 3
        except SessionStateError as e:
            code = 0 if "join_session" in str(e) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_saves_are_shared_and_never_two_at_once():
    running, most, saves = 0, 0, 0

    async def save() -> None:
        nonlocal running, most, saves
        running, saves = running + 1, saves + 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1

    saver = GroupSaver(save)

    async def many() -> None:
        await asyncio.gather(*[saver.saved() for _ in range(50)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: asyncio.run(many()), range(4)))
    assert most == 1
    assert 1 <= saves <= 20


def test_one_joiner_at_a_time_holds_what_it_did(repo):
    """Items that stand for all before them replace these."""
    committed_array(repo)
    session = opened(repo)
    shelf = Shelf(repo.repository.storage)
    for value in range(3):
        repo.root_group["t"][0, 0] = value
    assert len(run(shelf.names(session.session_id))) == 3
    repo.root_group["t"].attrs["units"] = "K"
    (name,) = run(shelf.names(session.session_id))
    assert name.endswith("-all")
    assert isinstance(repo.current.durable, DurableSession)
    assert joined(Client(repo_root(repo)), session.session_id).root_group["t"][0, 0] == 2


def test_a_lake_on_s3(monkeypatch):
    """The catalog's compare-and-swap, a shared session, and its commit, over requests."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with S3Server.running() as server:
        options = {
            "endpoint_url": server.url,
            "region": "us-east-1",
            "allow_http": True,
            "force_path_style": True,
            "access_key_id": KEY,
            "secret_access_key": SECRET,
        }
        client = Client(f"s3://{BUCKET}/lake", author=AUTHOR, **options)
        repo = client.create_repo("ocean/sst")
        committed_array(repo)
        session_id = opened(repo).session_id
        code = (
            "import json, sys\n"
            "from icechunk.lake import Client\n"
            "root, session_id, options = sys.argv[1:]\n"
            "repo = Client(root, **json.loads(options)).get_repo('ocean/sst')\n"
            "repo.checkout(session_token=session_id)\n"
            "repo.root_group['t'][2:] = 20\n"
        )
        elsewhere(code, client.root, session_id, json.dumps(options))
        repo.root_group["t"][:2] = 10
        repo.commit("by two")
        np.testing.assert_array_equal(repo.root_group["t"][:, 0], [10, 10, 20, 20])
        client.delete_repo("ocean/sst", confirm="ocean/sst")
        assert client.list_repos() == []


def repo_root(repo: Repo) -> str:
    """Return the root of the lake of a repository on local files."""
    text = repo.repository.storage.description.removeprefix("local:")
    return text.partition("/repos/")[0]
