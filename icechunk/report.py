"""What a write came to, as a value: `IngestReport`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from icechunk._tables import TextTable
from icechunk._units import bytes_text, count_text, seconds_text
from icechunk.events import NOTHING, Amount

_COLUMNS: Final = ("array", "chunks", "bytes", "stored", "ratio")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayReport:
    """What was written of one array.

    Parameters
    ----------
    path : str
        Path of the array in the repository.
    chunks : int
        Zarr chunks (shards with sharding) that were stored or deleted. A chunk that holds
        nothing but the fill value is not stored, unless its array is told to.
    size_bytes : int
        Uncompressed bytes that were handed to zarr.
    stored_bytes : int
        Bytes of the chunks as they are stored: compressed and encoded.
    """

    path: str
    chunks: int
    size_bytes: int
    stored_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestReport:
    """What a write, or a whole job of writes, came to.

    ``print(report)`` shows a table, and so does a notebook.

    Parameters
    ----------
    job_id : str
        Names the write in events and log lines.
    arrays : tuple of ArrayReport
        One row for each array that got chunks, ordered by path.
    tasks : int
        Dask tasks that wrote a block; 0 when all data was in memory.
    seconds : float
        How long it took.
    units : int
        Units written, by a job that has units.
    snapshot_ids : tuple of str
        Commits that were made, oldest first; none by a write into a session.
    retries : int
        Tasks or units that were run again after a failure, as far as it was seen.
    """

    job_id: str
    arrays: tuple[ArrayReport, ...] = ()
    tasks: int = 0
    seconds: float = 0.0
    units: int = 0
    snapshot_ids: tuple[str, ...] = ()
    retries: int = 0

    @property
    def amount(self) -> Amount:
        """All arrays together."""
        done = Amount(units=self.units, tasks=self.tasks)
        parts = (
            Amount(chunks=a.chunks, size_bytes=a.size_bytes, stored_bytes=a.stored_bytes)
            for a in self.arrays
        )
        return sum(parts, done)

    @property
    def chunks(self) -> int:
        """Zarr chunks of all arrays."""
        return self.amount.chunks

    @property
    def size_bytes(self) -> int:
        """Uncompressed bytes of all arrays."""
        return self.amount.size_bytes

    @property
    def stored_bytes(self) -> int:
        """Stored bytes of all arrays."""
        return self.amount.stored_bytes

    @property
    def bytes_per_second(self) -> float:
        """Uncompressed bytes by the second; 0 when it took no time."""
        return self.size_bytes / self.seconds if self.seconds else 0.0

    def __add__(self, other: IngestReport) -> IngestReport:
        """Return the report of both, one after the other, under this one's id."""
        by_path: dict[str, Amount] = {}
        for row in (*self.arrays, *other.arrays):
            by_path[row.path] = by_path.get(row.path, NOTHING) + Amount(
                chunks=row.chunks, size_bytes=row.size_bytes, stored_bytes=row.stored_bytes
            )
        return IngestReport(
            job_id=self.job_id,
            arrays=tuple(
                ArrayReport(
                    path=path,
                    chunks=amount.chunks,
                    size_bytes=amount.size_bytes,
                    stored_bytes=amount.stored_bytes,
                )
                for path, amount in sorted(by_path.items())
            ),
            tasks=self.tasks + other.tasks,
            seconds=self.seconds + other.seconds,
            units=self.units + other.units,
            snapshot_ids=(*self.snapshot_ids, *other.snapshot_ids),
            retries=self.retries + other.retries,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values that JSON can hold."""
        totals = ("chunks", "size_bytes", "stored_bytes", "bytes_per_second")
        return asdict(self) | {name: getattr(self, name) for name in totals}

    def table(self) -> TextTable:
        """Return the report as a table, which has ``text()`` and ``html()``."""
        parts = [
            seconds_text(self.seconds),
            f"{bytes_text(self.bytes_per_second)}/s",
            count_text(self.tasks, "task"),
        ]
        if self.units:
            parts.append(count_text(self.units, "unit"))
        if self.snapshot_ids:
            parts.append(count_text(len(self.snapshot_ids), "commit"))
        if self.retries:
            parts.append(count_text(self.retries, "retry", "retries"))
        total = ArrayReport(
            path="total",
            chunks=self.chunks,
            size_bytes=self.size_bytes,
            stored_bytes=self.stored_bytes,
        )
        return TextTable(
            title=f"Written, job {self.job_id}",
            columns=_COLUMNS,
            rows=tuple(map(_cells, self.arrays)),
            total=_cells(total),
            notes=(", ".join(parts),),
        )

    def __str__(self) -> str:
        return self.table().text()

    def _repr_html_(self) -> str:
        return self.table().html()


def _cells(row: ArrayReport) -> tuple[str, ...]:
    ratio = f"{row.size_bytes / row.stored_bytes:.1f}" if row.stored_bytes else ""
    return (
        row.path,
        f"{row.chunks:,}",
        bytes_text(row.size_bytes),
        bytes_text(row.stored_bytes),
        ratio,
    )
