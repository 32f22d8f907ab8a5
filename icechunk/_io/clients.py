"""Clients that are tied to the I/O thread's loop: one per recipe, shared, closed in the end."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from icechunk._io import loop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Hashable

# Idle clients kept for the next use; opening one takes a tenth of a second and more.
_KEPT: Final = 16


class Client(Protocol):
    """Anything with connections to close."""

    async def close(self) -> None:
        """Close the connections."""


C = TypeVar("C", bound=Client)


class _Entry(Generic[C]):
    def __init__(self, opening: asyncio.Task[C]) -> None:
        self.opening = opening
        self.users = 0


class ClientPool(Generic[C]):
    """Opens clients on first use and hands them to everybody with the same recipe.

    Notes
    -----
    Concurrency: used on the I/O thread only, hence without a lock. A new thread, in a forked child
    for instance, starts with an empty pool and leaves its parent's connections alone.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._entries: dict[Hashable, _Entry[C]] = {}  # least recently used first
        self._inherited: list[dict[Hashable, _Entry[C]]] = []
        loop.before_stop(self._close_all)

    @contextlib.asynccontextmanager
    async def lease(
        self, recipe: Hashable, open_client: Callable[[], Awaitable[C]]
    ) -> AsyncIterator[C]:
        """Hand out the client of a recipe while the context lasts.

        Parameters
        ----------
        recipe : hashable
            Equal recipes share a client.
        open_client : callable
            Opens one; awaited when there is none yet.

        Yields
        ------
        Client
            Stays open at least until the context ends.
        """
        running = asyncio.get_running_loop()
        if self._loop is not running:
            self._inherited.append(self._entries)
            self._loop, self._entries = running, {}
        entry = self._entries.pop(recipe, None)
        if entry is None:
            entry = _Entry(running.create_task(_opened(open_client)))
        self._entries[recipe] = entry
        entry.users += 1
        try:
            # Shielded: whoever comes first may be cancelled, the others still want the client.
            client = await asyncio.shield(entry.opening)
            yield client
        finally:
            entry.users -= 1
            if entry.opening.done() and not _is_open(entry) and self._entries.get(recipe) is entry:
                del self._entries[recipe]
            await self._close_idle()

    async def _close_idle(self) -> None:
        surplus = len(self._entries) - _KEPT
        idle = [recipe for recipe, entry in self._entries.items() if entry.users == 0]
        for recipe in idle[: max(0, surplus)]:
            await _close(self._entries.pop(recipe))

    async def _close_all(self) -> None:
        if self._loop is asyncio.get_running_loop():
            for entry in self._entries.values():
                await _close(entry)
            self._entries = {}


async def _opened(open_client: Callable[[], Awaitable[C]]) -> C:
    return await open_client()


def _is_open(entry: _Entry[C]) -> bool:
    task = entry.opening
    return task.done() and not task.cancelled() and task.exception() is None


async def _close(entry: _Entry[C]) -> None:
    if _is_open(entry):
        await entry.opening.result().close()
