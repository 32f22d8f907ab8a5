"""Virtual chunk containers: which are usable, which location belongs to which, references."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from icechunk.config import ObjectStoreConfig, S3Options
from icechunk.errors import InvalidInputError
from icechunk.object_store_config import (
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk.types import ChecksumAlgorithm
from icechunk.virtual import VirtualChunkContainer, VirtualChunkSpec
from icechunk.virtual_containers import ContainerSet, container_problem

STORES = {
    "s3": s3_store(),
    "compatible": s3_store(s3_compatible=True),
    "tigris": ObjectStoreConfig.Tigris(S3Options()),
    "local": local_filesystem_store("/a"),
    "http": http_store(),
    "gcs": gcs_store(),
    "azure": azure_store(account="a"),
    "memory": ObjectStoreConfig.InMemory(),
}


@pytest.mark.parametrize(
    ("prefix", "fitting"),
    [
        ("s3://b/", "s3 compatible tigris"),
        ("S3://b/p/", "s3 compatible tigris"),
        ("s3://b/ /", "s3 compatible tigris"),
        ("tigris://b/", "tigris"),
        ("file:///a/", "local"),
        ("file:///a b/", "local"),
        ("file:///", ""),
        ("http://x/", "http"),
        ("https://x/a/", "http"),
        ("http:///", ""),
        ("gs://b/", "gcs"),
        ("gcs://b/", "gcs"),
        ("az://a/", "azure"),
        ("azure://a/", "azure"),
        ("abfs://a/", "azure"),
        ("abfss://c@a/", "memory"),  # whatever fsspec knows and no other case is for
        ("s3://", ""),
        ("s3:///", ""),
        ("s3://b", ""),
        ("vcc://b/", ""),
        ("memory:///", ""),
        ("zzz/", ""),
        ("/", ""),
        ("", ""),
        ("http://[x/", ""),
    ],
)
def test_prefix_must_fit_the_store(prefix, fitting):
    usable = {
        name
        for name, store in STORES.items()
        if container_problem(VirtualChunkContainer(prefix, store)) is None
    }
    assert usable == set(fitting.split())


@pytest.mark.parametrize(
    ("name", "usable"),
    [(None, True), ("a", True), ("a b", True), ("é", True), ("", False), ("a/b", False)],
)
def test_name(name, usable):
    container = VirtualChunkContainer("s3://b/", s3_store(), name)
    assert (container_problem(container) is None) is usable


def test_container_is_a_mutable_value():
    container = VirtualChunkContainer("s3://b/", s3_store(), name="n")
    assert pickle.loads(pickle.dumps(container)) == container
    container.name = None
    assert container == VirtualChunkContainer(url_prefix="s3://b/", store=s3_store())
    for name, value in (("url_prefix", None), ("url_prefix", 5), ("store", None), ("name", 5)):
        with pytest.raises(TypeError):
            setattr(container, name, value)


@pytest.fixture
def containers() -> ContainerSet:
    return ContainerSet.of(
        VirtualChunkContainer(prefix, s3_store(), name)
        for prefix, name in [("s3://b/", "all"), ("s3://b/deep/er/", None), ("s3://b/deep/", "d")]
    )


@pytest.mark.parametrize(
    ("location", "prefix"),
    [
        ("s3://b/x", "s3://b/"),
        ("s3://b/deep/x", "s3://b/deep/"),
        ("s3://b/deep/er/x", "s3://b/deep/er/"),
        ("s3://b/deep", "s3://b/"),
        ("vcc://d/x/y", "s3://b/deep/"),
        ("vcc://all/x", "s3://b/"),
        ("vcc://other/x", None),
        ("s3://bb/x", None),
        ("gs://b/x", None),
    ],
)
def test_longest_prefix_or_name(containers, location, prefix):
    found = containers.find(location)
    assert (found and found.url_prefix) == prefix
    if prefix is None:
        with pytest.raises(InvalidInputError) as caught:
            containers.require(location)
        assert caught.value.kind == "no-container-for-virtual-chunk"
    else:
        assert containers.require(location) is found


def test_absolute_location(containers):
    assert containers.absolute("vcc://d/x/y.nc") == "s3://b/deep/x/y.nc"
    assert containers.absolute("gs://other/x") == "gs://other/x"
    with pytest.raises(InvalidInputError, match="vcc://nobody/x"):
        containers.absolute("vcc://nobody/x")


def test_makers_of_stores():
    options = S3Options("r", "e", True, True, True, 5, True, ChecksumAlgorithm.Sha1)
    made = s3_store("r", "e", True, True, True, True, 5, True, ChecksumAlgorithm.Sha1)
    assert made == ObjectStoreConfig.S3Compatible(options)
    assert isinstance(made, ObjectStoreConfig)
    assert s3_store() == ObjectStoreConfig.S3(S3Options(network_stream_timeout_seconds=60))
    assert local_filesystem_store(Path("/a")) == ObjectStoreConfig.LocalFileSystem("/a")
    assert azure_store(account="a", config={"b": "c"})[0] == {"account": "a", "b": "c"}
    assert gcs_store() != gcs_store({})


@pytest.mark.parametrize(
    "make",
    [
        lambda: gcs_store({"a": 1}),
        lambda: gcs_store(5),
        lambda: http_store({1: "a"}),
        lambda: http_store(None, {"h": None}),
        lambda: ObjectStoreConfig.S3("x"),
        lambda: ObjectStoreConfig.LocalFileSystem(5),
        lambda: ObjectStoreConfig.LocalFileSystem(b"x"),
        lambda: S3Options(allow_http=None),
        lambda: S3Options(checksum_algorithm="crc32"),
        ObjectStoreConfig,
    ],
)
def test_wrong_types(make):
    with pytest.raises(TypeError):
        make()


def test_secrets_in_options_headers_and_urls_do_not_show():
    secret = "TheSecretItself"
    values = [
        http_store({"timeout": "30"}, {"Authorization": secret, "X-Api-Key": secret}),
        gcs_store({"google_service_account_key": secret}),
        azure_store(account="acc", config={"azure_storage_sas_token": secret}),
        VirtualChunkContainer(f"https://user:{secret}@host/", http_store()),
        s3_store(endpoint_url=f"http://user:{secret}@host"),
    ]
    for value in values:
        for text in (repr(value), str(value), value._repr_html_()):
            assert secret not in text
            assert "****" in text
    assert '"timeout": "30"' in repr(values[0])


# --- references -------------------------------------------------------------------------------


def test_reference_is_a_frozen_value():
    spec = VirtualChunkSpec((0, 1), "s3://b/x", 5, 10, "tag")
    assert (spec.index, spec.offset, spec.length, spec.etag_checksum) == ([0, 1], 5, 10, "tag")
    assert spec == VirtualChunkSpec([0, 1], "s3://b/x", offset=5, length=10, etag_checksum="tag")
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert 'location="s3://b/x"' in repr(spec)
    with pytest.raises(AttributeError):
        spec.offset = 6


def test_reference_time_is_kept_in_utc():
    when = datetime(2030, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))
    spec = VirtualChunkSpec([0], "s3://b/x", 0, 1, None, when)
    assert spec.last_updated_at_checksum == datetime(2030, 1, 1, tzinfo=UTC)
    assert spec.last_updated_at_checksum.tzinfo is UTC


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (([-1], "s", 0, 1), ValueError),
        (([2**32], "s", 0, 1), ValueError),
        (([0], "s", -1, 1), ValueError),
        (([0], "s", 0, 2**64), ValueError),
        (([0.5], "s", 0, 1), TypeError),
        (([0], 5, 0, 1), TypeError),
        (([0], "s", 0, 1, 5), TypeError),
        (([0], "s", 0, 1, None, datetime(2030, 1, 1)), TypeError),
        (([0], "s", 0, 1, None, "2030-01-01"), TypeError),
    ],
)
def test_reference_refusals(arguments, error):
    with pytest.raises(error):
        VirtualChunkSpec(*arguments)
