"""A storage that fails on cue, around a real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icechunk.errors import StorageError
from icechunk.storage.base import LostRaceError, Storage, UnknownOutcomeError, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from icechunk import StorageSettings
    from icechunk.storage.base import ByteRange, ObjectInfo, ReadCondition


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

    @property
    def description(self) -> str:
        return f"faulty {self.inner.description}"

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "faulty"
