"""Objects that one process shares by what they stand for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakValueDictionary

from icechunk._io import fork

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class Registry(Generic[K, V]):
    """Hands out one object per key as long as anybody uses it, and the last few a little longer.

    Tasks of a cluster come one after the other and each brings its own recipe of the same
    repository; so a worker has one client and one cache for it, not one per task.

    Parameters
    ----------
    kept : int
        How many of the most recently used objects stay although nobody holds them.
    """

    __slots__ = ("__weakref__", "_kept", "_lock", "_objects", "_recent")

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self.after_fork()
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        """Start empty in a forked child: clients of the parent are not to be used there."""
        self._lock = threading.Lock()
        self._objects: WeakValueDictionary[K, V] = WeakValueDictionary()
        self._recent: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """Return the object of a key, made on first use."""
        with self._lock:
            found = self._objects.get(key)
            if found is None:
                found = self._objects[key] = make()
            self._recent[key] = found
            self._recent.move_to_end(key)
            while len(self._recent) > self._kept:
                self._recent.popitem(last=False)
            return found
