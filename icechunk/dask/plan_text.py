"""How a write plan looks: its rows as a table for text and for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icechunk._tables import TextTable
from icechunk._units import bytes_text, count_text

if TYPE_CHECKING:
    from icechunk.dask.plan import VariablePlan, WritePlan

_COLUMNS: Final = (
    "variable",
    "shape",
    "dtype",
    "zarr chunk",
    "zarr chunks",
    "dask blocks",
    "tasks",
    "bytes",
    "largest block",
    "requests",
    "manifests",
)
_LEFT_ALIGNED: Final = 4


def plan_table(plan: WritePlan) -> TextTable:
    """Return a plan as a table, its problems below."""
    return TextTable(
        title=f"Write plan for group {plan.group}",
        columns=_COLUMNS,
        rows=tuple(map(_cells, plan.variables)),
        total=_total(plan),
        left=_LEFT_ALIGNED,
        notes=(
            (
                f"to storage: {count_text(plan.requests, 'request')}, of which "
                f"{plan.commit_requests} to commit; {bytes_text(plan.upload_bytes)} of chunks "
                f"before compression, about {bytes_text(plan.manifest_bytes)} of manifests"
            ),
            f"from tasks to the client: about {bytes_text(plan.wire_bytes)} of change sets",
        ),
        warnings=tuple(map(str, plan.problems)),
    )


def _cells(row: VariablePlan) -> tuple[str, ...]:
    chunk = "auto" if row.zarr_chunk_shape is None else " x ".join(map(str, row.zarr_chunk_shape))
    return (
        row.name,
        " x ".join(map(str, row.shape)) or "scalar",
        row.dtype,
        chunk or "scalar",
        "auto" if row.zarr_chunks is None else str(row.zarr_chunks),
        str(row.dask_blocks) if row.dask_blocks else "in memory",
        str(row.tasks),
        bytes_text(row.size_bytes),
        bytes_text(row.largest_block_bytes),
        str(row.requests),
        bytes_text(row.manifest_bytes),
    )


def _total(plan: WritePlan) -> tuple[str, ...]:
    return (
        "total",
        "",
        "",
        "",
        str(plan.zarr_chunks),
        str(plan.dask_blocks),
        f"{plan.write_tasks} + {plan.merge_tasks} merges",
        bytes_text(plan.size_bytes),
        bytes_text(plan.largest_block_bytes),
        str(plan.requests),
        bytes_text(plan.manifest_bytes),
    )
