"""A base snapshot with changes on top: what a session reads and writes.

Source: Icechunk specification, sections "Manifests: reading a chunk" and "Node changes in a
session". A checkout knows nodes and chunk references; the zarr store above it knows keys.
"""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, cast

from icechunk._earlier.spelling import with_other_spellings
from icechunk._io.loop import run_either
from icechunk.assets.chunk_pack import ChunkPack
from icechunk.core.changes import ChangeSet
from icechunk.core.commit import updated_node
from icechunk.core.grid import check_coordinate, in_grid
from icechunk.core.moves import Arrangement, Move, arranged, with_move
from icechunk.core.nodes import parse_document
from icechunk.errors import (
    AlreadyExistsError,
    ErrorKind,
    InvalidInputError,
    NodeNotFoundError,
    ReadOnlyError,
    SessionStateError,
    StorageError,
)
from icechunk.format.chunk_table import (
    ChunkRef,
    ChunkTable,
    Coordinate,
    InlineRef,
    merged,
)
from icechunk.format.snapshot import NodeKind, NodeSnapshot
from icechunk.ids import NodeId, id_text, new_node_id
from icechunk.paths import NodePath, sorted_within

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.virtual import VirtualReader
    from icechunk.format.snapshot import ManifestRefs, NodeTable, Snapshot
    from icechunk.ids import ObjectId


@with_other_spellings()
class SessionMode(IntEnum):
    """What a session may do."""

    readonly = 0
    writable = 1
    rearrange = 2

    def __repr__(self) -> str:
        return f"SessionMode.{self.name}"

    __str__ = __repr__


@dataclass(frozen=True, slots=True, eq=False)
class Base:
    """What a checkout started from.

    Parameters
    ----------
    snapshot : Snapshot
        The committed snapshot.
    nodes : NodeTable
        Its nodes; in a fork as its parent session has them: moved, with those it created, without
        those it deleted.
    chunks : mapping of NodeId to ChunkTable
        In a fork, the chunk changes its parent session had; else empty.
    """

    snapshot: Snapshot
    nodes: NodeTable
    chunks: Mapping[NodeId, ChunkTable] = field(default_factory=dict)

    @classmethod
    def of(cls, snapshot: Snapshot) -> Base:
        """Return the base of a session on a snapshot."""
        return cls(snapshot, snapshot.nodes)

    @classmethod
    def with_inherited(cls, snapshot: Snapshot, inherited: ChangeSet) -> Base:
        """Return the base of a fork: a snapshot under the parent session's own changes."""
        nodes = arranged(snapshot.nodes, inherited.moves).nodes
        upserts = [
            updated_node(node, inherited)
            for node in (nodes.by_id(node_id) for node_id in inherited.updated)
            if node is not None
        ]
        upserts.extend(inherited.new_nodes.values())
        removed = [gone.path for gone in inherited.deleted.values()]
        chunks = {node: edits.table() for node, edits in inherited.chunks.items()}
        return cls(snapshot, nodes.edited(upserts, removed), chunks)


