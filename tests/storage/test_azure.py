"""Azure Blob Storage, against Azurite on loopback."""

from __future__ import annotations

import asyncio
import pickle
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from icechunk._io.loop import run
from icechunk.credential_values import AzureRefreshableCredential
from icechunk.errors import InvalidInputError, StorageError
from icechunk.storage import Storage, _azure_client, _bucket, azure_storage
from icechunk.storage._renewal import Renewals
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from tests.azurite import ACCOUNT, KEY, OPEN_CONTAINER, OTHER_KEY, Azurite
from tests.storage.conformance import StorageConformance, listed
from tests.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("azure.storage.blob", reason="needs icechunk[azure]")

FEW_TRIES = StorageSettings(
    retries=StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=10)
)
NOBODY: dict[str, Any] = {"access_key": None}


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite.running() as server:
        yield server


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    with WebServer.running(tmp_path_factory.mktemp("web")) as server:
        yield server


@pytest.fixture(params=["azure", "auto"])
def azure(
    azurite: Azurite, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Azurite:
    """Return the server, for the Azure SDK to reach it with, or obstore where it can."""
    for name in ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(_azure_client, "renewals", Renewals())  # each test has its own callbacks
    return replace(azurite, backend=request.param)


def made(server: Azurite, prefix: str | None = None, **changes: Any) -> Storage:
    prefix = uuid.uuid4().hex if prefix is None else prefix
    return azure_storage(prefix=prefix, **server.options(**changes)).with_settings(FEW_TRIES)


class TestAzure(StorageConformance):
    threads = 4
    rounds = 4
    many = 70

    @pytest.fixture
    def storage(self, azure: Azurite, monkeypatch: pytest.MonkeyPatch) -> Storage:
        monkeypatch.setattr(_bucket, "_LISTED_AT_ONCE", 50)
        monkeypatch.setattr(_bucket, "_DELETED_AT_ONCE", 50)
        return azure_storage(prefix=f"a/{uuid.uuid4()}", **azure.options())


# ---------------------------------------------------------------- who may


def test_shared_access_signature(azure: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    token = azure.sas()
    prefix = uuid.uuid4().hex
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"?{token}")
    for changes in ({"sas_token": token}, {"sas_token": f"?{token}"}, {"from_env": True}, {}):
        storage = made(azure, prefix, **(NOBODY | changes))
        run(storage.put("repo", b"1"))
        assert run(storage.get("repo")) == b"1"
        assert "sig=" not in repr(storage) + storage.description
    reader = made(azure, prefix, **NOBODY, sas_token=azure.sas(permissions="rl"))
    assert run(reader.get("repo")) == b"1"
    with pytest.raises(StorageError, match=r"cannot write .*repo") as caught:
        run(reader.put("repo", b"2"))
    assert "sig=" not in str(caught.value)


def test_nothing_in_the_environment(
    azure: Azurite, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Said at once: looking again would find as little."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "prod")  # asks no tool of a developer
    monkeypatch.setenv("IDENTITY_ENDPOINT", "http://127.0.0.1:1")  # and nobody in the network
    monkeypatch.setenv("IDENTITY_HEADER", "nobody")
    storage = azure_storage(account="a", container="c", prefix="p", from_env=True)
    with pytest.raises(
        StorageError, match="no credentials were found in the environment"
    ) as caught:
        run(storage.get("repo"))
    assert "AZURE_STORAGE_ACCOUNT_KEY" in str(caught.value)
    assert caught.value.kind == "invalid-credentials"
    assert caplog.text.count("DefaultAzureCredential failed to retrieve a token") == 1


def test_key_from_environment(azure: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    run(made(azure, **NOBODY).put("repo", b"1"))
    option = {"azure_storage_endpoint": azure.url, "azure_storage_account_key": KEY}
    run(made(azure, **NOBODY, config=option).put("repo", b"1"))


def test_wrong_key(azure: Azurite) -> None:
    storage = made(azure, access_key=OTHER_KEY)
    for attempt in (storage.get("repo"), storage.put_if_absent("repo", b"1")):
        with pytest.raises(StorageError, match="credentials") as caught:
            run(attempt)
        assert OTHER_KEY not in str(caught.value)
    storage = made(azure, container="no-such-container")
    with pytest.raises(StorageError, match="there is no such container"):
        run(listed(storage))


def test_anonymous_reads_what_is_open(azure: Azurite) -> None:
    run(made(azure, "public", container=OPEN_CONTAINER).put("repo", b"1"))
    nobody = made(azure, "public", container=OPEN_CONTAINER, **NOBODY, anonymous=True)
    assert run(nobody.get("repo")) == b"1"
    assert "anonymous: True" in str(nobody)
    assert "authorization" not in azure.requests("public/repo", 2)[-1]
    with pytest.raises(StorageError):
        run(nobody.put("repo", b"2"))


def test_token_is_sent(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azurite takes tokens over TLS only; so what is sent is looked at."""
    config = {"azure_storage_endpoint": f"{web.url}/echo"}
    arguments: dict[str, Any] = {"account": ACCOUNT, "container": "c", "config": config}
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "of-the-environment")
    for prefix, changes, token in (
        ("fixed", {"bearer_token": "the-bearer"}, "the-bearer"),
        ("ambient", {}, "of-the-environment"),
        ("called", {"get_credentials": bearer_credentials}, "of-a-callback"),
    ):
        storage = azure_storage(prefix=prefix, **arguments, **changes)
        with pytest.raises(StorageError) as caught:
            run(storage.get("repo"))
        assert caught.value.kind == "object-not-found"
        (sent,) = web.requests(f"/{prefix}/repo")
        assert sent["headers"]["authorization"] == f"Bearer {token}"
        assert token not in repr(storage) + storage.description


# ---------------------------------------------------------------- refreshed credentials

calls: list[float] = []


def bearer_credentials() -> AzureRefreshableCredential.BearerToken:
    return AzureRefreshableCredential.BearerToken(
        "of-a-callback", datetime.now(UTC) + timedelta(hours=1)
    )


def key_credentials() -> AzureRefreshableCredential.AccessKey:
    calls.append(time.monotonic())
    key = OTHER_KEY if len(calls) == 1 else KEY
    return AzureRefreshableCredential.AccessKey(key, datetime.now(UTC) + timedelta(hours=1))


def short_credentials() -> AzureRefreshableCredential.AccessKey:
    calls.append(time.monotonic())
    return AzureRefreshableCredential.AccessKey(KEY, datetime.now(UTC) + timedelta(seconds=0.5))


def test_refused_credentials_are_renewed_once(azure: Azurite) -> None:
    calls.clear()
    storage = made(azure, **NOBODY, get_credentials=key_credentials)
    twin = pickle.loads(pickle.dumps(storage))

    async def many(on: Storage) -> None:
        await asyncio.gather(*(on.put(f"chunks/{number}", b"1") for number in range(10)))

    run(many(storage))
    run(many(twin.with_settings(StorageSettings())))
    assert len(calls) == 2


def test_short_lived_credentials(azure: Azurite) -> None:
    calls.clear()
    storage = made(azure, **NOBODY, get_credentials=short_credentials)
    for number in range(3):
        run(storage.put(f"chunks/{number}", b"1"))
    assert len(calls) == 1
    time.sleep(0.6)
    run(storage.put("chunks/A", b"1"))
    assert len(calls) == 2


# ---------------------------------------------------------------- settings


def test_metadata_class_and_conditions(azure: Azurite) -> None:
    prefix = uuid.uuid4().hex
    storage = made(azure, prefix).with_settings(
        StorageSettings(storage_class="Cool", chunks_storage_class="Hot")
    )
    version = run(storage.put_if_absent("repo", b"1", metadata={"icspecver": "2"}))
    run(storage.put_if_unchanged("repo", b"2", version, content_type="a/b"))
    run(storage.put("chunks/A", b"1"))
    first, second, third = azure.requests(prefix, 3)[:3]
    assert '"if-none-match":"*"' in first
    assert '"x-ms-meta-icspecver":"2"' in first
    assert "x-ms-meta-icechunkwriteid" in second
    assert f'"if-match":"{version}"'.replace('""', '"\\"') in second or version[1:-1] in second
    assert "a/b" in second
    assert '"x-ms-access-tier":"Cool"' in first
    assert '"x-ms-access-tier":"Hot"' in third
    free = storage.with_settings(
        StorageSettings(
            unsafe_use_conditional_create=False,
            unsafe_use_conditional_update=False,
            unsafe_use_metadata=False,
        )
    )
    run(free.put_if_absent("repo", b"3"))
    run(free.put_if_unchanged("repo", b"4", Version('"other"')))
    assert run(free.get("repo")) == b"4"
    last = azure.requests(prefix, 6)[4]
    assert "if-match" not in last
    assert "x-ms-meta" not in last


def test_large_objects_go_in_parts_and_come_in_ranges(azure: Azurite) -> None:
    prefix = uuid.uuid4().hex
    data = bytes(range(256)) * 4096 * 11
    storage = made(azure, prefix).with_settings(
        FEW_TRIES.merge(
            StorageSettings(
                minimum_size_for_multipart_upload=1 << 20,
                concurrency=StorageConcurrencySettings(
                    max_concurrent_requests_for_object=3, ideal_concurrent_request_size=1 << 20
                ),
            )
        )
    )
    run(storage.put("chunks/A", data))
    assert run(storage.get("chunks/A")) == data
    assert sum("comp=block&" in line for line in azure.requests(prefix, 5)) == 3
    whole = ByteRange(start=5, stop=len(data) - 5)
    assert run(storage.get("chunks/A", whole)) == data[5:-5]
    ranges = [line for line in azure.requests(prefix, 8) if "range" in line.lower()]
    assert len(ranges) >= 3


def test_which_library(azure: Azurite) -> None:
    def used(**changes: Any) -> bool:
        prefix = uuid.uuid4().hex
        run(made(azure, prefix, **changes).put("chunks/A", b"1"))
        return '"user-agent":"object_store' in azure.requests(prefix)[0]

    assert not used(backend="azure")
    assert used(backend="obstore")
    assert used(backend="auto")
    with pytest.raises(InvalidInputError, match=r"credentials that azure\.identity finds"):
        made(azure, **NOBODY, backend="obstore")
    with pytest.raises(InvalidInputError, match="backend must be 'auto', 'azure' or 'obstore'"):
        made(azure, backend="adlfs")


def test_refused_arguments() -> None:
    good = {"account": "a", "container": "b", "prefix": "p"}
    for changes, kind in (
        ({"account": ""}, "storage-config"),
        ({"container": "a/b"}, "storage-config"),
        ({"prefix": "a//b"}, "bad-prefix"),
        ({"config": {"nonsense": "1"}}, "storage-config"),
        ({"anonymous": True, "access_key": "x"}, "invalid-credentials"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            azure_storage(**(good | changes))
        assert caught.value.kind == kind


def test_nobody_answers(web: WebServer) -> None:
    def at(url: str) -> Storage:
        config = {"azure_storage_endpoint": url}
        return azure_storage(
            account=ACCOUNT, container="c", prefix="p", access_key=KEY, config=config
        ).with_settings(FEW_TRIES)

    with pytest.raises(
        StorageError, match=r"no (answer|connection could be made); check the endpoint"
    ):
        run(at("http://127.0.0.1:1").get("repo"))
    web.fault("sleep", "GET", "/slow/", count=9)
    once = StorageRetriesSettings(max_tries=1)
    for timeouts in (
        StorageTimeoutSettings(read_timeout_ms=200),
        StorageTimeoutSettings(operation_attempt_timeout_ms=200),
        StorageTimeoutSettings(operation_timeout_ms=200),
    ):
        slow = at(f"{web.url}/slow").with_settings(StorageSettings(retries=once, timeouts=timeouts))
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"no answer|took longer"):
            run(slow.get("repo"))
        assert time.monotonic() - started < 1
    web.no_faults()


def test_refusals_that_pass_are_tried_again(web: WebServer) -> None:
    config = {"azure_storage_endpoint": f"{web.url}/echo"}
    storage = azure_storage(
        account=ACCOUNT, container="c", prefix="tries", access_key=KEY, config=config
    ).with_settings(FEW_TRIES)
    web.fault("503", "GET", "/tries/", count=2)
    with pytest.raises(StorageError) as caught:
        run(storage.get("repo"))
    assert caught.value.kind == "throttled"
    assert len(web.requests("/tries/repo")) == 2
    web.fault("500", "GET", "/tries/", count=1)
    with pytest.raises(StorageError) as caught:
        run(storage.get("repo"))
    assert caught.value.kind == "object-not-found"
