"""A storage that fails on cue, around a real one."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any

from icechunk.errors import StorageError
from icechunk.storage.base import Storage, Version
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from icechunk import StorageSettings
    from icechunk.storage.objects import ByteRange, ObjectInfo, ReadCondition


class Died(BaseException):
    """Stands for the process ending at this instruction."""


class FaultyStorage(Storage):
    """Passes every call on, but for one write; a deletion is one.

    Parameters
    ----------
    inner : Storage
        A real storage.
    fail_at : int
        Which write (counted from 0) fails; -1 for none.
    how : str
        ``die before``, ``die after``, ``error``, ``lost race``, or ``lost reply`` (the write takes
        place and its outcome is unknown).
    """

    immediate = True

    def __init__(self, inner: Storage, fail_at: int = -1, how: str = "die before") -> None:
        self.inner = inner
        self.fail_at = fail_at
        self.how = how
        self.writes: list[str] = []
        self.pack_bytes = inner.pack_bytes

    async def _write(self, key: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        number = len(self.writes)
        self.writes.append(key)
        if number != self.fail_at:
            return await method(key, *args, **kwargs)
        match self.how:
            case "die before":
                raise Died
            case "die after":
                await method(key, *args, **kwargs)
                raise Died
            case "lost race":
                raise LostRaceError(key)
            case "lost reply":
                await method(key, *args, **kwargs)
                raise UnknownOutcomeError(key)
        raise StorageError(f"injected fault while writing {key}")

    async def put(self, key: str, data: Any, **kwargs: Any) -> None:
        await self._write(key, self.inner.put, data, **kwargs)

    async def put_if_absent(self, key: str, data: Any, **kwargs: Any) -> Version:
        return await self._write(key, self.inner.put_if_absent, data, **kwargs)

    async def put_if_unchanged(
        self, key: str, data: Any, version: Version, **kwargs: Any
    ) -> Version:
        return await self._write(key, self.inner.put_if_unchanged, data, version, **kwargs)

    async def extend(self, key: str, offset: int, data: Any) -> None:
        async def extend(key: str) -> None:
            await self.inner.extend(key, offset, data)

        await self._write(key, extend)

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        return await self.inner.get(key, byte_range, condition=condition)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        return await self.inner.get_versioned(key)

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        return self.inner.list(prefix)

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            await self._write(key, lambda key: self.inner.delete_many([key]))

    async def head(self, key: str) -> ObjectInfo:
        return await self.inner.head(key)

    def default_settings(self) -> StorageSettings:
        return self.inner.default_settings()

    def with_settings(self, settings: StorageSettings) -> FaultyStorage:
        return self

    def with_request_limit(self, limit: int) -> FaultyStorage:
        return self

    @property
    def description(self) -> str:
        return f"faulty {self.inner.description}"

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "faulty"


class UncertainListing(FaultyStorage):
    """Passes every call on, but lists as a store does whose listings lag behind, or clock is wrong.

    Parameters
    ----------
    inner : Storage
        A real storage.
    every : int
        Of the objects there are, each so-many-th is left out of every listing; 0 for none.
    ghosts : bool
        Objects that were deleted are still listed.
    skew_us : int
        How far the storage's clock is ahead; microseconds.
    """

    def __init__(
        self, inner: Storage, *, every: int = 0, ghosts: bool = False, skew_us: int = 0
    ) -> None:
        super().__init__(inner)
        self.every = every
        self.ghosts = ghosts
        self.skew_us = skew_us
        self._deleted: dict[str, ObjectInfo] = {}

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        number = 0
        async for info in self.inner.list(prefix):
            number += 1
            if not self.every or number % self.every:
                moved = info.last_modified_us + self.skew_us
                yield dataclasses.replace(info, last_modified_us=moved)
        for key, info in list(self._deleted.items()):
            if self.ghosts and key.startswith(prefix):
                yield info

    async def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            with contextlib.suppress(StorageError):
                self._deleted[key] = await self.inner.head(key)
        await super().delete_many(keys)

    async def head(self, key: str) -> ObjectInfo:
        info = await self.inner.head(key)
        return dataclasses.replace(info, last_modified_us=info.last_modified_us + self.skew_us)
