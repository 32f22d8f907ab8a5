"""The I/O thread: blocking calls, Ctrl-C, forks, the end of the interpreter."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from icechunk._io import loop
from icechunk.errors import InternalError, SessionStateError, StorageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def value(result: Any, wait_seconds: float = 0.0) -> Any:
    await asyncio.sleep(wait_seconds)
    return result


async def fail() -> None:
    await asyncio.sleep(0)
    raise StorageError("no", "io")


def test_returns_and_raises() -> None:
    assert loop.run(value(3)) == 3
    with pytest.raises(StorageError, match="no"):
        loop.run(fail())


def test_runs_on_the_one_daemon_thread() -> None:
    async def where() -> threading.Thread:
        return threading.current_thread()

    with ThreadPoolExecutor(4) as pool:
        threads = {*pool.map(lambda _: loop.run(where()), range(20)), loop.run(where())}
    (thread,) = threads
    assert thread.daemon
    assert thread.name == "icechunk-io"
    assert not loop.in_io_thread()


def test_works_inside_a_running_loop() -> None:
    async def notebook_cell() -> int:
        found: int = loop.run(value(4))
        return found

    with asyncio.Runner() as runner:
        assert runner.run(notebook_cell()) == 4


def test_many_threads_at_once() -> None:
    with ThreadPoolExecutor(16) as pool:
        start = time.monotonic()
        assert list(pool.map(lambda n: loop.run(value(n, 0.1)), range(16))) == list(range(16))
        assert time.monotonic() - start < 1.5  # together, not one after the other


def test_context_variables_come_along() -> None:
    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)

    async def read() -> int:
        return variable.get()

    assert loop.run(read()) == 7


def test_refuses_its_own_thread() -> None:
    async def nested() -> None:
        loop.run(value(1))

    with pytest.raises(SessionStateError, match="_async"):
        loop.run(nested())


def test_nothing_is_kept() -> None:
    class Thing:
        pass

    async def make() -> Thing:
        return Thing()

    reference = weakref.ref(loop.run(make()))
    loop.run(value(None))
    gc.collect()
    assert reference() is None


def test_cancelled_coroutine() -> None:
    async def cancel_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    with pytest.raises(asyncio.CancelledError):
        loop.run(cancel_itself())


# ---------------------------------------------------------------- iterators


class Steps:
    def __init__(self) -> None:
        self.closed_on: threading.Thread | None = None

    async def numbers(self, count: int) -> AsyncIterator[int]:
        try:
            for number in range(count):
                yield await value(number)
        finally:
            await asyncio.sleep(0)
            self.closed_on = threading.current_thread()


def test_iterates_to_the_end() -> None:
    steps = Steps()
    assert list(loop.iterate(steps.numbers(5))) == [0, 1, 2, 3, 4]
    assert steps.closed_on is not None


def test_closes_when_left_early() -> None:
    steps = Steps()
    for number in loop.iterate(steps.numbers(5)):
        if number == 2:
            break
    gc.collect()
    assert steps.closed_on is not None
    assert steps.closed_on.name == "icechunk-io"


def test_error_in_an_iterator() -> None:
    async def broken() -> AsyncIterator[int]:
        yield 1
        await fail()

    iterator = loop.iterate(broken())
    assert next(iterator) == 1
    with pytest.raises(StorageError):
        next(iterator)
    assert list(iterator) == []


def test_iterator_collected_on_the_io_thread() -> None:
    steps = Steps()
    iterators = [loop.iterate(steps.numbers(5))]
    assert next(iterators[0]) == 0

    async def drop() -> None:
        iterators.clear()
        gc.collect()
        await asyncio.sleep(0.05)

    loop.run(drop())
    assert steps.closed_on is not None


# ---------------------------------------------------------------- without a loop


def test_run_now_needs_no_loop() -> None:
    async def nested() -> bool:
        return loop.driving_now()

    async def work() -> tuple[bool, int, int]:
        return await nested(), await loop.in_thread(threading.get_ident), threading.get_ident()

    driving, inside, outside = loop.run_now(work())
    assert driving
    assert inside == outside == threading.get_ident()
    assert not loop.driving_now()


def test_run_now_inside_a_running_loop() -> None:
    async def work() -> int:
        return loop.run_now(answer())

    async def answer() -> int:
        return 5

    with asyncio.Runner() as runner:
        assert runner.run(work()) == 5


def test_run_now_raises() -> None:
    async def broken() -> None:
        raise StorageError("no", "io")

    with pytest.raises(StorageError):
        loop.run_now(broken())
    assert not loop.driving_now()


def test_run_now_refuses_to_wait() -> None:
    closed = []

    async def waits() -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    with pytest.raises(InternalError, match="waits"):
        loop.run_now(waits())
    assert closed == [True]
    assert not loop.driving_now()


def test_in_thread_does_not_block_the_loop() -> None:
    async def work() -> list[int]:
        await asyncio.gather(*(loop.in_thread(time.sleep, 0.1) for _ in range(4)))
        return [await loop.in_thread(threading.get_ident)]

    start = time.monotonic()
    assert loop.run(work())[0] != threading.get_ident()
    assert time.monotonic() - start < 1


def test_on_io_thread() -> None:
    async def where() -> str:
        return threading.current_thread().name

    async def from_elsewhere() -> str:
        return await loop.on_io_thread(where())

    with asyncio.Runner() as runner:
        assert runner.run(from_elsewhere()) == "icechunk-io"
    assert loop.run(from_elsewhere()) == "icechunk-io"


def test_cancelling_reaches_the_io_thread() -> None:
    ended: list[str] = []
    started = threading.Event()

    async def long() -> None:
        started.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def impatient() -> None:
        task = asyncio.ensure_future(loop.on_io_thread(long()))
        await asyncio.to_thread(started.wait, 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with asyncio.Runner() as runner:
        runner.run(impatient())
    loop.run(value(None, 0.05))
    assert ended == ["cancelled"]


# ---------------------------------------------------------------- processes


def python(program: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-Walways", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_quiet_end_with_work_left() -> None:
    done = python(
        """
