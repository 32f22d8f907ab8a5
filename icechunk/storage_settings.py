"""How a storage is to be used: concurrency, retries, timeouts, storage classes.

Every field is optional; None leaves it to the backend. Public path: `icechunk.config` and
`icechunk.storage`.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from icechunk._settings import Settings, flag, instance, text, unsigned

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True, repr=False)
class StorageConcurrencySettings(Settings):
    """How one object is fetched in parallel.

    Parameters
    ----------
    max_concurrent_requests_for_object : int or None
        Parallel range requests for one object, at least 1. Buckets: 18.
    ideal_concurrent_request_size : int or None
        Bytes of one range, at least 1. Buckets: 12582912.
    """

    _display_name: ClassVar[str] = "icechunk.storage.StorageConcurrencySettings"

    max_concurrent_requests_for_object: int | None = unsigned(16, at_least=1)
    ideal_concurrent_request_size: int | None = unsigned(64, at_least=1)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {
            "max_concurrent_requests_for_object": 18,
            "ideal_concurrent_request_size": 12_582_912,
        }


@dataclass(slots=True, repr=False)
class StorageRetriesSettings(Settings):
    """How failed requests are repeated.

    Parameters
    ----------
    max_tries : int or None
        Requests in all, at least 1. Buckets: 10.
    initial_backoff_ms : int or None
        First pause, in milliseconds. Buckets: 100.
    max_backoff_ms : int or None
        Longest pause, in milliseconds. Buckets: 180000.
    """

    _display_name: ClassVar[str] = "icechunk.storage.StorageRetriesSettings"

    max_tries: int | None = unsigned(16, at_least=1)
    initial_backoff_ms: int | None = unsigned(32)
    max_backoff_ms: int | None = unsigned(32)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {"max_tries": 10, "initial_backoff_ms": 100, "max_backoff_ms": 180_000}


@dataclass(slots=True, repr=False)
class StorageTimeoutSettings(Settings):
    """When a request counts as lost; None for no limit of ours.

    Parameters
    ----------
    connect_timeout_ms : int or None
        Making the connection, in milliseconds.
    read_timeout_ms : int or None
        Waiting for the next bytes, in milliseconds.
    operation_timeout_ms : int or None
        The operation with all its retries, in milliseconds.
    operation_attempt_timeout_ms : int or None
        One attempt, in milliseconds.
    """

    _display_name: ClassVar[str] = "icechunk.storage.StorageTimeoutSettings"

    connect_timeout_ms: int | None = unsigned(32)
    read_timeout_ms: int | None = unsigned(32)
    operation_timeout_ms: int | None = unsigned(32)
    operation_attempt_timeout_ms: int | None = unsigned(32)


@dataclass(slots=True, repr=False)
class StorageSettings(Settings):
    """How a storage is used.

    Parameters
    ----------
    concurrency : StorageConcurrencySettings or None
        Parallel range requests.
    retries : StorageRetriesSettings or None
        Repeating failed requests.
    unsafe_use_conditional_create : bool or None
        Whether refs and the repo object are created conditionally. Without it two creators can
        overwrite each other; only for stores that cannot do it.
    unsafe_use_conditional_update : bool or None
        Whether the repo object is updated conditionally. Without it concurrent commits can be
        lost; only for stores that cannot do it.
    unsafe_use_metadata : bool or None
        Whether objects carry user metadata.
    storage_class : str or None
        Storage class of all objects.
    metadata_storage_class : str or None
        Storage class of everything but chunks, instead of ``storage_class``.
    chunks_storage_class : str or None
        Storage class of chunks, instead of ``storage_class``.
    minimum_size_for_multipart_upload : int or None
        Larger objects are uploaded in parts, in bytes. Buckets: 104857600.
    timeouts : StorageTimeoutSettings or None
        When a request counts as lost.
    """

    _display_name: ClassVar[str] = "icechunk.storage.StorageSettings"
    _display_order: ClassVar[tuple[str, ...] | None] = (
        "unsafe_use_conditional_create",
        "unsafe_use_conditional_update",
        "unsafe_use_metadata",
        "storage_class",
        "metadata_storage_class",
        "chunks_storage_class",
        "minimum_size_for_multipart_upload",
        "concurrency",
        "retries",
        "timeouts",
    )

    concurrency: StorageConcurrencySettings | None = instance(StorageConcurrencySettings)
    retries: StorageRetriesSettings | None = instance(StorageRetriesSettings)
    unsafe_use_conditional_create: bool | None = flag()
    unsafe_use_conditional_update: bool | None = flag()
    unsafe_use_metadata: bool | None = flag()
    storage_class: str | None = text()
    metadata_storage_class: str | None = text()
    chunks_storage_class: str | None = text()
    minimum_size_for_multipart_upload: int | None = unsigned(64)
    timeouts: StorageTimeoutSettings | None = instance(StorageTimeoutSettings)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {
            "unsafe_use_conditional_create": True,
            "unsafe_use_conditional_update": True,
            "unsafe_use_metadata": True,
            "minimum_size_for_multipart_upload": 104_857_600,
            "concurrency": StorageConcurrencySettings(),
            "retries": StorageRetriesSettings(),
        }


@dataclass(slots=True, repr=False)
class RepoUpdateRetryConfig(Settings):
    """How an update of the repo object that lost a race is repeated.

    Parameters
    ----------
    default : StorageRetriesSettings or None
        Attempts and pauses; 100 tries, 50 to 30000 milliseconds.
    """

    _display_name: ClassVar[str] = "icechunk.config.RepoUpdateRetryConfig"

    default: StorageRetriesSettings | None = instance(StorageRetriesSettings)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {"default": DEFAULT_REPO_UPDATE_RETRIES}


DEFAULT_REPO_UPDATE_RETRIES = StorageRetriesSettings(100, 50, 30_000)
