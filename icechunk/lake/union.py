"""The changes of everybody who joined a session, as one change set.

Pure. Each joiner's changes are relative to the same base, and may build on what others had done
when they joined: chunks in an array that somebody else created. So nodes are united before
documents, and these before chunks, whoever made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.core.changes import ChangeSet
from icechunk.core.merge import ChunkPolicy, merge_changes
from icechunk.format.snapshot import NodeKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk.format.snapshot import NodeTable
    from icechunk.ids import NodeId


def united_changes(
    parts: Sequence[ChangeSet],
    checked_on: NodeTable | None,
    policy: ChunkPolicy = ChunkPolicy.ERROR,
) -> ChangeSet:
    """Return what several joiners did, together.

    Parameters
    ----------
    parts : sequence of ChangeSet
        One of each joiner; not modified.
    checked_on : NodeTable or None
        The nodes of the snapshot they started from, to name what does not go together. None looks
        for nothing: the last one wins, as is good enough to look at a session.
    policy : ChunkPolicy
        What to do with a chunk that two of them wrote; with ``last`` the later part's stays.

    Raises
    ------
    SessionStateError
        Kind ``merge-failed``; two of them wrote the same chunk, or touched the same group or array
        in ways that do not go together. The message names them.
    """
    united = ChangeSet()

    def path_of(node_id: NodeId) -> str | None:
        node = None if checked_on is None else checked_on.by_id(node_id)
        if node is None:
            node = next((n for n in united.new_nodes.values() if n.id == node_id), None)
        return None if node is None else node.path

    known = None if checked_on is None else path_of
    distinct = _without_groups_made_alike(parts)
    for layer in zip(*map(_layers, distinct), strict=True):
        for changes in layer:
            merge_changes(united, changes, path_of=known, policy=policy)
    return united


def _layers(part: ChangeSet) -> tuple[ChangeSet, ...]:
    """Return a change set in layers, in the order they are to be merged."""
    return (
        ChangeSet(new_nodes=part.new_nodes),
        ChangeSet(updated=part.updated),
        ChangeSet(deleted=part.deleted),
        ChangeSet(chunks=part.chunks),
    )


def _without_groups_made_alike(parts: Sequence[ChangeSet]) -> list[ChangeSet]:
    """Return change sets in which a group that several created with one document is created once.

    Opening a store with ``mode="a"`` creates the groups above what is written, so two joiners who
    never touch the same array still create the same parents.
    """
    seen: dict[str, bytes] = {}
    result = []
    for part in parts:
        kept = {}
        for path, node in part.new_nodes.items():
            if node.kind is NodeKind.GROUP and seen.get(path) == node.user_data:
                continue
            if node.kind is NodeKind.GROUP:
                seen.setdefault(path, node.user_data)
            kept[path] = node
        result.append(
            ChangeSet(kept, dict(part.updated), dict(part.deleted), dict(part.chunks), part.moves)
        )
    return result
