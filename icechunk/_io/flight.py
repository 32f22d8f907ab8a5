"""One load shared by everybody who wants the same thing at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Generic, TypeVar

from icechunk._io import fork
from icechunk._io.loop import driving_now
from icechunk._io.wait import wait_future

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Load(Generic[V]):
    """A load in progress: ends with a value, with an error, or abandoned by its leader."""

    __slots__ = ("driven", "outcome")

    def __init__(self, *, driven: bool) -> None:
        self.driven = driven
        # The value in a tuple, or None when the leader was cancelled.
        self.outcome: Future[tuple[V] | None] = Future()


class Flight(Generic[K, V]):
    """Shares one load per key among tasks of any event loop and any thread.

    Notes
    -----
    Nothing is cached: once a load has ended, the next `share` loads again. Concurrency: all
    methods may be called from any thread and loop. A forked child starts with no load in progress.
    """

    __slots__ = ("__weakref__", "_loads", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads: dict[K, _Load[V]] = {}
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        """Forget the loads of the parent process."""
        self._lock = threading.Lock()
        self._loads = {}

    async def share(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """Return the value of ``key``, loading it once for all who ask meanwhile.

        Parameters
        ----------
        key : hashable
            What is loaded.
        load : callable
            Starts the load; called by one task, the leader. If that task is cancelled, one of the
            others calls its own.

        Returns
        -------
        V
            The value, the same object for everybody.

        Raises
        ------
        Exception
            Whatever the leader's load raised, for everybody who waited for it.
        """
        driven = driving_now()
        while True:
            with self._lock:
                running = self._loads.get(key)
                if running is None:
                    mine: _Load[V] = _Load(driven=driven)
                    self._loads[key] = mine
            if running is None:
                return await self._lead(key, mine, load)
            if driven and not running.driven:
                # Its leader may be suspended on the loop of this very thread, so a blocking wait
                # could last for ever. A second load costs less.
                return await load()
            outcome = running.outcome.result() if driven else await wait_future(running.outcome)
            if outcome is not None:
                return outcome[0]

    async def _lead(self, key: K, mine: _Load[V], load: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await load()
        except Exception as error:
            self._remove(key, mine)
            mine.outcome.set_exception(error)
            raise
        except BaseException:  # cancelled or interrupted: somebody else takes over
            self._remove(key, mine)
            mine.outcome.set_result(None)
            raise
        self._remove(key, mine)
        mine.outcome.set_result((value,))
        return value

    def _remove(self, key: K, mine: _Load[V]) -> None:
        with self._lock:
            if self._loads.get(key) is mine:
                del self._loads[key]
