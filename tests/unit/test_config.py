"""Configuration classes: fields and their bounds, merging, copying, what they show."""

from __future__ import annotations

import copy
import logging
import pickle

import pytest

import icechunk
from icechunk.config import (
    CachingConfig,
    CompressionAlgorithm,
    CompressionConfig,
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    ManifestVirtualChunkLocationCompressionConfig,
    RepositoryConfig,
    RepoUpdateRetryConfig,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
    VirtualChunkContainer,
)
from icechunk.errors import InvalidInputError
from icechunk.manifest_config import UNSPLIT
from icechunk.object_store_config import local_filesystem_store, s3_store
from icechunk.resolved_config import LocationCompression

SPLITTING = ManifestSplittingConfig.from_dict(
    {ManifestSplitCondition.name_matches("^t"): {ManifestSplitDimCondition.Axis(0): 3}}
)


def full_config() -> RepositoryConfig:
    """Return a config with a value in every field."""
    return RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        get_partial_values_concurrency=2,
        compression=CompressionConfig(CompressionAlgorithm.Zstd, 4),
        max_concurrent_requests=5,
        caching=CachingConfig(1, 2, 3, 4, 5),
        storage=StorageSettings(
            concurrency=StorageConcurrencySettings(1, 2),
            retries=StorageRetriesSettings(1, 2, 3),
            unsafe_use_conditional_create=True,
            unsafe_use_conditional_update=False,
            unsafe_use_metadata=True,
            storage_class="A",
            metadata_storage_class="B",
            chunks_storage_class="C",
            minimum_size_for_multipart_upload=9,
            timeouts=StorageTimeoutSettings(1, 2, 3, 4),
        ),
        virtual_chunk_containers={
            "s3://b/": VirtualChunkContainer("s3://b/", s3_store(region="r"), "name")
        },
        manifest=ManifestConfig(
            preload=ManifestPreloadConfig(1, ManifestPreloadCondition.true(), 2),
            splitting=SPLITTING,
            virtual_chunk_location_compression=ManifestVirtualChunkLocationCompressionConfig(
                1,
                dictionary_max_training_samples=2,
                dictionary_max_size_bytes=3,
                compression_level=-1,
            ),
            max_concurrent_manifest_fetches_during_commit=7,
        ),
        repo_update_retries=RepoUpdateRetryConfig(StorageRetriesSettings(4, 5, 6)),
        num_updates_per_repo_info_file=8,
        max_concurrent_decodes=9,
    )


def test_equality_is_by_value_and_nothing_is_hashable():
    assert full_config() == full_config()
    assert RepositoryConfig() == RepositoryConfig.default()
    assert RepositoryConfig(max_concurrent_requests=1) != RepositoryConfig()
    assert CachingConfig.default() == CachingConfig()
    assert CompressionConfig.default() == CompressionConfig()
    with pytest.raises(TypeError):
        hash(RepositoryConfig())


def test_pickles_and_copies():
    config = full_config()
    assert pickle.loads(pickle.dumps(config)) == config
    twin = copy.deepcopy(config)
    twin.caching.num_chunk_refs = 99
    assert config.caching.num_chunk_refs == 2


def test_every_field_can_be_set_later():
    config, full = RepositoryConfig(), full_config()
    for name in (
        "inline_chunk_threshold_bytes",
        "get_partial_values_concurrency",
        "compression",
        "max_concurrent_requests",
        "caching",
        "storage",
        "manifest",
        "repo_update_retries",
        "num_updates_per_repo_info_file",
        "max_concurrent_decodes",
    ):
        setattr(config, name, getattr(full, name))
    config.set_virtual_chunk_container(full.get_virtual_chunk_container("name"))
    assert config == full
    config.caching = None
    assert config.caching is None


def test_misspelled_and_reserved_names():
    config = RepositoryConfig()
    with pytest.raises(AttributeError):
        config.inline_chunk_treshold = 5
    with pytest.raises(AttributeError):
        config.previous_file = "x"
    assert config.previous_file is None


