"""Services compatible with S3: what each sends, seen by the server."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest

import icechunk as ic
from icechunk._io.loop import run
from icechunk.credentials import s3_credentials
from icechunk.errors import InvalidInputError, ReadOnlyError, StorageError
from icechunk.object_store_config import S3Options
from icechunk.storage import (
    Storage,
    hf_storage,
    r2_storage,
    s3_object_store_storage,
    tigris_storage,
)
from tests.s3_server import BUCKET, KEY, OPEN_BUCKET, SECRET, S3Server

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS: dict[str, Any] = {"access_key_id": KEY, "secret_access_key": SECRET}


def fields(storage: Storage) -> dict[str, str]:
    lines = str(storage).splitlines()[1:]
    return dict(line.split(": ", 1) for line in lines)


def round_trip(storage: Storage) -> None:
    version = run(storage.put_if_absent("repo", b"1"))
    run(storage.put_if_unchanged("repo", b"2", version))
    assert run(storage.get("repo")) == b"2"
    assert storage.list_objects() == [("repo", 1)]
    run(storage.delete_many(["repo"]))


# ---------------------------------------------------------------- Tigris


def tigris(s3: S3Server, prefix: str, **changes: Any) -> Storage:
    arguments: dict[str, Any] = {"region": "us-east-1", "endpoint_url": s3.url, "allow_http": True}
    return tigris_storage(bucket=BUCKET, prefix=prefix, **(arguments | KEYS | changes))


def test_tigris_asks_the_region_of_the_bucket(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    round_trip(tigris(s3, prefix, headers={"x-own": "1"}))
    for request in s3.requests(prefix):
        headers = request["headers"]
        assert headers["x-tigris-regions"] == "us-east-1"
        assert headers["x-tigris-consistent"] == "true"
        assert headers["cache-control"] == "no-cache"
        assert headers["x-own"] == "1"


def test_tigris_with_weak_consistency_is_read_only(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    run(tigris(s3, prefix).put("repo", b"1"))
    weak = tigris(s3, prefix, use_weak_consistency=True)
    assert run(weak.get("repo")) == b"1"
    assert fields(weak)["read_only"] == "True"
    assert "x-tigris-consistent" not in s3.requests(prefix)[-1]["headers"]
    for attempt in (weak.put("repo", b"2"), weak.delete_many(["repo"])):
        with pytest.raises(ReadOnlyError):
            run(attempt)
    with pytest.raises(InvalidInputError, match="pass the region") as caught:
        tigris_storage(bucket="b", prefix="p", anonymous=True)
    assert caught.value.kind == "storage-other"


# ---------------------------------------------------------------- R2


def test_r2(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = r2_storage(
        bucket=BUCKET,
        prefix=prefix,
        endpoint_url=s3.url,
        allow_http=True,
        region="us-east-1",
        **KEYS,
    )
    round_trip(storage)
    assert s3.requests(prefix)[0]["path"] == f"/{BUCKET}/{prefix}/repo"


def test_r2_public_endpoint(s3: S3Server) -> None:
    """The documented call for buckets with public access has no bucket."""
    public = {"x-amz-acl": "public-read"}
    writer = ic.s3_storage(prefix="r2", **s3.options(bucket=OPEN_BUCKET, write_headers=public))
    run(writer.put("repo", b"1"))
    storage = r2_storage(
        prefix=f"{OPEN_BUCKET}/r2", endpoint_url=s3.url, allow_http=True, anonymous=True
    )
    assert run(storage.get("repo")) == b"1"
    assert "authorization" not in s3.requests(f"{OPEN_BUCKET}/r2/repo")[-1]["headers"]


def test_r2_addresses() -> None:
    shown = fields(r2_storage(bucket="b", prefix="p", account_id="me", anonymous=True))
    assert shown["endpoint_url"] == "https://me.r2.cloudflarestorage.com"
    assert shown["region"] == "auto"
    assert shown["force_path_style"] == "True"
    for arguments in ({"bucket": "b"}, {"endpoint_url": "https://x"}, {}):
        with pytest.raises(InvalidInputError) as caught:
            r2_storage(**arguments)
        assert caught.value.kind == "storage-config"


# ---------------------------------------------------------------- Hugging Face


def test_hf_puts_the_namespace_first(s3: S3Server) -> None:
    options = S3Options(endpoint_url=s3.url, allow_http=True)
    # The server knows no namespaces: it takes this one for a bucket, and the bucket for a folder.
    storage = Storage.new_hf(options, "inside", "p", BUCKET, s3_credentials(**KEYS))
    run(storage.put("repo", b"1"))
    assert run(storage.get("repo")) == b"1"
    assert s3.requests("/inside/p/repo")[0]["path"] == f"/{BUCKET}/inside/p/repo"


def test_hf_addresses() -> None:
    shown = fields(hf_storage(bucket="b", prefix="p", namespace="me", **KEYS))
    assert shown["endpoint_url"] == "https://s3.hf.co/me"
    assert shown["region"] == "us-east-1"
    for namespace in ("", "a/b"):
        with pytest.raises(InvalidInputError, match="not a Hugging Face user"):
            hf_storage(bucket="b", prefix="p", namespace=namespace, from_env=True)


# ---------------------------------------------------------------- others


def test_minio_as_documented(s3: S3Server) -> None:
    storage = ic.s3_storage(
        bucket=BUCKET,
        prefix=uuid.uuid4().hex,
        region="us-east-1",
        **KEYS,
        endpoint_url=s3.url,
        allow_http=True,
        force_path_style=True,
    )
    round_trip(storage)


def test_s3_object_store(s3: S3Server) -> None:
    options = s3.options()
    options.pop("backend", None)
    round_trip(s3_object_store_storage(prefix=uuid.uuid4().hex, **options))


MAKERS: dict[str, Callable[[S3Options], Storage]] = {
    "new_s3_object_store": lambda o: Storage.new_s3_object_store(o, BUCKET, "p"),
    "new_tigris": lambda o: Storage.new_tigris(o, BUCKET, "p", False),
    "new_r2": lambda o: Storage.new_r2(o, BUCKET, "p"),
    "new_hf": lambda o: Storage.new_hf(o, BUCKET, "p", "me"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_constructors_leave_options_alone(name: str) -> None:
    options = S3Options(region="us-east-1", endpoint_url="https://example.org")
    before = repr(options)
    assert MAKERS[name](options).description == f"s3://{BUCKET}/p"
    assert repr(options) == before


def test_other_constructors() -> None:
    assert Storage.new_gcs("b", "p").description == "gs://b/p"
    assert Storage.new_azure_blob("me", "c", "p").description == "az://c/p (account me)"
    assert Storage.new_http("https://x/y").description == "https://x/y"
    assert Storage.new_redirect("https://x/y").description == "https://x/y"


@pytest.mark.parametrize("make", [tigris_storage, r2_storage])
def test_secrets_are_not_shown(make: Any) -> None:
    storage = make(
        bucket="b",
        prefix="p",
        region="x",
        endpoint_url="http://127.0.0.1:1",
        allow_http=True,
        **KEYS,
    )
    few = ic.StorageSettings(retries=ic.StorageRetriesSettings(max_tries=1))
    with pytest.raises(StorageError) as caught:
        run(storage.with_settings(few).get("repo"))
    assert SECRET not in repr(storage) + storage.description + str(caught.value)
