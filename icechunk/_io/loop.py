"""The one I/O thread with its event loop, and the ways from blocking code into coroutines.

Every blocking twin of the package goes through `run`. The thread is a daemon, starts on first use,
is dropped in a forked child (which starts its own) and is joined when the interpreter exits.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from icechunk._io import fork
from icechunk.errors import ErrorKind, InternalError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

# How long an interrupted call waits for its coroutine to clean up, and an exit for the thread.
_GRACE_SECONDS = 5.0
# A lock wait cannot be interrupted on Windows, so Ctrl-C is looked for this often there.
_POLL_SECONDS = 0.1 if os.name == "nt" else None


class _IoThread:
    """A daemon thread that serves one event loop."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(
            target=self.loop.run_forever, name="icechunk-io", daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        """Cancel what still runs, close the loop and join the thread."""

        async def drain() -> None:
            for callback in _before_stop:
                await callback()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_GRACE_SECONDS) if tasks else None
            await self.loop.shutdown_asyncgens()

        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(drain(), self.loop).result(_GRACE_SECONDS)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(_GRACE_SECONDS)
        if not self.thread.is_alive():
            self.loop.close()


class _Holder:
    """Holds the I/O thread of this process, if one was needed yet."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.current: _IoThread | None = None
        self.exiting = False
        # Loops of parent processes: kept for ever, because closing one here would take the
        # parent's descriptors out of the epoll set that both processes share.
        self.inherited: list[_IoThread] = []
        fork.reset_in_child(self)
        atexit.register(self.at_exit)

    def get(self) -> _IoThread:
        io = self.current
        if io is not None:
            return io
        with self.lock:
            if self.exiting:
                raise SessionStateError(
                    "the interpreter is shutting down: no more blocking storage calls",
                    ErrorKind.NOT_ALLOWED,
                )
            if self.current is None:
                self.current = _IoThread()
            return self.current

    def after_fork(self) -> None:
        self.lock = threading.Lock()
        if self.current is not None:
            self.inherited.append(self.current)
            self.current = None

    def at_exit(self) -> None:
        with self.lock:
            self.exiting = True
            io, self.current = self.current, None
        if io is not None:
            io.stop()


_before_stop: list[Callable[[], Coroutine[Any, Any, None]]] = []


def before_stop(callback: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Have ``callback()`` awaited on the I/O thread before it ends, to close what is open."""
    _before_stop.append(callback)


class _Driving(threading.local):
    now: bool = False


_holder = _Holder()
_driving = _Driving()


def in_io_thread() -> bool:
    """Tell whether the calling thread is the I/O thread."""
    io = _holder.current
    return io is not None and io.thread is threading.current_thread()


def io_loop() -> asyncio.AbstractEventLoop:
    """Return the I/O thread's event loop, starting the thread if need be."""
    return _holder.get().loop


async def on_io_thread(coro: Coroutine[Any, Any, T]) -> T:
    """Await a coroutine that must run on the I/O thread's loop, from any loop."""
    io = io_loop()
    if asyncio.get_running_loop() is io:
        return await coro
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coro, io))


