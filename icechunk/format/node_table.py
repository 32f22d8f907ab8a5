"""All nodes of a snapshot, decoded one at a time when asked for.

Source: Icechunk specification, sections "Snapshot (file type 1)" and "Paths".
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.format.fb.splice import Rows
from icechunk.format.fb.writer import Blob
from icechunk.format.node import (
    ARRAY_DATA,
    MANIFEST_REF,
    NODE,
    NodeKind,
    NodeSnapshot,
    has_bad_path,
    read_node,
)
from icechunk.format.node_encode import encode_nodes
from icechunk.ids import NODE_ID_BYTES, OBJECT_ID_BYTES, NodeId

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from icechunk._typing import AnyArray, U8Array
    from icechunk.format.fb.reader import TableVector
    from icechunk.format.fb.writer import Blobs


# Up to this many nodes are sooner decoded and encoded again than looked at in columns.
_FEW_NODES: Final = 32
# Up to this many are encoded one by one, so that they can be put beside any others.
_FEW_ADDED: Final = 8


class NodeTable:
    """Nodes sorted by path, immutable.

    Nodes stay encoded in the file they came from: an edit encodes the changed ones, and writing
    the table copies the others as bytes; only where they are few all are encoded again. Two nodes
    may have one path, as the reference can write that by mistake: lookups give the first, iteration
    both, an edit of the path replaces both.

    Parameters
    ----------
    rows : Rows
        Tables, in the order of their paths.
    paths : list of str
        Path of each, ascending.
    spec_version : int
        Which of the two encodings of shapes the tables have.

    Notes
    -----
    Concurrency: safe to share among threads; what is cached is computed equally by all.
    """

    __slots__ = ("_by_id", "_by_path", "_decoded", "_rows", "paths", "spec_version")

    def __init__(self, rows: Rows, paths: list[str], spec_version: int) -> None:
        self._rows = rows
        self.paths = paths
        self.spec_version = spec_version
        self._by_path: dict[str, int] | None = None
        self._by_id: dict[bytes, int] | None = None
        self._decoded: dict[int, NodeSnapshot] = {}

    @classmethod
    def of(cls, nodes: Iterable[NodeSnapshot] = (), *, spec_version: int = 2) -> NodeTable:
        """Return a table of nodes given in any order; raises as `edited`."""
        ordered = sorted(nodes, key=lambda node: node.path)
        table = cls(_encoded(ordered, spec_version), [node.path for node in ordered], spec_version)
        if len(ordered) <= _FEW_NODES:
            table._decoded.update(enumerate(ordered))
        return table

    @classmethod
    def from_column(cls, tables: TableVector, spec_version: int) -> NodeTable:
        """Return the nodes of a file.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; an id, path or document is absent, a path is no path.
        """
        tables.struct(0, "id", NODE_ID_BYTES)
        tables.bytes(2, "user_data")
        paths = tables.texts(1, "path")
        bad = has_bad_path(paths)
        if bad is not None:
            raise tables.buffer.error("NodeSnapshot.path", f"not a node path: {bad!r}")
        positions = tables.positions
        ordered = sorted(paths)
        if ordered != paths:
            order = sorted(range(len(paths)), key=paths.__getitem__)
            paths, positions = ordered, positions[np.array(order, np.int64)]
        return cls(Rows(tables.buffer, NODE, positions), paths, spec_version)

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[NodeSnapshot]:
        return (self._node(row) for row in range(len(self)))

    def __contains__(self, path: object) -> bool:
        return path in self._rows_by_path()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NodeTable):
            return NotImplemented
        return self.paths == other.paths and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<NodeTable of {len(self)} nodes>"

    def get(self, path: str) -> NodeSnapshot | None:
        """Return the node at a path, None when there is none.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; its table is damaged.
        """
        row = self._rows_by_path().get(path)
        return None if row is None else self._node(row)

    def by_id(self, node_id: NodeId) -> NodeSnapshot | None:
        """Return a node by its id, None when it is not here; raises as `get`."""
        if self._by_id is None and len(self) <= _FEW_NODES:
            self._by_id = {self._node(row).id: row for row in reversed(range(len(self)))}
        if self._by_id is None:
            ids = self._rows.column().struct(0, "id", NODE_ID_BYTES).tobytes()
            parts = [ids[i : i + NODE_ID_BYTES] for i in range(0, len(ids), NODE_ID_BYTES)]
            # Turned around, so that the first of equal ids stays.
            self._by_id = {part: row for row, part in reversed([*enumerate(parts)])}
        row = self._by_id.get(node_id)
        return None if row is None else self._node(row)

    def edited(self, upserts: Iterable[NodeSnapshot], removed_paths: Collection[str]) -> NodeTable:
        """Return the table with nodes removed, then others put in place or added.

        Parameters
        ----------
        upserts : iterable of NodeSnapshot
            Each replaces what is at its path; the last of several with one path counts.
        removed_paths : collection of str
            Paths to remove; unknown ones are ignored.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-path`` or ``bad-metadata``; a path or name that cannot be stored.
        """
        added = {node.path: node for node in upserts}
        gone = added.keys() | set(removed_paths)
        if not gone:
            return self
        drop = [
            row
            for path in gone
            for row in range(bisect_left(self.paths, path), len(self))
            if self.paths[row] == path
        ]
        # Version 1 stores chunk lengths, which a decoded node does not have.
        if len(self) + len(added) <= _FEW_NODES and self.spec_version > 1:
            kept = [self._node(row) for row in range(len(self)) if row not in set(drop)]
            return self.of((*kept, *added.values()), spec_version=self.spec_version)
        return self._edited(sorted(added.values(), key=lambda node: node.path), drop)

    def _edited(self, added: list[NodeSnapshot], drop: list[int]) -> NodeTable:
        rows = self._rows.joined(_to_add(added, self.spec_version))
        keep = np.ones(len(self), np.bool_)
        keep[drop] = False
        gone = set(drop)
        paths = [path for row, path in enumerate(self.paths) if row not in gone]
        places = np.array([bisect_left(paths, node.path) for node in added], np.int64)
        kept = np.flatnonzero(keep)
        order = np.insert(kept, places, np.arange(len(self), len(self) + len(added)))
        merged = sorted(paths + [node.path for node in added])
        return NodeTable(rows.take(order), merged, self.spec_version)

    def manifest_ids(self) -> U8Array:
        """Return the ids of all manifests that the arrays use, ascending; shape ``(m, 12)``.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; a table is damaged.
        """
        if len(self) <= _FEW_NODES:
            columns = [node.manifests.ids.tobytes() for node in self]
            keys = np.frombuffer(b"".join(columns), f"S{OBJECT_ID_BYTES}")
        else:
            keys = self._manifest_keys()
        return np.unique(keys).view(np.uint8).reshape(-1, OBJECT_ID_BYTES)

    def _manifest_keys(self) -> AnyArray:
        tables = self._rows.column()
        arrays = tables.take(tables.scalar(3, "node_data_type", "u1") == NodeKind.ARRAY)
        data = arrays.table(4, "node_data", ARRAY_DATA.name)
        refs, _ = data.tables(2, "manifests", MANIFEST_REF.name)
        ids = refs.struct(0, "object_id", OBJECT_ID_BYTES)
        keys: AnyArray = ids.reshape(-1).view(f"S{OBJECT_ID_BYTES}")
        return keys

    def converted(self, spec_version: int) -> NodeTable:
        """Return the same nodes with shapes encoded for a version of the format.

        Raises
        ------
        FormatError
            Kind ``unsupported-operation-for-version``; a grid that version 1 cannot describe.
        """
        if spec_version == self.spec_version:
            return self
        return NodeTable(_encoded(list(self), spec_version), self.paths, spec_version)

    def blobs(self) -> Blobs:
        """Return the encoded nodes as the value of a field; raises as `Rows.spliced`."""
        return self._rows.spliced().blobs()

    @property
    def size_bytes(self) -> int:
        """Memory of the encoded nodes, with all else in the file they came from; unit: bytes."""
        return self._rows.buffer.size + self._rows.positions.nbytes

    def _rows_by_path(self) -> dict[str, int]:
        if self._by_path is None:
            rows = range(len(self.paths) - 1, -1, -1)
            self._by_path = dict(zip(reversed(self.paths), rows, strict=True))
        return self._by_path

    def _node(self, row: int) -> NodeSnapshot:
        node = self._decoded.get(row)
        if node is None:
            node = self._decoded[row] = read_node(self._rows.table(row))
        return node


def _encoded(nodes: list[NodeSnapshot], spec_version: int) -> Rows:
    return Rows.of_cells(*encode_nodes(nodes, spec_version), NODE, "new snapshot")


def _to_add(nodes: list[NodeSnapshot], spec_version: int) -> Rows:
    if len(nodes) > _FEW_ADDED:
        return _encoded(nodes, spec_version)
    every = [encode_nodes([node], spec_version) for node in nodes]
    blobs = [Blob(one.data, int(one.positions[0])) for one in every]
    return Rows.of_blobs(blobs, NODE, "new snapshot")
