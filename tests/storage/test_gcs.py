"""Google Cloud Storage, against an emulator on loopback."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import obstore
import pytest

from icechunk._io.loop import run
from icechunk.credential_values import GcsBearerCredential
from icechunk.errors import InvalidInputError, StorageError
from icechunk.storage import Storage, _bucket, _choice, _gcs_access, gcs_storage
from icechunk.storage._gcs_requests import GcsRequests
from icechunk.storage._renewal import Renewals
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange, LostRaceError, ReadCondition
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from tests.gcs_server import BUCKET, GOOD, OPEN_BUCKET, READER, GcsServer
from tests.storage.conformance import StorageConformance, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("gcp_storage_emulator", reason="needs icechunk[test]")

FEW_TRIES = StorageSettings(
    retries=StorageRetriesSettings(max_tries=3, initial_backoff_ms=1, max_backoff_ms=10)
)


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[GcsServer]:
    with GcsServer.running() as server:
        yield server


@pytest.fixture(params=["aiohttp", "auto"])
def gcs(
    gcs_server: GcsServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[GcsServer]:
    """Return the server, for aiohttp to reach it with, or obstore where it can."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    monkeypatch.setattr(_gcs_access, "_renewals", Renewals())  # each test has its own callbacks
    yield replace(gcs_server, backend=request.param)
    gcs_server.no_faults()


def made(server: GcsServer, prefix: str | None = None, **changes: Any) -> Storage:
    prefix = uuid.uuid4().hex if prefix is None else prefix
    return gcs_storage(prefix=prefix, **server.options(**changes)).with_settings(FEW_TRIES)


class TestGcs(StorageConformance):
    threads = 4
    rounds = 4
    many = 70

    @pytest.fixture
    def storage(self, gcs: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
        monkeypatch.setattr(_bucket, "_LISTED_AT_ONCE", 50)
        monkeypatch.setattr(_bucket, "_DELETED_AT_ONCE", 50)
        return gcs_storage(prefix=f"a/{uuid.uuid4()}", **gcs.options())

    def etag_of(self, storage: Storage, key: str) -> str:
        async def ask() -> str:
            async def work(requests: Any) -> str:
                if isinstance(requests, GcsRequests):
                    url = requests._object_url(key)
                    return str(
                        (await requests._asked("read", key, "HEAD", url, {})).headers["ETag"]
                    )
                options: Any = {"head": True}
                store, path = requests.stores.reader, requests._path(key)
                return str((await obstore.get_async(store, path, options=options)).meta["e_tag"])

            return str(await storage._call(work))  # type: ignore[attr-defined]

        return run(ask())


# ---------------------------------------------------------------- who may

NOBODY: dict[str, Any] = {"bearer_token": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bearer_token": "guessed-secret"}, "status 401: the token is not valid"),
        ({"bearer_token": None, "anonymous": True}, "status 401"),
        ({"bearer_token": READER}, "status 403: access was denied"),
    ],
)
def test_refused(gcs: GcsServer, changes: dict[str, Any], message: str) -> None:
    storage = made(gcs, **changes)
    for attempt in (storage.put("repo", b"1"), storage.put_if_absent("repo", b"1")):
        with pytest.raises(StorageError, match=message) as caught:
            run(attempt)
        assert "guessed-secret" not in str(caught.value)
    storage = made(gcs, bucket="no-such-bucket")
    with pytest.raises(StorageError, match="there is no such bucket"):
        run(listed(storage))


def test_anonymous_reads_what_is_open(gcs: GcsServer) -> None:
    run(made(gcs, "public", bucket=OPEN_BUCKET).put("repo", b"1"))
    nobody = made(gcs, "public", bucket=OPEN_BUCKET, bearer_token=None, anonymous=True)
    assert run(nobody.get("repo")) == b"1"
    assert "authorization" not in gcs.requests("/open-bucket/public/repo")[-1]["headers"]


