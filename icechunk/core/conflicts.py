"""Conflict rules, and the solvers that decide about them.

Source: Icechunk specification, section "Conflicts and rebase". The rules compare one transaction
log of somebody else's commit ("theirs") with the session's change set ("ours").
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from icechunk._display import Plain, Shown, shown_html
from icechunk._earlier.spelling import with_other_spellings
from icechunk.core.moves import path_in_the_way
from icechunk.format.chunk_table import ChunkTable, sorted_unique
from icechunk.format.snapshot import NodeKind
from icechunk.paths import NodePath, parent_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from icechunk._typing import U32Array
    from icechunk.core.changes import ChangeSet
    from icechunk.format.snapshot import NodeTable
    from icechunk.format.transaction_log import TransactionLog
    from icechunk.ids import NodeId


@with_other_spellings()
class VersionSelection(IntEnum):
    """Whose version of a chunk both sides changed is kept."""

    Fail = 0
    UseOurs = 1
    UseTheirs = 2

    def __repr__(self) -> str:
        return f"VersionSelection.{self.name}"

    __str__ = __repr__


@with_other_spellings(
    UserAttributesDoubleUpdate="ZarrMetadataDoubleUpdate",
    UserAttributesUpdateOfDeletedNode="ZarrMetadataUpdateOfDeletedArray",
)
class ConflictType(IntEnum):
    """What conflicts; the numbers are those of the specification."""

    NewNodeConflictsWithExistingNode = 1
    NewNodeInInvalidGroup = 2
    ZarrMetadataDoubleUpdate = 3
    ZarrMetadataUpdateOfDeletedArray = 4
    ZarrMetadataUpdateOfDeletedGroup = 5
    ChunkDoubleUpdate = 6
    ChunksUpdatedInDeletedArray = 7
    ChunksUpdatedInUpdatedArray = 8
    DeleteOfUpdatedArray = 9
    DeleteOfUpdatedGroup = 10
    MoveOperationCannotBeRebased = 11

    def __repr__(self) -> str:
        return f"ConflictType.{self.name}"

    def __str__(self) -> str:
        return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).capitalize()


_MEANING = {
    ConflictType.NewNodeConflictsWithExistingNode: "both sides created a node here",
    ConflictType.NewNodeInInvalidGroup: "a node was created below what is now an array",
    ConflictType.ZarrMetadataDoubleUpdate: "both sides changed its metadata",
    ConflictType.ZarrMetadataUpdateOfDeletedArray: "its metadata was changed here, "
    "the array was deleted there",
    ConflictType.ZarrMetadataUpdateOfDeletedGroup: "its metadata was changed here, "
    "the group was deleted there",
    ConflictType.ChunkDoubleUpdate: "both sides wrote the same chunks",
    ConflictType.ChunksUpdatedInDeletedArray: "chunks were written here, "
    "the array was deleted there",
    ConflictType.ChunksUpdatedInUpdatedArray: "chunks were written here, "
    "the array's metadata was changed there",
    ConflictType.DeleteOfUpdatedArray: "the array was deleted here and changed there",
    ConflictType.DeleteOfUpdatedGroup: "the group was deleted here and changed there",
    ConflictType.MoveOperationCannotBeRebased: "nodes were moved, and what the other side did "
    "does not go with it",
}

_CHUNKS_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Conflict:
    """One thing both sides touched in ways that do not go together.

    Parameters
    ----------
    conflict_type : ConflictType
        What conflicts.
    path : str
        Path of the group or array; empty when the other commit moves nodes.
    conflicted_chunks : list of list of int, or None
        Coordinates of the chunks both sides changed; None where chunks are not the matter.
    """

    conflict_type: ConflictType
    path: str
    conflicted_chunks: list[list[int]] | None = None

    def __hash__(self) -> int:
        return hash((self.conflict_type, self.path))

    def _repr_html_(self) -> str:
        fields = [Shown(name=n, value=Plain(getattr(self, n))) for n in self.__slots__]
        return shown_html("icechunk.conflicts.Conflict", fields)

    def __str__(self) -> str:
        text = f"{self.conflict_type.name} at {self.path or '(the whole repository)'}"
        text += f": {_MEANING[self.conflict_type]}"
        if self.conflicted_chunks:
            shown = ", ".join(map(str, self.conflicted_chunks[:_CHUNKS_SHOWN]))
            more = len(self.conflicted_chunks) - _CHUNKS_SHOWN
            text += f", chunks {shown}" + (f" and {more} more" if more > 0 else "")
        return text


class ConflictSolver:
    """Base of the solvers: what to do about each conflict of a rebase."""

    def resolves(self, conflict: Conflict) -> bool:
        """Say whether this solver has an answer to a conflict."""
        raise NotImplementedError(f"{type(self).__name__} must say what it resolves: {conflict}")

    @property
    def drops_our_chunks(self) -> bool:
        """Whether the answer to a chunk both sides wrote is to keep theirs."""
        return False

    @property
    def attributes_kept(self) -> VersionSelection:
        """Whose attributes stay where both sides changed nothing but those of a node."""
        return VersionSelection.Fail


@dataclass(frozen=True, slots=True)
class ConflictDetector(ConflictSolver):
    """Resolve nothing: every conflict fails the rebase and is reported.

    Examples
    --------
    >>> session.rebase(icechunk.ConflictDetector())
    """

    def resolves(self, conflict: Conflict) -> bool:  # noqa: ARG002
        """Say no."""
        return False


@dataclass(frozen=True, slots=True)
class BasicConflictSolver(ConflictSolver):
    """Resolve double writes of chunks and deletions of changed nodes.

    Parameters
    ----------
    on_chunk_conflict : VersionSelection
        Whose chunk stays where both sides wrote it.
    fail_on_delete_of_updated_array : bool
        Fail when the session deleted an array that the other side changed; else it stays deleted.
    fail_on_delete_of_updated_group : bool
        The same for groups.
    on_user_attributes_conflict : VersionSelection
        Whose attributes stay where both sides changed the attributes of a node, and nothing else
        of its metadata.

    Raises
    ------
    TypeError
        An option of another type, such as the name of a version.

    Examples
    --------
    >>> solver = icechunk.BasicConflictSolver(
    ...     on_chunk_conflict=icechunk.VersionSelection.UseTheirs
    ... )
    >>> session.rebase(solver)
    """

    on_chunk_conflict: VersionSelection = VersionSelection.UseOurs
    fail_on_delete_of_updated_array: bool = False
    fail_on_delete_of_updated_group: bool = False
    on_user_attributes_conflict: VersionSelection = VersionSelection.Fail

    def __post_init__(self) -> None:
        for field in fields(self):
            wanted = type(field.default)
            value = getattr(self, field.name)
            if not isinstance(value, wanted):
                raise TypeError(f"{field.name} must be a {wanted.__name__}, not {value!r}")

    def resolves(self, conflict: Conflict) -> bool:
        """Say whether the options above answer this conflict."""
        match conflict.conflict_type:
            case ConflictType.ChunkDoubleUpdate:
                return self.on_chunk_conflict != VersionSelection.Fail
            case ConflictType.DeleteOfUpdatedArray:
                return not self.fail_on_delete_of_updated_array
            case ConflictType.DeleteOfUpdatedGroup:
                return not self.fail_on_delete_of_updated_group
            case _:
                return False

    @property
    def drops_our_chunks(self) -> bool:
        """Whether the answer to a chunk both sides wrote is to keep theirs."""
        return self.on_chunk_conflict == VersionSelection.UseTheirs

    @property
    def attributes_kept(self) -> VersionSelection:
        """Whose attributes stay where both sides changed nothing but those of a node."""
        return self.on_user_attributes_conflict


def checked_solver(solver: object) -> ConflictSolver:
    """Return a solver; TypeError when it is none, before it is needed."""
    if not isinstance(solver, ConflictSolver):
        raise TypeError(f"expected a ConflictSolver, such as BasicConflictSolver(), not {solver!r}")
    return solver


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What the conflict rules look at.

    Parameters
    ----------
    log : TransactionLog
        What their commit changed.
    theirs : NodeTable
        All nodes as of their commit.
    ours : ChangeSet
        What the session changed.
    base : NodeTable
        All nodes as of the session's base.
    """

    log: TransactionLog
    theirs: NodeTable
    ours: ChangeSet
    base: NodeTable

    def path_of(self, node_id: NodeId) -> str:
        """Return the path of a node of the base, as the session sees it."""
        node = self.base.by_id(node_id) or self.theirs.by_id(node_id)
        return node.path if node is not None else ""

    def our_chunks(self) -> Iterator[tuple[NodeId, U32Array]]:
        """Yield base arrays with the coordinates the session changed; new arrays are not shared."""
        new = {node.id for node in self.ours.new_nodes.values()}
        for node_id, edits in self.ours.chunks.items():
            if node_id not in new:
                yield node_id, edits.table().coords

    def their_chunks(self, node_id: NodeId) -> U32Array | None:
        """Return the coordinates their commit changed of a node."""
        return self.log.updated_chunks.get(node_id)


