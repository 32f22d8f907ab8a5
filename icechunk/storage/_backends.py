"""Backends by name, each loaded when it is first used.

The module of a backend imports the contract in `base`, whose public class offers a constructor for
each; and some pull in large libraries (s3fs, fsspec) that a repository on local files never needs.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from icechunk.storage.base import Storage

_MODULES: Final = {
    "memory": ("icechunk.storage.memory", "MemoryStorage"),
    "local": ("icechunk.storage.local", "LocalStorage"),
    "s3": ("icechunk.storage.s3", "S3Storage"),
    "tigris": ("icechunk.storage._s3_family", "Tigris"),
    "r2": ("icechunk.storage._s3_family", "R2"),
    "hf": ("icechunk.storage._s3_family", "HuggingFace"),
    "gcs": ("icechunk.storage.gcs", "GcsStorage"),
    "azure": ("icechunk.storage.azure", "AzureStorage"),
    "http": ("icechunk.storage.http", "HttpStorage"),
    "redirect": ("icechunk.storage.redirect", "RedirectStorage"),
    "fsspec": ("icechunk.storage.generic", "FsspecStorage"),
}


def make_storage(backend: str, /, *args: Any, **options: Any) -> Storage:
    """Return ``create(*args, **options)`` of a backend, importing its libraries if need be."""
    module, attribute = _MODULES[backend]
    storage: Storage = getattr(importlib.import_module(module), attribute).create(*args, **options)
    return storage
