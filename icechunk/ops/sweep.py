"""Deleting the objects of one folder that nobody needs, while it is being listed.

Source: Icechunk specification, section "Garbage collection".
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk._io.limits import gather_limited
from icechunk.core.id_columns import ids_of_names
from icechunk.errors import ErrorKind, StorageError
from icechunk.events import Amount

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from icechunk._typing import BoolArray, I64Array, U8Array
    from icechunk.storage.base import Storage
    from icechunk.storage.objects import ObjectInfo

_logger = logging.getLogger(__name__)

_LISTED_AT_ONCE: Final = 4096
_DELETED_AT_ONCE: Final = 1000
_ERRORS_KEPT: Final = 20
_SECOND_US: Final = 1_000_000
# First characters of an id's text, by which a folder is listed in parts.
_SHARDS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class Listed:
    """Objects of a folder whose names are ids, as columns.

    Parameters
    ----------
    ids : ndarray of uint8, shape (n, 12)
        Their ids.
    size_bytes : ndarray of int64, shape (n,)
        Lengths of their contents.
    modified_us : ndarray of int64, shape (n,)
        When they were written by the storage's clock; microseconds since the Unix epoch.
    keys : list of str
        Storage keys.
    """

    ids: U8Array
    size_bytes: I64Array
    modified_us: I64Array
    keys: list[str]

    @classmethod
    def of(cls, infos: Sequence[ObjectInfo]) -> Listed:
        """Return a part of a listing without the objects that are not the format's."""
        ids, good = ids_of_names([info.key.rpartition("/")[2] for info in infos])
        mine = [info for info, ok in zip(infos, good, strict=True) if ok]
        return cls(
            ids[good],
            np.array([info.size_bytes for info in mine], np.int64),
            np.array([info.last_modified_us for info in mine], np.int64),
            [info.key for info in mine],
        )

    def older_than(self, cutoff_us: int) -> BoolArray:
        """Say which objects were certainly written before a time.

        Many storages keep whole seconds only, so such a time stands for any within its second.
        """
        whole = self.modified_us % _SECOND_US == 0
        latest = self.modified_us + np.where(whole, _SECOND_US - 1, 0)
        older: BoolArray = latest < cutoff_us
        return older