@pytest.mark.parametrize(
    ("kind", "name", "value", "error"),
    [
        (RepositoryConfig, "inline_chunk_threshold_bytes", 2**16, ValueError),
        (RepositoryConfig, "inline_chunk_threshold_bytes", -1, ValueError),
        (RepositoryConfig, "inline_chunk_threshold_bytes", 1.0, TypeError),
        (RepositoryConfig, "max_concurrent_requests", "5", TypeError),
        (RepositoryConfig, "num_updates_per_repo_info_file", 2**16, ValueError),
        (RepositoryConfig, "caching", CompressionConfig(), TypeError),
        (RepositoryConfig, "virtual_chunk_containers", {"s3://a/": 1}, TypeError),
        (CachingConfig, "num_chunk_refs", 2**64, ValueError),
        (CompressionConfig, "level", 256, ValueError),
        (CompressionConfig, "algorithm", "zstd", TypeError),
        (StorageConcurrencySettings, "ideal_concurrent_request_size", 0, ValueError),
        (StorageRetriesSettings, "max_tries", 0, ValueError),
        (StorageRetriesSettings, "max_backoff_ms", 2**32, ValueError),
        (StorageSettings, "storage_class", 5, TypeError),
        (StorageSettings, "unsafe_use_metadata", 1, TypeError),
        (ManifestPreloadConfig, "preload_if", "true", TypeError),
        (ManifestSplittingConfig, "split_sizes", {1: 2}, TypeError),
        (ManifestSplittingConfig, "split_sizes", [(1, [])], TypeError),
        (ManifestVirtualChunkLocationCompressionConfig, "min_num_chunks", 2**16, ValueError),
    ],
)
def test_refused_values_name_the_field(kind, name, value, error):
    with pytest.raises(error) as caught:
        kind(**{name: value})
    assert any(name in note or "containers" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("size", [0, -1, 2**32])
def test_split_size_bounds(size):
    with pytest.raises(ValueError, match="between 1 and"):
        ManifestSplittingConfig(
            [(ManifestSplitCondition.AnyArray(), [(ManifestSplitDimCondition.Any(), size)])]
        )


def test_splitting_dictionaries():
    sizes = {
        ManifestSplitCondition.AnyArray(): {
            ManifestSplitDimCondition.DimensionName("t"): 2,
            ManifestSplitDimCondition.Any(): 5,
        }
    }
    assert ManifestSplittingConfig.from_dict(sizes).to_dict() == sizes
    assert ManifestSplittingConfig().to_dict() == {}


def test_merge_goes_field_by_field():
    first = RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        caching=CachingConfig(num_snapshot_nodes=1, num_chunk_refs=2),
        storage=StorageSettings(retries=StorageRetriesSettings(1, 2, 3), storage_class="A"),
    )
    second = RepositoryConfig(
        max_concurrent_requests=9,
        caching=CachingConfig(num_chunk_refs=20),
        storage=StorageSettings(retries=StorageRetriesSettings(10), unsafe_use_metadata=False),
    )
    merged = first.merge(second)
    assert merged == RepositoryConfig(
        inline_chunk_threshold_bytes=1,
        max_concurrent_requests=9,
        caching=CachingConfig(num_snapshot_nodes=1, num_chunk_refs=20),
        storage=StorageSettings(
            retries=StorageRetriesSettings(10, 2, 3), storage_class="A", unsafe_use_metadata=False
        ),
    )
    merged.caching.num_chunk_refs = 0
    assert (first.caching.num_chunk_refs, second.caching.num_chunk_refs) == (2, 20)


def test_merge_replaces_containers_preload_and_splitting_whole():
    store = s3_store()
    first = RepositoryConfig(
        virtual_chunk_containers={"s3://a/": VirtualChunkContainer("s3://a/", store)},
        manifest=ManifestConfig(
            preload=ManifestPreloadConfig(1, None, 2),
            splitting=SPLITTING,
            max_concurrent_manifest_fetches_during_commit=3,
        ),
    )
    second = RepositoryConfig(
        virtual_chunk_containers={"s3://b/": VirtualChunkContainer("s3://b/", store)},
        manifest=ManifestConfig(
            preload=ManifestPreloadConfig(None, None, 22), splitting=ManifestSplittingConfig([])
        ),
    )
    merged = first.merge(second)
    assert list(merged.virtual_chunk_containers) == ["s3://b/"]
    assert merged.manifest == ManifestConfig(
        preload=ManifestPreloadConfig(None, None, 22),
        splitting=ManifestSplittingConfig([]),
        max_concurrent_manifest_fetches_during_commit=3,
    )
    assert list(first.merge(RepositoryConfig()).virtual_chunk_containers) == ["s3://a/"]
    cleared = RepositoryConfig()
    cleared.clear_virtual_chunk_containers()
    assert first.merge(cleared).virtual_chunk_containers == {}


