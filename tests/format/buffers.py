"""Opening and building FlatBuffers in tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from icechunk.format.fb import table, writer
from icechunk.format.fb.reader import TableVector

if TYPE_CHECKING:
    from collections.abc import Sequence


def root_column(data: bytes, *, key: str, name: str) -> TableVector:
    """Return the root table of a buffer as a column of one."""
    found = table.root(data, key=key, name=name)
    return TableVector(found.buffer, np.array([found.position], np.int64), name)


def blobs(items: Sequence[writer.Blob]) -> writer.Blobs:
    """Return a vector of the given blobs, in their order."""
    sizes = np.array([len(item.data) for item in items], np.int64)
    tables = np.array([item.table for item in items], np.int64)
    return writer.Blobs([item.data for item in items], np.cumsum(sizes) - sizes + tables)
