"""A storage in which time passes at will, and which dies or fails where a test says."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import icechunk as ic
from icechunk.errors import ErrorKind, StorageError
from tests.faults import Died, FaultyStorage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from icechunk.storage.objects import ObjectInfo

HOUR_US = 3_600_000_000


class AgedStorage(FaultyStorage):
    """Also counts requests that delete, keeps ages, and may have whole seconds only.

    Parameters
    ----------
    whole_seconds : bool
        Times are cut to whole seconds, as object stores do.
    """

    def __init__(self, inner: ic.Storage | None = None, *, whole_seconds: bool = False) -> None:
        super().__init__(inner or ic.in_memory_storage())
        self.whole_seconds = whole_seconds
        self.shift_us: dict[str, int] = {}
        self.undeletable: set[str] = set()
        self.undeletable_kind = ErrorKind.OBJECT_STORE
        self.deleted: list[str] = []

    async def age(self, by_us: int = 24 * HOUR_US) -> None:
        """Make everything that is there now older."""
        async for info in self.inner.list(""):
            self.shift_us[info.key] = self.shift_us.get(info.key, 0) + by_us

    def _shifted(self, info: ObjectInfo) -> ObjectInfo:
        at = info.last_modified_us - self.shift_us.get(info.key, 0)
        if self.whole_seconds:
            at -= at % 1_000_000
        return replace(info, last_modified_us=at)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        async for info in self.inner.list(prefix):
            yield self._shifted(info)

    async def head(self, key: str) -> ObjectInfo:
        return self._shifted(await self.inner.head(key))

    async def put(self, key: str, data: Any, **kwargs: Any) -> None:
        self.shift_us.pop(key, None)
        await super().put(key, data, **kwargs)

    async def delete_many(self, keys: Sequence[str]) -> None:
        number = len(self.writes)
        self.writes.append(f"delete {len(keys)} of {keys[0]}")
        gone = [key for key in keys if key not in self.undeletable]
        if number == self.fail_at:
            gone = [] if self.how == "die before" else gone[: (len(gone) + 1) // 2]
        await self.inner.delete_many(gone)
        self.deleted += gone
        if number == self.fail_at:
            raise Died
        if len(gone) < len(keys):
            raise StorageError("injected: not allowed", self.undeletable_kind)
