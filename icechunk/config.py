"""Repository configuration: the public, mutable option classes.

Every option is optional; what is not set takes the repository's stored value, then the default. A
repository copies the config it is given (see `RepositoryConfig.resolved`). This module is the
public face: the classes are defined by subject in the modules it imports from.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

import dataclasses
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from icechunk._earlier.options import (
    EarlierCachingConfig,
    EarlierRepositoryConfig,
    containers_by_prefix,
)
from icechunk._earlier.spelling import takes_earlier
from icechunk._settings import Settings, checked, instance, unsigned
from icechunk.logs import initialize_logs, set_logs_filter, shutdown_telemetry
from icechunk.manifest_conditions import ManifestSplitCondition, ManifestSplitDimCondition
from icechunk.manifest_config import (
    ManifestConfig,
    ManifestPreloadConfig,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
)
from icechunk.object_store_config import AnyObjectStoreConfig, ObjectStoreConfig, S3Options
from icechunk.preload_conditions import DEFAULT_PRELOAD, ManifestPreloadCondition
from icechunk.resolved_config import (
    CacheSizes,
    LocationCompression,
    PreloadRules,
    ResolvedConfig,
    RetryRules,
    SplittingRules,
)
from icechunk.storage_settings import (
    RepoUpdateRetryConfig,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.types import Attribution, CompressionAlgorithm, FeatureFlag
from icechunk.virtual_containers import (
    ContainerSet,
    VirtualChunkContainer,
    container_problem,
    require_usable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AnyObjectStoreConfig",
    "Attribution",
    "CachingConfig",
    "CompressionAlgorithm",
    "CompressionConfig",
    "FeatureFlag",
    "ManifestConfig",
    "ManifestPreloadCondition",
    "ManifestPreloadConfig",
    "ManifestSplitCondition",
    "ManifestSplitDimCondition",
    "ManifestSplittingConfig",
    "ManifestVirtualChunkLocationCompressionConfig",
    "ObjectStoreConfig",
    "RepoUpdateRetryConfig",
    "RepositoryConfig",
    "ResolvedConfig",
    "S3Options",
    "StorageConcurrencySettings",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "VirtualChunkContainer",
    "initialize_logs",
    "set_logs_filter",
    "shutdown_telemetry",
]

logger = logging.getLogger(__name__)
_Frozen = TypeVar("_Frozen")


@takes_earlier(**EarlierCachingConfig.earlier_parameters)
@dataclass(slots=True, repr=False)
class CachingConfig(Settings, EarlierCachingConfig):
    """How much of decoded objects is kept in memory.

    Parameters
    ----------
    num_snapshot_nodes : int or None
        Nodes of snapshots; 500000. They take at most 512 bytes each on average, 256 MB in all.
    num_chunk_refs : int or None
        References of manifests; 15000000. They take at most 48 bytes each on average, 720 MB in
        all.
    num_transaction_changes : int or None
        Changes of transaction logs; 0. They take at most 64 bytes each on average.
    num_bytes_attributes : int or None
        Kept with the configuration, and without effect: attributes are part of the snapshot.
    num_bytes_chunks : int or None
        Bytes of native chunks, as they are stored; 0.

    Notes
    -----
    Each open repository has caches of its own. What was used longest ago makes room as soon as
    either the number or the memory is reached: many small commits, long documents, inline chunks
    and long locations take more than the average. A single snapshot or manifest that takes more
    memory than all may is kept alone, as long as its number is within the limit.

    Examples
    --------
    >>> caching = icechunk.CachingConfig(num_chunk_refs=1_000_000)
    >>> config = icechunk.RepositoryConfig(caching=caching)
    """

    _display_name: ClassVar[str] = "icechunk.config.CachingConfig"

    num_snapshot_nodes: int | None = unsigned(64)
    num_chunk_refs: int | None = unsigned(64)
    num_transaction_changes: int | None = unsigned(64)
    num_bytes_attributes: int | None = unsigned(64)
    num_bytes_chunks: int | None = unsigned(64)

    @staticmethod
    def default() -> CachingConfig:
        """Return a config with nothing set."""
        return CachingConfig()

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return dataclasses.asdict(CacheSizes())


@dataclass(slots=True, repr=False)
class CompressionConfig(Settings):
    """How metadata files are compressed.

    Parameters
    ----------
    algorithm : CompressionAlgorithm or None
        zstd, the only one.
    level : int or None
        Its level; 3.

    Examples
    --------
    >>> config = icechunk.RepositoryConfig(compression=icechunk.CompressionConfig(level=9))
    """

    _display_name: ClassVar[str] = "icechunk.config.CompressionConfig"

    algorithm: CompressionAlgorithm | None = instance(CompressionAlgorithm)
    level: int | None = unsigned(8)

    @staticmethod
    def default() -> CompressionConfig:
        """Return a config with nothing set."""
        return CompressionConfig()

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {"algorithm": CompressionAlgorithm.Zstd, "level": 3}


def _checked_containers(value: Any) -> dict[str, VirtualChunkContainer]:
    for prefix, container in value.items():
        if not isinstance(prefix, str) or not isinstance(container, VirtualChunkContainer):
            raise TypeError("expected a dict of url prefixes and VirtualChunkContainer")
    return dict(value)


@dataclass(slots=True, repr=False, init=False)
class RepositoryConfig(Settings, EarlierRepositoryConfig):
    """Configuration of a repository; every option may be None.

    Parameters
    ----------
    inline_chunk_threshold_bytes : int or None
        Chunks up to this length are stored in the manifest; 512. Unit: bytes.
    get_partial_values_concurrency : int or None
        Requests for chunks made in parallel by one call of the store's `get_partial_values`; 10.
    compression : CompressionConfig or None
        Compression of metadata files.
    max_concurrent_requests : int or None
        Requests in flight for the repository; 256.
    caching : CachingConfig or None
        What is kept in memory.
    storage : StorageSettings or None
        How the storage is used; from the backend.
    virtual_chunk_containers : dict of str to VirtualChunkContainer, or None
        Places that virtual chunks may be read from, by url prefix.
    manifest : ManifestConfig or None
        Options of manifests.
    repo_update_retries : RepoUpdateRetryConfig or None
        Repeating an update of the repo object that lost a race.
    num_updates_per_repo_info_file : int or None
        Entries of the operations log in one file; 1000.
    max_concurrent_decodes : int or None
        Large metadata files decompressed in parallel; the number of cores.

    Examples
    --------
    >>> config = icechunk.RepositoryConfig.default()
    >>> config.inline_chunk_threshold_bytes = 1024
    >>> repo = icechunk.Repository.create(icechunk.in_memory_storage(), config)
    """

    _display_name: ClassVar[str] = "icechunk.config.RepositoryConfig"
    _display_order: ClassVar[tuple[str, ...] | None] = (
        "inline_chunk_threshold_bytes",
        "get_partial_values_concurrency",
        "max_concurrent_requests",
        "max_concurrent_decodes",
        "num_updates_per_repo_info_file",
        "compression",
        "caching",
        "storage",
        "manifest",
        "repo_update_retries",
        "virtual_chunk_containers",
    )

    inline_chunk_threshold_bytes: int | None = unsigned(16)
    get_partial_values_concurrency: int | None = unsigned(16)
    compression: CompressionConfig | None = instance(CompressionConfig)
    max_concurrent_requests: int | None = unsigned(16)
    caching: CachingConfig | None = instance(CachingConfig)
    storage: StorageSettings | None = instance(StorageSettings)
    _containers: dict[str, VirtualChunkContainer] | None = checked(_checked_containers)
    manifest: ManifestConfig | None = instance(ManifestConfig)
    repo_update_retries: RepoUpdateRetryConfig | None = instance(RepoUpdateRetryConfig)
    num_updates_per_repo_info_file: int | None = unsigned(16)
    max_concurrent_decodes: int | None = unsigned(16)

    def __init__(
        self,
        inline_chunk_threshold_bytes: int | None = None,
        get_partial_values_concurrency: int | None = None,
        compression: CompressionConfig | None = None,
        max_concurrent_requests: int | None = None,
        caching: CachingConfig | None = None,
        storage: StorageSettings | None = None,
        virtual_chunk_containers: Mapping[str, VirtualChunkContainer] | None = None,
        manifest: ManifestConfig | None = None,
        repo_update_retries: RepoUpdateRetryConfig | None = None,
        num_updates_per_repo_info_file: int | None = None,
        max_concurrent_decodes: int | None = None,
    ) -> None:
        self.inline_chunk_threshold_bytes = inline_chunk_threshold_bytes
        self.get_partial_values_concurrency = get_partial_values_concurrency
        self.compression = compression
        self.max_concurrent_requests = max_concurrent_requests
        self.caching = caching
        self.storage = storage
        self._containers = (
            None if virtual_chunk_containers is None else {**virtual_chunk_containers}
        )
        self.manifest = manifest
        self.repo_update_retries = repo_update_retries
        self.num_updates_per_repo_info_file = num_updates_per_repo_info_file
        self.max_concurrent_decodes = max_concurrent_decodes

    @staticmethod
    def default() -> RepositoryConfig:
        """Return a config with nothing set."""
        return RepositoryConfig()

    @property
    def previous_file(self) -> str | None:
        """Return None: reserved in the format, and never set."""
        return None

    @property
    def virtual_chunk_containers(self) -> dict[str, VirtualChunkContainer] | None:
        """Return a copy of the containers by url prefix; None when not set."""
        return None if self._containers is None else dict(self._containers)

    @virtual_chunk_containers.setter
    def virtual_chunk_containers(self, value: dict[str, VirtualChunkContainer]) -> None:
        self._containers = containers_by_prefix(value)

    def set_virtual_chunk_container(self, cont: VirtualChunkContainer) -> None:
        """Add a container, in place of any with the same url prefix or the same name.

        Parameters
        ----------
        cont : VirtualChunkContainer
            The container.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-virtual-ref``; its prefix or name cannot be used, or the prefix does
            not fit its store.

        Examples
        --------
        >>> config = icechunk.RepositoryConfig.default()
        >>> store = icechunk.s3_store(region="us-east-1")
        >>> container = icechunk.VirtualChunkContainer("s3://bucket/", store)
        >>> config.set_virtual_chunk_container(container)
        """
        require_usable(cont)
        kept = {
            prefix: other
            for prefix, other in (self._containers or {}).items()
            if prefix != cont.url_prefix and (cont.name is None or other.name != cont.name)
        }
        self._containers = {**kept, cont.url_prefix: cont}

    def get_virtual_chunk_container(self, name: str) -> VirtualChunkContainer | None:
        """Return a container by its url prefix or its name; None when there is none.

        Examples
        --------
        >>> icechunk.RepositoryConfig.default().get_virtual_chunk_container("s3://bucket/") is None
        True
        """
        containers = self._containers or {}
        named = (c for c in containers.values() if c.name == name)
        return containers.get(name) or next(named, None)

    def clear_virtual_chunk_containers(self) -> None:
        """Remove all containers.

        Examples
        --------
        >>> config = icechunk.RepositoryConfig.default()
        >>> config.clear_virtual_chunk_containers()
        """
        self._containers = {}

    def require_usable_containers(self) -> None:
        """Refuse a config with a container that cannot be used.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-virtual-ref``.
        """
        for container in (self._containers or {}).values():
            require_usable(container)

    def resolved(self, storage_defaults: StorageSettings | None = None) -> ResolvedConfig:
        """Return the frozen effective config, with every default filled in.

        Parameters
        ----------
        storage_defaults : StorageSettings or None
            The backend's own settings, which ``storage`` goes over.

        Returns
        -------
        ResolvedConfig
            Shares nothing with this config.

        Notes
        -----
        Containers that cannot be used are left out with a logged warning: a stored config may
        hold such. 0 counts as 1 where nothing would move otherwise.
        """
        manifest = self.manifest or ManifestConfig()
        compression = self.compression or CompressionConfig()
        retries = (self.repo_update_retries or RepoUpdateRetryConfig()).default
        return ResolvedConfig(
            inline_chunk_threshold_bytes=_default(self.inline_chunk_threshold_bytes, 512),
            get_partial_values_concurrency=max(
                1, _default(self.get_partial_values_concurrency, 10)
            ),
            max_concurrent_requests=max(1, _default(self.max_concurrent_requests, 256)),
            max_concurrent_decodes=max(1, _default(self.max_concurrent_decodes, _cores())),
            compression_level=_default(compression.level, 3),
            caching=_filled(CacheSizes(), self.caching),
            storage=_resolved_storage(self.storage, storage_defaults),
            virtual_chunk_containers=self._usable_containers(),
            splitting=_resolved_splitting(manifest.splitting),
            preload=_resolved_preload(manifest.preload),
            location_compression=_filled(
                LocationCompression(), manifest.virtual_chunk_location_compression
            ),
            max_concurrent_manifest_fetches_during_commit=(
                manifest.max_concurrent_manifest_fetches_during_commit
            ),
            repo_update_retries=_filled(RetryRules(), retries),
            num_updates_per_repo_info_file=max(
                1, _default(self.num_updates_per_repo_info_file, 1000)
            ),
        )

    def _usable_containers(self) -> ContainerSet:
        usable = []
        for container in (self._containers or {}).values():
            problem = container_problem(container)
            if problem is None:
                usable.append(dataclasses.replace(container))
            else:
                logger.warning("virtual chunk container left out: %s", problem)
        return ContainerSet.of(usable)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {
            "inline_chunk_threshold_bytes": 512,
            "get_partial_values_concurrency": 10,
            "max_concurrent_requests": 256,
            "max_concurrent_decodes": _cores(),
            "num_updates_per_repo_info_file": 1000,
            "compression": CompressionConfig(),
            "caching": CachingConfig(),
            "manifest": ManifestConfig(),
            "repo_update_retries": RepoUpdateRetryConfig(),
        }


def _cores() -> int:
    return os.cpu_count() or 1


def _default(value: int | None, default: int) -> int:
    return default if value is None else value


def _filled(frozen: _Frozen, options: Settings | None) -> _Frozen:
    """Return the frozen value with every option that is set in place of its default."""
    given = {f.name: getattr(options, f.name, None) for f in dataclasses.fields(frozen)}  # type: ignore[arg-type] # a dataclass
    return dataclasses.replace(frozen, **{k: v for k, v in given.items() if v is not None})  # type: ignore[type-var] # a dataclass


def _resolved_storage(
    configured: StorageSettings | None, defaults: StorageSettings | None
) -> StorageSettings:
    safe = StorageSettings(
        unsafe_use_conditional_create=True,
        unsafe_use_conditional_update=True,
        unsafe_use_metadata=True,
    )
    return safe.merge(defaults or StorageSettings()).merge(configured or StorageSettings())


def _resolved_splitting(options: ManifestSplittingConfig | None) -> SplittingRules | None:
    if options is None or options.split_sizes is None:
        return None
    rules = ((condition, tuple(sizes)) for condition, sizes in options.split_sizes)
    return SplittingRules(rules=tuple(rules))


def _resolved_preload(options: ManifestPreloadConfig | None) -> PreloadRules:
    given = options or ManifestPreloadConfig()
    return PreloadRules(
        max_total_refs=_default(given.max_total_refs, 10_000),
        max_arrays_to_scan=_default(given.max_arrays_to_scan, 50),
        condition=given.preload_if or DEFAULT_PRELOAD,
    )
