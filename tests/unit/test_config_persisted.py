"""The stored form of the configuration, against what the official package stored."""

from __future__ import annotations

import functools
import json
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.config import (
    ManifestConfig,
    ManifestPreloadCondition,
    ManifestPreloadConfig,
    ManifestSplittingConfig,
    RepositoryConfig,
    S3Options,
    VirtualChunkContainer,
)
from icechunk.errors import FormatError
from icechunk.object_store_config import ObjectStoreConfig, azure_store, gcs_store, http_store
from icechunk.persisted_conditions import Tagged
from icechunk.persisted_config import from_persisted, to_persisted
from icechunk.types import ChecksumAlgorithm
from tests.shared_data import shared_dir
from tests.unit.test_config import full_config
from tests.unit.test_config_peer import executable


def golden():
    return json.loads((shared_dir() / "golden" / "config.json").read_text())["v2-config"]


def test_golden_structure_goes_round():
    stored = golden()["persisted_structure"]
    assert to_persisted(from_persisted(stored)) == stored


def test_golden_config_reads_as_officially():
    described = golden()
    config, official = (
        from_persisted(described["persisted_structure"]),
        described["official_reading"],
    )
    checked = 0
    for path, expected in _leaves(official):
        found = functools.reduce(_child, path, config)
        if isinstance(expected, str) and not isinstance(found, str):
            found = found.name if path[-1] == "algorithm" else repr(found)
            assert found == executable(expected), path
        else:
            assert found == expected, path
        checked += 1
    assert checked > 30


def _leaves(value, path=()):
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _leaves(child, (*path, key))
    else:
        yield path, value


def _child(value, key):
    if isinstance(value, dict):
        return value[key]
    found = getattr(value, key)
    # The sidecar has the rules of the splitting config in place of the config.
    return found.split_sizes if isinstance(found, ManifestSplittingConfig) else found


def test_keys_are_in_the_order_of_the_official_files():
    text = json.loads((shared_dir() / "golden" / "config.json").read_text())["v1-config"]
    lines = text["config_yaml_text"].splitlines()
    tops = [line.partition(":")[0] for line in lines if not line.startswith((" ", "-"))]
    stored = to_persisted(from_persisted(golden()["persisted_structure"]))
    assert list(stored) == tops
    for name in ("caching", "storage", "manifest", "compression"):
        start = lines.index(f"{name}:") + 1
        end = next((i for i in range(start, len(lines)) if lines[i][0] != " "), len(lines))
        inner = [line.strip().partition(":")[0] for line in lines[start:end] if line[2:3] != " "]
        assert list(stored[name]) == inner
    s3 = next(i for i, line in enumerate(lines) if line.endswith("store: !s3"))
    keys = [line.strip().partition(":")[0] for line in lines[s3 + 1 : s3 + 9]]
    assert list(stored["virtual_chunk_containers"]["s3://mybucket/pre/"]["store"]["s3"]) == keys


def test_full_and_empty_configs_go_round():
    assert from_persisted(to_persisted(full_config())) == full_config()
    empty = to_persisted(RepositoryConfig())
    assert set(empty.values()) == {None}
    assert len(empty) == 12
    assert from_persisted(empty) == RepositoryConfig()


def test_missing_and_unknown_keys():
    assert from_persisted({}) == RepositoryConfig()
    stored = {"compression": {"level": 9}, "surprise": [1], "caching": {"more": 1}}
    config = from_persisted(stored)
    assert (config.compression.level, config.compression.algorithm) == (9, None)
    assert config.caching.num_chunk_refs is None


@pytest.mark.parametrize(
    "store",
    [
        ObjectStoreConfig.InMemory(),
        gcs_store({"a": "b"}),
        azure_store(account="acc"),
        http_store({"o": "p"}, {"h": "v"}),
        *[ObjectStoreConfig.S3(S3Options(checksum_algorithm=c)) for c in ChecksumAlgorithm],
    ],
)
def test_stores_go_round(store):
    config = RepositoryConfig(virtual_chunk_containers={"p": VirtualChunkContainer("p/", store)})
    assert from_persisted(to_persisted(config)) == config


