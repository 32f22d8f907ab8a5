"""Where repositories are kept: storages, and the functions that make them."""

from __future__ import annotations

from icechunk.object_store_config import (
    AnyObjectStoreConfig,
    ObjectStoreConfig,
    S3Options,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk.storage.base import Storage
from icechunk.storage.makers import (
    fsspec_storage,
    in_memory_storage,
    local_filesystem_storage,
    s3_storage,
)
from icechunk.storage.makers_cloud import (
    azure_storage,
    gcs_storage,
    http_storage,
    redirect_storage,
)
from icechunk.storage.makers_s3 import (
    hf_storage,
    r2_storage,
    s3_object_store_storage,
    tigris_storage,
)
from icechunk.storage.objects import StorageObjectInfo
from icechunk.storage.url import storage_for_url
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.types import ChecksumAlgorithm, ChunkType

__all__ = [
    "AnyObjectStoreConfig",
    "ChecksumAlgorithm",
    "ChunkType",
    "ObjectStoreConfig",
    "S3Options",
    "Storage",
    "StorageConcurrencySettings",
    "StorageObjectInfo",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "azure_storage",
    "azure_store",
    "fsspec_storage",
    "gcs_storage",
    "gcs_store",
    "hf_storage",
    "http_storage",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "r2_storage",
    "redirect_storage",
    "s3_object_store_storage",
    "s3_storage",
    "s3_store",
    "storage_for_url",
    "tigris_storage",
]
