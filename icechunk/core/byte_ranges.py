"""Which requests serve many ranges of bytes: near ones of one object share one.

Source: Icechunk specification, section "Zarr store surface", partial values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedRange:
    """A range of bytes of an object.

    Parameters
    ----------
    place : hashable
        Which object; ranges of equal places may be read together.
    start, stop : int
        Half-open range; unit: bytes.
    """

    place: Hashable
    start: int
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRead:
    """One request, and what it is for.

    Parameters
    ----------
    start, stop : int
        Half-open range of the object; unit: bytes.
    serves : tuple of int
        Numbers of the wanted ranges that lie inside; not empty.
    """

    start: int
    stop: int
    serves: tuple[int, ...]


def plan_reads(
    wanted: Sequence[WantedRange], *, max_gap_bytes: int, max_read_bytes: int
) -> list[PlannedRead]:
    """Put ranges that are near to each other into one request.

    Parameters
    ----------
    wanted : sequence of WantedRange
        In any order; they may overlap.
    max_gap_bytes : int
        Unwanted bytes between two ranges that are rather read than asked around; >= 0.
    max_read_bytes : int
        A request grows no longer than this by joining; a range that alone is longer stays whole.

    Returns
    -------
    list of PlannedRead
        Each wanted range is served by exactly one.
    """
    by_place: dict[Hashable, list[int]] = {}
    for number, part in enumerate(wanted):
        by_place.setdefault(part.place, []).append(number)
    reads = []
    for numbers in by_place.values():
        numbers.sort(key=lambda number: (wanted[number].start, wanted[number].stop))
        start, stop = wanted[numbers[0]].start, wanted[numbers[0]].stop
        serves: list[int] = []
        for number in numbers:
            part = wanted[number]
            end = max(stop, part.stop)
            if serves and (part.start - stop > max_gap_bytes or end - start > max_read_bytes):
                reads.append(PlannedRead(start=start, stop=stop, serves=tuple(serves)))
                start, end, serves = part.start, part.stop, []
            stop = end
            serves.append(number)
        reads.append(PlannedRead(start=start, stop=stop, serves=tuple(serves)))
    return reads
