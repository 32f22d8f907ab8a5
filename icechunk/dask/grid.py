"""Where dask block boundaries meet zarr chunk boundaries, one axis at a time.

Two tasks that each write a part of one zarr chunk lose one of the parts: each reads the chunk, puts
its own elements in and stores the whole. Everything that prevents this is arithmetic on boundaries,
and it is all here, without I/O and without dask.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate, pairwise


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisGrid:
    """The chunk boundaries of one array axis that a writer must not cut.

    With sharding the unit is the shard, since that is what is stored as a whole.

    Parameters
    ----------
    length : int
        Elements along the axis, after any append.
    unit : int
        Elements per chunk; 0 for a chunk grid with chunks of different sizes.
    edges : tuple of int
        Where chunks start, ascending from 0; only for ``unit == 0``.
    """

    length: int
    unit: int
    edges: tuple[int, ...] = ()

    @classmethod
    def regular(cls, length: int, unit: int) -> AxisGrid:
        """Return a grid of equal chunks, the last one possibly cut off."""
        return cls(length=length, unit=max(unit, 1))

    @classmethod
    def of_sizes(cls, sizes: tuple[int, ...]) -> AxisGrid:
        """Return a grid of chunks with the given sizes."""
        length = sum(sizes)
        if all(size == sizes[0] for size in sizes[:-1]) and sizes and sizes[-1] <= sizes[0]:
            return cls.regular(length, sizes[0])
        return cls(length=length, unit=0, edges=(0, *accumulate(sizes[:-1])))

    def floor(self, position: int) -> int:
        """Return the last chunk boundary at or before a position."""
        if self.unit:
            return position - position % self.unit
        return self.edges[max(bisect_right(self.edges, position) - 1, 0)]

    def chunk_count(self, start: int, stop: int) -> int:
        """Return how many chunks hold the elements of a half-open range."""
        if stop <= start:
            return 0
        if self.unit:
            return -(-stop // self.unit) - start // self.unit
        return bisect_right(self.edges, stop - 1) - bisect_right(self.edges, start) + 1

    def chunk_index(self, position: int) -> int:
        """Return which chunk holds the element at a position, the last one for those behind it."""
        if self.unit:
            return position // self.unit
        return max(bisect_right(self.edges, position) - 1, 0)

    def whole_chunk_count(self, start: int, stop: int) -> int:
        """Return how many chunks a half-open range covers whole; the last one may be cut off."""
        first = self.chunk_index(start) + (self.floor(start) != start)
        last = self.chunk_index(stop)
        if stop >= self.length:
            last = self.chunk_count(0, self.length)
        return max(last - first, 0)

    def mean_chunk(self) -> float:
        """Return the elements of a chunk, on average if they differ."""
        return self.unit or self.length / max(len(self.edges), 1)

    def describe(self) -> str:
        """Return the chunk sizes as text for messages."""
        if self.unit:
            return str(self.unit)
        return sizes_text(tuple(b - a for a, b in pairwise((*self.edges, self.length))))


def boundaries(sizes: tuple[int, ...], start: int) -> tuple[int, ...]:
    """Return where blocks begin and, last, where the final one ends.

    Parameters
    ----------
    sizes : tuple of int
        Block sizes, unit: elements.
    start : int
        Where the first block begins in the target.

    Returns
    -------
    tuple of int
        ``len(sizes) + 1`` positions in the target, ascending.
    """
    return tuple(accumulate(sizes, initial=start))


def shares_chunks(sizes: tuple[int, ...], start: int, grid: AxisGrid) -> bool:
    """Say whether two neighbouring blocks have parts in one chunk."""
    return any(grid.floor(edge) != edge for edge in boundaries(sizes, start)[1:-1])


def cuts_outer_chunks(sizes: tuple[int, ...], start: int, grid: AxisGrid) -> bool:
    """Say whether the first or the last block covers only a part of its outermost chunk."""
    stop = start + sum(sizes)
    return grid.floor(start) != start or (stop < grid.length and grid.floor(stop) != stop)


def aligned_sizes(sizes: tuple[int, ...], start: int, grid: AxisGrid) -> tuple[int, ...]:
    """Return block sizes with which every chunk is written by one block only.

    Each boundary between blocks moves down to the chunk boundary before it, so blocks grow by less
    than a chunk, and blocks that fall together become one.

    Parameters
    ----------
    sizes : tuple of int
        Block sizes, unit: elements.
    start : int
        Where the first block begins in the target.
    grid : AxisGrid
        Chunks of the target.

    Returns
    -------
    tuple of int
        Block sizes with the same sum.
    """
    edges = boundaries(sizes, start)
    if edges[-1] == start:
        return sizes
    inner = sorted({floor for edge in edges[1:-1] if start < (floor := grid.floor(edge))})
    kept = (start, *(edge for edge in inner if edge < edges[-1]), edges[-1])
    return tuple(b - a for a, b in pairwise(kept))


def suggested_chunks(sizes: tuple[int, ...], start: int, grid: AxisGrid) -> str:
    """Return Python source of a chunk specification that aligns blocks with the grid.

    It keeps the blocks about as large as they are: the next multiple of a zarr chunk. Where the
    write begins inside a chunk the first block only fills that chunk up.
    """
    total = sum(sizes)
    if not grid.unit:
        return str(aligned_sizes(sizes, start, grid))
    step = -(-max(sizes) // grid.unit) * grid.unit
    lead = start % grid.unit
    if not lead:
        return str(step)
    first = step - lead
    if first >= total:
        return "-1"
    count, last = divmod(total - first, step)
    parts = [f"({first},)"]
    if count:
        parts.append(f"({step},) * {count}")
    if last:
        parts.append(f"({last},)")
    return " + ".join(parts)


def sizes_text(sizes: tuple[int, ...], limit: int = 6) -> str:
    """Return block sizes as text, long ones shortened in the middle."""
    if len(sizes) <= limit:
        return str(sizes)
    head = ", ".join(map(str, sizes[: limit - 2]))
    return f"({head}, ..., {sizes[-1]}; {len(sizes)} blocks)"
