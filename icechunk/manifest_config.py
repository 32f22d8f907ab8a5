"""Options of manifests: splitting, preloading, packing of virtual locations.

Public path: `icechunk.config`.

Source: Icechunk specification, sections "Repository configuration" and "Splitting".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from icechunk._cases import members
from icechunk._settings import Settings, checked, instance, signed, unsigned
from icechunk.manifest_conditions import (
    AnyDimCondition,
    AnySplitCondition,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
)
from icechunk.preload_conditions import AnyPreloadCondition, ManifestPreloadCondition

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SplitRules: TypeAlias = "Sequence[tuple[AnySplitCondition, Sequence[tuple[AnyDimCondition, int]]]]"
"""Array conditions, each with dimension conditions and chunks per manifest."""

UNSPLIT: Final = 2**32 - 1
"""Chunks per manifest along an axis that is not split: more than any axis has. Unit: chunks."""


@dataclass(slots=True, repr=False)
class ManifestPreloadConfig(Settings):
    """Which manifests are fetched as soon as a session opens.

    Parameters
    ----------
    max_total_refs : int or None
        Stop before the references fetched would be more than this; 10000.
    preload_if : ManifestPreloadCondition or None
        Which arrays; small ones with names of coordinates.
    max_arrays_to_scan : int or None
        Arrays looked at; 50.
    """

    _display_name: ClassVar[str] = "icechunk.config.ManifestPreloadConfig"

    max_total_refs: int | None = unsigned(32)
    preload_if: AnyPreloadCondition | None = instance(ManifestPreloadCondition)
    max_arrays_to_scan: int | None = unsigned(32)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {"max_total_refs": 10_000, "max_arrays_to_scan": 50}


def _checked_split_sizes(value: Any) -> SplitRules:
    if isinstance(value, str | dict):
        raise TypeError(f"expected a list of pairs, not {type(value).__name__}")
    rules: list[tuple[AnySplitCondition, list[tuple[AnyDimCondition, int]]]] = []
    for condition, entries in value:
        (checked_condition,) = members([condition], ManifestSplitCondition)
        rules.append((checked_condition, [_checked_entry(*entry) for entry in entries]))
    return rules


def _checked_entry(condition: Any, num_chunks: Any) -> tuple[AnyDimCondition, int]:
    (checked_condition,) = members([condition], ManifestSplitDimCondition)
    number = operator.index(num_chunks)
    if not 1 <= number <= UNSPLIT:
        raise ValueError(f"chunks per manifest must be between 1 and {UNSPLIT}, got {number}")
    return checked_condition, number


@dataclass(slots=True, repr=False)
class ManifestSplittingConfig(Settings):
    """How the references of an array are cut into several manifests.

    Parameters
    ----------
    split_sizes : sequence of (condition, sequence of (dimension condition, int)), or None
        For each kind of array, chunks per manifest along each kind of dimension; the first that
        fits counts. Unit: chunks, at least 1.
    """

    _display_name: ClassVar[str] = "icechunk.config.ManifestSplittingConfig"

    split_sizes: SplitRules | None = checked(_checked_split_sizes)

    @staticmethod
    def from_dict(
        split_sizes: Mapping[AnySplitCondition, Mapping[AnyDimCondition, int]],
    ) -> ManifestSplittingConfig:
        """Make the config from nested dictionaries.

        Parameters
        ----------
        split_sizes : mapping of condition to mapping of dimension condition to int
            Chunks per manifest; the order of the dictionaries counts.

        Returns
        -------
        ManifestSplittingConfig
            The config.

        Examples
        --------
        >>> by_time = {icechunk.ManifestSplitDimCondition.DimensionName("time"): 1000}
        >>> everywhere = icechunk.ManifestSplitCondition.AnyArray()
        >>> splitting = icechunk.ManifestSplittingConfig.from_dict({everywhere: by_time})
        """
        return ManifestSplittingConfig(
            [(condition, list(entries.items())) for condition, entries in split_sizes.items()]
        )

    def to_dict(config) -> dict[AnySplitCondition, dict[AnyDimCondition, int]]:  # noqa: N805 # its official name
        """Return the rules as nested dictionaries; empty when none are set."""
        return {condition: dict(entries) for condition, entries in config.split_sizes or ()}


@dataclass(slots=True, repr=False)
class ManifestVirtualChunkLocationCompressionConfig(Settings):
    """When and how locations of virtual chunks are packed.

    Parameters
    ----------
    min_num_chunks : int or None
        Least number of references, and of virtual ones, in a manifest; 1000.
    dictionary_max_training_samples : int or None
        Locations the dictionary is trained on; 100.
    dictionary_max_size_bytes : int or None
        Largest dictionary, in bytes; 2048.
    compression_level : int or None
        zstd level; 3.
    """

    _display_name: ClassVar[str] = "icechunk.config.ManifestVirtualChunkLocationCompressionConfig"

    min_num_chunks: int | None = unsigned(16)
    dictionary_max_training_samples: int | None = unsigned(16, keyword=True)
    dictionary_max_size_bytes: int | None = unsigned(32, keyword=True)
    compression_level: int | None = signed(32, keyword=True)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {
            "min_num_chunks": 1000,
            "dictionary_max_training_samples": 100,
            "dictionary_max_size_bytes": 2048,
            "compression_level": 3,
        }


@dataclass(slots=True, repr=False)
class ManifestConfig(Settings):
    """Options of manifests.

    Parameters
    ----------
    preload : ManifestPreloadConfig or None
        Which are fetched early.
    splitting : ManifestSplittingConfig or None
        How references are cut into manifests.
    virtual_chunk_location_compression : ManifestVirtualChunkLocationCompressionConfig or None
        When virtual locations are packed.
    max_concurrent_manifest_fetches_during_commit : int or None
        Manifests read in parallel by the commits of a repository. Where it is not set: all that are
        needed, by up to 8 arrays of 16 each.

    Examples
    --------
    >>> manifest = icechunk.ManifestConfig(preload=icechunk.ManifestPreloadConfig(max_total_refs=0))
    """

    _display_name: ClassVar[str] = "icechunk.config.ManifestConfig"

    preload: ManifestPreloadConfig | None = instance(ManifestPreloadConfig, replaced_whole=True)
    splitting: ManifestSplittingConfig | None = instance(
        ManifestSplittingConfig, replaced_whole=True
    )
    virtual_chunk_location_compression: ManifestVirtualChunkLocationCompressionConfig | None = (
        instance(ManifestVirtualChunkLocationCompressionConfig)
    )
    max_concurrent_manifest_fetches_during_commit: int | None = unsigned(16)

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {
            "preload": ManifestPreloadConfig(),
            "splitting": _SHOWN_DEFAULT_SPLITTING,
            "virtual_chunk_location_compression": ManifestVirtualChunkLocationCompressionConfig(),
            "max_concurrent_manifest_fetches_during_commit": 1,
        }


# What the reference shows where nothing is set: no axis is ever split.
_SHOWN_DEFAULT_SPLITTING: Final = ManifestSplittingConfig(
    [
        (
            ManifestSplitCondition.path_matches(".*"),
            [(ManifestSplitDimCondition.Any(), UNSPLIT)],
        )
    ]
)