def run(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the I/O thread and wait for its result.

    Parameters
    ----------
    coro : coroutine
        Runs with a copy of the caller's context variables.

    Returns
    -------
    T
        What the coroutine returned.

    Raises
    ------
    SessionStateError
        Kind ``not-allowed``; called from the I/O thread itself, or while the interpreter exits.
    KeyboardInterrupt
        On Ctrl-C, after the coroutine was cancelled and had some seconds to clean up.

    Notes
    -----
    Concurrency: any thread may call it, also one with a running event loop, which then stalls:
    the ``_async`` methods are for that. 70 to 90 microseconds a call.
    """
    if in_io_thread():
        coro.close()
        raise SessionStateError(
            "a blocking call from inside icechunk's own I/O thread would wait for itself; "
            "await the method whose name ends in _async instead",
            ErrorKind.NOT_ALLOWED,
        )
    try:
        loop = io_loop()
    except BaseException:
        coro.close()
        raise
    outcome: Future[T] = Future()
    tasks: list[asyncio.Task[T]] = []

    def start() -> None:
        task = loop.create_task(coro)
        tasks.append(task)
        task.add_done_callback(lambda done: _copy_outcome(done, outcome))

    def cancel() -> None:
        if tasks:
            tasks[0].cancel()
        else:  # interrupted before it was handed over
            coro.close()

    try:
        loop.call_soon_threadsafe(start)
        return _wait(outcome)
    except BaseException:
        if not outcome.done():  # the wait was interrupted, not the work
            loop.call_soon_threadsafe(cancel)
            with contextlib.suppress(Exception):
                outcome.exception(_GRACE_SECONDS)
        raise


def _copy_outcome(done: asyncio.Task[T], outcome: Future[T]) -> None:
    if done.cancelled():
        outcome.set_exception(asyncio.CancelledError())
        return
    error = done.exception()
    if error is None:
        outcome.set_result(done.result())
    else:
        outcome.set_exception(error)


def _wait(outcome: Future[T]) -> T:
    try:
        while _POLL_SECONDS is not None and not outcome.done():
            with contextlib.suppress(TimeoutError):
                outcome.exception(_POLL_SECONDS)
        return outcome.result()
    finally:
        del outcome  # breaks the cycle exception -> traceback -> frame -> future


def iterate(source: AsyncIterator[T]) -> Iterator[T]:
    """Step an asynchronous iterator from blocking code.

    Parameters
    ----------
    source : async iterator
        One step runs on the I/O thread for each item taken; an asynchronous generator is closed
        there, also when the caller stops early.

    Yields
    ------
    T
        The items, one by one.
    """

    async def step() -> tuple[bool, T | None]:
        try:
            return True, await anext(source)
        except StopAsyncIteration:
            return False, None

    async def close() -> None:
        aclose = getattr(source, "aclose", None)
        if aclose is not None:
            await aclose()

    try:
        while True:
            more, item = run(step())
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        _finish(close())


_finishing: set[asyncio.Task[None]] = set()


def _finish(closing: Coroutine[Any, Any, None]) -> None:
    """Run the end of an iterator, also when garbage collection ends it on the I/O thread."""
    if in_io_thread():
        task = io_loop().create_task(closing)
        _finishing.add(task)
        task.add_done_callback(_finishing.discard)
    elif _holder.exiting:
        closing.close()
    else:
        run(closing)


def driving_now() -> bool:
    """Tell whether `run_now` drives the calling coroutine, so that it must not suspend."""
    return _driving.now


def run_now(coro: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never waits to its end, in this thread, with no event loop.

    Parameters
    ----------
    coro : coroutine
        Every await in it must end without suspending, as those on an `immediate` storage do.

    Returns
    -------
    T
        What the coroutine returned.

    Raises
    ------
    InternalError
        Kind ``concurrency``; the coroutine suspended.
    """
    before = _driving.now
    _driving.now = True
    try:
        coro.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    else:
        coro.close()
        raise InternalError(
            f"{getattr(coro, '__qualname__', coro)} waited where it must not; please report it",
            ErrorKind.CONCURRENCY,
        )
    finally:
        _driving.now = before


def run_either(coro: Coroutine[Any, Any, T], *, immediate: bool) -> T:
    """Run a coroutine over a storage: at once if it never waits there (`run_now`), else `run`."""
    return run_now(coro) if immediate else run(coro)


def may_run_now(method: F) -> F:
    """Mark an ``_async`` method whose blocking twin goes through its object's own ``_run``.

    That decides whether the calling thread can do the work itself (`run_either`): a hop to the I/O
    thread and back costs more than a small piece of work over local files.
    """
    return method


async def sleep(seconds: float) -> None:
    """Wait, on the loop, or in the thread when `run_now` drives the caller."""
    if _driving.now:
        if seconds:
            time.sleep(seconds)  # noqa: ASYNC251 # there is no loop
    else:
        await asyncio.sleep(seconds)


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """Run blocking work in a worker thread, or at once when `run_now` drives the caller."""
    if _driving.now:
        return work(*args)
    return await asyncio.to_thread(work, *args)
