"""Proving that a job is complete: every chunk that was to be written is there.

What is expected comes from the layout: the chunks that a unit's region covers. A unit's change set
must have a row for each of them, a reference, or the note that zarr dropped the chunk because it
holds the fill value only (``write_empty_chunks=False``). The committed snapshot must have the same.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import dask
import numpy as np
import zarr

from icechunk._io.limits import gather_limited
from icechunk._io.loop import run
from icechunk.assets.manager import chunk_key
from icechunk.dask.checksums import BlockChecksum, checksum_of
from icechunk.errors import ErrorKind, InternalError, StorageError
from icechunk.format.chunk_table import ChunkKind, ChunkTable, merged
from icechunk.ids import NodeId, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from icechunk.core.changes import ChangeSet
    from icechunk.dask.store import BlockWrite
    from icechunk.repository import Repository
    from icechunk.session import ForkSession, Session

_HEADS_AT_ONCE: Final = 64
_BLOCKS_IN_A_SAMPLE: Final = 100
_SHOWN: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayPart:
    """What a unit wrote of one array.

    Parameters
    ----------
    path : str
        Of the array.
    node_id : NodeId
        Likewise.
    box : tuple of (int, int)
        The chunks that it covers: along each axis the first, and the one after the last.
    chunks : int
        Chunks that were stored.
    fill : int
        Chunks that hold the fill value only and were dropped.
    size_bytes, stored_bytes : int
        Uncompressed and stored size.
    """

    path: str
    node_id: NodeId
    box: tuple[tuple[int, int], ...]
    chunks: int
    fill: int
    size_bytes: int
    stored_bytes: int

    @property
    def expected(self) -> int:
        """How many chunks it covers."""
        return math.prod(stop - start for start, stop in self.box)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> ArrayPart:
        """Return the part of ``asdict``."""
        given = dict(facts)
        given["node_id"] = NodeId(given["node_id"])
        given["box"] = tuple((start, stop) for start, stop in given["box"])
        return cls(**given)


def part_of(
    fork: ForkSession, write: BlockWrite, box: Sequence[tuple[int, int]], unit_id: str
) -> ArrayPart:
    """Return what a unit's fork has of one array, and check that it is all of it.

    Raises
    ------
    InternalError
        A chunk of the region has no row, or there is one outside.
    """
    path = f"/{write.target.path}"
    node = fork.checkout.base.nodes.get(path)
    assert node is not None, "it was written to"
    table = fork.checkout.changes.chunk_table(node.id, len(box))
    fill = int((table.kind == ChunkKind.DELETED).sum())
    part = ArrayPart(
        path=path,
        node_id=node.id,
        box=tuple(box),
        chunks=len(table) - fill,
        fill=fill,
        size_bytes=int(write.source.nbytes),
        stored_bytes=int(table.length.sum()),
    )
    inside = table.within(np.array(box, np.uint32).reshape(len(box), 2))
    if len(table) != part.expected or not inside.all():
        raise InternalError(
            f"{unit_id} was to write {part.expected} chunks of {path}, and wrote "
            f"{int(inside.sum())} of them and {int((~inside).sum())} others. Nothing of it is "
            "committed; please report this."
        )
    return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """What was found when a job was checked against the snapshot of its last commit.

    Parameters
    ----------
    snapshot_id : str
        The snapshot that was looked at.
    expected : int
        Chunks that the job was to write, the arrays' small coordinates not counted.
    present : int
        Chunks whose reference is in the snapshot, as the job wrote it.
    fill : int
        Chunks that hold the fill value only, and are not stored for that reason.
    replaced : int
        Chunks that somebody else has written again since.
    missing : int
        Chunks that are not accounted for.
    objects_checked : int
        Chunk objects that were looked up in storage.
    blocks_read_back : int
        Blocks that were read again and had the checksum of what was written.
    """

    snapshot_id: str
    expected: int
    present: int
    fill: int
    replaced: int = 0
    missing: int = 0
    objects_checked: int = 0
    blocks_read_back: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is accounted for."""
        accounted = self.present + self.fill + self.replaced
        return not self.missing and accounted == self.expected

    def to_dict(self) -> dict[str, Any]:
        """Return the proof as plain values that JSON can hold."""
        return asdict(self) | {"is_complete": self.is_complete}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Proof:
        """Return the proof of `to_dict`."""
        return cls(**{name: facts[name] for name in cls.__slots__})


