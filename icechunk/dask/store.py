"""Storing dask arrays in zarr arrays of a session, one task per block."""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import dask
import dask.array as da
from dask.base import flatten
from dask.highlevelgraph import HighLevelGraph

from icechunk.core.merge import ChunkPolicy
from icechunk.dask import _compat
from icechunk.dask.grid import aligned_sizes, shares_chunks, sizes_text, suggested_chunks
from icechunk.dask.pending import Landing, PendingWrite, finish_write
from icechunk.dask.reduce import checked_split_every, merge_layer
from icechunk.dask.tasks import BlockTarget, WriteJob, merge_results, write_block
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.events import NOTHING, Amount
from icechunk.session import ForkSession
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr

    from icechunk.progress import ProgressOption
    from icechunk.session import Session

# Parameters of dask.array.store that make no sense here: there is nothing to lock, and blocks
# return change sets instead of what they stored.
_STORE_ONLY: Final = frozenset(
    {"lock", "compute", "flush", "regions", "return_stored", "load_stored"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWrite:
    """One dask array on its way into one zarr array.

    Parameters
    ----------
    name : str
        Name for task keys and messages.
    source : dask array
        The data.
    target : zarr.Array
        Where to.
    start : tuple of int
        First element written along each dimension.
    """

    name: str
    source: Any
    target: zarr.Array[Any]
    start: tuple[int, ...]

    @property
    def amount(self) -> Amount:
        """What the tasks of this write come to."""
        grids = _compat.write_grid(self.target, self.target.shape)
        spans = zip(grids, self.start, self.source.shape, strict=True)
        return Amount(
            tasks=math.prod(map(len, self.source.chunks)) if self.source.size else 0,
            chunks=math.prod(grid.chunk_count(at, at + n) for grid, at, n in spans),
            size_bytes=math.prod(self.source.shape) * self.source.dtype.itemsize,
        )

    def aligned(self) -> BlockWrite:
        """Return the same write with blocks joined so that no two share a zarr chunk."""
        grids = _compat.write_grid(self.target, self.target.shape)
        chunks = tuple(map(aligned_sizes, self.source.chunks, self.start, grids))
        if chunks == self.source.chunks:
            return self
        return BlockWrite(
            name=self.name,
            source=self.source.rechunk(chunks),
            target=self.target,
            start=self.start,
        )


def checked_store_kwargs(kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is passed on to ``dask.compute``.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; for parameters of ``dask.array.store`` that have no meaning here.
    """
    checked = dict(kwargs or {})
    if refused := sorted(_STORE_ONLY & checked.keys()):
        raise InvalidInputError(
            f"{', '.join(refused)} cannot be passed to the writer: blocks need no lock and return "
            "change sets. Pass what dask.compute accepts, such as scheduler= or num_workers=.",
            ErrorKind.NOT_ALLOWED,
        )
    return checked


def pending_write(
    writes: Sequence[BlockWrite],
    session: Session,
    *,
    split_every: int | None = None,
    compute_kwargs: Mapping[str, Any] | None = None,
    checksums: bool = False,
    on_chunk_conflict: str = ChunkPolicy.ERROR,
) -> PendingWrite:
    """Return the write of some dask arrays as one graph, not yet computed.

    Parameters
    ----------
    writes : sequence of BlockWrite
        What goes where; aligned already.
    session : Session or ForkSession
        Knows the targets, and receives the changes.
    split_every : int, optional
        How many change sets one merge task takes.
    compute_kwargs : mapping, optional
        Defaults for ``PendingWrite.compute``.
    checksums : bool
        Return a checksum of each block with the result.
    on_chunk_conflict : {"error", "last"}
        What to do with a chunk that two tasks wrote.

    Returns
    -------
    PendingWrite
        One task per block, called ``icechunk-write-<name>``, and a tree of merges.
    """
    token = uuid.uuid4().hex
    policy = ChunkPolicy(on_chunk_conflict)
    origin = session.fork()
    targets = tuple(BlockTarget.of(w.target, w.source.chunks, w.start) for w in writes)
    job = dask.delayed(
        WriteJob(origin, targets, checksums=checksums), name=f"icechunk-job-{token}", traverse=False
    )
    written = [
        _compat.map_indexed_blocks(
            partial(write_block, which),
            write.source,
            job,
            name=f"icechunk-write-{write.name}-{token}",
        )
        for which, write in enumerate(writes)
        if write.source.size
    ]
    key, layer = merge_layer(
        f"icechunk-merge-{token}",
        list(flatten([array.__dask_keys__() for array in written])),
        split_every=checked_split_every(split_every),
        merge=partial(merge_results, policy),
        finish=partial(finish_write, token, policy),
    )
    graph = HighLevelGraph.from_collections(key, layer, dependencies=written)
    landing = Landing(session, origin, token, policy)
    layers: dict[str, Amount] = {}
    for write in writes:
        name = f"icechunk-write-{write.name}-{token}"
        layers[name] = layers.get(name, NOTHING) + write.amount
    return PendingWrite(key, graph, session, landing, compute_kwargs, layers)


def store_dask(
    *,
    sources: list[da.Array],
    targets: list[zarr.Array[Any]],
    regions: list[tuple[slice, ...]] | None = None,
    split_every: int | None = None,
    align_chunks: bool = False,
    on_chunk_conflict: str = ChunkPolicy.ERROR,
    progress: ProgressOption = False,
    **store_kwargs: Any,
) -> ForkSession:
    """Store dask arrays in zarr arrays of a forked session, in parallel.

    Parameters
    ----------
    sources : list of dask arrays
        The data.
    targets : list of zarr.Array
        One per source, opened on the store of one fork: ``fork = session.fork()``, then
        ``zarr.open_array(fork.store, path=...)``.
    regions : list of tuple of slice, optional
        Where each source goes in its target; the whole array when omitted.
    split_every : int, optional
        How many change sets one merge task takes; 16 when omitted.
    align_chunks : bool
        Join blocks that share a zarr chunk, instead of refusing them.
    on_chunk_conflict : {"error", "last"}
        What to do with a chunk that two sources wrote: fail, or keep what the later one in
        ``sources`` wrote. A chunk is kept whole; parts of it are not put together.
    progress : bool or callable, default: False
        Show a bar, in the terminal or the notebook; or call a function with each event, see
        `icechunk.events`.
    **store_kwargs
        Passed to ``dask.compute``.

    Returns
    -------
    ForkSession
        The targets' fork, with all changes; give it to `Session.merge`.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; the lists differ in length, a target is not on a fork's store, the
        targets are on stores of different sessions, a region does not fit, or two blocks share a
        zarr chunk.
    SessionStateError
        Kind ``merge-failed``; two sources wrote the same chunk, and the first one's part of it
        would be lost. The message names array and chunks.

    Notes
    -----
    Blocks are written by tasks, each straight to storage; only change sets come back.

    Examples
    --------
    >>> import dask.array
    >>> from icechunk.dask import store_dask
    >>> fork = session.fork()
    >>> target = zarr.open_array(fork.store, path="t", mode="r+")
    >>> session.merge(store_dask(sources=[dask.array.ones(4, chunks=2)], targets=[target]))
    """
    if not len(sources) == len(targets) == len(regions or targets):
        raise InvalidInputError(
            f"{len(sources)} sources, {len(targets)} targets and "
            f"{len(targets) if regions is None else len(regions)} regions; each source needs its "
            "own target, and its own region if any are given.",
            ErrorKind.NOT_ALLOWED,
        )
    session = _common_session(targets)
    writes = [
        BlockWrite(
            name=target.basename or "array",
            source=source,
            target=target,
            start=_start(source, target, None if regions is None else regions[i]),
        )
        for i, (source, target) in enumerate(zip(sources, targets, strict=True))
    ]
    if align_chunks:
        writes = [write.aligned() for write in writes]
    for write in writes:
        _check_alignment(write)
    pending_write(
        writes,
        session,
        split_every=split_every,
        compute_kwargs=checked_store_kwargs(store_kwargs),
        on_chunk_conflict=on_chunk_conflict,
    ).compute(progress=progress)
    return session


def _common_session(targets: Sequence[zarr.Array[Any]]) -> ForkSession:
    if not targets:
        raise InvalidInputError("no targets to store in.", ErrorKind.NOT_ALLOWED)
    sessions = []
    for target in targets:
        store = target.store_path.store
        session = store.session if isinstance(store, IcechunkStore) else None
        if not isinstance(session, ForkSession):
            raise InvalidInputError(
                f"array {target.path!r} is on {type(store).__name__} of "
                f"{type(session).__name__}; targets must be opened on the store of a fork: "
                "fork = session.fork(); zarr.open_array(fork.store, path=...).",
                ErrorKind.NOT_ALLOWED,
            )
        sessions.append(session)
    if any(session is not sessions[0] for session in sessions):
        raise InvalidInputError(
            "the targets are on stores of different forks: open them all on the store of one, "
            "or call store_dask once for each fork.",
            ErrorKind.NOT_ALLOWED,
        )
    return sessions[0]


def _start(
    source: da.Array, target: zarr.Array[Any], region: tuple[slice, ...] | None
) -> tuple[int, ...]:
    spans = region or ()
    spans += (slice(None),) * (len(target.shape) - len(spans))
    ranges = [
        range(*span.indices(length)) for span, length in zip(spans, target.shape, strict=False)
    ]
    if tuple(map(len, ranges)) != source.shape or any(r.step != 1 for r in ranges if len(r) > 1):
        raise InvalidInputError(
            f"source of shape {source.shape} does not fit region {region} of array "
            f"{target.path!r} with shape {target.shape}; regions are slices with step 1.",
            ErrorKind.NOT_ALLOWED,
        )
    return tuple(r.start for r in ranges)


def _check_alignment(write: BlockWrite) -> None:
    grids = _compat.write_grid(write.target, write.target.shape)
    parts = zip(write.source.chunks, write.start, grids, strict=True)
    for axis, (sizes, start, grid) in enumerate(parts):
        if shares_chunks(sizes, start, grid):
            raise InvalidInputError(
                f"array {write.target.path!r}, axis {axis}: dask chunks {sizes_text(sizes)} do "
                f"not fit zarr chunks of {grid.describe()}: two tasks would each write a part of "
                "one zarr chunk, and one part would be lost. Use `source.rechunk({"
                f"{axis}: {suggested_chunks(sizes, start, grid)}}})`, or pass align_chunks=True. "
                "Nothing was written.",
                ErrorKind.NOT_ALLOWED,
            )
