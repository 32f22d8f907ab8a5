"""What many commits did together, to see at once that changes have nothing to do with any of them.

Whoever brings changes onto a newer commit holds them against each log in between. Where many small
changes come from one old base, that grows with the square of their number; this does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icechunk.format.chunk_table import ChunkTable, sorted_unique

if TYPE_CHECKING:
    from icechunk._typing import U32Array
    from icechunk.core.changes import ChangeSet
    from icechunk.format.transaction_log import TransactionLog
    from icechunk.ids import NodeId


class Touched:
    """Nodes and chunks that a run of commits changed, in any order."""

    __slots__ = ("_chunks", "_moved", "_nodes")

    def __init__(self) -> None:
        self._nodes: set[NodeId] = set()
        # By array a few runs, each at least twice as long as the next: adding is cheap, and so is
        # looking up.
        self._chunks: dict[NodeId, list[U32Array]] = {}
        self._moved = False

    def add(self, log: TransactionLog) -> None:
        """Take in one more commit."""
        self._moved |= bool(log.moved_nodes)
        self._nodes |= log.touched_nodes()
        for node_id, coords in log.updated_chunks.items():
            runs = self._chunks.setdefault(node_id, [])
            runs.append(sorted_unique(coords))
            while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
                last = runs.pop()
                if runs[-1].shape[1] != last.shape[1]:  # it was made anew with another rank
                    self._nodes.add(node_id)
                    continue
                runs[-1] = sorted_unique(np.concatenate([runs[-1], last]))

    def is_clear_of(self, changes: ChangeSet) -> bool:
        """Say whether changes are chunks only, and none of what was touched.

        Then the rules find no conflict with any of the commits, whatever the solver. False says
        nothing.
        """
        if self._moved or changes.new_nodes or changes.deleted or changes.moves or changes.updated:
            return False
        return all(
            node_id not in self._nodes and self._is_free(node_id, edits.table().coords)
            for node_id, edits in changes.chunks.items()
        )

    def _is_free(self, node_id: NodeId, coords: U32Array) -> bool:
        return all(
            run.shape[1] == coords.shape[1]
            and bool((ChunkTable.deleted(run).find_many(coords) < 0).all())
            for run in self._chunks.get(node_id, ())
        )
