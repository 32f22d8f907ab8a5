"""Run one function in this process and print its figures; started by `benchmarks.children`.

usage: python -m benchmarks.child MODULE:FUNCTION SIZE FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import Recorder, peak_rss_mb
from benchmarks.registry import function_of


def main() -> None:
    """Run what the arguments say; the last figure is the most memory the process held."""
    work, size, folder = sys.argv[1:]
    record = Recorder()
    function_of(work)(Path(folder), int(size), record)
    record.add("peak_rss", peak_rss_mb(), "MB")


if __name__ == "__main__":
    main()
