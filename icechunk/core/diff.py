"""What changed between two snapshots, or in a session, by path.

Source: Icechunk specification, section "Diff".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from icechunk._display import Plain, Shown, shown_html
from icechunk.format.chunk_table import sorted_unique

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from icechunk._typing import U32Array
    from icechunk.format.snapshot import NodeTable
    from icechunk.format.transaction_log import TransactionLog
    from icechunk.ids import NodeId

_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Diff:
    """Paths of what was created, deleted, changed and moved.

    Parameters
    ----------
    new_groups, new_arrays : set of str
        Created.
    deleted_groups, deleted_arrays : set of str
        Deleted.
    updated_groups, updated_arrays : set of str
        Whose ``zarr.json`` changed.
    updated_chunks : dict of str to list of list of int
        Coordinates set or deleted, sorted, by array; those of all arrays that were at the path.
    moved_nodes : list of tuple of (str, str)
        Paths before and after, newest commit first.
    """

    new_groups: set[str] = field(default_factory=set)
    new_arrays: set[str] = field(default_factory=set)
    deleted_groups: set[str] = field(default_factory=set)
    deleted_arrays: set[str] = field(default_factory=set)
    updated_groups: set[str] = field(default_factory=set)
    updated_arrays: set[str] = field(default_factory=set)
    updated_chunks: dict[str, list[list[int]]] = field(default_factory=dict)
    moved_nodes: list[tuple[str, str]] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Say whether nothing changed."""
        return not any(getattr(self, name) for name in self.__slots__)

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _repr_html_(self) -> str:
        fields = [Shown(name=n, value=Plain(getattr(self, n))) for n in self.__slots__]
        return shown_html("icechunk.Diff", fields)

    def _lines(self) -> Iterator[str]:
        titles = {
            "new_groups": "Groups created",
            "new_arrays": "Arrays created",
            "updated_groups": "Group definitions updated",
            "updated_arrays": "Array definitions updated",
            "deleted_groups": "Groups deleted",
            "deleted_arrays": "Arrays deleted",
        }
        for name, title in titles.items():
            paths = sorted(getattr(self, name))
            if paths:
                yield f"{title}:"
                yield from (f"    {path}" for path in paths)
                yield ""
        if self.updated_chunks:
            yield "Chunks updated:"
        for path, chunks in sorted(self.updated_chunks.items()):
            yield f"    {path}:"
            yield from (f"        {chunk}" for chunk in chunks[:_SHOWN])
            if len(chunks) > _SHOWN:
                yield f"        ... {len(chunks) - _SHOWN} more"
        if self.moved_nodes:
            yield "Nodes moved/renamed:"
            yield from (f"    {before} -> {after}" for before, after in self.moved_nodes)
            yield ""


def diff_of(logs: Sequence[TransactionLog], newer: NodeTable, older: NodeTable) -> Diff:
    """Unite transaction logs and name their nodes.

    Parameters
    ----------
    logs : sequence of TransactionLog
        Newest first.
    newer, older : NodeTable
        Nodes of the last and of the first snapshot; a node in neither came and went in between.
    """

    def path_of(node_id: NodeId) -> str | None:
        node = newer.by_id(node_id) or older.by_id(node_id)
        return None if node is None else node.path

    def paths(ids: Iterable[frozenset[NodeId]]) -> set[str]:
        found = (path_of(node_id) for node_id in frozenset().union(*ids))
        return {path for path in found if path is not None}

    return Diff(
        new_groups=paths(log.new_groups for log in logs),
        new_arrays=paths(log.new_arrays for log in logs),
        deleted_groups=paths(log.deleted_groups for log in logs),
        deleted_arrays=paths(log.deleted_arrays for log in logs),
        updated_groups=paths(log.updated_groups for log in logs),
        updated_arrays=paths(log.updated_arrays for log in logs),
        updated_chunks=_chunks_by_path(logs, path_of),
        moved_nodes=[(move.from_path, move.to_path) for log in logs for move in log.moved_nodes],
    )


def _chunks_by_path(
    logs: Sequence[TransactionLog], path_of: Callable[[NodeId], str | None]
) -> dict[str, list[list[int]]]:
    columns: dict[str, list[U32Array]] = {}
    for log in logs:
        for node_id, coords in log.updated_chunks.items():
            path = path_of(node_id)
            if path is not None:
                columns.setdefault(path, []).append(coords)
    return {path: _united(parts) for path, parts in sorted(columns.items())}


def _united(parts: Iterable[U32Array]) -> list[list[int]]:
    """Return all coordinates, sorted; of several ranks when one array took another's place.

    An array of which a rebase dropped all changes is in a log without any coordinate.
    """
    by_rank: dict[int, list[U32Array]] = {}
    for coords in parts:
        if len(coords):
            by_rank.setdefault(coords.shape[1], []).append(coords)
    each = [sorted_unique(np.concatenate(same)).tolist() for same in by_rank.values()]
    return each[0] if len(each) == 1 else sorted(coord for coords in each for coord in coords)
