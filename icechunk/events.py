"""What long operations tell while they run: frozen values, given to an observer.

Anything that takes a function of one event is an observer: the progress bar and the log of
`icechunk.progress`, a function of yours, or nothing. An event says how things stand, not what
changed since the last one, so an observer may miss some of them and still be right.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much work, by every measure that an operation knows.

    Parameters
    ----------
    units : int
        Parts of a job, such as files or regions.
    tasks : int
        Tasks, such as dask blocks.
    chunks : int
        Zarr chunks (shards with sharding).
    size_bytes : int
        Uncompressed bytes.
    stored_bytes : int
        Bytes as they are stored: compressed and encoded.
    objects : int
        Objects in storage that upkeep has dealt with.
    """

    units: int = 0
    tasks: int = 0
    chunks: int = 0
    size_bytes: int = 0
    stored_bytes: int = 0
    objects: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            units=self.units + other.units,
            tasks=self.tasks + other.tasks,
            chunks=self.chunks + other.chunks,
            size_bytes=self.size_bytes + other.size_bytes,
            stored_bytes=self.stored_bytes + other.stored_bytes,
            objects=self.objects + other.objects,
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            units=self.units - other.units,
            tasks=self.tasks - other.tasks,
            chunks=self.chunks - other.chunks,
            size_bytes=self.size_bytes - other.size_bytes,
            stored_bytes=self.stored_bytes - other.stored_bytes,
            objects=self.objects - other.objects,
        )


NOTHING: Final = Amount()


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """An operation begins, or begins again after it was resumed.

    Parameters
    ----------
    job_id : str
        Names the operation in all its events and log lines.
    label : str
        What is done, for people: "writing", "collecting garbage".
    total : Amount
        What it will come to; a measure that is not known is 0.
    done : Amount
        What was done before, by a job that is resumed.
    """

    job_id: str
    label: str
    total: Amount = NOTHING
    done: Amount = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Advanced:
    """An operation got further.

    Parameters
    ----------
    job_id : str
        Of the operation.
    done : Amount
        All that is done by now.
    """

    job_id: str
    done: Amount


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitStarted:
    """A unit of a job begins.

    Parameters
    ----------
    job_id, unit_id : str
        Of the job, and of the unit in it.
    label : str
        What the unit is: a file name, a region.
    attempt : int
        1 the first time.
    """

    job_id: str
    unit_id: str
    label: str = ""
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFinished:
    """A unit of a job is written and durable, though not committed yet.

    Parameters
    ----------
    job_id, unit_id : str
        Of the job, and of the unit in it.
    amount : Amount
        What the unit came to.
    seconds : float
        How long it took.
    """

    job_id: str
    unit_id: str
    amount: Amount
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFailed:
    """A unit of a job failed.

    Parameters
    ----------
    job_id, unit_id : str
        Of the job, and of the unit in it.
    error : str
        Why.
    attempt : int
        Which attempt it was, from 1 on.
    will_retry : bool
        Whether there will be another.
    """

    job_id: str
    unit_id: str
    error: str
    attempt: int = 1
    will_retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A commit was made.

    Parameters
    ----------
    job_id : str
        Of the operation.
    snapshot_id : str
        Of the commit.
    branch : str
        The branch it is on.
    unit_ids : tuple of str
        Units that it holds.
    seconds : float
        How long it took.
    """

    job_id: str
    snapshot_id: str
    branch: str
    unit_ids: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """An operation came to its end.

    Parameters
    ----------
    job_id : str
        Of the operation.
    done : Amount
        What it came to.
    seconds : float
        How long it took.
    """

    job_id: str
    done: Amount
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An operation ended with an error, or was interrupted.

    Parameters
    ----------
    job_id : str
        Of the operation.
    error : str
        Why.
    done : Amount
        What was done before.
    seconds : float
        How long it took.
    """

    job_id: str
    error: str
    done: Amount = NOTHING
    seconds: float = 0.0


Event: TypeAlias = (
    Started | Advanced | UnitStarted | UnitFinished | UnitFailed | Committed | Finished | Failed
)
"""What an observer is told."""

Observer: TypeAlias = "Callable[[Event], object]"
"""Takes each event, one at a time, from whatever thread; what it returns is ignored.

An error that it raises ends the operation, so that a test can stop one at any event.
"""


def ignored(event: Event) -> None:
    """Observe nothing."""
    del event


def told_to_all(*observers: Observer) -> Observer:
    """Return an observer that tells several others, in this order."""

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell


def as_part_of(job_id: str, before: Amount, observer: Observer) -> Observer:
    """Return an observer for one part of a job, such as the write of a unit.

    How far the part is becomes how far the job is; its beginning and its end are left to the job.

    Parameters
    ----------
    job_id : str
        Of the job.
    before : Amount
        What the job had done before this part.
    observer : Observer
        Of the job.
    """

    def tell(event: Event) -> None:
        if isinstance(event, Advanced):
            observer(Advanced(job_id=job_id, done=before + event.done))

    return tell


def event_fields(event: Event) -> dict[str, Any]:
    """Return an event as plain values that JSON can hold, its kind under ``event``."""
    return {"event": type(event).__name__, **asdict(event)}
