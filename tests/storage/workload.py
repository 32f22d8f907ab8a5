"""Work on a storage that keeps account of what it was told, and then looks what is there."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.objects import ByteRange, LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from icechunk.storage.base import Storage, Version


@dataclass
class Account:
    """What the storage promised, and what it refused."""

    written: dict[str, bytes] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    in_doubt: set[str] = field(default_factory=set)
    appended: list[str] = field(default_factory=list)
    append_in_doubt: set[str] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    operations: int = 0


class Workload:
    """Tasks that write, read, list, delete, and append to one shared object.

    Parameters
    ----------
    storage : Storage
        Under test.
    seed : int
        Of what is done.
    """

    def __init__(self, storage: Storage, seed: int = 0) -> None:
        self.storage = storage
        self.random = random.Random(seed)
        self.account = Account()
        self._number = 0

    async def run(self, enough: Callable[[], bool], tasks: int = 8) -> None:
        """Work until there is enough, then check everything that can be checked meanwhile."""
        await self.storage.put_if_absent("repo", b"[]")
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(self._work(enough))

    async def _work(self, enough: Callable[[], bool]) -> None:
        steps = [self._put, self._put, self._read, self._range, self._append, self._create]
        while not enough():
            self.account.operations += 1
            step = self.random.choice([*steps, self._delete, self._list])
            try:
                await step()
            except StorageError as error:
                self.account.errors[f"{step.__name__}: {type(error).__name__}"] += 1

    def _content(self) -> tuple[str, bytes]:
        self._number += 1
        return f"chunks/{self._number:06}", self.random.randbytes(self.random.choice([10, 3000]))

    def _some(self) -> str | None:
        known = sorted(self.account.written.keys() - self.account.in_doubt)
        return self.random.choice(known) if known else None

    async def _put(self) -> None:
        key, data = self._content()
        await self.storage.put(key, data)
        self.account.written[key] = data

    async def _create(self) -> None:
        key, data = self._content()
        try:
            await self.storage.put_if_absent(key, data)
        except UnknownOutcomeError:
            self.account.in_doubt.add(key)
            raise
        except LostRaceError as error:
            raise AssertionError(f"nobody else writes {key}") from error
        self.account.written[key] = data

    async def _read(self) -> None:
        key = self._some()
        if key is not None:
            data = await self._got(key, None)
            assert data in {None, self.account.written[key]}, key

    async def _range(self) -> None:
        key = self._some()
        if key is not None:
            data = await self._got(key, ByteRange(start=3, stop=9))
            assert data in {None, self.account.written[key][3:9]}, key

    async def _got(self, key: str, part: ByteRange | None) -> bytes | None:
        """Read; None if another task has deleted the object meanwhile."""
        try:
            return await self.storage.get(key, part)
        except StorageError as error:
            if error.kind == ErrorKind.OBJECT_NOT_FOUND and key in self.account.in_doubt:
                return None
            raise

    async def _delete(self) -> None:
        key = self._some()
        if key is not None:
            self.account.in_doubt.add(key)
            await self.storage.delete_many([key])
            self.account.deleted.add(key)

    async def _list(self) -> None:
        before = self.account.written.keys() - self.account.in_doubt
        prefix = f"chunks/{self.random.randrange(10):06}"[:-1]
        found = [info.key async for info in self.storage.list(prefix)]
        assert len(found) == len(set(found))
        sure = {key for key in before if key.startswith(prefix)} - self.account.in_doubt
        assert sure <= set(found)

    async def _append(self) -> None:
        """Add a name to the list that everybody adds to, as a commit does."""
        self._number += 1
        name = f"n{self._number}"
        while True:
            data, version = await self.storage.get_versioned("repo")
            names = json.loads(data)
            try:
                await self._append_to(names, name, version)
            except LostRaceError:
                continue
            self.account.appended.append(name)
            return

    async def _append_to(self, names: list[str], name: str, version: Version) -> None:
        try:
            await self.storage.put_if_unchanged(
                "repo", json.dumps([*names, name]).encode(), version
            )
        except UnknownOutcomeError:
            self.account.append_in_doubt.add(name)
            raise

    async def check(self, direct: Storage, repeated: Callable[[str], bool]) -> None:
        """Look behind the faults: nothing that was promised is missing, nothing is there twice.

        Where the client gave an attempt to write up and made another, the first may still arrive,
        also after the object was deleted. Keys are written once, so it is the same object again,
        as garbage.
        """
        account = self.account
        names = json.loads(await direct.get("repo"))
        assert len(names) == len(set(names)), "an append took place twice"
        assert set(account.appended) <= set(names), "an append was lost"
        assert set(names) - set(account.appended) <= account.append_in_doubt, "a refused append"
        found = {info.key async for info in direct.list("chunks/")}
        for key in sorted(found & account.deleted):
            assert repeated(key), f"the deletion of {key} was lost"
            assert await direct.get(key) == account.written[key], key
        for key in sorted(account.written.keys() - account.in_doubt):
            assert await direct.get(key) == account.written[key], key