def prove(
    session: Session, parts: Iterable[ArrayPart], changes: Iterable[ChangeSet], layout_total: int
) -> Proof:
    """Hold what the units wrote against a snapshot.

    Parameters
    ----------
    session : Session
        On the snapshot.
    parts : iterable of ArrayPart
        What the units were to write.
    changes : iterable of ChangeSet
        What they wrote.
    layout_total : int
        Chunks that the whole of the job covers, by its layout and not by its units.

    Returns
    -------
    Proof
        Complete or not.
    """
    paths = {part.node_id: part.path for part in parts}
    tables: dict[NodeId, list[ChunkTable]] = {}
    for unit in changes:
        for node_id, edits in unit.chunks.items():
            tables.setdefault(node_id, []).append(edits.table())
    present = fill = replaced = missing = 0
    for node_id in paths:
        wrote = merged(tables.get(node_id, [])) if tables.get(node_id) else None
        if wrote is None:
            continue
        same, differs = run(_compare(session, node_id, wrote))
        dropped = wrote.kind == ChunkKind.DELETED
        fill += int((dropped & ~differs).sum())
        present += int((same & ~dropped).sum())
        replaced += int(differs.sum())
        missing += int((~dropped & ~same & ~differs).sum())
    found = present + fill + replaced + missing
    return Proof(
        snapshot_id=session.snapshot_id,
        expected=layout_total,
        present=present,
        fill=fill,
        replaced=replaced,
        missing=missing + max(layout_total - found, 0),
    )


async def _compare(session: Session, node_id: NodeId, wrote: ChunkTable) -> tuple[Any, Any]:
    """Return which rows the snapshot has as they were written, and which it has otherwise."""
    checkout = session.checkout
    await checkout.ready()
    same = np.zeros(len(wrote), np.bool_)
    differs = np.zeros(len(wrote), np.bool_)
    node = checkout.base.nodes.by_id(node_id)
    if node is None:
        return same, differs
    async for table in checkout.chunk_tables(node):
        rows = table.find_many(wrote.coords)
        here = np.flatnonzero(rows >= 0)
        mine, theirs = wrote.take(here), table.take(rows[here])
        equal = (
            (mine.kind == theirs.kind)
            & (mine.chunk_id == theirs.chunk_id).all(axis=1)
            & (mine.offset == theirs.offset)
            & (mine.length == theirs.length)
        )
        same[here[equal]] = True
        differs[here[~equal]] = True
    return same, differs


def lost_chunks(repo: Repository, changes: Iterable[ChangeSet]) -> tuple[int, list[str]]:
    """Look up the chunk objects that change sets refer to.

    Returns
    -------
    int
        How many chunks were looked up.
    list of str
        Keys of the objects that are gone, or end before a chunk that should be in them.

    Notes
    -----
    Cost: one request for each object.
    """
    chunks = 0
    ends: dict[bytes, int] = {}
    for table in (edits.table() for unit in changes for edits in unit.chunks.values()):
        native = table.kind == ChunkKind.NATIVE
        chunks += int(native.sum())
        stops = (table.offset[native] + table.length[native]).tolist()
        for row, stop in zip(table.chunk_id[native], stops, strict=True):
            chunk_id = row.tobytes()
            ends[chunk_id] = max(stop, ends.get(chunk_id, 0))
    storage = repo.state.assets.storage

    async def is_whole(key: str, size_bytes: int) -> bool:
        try:
            return (await storage.head(key)).size_bytes >= size_bytes
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
            return False

    keys = [chunk_key(ObjectId(chunk_id)) for chunk_id in ends]
    whole = run(gather_limited(_HEADS_AT_ONCE, map(is_whole, keys, ends.values())))
    return chunks, [key for key, found in zip(keys, whole, strict=True) if not found]


def read_back(
    session: Session,
    checksums: Sequence[BlockChecksum],
    compute_kwargs: Mapping[str, Any],
    *,
    sample: bool,
) -> int:
    """Read blocks again and compare their checksums with those of what was written.

    Parameters
    ----------
    session : Session
        Read-only, on the snapshot.
    checksums : sequence of BlockChecksum
        Of all blocks.
    compute_kwargs : mapping
        Passed to ``dask.compute``.
    sample : bool
        Only a hundred of them, drawn at random.

    Returns
    -------
    int
        How many blocks were read.

    Raises
    ------
    StorageError
        Kind ``storage-other``; values differ, and the message names array and regions.
    """
    chosen = list(checksums)
    if sample and len(chosen) > _BLOCKS_IN_A_SAMPLE:
        chosen = random.sample(chosen, _BLOCKS_IN_A_SAMPLE)  # no secret
    tasks = [dask.delayed(_is_same)(session, block) for block in chosen]
    results = dask.compute(*tasks, **compute_kwargs)
    wrong = [block for block, same in zip(chosen, results, strict=True) if not same]
    if wrong:
        shown = ", ".join(f"{b.path}[{b.region_text()}]" for b in wrong[:_SHOWN])
        raise StorageError(
            f"{len(wrong)} of {len(chosen)} blocks read back differ from what was written: "
            f"{shown}.",
            ErrorKind.STORAGE_OTHER,
        )
    return len(chosen)


def _is_same(session: Session, block: BlockChecksum) -> bool:
    array = zarr.open_array(session.store, path=block.path, mode="r")
    return checksum_of(array[block.region()], array.dtype) == block.checksum
