"""A limit on how much memory is in use at once, counted in bytes by those who use it."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Budget:
    """Lets tasks of one event loop hold amounts that add up to at most ``total``.

    Parameters
    ----------
    total : int
        At least 1.

    Notes
    -----
    First come, first served, so a large amount is not overtaken for ever. An amount above the
    total is let in when nobody else holds any. Concurrency: one event loop only.
    """

    __slots__ = ("_free", "_total", "_waiting")

    def __init__(self, total: int) -> None:
        self._total = total
        self._free = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def holding(self, amount: int) -> AsyncIterator[None]:
        """Wait until there is room for an amount, and hold it inside the block."""
        amount = min(max(0, amount), self._total)
        if self._waiting or amount > self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((amount, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give_back(amount)
                else:
                    self._waiting.remove((amount, turn))
                    self._admit()
                raise
        else:
            self._free -= amount
        try:
            yield
        finally:
            self._give_back(amount)

    def _give_back(self, amount: int) -> None:
        self._free += amount
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            amount, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= amount
                turn.set_result(None)
