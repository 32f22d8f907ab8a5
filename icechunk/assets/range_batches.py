"""Reads of near ranges of one object that are asked for at the same moment, in few requests.

zarr reads the chunks of an array each by itself, several at a time. Those that lie near each other
in one file (which is usual for files that chunks were found in, not made for) share a request.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from icechunk.core.byte_ranges import WantedRange, plan_reads
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.objects import ByteRange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

    from icechunk.core.byte_ranges import PlannedRead

# A request costs as much time as some tens of kilobytes; what is read in vain is paid for as well.
_MAX_GAP_BYTES: Final = 64 << 10
_MAX_READ_BYTES: Final = 8 << 20


@dataclass(slots=True)
class _Batch:
    """Ranges of one object that tasks of one loop wait for."""

    read: Callable[[ByteRange], Awaitable[bytes]]
    ranges: list[ByteRange] = field(default_factory=list)
    waiting: list[asyncio.Future[bytes]] = field(default_factory=list)


class RangeBatches:
    """Joins ranges of one object.

    Notes
    -----
    Concurrency: any thread and loop; only tasks of one loop are joined. A range is asked for when
    the tasks that are ready have run, so waiting for others costs next to nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[Hashable, _Batch] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def read(
        self,
        place: Hashable,
        byte_range: ByteRange,
        read: Callable[[ByteRange], Awaitable[bytes]],
    ) -> bytes:
        """Return a range of an object, perhaps as part of a larger one.

        Parameters
        ----------
        place : hashable
            The object, and everything else that makes two reads alike.
        byte_range : ByteRange
            What is wanted.
        read : callable
            Reads any range of the object.

        Returns
        -------
        bytes
            The range.

        Raises
        ------
        StorageError
            Whatever reading it raised. When a joined range cannot be read for being longer than
            the object, each is read by itself, so that one wrong reference hurts no other.
        """
        running = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = running.create_future()
        key = (running, place)
        with self._lock:
            batch = self._open.get(key)
            first = batch is None
            if batch is None:
                batch = self._open[key] = _Batch(read)
            batch.ranges.append(byte_range)
            batch.waiting.append(future)
        if first:
            task = running.create_task(self._finish(key))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def _finish(self, key: Hashable) -> None:
        await asyncio.sleep(0)  # those that are ready now come in before
        with self._lock:
            batch = self._open.pop(key)
        wanted = [WantedRange(place=None, start=r.start, stop=r.stop) for r in batch.ranges]
        reads = plan_reads(wanted, max_gap_bytes=_MAX_GAP_BYTES, max_read_bytes=_MAX_READ_BYTES)
        try:
            await asyncio.gather(*(_serve(batch, read) for read in reads))
        finally:
            for future in batch.waiting:
                future.cancel()  # only those that nothing was told, because the loop ends


async def _serve(batch: _Batch, planned: PlannedRead) -> None:
    """Make one request, and tell those who wait for parts of it."""
    numbers = [n for n in planned.serves if not batch.waiting[n].done()]
    if not numbers:  # all were cancelled meanwhile
        return
    whole = ByteRange(start=planned.start, stop=planned.stop)
    try:
        data = await batch.read(whole)
    except Exception as error:  # noqa: BLE001 (handed to those who wait)
        too_long = isinstance(error, StorageError) and error.kind == ErrorKind.INVALID_OBJECT_SIZE
        if too_long and len(numbers) > 1:
            await asyncio.gather(*(_serve_one(batch, n) for n in numbers))
            return
        for n in numbers:
            _tell(batch.waiting[n], error)
        return
    for n in numbers:
        part = batch.ranges[n]
        _tell(batch.waiting[n], data[part.start - whole.start : part.stop - whole.start])


async def _serve_one(batch: _Batch, number: int) -> None:
    try:
        _tell(batch.waiting[number], await batch.read(batch.ranges[number]))
    except Exception as error:  # noqa: BLE001 (handed to the one who waits)
        _tell(batch.waiting[number], error)


def _tell(future: asyncio.Future[bytes], outcome: bytes | Exception) -> None:
    if future.done():  # cancelled meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
