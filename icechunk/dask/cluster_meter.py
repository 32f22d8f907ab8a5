"""The meter of `icechunk.dask.metering` inside a dask scheduler, which hears of every task."""

from __future__ import annotations

import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from distributed.diagnostics.plugin import SchedulerPlugin

from icechunk.dask.meter import Meter
from icechunk.events import Amount

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_SECONDS_BETWEEN_REPORTS: Final = 0.1


class _SchedulerMeter(SchedulerPlugin):  # type: ignore[misc] # distributed has no types
    def __init__(self, name: str, layers: Mapping[str, Amount]) -> None:
        self.name = name
        self._meter = Meter(layers=dict(layers))
        self._last = 0.0
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *_args: Any, **_kwargs: Any) -> None:
        """Hear of a task's new state."""
        if start == "processing" and finish == "memory" and self._meter.count(key):
            now = time.monotonic()
            if now - self._last >= _SECONDS_BETWEEN_REPORTS:
                self._last = now
                self._scheduler.log_event(self.name, asdict(self._meter.done))


@contextmanager
def metering_cluster(
    client: Any, layers: Mapping[str, Amount], advance: Callable[[Amount], object]
) -> Iterator[None]:
    """Tell how far computations of a cluster inside the block are; see `metering`."""
    lock = threading.Lock()
    listening = True

    def heard(event: tuple[float, dict[str, int]]) -> None:
        with lock:  # nothing arrives after the end of the block
            if listening:
                advance(Amount(**event[1]))

    # Of its own, because others may write through the same scheduler at the same time.
    topic = f"icechunk-progress-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, heard)
    try:
        client.register_plugin(_SchedulerMeter(topic, layers))
        metered = True
    except Exception:  # noqa: BLE001 # whatever a foreign scheduler has against plugins
        metered = False  # then nothing is heard before the end
    try:
        yield
    finally:
        with lock:
            listening = False
        # When the scheduler is gone, or the client was closed, there is nothing left to end.
        with suppress(Exception):
            if metered:
                client.unregister_scheduler_plugin(topic)
            client.unsubscribe_topic(topic)
