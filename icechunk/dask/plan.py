"""The write plan: what a write would do, as a value, before anything is written.

`icechunk.dask.planner` makes it, the writer checks it, the command line shows it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from icechunk.dask.estimate import COMMIT_REQUESTS
from icechunk.dask.grid import sizes_text
from icechunk.dask.plan_text import plan_table
from icechunk.dask.reduce import DEFAULT_SPLIT_EVERY, count_merges
from icechunk.errors import ErrorKind, InvalidInputError

ProblemKind = Literal["shared", "partial", "uneven"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentProblem:
    """Dask blocks that do not fit the zarr chunks along one dimension.

    Parameters
    ----------
    kind : {"shared", "partial", "uneven"}
        ``shared``: two tasks would write parts of one zarr chunk. ``partial``: the first or last
        task would write only a part of its outermost chunk, in mode ``r+``, where another writer
        may own the rest. ``uneven``: a new array takes its chunks from dask, and those differ.
    variable : str
        Name of the variable.
    dim : str
        Name of the dimension.
    dask_chunks : tuple of int
        Dask block sizes along it, unit: elements.
    zarr_chunks : str
        Zarr chunk size along it (the shard size with sharding), as text; unit: elements.
    start : int
        Where the write begins along the dimension in the stored array.
    fix : str
        The call that makes the blocks fit.
    """

    kind: ProblemKind
    variable: str
    dim: str
    dask_chunks: tuple[int, ...]
    zarr_chunks: str
    start: int
    fix: str

    def __str__(self) -> str:
        where = f"variable {self.variable!r}, dimension {self.dim!r}"
        blocks = sizes_text(self.dask_chunks)
        at = f", written from element {self.start} on," if self.start else ""
        match self.kind:
            case "uneven":
                return (
                    f"{where}: dask chunks {blocks} are uneven, and a new zarr array needs equal "
                    f"ones (only the last may be smaller). Use `{self.fix}`, or give the zarr "
                    f"chunks in encoding={{{self.variable!r}: {{'chunks': ...}}}}"
                )
            case "partial":
                danger = (
                    "the write begins or ends inside a zarr chunk, which mode 'r+' refuses because "
                    "another writer of the same chunk would lose its part"
                )
                return (
                    f"{where}: dask chunks {blocks}{at} do not end where zarr chunks of "
                    f"{self.zarr_chunks} do: {danger}. Choose a region that begins and ends at "
                    "chunk boundaries, or use mode='a', or pass safe_chunks=False if nobody else "
                    "writes there at the same time"
                )
            case _:
                return (
                    f"{where}: dask chunks {blocks}{at} do not fit zarr chunks of "
                    f"{self.zarr_chunks}: two tasks would each write a part of one zarr chunk, and "
                    f"one part would be lost. Use `{self.fix}`, or pass align_chunks=True "
                    "(blocks that share a chunk are written by one task, which needs the memory "
                    "of both), or pass safe_chunks=False (does that too, and checks nothing "
                    "else: another writer of the same chunk would lose its part)"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class VariablePlan:
    """What is written for one variable.

    Parameters
    ----------
    name : str
        Name of the variable and of its array.
    dims : tuple of str
        Dimension names.
    shape : tuple of int
        What is written, unit: elements.
    dtype : str
        Data type in memory; an encoding may store another one.
    zarr_chunk_shape : tuple of (int or str), or None
        Elements per zarr chunk (per shard with sharding) along each dimension; None when zarr
        will choose, as it does for data in memory without an encoding.
    zarr_chunks : int or None
        Chunks (or shards) that get written; None when zarr will choose.
    dask_blocks : int
        Dask blocks; 0 for data in memory, which is written before the tasks start.
    tasks : int
        Tasks that write; fewer than ``dask_blocks`` when blocks are joined to align them.
    size_bytes : int
        Uncompressed bytes.
    largest_block_bytes : int
        Uncompressed bytes of the largest single write.
    exists : bool
        Whether the array is there already.
    start : tuple of int
        First element written along each dimension.
    requests : int
        Requests to storage for its chunks and manifests, estimated: one for each chunk, another
        for each that exists and is written in part, and those for the manifests. Chunks small
        enough for the manifest need none.
    upload_bytes : int
        Bytes of the chunks that get written, before compression; chunks at the edge are whole.
        What is stored is less by as much as the codecs save.
    manifest_bytes : int
        Bytes of the manifests that the commit writes, estimated.
    wire_bytes : int
        Bytes of the change sets that tasks send to the client, estimated.
    problems : tuple of AlignmentProblem
        Reasons why the write would be refused.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    zarr_chunk_shape: tuple[int | str, ...] | None
    zarr_chunks: int | None
    dask_blocks: int
    tasks: int
    size_bytes: int
    largest_block_bytes: int
    exists: bool
    start: tuple[int, ...]
    requests: int = 0
    upload_bytes: int = 0
    manifest_bytes: int = 0
    wire_bytes: int = 0
    problems: tuple[AlignmentProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WritePlan:
    """What `to_icechunk` would write, variable by variable.

    ``print(plan)`` shows a table, and so does a notebook.

    Parameters
    ----------
    variables : tuple of VariablePlan
        One row per variable, in the order they are written.
    group : str
        Path of the group.
    split_every : int
        How many change sets one merge task takes.
    """

    variables: tuple[VariablePlan, ...]
    group: str = "/"
    split_every: int = DEFAULT_SPLIT_EVERY

    @property
    def size_bytes(self) -> int:
        """Uncompressed bytes of all variables."""
        return sum(row.size_bytes for row in self.variables)

    @property
    def zarr_chunks(self) -> int:
        """Chunks of all variables whose chunk shape is known."""
        return sum(row.zarr_chunks or 0 for row in self.variables)

    @property
    def dask_blocks(self) -> int:
        """Dask blocks of all variables."""
        return sum(row.dask_blocks for row in self.variables)

    @property
    def write_tasks(self) -> int:
        """Tasks that write a block."""
        return sum(row.tasks for row in self.variables)

    @property
    def merge_tasks(self) -> int:
        """Tasks that merge change sets."""
        return count_merges(self.write_tasks, self.split_every)

    @property
    def largest_block_bytes(self) -> int:
        """Uncompressed bytes of the largest single write."""
        return max((row.largest_block_bytes for row in self.variables), default=0)

    @property
    def commit_requests(self) -> int:
        """Requests of the commit itself, besides the manifests: the files of a snapshot."""
        return COMMIT_REQUESTS

    @property
    def requests(self) -> int:
        """Requests to storage, those of the commit included, estimated."""
        return sum(row.requests for row in self.variables) + self.commit_requests

    @property
    def upload_bytes(self) -> int:
        """Bytes of all chunks before compression."""
        return sum(row.upload_bytes for row in self.variables)

    @property
    def manifest_bytes(self) -> int:
        """Bytes of all manifests that the commit writes, estimated."""
        return sum(row.manifest_bytes for row in self.variables)

    @property
    def wire_bytes(self) -> int:
        """Bytes of all change sets that tasks send to the client, estimated."""
        return sum(row.wire_bytes for row in self.variables)

    @property
    def problems(self) -> tuple[AlignmentProblem, ...]:
        """Reasons why the write would be refused."""
        return tuple(problem for row in self.variables for problem in row.problems)

    def raise_for_problems(self) -> None:
        """Refuse a write that would fail or lose data.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; names each variable, dimension, both chunkings and the call
            that would fix it.
        """
        if self.problems:
            lines = "\n".join(f"  - {problem}." for problem in self.problems)
            raise InvalidInputError(
                f"the dask chunks do not fit, nothing was written:\n{lines}", ErrorKind.NOT_ALLOWED
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values that JSON can hold."""
        totals = (
            "size_bytes",
            "zarr_chunks",
            "dask_blocks",
            "write_tasks",
            "merge_tasks",
            "largest_block_bytes",
            "requests",
            "commit_requests",
            "upload_bytes",
            "manifest_bytes",
            "wire_bytes",
        )
        return {
            "group": self.group,
            "split_every": self.split_every,
            **{name: getattr(self, name) for name in totals},
            "variables": [
                asdict(row) | {"problems": [str(problem) for problem in row.problems]}
                for row in self.variables
            ],
        }

    def __str__(self) -> str:
        return plan_table(self).text()

    def _repr_html_(self) -> str:
        return plan_table(self).html()
