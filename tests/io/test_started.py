"""Work that is started now and waited for later."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from icechunk._io.loop import run_now
from icechunk._io.started import Started


class Works:
    """Coroutines that say when they begin and end, and end when told to."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    async def work(self, name: str, error: Exception | None = None) -> None:
        self.log.append(f"+{name}")
        try:
            await self.gates.setdefault(name, asyncio.Event()).wait()
            if error is not None:
                raise error
        except asyncio.CancelledError:
            self.log.append(f"x{name}")
            raise
        self.log.append(f"-{name}")

    def end(self, *names: str) -> None:
        for name in names:
            self.gates.setdefault(name, asyncio.Event()).set()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_all_run_beside_the_block_and_have_ended_at_its_end() -> None:
    works = Works()

    async def main() -> None:
        async with Started(5) as started:
            await started.start(works.work("a"))
            await started.start(works.work("b"))
            await settled()
            assert works.log == ["+a", "+b"]
            works.end("a", "b")
            await started.finish()
            assert sorted(works.log) == ["+a", "+b", "-a", "-b"]
            works.end("c")
            await started.start(works.work("c"))
        assert works.log[-1] == "-c"

    asyncio.run(main())


def test_no_more_than_the_limit_also_when_several_tasks_start_some() -> None:
    works = Works()

    async def main() -> None:
        async with Started(2) as started:
            tasks = [asyncio.create_task(started.start(works.work(n))) for n in "abcd"]
            await settled()
            assert works.log == ["+a", "+b"]
            works.end("b")
            await settled()
            assert works.log == ["+a", "+b", "-b", "+c"]
            works.end("a", "c", "d")
            await asyncio.gather(*tasks)

    asyncio.run(main())
    assert sorted(works.log) == sorted(f"{sign}{name}" for sign in "+-" for name in "abcd")


def test_the_first_error_goes_before_the_blocks_own_and_the_others_are_waited_for() -> None:
    works = Works()

    async def main() -> None:
        async with Started(5) as started:
            await started.start(works.work("bad", ValueError("not written")))
            await started.start(works.work("good"))
            works.end("bad", "good")
            raise KeyError("the block relied on it")

    with pytest.raises(ValueError, match="not written"):
        asyncio.run(main())
    assert sorted(works.log) == ["+bad", "+good", "-good"]


def test_an_error_of_the_block_alone_is_raised_when_all_have_ended() -> None:
    works = Works()

    async def main() -> None:
        async with Started(5) as started:
            await started.start(works.work("a"))
            works.end("a")
            raise KeyError("of the block")

    with pytest.raises(KeyError):
        asyncio.run(main())
    assert works.log == ["+a", "-a"]


def test_nothing_is_started_after_an_error() -> None:
    works = Works()

    async def main() -> None:
        async with Started(1) as started:
            await started.start(works.work("bad", ValueError("no")))
            works.end("bad")
            await started.start(works.work("never"))

    with pytest.raises(ValueError, match="no"):
        asyncio.run(main())
    assert works.log == ["+bad"]


def test_all_are_cancelled_with_the_block() -> None:
    works = Works()

    async def block() -> None:
        async with Started(5) as started:
            await started.start(works.work("a"))
            await settled()
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.create_task(block())
        await settled()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert works.log == ["+a", "xa"]

    asyncio.run(main())


def test_without_a_loop_each_is_done_when_it_is_started() -> None:
    log: list[Any] = []

    async def work(name: str) -> None:
        log.append(name)

    async def main() -> None:
        async with Started(1) as started:
            await started.start(work("a"))
            log.append("then")
            await started.start(work("b"))

    run_now(main())
    assert log == ["a", "then", "b"]
