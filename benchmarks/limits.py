"""What the machine, and zarr's own store, do with the bytes of the scenario `native`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import zarr

from benchmarks.scenarios import ELEMENTS, fused, plain_array, values

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Recorder


def zarr_store(place: Path, size: int, record: Recorder, name: str = "limit_zarr") -> None:
    """Write and read in zarr's store of local files, which has no transactions."""
    array = plain_array(zarr.storage.LocalStore(place), (size * ELEMENTS,), (ELEMENTS,), "f4")
    written = values(size)
    with record.time(f"{name}.write"):
        array[:] = written
    store = zarr.storage.LocalStore(place, read_only=True)
    with record.time(f"{name}.read"):
        read = zarr.open_array(store, path="a", mode="r")[:]
    assert np.array_equal(written, read)


def zarr_store_fused(place: Path, size: int, record: Recorder) -> None:
    """Do the same with zarr's fused codec pipeline."""
    with fused():
        zarr_store(place, size, record, "limit_zarr_fused")


def files(place: Path, size: int, record: Recorder) -> None:
    """Write each chunk under a temporary name and rename it; then read all files."""
    chunks = values(size).reshape(size, ELEMENTS)
    with record.time("limit_files.write"):
        for number in range(size):
            temporary = place / f"{number}.tmp"
            temporary.write_bytes(memoryview(chunks[number]))
            os.replace(temporary, place / str(number))  # noqa: PTH105 # no objects between
    total = 0
    with record.time("limit_files.read"):
        for number in range(size):
            total += len((place / str(number)).read_bytes())
    assert total == chunks.nbytes