def find_conflicts(comparison: Comparison) -> list[Conflict]:
    """Apply the rules of the specification, in their order, and report every conflict."""
    if comparison.log.moved_nodes:
        return [Conflict(ConflictType.MoveOperationCannotBeRebased, "")]
    return [conflict for rule in _RULES for conflict in rule(comparison)]


def solve(comparison: Comparison, solver: ConflictSolver) -> tuple[ChangeSet, list[Conflict]]:
    """Return our changes as the solver leaves them, or the conflicts it cannot resolve.

    Returns
    -------
    ChangeSet
        Ours; the same object when nothing had to change.
    list of Conflict
        Empty when all is resolved; else **all** conflicts of the log, and nothing was resolved.
    """
    conflicts = find_conflicts(comparison)
    if solver.attributes_kept is VersionSelection.Fail:
        attributes = {}
    else:
        attributes = _attributes_only(comparison)
    settled = {(ConflictType.ZarrMetadataDoubleUpdate, path) for path in attributes.values()}
    if not all((c.conflict_type, c.path) in settled or solver.resolves(c) for c in conflicts):
        return comparison.ours, conflicts
    ours = comparison.ours
    doubles = [c for c in conflicts if c.conflict_type is ConflictType.ChunkDoubleUpdate]
    if doubles and solver.drops_our_chunks:
        ours = _without_double_chunks(comparison)
    if attributes and solver.attributes_kept is VersionSelection.UseTheirs:
        ours = ours.copy()
        for node_id in attributes:
            del ours.updated[node_id]
    return ours, []


