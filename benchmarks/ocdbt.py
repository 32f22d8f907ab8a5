"""The chunks of the scenario `native` in TensorStore's transactional key-value store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tensorstore as ts

from benchmarks.scenarios import ELEMENTS, values

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Recorder


def ocdbt(place: Path, size: int, record: Recorder) -> None:
    """Write all chunks in one transaction, and read them with nothing in the caches."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "ocdbt", "base": f"file://{place}/"}}
    grid = {"name": "regular", "configuration": {"chunk_shape": [ELEMENTS]}}
    codec = {"name": "bytes", "configuration": {"endian": "little"}}
    metadata = {
        "shape": [size * ELEMENTS],
        "chunk_grid": grid,
        "data_type": "float32",
        "codecs": [codec],
    }
    written = values(size)
    array = ts.open({**spec, "metadata": metadata}, create=True).result()
    with record.time("limit_ocdbt.write"), ts.Transaction() as transaction:
        array.with_transaction(transaction).write(written).result()
    with record.time("limit_ocdbt.read"):
        read = ts.open(spec, context=ts.Context()).result().read().result()
    assert np.array_equal(written, read)
