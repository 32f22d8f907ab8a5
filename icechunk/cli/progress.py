"""A progress bar for dask computations: bytes done, rate, time left."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from dask.callbacks import Callback
from distributed.diagnostics.plugin import SchedulerPlugin
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
from rich.text import Text

from icechunk._units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from icechunk.cli.console import Output

_SECONDS_BETWEEN_REPORTS: Final = 0.1


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts finished tasks by the start of their names, each task once.

    Parameters
    ----------
    weights : mapping
        Bytes that one task of each name stands for; other tasks do not count.
    """

    weights: Mapping[str, float]
    done_bytes: float = 0.0
    _seen: set[Any] = field(default_factory=set)

    def count(self, key: Any) -> bool:
        """Count a finished task; return whether it is one of ours and new.

        A task whose result got lost with its worker runs again, and must not count twice.
        """
        name = key[0] if isinstance(key, tuple) else key
        prefix = name.rpartition("-")[0] if isinstance(name, str) else ""
        weight = self.weights.get(prefix)
        if weight is None or key in self._seen:
            return False
        self._seen.add(key)
        self.done_bytes += weight
        return True


class _SchedulerMeter(SchedulerPlugin):  # type: ignore[misc] # distributed has no types
    """The meter inside a dask scheduler, which alone hears of every finished task."""

    def __init__(self, name: str, weights: Mapping[str, float]) -> None:
        self.name = name
        self._meter = Meter(weights=dict(weights))
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
                self._scheduler.log_event(self.name, self._meter.done_bytes)


class _LocalMeter(Callback):  # type: ignore[misc] # dask has no types
    """The meter for dask's schedulers of one process."""

    def __init__(self, meter: Meter, report: Callable[[float], None]) -> None:
        super().__init__()
        self._count = meter
        self._report = report

    def _posttask(self, key: Any, *_args: Any) -> None:
        if self._count.count(key):
            self._report(self._count.done_bytes)


class _SizeColumn(ProgressColumn):
    def render(self, task: Any) -> Text:
        done, total = bytes_text(task.completed), bytes_text(task.total or 0)
        return Text(f"{done} of {total}", style="none")


class _RateColumn(ProgressColumn):
    def render(self, task: Any) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{bytes_text(speed)}/s" if speed else "", style="dim")


class _TimeColumn(ProgressColumn):
    def render(self, task: Any) -> Text:
        if task.finished:
            return Text(f"in {seconds_text(task.finished_time or 0)}", style="dim")
        left = task.time_remaining
        return Text("" if left is None else f"{seconds_text(round(left))} left", style="dim")


@contextmanager
def progress(
    output: Output,
    client: Any,
    label: str,
    weights: Mapping[str, float],
    total_bytes: int,
    total_tasks: int,
) -> Iterator[None]:
    """Show how far the computations inside the block are.

    Parameters
    ----------
    output : Output
        The bar goes to standard error; without a terminal there is one line at the end.
    client : distributed.Client or None
        Where the computations run.
    label : str
        What is being done.
    weights : mapping
        Bytes per task, by the start of its name up to the last hyphen.
    total_bytes, total_tasks : int
        What it will come to.
    """
    if not output.err.is_terminal:
        began = time.monotonic()
        yield
        took = max(time.monotonic() - began, 1e-9)
        size, rate = bytes_text(total_bytes), bytes_text(total_bytes / took)
        tasks = count_text(total_tasks, "task")
        output.say(f"{label}: {size} in {tasks}, {seconds_text(took)}, {rate}/s")
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        _SizeColumn(),
        _RateColumn(),
        _TimeColumn(),
        console=output.err,
    )
    with bar:
        shown = bar.add_task(label, total=total_bytes or 1)

        def report(done_bytes: float) -> None:
            bar.update(shown, completed=done_bytes)

        with _metered(client, weights, report):
            yield
        bar.update(shown, completed=total_bytes or 1)


@contextmanager
def _metered(
    client: Any, weights: Mapping[str, float], report: Callable[[float], None]
) -> Iterator[None]:
    if client is None:
        with _LocalMeter(Meter(weights=weights), report):
            yield
        return

    def heard(event: tuple[float, float]) -> None:
        report(event[1])

    # Of its own, because others may write through the same scheduler at the same time.
    topic = f"icechunk-progress-{uuid.uuid4().hex}"
    client.subscribe_topic(topic, heard)
    try:
        client.register_plugin(_SchedulerMeter(topic, weights))
        metered = True
    except Exception:  # noqa: BLE001 # whatever a foreign scheduler has against plugins
        metered = False  # the bar then only shows the end
    try:
        yield
    finally:
        if metered:
            client.unregister_scheduler_plugin(topic)
        client.unsubscribe_topic(topic)
