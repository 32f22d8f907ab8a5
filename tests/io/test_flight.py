"""One load shared among tasks of several loops and threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pytest

from icechunk._io import loop
from icechunk._io.flight import Flight
from icechunk.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

T = TypeVar("T")


class Loader:
    """Counts its loads; each takes a while."""

    def __init__(self, seconds: float = 0.05, fails: int = 0) -> None:
        self.seconds = seconds
        self.fails = fails
        self.count = 0
        self.started = threading.Event()
        self._lock = threading.Lock()

    async def load(self) -> object:
        with self._lock:
            self.count += 1
            fail = self.fails > 0
            self.fails -= 1
        self.started.set()
        await asyncio.sleep(self.seconds)
        if fail:
            raise StorageError("no", "io")
        return object()

    async def load_now(self) -> object:
        with self._lock:
            self.count += 1
        self.started.set()
        time.sleep(self.seconds)
        return object()


def on_own_loop(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    with asyncio.Runner() as runner:
        return runner.run(work())


def test_one_load_for_tasks_of_one_loop() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader()

    async def everybody() -> list[object]:
        return await asyncio.gather(*(flight.share("a", loader.load) for _ in range(20)))

    assert len(set(on_own_loop(everybody))) == 1
    assert loader.count == 1


def test_keys_are_apart_and_nothing_is_cached() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0)

    async def both() -> None:
        await asyncio.gather(flight.share("a", loader.load), flight.share("b", loader.load))

    on_own_loop(both)
    on_own_loop(both)
    assert loader.count == 4


def test_one_load_for_all_loops_and_threads() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0.3)
    barrier = threading.Barrier(8)

    async def ask() -> object:
        barrier.wait(10)
        return await flight.share("a", loader.load)

    with ThreadPoolExecutor(8) as pool:
        values = set(pool.map(lambda _: on_own_loop(ask), range(8)))
    assert len(values) == 1
    assert loader.count == 1


def test_error_is_for_everybody() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(fails=1)

    async def everybody() -> list[object]:
        asked = (flight.share("a", loader.load) for _ in range(5))
        return await asyncio.gather(*asked, return_exceptions=True)

    assert [type(found) for found in on_own_loop(everybody)] == [StorageError] * 5
    assert loader.count == 1
    on_own_loop(lambda: flight.share("a", loader.load))


def test_follower_takes_over_from_a_cancelled_leader() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0.1)

    async def work() -> None:
        leader = asyncio.ensure_future(flight.share("a", loader.load))
        await asyncio.sleep(0.01)
        followers = [asyncio.ensure_future(flight.share("a", loader.load)) for _ in range(3)]
        await asyncio.sleep(0.01)
        leader.cancel()
        found = await asyncio.gather(*followers)
        assert leader.cancelled()
        assert len(set(found)) == 1

    on_own_loop(work)
    assert loader.count == 2


def test_follower_on_another_loop_takes_over() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0.5)

    async def lead() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await flight.share("a", loader.load)

    async def follow() -> object:
        await asyncio.to_thread(loader.started.wait, 10)
        return await flight.share("a", loader.load)

    with ThreadPoolExecutor(3) as pool:
        leading = pool.submit(on_own_loop, lead)
        found = {pool.submit(on_own_loop, follow).result(20) for _ in range(1)}
        leading.result(20)
    assert len(found) == 1
    assert loader.count == 2


def test_cancelled_follower_leaves_the_leader_alone() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0.1)

    async def work() -> object:
        leader = asyncio.ensure_future(flight.share("a", loader.load))
        await asyncio.sleep(0.01)
        follower = asyncio.ensure_future(flight.share("a", loader.load))
        await asyncio.sleep(0.01)
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)
        assert follower.cancelled()
        return await leader

    assert on_own_loop(work) is not None
    assert loader.count == 1


def test_leader_whose_loop_ends() -> None:
    """A loop that is shut down cancels its tasks; those elsewhere go on."""
    flight: Flight[str, object] = Flight()
    loader = Loader(0.3)

    async def start_only() -> None:
        task = asyncio.ensure_future(flight.share("a", loader.load))
        await asyncio.sleep(0.05)
        assert not task.done()

    with ThreadPoolExecutor(1) as pool:
        leading = pool.submit(on_own_loop, start_only)
        loader.started.wait(10)
        assert loop.run(flight.share("a", loader.load)) is not None
        leading.result(10)


# ---------------------------------------------------------------- driven without a loop


def test_driven_leader_and_follower() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0.2)
    with ThreadPoolExecutor(3) as pool:
        leader = pool.submit(lambda: loop.run_now(flight.share("a", loader.load_now)))
        loader.started.wait(10)
        follower = pool.submit(lambda: loop.run_now(flight.share("a", loader.load_now)))
        waiting = loop.run(flight.share("a", loader.load_now))
        assert leader.result(10) is follower.result(10) is waiting
    assert loader.count == 1


def test_driven_task_never_waits_for_a_suspended_leader() -> None:
    """The leader is suspended on the very loop whose thread the driven task would block."""
    flight: Flight[str, object] = Flight()
    loader = Loader(0.2)

    async def work() -> None:
        leader = asyncio.ensure_future(flight.share("a", loader.load))
        await asyncio.sleep(0.01)
        found = loop.run_now(flight.share("a", loader.load_now))
        assert found is not await leader

    on_own_loop(work)
    assert loader.count == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_waits_for_nobody() -> None:
    flight: Flight[str, object] = Flight()
    loader = Loader(0.4)
    with ThreadPoolExecutor(1) as pool:
        leader = pool.submit(on_own_loop, lambda: flight.share("a", loader.load))
        loader.started.wait(10)
        child = os.fork()
        if child == 0:
            loop.run(flight.share("a", loader.load))
            os._exit(0 if loader.count == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
        leader.result(10)
    assert loader.count == 1
