"""How a write plan looks as plain text and as HTML.

The command line has its own, richer table; this one needs no library.
"""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Final

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
)
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_LEFT_ALIGNED: Final = 4


def bytes_text(size_bytes: int) -> str:
    """Return a number of bytes in decimal units, three digits long."""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.4g} {_UNITS[-1]}"


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
    )


def text_table(plan: WritePlan) -> str:
    """Return a plan as an aligned plain-text table, its problems below."""
    rows = [_COLUMNS, *map(_cells, plan.variables), _total(plan)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i < _LEFT_ALIGNED else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    lines = [f"Write plan for group {plan.group}", *lines[:1], rule, *lines[1:-1], rule, lines[-1]]
    lines += [f"! {problem}" for problem in plan.problems]
    return "\n".join(lines)


def html_table(plan: WritePlan) -> str:
    """Return a plan as an HTML table, its problems below."""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    body = "".join(_html_row(_cells(row), "td") for row in plan.variables)
    foot = _html_row(_total(plan), "th")
    problems = "".join(f"<li>{html.escape(str(problem))}</li>" for problem in plan.problems)
    return (
        f"<table><caption>Write plan for group {html.escape(plan.group)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody><tfoot>{foot}</tfoot></table>"
        + (f"<ul>{problems}</ul>" if problems else "")
    )


def _html_row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
