"""Jobs as they are kept on the shelf: what is recorded, listed, inspected and removed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from icechunk._io.loop import run
from icechunk.dask.ingest.units import parse_ranges, ranges_text
from icechunk.errors import ErrorKind, NotFoundError
from icechunk.shelf import Shelf, ShelfRecord

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from icechunk.repository import Repository

JOB_KIND: Final = "ingest"
METADATA_KEY: Final = "icechunk_ingest"
"""Commit metadata key under which a commit names its job and the units it holds."""

UNIT_PREFIX: Final = "unit-"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class JobState(StrEnum):
    """How far a job got, as far as it could say so itself."""

    RUNNING = "running"
    """At work, or its process was killed: it can be resumed."""

    FAILED = "failed"
    """Stopped by an error or an interrupt: it can be resumed."""

    FINISHED = "finished"
    """Everything is committed and was checked."""

    REMOVED = "removed"
    """Being removed; nothing of it is kept any longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCommit:
    """A commit that a job made.

    Parameters
    ----------
    snapshot_id : str
        Of the commit.
    units : frozenset of int
        Numbers of the units that it holds.
    """

    snapshot_id: str
    units: frozenset[int]

    def facts(self) -> dict[str, str]:
        """Return the commit as plain data."""
        return {"snapshot_id": self.snapshot_id, "units": ranges_text(self.units)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, str]) -> JobCommit:
        """Return the commit of `facts`."""
        units = frozenset(parse_ranges(facts["units"]))
        return cls(snapshot_id=facts["snapshot_id"], units=units)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobInfo:
    """What is known of a job.

    Parameters
    ----------
    job_id : str
        Its name.
    state : JobState
        How far it got.
    branch, group : str
        Where it commits, and the group it writes.
    source : str
        What it reads, in a few words.
    created_at, updated_at : datetime
        When it began, and when it was last heard of, UTC.
    units : int
        Units altogether.
    kept : int
        Units that are written and whose change sets are on the shelf.
    committed : int
        Units that are in a commit, as far as the job recorded that.
    commits : tuple of JobCommit
        What it committed, oldest first, likewise.
    error : str or None
        What stopped it last.
    proof : mapping or None
        What was found when everything was committed.
    """

    job_id: str
    state: JobState
    branch: str
    group: str
    source: str
    created_at: datetime
    updated_at: datetime
    units: int
    kept: int
    committed: int
    commits: tuple[JobCommit, ...]
    error: str | None
    proof: Mapping[str, Any] | None

    def to_dict(self) -> dict[str, Any]:
        """Return the job as plain values that JSON can hold."""
        return asdict(self) | {
            "state": self.state.value,
            "created_at": self.created_at.isoformat(),
            "updated_at": self.updated_at.isoformat(),
            "commits": [commit.facts() for commit in self.commits],
        }


def job_record(repo: Repository, job_id: str) -> ShelfRecord:
    """Return the record of a job.

    Raises
    ------
    NotFoundError
        Kind ``key-not-found``; there is no such job, or not any more.
    """
    missing = f"no job {job_id} is kept beside this repository."
    try:
        record = run(Shelf(repo.storage).record(job_id))
    except NotFoundError as e:
        raise NotFoundError(missing, ErrorKind.KEY_NOT_FOUND) from e
    if record.kind != JOB_KIND or record.facts["state"] == JobState.REMOVED:
        raise NotFoundError(missing, ErrorKind.KEY_NOT_FOUND)
    return record


def recorded_paths(repo: Repository, job_id: str) -> list[str]:
    """Return the files that a job reads; none when it reads datasets, or has finished."""
    record = job_record(repo, job_id)
    try:
        plan = run(Shelf(repo.storage).item(job_id, record.facts["plan"]))
    except NotFoundError:
        return []
    return [str(path) for path in plan.facts["source"].get("paths", ())]


def list_jobs(repo: Repository) -> list[JobInfo]:
    """Return the jobs that are kept beside a repository, oldest first.

    Parameters
    ----------
    repo : Repository
        Which.

    Returns
    -------
    list of JobInfo
        Running, failed and finished ones. A job of a process that was killed still says it is
        running: look at ``updated_at``.

    Examples
    --------
    >>> import icechunk
    >>> from icechunk.dask import list_jobs
    >>> list_jobs(icechunk.Repository.create(icechunk.in_memory_storage()))
    []
    """
    return [_info(repo, record) for record in run(Shelf(repo.storage).records(JOB_KIND))]


def show_job(repo: Repository, job_id: str) -> JobInfo:
    """Return what is known of one job.

    Raises
    ------
    NotFoundError
        Kind ``key-not-found``; there is no such job.
    """
    return _info(repo, job_record(repo, job_id))


def remove_job(repo: Repository, job_id: str) -> JobInfo:
    """Remove what is kept of a job; what it committed stays.

    A job that is not finished cannot be resumed afterwards, and the chunks of its uncommitted units
    are collected as garbage.

    Parameters
    ----------
    repo : Repository
        Beside which it is kept.
    job_id : str
        Its name.

    Returns
    -------
    JobInfo
        The job as it was.

    Raises
    ------
    NotFoundError
        Kind ``key-not-found``; there is no such job.
    """
    shelf = Shelf(repo.storage)
    record = run(shelf.record(job_id))
    info = _info(repo, record)
    run(shelf.update(job_id, _removed))
    run(shelf.remove(job_id))
    return info


def _removed(record: ShelfRecord) -> ShelfRecord:
    return replace(record, expires_at_us=0, facts={**record.facts, "state": JobState.REMOVED.value})


def _info(repo: Repository, record: ShelfRecord) -> JobInfo:
    facts = record.facts
    names = run(Shelf(repo.storage).names(record.shelf_id))
    commits = tuple(map(JobCommit.from_facts, facts["commits"]))
    return JobInfo(
        job_id=record.shelf_id,
        state=JobState(facts["state"]),
        branch=facts["branch"],
        group="/" + (facts["group"] or "").strip("/"),
        source=facts["source"],
        created_at=_EPOCH + timedelta(microseconds=record.created_at_us),
        updated_at=_EPOCH + timedelta(microseconds=record.updated_at_us),
        units=facts["units"],
        kept=sum(name.startswith(UNIT_PREFIX) for name in names),
        committed=len(units_of(commits)),
        commits=commits,
        error=facts["error"],
        proof=facts["proof"],
    )


def units_of(commits: tuple[JobCommit, ...] | list[JobCommit]) -> AbstractSet[int]:
    """Return the units that commits hold together."""
    return frozenset[int]().union(*(commit.units for commit in commits))