class Checkout:
    """Nodes and chunks of a base snapshot with uncommitted changes laid over.

    Parameters
    ----------
    assets : AssetManager
        Files of the repository.
    virtual : VirtualReader
        Reads chunks that live outside the repository.
    snapshot_id : ObjectId
        Snapshot the changes lie on.
    mode : SessionMode
        What may be done.
    base : Base, optional
        What the changes lie on, where it was read already.
    load : callable, optional
        Reads the base on first use, where it was not: a session that travels between processes
        is unpickled without I/O.
    changes : ChangeSet, optional
        Uncommitted changes; none by default.
    pack : ChunkPack, optional
        Where small chunks go: that of the session it is forked from, or one of its own.

    Notes
    -----
    Concurrency: chunks may be set and read from any number of threads and loops at once; each
    change is atomic.
    """

    def __init__(
        self,
        assets: AssetManager,
        virtual: VirtualReader,
        snapshot_id: ObjectId,
        mode: SessionMode,
        *,
        base: Base | None = None,
        load: Callable[[], Coroutine[Any, Any, Base]] | None = None,
        changes: ChangeSet | None = None,
        pack: ChunkPack | None = None,
    ) -> None:
        self.assets = assets
        self.virtual = virtual
        self.snapshot_id = snapshot_id
        self.mode = mode
        self.changes = ChangeSet() if changes is None else changes
        self.pack = ChunkPack() if pack is None else pack
        self.lock = threading.RLock()
        self._base = base
        self._load = load
        self._sealed = False
        # Chunks are mostly read one after the other out of one manifest. Whether it is kept is for
        # the cache to decide.
        self._latest_table: tuple[ManifestRefs | None, int, Callable[[], ChunkTable | None]]
        self._latest_table = (None, -1, _no_table)
        self._arranged: tuple[tuple[Move, ...], NodeTable, Arrangement] | None = None

    # -- state --------------------------------------------------------------------------------

    @property
    def base(self) -> Base:
        """What the changes lie on; read on first use, blocking."""
        if self._base is None and self._load is not None:
            self._base = run_either(self._load(), immediate=self.assets.storage.immediate)
        return cast("Base", self._base)

    @property
    def old_nodes(self) -> NodeTable:
        """The nodes of the base, at the paths the session moved them to."""
        return self._arrangement().nodes if self.changes.moves else self.base.nodes

    def _arrangement(self) -> Arrangement:
        """Return what the session's moves come to; kept until one is added or the base changes."""
        with self.lock:
            moves, base = self.changes.moves, self.base.nodes
            known = self._arranged
            if known is None or known[0] is not moves or known[1] is not base:
                known = self._arranged = (moves, base, arranged(base, moves))
            return known[2]

    async def ready(self) -> None:
        """Read the base now, if that has not happened yet."""
        if self._base is None and self._load is not None:
            self._base = await self._load()

    def require_writable(self) -> None:
        """Refuse a change where none is allowed.

        Raises
        ------
        ReadOnlyError
            Kind ``read-only-session``.
        SessionStateError
            Kind ``rearrange-session-only``, or ``not-allowed`` while a commit is under way.
        """
        if self._sealed:
            raise _commit_under_way()
        if self.mode is SessionMode.readonly:
            raise ReadOnlyError(
                "this session is read-only. Open one with repo.writable_session(branch); after a "
                "commit, open a new one.",
                ErrorKind.READ_ONLY_SESSION,
            )
        if self.mode is SessionMode.rearrange:
            raise SessionStateError(
                "this session only moves nodes. Open one with repo.writable_session(branch).",
                ErrorKind.REARRANGE_SESSION_ONLY,
            )

    def seal(self) -> None:
        """Refuse changes from now on: a commit takes them as they are.

        Without this a chunk that another thread sets during a commit would be in no snapshot.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; another commit is under way.
        """
        with self.lock:
            if self._sealed:
                raise _commit_under_way()
            self._sealed = True

    def unseal(self) -> None:
        """Take changes again, where the mode allows any."""
        with self.lock:
            self._sealed = False

    def rebased(self, snapshot: Snapshot, changes: ChangeSet) -> None:
        """Move to a newer base, with the changes a solver left."""
        with self.lock:
            self._base = Base.of(snapshot)
            self.snapshot_id = snapshot.id
            self.changes = changes

    def underlay(self, base: Base) -> None:
        """Lie on another base, with the changes as they are; whoever asks knows that they fit."""
        with self.lock:
            self._base = base
            self.snapshot_id = base.snapshot.id

    def committed(self, snapshot: Snapshot) -> None:
        """Become read-only on the snapshot that the changes made."""
        with self.lock:
            self._base = Base.of(snapshot)
            self.snapshot_id = snapshot.id
            self.changes = ChangeSet()
            self.mode = SessionMode.readonly

    # -- nodes --------------------------------------------------------------------------------

    def node(self, path: NodePath) -> NodeSnapshot | None:
        """Return the node at a path as the session sees it."""
        found = self.changes.new_nodes.get(path)
        if found is not None:
            return found
        node = self.old_nodes.get(path)
        if node is None or node.id in self.changes.deleted:
            return None
        return updated_node(node, self.changes)

    def require_node(self, path: NodePath) -> NodeSnapshot:
        """Return the node at a path.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``.
        """
        node = self.node(path)
        if node is None:
            raise NodeNotFoundError(
                f"no group or array at {path} in snapshot {id_text(self.snapshot_id)}.",
                ErrorKind.NODE_NOT_FOUND,
            )
        return node

    def require_array(self, path: NodePath) -> NodeSnapshot:
        """Return the array at a path.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``.
        InvalidInputError
            Kind ``not-an-array``; it is a group.
        """
        node = self.require_node(path)
        if node.kind is not NodeKind.ARRAY:
            raise InvalidInputError(f"{path} is a group, not an array.", ErrorKind.NOT_AN_ARRAY)
        return node

    def nodes(self) -> Iterator[NodeSnapshot]:
        """Yield every node: the base's in order, then the new ones by path."""
        with self.lock:
            new = [self.changes.new_nodes[path] for path in self.changes.sorted_new()]
        for node in self.old_nodes:
            if node.id not in self.changes.deleted:
                yield updated_node(node, self.changes)
        yield from new

    def paths(self) -> Iterator[NodePath]:
        """Yield the path of every node, in the order of `nodes`, without decoding them."""
        with self.lock:
            new = self.changes.sorted_new()
            gone = {node.path for node in self.changes.deleted.values()}
        yield from (NodePath(path) for path in self.old_nodes.paths if path not in gone)
        yield from new

    def paths_within(self, ancestor: NodePath) -> list[NodePath]:
        """Return the paths of a node and everything below it, whether or not it exists itself."""
        with self.lock:
            gone = {node.path for node in self.changes.deleted.values()}
            new = self.changes.paths_within(ancestor)
        old = sorted_within(self.old_nodes.paths, ancestor)
        return [NodePath(path) for path in old if path not in gone] + new

    def set_document(self, path: NodePath, data: bytes) -> None:
        """Create or update the node at a path from its ``zarr.json``.

        Raises
        ------
        InvalidInputError
            Kind ``bad-metadata``.
        AlreadyExistsError
            Kind ``node-already-exists``; the node there is of the other kind.
        """
        self.require_writable()
        document = parse_document(data, path, spec_version=self.assets.spec_version)
        with self.lock:
            self.require_writable()
            node = self.node(path)
            if node is not None and node.kind is not document.kind:
                raise AlreadyExistsError(
                    f"{path} is a{'n array' if node.kind is NodeKind.ARRAY else ' group'}; delete "
                    "it before creating another kind of node there.",
                    ErrorKind.NODE_ALREADY_EXISTS,
                )
            if node is not None and len(node.shape) != len(document.shape):
                # Chunks of another rank mean nothing any more: this is a new array.
                self.delete_node(path)
                node = None
            if node is None:
                self.changes.create(document.as_node(new_node_id(), path))
                return
            if node.user_data != document.user_data:
                base = path not in self.changes.new_nodes
                self.changes.set_document(node, document, base=base)

    def delete_node(self, path: NodePath) -> None:
        """Delete a node and everything below it; nothing there is no error."""
        with self.lock:
            self.require_writable()
            for below in self.paths_within(path):
                node = self.node(below)
                if node is not None:
                    self.changes.delete(node, base=below not in self.changes.new_nodes)

    def move_node(self, source: NodePath, target: NodePath) -> None:
        """Move a node and everything below it.

        Raises
        ------
        ReadOnlyError
            Kind ``read-only-session``.
        SessionStateError
            Kind ``non-rearrange-session``; and as `icechunk.core.moves.arranged`.
        NodeNotFoundError, AlreadyExistsError
            As `icechunk.core.moves.arranged`.
        """
        if self.mode is SessionMode.writable:
            raise SessionStateError(
                "this session moves no nodes. Open one that does with "
                "repo.rearrange_session(branch).",
                ErrorKind.NON_REARRANGE_SESSION,
            )
        if self.mode is SessionMode.readonly:
            self.require_writable()
        with self.lock:
            if self._sealed:
                raise _commit_under_way()
            move = Move(node_id=self.require_node(source).id, from_path=source, to_path=target)
            after = with_move(self._arrangement(), move)
            # Where everything is back in its place there is nothing to commit.
            self.changes.moves = (*self.changes.moves, move) if after.moved else ()
            self._arranged = (self.changes.moves, self.base.nodes, after)

    # -- chunks -------------------------------------------------------------------------------

    async def chunk_ref(self, node: NodeSnapshot, coord: Coordinate) -> ChunkRef | None:
        """Return the reference of a chunk, None when it is absent."""
        edits = self.changes.chunks.get(node.id)
        if edits is not None:
            with self.lock:
                changed, ref = edits.find(coord)
            if changed:
                return ref
        inherited = self.base.chunks.get(node.id)
        if inherited is not None and (row := inherited.find(coord)) >= 0:
            return inherited.ref(row)
        which = node.manifests.find(coord)
        if which < 0:
            return None
        manifests, latest, known = self._latest_table
        table = known() if manifests is node.manifests and latest == which else None
        if table is None:
            table = await _table_in_manifest(self.assets, node, which)
            self._latest_table = (node.manifests, which, weakref.ref(table))
        row = table.find(coord)
        return None if row < 0 else table.ref(row)

    async def chunk_tables(
        self, node: NodeSnapshot, batch_rows: int | None = None
    ) -> AsyncIterator[ChunkTable]:
        """Yield all references of an array, manifest by manifest, then the session's own.

        Each coordinate comes once, as the session sees it.
        """
        with self.lock:
            own = self.changes.chunk_table(node.id, len(node.shape))
        inherited = self.base.chunks.get(node.id)
        on_top = own if inherited is None else merged([inherited, own])
        for which in range(len(node.manifests.ids)):
            table = await _table_in_manifest(self.assets, node, which)
            if len(on_top):
                table = table.take(on_top.find_many(table.coords) < 0)
            for part in table.batches(batch_rows):
                yield part
        for part in on_top.without_deleted().batches(batch_rows):
            yield part

    async def write_chunk(
        self,
        path: NodePath,
        coord: Coordinate,
        data: bytes | memoryview,
        *,
        replace: bool = True,
    ) -> None:
        """Store a chunk: tiny ones in the change set, small ones in a pack, others as an object.

        Without ``replace`` a chunk that the session set meanwhile stays as it is.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``; no array at the path.
        InvalidInputError
            Kind ``not-an-array``, ``invalid-chunk-index`` or ``zero-length-chunk``.
        StorageError
            The object could not be written; nothing was recorded.
        """
        self.require_writable()
        node = self.require_array(path)
        length = len(data)
        if not length:
            raise InvalidInputError(
                f"chunk {coord} of {path} has no bytes; delete the chunk instead.",
                ErrorKind.ZERO_LENGTH_CHUNK,
            )
        check_coordinate(node, coord)
        ref: ChunkRef
        if length <= self.assets.config.inline_chunk_threshold_bytes:
            ref = InlineRef(bytes(data))
        else:
            try:
                ref = await self.assets.write_chunk(data, self.pack)
            except StorageError as e:
                e.add_note(f"while writing chunk {coord} of {path}")
                raise
        self._record(node, coord, ref, replace=replace)

    def set_refs(self, path: NodePath, table: ChunkTable) -> None:
        """Record many references at once; coordinates must lie in the chunk grid.

        Raises
        ------
        NodeNotFoundError, InvalidInputError
            As `write_chunk`.
        """
        self.require_writable()
        node = self.require_array(path)
        if not len(table):
            return
        check_coordinate(node, tuple(int(c) - 1 for c in table.extent()[:, 1]))
        with self.lock:
            self.require_writable()
            self.changes.edits(node.id, len(node.shape)).extend(table)

    async def delete_chunks(self, path: NodePath, within: tuple[int, ...]) -> None:
        """Delete the chunks whose coordinate starts with ``within``; none is no error.

        A whole coordinate is recorded as deleted without looking whether it had a chunk, so that
        a commit that relied on its absence conflicts with one that fills it.
        """
        self.require_writable()
        node = self.node(path)
        if node is None or node.kind is not NodeKind.ARRAY:
            return
        if len(within) == len(node.shape):
            if in_grid(node, within):
                self._record(node, within, None)
            return
        async for table in self.chunk_tables(node):
            rows = table.starting_with(within)
            if len(rows):
                with self.lock:
                    self.require_writable()
                    edits = self.changes.edits(node.id, table.ndim)
                    edits.extend(ChunkTable.deleted(table.coords[rows]))

    def _record(
        self, node: NodeSnapshot, coord: Coordinate, ref: ChunkRef | None, *, replace: bool = True
    ) -> None:
        with self.lock:
            # Both were checked before the bytes were written; a commit or a deletion may have come
            # in between.
            self.require_writable()
            if node.id in self.changes.deleted:
                self.require_array(NodePath(node.path))
            edits = self.changes.edits(node.id, len(node.shape))
            if replace or edits.find(coord)[1] is None:
                edits.set(coord, ref)


def _no_table() -> None:
    return None


async def _table_in_manifest(assets: AssetManager, node: NodeSnapshot, which: int) -> ChunkTable:
    """Return the references of a node in one of its manifests."""
    manifest = await assets.manifest(node.manifests.id_at(which))
    for node_id, table in manifest.arrays:
        if node_id == node.id:
            return table
    return ChunkTable.empty(len(node.shape))


def _commit_under_way() -> SessionStateError:
    return SessionStateError(
        "a commit of this session is under way, so it takes no changes. Wait for the commit, and "
        "write through a new session.",
        ErrorKind.NOT_ALLOWED,
    )
