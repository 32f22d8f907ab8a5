"""Many writers hand in forks; one committer merges, commits in groups, and answers each."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.sync import sync

import icechunk as ic
from icechunk.commit_queue import CommitQueue, hand_in_of, pack_hand_in, unpack_hand_in
from icechunk.errors import StorageError
from icechunk.group_commit import HAND_INS_KEY, hand_in_ids
from tests.faults import Died, FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


CHUNKS = 64


@pytest.fixture
def repo(tmp_path: Path) -> ic.Repository:
    return filled(ic.Repository.create(ic.local_filesystem_storage(tmp_path / "repo")))


def filled(repo: ic.Repository) -> ic.Repository:
    with repo.transaction("main", message="template") as store:
        zarr.create_array(store, name="a", shape=(CHUNKS * 10,), chunks=(10,), dtype="i8")
        zarr.create_array(store, name="b", shape=(CHUNKS * 10,), chunks=(10,), dtype="i8")
    return repo


def written(repo: ic.Repository, chunk: int, value: int, path: str = "a") -> ic.ForkSession:
    fork = repo.writable_session("main").fork()
    zarr.open_array(fork.store, path=path, mode="r+")[chunk * 10 : (chunk + 1) * 10] = value
    return fork


def values(repo: ic.Repository, path: str = "a") -> list[int]:
    array = zarr.open_array(repo.readonly_session("main").store, path=path, mode="r")
    return np.asarray(array[::10]).tolist()


def commits(repo: ic.Repository) -> list[Any]:
    return list(repo.ancestry(branch="main"))[:-2]


def test_threads_hand_in_and_each_learns_its_snapshot(repo: ic.Repository) -> None:
    with CommitQueue(repo, "main") as queue, ThreadPoolExecutor(8) as pool:

        def work(chunk: int) -> str:
            fork = written(repo, chunk, chunk + 1)
            return queue.submit(fork, f"chunk {chunk}", {"n": chunk}).result(60)

        answers = list(pool.map(work, range(CHUNKS)))
    assert values(repo) == list(range(1, CHUNKS + 1))
    history = commits(repo)
    assert len(history) == queue.report.groups <= CHUNKS
    assert queue.report.committed == CHUNKS
    assert queue.report.waiting == queue.report.refused == 0
    held = {e["metadata"]["n"]: s.id for s in history for e in s.metadata[HAND_INS_KEY]}
    assert held == dict(enumerate(answers))


def together(repo: ic.Repository, forks: Sequence[ic.ForkSession]) -> tuple[list[Any], Any]:
    """Hand in forks at once, with a first one that keeps the committer busy until all are there."""
    queue = CommitQueue(repo, "main")
    with queue._changed:  # the committer starts, and waits for its first batch
        answers = [queue.submit(fork, f"fork {n}") for n, fork in enumerate(forks)]
    queue.close()
    return answers, queue.report


def test_a_group_is_one_commit_whose_message_and_metadata_name_each(repo: ic.Repository) -> None:
    answers, report = together(repo, [written(repo, n, n + 1) for n in range(5)])
    assert len({answer.result() for answer in answers}) == 1
    assert (report.groups, report.largest_group) == (1, 5)
    (commit,) = commits(repo)
    assert commit.message.splitlines()[0] == "5 hand-ins"
    assert [e["message"] for e in commit.metadata[HAND_INS_KEY]] == [f"fork {n}" for n in range(5)]


def test_a_conflict_is_one_writers_own(repo: ic.Repository) -> None:
    forks = [written(repo, chunk, n + 1) for n, chunk in enumerate([0, 1, 1, 2])]
    answers, report = together(repo, forks)
    error = answers[2].exception()
    assert isinstance(error, ic.RebaseFailedError)
    assert error.snapshot == answers[1].result()
    assert error.report.to_dict()["conflicts"][0]["chunk_ranges"] == [[[1, 2]]]
    assert "/a" in str(error)
    assert values(repo)[:4] == [1, 2, 4, 0]
    assert answers[0].result() == answers[1].result()
    assert (report.committed, report.refused) == (3, 1)


class WatchedStorage(FaultyStorage):
    """Counts how often a transaction log is read."""

    logs_read = 0

    async def get(self, key: str, *args: Any, **kwargs: Any) -> bytes:
        self.logs_read += key.startswith("transactions/")
        return await super().get(key, *args, **kwargs)


def test_forks_of_one_old_base_are_not_held_against_each_commit_since() -> None:
    storage = WatchedStorage(ic.in_memory_storage())
    repo = filled(ic.Repository.create(storage))
    base = repo.writable_session("main")
    storage.logs_read = 0
    with CommitQueue(repo, "main") as queue:
        for chunk in range(24):
            fork = base.fork()
            zarr.open_array(fork.store, path="a", mode="r+")[chunk * 10 : chunk * 10 + 10] = chunk
            queue.submit(fork, f"chunk {chunk}").result()
        assert len(commits(repo)) == 24
        assert storage.logs_read <= 24
        late = base.fork()
        zarr.open_array(late.store, path="a", mode="r+")[30:40] = 99
        with pytest.raises(ic.RebaseFailedError) as caught:
            queue.submit(late, "late").result()
    assert [c.conflicted_chunks for c in caught.value.conflicts] == [[[3]]]
    assert values(repo)[:24] == list(range(24))


@pytest.mark.parametrize(("selection", "kept"), [("UseOurs", 2), ("UseTheirs", 1)])
def test_a_solver_decides_in_the_order_of_handing_in(
    repo: ic.Repository, selection: str, kept: int
) -> None:
    solver = ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection[selection])
    forks = [written(repo, 3, 1), written(repo, 3, 2)]
    with CommitQueue(repo, "main", rebase_with=solver) as queue:
        with queue._changed:
            answers = [queue.submit(fork, "x") for fork in forks]
        assert [len(answer.result(30)) for answer in answers] == [20, 20]
    assert values(repo)[3] == kept


def test_metadata_first_and_chunks_of_the_same_array_after_it_conflict_as_in_two_commits(
    repo: ic.Repository,
) -> None:
    def attributes(units: str) -> ic.ForkSession:
        fork = repo.writable_session("main").fork()
        zarr.open_array(fork.store, path="a", mode="r+").attrs["units"] = units
        return fork

    answers, _ = together(repo, [attributes("K"), written(repo, 0, 1)])
    assert isinstance(answers[1].exception(), ic.RebaseFailedError)
    answers, report = together(repo, [written(repo, 0, 1), attributes("C")])
    assert report.groups == 1
    assert answers[0].result() == answers[1].result()


def test_new_nodes_and_deletions_go_together_unless_they_meet(repo: ic.Repository) -> None:
    def creating(name: str) -> ic.ForkSession:
        fork = repo.writable_session("main").fork()
        zarr.create_array(fork.store, name=name, shape=(10,), chunks=(10,), dtype="i8")[:] = 7
        return fork

    deleting = repo.writable_session("main").fork()
    sync(deleting.store.delete_dir("b"))
    forks = [creating("new/one"), creating("new/two"), creating("other"), deleting]
    answers, _ = together(repo, [*forks, written(repo, 0, 5, "b")])
    errors = [answer.exception() for answer in answers]
    # The first two both create the group they are in; the last writes to what is deleted.
    assert [type(e) for e in errors] == [
        type(None),
        ic.RebaseFailedError,
        type(None),
        type(None),
        ic.RebaseFailedError,
    ]
    store = repo.readonly_session("main").store
    assert sorted(zarr.open_group(store, mode="r").array_keys()) == ["a", "other"]
    assert zarr.open_array(store, path="new/one", mode="r")[0] == 7


def test_handed_in_again_it_learns_the_same_snapshot(repo: ic.Repository) -> None:
    with CommitQueue(repo, "main") as queue:
        first = queue.submit(written(repo, 0, 1), "one", hand_in_id="unit-1").result(30)
        queue.submit(written(repo, 0, 2), "other work").result(30)
        # The same queue, a retry whose fork is even newer than the commit:
        again = queue.submit(written(repo, 0, 9), "one", hand_in_id="unit-1").result(30)
    # Another queue, after the first one died:
    with CommitQueue(repo, "main") as queue:
        third = queue.submit(written(repo, 0, 9), "one", hand_in_id="unit-1").result(30)
    assert first == again == third
    assert values(repo)[0] == 2
    assert len(commits(repo)) == 2


def test_two_committers_and_plain_commits_on_one_branch(repo: ic.Repository) -> None:
    """Each piece of work is handed to both queues; others commit, too."""
    queues = [CommitQueue(repo, "main") for _ in range(2)]

    def work(chunk: int) -> set[str]:
        if chunk % 4 == 3:
            with repo.transaction(
                "main", message="plain", rebase_with=ic.ConflictDetector()
            ) as store:
                zarr.open_array(store, path="a", mode="r+")[chunk * 10 : chunk * 10 + 10] = 1
            return {"plain"}
        fork = written(repo, chunk, 1)
        hand_in = hand_in_of(fork, repo, "m", hand_in_id=f"unit-{chunk}")
        return {queue.hand_in(hand_in).result(60) for queue in queues}

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(work, range(24)))
    for queue in queues:
        queue.close()
    assert all(len(answer) == 1 for answer in answers), "both queues named the same snapshot"
    assert values(repo)[:24] == [1] * 24
    ids = [i for s in commits(repo) for i in hand_in_ids(s.metadata)]
    assert sorted(ids) == sorted(f"unit-{n}" for n in range(24) if n % 4 != 3)


def test_what_cannot_be_handed_in_is_refused_at_once(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    with CommitQueue(repo, "main") as queue:
        with pytest.raises(ic.SessionStateError, match="fork the session first"):
            queue.submit(session, "m")  # type: ignore[arg-type]
        with pytest.raises(ic.SessionStateError, match="no changes"):
            queue.submit(session.fork(), "m")
        zarr.open_array(session.store, path="a", mode="r+")[0:10] = 1
        with pytest.raises(ic.SessionStateError, match="uncommitted changes"):
            queue.submit(session.fork(), "m")
        other = filled(ic.Repository.create(ic.in_memory_storage()))
        stranger = written(other, 0, 1)
        with pytest.raises(ic.SessionStateError, match="the queue commits to"):
            queue.submit(stranger, "m")
        stranger.mark_carried()
        fork = written(repo, 0, 1)
        with pytest.raises(ic.InvalidInputError, match="hand_in_id"):
            queue.submit(fork, "m", hand_in_id="")
        with pytest.raises(TypeError, match="message"):
            queue.submit(fork, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            queue.submit(fork, "m", {"x": object()})
        with pytest.raises(TypeError, match="ClusterCommitQueue"):
            pickle.dumps(queue)
        assert "main" in repr(queue)
    with pytest.raises(ic.SessionStateError, match="closed"):
        queue.submit(fork, "m")
    with pytest.raises(ic.InvalidInputError, match="at least 1"):
        CommitQueue(repo, "main", max_group=0)
    assert commits(repo) == []


def test_a_full_queue_makes_writers_wait(repo: ic.Repository) -> None:
    queue = CommitQueue(repo, "main", max_group=2, max_waiting=3)
    most = 0

    def work(chunk: int) -> None:
        nonlocal most
        answer = queue.submit(written(repo, chunk, 1), "m")
        most = max(most, queue.report.waiting)
        answer.result(60)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(24)))
    queue.close()
    assert queue.report.committed == 24
    assert most <= 3 + 2, "those waiting, and the group under way"


def test_a_branch_that_is_gone_and_a_base_that_is_gone(repo: ic.Repository) -> None:
    repo.create_branch("side", repo.lookup_branch("main"))
    old = written(repo, 0, 1)
    base = repo.lookup_branch("main")
    with CommitQueue(repo, "main") as queue:
        queue.submit(written(repo, 1, 1), "one").result(30)
        late = written(repo, 2, 1)
        repo.reset_branch("main", base)
        gone = queue.submit(late, "late").exception(30)
        assert isinstance(gone, ic.ConflictError)
        assert "reset" in str(gone)
        assert queue.submit(old, "old").result(30) == repo.lookup_branch("main")
    with CommitQueue(repo, "side") as queue:
        repo.delete_branch("side")
        error = queue.submit(written(repo, 5, 1), "m").exception(30)
        assert isinstance(error, ic.RefNotFoundError)


def test_one_that_cannot_be_written_does_not_spoil_the_others(
    repo: ic.Repository, tmp_path: Path
) -> None:
    """The manifest of one array is lost: who writes there hears of it, the others commit."""
    with CommitQueue(repo, "main") as queue:
        queue.submit(written(repo, 0, 1, "b"), "b").result(30)
    for manifest in (tmp_path / "repo" / "manifests").iterdir():
        manifest.unlink()
    fresh = ic.Repository.open(ic.local_filesystem_storage(tmp_path / "repo"))
    forks = [written(fresh, n, 1, path) for n, path in enumerate(["a", "b", "a", "a"], 1)]
    answers, report = together(fresh, forks)
    assert [isinstance(a.exception(), ic.StorageError) for a in answers] == [
        False,
        True,
        False,
        False,
    ]
    assert (report.committed, report.refused) == (3, 1)
    assert values(fresh)[:5] == [0, 1, 0, 1, 1]


@pytest.mark.parametrize("how", ["die before", "die after", "error", "lost race", "lost reply"])
def test_a_committer_that_fails_at_any_write_and_a_retry_commit_once(
    tmp_path: Path, how: str
) -> None:
    place = ic.local_filesystem_storage(tmp_path / "repo")
    repo = filled(ic.Repository.create(place))
    survived = 0
    for step in range(8):
        hand_in = hand_in_of(written(repo, step, step + 1), repo, "m", hand_in_id=f"unit-{step}")
        faulty = FaultyStorage(place, step, how)
        with CommitQueue(ic.Repository.open(faulty), "main") as queue:
            answer = queue.hand_in(hand_in)
        lost = isinstance(answer.exception(), StorageError | Died)
        with CommitQueue(repo, "main") as queue:
            again = queue.hand_in(hand_in).result(30)
        assert lost or answer.result() == again
        survived += not lost
    ids = [i for s in commits(repo) for i in hand_in_ids(s.metadata)]
    assert sorted(ids) == [f"unit-{step}" for step in range(8)]
    assert values(repo)[:8] == list(range(1, 9))
    assert survived >= 3, "the steps after the last write, at least"


def test_hand_ins_travel_as_values_without_place_or_credentials(repo: ic.Repository) -> None:
    hand_in = hand_in_of(written(repo, 4, 5), repo, "message", {"a": [1, 2.5, None]})
    data = pack_hand_in(hand_in)
    assert str(repo.storage.description).encode() not in data
    back = unpack_hand_in(data)
    assert (back.id, back.base_id, back.message) == (hand_in.id, hand_in.base_id, "message")
    assert back.metadata == {"a": [1, 2.5, None]}
    assert back.changes.chunk_count() == 1
    for cut in (0, 5, len(data) - 1):
        with pytest.raises(ic.FormatError):
            unpack_hand_in(data[:cut])


def test_a_version_1_repository(tmp_path: Path) -> None:
    repo = filled(
        ic.Repository.create(ic.local_filesystem_storage(tmp_path / "one"), spec_version=1)
    )
    answers, _ = together(repo, [written(repo, n, n + 1) for n in range(3)])
    assert len({answer.result() for answer in answers}) == 1
    with CommitQueue(repo, "main") as queue:
        queue.submit(written(repo, 9, 9), "m", hand_in_id="u").result(30)
        tip = queue.submit(written(repo, 9, 8), "m", hand_in_id="u").result(30)
    assert tip == repo.lookup_branch("main")
    assert values(repo)[:3] == [1, 2, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_waits_for_nobody(repo: ic.Repository) -> None:
    """The fork takes place while the queue commits; its thread does not come along."""
    queue = CommitQueue(repo, "main")
    mine, childs = written(repo, 0, 1), written(repo, 1, 2)
    committing, go_on = threading.Event(), threading.Event()
    commit = queue._committer.commit

    async def held(hand_ins: Any) -> Any:
        committing.set()
        await asyncio.to_thread(go_on.wait)
        return await commit(hand_ins)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queue._committer, "commit", held)
        answer = queue.submit(mine, "parent")
        assert committing.wait(30)
        child = os.fork()
        if not child:
            code = 1
            try:
                patch.undo()
                queue.submit(childs, "child").result(30)
                queue.close()
                code = 0
            finally:
                os._exit(code)
        childs.mark_carried()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        go_on.set()
        answer.result(60)
    queue.close()
    assert values(repo)[:2] == [1, 2]
