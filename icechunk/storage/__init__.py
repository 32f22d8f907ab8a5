"""Where repositories are kept: storages, and the functions that make them."""

from __future__ import annotations

from icechunk.storage.base import Storage, StorageObjectInfo
from icechunk.storage.makers import (
    fsspec_storage,
    in_memory_storage,
    local_filesystem_storage,
    s3_storage,
)
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)

__all__ = [
    "Storage",
    "StorageConcurrencySettings",
    "StorageObjectInfo",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "fsspec_storage",
    "in_memory_storage",
    "local_filesystem_storage",
    "s3_storage",
]