@pytest.fixture(scope="module")
def account() -> dict[str, str]:
    """Return a service account's file, made up, with a real key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "my-private-key-id",
        "private_key": key.decode(),
        "client_email": "me@my-project.example",
    }


@pytest.mark.parametrize("way", ["file", "key", "parsed", "application", "environment", "option"])
def test_service_account(
    gcs: GcsServer,
    account: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    content: dict[str, Any] = account | {"token_uri": f"{gcs.url}/token"}
    path = tmp_path / "account.json"
    path.write_text(json.dumps(content))
    ways: dict[str, dict[str, Any]] = {
        "file": {"service_account_file": str(path)},
        "key": {"service_account_key": path.read_text()},
        "parsed": {"service_account_key": content},
        "application": {"application_credentials": str(path)},
        "environment": {"from_env": True},
        "option": {
            "config": {"google_base_url": gcs.url, "google_service_account": str(path)},
        },
    }
    changes = ways[way]
    if way == "environment":
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    prefix = uuid.uuid4().hex
    storage = made(gcs, prefix, **(NOBODY | changes))
    for number in range(3):
        run(storage.put(f"chunks/{number}", b"1"))
    sent = gcs.requests(prefix)
    assert {r["headers"]["authorization"] for r in sent} == {"Bearer good-issued"}
    assert account["private_key"][40:80] not in repr(storage) + storage.description


def test_credentials_that_are_none(gcs: GcsServer, tmp_path: Path) -> None:
    path = tmp_path / "account.json"
    path.write_text('{"type": "service_account", "private_key": "the-secret-part"}')
    for changes in (
        {"service_account_file": str(path)},
        {"service_account_key": path.read_text()},
        {"application_credentials": "/nowhere/at/all.json"},
    ):
        with pytest.raises(InvalidInputError, match="cannot use the Google credentials") as caught:
            run(made(gcs, **(NOBODY | changes)).get("repo"))
        assert caught.value.kind == "invalid-credentials"
        assert "the-secret-part" not in str(caught.value)


# ---------------------------------------------------------------- refreshed credentials

calls: list[float] = []


def good_credentials() -> GcsBearerCredential:
    calls.append(time.monotonic())
    return GcsBearerCredential(
        f"good-{len(calls)}", expires_after=datetime.now(UTC) + timedelta(hours=1)
    )


def other_good_credentials() -> GcsBearerCredential:
    calls.append(time.monotonic())
    return GcsBearerCredential(f"good-other-{len(calls)}")


def short_credentials() -> GcsBearerCredential:
    calls.append(time.monotonic())
    return GcsBearerCredential(
        f"good-short-{len(calls)}", expires_after=datetime.now(UTC) + timedelta(seconds=0.5)
    )


def failing_credentials() -> GcsBearerCredential:
    raise OSError("the vault is closed")


def test_callback_is_called_once_per_process(gcs: GcsServer) -> None:
    calls.clear()
    storage = made(gcs, **NOBODY, get_credentials=good_credentials)
    twin = pickle.loads(pickle.dumps(storage)).with_settings(StorageSettings())
    assert calls == []

    async def many(on: Storage) -> None:
        await asyncio.gather(*(on.put(f"chunks/{number}", b"1") for number in range(20)))

    run(many(storage))
    run(many(twin))
    assert len(calls) == 1


def test_refused_token_is_renewed_once(gcs: GcsServer) -> None:
    calls.clear()
    prefix = uuid.uuid4().hex
    storage = made(gcs, prefix, **NOBODY, get_credentials=other_good_credentials)
    version = run(storage.put_if_absent("repo", b"1"))
    gcs.expire("good-other-1")

    async def many() -> None:
        await asyncio.gather(*(storage.put(f"chunks/{number}", b"1") for number in range(20)))

    run(many())
    run(storage.put_if_unchanged("repo", b"2", version))
    assert len(calls) == 2
    used = [r["headers"]["authorization"] for r in gcs.requests(prefix)]
    assert used[-1] == "Bearer good-other-2"


def test_short_lived_token_is_not_renewed_per_request(gcs: GcsServer) -> None:
    calls.clear()
    storage = made(gcs, **NOBODY, get_credentials=short_credentials)
    for number in range(5):
        run(storage.put(f"chunks/{number}", b"1"))
    assert len(calls) == 1
    time.sleep(0.6)
    run(storage.put("chunks/A", b"1"))
    assert len(calls) == 2


def test_callback_fails(gcs: GcsServer) -> None:
    storage = made(gcs, **NOBODY, get_credentials=failing_credentials)
    with pytest.raises(StorageError, match="get_credentials failed: OSError") as caught:
        run(storage.get("repo"))
    assert caught.value.kind == "invalid-credentials"


# ---------------------------------------------------------------- parameters


def test_headers_and_conditions(gcs: GcsServer) -> None:
    prefix = uuid.uuid4().hex
    storage = made(
        gcs,
        prefix,
        headers={"x-both": "b", "x-which": "common"},
        read_headers={"x-which": "read"},
        write_headers={"x-goog-acl": "bucket-owner-full-control"},
    )
    version = run(storage.put_if_absent("repo", b"1", metadata={"icspecver": "2"}))
    run(storage.put_if_unchanged("repo", b"2", version, content_type="a/b"))
    run(storage.get("repo"))
    run(listed(storage))
    first, second, third, fourth = (r["headers"] for r in gcs.requests(prefix))
    assert {h["x-both"] for h in (first, second, third, fourth)} == {"b"}
    assert [h["x-which"] for h in (first, second, third, fourth)] == ["common"] * 2 + ["read"] * 2
    assert first["x-goog-if-generation-match"] == "0"
    assert second["x-goog-if-generation-match"] == version
    assert first["x-goog-meta-icspecver"] == "2"
    assert first["x-goog-meta-icechunkwriteid"] != second["x-goog-meta-icechunkwriteid"]
    assert second["content-type"] == "a/b"
    assert "x-goog-acl" in second
    assert "x-goog-acl" not in third


def test_settings_act(gcs: GcsServer) -> None:
    prefix = uuid.uuid4().hex
    storage = made(gcs, prefix).with_settings(
        StorageSettings(
            storage_class="NEARLINE",
            chunks_storage_class="COLDLINE",
            unsafe_use_conditional_create=False,
            unsafe_use_conditional_update=False,
            unsafe_use_metadata=False,
        )
    )
    run(storage.put("chunks/A", b"1", metadata={"a": "b"}))
    run(storage.put_if_absent("repo", b"1"))
    run(storage.put_if_absent("repo", b"2"))
    run(storage.put_if_unchanged("repo", b"3", Version("1")))
    assert run(storage.get("repo")) == b"3"
    sent = [r["headers"] for r in gcs.requests(prefix) if r["method"] == "PUT"]
    assert [h["x-goog-storage-class"] for h in sent] == ["COLDLINE"] + ["NEARLINE"] * 3
    assert not [name for h in sent for name in h if "match" in name or "meta" in name]


def test_large_objects_go_in_parts_and_come_in_ranges(gcs: GcsServer) -> None:
    prefix = uuid.uuid4().hex
    data = bytes(range(256)) * 4096 * 11
    storage = made(gcs, prefix).with_settings(
        FEW_TRIES.merge(
            StorageSettings(
                minimum_size_for_multipart_upload=1 << 20,
                concurrency=StorageConcurrencySettings(
                    max_concurrent_requests_for_object=3, ideal_concurrent_request_size=1 << 20
                ),
            )
        )
    )
    run(storage.put("chunks/A", data, metadata={"a": "b"}, content_type="a/b"))
    assert run(storage.get("chunks/A")) == data
    parts = [r for r in gcs.requests("upload_id") if prefix in r["path"]]
    assert [p["headers"]["content-range"] for p in parts] == [
        "bytes 0-5242879/11534336",
        "bytes 5242880-10485759/11534336",
        "bytes 10485760-11534335/11534336",
    ]
    whole = ByteRange(start=5, stop=len(data) - 5)
    assert run(storage.get("chunks/A", whole)) == data[5:-5]
    assert sum("range" in r["headers"] for r in gcs.requests(prefix)) == 3
    gcs.fault("late-500", "PUT", "upload_id", count=1)  # the part arrived, its reply did not
    run(storage.put("chunks/B", data[::-1]))
    assert run(storage.get("chunks/B")) == data[::-1]


def test_which_library(gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def used(**changes: Any) -> bool:
        prefix = uuid.uuid4().hex
        storage = made(gcs, prefix, **changes)
        run(storage.put("chunks/A", b"1"))
        run(storage.delete_many(["chunks/A", "chunks/B"]))
        agents = {r["headers"]["user-agent"] for r in gcs.requests(prefix)}
        assert len(agents) == 1
        return agents.pop().startswith("object_store")

    assert not used(backend="aiohttp")
    assert used(backend="obstore")
    assert used(backend="auto")
    with pytest.raises(InvalidInputError, match="obstore cannot do a query in a URL"):
        made(gcs, backend="obstore", config={"google_base_url": f"{gcs.url}?a=b"})
    with pytest.raises(InvalidInputError, match="backend must be 'auto', 'aiohttp' or 'obstore'"):
        made(gcs, backend="gcsfs")
    # obstore reads this file even when it is told not to use it.
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "none.json"))
    assert not used(backend="auto")
    monkeypatch.delenv("GOOGLE_SERVICE_ACCOUNT")
    monkeypatch.setattr(_choice, "_is_installed", lambda: False)
    assert not used(backend="auto")


def test_refused_arguments() -> None:
    for changes, kind in (
        ({"bucket": ""}, "storage-config"),
        ({"bucket": "a/b"}, "storage-config"),
        ({"prefix": "a//b"}, "bad-prefix"),
        ({"config": {"nonsense": "1"}}, "storage-config"),
        ({"config": {"timeout": "soon"}}, "storage-config"),
        ({"anonymous": True, "bearer_token": "x"}, "invalid-credentials"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            gcs_storage(**({"bucket": "b", "prefix": "p"} | changes))
        assert caught.value.kind == kind
    with pytest.raises(InvalidInputError) as caught:
        gcs_storage(bucket="b", prefix=None, anonymous=True).check_creatable()
    assert caught.value.kind == "empty-prefix-creation"


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_passing_refusals_are_tried_again(gcs: GcsServer, status: str) -> None:
    storage = made(gcs)
    gcs.fault(status, "PUT", "", count=2)
    run(storage.put("chunks/A", b"1"))
    gcs.fault(status, "GET", "chunks/A", count=2)
    assert run(storage.get("chunks/A")) == b"1"
    gcs.fault(status, "GET", "chunks/A", count=3)
    with pytest.raises(StorageError) as caught:
        run(storage.get("chunks/A"))
    assert caught.value.kind == ("object-store" if status == "500" else "throttled")


@pytest.mark.parametrize("action", ["lose", "late-500"])
def test_lost_reply_is_no_conflict(gcs: GcsServer, action: str) -> None:
    storage = made(gcs)
    gcs.fault(action, "PUT", "repo")
    version = run(storage.put_if_absent("repo", b"1"))
    gcs.fault(action, "PUT", "repo")
    version = run(storage.put_if_unchanged("repo", b"2", version))
    assert run(storage.get_versioned("repo")) == (b"2", version)
    with pytest.raises(LostRaceError):
        run(storage.put_if_absent("repo", b"3"))


def test_times(gcs: GcsServer) -> None:
    gcs.fault("sleep", "GET", "slow", count=9)
    once = StorageRetriesSettings(max_tries=1)
    for timeouts, message in (
        (StorageTimeoutSettings(read_timeout_ms=200), "timeout"),
        (StorageTimeoutSettings(operation_attempt_timeout_ms=200), "timeout"),
        (StorageTimeoutSettings(operation_timeout_ms=200), "took longer than 200 ms"),
    ):
        storage = made(gcs, "slow").with_settings(StorageSettings(retries=once, timeouts=timeouts))
        with pytest.raises(StorageError, match=message):
            run(storage.get("repo"))
    nobody = made(gcs, config={"google_base_url": "http://127.0.0.1:1"})
    with pytest.raises(StorageError, match="check the address and the network"):
        run(nobody.get("repo"))


def test_conditional_read_beside_a_change(gcs: GcsServer) -> None:
    storage = made(gcs)
    run(storage.put("chunks/A", b"old"))
    then = run(storage.head("chunks/A")).last_modified_us
    condition = ReadCondition(unmodified_since_us=then)
    assert run(storage.get("chunks/A", condition=condition)) == b"old"


def test_secrets_stay_where_they_are(gcs: GcsServer, caplog: pytest.LogCaptureFixture) -> None:
    storage = made(gcs)
    with caplog.at_level("DEBUG"):
        run(storage.put("repo", b"1"))
    assert GOOD not in repr(storage) + storage.description + caplog.text
    assert BUCKET in repr(storage)
    callback = made(gcs, **NOBODY, get_credentials=good_credentials)
    run(callback.put("repo", b"1"))
    assert b"good-1" not in pickle.dumps(callback)
    sent = made(gcs, **NOBODY, get_credentials=good_credentials, scatter_initial_credentials=True)
    assert b"good-" in pickle.dumps(sent)
