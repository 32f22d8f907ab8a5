"""Many writers on one branch: time per commit and fairness, with and without the queue.

Each writer is a process that fills chunks of its own, one commit for each. Run it as

    python -m benchmarks.writers --writers 16 --commits 25 --s3

Options: ``--official PYTHON`` also runs the writers with the official package of that interpreter
(on S3, for its local files are not made for concurrent writers); ``--queue`` runs the same work as
tasks of a dask cluster of as many processes that hand in to one commit queue; ``--threads`` as
threads of one process that do. ``--s3`` is a moto server on loopback, which serves one request at a
time; without it the repository is in a temporary folder. Prints one line of JSON for each run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

import icechunk as ic
from benchmarks.children import ROOT, command, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ELEMENTS = 10


def open_storage(where: str) -> Any:
    """Return a storage from a path, or from the JSON of `s3_storage` arguments."""
    if where.startswith("{"):
        return ic.s3_storage(**json.loads(where))
    return ic.local_filesystem_storage(where)


def fill(store: Any, chunk: int) -> None:
    """Write one chunk."""
    array = zarr.open_array(store, path="a", mode="r+")
    array[chunk * ELEMENTS : (chunk + 1) * ELEMENTS] = chunk + 1


def write(where: str, first: int, last: int) -> None:
    """Be one writer: commit each chunk on its own; works with both packages."""
    repo = ic.Repository.open(open_storage(where))
    print("ready", flush=True)
    sys.stdin.readline()
    seconds = []
    for chunk in range(first, last):
        session = repo.writable_session("main")
        fill(session.store, chunk)
        start = time.perf_counter()
        session.commit(f"chunk {chunk}", rebase_with=ic.ConflictDetector())
        seconds.append(time.perf_counter() - start)
    print(json.dumps(seconds), flush=True)


def independent(python: str, where: str, writers: int, commits: int) -> list[list[float]]:
    """Run the writers as processes; return what each commit of each took, in seconds."""
    processes = []
    for n in range(writers):
        part = (str(n * commits), str((n + 1) * commits))
        process = subprocess.Popen(  # noqa: S603 # ourselves
            command(python, "writers", "--be", where, *part),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(python),
            cwd=tempfile.gettempdir(),
        )
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [json.loads(process.communicate()[0]) for process in processes]


def queued(
    submit: Callable[[Any, int], Any], repo: Any, mine: range, seconds: list[float]
) -> list[float]:
    """Be one writer that hands in."""
    for chunk in mine:
        fork = repo.writable_session("main").fork()
        fill(fork.store, chunk)
        start = time.perf_counter()
        submit(fork, chunk)
        seconds.append(time.perf_counter() - start)
    return seconds


def by_threads(where: str, writers: int, commits: int) -> list[list[float]]:
    """Run the writers as threads that hand in to one queue."""
    from icechunk.commit_queue import CommitQueue  # noqa: PLC0415 # the official package has none

    repo = ic.Repository.open(open_storage(where))
    parts = [range(n * commits, (n + 1) * commits) for n in range(writers)]
    with CommitQueue(repo, "main") as queue, ThreadPoolExecutor(writers) as pool:

        def submit(fork: Any, chunk: int) -> None:
            queue.submit(fork, f"chunk {chunk}").result()

        return list(pool.map(lambda mine: queued(submit, repo, mine, []), parts))


def by_cluster(where: str, writers: int, commits: int) -> list[list[float]]:
    """Run the writers as tasks on processes of a cluster that hand in to one queue."""
    from distributed import Client, LocalCluster  # noqa: PLC0415 # only for this

    from icechunk.dask import ClusterCommitQueue  # noqa: PLC0415

    repo = ic.Repository.open(open_storage(where))
    with (
        LocalCluster(n_workers=writers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
        ClusterCommitQueue(client, repo, "main") as queue,
    ):

        def work(queue: Any, repo: Any, mine: range) -> list[float]:
            return queued(lambda f, c: queue.commit(f, f"chunk {c}"), repo, mine, [])

        parts = [range(n * commits, (n + 1) * commits) for n in range(writers)]
        tasks = [client.submit(work, queue, repo, mine) for mine in parts]
        seconds: list[list[float]] = client.gather(tasks)
        return seconds


def checked(where: str, total: int) -> int:
    """Return how many commits hold the chunks; fails when one was lost or doubled."""
    repo = ic.Repository.open(open_storage(where))
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert np.array_equal(array[::ELEMENTS], np.arange(1, total + 1)), "a chunk was lost"
    held = []
    history = list(repo.ancestry(branch="main"))[:-2]
    for snapshot in history:
        entries = snapshot.metadata.get("icechunk_hand_ins") or [{"message": snapshot.message}]
        held += [entry["message"] for entry in entries]
    assert sorted(held) == sorted(f"chunk {n}" for n in range(total)), "lost or doubled"
    return len(history)


@contextlib.contextmanager
def places(*, on_s3: bool) -> Iterator[Callable[[], str]]:
    """Yield what makes fresh places for repositories."""
    if not on_s3:
        with tempfile.TemporaryDirectory() as folder:
            numbers = iter(range(100))
            yield lambda: str(Path(folder, f"repo-{next(numbers)}"))
        return
    sys.path.insert(0, str(ROOT))
    from tests.s3_server import S3Server  # noqa: PLC0415 # found through the line above

    with S3Server.running() as server:
        numbers = iter(range(100))

        def fresh() -> str:
            options = server.options(prefix=f"repo-{next(numbers)}")
            options.pop("backend", None)  # the official package has but one
            return json.dumps(options)

        yield fresh


def measure(name: str, where: str, writers: int, commits: int, run: Callable[..., Any]) -> None:
    """Run the writers once and print the figures."""
    total = writers * commits
    repo = ic.Repository.create(open_storage(where))
    with repo.transaction("main", message="template") as store:
        zarr.create_array(
            store, name="a", shape=(total * ELEMENTS,), chunks=(ELEMENTS,), dtype="i8"
        )
    seconds = run(where, writers, commits)
    each = np.array(seconds)
    waits = each.sum(axis=1)
    print(
        json.dumps(
            {
                "run": name,
                "writers": writers,
                "commits_each": commits,
                "commits_made": checked(where, total),
                "ms_for_each_piece": round(1e3 * float(waits.max()) / total, 1),
                "median_wait_ms": round(1e3 * float(np.median(each))),
                "longest_wait_ms": round(1e3 * float(each.max())),
                "writer_total_s_min": round(float(waits.min()), 2),
                "writer_total_s_max": round(float(waits.max()), 2),
            }
        ),
        flush=True,
    )


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--be", nargs=3, metavar=("WHERE", "FIRST", "LAST"))
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--commits", type=int, default=4)
    for option in ("--s3", "--queue", "--threads"):
        parser.add_argument(option, action="store_true")
    parser.add_argument("--official", metavar="PYTHON")
    given = parser.parse_args()
    if given.be:
        write(given.be[0], int(given.be[1]), int(given.be[2]))
        return
    runs: dict[str, Callable[..., Any]] = {
        "independent": lambda *rest: independent(sys.executable, *rest)
    }
    if given.threads:
        runs["queue, threads"] = by_threads
    if given.queue:
        runs["queue, cluster"] = by_cluster
    if given.official:
        runs["official, independent"] = lambda *rest: independent(given.official, *rest)
    with places(on_s3=given.s3) as new_place:
        for name, run in runs.items():
            measure(name, new_place(), given.writers, given.commits, run)


if __name__ == "__main__":
    main()
