"""What commits touched together: never clear where the rules find a conflict."""

from __future__ import annotations

import random

import numpy as np
import pytest

from icechunk.core.changes import ChangeSet
from icechunk.core.conflicts import Comparison, ConflictDetector, solve
from icechunk.core.touched import Touched
from icechunk.format.chunk_table import ChunkTable
from icechunk.format.node_table import NodeTable
from icechunk.format.transaction_log import MoveOperation, TransactionLog
from icechunk.ids import NodeId, new_object_id

NODES = [NodeId(bytes([n] * 8)) for n in range(4)]
SETS = (
    "new_arrays", "deleted_arrays", "updated_arrays", "new_groups", "deleted_groups",
    "updated_groups",
)  # fmt: skip


def coords(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(rows, np.uint32)


def chunks_only(edits: dict[NodeId, np.ndarray]) -> ChangeSet:
    changes = ChangeSet()
    for node_id, rows in edits.items():
        changes.edits(node_id, rows.shape[1]).extend(ChunkTable.deleted(rows))
    return changes


def drawn_log(random_: random.Random) -> TransactionLog:
    rows = {
        node: coords(*{(random_.randrange(40), random_.randrange(3)) for _ in range(3)})
        for node in NODES
        if random_.random() < 0.3
    }
    sets = {name: frozenset(node for node in NODES if random_.random() < 0.01) for name in SETS}
    return TransactionLog(id=new_object_id(), updated_chunks=rows, **sets)


@pytest.mark.parametrize("seed", range(40))
def test_what_is_clear_has_no_conflict_and_what_is_not_has_one(seed: int) -> None:
    random_ = random.Random(seed)
    logs = [drawn_log(random_) for _ in range(random_.randrange(12))]
    touched = Touched()
    for log in logs:
        touched.add(log)
    none = NodeTable.of()
    for _ in range(60):
        ours = chunks_only(
            {NODES[random_.randrange(4)]: coords((random_.randrange(40), random_.randrange(3)))}
        )
        conflicts = [
            conflict
            for log in logs
            for conflict in solve(Comparison(log, none, ours, none), ConflictDetector())[1]
        ]
        if touched.is_clear_of(ours):
            assert not conflicts
        else:
            (node,) = ours.chunks
            assert conflicts or any(log.touches({node}) for log in logs)


def test_moves_and_other_ranks_are_never_clear() -> None:
    node = NODES[0]
    ours = chunks_only({node: coords((1,))})
    touched = Touched()
    assert touched.is_clear_of(ours)
    for rows in (coords((5, 1)), coords((5,))):
        touched.add(TransactionLog(id=new_object_id(), updated_chunks={node: rows}))
        assert not touched.is_clear_of(ours)
    moved = Touched()
    move = MoveOperation.__new__(MoveOperation)
    moved.add(TransactionLog(id=new_object_id(), moved_nodes=(move,)))
    assert not moved.is_clear_of(ours)


def test_changes_of_metadata_are_never_clear() -> None:
    changes = chunks_only({NODES[0]: coords((1,))})
    changes.updated[NODES[0]] = None  # type: ignore[assignment]
    assert not Touched().is_clear_of(changes)