def _attributes_only(comparison: Comparison) -> dict[NodeId, str]:
    """Return the nodes, with their paths, whose metadata differs in nothing but attributes."""
    found = {}
    for node_id, document in comparison.ours.updated.items():
        theirs = comparison.theirs.by_id(node_id)
        if theirs is not None and _but_attributes(document.user_data) == _but_attributes(
            theirs.user_data
        ):
            found[node_id] = comparison.path_of(node_id)
    return found


def _but_attributes(document: bytes) -> dict[str, Any]:
    return {key: value for key, value in json.loads(document).items() if key != "attributes"}


def _without_double_chunks(comparison: Comparison) -> ChangeSet:
    from_theirs = comparison.ours.copy()
    for node_id, coords in comparison.our_chunks():
        theirs = comparison.their_chunks(node_id)
        if theirs is None or not len(_common(coords, theirs)):
            continue
        edits = from_theirs.chunks[node_id]
        table = edits.table()
        ours_only = ChunkTable.deleted(theirs).find_many(table.coords) < 0
        kept = type(edits)(edits.ndim)
        kept.extend(table.take(ours_only))
        from_theirs.chunks[node_id] = kept
    return from_theirs


def _common(ours: U32Array, theirs: U32Array) -> U32Array:
    if not len(ours) or not len(theirs) or ours.shape[1] != theirs.shape[1]:
        return np.zeros((0, ours.shape[1]), np.uint32)
    return ours[ChunkTable.deleted(sorted_unique(theirs)).find_many(ours) >= 0]


def _new_node_exists(c: Comparison) -> Iterator[Conflict]:
    # Not a conflict where the session replaced that very node. The reference asks only whether
    # it deleted something at the path, and commits two nodes at one path when both sides did.
    for path in sorted(c.ours.new_nodes):
        node = c.theirs.get(path)
        if node is not None and node.id not in c.ours.deleted:
            yield Conflict(ConflictType.NewNodeConflictsWithExistingNode, path)


