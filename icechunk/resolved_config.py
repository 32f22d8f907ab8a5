"""The effective configuration of an open repository: frozen, with every default filled in.

`icechunk.config.RepositoryConfig.resolved` makes it from the mutable public config, so that what a
user changes afterwards touches no open repository.

Source: Icechunk specification, sections "Repository configuration" and "Splitting".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from icechunk.manifest_config import UNSPLIT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk.manifest_conditions import AnyDimCondition, AnySplitCondition
    from icechunk.preload_conditions import AnyPreloadCondition
    from icechunk.storage_settings import StorageSettings
    from icechunk.virtual_containers import ContainerSet


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSizes:
    """What is kept of decoded objects; 0 keeps nothing.

    Parameters
    ----------
    num_snapshot_nodes : int
        Nodes of snapshots, of 512 bytes each on average.
    num_chunk_refs : int
        References of manifests, of 48 bytes each on average.
    num_transaction_changes : int
        Changes of transaction logs, of 64 bytes each on average.
    num_bytes_attributes : int
        Bytes of attributes.
    num_bytes_chunks : int
        Bytes of chunks.
    """

    num_snapshot_nodes: int = 500_000
    num_chunk_refs: int = 15_000_000
    num_transaction_changes: int = 0
    num_bytes_attributes: int = 0
    num_bytes_chunks: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRules:
    """How often something is tried, with which pauses.

    Parameters
    ----------
    max_tries : int
        Attempts in all, at least 1.
    initial_backoff_ms : int
        First pause; unit: milliseconds.
    max_backoff_ms : int
        Longest pause; unit: milliseconds.
    """

    max_tries: int = 100
    initial_backoff_ms: int = 50
    max_backoff_ms: int = 30_000


@dataclass(frozen=True, slots=True, kw_only=True)
class LocationCompression:
    """When and how locations of virtual chunks are packed.

    Parameters
    ----------
    min_num_chunks : int
        Least number of references, and of virtual ones, in a manifest.
    dictionary_max_training_samples : int
        Locations the dictionary is trained on.
    dictionary_max_size_bytes : int
        Largest dictionary; unit: bytes.
    compression_level : int
        zstd level.
    """

    min_num_chunks: int = 1000
    dictionary_max_training_samples: int = 100
    dictionary_max_size_bytes: int = 2048
    compression_level: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PreloadRules:
    """Which manifests are fetched as soon as a session opens.

    Parameters
    ----------
    max_total_refs : int
        Stop before the references fetched would be more than this.
    max_arrays_to_scan : int
        Arrays looked at.
    condition : ManifestPreloadCondition
        Which arrays.
    """

    max_total_refs: int
    max_arrays_to_scan: int
    condition: AnyPreloadCondition


@dataclass(frozen=True, slots=True, kw_only=True)
class SplittingRules:
    """How references of an array are cut into manifests, as configured.

    Parameters
    ----------
    rules : tuple of (condition, tuple of (dimension condition, int))
        As in `icechunk.config.ManifestSplittingConfig`.
    """

    rules: tuple[tuple[AnySplitCondition, tuple[tuple[AnyDimCondition, int], ...]], ...]

    def split_for(
        self, path: str, dimension_names: Sequence[str | None] | None, ndim: int
    ) -> tuple[int, ...]:
        """Return how many chunks go into one manifest along each axis of an array.

        Parameters
        ----------
        path : str
            Absolute path of the array.
        dimension_names : sequence of str or None, or None
            Names of its dimensions.
        ndim : int
            Number of its dimensions.

        Returns
        -------
        tuple of int
            Shape ``(ndim,)``; unit: chunks. `icechunk.manifest_config.UNSPLIT` for an axis that
            no rule is about.

        Notes
        -----
        For each axis the first dimension entry that matches counts, over all rules whose array
        condition matches, in order. Source: specification section 9.2. No I/O.
        """
        entries = [e for condition, sizes in self.rules if condition.matches(path) for e in sizes]
        names = dimension_names or (None,) * ndim
        return tuple(
            next((size for condition, size in entries if condition.matches(axis, name)), UNSPLIT)
            for axis, name in zip(range(ndim), names, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedConfig:
    """The effective configuration of an open repository.

    Parameters
    ----------
    inline_chunk_threshold_bytes : int
        Longest chunk that is stored in its manifest; unit: bytes.
    get_partial_values_concurrency : int
        Ranges fetched in parallel by one call.
    max_concurrent_requests : int
        Requests in flight for the repository.
    max_concurrent_decodes : int
        Metadata files decompressed in parallel.
    compression_level : int
        zstd level of metadata files.
    caching : CacheSizes
        What is kept of decoded objects.
    storage : StorageSettings
        The backend's settings with the configured ones over them; a private copy, the three
        ``unsafe_use_*`` flags never None.
    virtual_chunk_containers : ContainerSet
        Usable containers.
    splitting : SplittingRules or None
        None when nothing is configured.
    preload : PreloadRules
        What is fetched early.
    location_compression : LocationCompression
        When virtual locations are packed.
    max_concurrent_manifest_fetches_during_commit : int or None
        Manifests read in parallel by one commit.
    repo_update_retries : RetryRules
        How often an update of the repo object that lost a race is repeated.
    num_updates_per_repo_info_file : int
        Entries of the operations log in one file, at least 1.
    """

    inline_chunk_threshold_bytes: int
    get_partial_values_concurrency: int
    max_concurrent_requests: int
    max_concurrent_decodes: int
    compression_level: int
    caching: CacheSizes
    storage: StorageSettings
    virtual_chunk_containers: ContainerSet
    splitting: SplittingRules | None
    preload: PreloadRules
    location_compression: LocationCompression
    max_concurrent_manifest_fetches_during_commit: int | None
    repo_update_retries: RetryRules
    num_updates_per_repo_info_file: int
