"""Saving in groups: many writers wait, one write makes all their changes durable."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from icechunk._io import fork
from icechunk._io.loop import io_loop
from icechunk.errors import ErrorKind, SessionStateError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class GroupSaver:
    """Runs a save for everybody who waits for one, and never two at once.

    A save that is under way does not count for those who come later: what they changed may not be
    in it. They wait for the next one, together.

    Parameters
    ----------
    save : callable
        Makes durable what was changed before it was called; runs on the I/O thread.

    Notes
    -----
    Concurrency: any number of threads and event loops. A waiter that is cancelled leaves the save
    to the others.
    """

    def __init__(self, save: Callable[[], Awaitable[None]]) -> None:
        self._save = save
        self._lock = threading.Lock()
        self._next: Future[None] | None = None
        self._busy = False
        self._forked = False
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        """Take no more saves: this process shares its name in the session with its parent."""
        self._lock = threading.Lock()
        self._forked = True

    async def saved(self) -> None:
        """Return when everything changed so far is durable.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; in a forked child.
        """
        with self._lock:
            if self._forked:
                raise SessionStateError(
                    "this process was forked from the one that opened the session. Join it here "
                    "under its id: repo.join_session(session_id).",
                    ErrorKind.NOT_ALLOWED,
                )
            start = not self._busy
            self._busy = True
            if self._next is None:
                self._next = Future()
            batch = self._next
        if start:
            asyncio.run_coroutine_threadsafe(self._work(), io_loop())
        await asyncio.shield(asyncio.wrap_future(batch))

    async def _work(self) -> None:
        while True:
            with self._lock:
                batch, self._next = self._next, None
                if batch is None:
                    self._busy = False
                    return
            try:
                await self._save()
            except BaseException as e:  # noqa: BLE001 # it is the waiters'
                batch.set_exception(e)
            else:
                batch.set_result(None)
