"""Limits on how much happens at once, usable across loops and threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import contextmanager
from operator import length_hint
from typing import TYPE_CHECKING, Any, TypeVar

from icechunk._io import fork
from icechunk._io.loop import driving_now
from icechunk._io.wait import wake

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Iterator
    from types import TracebackType

T = TypeVar("T")


class _Waiter:
    """A task that waits for its turn on its own loop."""

    __slots__ = ("future", "granted", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()
        self.granted = False

    def finish(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Limiter:
    """Lets at most ``limit`` tasks of any loops and threads into ``async with`` at once.

    Parameters
    ----------
    limit : int
        At least 1.

    Notes
    -----
    First come, first served. A coroutine driven by `loop.run_now` cannot wait, so it enters at
    once, above the limit if need be: there is at most one of them per thread. A forked child
    starts with nobody inside.
    """

    __slots__ = ("__weakref__", "_inside", "_limit", "_lock", "_waiters")

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self.after_fork()
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        """Forget the tasks of the parent process."""
        self._lock = threading.Lock()
        self._inside = 0
        self._waiters: deque[_Waiter] = deque()

    @property
    def limit(self) -> int:
        """Return how many may be inside at once."""
        return self._limit

    def set_limit(self, limit: int) -> None:
        """Change the limit; those inside stay, those waiting enter as far as it allows."""
        with self._lock:
            self._limit = max(1, limit)
            self._admit()

    @contextmanager
    def as_free(self, most: int) -> Iterator[int]:
        """Enter so many more times as there is room for, without waiting.

        Parameters
        ----------
        most : int
            How many times the caller wants to be inside, who is once already.

        Yields
        ------
        int
            How many times it is, at least 1.
        """
        with self._lock:
            free = 0 if self._waiters else max(0, self._limit - self._inside)
            more = min(max(0, most - 1), free)
            self._inside += more
        try:
            yield 1 + more
        finally:
            with self._lock:
                self._inside -= more
                self._admit()

    async def __aenter__(self) -> None:
        driven = driving_now()
        with self._lock:
            if driven or (self._inside < self._limit and not self._waiters):
                self._inside += 1
                return
            waiter = _Waiter(asyncio.get_running_loop())
            self._waiters.append(waiter)
        try:
            await waiter.future
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self._leave()
                elif waiter in self._waiters:  # else dropped, because its loop is closed
                    self._waiters.remove(waiter)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        self._inside -= 1
        self._admit()

    def _admit(self) -> None:
        while self._waiters and self._inside < self._limit:
            waiter = self._waiters.popleft()
            if waiter.loop.is_closed():
                continue
            waiter.granted = True
            self._inside += 1
            wake(waiter.loop, waiter.finish)


async def gather_limited(limit: int, coros: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines on the current loop, at most ``limit`` at once.

    Parameters
    ----------
    limit : int
        How many run at once; at least 1.
    coros : iterable of coroutines
        Taken one by one as there is room, so a generator makes them only when they start.

    Returns
    -------
    list
        Their results, in order.

    Raises
    ------
    Exception
        The first error; the others are cancelled and have ended by then.

    Notes
    -----
    Driven by `loop.run_now`, they run one after the other.
    """
    pending = enumerate(coros)
    results: dict[int, T] = {}

    async def work() -> None:
        for index, coro in pending:
            results[index] = await coro

    try:
        workers = min(limit, length_hint(coros, limit))
        if workers <= 1 or driving_now():
            await work()
        else:
            await _all_or_none([asyncio.create_task(work()) for _ in range(workers)])
    finally:
        for _, coro in pending:
            coro.close()
    return [results[index] for index in range(len(results))]


async def _all_or_none(tasks: list[asyncio.Task[None]]) -> None:
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
