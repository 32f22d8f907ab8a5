"""Wait on a loop for something that another thread or loop finishes."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

T = TypeVar("T")


def wake(loop: asyncio.AbstractEventLoop, action: Callable[[], object]) -> None:
    """Call ``action`` on ``loop``; a loop that was closed meanwhile has nobody left to wake."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(action)


async def wait_future(future: Future[T]) -> T:
    """Return the result of a thread-safe future; cancelling the wait leaves it alone."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def finish() -> None:
        if not done.done():
            done.set_result(None)

    future.add_done_callback(lambda _: wake(loop, finish))
    await done
    return future.result()
