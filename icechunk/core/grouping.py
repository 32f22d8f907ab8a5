"""Which change sets may go into one commit together.

Source: Icechunk specification, sections "Conflicts and rebase" and "Fork and merge". A group is
what its members would have come to one after the other, in their order, none of them rebased by a
solver. Who would need one waits for the next group, and meets the conflict as everybody does: with
a commit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.core.changes import ChangeSet
from icechunk.core.commit import next_nodes, transaction_log_of
from icechunk.core.conflicts import Comparison, find_conflicts
from icechunk.core.merge import ChunkPolicy, merge_changes
from icechunk.errors import SessionStateError
from icechunk.ids import OBJECT_ID_BYTES, NodeId, ObjectId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk.format.snapshot import NodeTable

_NOT_YET: Final = ObjectId(bytes(OBJECT_ID_BYTES))
"""Stands for the snapshot that the group will be."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Change sets that go into one commit.

    Parameters
    ----------
    members : tuple of int
        Which of the candidates; never empty if there was one.
    changes : ChangeSet
        All their changes.
    postponed : tuple of int
        The others, in their order.
    """

    members: tuple[int, ...]
    changes: ChangeSet
    postponed: tuple[int, ...]


def plan_group(base: NodeTable, candidates: Sequence[ChangeSet]) -> Group:
    """Choose the change sets that go into the next commit.

    Parameters
    ----------
    base : NodeTable
        Nodes of the branch's tip.
    candidates : sequence of ChangeSet
        First come, first served; each goes with the tip. They stay as they are.

    Returns
    -------
    Group
        The first candidate is always a member. One that touches a node that a postponed one before
        it touched is postponed as well, so that nobody is overtaken.

    Raises
    ------
    SessionStateError
        Kind ``merge-failed``; the first candidate does not go with the tip.

    Notes
    -----
    Cost: O(n log n) for n chunks altogether; nodes are arranged anew for each candidate that
    creates or deletes some.
    """
    together = ChangeSet()
    members: list[int] = []
    postponed: list[int] = []
    blocked: set[NodeId | str] = set()
    for which, candidate in enumerate(candidates):
        if blocked.isdisjoint(touched := _touched(candidate)) and _joins(base, together, candidate):
            members.append(which)
        else:
            postponed.append(which)
            blocked |= touched
    return Group(members=tuple(members), changes=together, postponed=tuple(postponed))


def _touched(changes: ChangeSet) -> set[NodeId | str]:
    return {*changes.new_nodes, *changes.updated, *changes.deleted, *changes.chunks}


def _joins(base: NodeTable, together: ChangeSet, candidate: ChangeSet) -> bool:
    """Add a candidate to the group, or say that it cannot be."""
    first = together.is_empty()
    if not first and _conflicts(base, together, candidate):
        return False

    def path_of(node_id: NodeId) -> str | None:
        node = base.by_id(node_id)
        if node is None:
            new = together.new_nodes.values()
            node = next((n for n in new if n.id == node_id), None)
        return None if node is None else node.path

    try:
        merge_changes(together, candidate, path_of=path_of, policy=ChunkPolicy.ERROR)
    except SessionStateError:
        if first:
            raise
        return False
    return True


def _conflicts(base: NodeTable, together: ChangeSet, candidate: ChangeSet) -> bool:
    # Chunks are compared by the merge, which looks at them without putting them in one table.
    log = replace(
        transaction_log_of(_NOT_YET, base, replace(together, chunks={})),
        updated_chunks={
            node_id: np.zeros((0, edits.ndim), np.uint32)
            for node_id, edits in together.chunks.items()
        },
    )
    looks = bool(candidate.new_nodes or candidate.deleted)
    theirs = next_nodes(base, together, {}) if looks else base
    return bool(find_conflicts(Comparison(log, theirs, candidate, base)))
