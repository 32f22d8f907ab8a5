"""The line in which writers of a directory wait: order, deaths, and who holds it up."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk as ic
from icechunk.commit_queue import CommitQueue
from icechunk.dask import Ingest
from icechunk.storage import _line
from icechunk.storage._line import Line
from icechunk.storage.local import LocalStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.storage.base import Version

BE_IN_LINE = """
import asyncio, sys
from icechunk.storage._line import Line
with Line(sys.argv[1], "main") as line:
    print(asyncio.run(line.turn(lost=True)), flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_line, "_PATIENCE_SECONDS", 600.0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return f"{tmp_path}/"


def places(root: str) -> list[str]:
    return sorted(path.name for path in Path(root).glob(".icechunk-line-*"))


def until_in_line(root: str, count: int) -> None:
    """Return when so many have a place: each is a file."""
    while len(places(root)) < count:
        threading.Event().wait(0.001)


@contextlib.contextmanager
def somebody(root: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the first place."""
    process = subprocess.Popen(
        [sys.executable, "-c", BE_IN_LINE, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "True\n"
            yield process
        finally:
            process.kill()


def take(root: str, answers: list[str], who: str) -> None:
    with Line(root, "main") as line:
        assert asyncio.run(line.turn(lost=True))
        answers.append(who)


def test_a_fresh_one_waits_for_nobody_and_takes_no_place(root: str) -> None:
    with Line(root, "main") as line:
        assert not asyncio.run(line.turn(lost=False))
        assert places(root) == []


@pytest.mark.parametrize("where", [None, "/no/such/directory/"])
def test_where_there_can_be_no_line_nobody_waits(where: str | None) -> None:
    with Line(where, "main") as line:
        assert not asyncio.run(line.turn(lost=True))


def test_those_in_line_are_served_in_order_and_leave_nothing(root: str) -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=take, args=(root, answers, str(n))) for n in range(4)]
    with somebody(root) as first:
        for n, thread in enumerate(threads):
            thread.start()
            until_in_line(root, n + 2)
        assert answers == []
        assert first.stdin is not None
        first.stdin.write("go\n")
        first.stdin.flush()
        for thread in threads:
            thread.join(60)
    assert answers == ["0", "1", "2", "3"]
    assert places(root) == []


def test_whoever_dies_in_line_is_passed(root: str) -> None:
    answers: list[str] = []
    with somebody(root) as first:
        thread = threading.Thread(target=take, args=(root, answers, "next"))
        thread.start()
        until_in_line(root, 2)
        first.kill()
        thread.join(60)
    assert answers == ["next"]
    assert places(root) == []


def test_whoever_holds_up_the_line_is_overtaken(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_line, "_PATIENCE_SECONDS", 0.01)
    answers: list[str] = []
    with somebody(root):
        take(root, answers, "next")
        assert len(places(root)) == 1
    assert answers == ["next"]


def test_lines_for_different_things_are_different(root: str) -> None:
    with somebody(root), Line(root, "other") as line:
        assert not asyncio.run(line.turn(lost=False))
        assert asyncio.run(line.turn(lost=True))


def test_a_cancelled_wait_leaves_the_line(root: str) -> None:
    async def cancelled() -> None:
        with Line(root, "main") as line:
            await line.turn(lost=True)

    async def main() -> None:
        task = asyncio.create_task(cancelled())
        await asyncio.to_thread(until_in_line, root, 2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    with somebody(root):
        asyncio.run(main())
        assert len(places(root)) == 1


# -- commits in line --------------------------------------------------------------------------


def committed(repo: ic.Repository) -> list[str]:
    return [info.message for info in repo.ancestry(branch="main")]


@pytest.fixture
def repo(root: str) -> ic.Repository:
    repo = ic.Repository.create(ic.local_filesystem_storage(root))
    with repo.transaction("main", message="template") as store:
        zarr.create_array(store, name="a", shape=(80,), chunks=(10,), dtype="i8")
    return repo


def written(repo: ic.Repository, chunk: int) -> ic.Session:
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[chunk * 10 : chunk * 10 + 10] = chunk
    return session


def test_a_fresh_commit_goes_behind_those_who_wait(repo: ic.Repository, root: str) -> None:
    session = written(repo, 1)
    with somebody(root) as first:
        thread = threading.Thread(
            target=session.commit,
            args=("fresh",),
            kwargs={"rebase_with": ic.ConflictDetector()},
        )
        thread.start()
        until_in_line(root, 2)
        assert committed(repo)[0] == "template"
        written(repo, 2).commit("cannot rebase, so it does not wait")
        assert first.stdin is not None
        first.stdin.write("go\n")
        first.stdin.flush()
        thread.join(60)
    assert committed(repo)[:2] == ["fresh", "cannot rebase, so it does not wait"]
    assert places(root) == []
    assert repo.lookup_snapshot(session.snapshot_id).metadata == {
        "__icechunk": {"rebase_attempts": 1}
    }


class Overtaken(LocalStorage):
    """Somebody else commits just before the first of our own; remembers who was in line."""

    in_line: ClassVar[list[int]] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return (Overtaken, (self._files.root,))

    async def put_if_unchanged(
        self, key: str, data: bytes | memoryview, version: Version, **kwargs: Any
    ) -> Version:
        root = f"{self._files.root}/"
        if not self.in_line:
            other = written(ic.Repository.open(ic.local_filesystem_storage(root)), 2)
            thread = threading.Thread(target=other.commit, args=("faster",))
            thread.start()
            thread.join(60)
        self.in_line.append(len(places(root)))
        return await super().put_if_unchanged(key, data, version, **kwargs)


def test_who_lost_takes_a_place(repo: ic.Repository, root: str) -> None:
    mine = ic.Repository.open(Overtaken.create(root))
    session = written(mine, 1)
    session.commit("late", rebase_with=ic.ConflictDetector())
    assert committed(repo)[:2] == ["late", "faster"]
    assert Overtaken.in_line == [0, 1]
    assert places(root) == []


def test_a_commit_without_any_rebase_left_fails_as_ever(repo: ic.Repository) -> None:
    late = written(repo, 1)
    written(repo, 2).commit("faster")
    for rebase in ({}, {"rebase_with": ic.ConflictDetector(), "rebase_tries": 0}):
        with pytest.raises(ic.ConflictError):
            late.commit("late", **rebase)  # type: ignore[arg-type]
    late.commit("late", rebase_with=ic.ConflictDetector(), rebase_tries=1)
    assert committed(repo)[:2] == ["late", "faster"]


def test_a_queue_and_a_job_go_behind_those_who_wait(repo: ic.Repository, root: str) -> None:
    """They commit without a solver, again and again: outside the line they would starve."""
    source = xr.Dataset({"t": ("x", np.arange(4.0))}).chunk(x=2)
    job = Ingest(repo, "main", source, group="g", job_id="job")
    fork = repo.writable_session("main").fork()
    zarr.open_array(fork.store, path="a", mode="r+")[:10] = 1
    with CommitQueue(repo, "main") as queue:
        thread = threading.Thread(target=job.run)
        with somebody(root) as first:
            thread.start()
            until_in_line(root, 2)
            answer = queue.submit(fork, "queued")
            until_in_line(root, 3)
            assert committed(repo)[0] == "template"
            assert first.stdin is not None
            first.stdin.write("go\n")
            first.stdin.flush()
            thread.join(60)
            answer.result(60)
    assert committed(repo)[:2] == ["queued", "Ingest a dataset"]
    assert places(root) == []
