"""Work that is started now and waited for later."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from icechunk._io.loop import driving_now

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType


class Started:
    """Runs coroutines beside its ``async with`` block, at most ``limit`` at once.

    Parameters
    ----------
    limit : int
        How many run at once; at least 1.

    Notes
    -----
    At the end of the block all have ended: waited for, also when the block raised, or cancelled
    when it was. The first error of one of them goes before an error of the block, which may rely
    on what was not done. Driven by `loop.run_now`, each runs to its end when it is started.
    Concurrency: for tasks of one loop.
    """

    __slots__ = ("_error", "_limit", "_tasks")

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._tasks: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    async def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a coroutine, as soon as there is room; raises the first error there was."""
        try:
            while len(self._tasks) >= self._limit and self._error is None:
                await asyncio.wait(list(self._tasks), return_when=asyncio.FIRST_COMPLETED)
            self._raise()
        except BaseException:
            work.close()
            raise
        if driving_now():
            await work
        else:
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def finish(self) -> None:
        """Wait for all; raises the first error there was."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))
        self._raise()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, Exception):
            await self._cancel()
            return
        try:
            await self.finish()
        except BaseException:
            await self._cancel()
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    async def _cancel(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:  # without a loop there are none
            await asyncio.gather(*tasks, return_exceptions=True)
