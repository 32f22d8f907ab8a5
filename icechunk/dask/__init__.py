"""Writing dask arrays in parallel: store, plan, and merge helpers."""

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
from icechunk.session import ForkSession

__all__ = [
    "AlignmentProblem",
    "ForkSession",
    "PendingWrite",
    "SimpleGraph",
    "VariablePlan",
    "WritePlan",
    "WriteReceipt",
    "computing_meta",
    "extract_session",
    "merge_sessions",
    "merge_sessions_array_kwargs",
    "plan_write",
    "session_merge_reduction",
    "store_dask",
]
