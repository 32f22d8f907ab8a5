"""Merging the change sets of forks.

Source: Icechunk specification, section "Fork and merge". All checks come before the first change,
so a failed merge leaves the receiving change set as it was.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.core.changes import ChangeSet
from icechunk.core.spans import spans_text
from icechunk.errors import ErrorKind, InvalidInputError, SessionStateError
from icechunk.format.chunk_table import share_coordinates

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from icechunk._typing import U32Array
    from icechunk.core.changes import ChunkEdits
    from icechunk.format.chunk_table import ChunkTable
    from icechunk.ids import NodeId

_RANGES_SHOWN: Final = 6


class ChunkPolicy(StrEnum):
    """What a merge does with a chunk that both sides wrote."""

    LAST = "last"
    """The one merged last stays, silently: the official behaviour."""

    ERROR = "error"
    """The merge fails and names the array and the chunks."""

    @classmethod
    def _missing_(cls, value: object) -> ChunkPolicy:
        raise InvalidInputError(
            f"on_chunk_conflict={value!r} is none of {', '.join(cls)}.", ErrorKind.NOT_ALLOWED
        )


def merge_changes(
    into: ChangeSet,
    other: ChangeSet,
    *,
    path_of: Callable[[NodeId], str | None] | None = None,
    policy: ChunkPolicy = ChunkPolicy.LAST,
    known: ChangeSet | None = None,
) -> None:
    """Add the changes of one fork to a change set, in place.

    Parameters
    ----------
    into : ChangeSet
        Receives the changes.
    other : ChangeSet
        The fork's changes; not modified.
    path_of : callable, optional
        Path of a node that the receiving session knows, None for one it does not. Without it
        nothing is checked: the changes are known to go together.
    policy : ChunkPolicy
        What to do with chunks that both sides wrote.
    known : ChangeSet, optional
        What the fork started from; a chunk that is still the same in ``into`` was not written by
        both sides: the fork replaced it knowingly.

    Raises
    ------
    SessionStateError
        Kind ``merge-failed``; the message names the array or group and the chunks. Nothing was
        merged.
    """
    if path_of is not None:
        _check_nodes(into, other, path_of)
        _check_new_nodes(into, other, known or ChangeSet())
        if policy is ChunkPolicy.ERROR:
            _check_chunks(into, other, known or ChangeSet(), path_of)
    into.moves += other.moves
    created_here = {node.id: node for node in into.new_nodes.values()}
    for node in other.new_nodes.values():
        into.create(node)
    for node_id, document in other.updated.items():
        if node_id in created_here:
            into.set_document(created_here[node_id], document, base=False)
        else:
            into.updated[node_id] = document
    for node_id, gone in other.deleted.items():
        if node_id in created_here:
            into.delete(created_here[node_id], base=False)
        else:
            into.deleted[node_id] = gone
    for node_id, edits in other.chunks.items():
        own = into.edits(node_id, edits.ndim)
        for table in edits.tables():
            own.extend(table)


def chunks_are_apart(changes: Sequence[ChangeSet]) -> bool:
    """Say whether no chunk was set or deleted more than once.

    Notes
    -----
    Cost: one sort of 8 bytes a chunk, where coordinates have numbers as keys; so it is worth asking
    before the change sets are compared one by one.
    """
    tables: dict[NodeId, list[ChunkTable]] = {}
    for change in changes:
        for node_id, edits in change.chunks.items():
            tables.setdefault(node_id, []).extend(edits.tables())
    return not any(share_coordinates(parts) for parts in tables.values())


def _check_nodes(
    into: ChangeSet, other: ChangeSet, path_of: Callable[[NodeId], str | None]
) -> None:
    for path in sorted(other.new_nodes.keys() & into.new_nodes.keys()):
        raise _failed(f"both sides created a node at {path}. Create it before forking")
    for node_id in sorted(other.updated.keys() & into.updated.keys()):
        if other.updated[node_id].user_data != into.updated[node_id].user_data:
            raise _failed(f"both sides changed the metadata of {path_of(node_id)} differently")
    for changed, deleted in ((into, other), (other, into)):
        touched = changed.updated.keys() | changed.chunks.keys()
        for node_id in sorted(touched & deleted.deleted.keys()):
            raise _failed(f"one side changed {path_of(node_id)} and the other deleted it")
    brought = {node.id for node in other.new_nodes.values()}
    for node_id in sorted((other.updated.keys() | other.chunks.keys()) - brought):
        if path_of(node_id) is None:
            raise _failed("the fork changed a group or array that this session has deleted since")


def _check_new_nodes(into: ChangeSet, other: ChangeSet, known: ChangeSet) -> None:
    """Refuse to change or delete what was new when the fork was made, and was changed since."""
    touched = other.updated.keys() | other.deleted.keys()
    if not touched:
        return
    before = {node.id: node.user_data for node in known.new_nodes.values() if node.id in touched}
    for node in into.new_nodes.values():
        if node.user_data == before.get(node.id, node.user_data):
            continue
        if node.id in other.deleted:
            raise _failed(f"one side changed {node.path} and the other deleted it")
        if other.updated[node.id].user_data != node.user_data:
            raise _failed(f"both sides changed the metadata of {node.path} differently")


def _check_chunks(
    into: ChangeSet, other: ChangeSet, known: ChangeSet, path_of: Callable[[NodeId], str | None]
) -> None:
    for node_id in sorted(into.chunks.keys() & other.chunks.keys()):
        common = into.chunks[node_id].common(other.chunks[node_id].table())
        if len(common) and node_id in known.chunks:
            common = _written_since(common, into.chunks[node_id], known.chunks[node_id])
        if len(common):
            raise _failed(
                f"two forks wrote the same chunks of {path_of(node_id)}: "
                f"{spans_text(common, _RANGES_SHOWN)}. Each chunk must be written whole by one "
                "task; align the tasks with the chunk grid"
            )


def _written_since(coords: U32Array, now: ChunkEdits, before: ChunkEdits) -> U32Array:
    """Return those chunks that are not what the fork started from."""
    current, known = now.table(), before.table()
    rows, old = current.find_many(coords), known.find_many(coords)
    kept = old >= 0
    ours, theirs = current.take(rows[kept]).unpacked(), known.take(old[kept]).unpacked()
    same = (ours.chunk_id == theirs.chunk_id).all(axis=1)
    for name in ("kind", "offset", "length"):
        same &= getattr(ours, name) == getattr(theirs, name)
    payloads = zip(ours.payload.tolist(), theirs.payload.tolist(), strict=True)
    same &= np.fromiter((a == b for a, b in payloads), np.bool_, len(same))
    kept[kept] = same
    return coords[~kept]


def _failed(what: str) -> SessionStateError:
    return SessionStateError(f"merge failed: {what}.", ErrorKind.MERGE_FAILED)
