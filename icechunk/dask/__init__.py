"""Writing dask arrays in parallel: store, plan, ingestion jobs, and merge helpers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from icechunk.dask.commit_queue import ClusterCommitQueue
from icechunk.dask.pending import PendingWrite, WriteReceipt
from icechunk.dask.plan import AlignmentProblem, VariablePlan, WritePlan
from icechunk.dask.planner import plan_write
from icechunk.dask.reduce import (
    SimpleGraph,
    computing_meta,
    merge_sessions_array_kwargs,
    session_merge_reduction,
)
from icechunk.dask.store import store_dask
from icechunk.distributed import extract_session, merge_sessions
from icechunk.report import IngestReport
from icechunk.session import ForkSession

if TYPE_CHECKING:
    from icechunk.dask.counters import ClusterCounts, WorkerCounts, WriteCounters
    from icechunk.dask.ingest import (
        CommitEvery,
        Files,
        Ingest,
        JobInfo,
        JobSummary,
        list_jobs,
        remove_job,
        show_job,
    )

__all__ = [
    "AlignmentProblem",
    "ClusterCommitQueue",
    "ClusterCounts",
    "CommitEvery",
    "Files",
    "ForkSession",
    "Ingest",
    "IngestReport",
    "JobInfo",
    "JobSummary",
    "PendingWrite",
    "SimpleGraph",
    "VariablePlan",
    "WorkerCounts",
    "WriteCounters",
    "WritePlan",
    "WriteReceipt",
    "computing_meta",
    "extract_session",
    "list_jobs",
    "merge_sessions",
    "merge_sessions_array_kwargs",
    "plan_write",
    "remove_job",
    "session_merge_reduction",
    "show_job",
    "store_dask",
]


# What needs distributed is in a module of its own, which is loaded when it is asked for.
_COUNTERS: Final = ("ClusterCounts", "WorkerCounts", "WriteCounters")


def __getattr__(name: str) -> Any:
    """Load jobs when they are asked for: they need xarray, which workers mostly do not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "icechunk.dask.counters" if name in _COUNTERS else "icechunk.dask.ingest"
    return getattr(importlib.import_module(module), name)
