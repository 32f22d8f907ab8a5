"""The configuration as a repository stores it: plain maps, lists, strings and numbers.

Both format versions store the same structure, v2 as FlexBuffers and v1 as YAML.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk.config import (
    CachingConfig,
    CompressionConfig,
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    RepositoryConfig,
)
from icechunk.object_store_config import AnyObjectStoreConfig, ObjectStoreConfig, S3Options
from icechunk.persisted_conditions import (
    Tagged,
    as_case,
    as_mapping,
    persisted_preload_condition,
    persisted_split_sizes,
    preload_condition_from,
    refuse,
    splitting_from,
)
from icechunk.storage_settings import (
    RepoUpdateRetryConfig,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.types import ChecksumAlgorithm, CompressionAlgorithm
from icechunk.virtual_containers import VirtualChunkContainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icechunk._settings import Settings

_Made = TypeVar("_Made")

_CHECKSUMS: Final = {
    ChecksumAlgorithm.Crc32: "crc32",
    ChecksumAlgorithm.Crc32c: "crc32c",
    ChecksumAlgorithm.Crc64Nvme: "crc64_nvme",
    ChecksumAlgorithm.Sha1: "sha1",
    ChecksumAlgorithm.Sha256: "sha256",
}
_S3_KEYS: Final = (
    "region",
    "endpoint_url",
    "anonymous",
    "allow_http",
    "force_path_style",
    "network_stream_timeout_seconds",
    "requester_pays",
    "checksum_algorithm",
)
_S3_TAGS: Final = {
    ObjectStoreConfig.S3Compatible: "s3_compatible",
    ObjectStoreConfig.S3: "s3",
    ObjectStoreConfig.Tigris: "tigris",
}


# --- writing ----------------------------------------------------------------------------------


def to_persisted(config: RepositoryConfig) -> dict[str, Any]:
    """Return the structure that is stored.

    Parameters
    ----------
    config : RepositoryConfig
        As it is to be stored, usually with the backend's storage settings merged in.

    Returns
    -------
    dict
        Every key, in the order of the specification, None where nothing is set.
    """
    containers = config.virtual_chunk_containers
    compression, retries = config.compression, config.repo_update_retries
    return {
        "inline_chunk_threshold_bytes": config.inline_chunk_threshold_bytes,
        "get_partial_values_concurrency": config.get_partial_values_concurrency,
        "compression": None
        if compression is None
        else {
            "algorithm": None if compression.algorithm is None else "zstd",
            "level": compression.level,
        },
        "max_concurrent_requests": config.max_concurrent_requests,
        "max_concurrent_decodes": config.max_concurrent_decodes,
        "caching": _plain(config.caching),
        "storage": _storage(config.storage),
        "virtual_chunk_containers": None
        if containers is None
        else {prefix: _container(container) for prefix, container in containers.items()},
        "manifest": _manifest(config.manifest),
        "previous_file": None,
        "repo_update_retries": None if retries is None else {"default": _plain(retries.default)},
        "num_updates_per_repo_info_file": config.num_updates_per_repo_info_file,
    }


def _plain(options: Settings | None) -> dict[str, Any] | None:
    """Return options whose fields are stored as they are, in the order they are declared."""
    if options is None:
        return None
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}  # type: ignore[arg-type] # a dataclass


def _storage(settings: StorageSettings | None) -> dict[str, Any] | None:
    if settings is None:
        return None
    return {
        "concurrency": _plain(settings.concurrency),
        "retries": _plain(settings.retries),
        "timeouts": _plain(settings.timeouts),
        "unsafe_use_conditional_update": settings.unsafe_use_conditional_update,
        "unsafe_use_conditional_create": settings.unsafe_use_conditional_create,
        "unsafe_use_metadata": settings.unsafe_use_metadata,
        "storage_class": settings.storage_class,
        "metadata_storage_class": settings.metadata_storage_class,
        "chunks_storage_class": settings.chunks_storage_class,
        "minimum_size_for_multipart_upload": settings.minimum_size_for_multipart_upload,
    }


def _container(container: VirtualChunkContainer) -> dict[str, Any]:
    return {
        "name": container.name,
        "url_prefix": container.url_prefix,
        "store": _store(container.store),
    }


def _store(store: AnyObjectStoreConfig) -> str | Tagged:
    match store:
        case ObjectStoreConfig.InMemory():
            return "in_memory"
        case ObjectStoreConfig.LocalFileSystem(path):
            return Tagged(local_file_system=path)
        case ObjectStoreConfig.Http(options, headers):
            content: dict[str, Any] = dict(options or {})
            return Tagged(http=content if headers is None else {**content, "headers": headers})
        case ObjectStoreConfig.Gcs(options):
            return Tagged(gcs=dict(options or {}))
        case ObjectStoreConfig.Azure(options):
            return Tagged(azure=dict(options or {}))
    fields = {name: getattr(store[0], name) for name in _S3_KEYS}
    fields["checksum_algorithm"] = _CHECKSUMS.get(fields["checksum_algorithm"])
    return Tagged({_S3_TAGS[type(store)]: fields})


def _manifest(options: ManifestConfig | None) -> dict[str, Any] | None:
    if options is None:
        return None
    preload, splitting = options.preload, options.splitting
    return {
        "preload": None
        if preload is None
        else {
            "max_total_refs": preload.max_total_refs,
            "preload_if": None
            if preload.preload_if is None
            else persisted_preload_condition(preload.preload_if),
            "max_arrays_to_scan": preload.max_arrays_to_scan,
        },
        "splitting": None
        if splitting is None
        else {"split_sizes": persisted_split_sizes(splitting)},
        "virtual_chunk_location_compression": _plain(options.virtual_chunk_location_compression),
        "max_concurrent_manifest_fetches_during_commit": (
            options.max_concurrent_manifest_fetches_during_commit
        ),
    }


# --- reading ----------------------------------------------------------------------------------


def from_persisted(stored: Mapping[str, Any]) -> RepositoryConfig:
    """Return the config that a stored structure stands for.

    Parameters
    ----------
    stored : mapping
        As read; unknown keys are ignored, missing ones count as None.

    Returns
    -------
    RepositoryConfig
        The config. Containers that cannot be used are kept; see `RepositoryConfig.resolved`.

    Raises
    ------
    FormatError
        Kind ``config-deserialization``; a value is of the wrong type or out of range.
    """
    try:
        return _config_from(as_mapping(stored, "config"))
    except (TypeError, ValueError, RecursionError) as exc:
        where = "; ".join(getattr(exc, "__notes__", ()))
        refuse(f"{exc}" + (f" ({where})" if where else ""), exc)


def _config_from(stored: Mapping[str, Any]) -> RepositoryConfig:
    return RepositoryConfig(
        inline_chunk_threshold_bytes=stored.get("inline_chunk_threshold_bytes"),
        get_partial_values_concurrency=stored.get("get_partial_values_concurrency"),
        compression=_read(stored, "compression", _compression_from),
        max_concurrent_requests=stored.get("max_concurrent_requests"),
        max_concurrent_decodes=stored.get("max_concurrent_decodes"),
        caching=_read(stored, "caching", lambda part: _fields_from(CachingConfig, part)),
        storage=_read(stored, "storage", _storage_from),
        virtual_chunk_containers=_read(stored, "virtual_chunk_containers", _containers_from),
        manifest=_read(stored, "manifest", _manifest_from),
        repo_update_retries=_read(stored, "repo_update_retries", _retries_from),
        num_updates_per_repo_info_file=stored.get("num_updates_per_repo_info_file"),
    )


def _read(
    stored: Mapping[str, Any], key: str, make: Callable[[Mapping[str, Any]], _Made]
) -> _Made | None:
    """Return what the map at a key stands for; None when there is none."""
    part = stored.get(key)
    return None if part is None else make(as_mapping(part, key))


def _fields_from(kind: type[_Made], stored: Mapping[str, Any]) -> _Made:
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type] # a dataclass
    return kind(**{name: stored.get(name) for name in names})


def _compression_from(stored: Mapping[str, Any]) -> CompressionConfig:
    algorithm = stored.get("algorithm")
    if algorithm not in {None, "zstd"}:
        refuse(f"unknown compression algorithm {algorithm!r}")
    return CompressionConfig(
        None if algorithm is None else CompressionAlgorithm.Zstd, stored.get("level")
    )


def _retries_from(stored: Mapping[str, Any]) -> RepoUpdateRetryConfig:
    return RepoUpdateRetryConfig(
        _read(stored, "default", lambda part: _fields_from(StorageRetriesSettings, part))
    )


def _storage_from(stored: Mapping[str, Any]) -> StorageSettings:
    return StorageSettings(
        concurrency=_read(
            stored, "concurrency", lambda part: _fields_from(StorageConcurrencySettings, part)
        ),
        retries=_read(stored, "retries", lambda part: _fields_from(StorageRetriesSettings, part)),
        timeouts=_read(stored, "timeouts", lambda part: _fields_from(StorageTimeoutSettings, part)),
        unsafe_use_conditional_update=stored.get("unsafe_use_conditional_update"),
        unsafe_use_conditional_create=stored.get("unsafe_use_conditional_create"),
        unsafe_use_metadata=stored.get("unsafe_use_metadata"),
        storage_class=stored.get("storage_class"),
        metadata_storage_class=stored.get("metadata_storage_class"),
        chunks_storage_class=stored.get("chunks_storage_class"),
        minimum_size_for_multipart_upload=stored.get("minimum_size_for_multipart_upload"),
    )


def _containers_from(stored: Mapping[str, Any]) -> dict[str, VirtualChunkContainer]:
    return {
        prefix: _container_from(as_mapping(part, f"virtual_chunk_containers[{prefix!r}]"), prefix)
        for prefix, part in stored.items()
    }


def _container_from(stored: Mapping[str, Any], prefix: str) -> VirtualChunkContainer:
    return VirtualChunkContainer(
        stored.get("url_prefix") or prefix, _store_from(stored.get("store")), stored.get("name")
    )


def _store_from(stored: object) -> AnyObjectStoreConfig:
    match as_case(stored, "store"):
        case "in_memory", _:
            return ObjectStoreConfig.InMemory()
        case "local_file_system", path:
            return ObjectStoreConfig.LocalFileSystem(path)
        case "http", options:
            plain = dict(as_mapping(options or {}, "http"))
            headers = plain.pop("headers", None)
            return ObjectStoreConfig.Http(plain, headers)
        case "gcs", options:
            return ObjectStoreConfig.Gcs(dict(as_mapping(options or {}, "gcs")))
        case "azure", options:
            return ObjectStoreConfig.Azure(dict(as_mapping(options or {}, "azure")))
        case tag, options:
            made: type[Any] | None = {name: case for case, name in _S3_TAGS.items()}.get(tag)
            if made is None:
                refuse(f"unknown store {tag!r}")
            store: AnyObjectStoreConfig = made(_s3_options_from(as_mapping(options or {}, tag)))
            return store


def _s3_options_from(stored: Mapping[str, Any]) -> S3Options:
    checksum = stored.get("checksum_algorithm")
    if checksum not in {None, *_CHECKSUMS.values()}:
        refuse(f"unknown checksum algorithm {checksum!r}")
    return S3Options(
        region=stored.get("region"),
        endpoint_url=stored.get("endpoint_url"),
        allow_http=stored.get("allow_http") or False,
        anonymous=stored.get("anonymous") or False,
        force_path_style=stored.get("force_path_style") or False,
        network_stream_timeout_seconds=stored.get("network_stream_timeout_seconds"),
        requester_pays=stored.get("requester_pays") or False,
        checksum_algorithm={name: case for case, name in _CHECKSUMS.items()}.get(checksum or ""),
    )


def _manifest_from(stored: Mapping[str, Any]) -> ManifestConfig:
    return ManifestConfig(
        preload=_read(stored, "preload", _preload_from),
        splitting=_read(stored, "splitting", splitting_from),
        virtual_chunk_location_compression=_read(
            stored,
            "virtual_chunk_location_compression",
            lambda part: _fields_from(ManifestVirtualChunkLocationCompressionConfig, part),
        ),
        max_concurrent_manifest_fetches_during_commit=stored.get(
            "max_concurrent_manifest_fetches_during_commit"
        ),
    )


def _preload_from(stored: Mapping[str, Any]) -> ManifestPreloadConfig:
    condition = stored.get("preload_if")
    return ManifestPreloadConfig(
        max_total_refs=stored.get("max_total_refs"),
        preload_if=None if condition is None else preload_condition_from(condition),
        max_arrays_to_scan=stored.get("max_arrays_to_scan"),
    )
