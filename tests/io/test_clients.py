"""Clients shared on the I/O thread."""

from __future__ import annotations

import asyncio

import pytest

from icechunk._io import clients, loop
from icechunk._io.clients import ClientPool


class FakeConnection:
    """Stands for a client of some library."""

    def __init__(self) -> None:
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Opener:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.opened: list[FakeConnection] = []
        self.fail = False

    async def __call__(self) -> FakeConnection:
        await asyncio.sleep(self.seconds)
        if self.fail:
            raise OSError("no route")
        self.opened.append(FakeConnection())
        return self.opened[-1]


async def use(pool: ClientPool[FakeConnection], recipe: str, opener: Opener) -> FakeConnection:
    async with pool.lease(recipe, opener) as client:
        await asyncio.sleep(0.001)
        assert not client.closed
        return client


def test_one_client_for_all_who_come() -> None:
    pool: ClientPool[FakeConnection] = ClientPool()
    opener = Opener(0.02)

    async def many() -> set[FakeConnection]:
        return set(await asyncio.gather(*(use(pool, "a", opener) for _ in range(10))))

    assert len(loop.run(many())) == 1
    assert loop.run(use(pool, "a", opener)) is opener.opened[0]
    assert loop.run(use(pool, "b", opener)) is opener.opened[1]


def test_first_user_may_give_up() -> None:
    pool: ClientPool[FakeConnection] = ClientPool()
    opener = Opener(0.05)

    async def work() -> None:
        first = asyncio.ensure_future(use(pool, "a", opener))
        await asyncio.sleep(0.01)
        second = asyncio.ensure_future(use(pool, "a", opener))
        await asyncio.sleep(0.01)
        first.cancel()
        assert await second is opener.opened[0]

    loop.run(work())
    assert len(opener.opened) == 1


def test_failed_opening_is_tried_again() -> None:
    pool: ClientPool[FakeConnection] = ClientPool()
    opener = Opener()
    opener.fail = True
    for _ in range(2):
        with pytest.raises(OSError, match="no route"):
            loop.run(use(pool, "a", opener))
    opener.fail = False
    loop.run(use(pool, "a", opener))


def test_surplus_idle_clients_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_KEPT", 2)
    pool: ClientPool[FakeConnection] = ClientPool()
    opener = Opener()

    async def work() -> None:
        async with pool.lease("busy", opener) as busy:
            for recipe in "abcd":
                await use(pool, recipe, opener)
            assert not busy.closed

    loop.run(work())
    assert [client.closed for client in opener.opened] == [False, True, True, True, False]
