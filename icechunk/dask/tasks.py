"""What runs on a worker: write a block, merge change sets.

A job travels to each worker process once. Each task forks it, which costs microseconds, writes one
block through zarr into the fork's store, and returns what the fork changed. So tasks share nothing
that changes: a task that dask runs again writes new chunk objects and returns new references, and
only the result that dask keeps is ever merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from icechunk.dask import _compat
from icechunk.dask.checksums import BlockChecksum, checksum_of
from icechunk.dask.grid import boundaries
from icechunk.distributed import ChunkChanges, twin_of

if TYPE_CHECKING:
    import zarr

    from icechunk.core.merge import ChunkPolicy
    from icechunk.session import ForkSession


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTarget:
    """Where the blocks of one dask array go.

    Parameters
    ----------
    path : str
        Path of the zarr array in the store.
    metadata : ArrayV3Metadata
        The array's metadata; saves every task from reading it.
    config : ArrayConfig
        The array's run-time configuration.
    edges : tuple of tuple of int
        Along each axis where blocks begin in the array, and where the last one ends.
    """

    path: str
    metadata: Any
    config: Any
    edges: tuple[tuple[int, ...], ...]

    @classmethod
    def of(
        cls, array: zarr.Array[Any], chunks: tuple[tuple[int, ...], ...], start: tuple[int, ...]
    ) -> BlockTarget:
        """Return the target for blocks of the given sizes, the first one beginning at ``start``."""
        return cls(
            path=array.path,
            metadata=array.metadata,
            config=_compat.array_config(array),
            edges=tuple(map(boundaries, chunks, start)),
        )

    def region(self, block_id: tuple[int, ...]) -> tuple[slice, ...]:
        """Return where a block goes."""
        return tuple(
            slice(edges[i], edges[i + 1]) for edges, i in zip(self.edges, block_id, strict=True)
        )


class WriteJob:
    """What all tasks of one write have in common.

    Parameters
    ----------
    fork : ForkSession
        Knows the arrays; tasks write into twins of it.
    targets : tuple of BlockTarget
        One per dask array.
    checksums : bool
        Whether tasks return a checksum of each block.
    """

    __slots__ = ("_writers", "checksums", "fork", "targets")

    def __init__(
        self, fork: ForkSession, targets: tuple[BlockTarget, ...], *, checksums: bool = False
    ) -> None:
        self.fork = fork
        self.targets = targets
        self.checksums = checksums
        self._writers: dict[int, _compat.ArrayWriter] = {}

    def writer(self, which: int) -> _compat.ArrayWriter:
        """Return the writer for one target, made once in each process."""
        found = self._writers.get(which)
        if found is None:
            target = self.targets[which]
            found = _compat.ArrayWriter(target.metadata, target.config, target.path)
            self._writers[which] = found
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return (_job, (self.fork, self.targets, self.checksums))


def _job(fork: ForkSession, targets: tuple[BlockTarget, ...], checksums: bool) -> WriteJob:
    return WriteJob(fork, targets, checksums=checksums)


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteResult:
    """What one or more tasks did.

    Parameters
    ----------
    changes : ChunkChanges
        Their change sets, merged.
    blocks : int
        How many blocks were written.
    size_bytes : int
        Uncompressed bytes of these blocks.
    checksums : tuple of BlockChecksum
        Of these blocks, if they were asked for.
    """

    changes: ChunkChanges
    blocks: int
    size_bytes: int
    checksums: tuple[BlockChecksum, ...] = ()


def write_block(which: int, block: Any, job: WriteJob, index: tuple[int, ...]) -> WriteResult:
    """Write one block and return what that changed.

    Parameters
    ----------
    which : int
        Which of the job's targets.
    block : array
        The data.
    job : WriteJob
        Where to.
    index : tuple of int
        Which block of the dask array.

    Returns
    -------
    WriteResult
        Not the data.
    """
    fork = twin_of(job.fork)
    try:
        job.writer(which).write(fork.store, job.targets[which].region(index), block)
        changes = ChunkChanges.made_by(fork)
    finally:
        # A failed task's changes are not missed: dask runs it again, or the whole write fails.
        fork.mark_carried()
    return WriteResult(
        changes=changes,
        blocks=1,
        size_bytes=getattr(block, "nbytes", 0),
        checksums=(_checksum(job.targets[which], index, block),) if job.checksums else (),
    )


def _checksum(target: BlockTarget, index: tuple[int, ...], block: Any) -> BlockChecksum:
    region = target.region(index)
    return BlockChecksum(
        path=target.path,
        start=tuple(part.start for part in region),
        stop=tuple(part.stop for part in region),
        checksum=checksum_of(block, target.metadata.data_type.to_native_dtype()),
    )


def merge_results(policy: ChunkPolicy, results: list[WriteResult]) -> WriteResult:
    """Merge what several tasks did into a new result; the arguments stay as they are."""
    return WriteResult(
        changes=ChunkChanges.union([result.changes for result in results], policy),
        blocks=sum(result.blocks for result in results),
        size_bytes=sum(result.size_bytes for result in results),
        checksums=tuple(chain.from_iterable(result.checksums for result in results)),
    )
