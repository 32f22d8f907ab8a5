"""A cache of decoded objects, bounded by what they count for and by the memory they take."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Weight(NamedTuple):
    """What a value counts for in a cache.

    Attributes
    ----------
    units : int
        In the unit of the cache's limit; at least 1 is counted.
    size_bytes : int
        Memory it takes, or may come to take while it is used; unit: bytes.
    """

    units: int
    size_bytes: int


class WeightedCache(Generic[K, V]):
    """Keeps the most recently used values up to a total count and a total size.

    Only objects that never change are put here (files under random ids), so a cached value can
    not be stale.

    Parameters
    ----------
    max_count : int
        Largest total count; 0 keeps nothing. A value that counts for more is not kept.
    bytes_each : int
        Memory that each of these may take on average; unit: bytes. Many small values, and values
        with large parts, so make room before the total count is reached. One value alone may take
        more: whoever uses it would read it again and again.
    weight_of : callable
        Weight of a value.
    """

    __slots__ = ("_count", "_items", "_lock", "_max_bytes", "_max_count", "_size", "_weight_of")

    def __init__(self, max_count: int, bytes_each: int, weight_of: Callable[[V], Weight]) -> None:
        self._max_count = max_count
        self._max_bytes = max_count * bytes_each
        self._weight_of = weight_of
        self._items: OrderedDict[K, tuple[V, Weight]] = OrderedDict()
        self._count = 0
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: K) -> V | None:
        """Return a cached value, None when there is none."""
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[0]

    def put(self, key: K, value: V) -> None:
        """Keep a value; the least recently used ones make room."""
        if not self._max_count:
            return
        units, size = self._weight_of(value)
        weight = Weight(max(1, units), size)
        if weight.units > self._max_count:
            return
        with self._lock:
            self._drop(self._items.pop(key, None))
            self._items[key] = (value, weight)
            self._count += weight.units
            self._size += weight.size_bytes
            while self._count > self._max_count or (
                self._size > self._max_bytes and len(self._items) > 1
            ):
                self._drop(self._items.popitem(last=False)[1])

    def _drop(self, item: tuple[V, Weight] | None) -> None:
        if item is not None:
            self._count -= item[1].units
            self._size -= item[1].size_bytes

    def __len__(self) -> int:
        return len(self._items)

    @property
    def weight(self) -> Weight:
        """Total weight of what is kept."""
        return Weight(self._count, self._size)
