"""Where repositories are kept: storages, and the functions that make them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.storage._backends import make_storage
from icechunk.storage.base import Storage, StorageObjectInfo
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)

if TYPE_CHECKING:
    import os

__all__ = [
    "Storage",
    "StorageConcurrencySettings",
    "StorageObjectInfo",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "in_memory_storage",
    "local_filesystem_storage",
]


def in_memory_storage() -> Storage:
    """Return a new, empty storage in this process's memory.

    Returns
    -------
    Storage
        Gone when the process ends. It pickles as a reference: the same place in this process, an
        error in any other.
    """
    return make_storage("memory")


def local_filesystem_storage(path: str | os.PathLike[str]) -> Storage:
    """Return a storage below a directory.

    Parameters
    ----------
    path : str or path-like
        The directory; made when the first object is written. Relative paths are resolved now.

    Returns
    -------
    Storage
        Safe for concurrent commits of threads and processes of one machine that all use this
        package.

    Raises
    ------
    InvalidInputError
        Kind ``bad-prefix``; not a path.
    """
    return make_storage("local", path)