async def listing(storage: Storage, prefix: str) -> AsyncIterator[Listed]:
    """Yield the objects below a prefix, some thousands at a time."""
    batch: list[ObjectInfo] = []
    async for info in storage.list(prefix):
        batch.append(info)
        if len(batch) >= _LISTED_AT_ONCE:
            yield Listed.of(batch)
            batch = []
    yield Listed.of(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepLimits:
    """How garbage is deleted.

    Parameters
    ----------
    max_concurrent_deletes : int
        Deleting requests at one time; each names many objects where the storage can do that.
    max_consecutive_delete_failures : int
        Objects that could not be deleted, one after the other, before it is given up.
    max_concurrent_listings : int or None
        Parts of a large folder that are listed at one time; None decides by the folder.
    """

    max_concurrent_deletes: int = 10
    max_consecutive_delete_failures: int = 50
    max_concurrent_listings: int | None = None


@dataclass(slots=True)
class Swept:
    """What a sweep deleted, and what it could not."""

    objects: int = 0
    size_bytes: int = 0
    failed: int = 0
    throttled_batches: int = 0
    errors: list[str] = field(default_factory=list)
    gave_up: StorageError | None = None


class Sweep:
    """Deletes what is old and not needed below one prefix.

    Parameters
    ----------
    storage : Storage
        Where.
    prefix : str
        Folder, with its slash.
    needed : callable
        Says of a column of ids, shape ``(n, 12)``, which objects must stay.
    cutoff_us : int
        Objects written at this time or later stay; microseconds since the Unix epoch.
    limits : SweepLimits
        How many requests at once.
    dry_run : bool
        Only count.
    advance : callable
        Is told of objects that were looked at, and of bytes that were freed, as they come.

    Notes
    -----
    Memory: some thousand entries of the listing, and a thousand keys per deleting request.
    """

    def __init__(
        self,
        storage: Storage,
        prefix: str,
        needed: Callable[[U8Array], BoolArray],
        cutoff_us: int,
        limits: SweepLimits,
        *,
        dry_run: bool,
        advance: Callable[[Amount], object],
    ) -> None:
        self.swept = Swept()
        self._advance = advance
        self._storage = storage
        self._prefix = prefix
        self._needed = needed
        self._cutoff_us = cutoff_us
        self._limits = limits
        self._dry_run = dry_run
        self._deleting: set[asyncio.Task[None]] = set()
        self._failures_in_a_row = 0

    async def run(self, *, in_parts: bool) -> Swept:
        """List and delete; ``in_parts`` lists by the first character of the names.

        Raises
        ------
        StorageError
            The listing failed.
        """
        prefixes = [self._prefix + mark for mark in _SHARDS] if in_parts else [self._prefix]
        parallel = self._limits.max_concurrent_listings or len(prefixes)
        try:
            await gather_limited(parallel, map(self._part, prefixes))
            await self._fewer_than(1)
        finally:
            for task in self._deleting:
                task.cancel()
            await asyncio.gather(*self._deleting, return_exceptions=True)
        return self.swept

    async def _part(self, prefix: str) -> None:
        victims: list[tuple[str, int]] = []
        async for listed in listing(self._storage, prefix):
            if self.swept.gave_up is not None:
                return
            self._advance(Amount(objects=len(listed.keys)))
            garbage = listed.older_than(self._cutoff_us)
            garbage &= ~self._needed(listed.ids)
            for row in np.flatnonzero(garbage).tolist():
                victims.append((listed.keys[row], int(listed.size_bytes[row])))
                if len(victims) >= _DELETED_AT_ONCE:
                    await self._hand_over(victims)
                    victims = []
        if victims:
            await self._hand_over(victims)

    async def _hand_over(self, victims: list[tuple[str, int]]) -> None:
        if self._dry_run:
            self._count(victims)
            return
        await self._fewer_than(self._limits.max_concurrent_deletes)
        self._deleting.add(asyncio.create_task(self._delete(victims)))

    async def _fewer_than(self, limit: int) -> None:
        """Wait until fewer deletions are under way; raise what one of them raised."""
        while len(self._deleting) >= limit:
            done, _ = await asyncio.wait(self._deleting, return_when=asyncio.FIRST_COMPLETED)
            self._deleting -= done
            for task in done:
                task.result()

    async def _delete(self, victims: list[tuple[str, int]]) -> None:
        if self.swept.gave_up is not None:
            self.swept.failed += len(victims)
            return
        try:
            await self._storage.delete_many([key for key, _ in victims])
        except StorageError as e:
            _logger.warning("deleting %d objects: %s", len(victims), e)
            if e.kind == ErrorKind.THROTTLED:
                self.swept.throttled_batches += 1
            await self._one_by_one(victims)
        else:
            self._count(victims)

    async def _one_by_one(self, victims: list[tuple[str, int]]) -> None:
        """Delete what can be deleted of a batch of which something could not."""
        swept = self.swept
        for done, victim in enumerate(victims):
            if swept.gave_up is not None:
                swept.failed += len(victims) - done
                return
            try:
                await self._storage.delete_many([victim[0]])
            except StorageError as e:
                swept.failed += 1
                self._failures_in_a_row += 1
                if len(swept.errors) < _ERRORS_KEPT:
                    swept.errors.append(f"{victim[0]}: {e.message}")
                if self._failures_in_a_row >= self._limits.max_consecutive_delete_failures:
                    swept.gave_up = e
            else:
                self._count([victim])

    def _count(self, victims: Sequence[tuple[str, int]]) -> None:
        self._failures_in_a_row = 0
        size_bytes = sum(size for _, size in victims)
        self.swept.objects += len(victims)
        self.swept.size_bytes += size_bytes
        self._advance(Amount(size_bytes=size_bytes))