import asyncio, threading
from icechunk._io import loop

async def work():
    try:
        await asyncio.sleep(60)
    finally:
        print("cleaned up")

async def leave():
    print("closed")

loop.before_stop(leave)
def wait():
    try:
        loop.run(work())
    except asyncio.CancelledError:
        pass
threading.Thread(target=wait, daemon=True).start()
loop.run(asyncio.sleep(0.2))
print("done")
"""
    )
    assert (done.stdout.split("\n"), done.stderr) == (["done", "closed", "cleaned up", ""], "")
    assert done.returncode == 0


def test_call_while_the_interpreter_ends() -> None:
    done = python(
        """
import atexit, asyncio
def late():
    from icechunk._io import loop
    try:
        loop.run(asyncio.sleep(0))
    except Exception as error:
        print(type(error).__name__, error)
atexit.register(late)  # runs after the exit of icechunk's own loop
from icechunk._io import loop
loop.run(asyncio.sleep(0))
"""
    )
    assert done.stdout.startswith("SessionStateError the interpreter is shutting down")
    assert done.stderr == ""


INTERRUPTED = """
import asyncio, sys, time
from icechunk._io import loop

async def work():
    print("working", flush=True)
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(0.05)
        print("cleaned up", flush=True)

start = time.monotonic()
try:
    loop.run(work())
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert time.monotonic() - start < 30

async def again():
    return "still works"
print(loop.run(again()))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for one process there")
def test_ctrl_c_cancels_the_coroutine() -> None:
    with subprocess.Popen(
        [sys.executable, "-Walways", "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "working\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert out == "cleaned up\ninterrupted\nstill works\n"
    assert err == ""
    assert process.returncode == 0


def in_child() -> str:
    async def where() -> str:
        return threading.current_thread().name

    return f"{loop.run(where())} {loop.run(value(3))}"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_child_processes_have_their_own_loop(method: str) -> None:
    assert loop.run(value(1)) == 1
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        assert pool.apply(in_child) == "icechunk-io 3"
    assert loop.run(value(2)) == 2


FORKED = """
import asyncio, os, threading, time, warnings
from icechunk._io import loop
warnings.simplefilter("ignore", DeprecationWarning)

async def tick(n=0.01):
    await asyncio.sleep(n)
    return 1

loop.run(tick())
busy = threading.Thread(target=lambda: [loop.run(tick()) for _ in range(50)])
busy.start()
children = []
for _ in range(8):
    child = os.fork()
    if child == 0:
        total = sum(loop.run(tick(0.001)) for _ in range(10))
        os._exit(0 if total == 10 else 1)
    children.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
busy.join()  # the parent's loop is not deaf
print(loop.run(tick()))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forks_while_the_loop_is_busy() -> None:
    done = python(FORKED)
    assert (done.stdout, done.stderr, done.returncode) == ("1\n", "", 0)


def test_errors_survive_pickling() -> None:
    with pytest.raises(StorageError) as caught:
        loop.run(fail())
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.kind) == ("no", "io")