def test_store_case_is_tagged_and_one_without_content_is_text():
    stores = (http_store(None, {"h": "v"}), gcs_store(), ObjectStoreConfig.InMemory())
    config = RepositoryConfig(
        virtual_chunk_containers={
            str(i): VirtualChunkContainer("p/", s) for i, s in enumerate(stores)
        }
    )
    stored = [part["store"] for part in to_persisted(config)["virtual_chunk_containers"].values()]
    assert stored == [{"http": {"headers": {"h": "v"}}}, {"gcs": {}}, "in_memory"]
    assert [type(part) for part in stored] == [Tagged, Tagged, str]


def test_bounds_written_by_others_mean_the_same():
    bounds = {"from": {"Excluded": 3}, "to": {"Included": 7}}
    stored = {"manifest": {"preload": {"preload_if": {"num_refs": bounds}}}}
    assert from_persisted(stored).manifest == ManifestConfig(
        preload=ManifestPreloadConfig(preload_if=ManifestPreloadCondition.num_refs(4, 8))
    )


BROKEN = [
    [],
    {"compression": 5},
    {"compression": {"algorithm": "lz4"}},
    {"compression": {"level": 256}},
    {"inline_chunk_threshold_bytes": "512"},
    {"caching": {"num_chunk_refs": -1}},
    {"storage": {"retries": {"max_tries": 0}}},
    {"storage": {"retries": []}},
    {"virtual_chunk_containers": {"a": 1}},
    {"virtual_chunk_containers": {"a": {"url_prefix": "a", "store": None}}},
    {"virtual_chunk_containers": {"a": {"url_prefix": "a", "store": "ftp"}}},
    {"virtual_chunk_containers": {"a": {"url_prefix": 1, "store": "in_memory"}}},
    {"virtual_chunk_containers": {"a": {"store": {"s3": {}, "gcs": {}}}}},
    {"virtual_chunk_containers": {"a": {"store": {"s3": {"checksum_algorithm": "md5"}}}}},
    {"virtual_chunk_containers": {"a": {"store": {"local_file_system": 5}}}},
    {"virtual_chunk_containers": {"a": {"store": {"http": {"headers": 5}}}}},
    {"virtual_chunk_containers": {"a": {"store": {"gcs": {"key": 5}}}}},
    {"manifest": {"splitting": {"split_sizes": 5}}},
    {"manifest": {"splitting": {"split_sizes": [["any_array"]]}}},
    {"manifest": {"splitting": {"split_sizes": [["all", []]]}}},
    {"manifest": {"splitting": {"split_sizes": [["any_array", [{"condition": "Any"}]]]}}},
    {"manifest": {"splitting": {"split_sizes": [["any_array", [{"condition": {"Axis": -1}}]]]}}},
    {"manifest": {"splitting": {"split_sizes": [[{"name_matches": {}}, []]]}}},
    {"manifest": {"preload": {"preload_if": "maybe"}}},
    {"manifest": {"preload": {"preload_if": {"num_refs": {"from": {"Included": "x"}}}}}},
    {"manifest": {"preload": {"preload_if": {"or": "true"}}}},
]


@pytest.mark.parametrize("stored", BROKEN, ids=json.dumps)
def test_malformed_structures_are_format_errors(stored):
    with pytest.raises(FormatError) as caught:
        from_persisted(stored)
    assert caught.value.kind == "config-deserialization"


def test_endless_nesting_is_a_format_error():
    condition = functools.reduce(lambda inner, _: {"or": [inner]}, range(100_000), "true")
    with pytest.raises(FormatError):
        from_persisted({"manifest": {"preload": {"preload_if": condition}}})


def test_unusable_containers_are_kept():
    stored = {"virtual_chunk_containers": {"x": {"url_prefix": "x", "store": "in_memory"}}}
    assert operator.length_hint(from_persisted(stored).virtual_chunk_containers) == 1


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2**33)
    | st.floats()
    | st.sampled_from(["true", "any_array", "Any", "Unbounded", "in_memory", "zstd", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["or", "and", "Axis", "num_refs", "s3", "http", "x"]), inner
        )
    ),
    max_leaves=6,
)


def _paths(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else ()
    children = enumerate(value) if isinstance(value, list) else children
    for key, child in children:
        yield from _paths(child, (*path, key))


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_structures_raise_nothing_but_format_errors(data):
    stored = golden()["persisted_structure"]
    *way, last = data.draw(st.sampled_from([p for p in _paths(stored) if p]))
    functools.reduce(operator.getitem, way, stored)[last] = data.draw(VALUES)
    try:
        config = from_persisted(stored)
    except FormatError:
        return
    assert from_persisted(to_persisted(config)) == config
    config.resolved()
