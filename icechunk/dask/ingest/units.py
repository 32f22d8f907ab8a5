"""The units of a job: where they begin and end, and when enough of them wait to be committed.

Arithmetic only. A unit is what is written, kept and committed as a whole; no two units have parts
in one chunk, so they can be written in any order and any number of times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from icechunk._units import parse_bytes
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk.dask.grid import AxisGrid

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(s|sec|min|h)")
_SECONDS: Final = {"s": 1, "sec": 1, "min": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A part of a job.

    Parameters
    ----------
    index : int
        Its number, from 0 on.
    start, stop : int
        Half-open range of the source along the job's dimension; both 0 for the unit that writes
        the variables without that dimension.
    """

    index: int
    start: int
    stop: int

    @property
    def is_static(self) -> bool:
        """Whether the unit writes the variables that do not have the job's dimension."""
        return self.start == self.stop

    @property
    def unit_id(self) -> str:
        """Name of the unit in its job."""
        return f"unit-{self.index:06d}"


def cut_evenly(length: int, step: int, at: int, grids: Sequence[AxisGrid]) -> list[tuple[int, int]]:
    """Return ranges of about equal size that no chunk crosses.

    Parameters
    ----------
    length : int
        Elements to cut.
    step : int
        Elements a range should have at least, the last one excepted; at least 1.
    at : int
        Where the first element goes in the arrays.
    grids : sequence of AxisGrid
        Chunk boundaries of the arrays along the dimension.

    Returns
    -------
    list of (int, int)
        Half-open, from 0 to ``length``; empty when there is nothing.
    """
    edges = [0]
    while edges[-1] < length:
        edges.append(min(_next_boundary(edges[-1] + step, length, at, grids), length))
    return list(pairwise(edges))


def _next_boundary(position: int, length: int, at: int, grids: Sequence[AxisGrid]) -> int:
    while position < length:
        next_one = max([position, *(_ceiling(grid, at + position) - at for grid in grids)])
        if next_one == position:
            return position
        position = next_one
    return length


def _ceiling(grid: AxisGrid, position: int) -> int:
    below = grid.floor(position)
    if below == position:
        return position
    if grid.unit:
        return below + grid.unit
    return next((edge for edge in grid.edges if edge > position), grid.length)


def cut_at(
    edges: Iterable[int], length: int, at: int, grids: Sequence[AxisGrid]
) -> list[tuple[int, int]]:
    """Return the ranges between edges, without those edges that would cut a chunk.

    Parameters
    ----------
    edges : iterable of int
        Where sources begin; ascending.
    length, at, grids
        As for `cut_evenly`.

    Returns
    -------
    list of (int, int)
        Half-open, from 0 to ``length``; sources that share a chunk are in one range.
    """
    inner = [
        edge
        for edge in edges
        if 0 < edge < length and all(grid.floor(at + edge) == at + edge for grid in grids)
    ]
    return list(pairwise([0, *sorted(set(inner)), length])) if length else []


def ranges_text(numbers: Iterable[int]) -> str:
    """Return numbers as ranges with both ends: ``0-2,5``."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def parse_ranges(text: str) -> set[int]:
    """Return the numbers of `ranges_text`.

    Raises
    ------
    ValueError
        When it is no such text.
    """
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitEvery:
    """When the finished units of a job are committed; at the end in any case.

    Parameters
    ----------
    units : int or None
        As soon as so many units are waiting.
    size_bytes : int or None
        As soon as so many uncompressed bytes are waiting.
    seconds : float or None
        As soon as the last commit is so long ago.
    """

    units: int | None = None
    size_bytes: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in ("units", "size_bytes", "seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InvalidInputError(
                    f"commit_every: {name} is {value}; it must be above 0.", ErrorKind.NOT_ALLOWED
                )

    @classmethod
    def of(cls, value: CommitEvery | int | str | None) -> CommitEvery:
        """Return what a number of units, ``"2GB"``, ``"10min"`` or None means.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; it means nothing.
        """
        if isinstance(value, CommitEvery):
            return value
        if value is None:
            return cls()
        if isinstance(value, int):
            return cls(units=value)
        text = value.strip()
        if text.isdecimal():
            return cls(units=int(text))
        match = _DURATION.fullmatch(text)
        if match is not None:
            return cls(seconds=float(match[1]) * _SECONDS[match[2]])
        try:
            return cls(size_bytes=parse_bytes(text))
        except ValueError:
            raise InvalidInputError(
                f"commit_every={value!r}: give a number of units, a size such as 2GB, or a time "
                "such as 30s, 10min or 1h.",
                ErrorKind.NOT_ALLOWED,
            ) from None

    def is_due(self, *, units: int, size_bytes: int, seconds: float) -> bool:
        """Say whether what is waiting is to be committed now; nothing never is."""
        limits = (
            (self.units, units),
            (self.size_bytes, size_bytes),
            (self.seconds, seconds),
        )
        return units > 0 and any(limit is not None and have >= limit for limit, have in limits)
