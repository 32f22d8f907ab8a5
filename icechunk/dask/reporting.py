"""From change sets to the report of a write."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.events import NOTHING, Amount
from icechunk.ids import id_text
from icechunk.report import ArrayReport, IngestReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from icechunk.distributed import ChunkChanges
    from icechunk.format.chunk_table import ChunkTable
    from icechunk.session import Session


def session_amounts(session: Session) -> dict[str, Amount]:
    """Return what a session's uncommitted changes hold, by array path: chunks and stored bytes."""
    checkout = session.checkout
    paths = {node.id: node.path for node in checkout.changes.new_nodes.values()}
    amounts = {}
    for node_id, edits in checkout.changes.chunks.items():
        node = checkout.base.nodes.by_id(node_id)
        path = paths.get(node_id) or (id_text(node_id) if node is None else node.path)
        amounts[path] = _amount([edits.table()])
    return amounts


def change_amounts(changes: ChunkChanges) -> dict[str, Amount]:
    """Return what the changes of tasks hold, by array path: chunks and stored bytes."""
    return {array.path: _amount(array.tables) for array in changes.arrays}


def report_of(
    job_id: str,
    amounts: Mapping[str, Amount],
    sizes: Mapping[str, int],
    *,
    tasks: int,
    seconds: float,
) -> IngestReport:
    """Return the report of one write.

    Parameters
    ----------
    job_id : str
        Names the write.
    amounts : mapping of str to Amount
        Chunks and stored bytes, by array path.
    sizes : mapping of str to int
        Uncompressed bytes that were handed to zarr, by array path.
    tasks : int
        Tasks that wrote.
    seconds : float
        How long it took.

    Returns
    -------
    IngestReport
        A row for each array of either.
    """
    rows = []
    for path in sorted({*amounts, *sizes}):
        amount = amounts.get(path, NOTHING)
        rows.append(
            ArrayReport(
                path=path,
                chunks=amount.chunks,
                size_bytes=sizes.get(path, 0),
                stored_bytes=amount.stored_bytes,
            )
        )
    return IngestReport(job_id=job_id, arrays=tuple(rows), tasks=tasks, seconds=seconds)


def _amount(tables: Iterable[ChunkTable]) -> Amount:
    counts = [(len(table), int(table.length.sum())) for table in tables]
    return Amount(
        chunks=sum(chunks for chunks, _ in counts), stored_bytes=sum(size for _, size in counts)
    )
