"""Counting what each worker of a dask cluster writes: blocks, chunks, bytes, failures, retries."""

from __future__ import annotations

import logging
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin

from icechunk._tables import TextTable
from icechunk._units import bytes_text, seconds_text
from icechunk.dask.reporting import change_amounts
from icechunk.dask.tasks import WriteResult
from icechunk.events import NOTHING, Amount

if TYPE_CHECKING:
    from types import TracebackType

_logger = logging.getLogger(__name__)

_WRITES: Final = "icechunk-write-"
_COLUMNS: Final = ("worker", "blocks", "chunks", "bytes", "stored", "failed", "retries", "busy")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCounts:
    """What one worker wrote.

    Parameters
    ----------
    worker : str
        Its address; "total" for all.
    blocks : int
        Tasks that wrote a block and whose result arrived.
    chunks : int
        Zarr chunks in these; not known of a worker that died.
    size_bytes, stored_bytes : int
        Bytes of these chunks, uncompressed and as stored; not known of a worker that died.
    failed : int
        Tasks that raised an error, each attempt counted.
    retries : int
        Tasks that this worker was given although they had run, or had been lost, before.
    seconds : float
        Time that tasks took here, added up over its threads.
    """

    worker: str
    blocks: int = 0
    chunks: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0
    failed: int = 0
    retries: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ClusterCounts:
    """What the workers of a cluster wrote; ``print`` and notebooks show a table.

    Parameters
    ----------
    workers : tuple of WorkerCounts
        One row for each worker that had a part in it, those that died included.
    """

    workers: tuple[WorkerCounts, ...] = ()

    @property
    def total(self) -> WorkerCounts:
        """All workers together."""
        names = ("blocks", "chunks", "size_bytes", "stored_bytes", "failed", "retries", "seconds")
        sums = {name: sum(getattr(row, name) for row in self.workers) for name in names}
        return WorkerCounts(worker="total", **sums)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as plain values that JSON can hold."""
        return {"workers": [asdict(row) for row in self.workers], "total": asdict(self.total)}

    def table(self) -> TextTable:
        """Return the counts as a table, which has ``text()`` and ``html()``."""
        return TextTable(
            title="Written by worker",
            columns=_COLUMNS,
            rows=tuple(map(_cells, self.workers)),
            total=_cells(self.total),
        )

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


def _cells(row: WorkerCounts) -> tuple[str, ...]:
    return (
        row.worker,
        f"{row.blocks:,}",
        f"{row.chunks:,}",
        bytes_text(row.size_bytes),
        bytes_text(row.stored_bytes),
        f"{row.failed:,}",
        f"{row.retries:,}",
        seconds_text(row.seconds),
    )


class WriteCounters:
    """Counts writes on a dask cluster, worker by worker, while a ``with`` block lasts.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.

    Examples
    --------
    >>> with WriteCounters(client) as counters:  # doctest: +SKIP
    ...     ds.to_icechunk(session)
    ...     print(counters.counts())

    Notes
    -----
    A plugin of the scheduler sees which worker gets and ends which task, one of the workers sees
    what their tasks return. Anybody's writes count, not only those of this client.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._name = f"icechunk-counters-{uuid.uuid4().hex[:12]}"

    def __enter__(self) -> Self:
        self._client.register_plugin(_SchedulerCounters(self._name))
        self._client.register_plugin(_WorkerCounters(self._name))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._client.unregister_worker_plugin(self._name)
        self._client.unregister_scheduler_plugin(self._name)

    def counts(self) -> ClusterCounts:
        """Return what was counted so far; only inside the ``with`` block."""
        by_worker: dict[str, dict[str, Any]] = self._client.run_on_scheduler(
            _scheduler_counts, self._name
        )
        for worker, counted in self._client.run(
            _worker_counts, self._name, on_error="ignore"
        ).items():
            if any(counted.values()):
                by_worker.setdefault(worker, {}).update(counted)
        rows = (WorkerCounts(worker=worker, **by_worker[worker]) for worker in sorted(by_worker))
        return ClusterCounts(tuple(rows))


def _scheduler_counts(name: str, *, dask_scheduler: Any) -> dict[str, dict[str, Any]]:
    plugin: _SchedulerCounters = dask_scheduler.plugins[name]
    return {worker: asdict(tally) for worker, tally in plugin.tallies.items()}


def _worker_counts(name: str, *, dask_worker: Any) -> dict[str, int]:
    plugin: _WorkerCounters | None = dask_worker.plugins.get(name)
    if plugin is None:
        return {}
    amount = plugin.amount
    return {
        "chunks": amount.chunks,
        "size_bytes": amount.size_bytes,
        "stored_bytes": amount.stored_bytes,
        "failed": plugin.failed,
    }


@dataclass(slots=True)
class _Tally:
    blocks: int = 0
    retries: int = 0
    seconds: float = 0.0


def _is_write(key: Any) -> bool:
    name = key[0] if isinstance(key, tuple) and key else key
    return isinstance(name, str) and name.startswith(_WRITES)


class _SchedulerCounters(SchedulerPlugin):  # type: ignore[misc] # distributed has no types
    def __init__(self, name: str) -> None:
        self.name = name
        self.tallies: dict[str, _Tally] = {}
        self._begun: set[Any] = set()
        self._scheduler: Any = None

    async def start(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        """Hear of a task's new state."""
        del args
        if not _is_write(key):
            return
        if finish == "processing":
            on = self._scheduler.tasks[key].processing_on
            if key in self._begun and on is not None:
                self._tally(on.address).retries += 1
                _logger.info("task %s runs again, on %s", key, on.address)
            self._begun.add(key)
        elif start == "processing" and finish == "memory":
            tally = self._tally(kwargs["worker"])
            tally.blocks += 1
            for span in kwargs.get("startstops") or ():
                if span["action"] == "compute":
                    tally.seconds += span["stop"] - span["start"]

    def _tally(self, worker: str) -> _Tally:
        return self.tallies.setdefault(worker, _Tally())


class _WorkerCounters(WorkerPlugin):  # type: ignore[misc] # distributed has no types
    def __init__(self, name: str) -> None:
        self.name = name
        self.amount = NOTHING
        self.failed = 0
        self._worker: Any = None

    def setup(self, worker: Any) -> None:
        """Begin to count on a worker."""
        self._worker = worker

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Hear of a task's new state on this worker."""
        del kwargs
        # What another worker computed comes to memory here, too, but from another state.
        if start not in {"executing", "long-running"} or not _is_write(key):
            return
        if finish == "error":
            self.failed += 1
        result = self._worker.data.get(key) if finish == "memory" else None
        if isinstance(result, WriteResult):
            stored = sum(change_amounts(result.changes).values(), NOTHING)
            self.amount += stored + Amount(tasks=result.blocks, size_bytes=result.size_bytes)
