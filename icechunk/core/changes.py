"""The change set: what a session did and has not committed.

Source: Icechunk specification, sections "Node changes in a session" and "Fork and merge". Nodes
are few and kept as values; chunk references are many and kept in columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icechunk.core.id_columns import id_column
from icechunk.format.chunk_table import (
    ChunkRef,
    ChunkTable,
    Coordinate,
    InlineRef,
    NativeRef,
    VirtualRef,
    merged,
)
from icechunk.paths import NodePath, sorted_within

if TYPE_CHECKING:
    from collections.abc import Collection

    from icechunk._typing import U32Array
    from icechunk.core.moves import Move
    from icechunk.core.nodes import NodeDocument
    from icechunk.format.snapshot import NodeKind, NodeSnapshot
    from icechunk.ids import NodeId

_RECENT_ROWS: Final = 4096
_FAN_IN: Final = 8
# Tables of together so many rows are joined as they come; larger ones when somebody looks.
_JOINED_AT_ONCE_ROWS: Final = 1 << 14


class ChunkEdits:
    """Chunks of one array set or deleted in a session, newest wins.

    A log-structured table: the latest few thousand rows are in a dictionary, everything older in
    sorted columns, which are joined as they grow. So setting a chunk costs about a microsecond
    and a million of them are still a handful of arrays. Large tables are taken as they are, and
    joined when somebody looks for a chunk: what forks bring back is never copied by merging it.

    Parameters
    ----------
    ndim : int
        Number of dimensions of the array.
    """

    __slots__ = ("_recent", "_sealed", "ndim")

    def __init__(self, ndim: int) -> None:
        self.ndim = ndim
        self._recent: dict[Coordinate, ChunkRef | None] = {}
        self._sealed: list[ChunkTable] = []

    def set(self, coord: Coordinate, ref: ChunkRef | None) -> None:
        """Record one chunk; None deletes it."""
        self._recent[coord] = ref
        if len(self._recent) >= _RECENT_ROWS:
            self._seal()

    def extend(self, table: ChunkTable) -> None:
        """Record many chunks at once, newer than all before."""
        self._seal()
        self._push(table, _JOINED_AT_ONCE_ROWS)

    def tables(self) -> tuple[ChunkTable, ...]:
        """Return all changes as they are; rows of later tables replace those of earlier ones."""
        self._seal()
        return tuple(self._sealed)

    def rows(self) -> int:
        """Return how many changes there are, those that were replaced included."""
        return len(self._recent) + sum(map(len, self._sealed))

    def find(self, coord: Coordinate) -> tuple[bool, ChunkRef | None]:
        """Return whether a coordinate was changed, and to what."""
        if coord in self._recent:
            return True, self._recent[coord]
        self._settle()
        for table in reversed(self._sealed):
            row = table.find(coord)
            if row >= 0:
                return True, table.ref(row)
        return False, None

    def common(self, table: ChunkTable) -> U32Array:
        """Return the coordinates of a table that were changed here, too; shape ``(k, ndim)``."""
        self._seal()
        self._settle()
        found = np.zeros(len(table), np.bool_)
        for part in self._sealed:
            found |= part.indexed().find_many(table.coords) >= 0
        return table.coords[found]

    def table(self) -> ChunkTable:
        """Return all changes as one table, deletions included."""
        self._seal()
        if len(self._sealed) > 1:
            self._sealed = [merged(self._sealed)]
        return self._sealed[0] if self._sealed else ChunkTable.empty(self.ndim)

    def copy(self) -> ChunkEdits:
        """Return edits that can go their own way; the columns are shared."""
        twin = ChunkEdits(self.ndim)
        table = self.table()
        twin._sealed = [table] if len(table) else []
        return twin

    def _seal(self) -> None:
        if self._recent:
            recent, self._recent = self._recent, {}
            self._push(table_of(recent, self.ndim), _JOINED_AT_ONCE_ROWS)

    def _settle(self) -> None:
        """Join tables until there are few to look into."""
        if len(self._sealed) >= _FAN_IN:
            tables, self._sealed = self._sealed, []
            total = sum(map(len, tables))
            for table in tables:
                self._push(table, total)

    def _push(self, table: ChunkTable, most_rows: int) -> None:
        """Put a table on top; join no more rows than given."""
        if not len(table):
            return
        sealed = self._sealed
        sealed.append(table)
        # So many tables of like size become one, so there are only logarithmically many, and a
        # row is copied only so often.
        while (
            len(sealed) >= _FAN_IN
            and len(sealed[-_FAN_IN]) <= 2 * len(sealed[-1])
            and sum(map(len, sealed[-_FAN_IN:])) <= most_rows
        ):
            sealed[-_FAN_IN:] = [merged(sealed[-_FAN_IN:])]


def table_of(rows: dict[Coordinate, ChunkRef | None], ndim: int) -> ChunkTable:
    """Return rows as a table, each kind built in one go."""
    kinds = set(map(type, rows.values()))
    if len(kinds) == 1:  # as nearly always
        return _table_of_kind(kinds.pop(), rows, ndim)
    tables = [
        _table_of_kind(kind, {c: ref for c, ref in rows.items() if type(ref) is kind}, ndim)
        for kind in kinds
    ]
    return merged([ChunkTable.empty(ndim), *tables])


def _table_of_kind(
    kind: type[ChunkRef | None], rows: dict[Coordinate, Any], ndim: int
) -> ChunkTable:
    """Return rows of one kind, at least one, as a table."""
    if kind is NativeRef:
        ids, offsets, lengths = zip(*rows.values(), strict=True)
        return ChunkTable.native(
            _coords(rows, ndim),
            id_column(ids),
            np.fromiter(lengths, np.uint64, len(rows)),
            np.fromiter(offsets, np.uint64, len(rows)) if any(offsets) else None,
        )
    if kind is InlineRef:
        return ChunkTable.inline(_coords(rows, ndim), [ref.data for ref in rows.values()])
    if kind is VirtualRef:
        return merged([ChunkTable.one(coord, ref) for coord, ref in rows.items()])
    return ChunkTable.deleted(_coords(rows, ndim))


def _coords(coords: Collection[Coordinate], ndim: int) -> U32Array:
    numbers = np.fromiter(chain.from_iterable(coords), np.uint32, len(coords) * ndim)
    return numbers.reshape(len(coords), ndim)


@dataclass(frozen=True, slots=True)
class DeletedNode:
    """A node of the base that the session deleted."""

    path: NodePath
    kind: NodeKind


@dataclass(slots=True, eq=False)
class ChangeSet:
    """Everything a session changed.

    Parameters
    ----------
    new_nodes : dict of NodePath to NodeSnapshot
        Nodes created here and still there; they have ids, documents and no manifests.
    updated : dict of NodeId to NodeDocument
        New documents of nodes of the base.
    deleted : dict of NodeId to DeletedNode
        Nodes of the base that are gone.
    chunks : dict of NodeId to ChunkEdits
        Chunks set or deleted, of nodes of either kind.
    moves : tuple of Move
        Nodes of the base that were moved, in the order it was done; a session either moves nodes
        or does the rest.
    """

    new_nodes: dict[NodePath, NodeSnapshot] = field(default_factory=dict)
    updated: dict[NodeId, NodeDocument] = field(default_factory=dict)
    deleted: dict[NodeId, DeletedNode] = field(default_factory=dict)
    chunks: dict[NodeId, ChunkEdits] = field(default_factory=dict)
    moves: tuple[Move, ...] = ()
    _sorted_new: list[NodePath] | None = field(default=None, repr=False)

    def is_empty(self) -> bool:
        """Say whether nothing was changed."""
        return not (self.new_nodes or self.updated or self.deleted or self.chunks or self.moves)

    def copy(self) -> ChangeSet:
        """Return a change set that can go its own way."""
        return ChangeSet(
            dict(self.new_nodes),
            dict(self.updated),
            dict(self.deleted),
            {node: edits.copy() for node, edits in self.chunks.items()},
            self.moves,
        )

    def set_document(self, node: NodeSnapshot, document: NodeDocument, *, base: bool) -> None:
        """Record a new document of an existing node; ``base`` says it is one of the base's."""
        if base:
            self.updated[node.id] = document
        else:
            path = NodePath(node.path)
            self.new_nodes[path] = document.as_node(node.id, path)

    def create(self, node: NodeSnapshot) -> None:
        """Record a new node."""
        self.new_nodes[NodePath(node.path)] = node
        self._sorted_new = None

    def delete(self, node: NodeSnapshot, *, base: bool) -> None:
        """Record that a node is gone, with its chunks."""
        self.chunks.pop(node.id, None)
        if base:
            self.updated.pop(node.id, None)
            self.deleted[node.id] = DeletedNode(NodePath(node.path), node.kind)
        else:
            del self.new_nodes[NodePath(node.path)]
            self._sorted_new = None

    def edits(self, node_id: NodeId, ndim: int) -> ChunkEdits:
        """Return the chunk edits of a node, made on first use."""
        found = self.chunks.get(node_id)
        if found is None:
            found = self.chunks[node_id] = ChunkEdits(ndim)
        return found

    def chunk_table(self, node_id: NodeId, ndim: int) -> ChunkTable:
        """Return the chunk changes of a node, deletions included."""
        found = self.chunks.get(node_id)
        return ChunkTable.empty(ndim) if found is None else found.table()

    def sorted_new(self) -> list[NodePath]:
        """Return the paths of the new nodes in order."""
        if self._sorted_new is None:
            self._sorted_new = sorted(self.new_nodes)
        return self._sorted_new

    def paths_within(self, ancestor: NodePath) -> list[NodePath]:
        """Return the paths of the new nodes at or below a path, in order."""
        if not self.new_nodes:
            return []
        return [NodePath(path) for path in sorted_within(self.sorted_new(), ancestor)]

    def chunk_rows(self) -> int:
        """Return how many chunks were set or deleted at most, without looking which."""
        return sum(edits.rows() for edits in self.chunks.values())

    def chunk_count(self) -> int:
        """Return how many chunks were set or deleted."""
        return sum(len(edits.table()) for edits in self.chunks.values())