def _new_node_below_array(c: Comparison) -> Iterator[Conflict]:
    for path in sorted(c.ours.new_nodes):
        ancestor = parent_of(path)
        while ancestor is not None:
            node = c.theirs.get(ancestor)
            if node is not None and node.kind is NodeKind.ARRAY:
                yield Conflict(ConflictType.NewNodeInInvalidGroup, ancestor)
            ancestor = parent_of(ancestor)


def _metadata_rule(
    conflict_type: ConflictType,
    kind: NodeKind,
    theirs: Callable[[TransactionLog], frozenset[NodeId]],
) -> Callable[[Comparison], Iterator[Conflict]]:
    def rule(c: Comparison) -> Iterator[Conflict]:
        hit = [n for n, d in c.ours.updated.items() if d.kind is kind and n in theirs(c.log)]
        yield from (Conflict(conflict_type, c.path_of(node_id)) for node_id in sorted(hit))

    return rule


def _chunks_rule(
    conflict_type: ConflictType, theirs: Callable[[TransactionLog], frozenset[NodeId]]
) -> Callable[[Comparison], Iterator[Conflict]]:
    def rule(c: Comparison) -> Iterator[Conflict]:
        hit = [node_id for node_id, _ in c.our_chunks() if node_id in theirs(c.log)]
        yield from (Conflict(conflict_type, c.path_of(node_id)) for node_id in sorted(hit))

    return rule


def _chunks_written_twice(c: Comparison) -> Iterator[Conflict]:
    for node_id, coords in sorted(c.our_chunks(), key=lambda pair: pair[0]):
        theirs = c.their_chunks(node_id)
        if theirs is not None and len(common := _common(coords, theirs)):
            yield Conflict(ConflictType.ChunkDoubleUpdate, c.path_of(node_id), common.tolist())


def _deleted_array_changed(c: Comparison) -> Iterator[Conflict]:
    for path in _deleted_paths(c, NodeKind.ARRAY):
        node = c.theirs.get(path)
        if node is not None and (
            node.id in c.log.updated_arrays or node.id in c.log.updated_chunks
        ):
            yield Conflict(ConflictType.DeleteOfUpdatedArray, path)


def _deleted_group_changed(c: Comparison) -> Iterator[Conflict]:
    for path in _deleted_paths(c, NodeKind.GROUP):
        node = c.theirs.get(path)
        if node is not None and node.id in c.log.updated_groups:
            yield Conflict(ConflictType.DeleteOfUpdatedGroup, path)


def _deleted_paths(c: Comparison, kind: NodeKind) -> list[NodePath]:
    return sorted(node.path for node in c.ours.deleted.values() if node.kind is kind)


def _move_without_its_place(c: Comparison) -> Iterator[Conflict]:
    # The reference drops what they created at our destination, and fails later, or never, where
    # the node that we moved or the group that we moved it to is gone.
    if c.ours.moves:
        path = path_in_the_way(c.theirs, c.ours.moves)
        if path is not None:
            yield Conflict(ConflictType.MoveOperationCannotBeRebased, path)


_RULES: tuple[Callable[[Comparison], Iterator[Conflict]], ...] = (
    _new_node_exists,
    _new_node_below_array,
    _metadata_rule(
        ConflictType.ZarrMetadataDoubleUpdate, NodeKind.ARRAY, lambda log: log.updated_arrays
    ),
    _metadata_rule(
        ConflictType.ZarrMetadataDoubleUpdate, NodeKind.GROUP, lambda log: log.updated_groups
    ),
    _metadata_rule(
        ConflictType.ZarrMetadataUpdateOfDeletedArray,
        NodeKind.ARRAY,
        lambda log: log.deleted_arrays,
    ),
    _metadata_rule(
        ConflictType.ZarrMetadataUpdateOfDeletedGroup,
        NodeKind.GROUP,
        lambda log: log.deleted_groups,
    ),
    _chunks_rule(ConflictType.ChunksUpdatedInDeletedArray, lambda log: log.deleted_arrays),
    _chunks_rule(ConflictType.ChunksUpdatedInUpdatedArray, lambda log: log.updated_arrays),
    _chunks_written_twice,
    _deleted_array_changed,
    _deleted_group_changed,
    _move_without_its_place,
)
