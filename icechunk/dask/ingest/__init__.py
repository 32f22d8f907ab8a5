"""Ingestion jobs: writing large sources in units that survive any process."""

from icechunk.dask.ingest.job import Ingest
from icechunk.dask.ingest.jobs import (
    JobCommit,
    JobInfo,
    JobState,
    list_jobs,
    recorded_paths,
    remove_job,
    show_job,
)
from icechunk.dask.ingest.proof import Proof
from icechunk.dask.ingest.sources import Files
from icechunk.dask.ingest.summary import JobSummary
from icechunk.dask.ingest.units import CommitEvery

__all__ = [
    "CommitEvery",
    "Files",
    "Ingest",
    "JobCommit",
    "JobInfo",
    "JobState",
    "JobSummary",
    "Proof",
    "list_jobs",
    "recorded_paths",
    "remove_job",
    "show_job",
]
