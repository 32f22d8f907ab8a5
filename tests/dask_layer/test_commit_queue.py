"""The commit queue on a cluster of real processes: tasks, another client, and killed workers."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, LocalCluster, get_worker

import icechunk as ic
from icechunk.dask import ClusterCommitQueue
from icechunk.group_commit import hand_in_ids
from icechunk.storage._file_lock import locked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def cluster():
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    with Client(cluster) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.fixture
def array(repo):
    with repo.transaction("main", message="template") as store:
        zarr.create_array(store, name="a", shape=(320,), chunks=(10,), dtype="i8")
    return repo


def values(repo):
    return zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")[::10].tolist()


def ids(repo):
    return sorted(i for s in repo.ancestry(branch="main") for i in hand_in_ids(s.metadata))


def fill(queue, fork, chunk):
    zarr.open_array(fork.store, path="a", mode="r+")[chunk * 10 : chunk * 10 + 10] = chunk + 1
    return queue.commit(fork, f"chunk {chunk}", hand_in_id=f"unit-{chunk}")


def test_tasks_hand_in_and_each_learns_its_snapshot_or_its_own_conflict(client, array):
    fork = array.writable_session("main").fork()
    with ClusterCommitQueue(client, array, "main") as queue:
        answers = client.gather(client.map(lambda n: fill(queue, fork, n), range(32)))
        report = queue.report
        clash = client.submit(clashing, queue, fork, 3, pure=False)
        with pytest.raises(ic.RebaseFailedError, match=r"/a +\[3\]"):
            clash.result()
        again = client.submit(fill, queue, fork, 3, pure=False).result()
    assert again == answers[3]
    assert values(array) == list(range(1, 33))
    assert set(answers) == {s.id for s in array.ancestry(branch="main")} - {
        s.id for s in list(array.ancestry(branch="main"))[-2:]
    }
    assert ids(array) == sorted(f"unit-{n}" for n in range(32))
    assert report.committed == 32
    assert "main" in repr(pickle.loads(pickle.dumps(queue)))


def clashing(queue, fork, chunk):
    zarr.open_array(fork.store, path="a", mode="r+")[chunk * 10 : chunk * 10 + 5] = -1
    return queue.commit(fork, "part of a chunk that somebody else wrote")


def test_another_process_of_the_cluster_hands_in(client, cluster, array):
    script = textwrap.dedent(
        """
        import pickle, sys
        import zarr
        from distributed import Client
        if __name__ == "__main__":
            address, queue, fork = pickle.load(sys.stdin.buffer)
            with Client(address):
                queue, fork = pickle.loads(queue), pickle.loads(fork)
                zarr.open_array(fork.store, path="a", mode="r+")[0:10] = 7
                print(queue.commit(fork, "from outside"))
        """
    )
    with ClusterCommitQueue(client, array, "main") as queue:
        fork = array.writable_session("main").fork()
        parts = (cluster.scheduler_address, pickle.dumps(queue), pickle.dumps(fork))
        done = subprocess.run(
            [sys.executable, "-c", script],
            input=pickle.dumps(parts),
            capture_output=True,
            check=True,
            timeout=100,
        )
    assert done.stdout.decode().strip() == array.lookup_branch("main")
    assert values(array)[0] == 7


def test_a_writer_killed_after_handing_in_is_run_again_and_commits_once(client, array, tmp_path):
    fork = array.writable_session("main").fork()
    mark = tmp_path / "killed"

    def deadly(queue, fork, chunk):
        snapshot_id = fill(queue, fork, chunk)
        if chunk == 5 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return snapshot_id

    # The queue is on one worker, the tasks on the other.
    home, other = client.scheduler_info(n_workers=-1)["workers"]
    with ClusterCommitQueue(client, array, "main", workers=[home]) as queue:
        options = {"workers": [other], "allow_other_workers": True, "retries": 3}
        futures = [client.submit(deadly, queue, fork, n, pure=False, **options) for n in range(12)]
        answers = client.gather(futures)
    assert mark.exists()
    assert ids(array) == sorted(f"unit-{n}" for n in range(12)), "none lost, none doubled"
    assert values(array)[:12] == list(range(1, 13))
    assert len(answers) == 12


def test_when_the_worker_of_the_queue_is_killed_writers_commit_by_themselves(client, array):
    fork = array.writable_session("main").fork()
    client.wait_for_workers(2, timeout=60)
    home, other = client.scheduler_info(n_workers=-1)["workers"]
    queue = ClusterCommitQueue(client, array, "main", workers=[home], reply_timeout_seconds=2)
    pid = client.submit(lambda: (get_worker().address, os.getpid())[1], workers=[home])
    client.submit(fill, queue, fork, 0, workers=[other], pure=False).result()
    os.kill(pid.result(), signal.SIGKILL)
    options = {"workers": [other], "allow_other_workers": True, "pure": False}
    futures = [client.submit(fill, queue, fork, n, **options) for n in range(6)]
    answers = client.gather(futures)
    queue.close()
    assert len(set(answers)) > 1
    assert ids(array) == sorted(f"unit-{n}" for n in range(6)), "none lost, none doubled"
    np.testing.assert_array_equal(values(array)[:6], np.arange(1, 7))


def test_closing_waits_for_a_commit_longer_than_for_a_reply(client, array, tmp_path, caplog):
    fork = array.writable_session("main").fork()
    queue = ClusterCommitQueue(client, array, "main", reply_timeout_seconds=0.5)
    closer = threading.Thread(target=queue.close)
    (lock,) = tmp_path.rglob(".icechunk-lock#*")
    with locked(str(lock), 60):  # so no commit gets through
        future = client.submit(fill, queue, fork, 0, pure=False)
        while not queue.report.waiting:
            threading.Event().wait(0.01)
        closer.start()
        closer.join(1.5)
        assert closer.is_alive()
    closer.join(60)
    assert future.result() == array.lookup_branch("main")
    assert "gone" not in caplog.text


def test_memory_storage_is_refused(client):
    repo = ic.Repository.create(ic.in_memory_storage())
    with pytest.raises(ic.InvalidInputError, match="one process"):
        ClusterCommitQueue(client, repo, "main")
