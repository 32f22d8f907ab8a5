"""Counting finished dask tasks by their names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icechunk.events import NOTHING, Amount

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts finished tasks by their names, each task once.

    Parameters
    ----------
    layers : mapping of str to Amount
        What all tasks of one name come to; other tasks do not count. A name may leave out what
        follows its last hyphen.
    """

    layers: Mapping[str, Amount]
    _done: dict[str, int] = field(default_factory=dict)
    _seen: set[Any] = field(default_factory=set)

    def count(self, key: Any) -> bool:
        """Count a finished task; return whether it is one of ours and new.

        A task whose result got lost with its worker runs again, and must not count twice.
        """
        name = key[0] if isinstance(key, tuple) else key
        if not isinstance(name, str):
            return False
        if name not in self.layers:
            name = name.rpartition("-")[0]
        if name not in self.layers or key in self._seen:
            return False
        self._seen.add(key)
        self._done[name] = self._done.get(name, 0) + 1
        return True

    @property
    def done(self) -> Amount:
        """What the tasks counted so far come to; those of one name count alike."""
        done = NOTHING
        for name, count in self._done.items():
            layer = self.layers[name]
            part = count / max(layer.tasks, count)
            done += Amount(
                tasks=count,
                chunks=round(layer.chunks * part),
                size_bytes=round(layer.size_bytes * part),
            )
        return done
