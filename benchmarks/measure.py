"""Taking figures inside a measured process, and summing up those of many processes.

Nothing here imports numpy, zarr or icechunk: importing them is itself measured.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIGURE_MARK = '{"figure":'
"""How each line with a figure starts; libraries may print other lines."""


class Recorder:
    """Prints each figure as a line of JSON as soon as it is known."""

    def add(self, name: str, value: float, unit: str, cpu: float | None = None) -> None:
        """Record a figure; `cpu` is its processor time in seconds, of all threads."""
        row = {"figure": name, "value": value, "unit": unit, "cpu": cpu}
        print(json.dumps(row), flush=True)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Record what the block takes, in seconds."""
        began, worked = time.perf_counter(), time.process_time()
        yield
        self.add(name, time.perf_counter() - began, "s", time.process_time() - worked)


def peak_rss_mb() -> float:
    """Return the most memory this process has held so far; unit: 10^6 bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # unlike getrusage it does not count the process that started this one
        for line in status.read_text("ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    import resource  # noqa: PLC0415 # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes on macOS


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median and the quartiles of some values."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up at least one value."""
        if len(values) == 1:
            return cls(low=values[0], median=values[0], high=values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(low=low, median=median, high=high)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Return the slope of the straight line through the logarithms (least squares).

    1 is proportional growth, 0 none. Values of zero are left out; with fewer than two points the
    answer is not a number.
    """
    points = [
        (math.log(x), math.log(y)) for x, y in zip(sizes, values, strict=True) if x > 0 and y > 0
    ]
    if len(points) < 2:
        return math.nan
    found: float = statistics.linear_regression(*zip(*points, strict=True)).slope
    return found
