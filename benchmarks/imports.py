"""What importing the package takes; nothing else may be imported before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Recorder


def imports(_place: Path, _size: int, record: Recorder) -> None:
    """Import zarr, then icechunk."""
    with record.time("import.zarr"):
        importlib.import_module("zarr")
    with record.time("import.icechunk_beyond_zarr"):
        importlib.import_module("icechunk")