def test_merge_wants_the_same_class():
    with pytest.raises(TypeError, match="RepositoryConfig"):
        RepositoryConfig().merge(CachingConfig())


def test_containers_are_keyed_by_prefix_and_unique_by_name():
    config = RepositoryConfig()
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://a/", s3_store(), "n"))
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://b/", s3_store(), "n"))
    config.set_virtual_chunk_container(VirtualChunkContainer("s3://b/c/", s3_store()))
    assert list(config.virtual_chunk_containers) == ["s3://b/", "s3://b/c/"]
    assert config.get_virtual_chunk_container("n").url_prefix == "s3://b/"
    assert config.get_virtual_chunk_container("s3://b/c/").name is None
    assert config.get_virtual_chunk_container("s3://a/") is None
    config.virtual_chunk_containers.clear()
    assert len(config.virtual_chunk_containers) == 2
    config.clear_virtual_chunk_containers()
    assert config.virtual_chunk_containers == {}


def test_unusable_container_is_refused_when_set_and_when_asked():
    bad = VirtualChunkContainer("s3://a", s3_store())
    with pytest.raises(InvalidInputError, match="must end in a /"):
        RepositoryConfig().set_virtual_chunk_container(bad)
    config = RepositoryConfig(virtual_chunk_containers={"s3://a": bad})
    with pytest.raises(InvalidInputError):
        config.require_usable_containers()
    full_config().require_usable_containers()


# --- the effective config ---------------------------------------------------------------------


def test_resolved_defaults():
    resolved = RepositoryConfig().resolved()
    assert (resolved.inline_chunk_threshold_bytes, resolved.compression_level) == (512, 3)
    assert resolved.get_partial_values_concurrency == 10
    assert resolved.max_concurrent_requests == 256
    assert resolved.max_concurrent_decodes >= 1
    assert resolved.num_updates_per_repo_info_file == 1000
    assert resolved.max_concurrent_manifest_fetches_during_commit is None
    assert resolved.splitting is None
    assert resolved.caching.num_snapshot_nodes == 500_000
    assert resolved.caching.num_chunk_refs == 15_000_000
    assert resolved.repo_update_retries.max_tries == 100
    assert resolved.location_compression == LocationCompression()
    assert (resolved.preload.max_total_refs, resolved.preload.max_arrays_to_scan) == (10_000, 50)
    assert len(resolved.virtual_chunk_containers) == 0
    assert resolved.storage.unsafe_use_conditional_update is True


def test_resolved_takes_what_is_set():
    resolved = full_config().resolved(StorageSettings(unsafe_use_conditional_create=False))
    assert resolved.inline_chunk_threshold_bytes == 1
    assert resolved.compression_level == 4
    assert resolved.caching.num_bytes_chunks == 5
    assert resolved.location_compression.compression_level == -1
    assert resolved.repo_update_retries.max_backoff_ms == 6
    assert resolved.splitting.split_for("/g/time", None, 2) == (3, UNSPLIT)
    assert resolved.preload.condition == ManifestPreloadCondition.true()
    assert [c.name for c in resolved.virtual_chunk_containers.by_length] == ["name"]


def test_resolved_storage_goes_over_the_backend():
    backend = StorageSettings(
        concurrency=StorageConcurrencySettings(5, 1), unsafe_use_conditional_update=False
    )
    config = RepositoryConfig(storage=StorageSettings(concurrency=StorageConcurrencySettings(7)))
    storage = config.resolved(backend).storage
    assert storage.concurrency == StorageConcurrencySettings(7, 1)
    assert storage.unsafe_use_conditional_update is False
    assert storage.unsafe_use_metadata is True


