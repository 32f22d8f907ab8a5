"""Limits across loops and threads."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from icechunk._io import loop
from icechunk._io.limits import Limiter, gather_limited

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Gauge:
    """Counts who is inside at once."""

    def __init__(self) -> None:
        self.inside = 0
        self.most = 0
        self.entered = 0
        self._lock = threading.Lock()

    async def visit(self, seconds: float = 0.002) -> int:
        with self._lock:
            self.inside += 1
            self.entered += 1
            self.most = max(self.most, self.inside)
            number = self.entered
        try:
            await asyncio.sleep(seconds)
        finally:
            with self._lock:
                self.inside -= 1
        return number

    async def through(self, limiter: Limiter, seconds: float = 0.002) -> None:
        async with limiter:
            await self.visit(seconds)


def on_own_loop(work: Any) -> Any:
    with asyncio.Runner() as runner:
        return runner.run(work())


def test_limit_holds_across_loops() -> None:
    limiter, gauge = Limiter(3), Gauge()

    async def many() -> None:
        await asyncio.gather(*(gauge.through(limiter) for _ in range(25)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: on_own_loop(many), range(4)))
    assert gauge.most == 3
    assert gauge.entered == 100
    assert limiter._inside == 0


def test_first_come_first_served() -> None:
    limiter, order = Limiter(1), []

    async def one(name: int) -> None:
        async with limiter:
            order.append(name)
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(name) for name in range(20)))

    on_own_loop(all_of_them)
    assert order == list(range(20))


def test_limit_can_change() -> None:
    limiter, gauge = Limiter(1), Gauge()

    async def work() -> None:
        tasks = [asyncio.ensure_future(gauge.through(limiter, 0.05)) for _ in range(9)]
        await asyncio.sleep(0.02)
        assert gauge.inside == 1
        limiter.set_limit(4)
        await asyncio.sleep(0.02)
        assert gauge.inside == 4
        limiter.set_limit(0)  # at least one
        await asyncio.gather(*tasks)

    on_own_loop(work)
    assert limiter.limit == 1
    assert gauge.most == 4


def test_cancelled_waiter_gives_its_place_back() -> None:
    limiter, gauge = Limiter(1), Gauge()

    async def work() -> None:
        inside = asyncio.ensure_future(gauge.through(limiter, 0.05))
        await asyncio.sleep(0.01)
        waiting = [asyncio.ensure_future(gauge.through(limiter)) for _ in range(5)]
        await asyncio.sleep(0.01)
        for task in waiting[:3]:
            task.cancel()
        await inside
        # The next one has its turn by now, and is cancelled before it knows.
        waiting[3].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await asyncio.wait_for(gauge.through(limiter), 5)

    on_own_loop(work)
    assert limiter._inside == 0


def test_loop_that_ended_does_not_block_the_others() -> None:
    limiter, gauge = Limiter(1), Gauge()
    held = threading.Event()
    leave = threading.Event()

    async def hold() -> None:
        async with limiter:
            held.set()
            await asyncio.to_thread(leave.wait, 10)

    async def give_up() -> None:
        asyncio.ensure_future(gauge.through(limiter))  # noqa: RUF006 (left behind on purpose)
        await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(on_own_loop, hold)
        held.wait(10)
        on_own_loop(give_up)
        abandoned = asyncio.new_event_loop()  # not shut down properly: its task never ends
        stuck = abandoned.create_task(gauge.through(limiter))
        abandoned.call_soon(abandoned.stop)
        abandoned.run_forever()
        stuck._log_destroy_pending = False  # type: ignore[attr-defined]
        abandoned.close()
        leave.set()
        holding.result(10)
    loop.run(asyncio.wait_for(gauge.through(limiter), 5))


def test_driven_tasks_pass() -> None:
    limiter = Limiter(1)

    async def work() -> int:
        async with limiter, limiter:
            return limiter._inside

    assert loop.run_now(work()) == 2
    assert limiter._inside == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child_starts_with_room() -> None:
    limiter, gauge = Limiter(1), Gauge()

    async def work() -> int:
        async with limiter:
            child = os.fork()
            if child == 0:
                loop.run(gauge.through(limiter))
                os._exit(0)
            return os.waitpid(child, 0)[1]

    assert on_own_loop(work) == 0


# ---------------------------------------------------------------- gather_limited


def test_results_in_order_and_within_the_limit() -> None:
    gauge = Gauge()

    async def one(number: int) -> int:
        await gauge.visit(0.001 * (number % 3))
        return number

    found = loop.run(gather_limited(4, [one(number) for number in range(30)]))
    assert found == list(range(30))
    assert gauge.most == 4
    assert loop.run(gather_limited(4, [])) == []


def test_generator_is_used_as_there_is_room() -> None:
    gauge = Gauge()

    def coros() -> Iterator[Any]:
        for _ in range(20):
            assert gauge.inside < 3
            yield gauge.visit()

    assert len(loop.run(gather_limited(3, coros()))) == 20
    assert gauge.most == 3


def test_first_error_ends_the_rest() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise ValueError("first")

    async def long() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            ended.append("cancelled")

    never = [long() for _ in range(3)]
    start = time.monotonic()
    with pytest.raises(ValueError, match="first"):
        loop.run(gather_limited(3, [long(), fail(), long(), *never]))
    assert ended == ["cancelled", "cancelled"]
    assert time.monotonic() - start < 5  # and no coroutine is left unawaited (that is a warning)


def test_cancelling_ends_all() -> None:
    gauge = Gauge()

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await gather_limited(2, [gauge.visit(30) for _ in range(5)])

    on_own_loop(work)
    assert gauge.inside == 0
    assert gauge.entered == 2


def test_driven_one_after_the_other() -> None:
    async def one(number: int) -> int:
        return number

    assert loop.run_now(gather_limited(5, [one(n) for n in range(4)])) == [0, 1, 2, 3]
