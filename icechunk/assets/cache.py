"""A cache of decoded objects, bounded by what they weigh."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class WeightedCache(Generic[K, V]):
    """Keeps the most recently used values up to a total weight.

    Only objects that never change are put here (files under random ids), so a cached value can
    not be stale.

    Parameters
    ----------
    max_weight : int
        Largest total weight; 0 keeps nothing.
    weight_of : callable
        Weight of a value, in the unit of ``max_weight``; at least 1 is counted.
    """

    __slots__ = ("_items", "_lock", "_max_weight", "_total", "_weight_of")

    def __init__(self, max_weight: int, weight_of: Callable[[V], int]) -> None:
        self._max_weight = max_weight
        self._weight_of = weight_of
        self._items: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._total = 0
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
        weight = max(1, self._weight_of(value))
        if weight > self._max_weight:
            return
        with self._lock:
            old = self._items.pop(key, None)
            self._total += weight - (old[1] if old else 0)
            self._items[key] = (value, weight)
            while self._total > self._max_weight:
                _, (_, dropped) = self._items.popitem(last=False)
                self._total -= dropped

    @property
    def weight(self) -> int:
        """Total weight of what is kept."""
        return self._total