def test_resolved_shares_nothing_with_its_config():
    config = full_config()
    resolved = config.resolved()
    config.storage.storage_class = "Z"
    config.get_virtual_chunk_container("name").name = "other"
    config.manifest.splitting.split_sizes.clear()
    assert resolved.storage.storage_class == "A"
    assert resolved.virtual_chunk_containers.by_length[0].name == "name"
    assert resolved.splitting.rules
    assert pickle.loads(pickle.dumps(resolved)) == resolved


def test_resolved_counts_zero_as_one_where_nothing_would_move():
    zero = RepositoryConfig(0, 0, None, 0, None, None, None, None, None, 0, 0).resolved()
    assert zero.inline_chunk_threshold_bytes == 0
    assert zero.get_partial_values_concurrency == 1
    assert zero.max_concurrent_requests == zero.max_concurrent_decodes == 1
    assert zero.num_updates_per_repo_info_file == 1


def test_resolved_leaves_out_unusable_containers(caplog):
    config = RepositoryConfig(
        virtual_chunk_containers={
            "s3://a": VirtualChunkContainer("s3://a", s3_store()),
            "file:///d/": VirtualChunkContainer("file:///d/", local_filesystem_store("/d")),
        }
    )
    with caplog.at_level(logging.WARNING, logger="icechunk.config"):
        containers = config.resolved().virtual_chunk_containers
    assert [c.url_prefix for c in containers.by_length] == ["file:///d/"]
    assert "s3://a" in caplog.text


# --- what is shown ----------------------------------------------------------------------------


def test_repr_is_the_constructor_call():
    settings = StorageConcurrencySettings(3)
    assert repr(settings) == (
        "icechunk.storage.StorageConcurrencySettings(\n"
        "    max_concurrent_requests_for_object=3,\n"
        "    ideal_concurrent_request_size=None,\n"
        ")"
    )


@pytest.mark.parametrize("text", [r"t\d+\b", 'a "b"', "it's", "a\nb", "ä\\"])
def test_repr_makes_the_same_value_whatever_the_text(text):
    container = VirtualChunkContainer(f"s3://bucket/{text}/", icechunk.s3_store(region=text))
    axis = ManifestSplitDimCondition.DimensionName(text)
    splitting = {ManifestSplitCondition.path_matches(text): {axis: 3}}
    for value in [
        ManifestSplitCondition.path_matches(text),
        ManifestSplitCondition.name_matches(text),
        ManifestPreloadCondition.path_matches(text),
        ManifestPreloadCondition.or_conditions([ManifestPreloadCondition.name_matches(text)]),
        axis,
        StorageSettings(storage_class=text),
        container,
        icechunk.gcs_store({"option": text}),
        icechunk.http_store({"option": text}, {"header": text}),
        local_filesystem_store(text),
        CompressionConfig(algorithm=CompressionAlgorithm.Zstd),
        ManifestSplittingConfig.from_dict(
            {
                ManifestSplitCondition.AnyArray(): {
                    ManifestSplitDimCondition.Axis(0): 3,
                    ManifestSplitDimCondition.Any(): 4,
                }
            }
        ),
        icechunk.VirtualChunkSpec([0], text, 0, 1),
        RepositoryConfig(
            virtual_chunk_containers={container.url_prefix: container},
            manifest=ManifestConfig(splitting=ManifestSplittingConfig.from_dict(splitting)),
        ),
    ]:
        assert eval(repr(value), {"icechunk": icechunk}) == value
    error = icechunk.StorageError(text)
    assert eval(repr(error), {"icechunk": icechunk}).message == text


def test_str_fills_in_defaults_and_says_so():
    assert str(CompressionConfig(level=5)) == (
        "<icechunk.config.CompressionConfig>\nalgorithm: Zstd (default)\nlevel: 5\n"
    )
    assert "    level: 3 (default)\n" in str(RepositoryConfig())


def test_html_nests_and_escapes():
    config = RepositoryConfig(storage=StorageSettings(storage_class="<b>&"))
    html = config._repr_html_()
    assert "&lt;b&gt;&amp;" in html
    assert "<b>" not in html
    assert html.count("<style>") == 1
    assert html.count("<details>") == html.count("</details>") > 3
