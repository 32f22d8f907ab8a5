"""Web servers and redirects, on loopback."""

from __future__ import annotations

import asyncio
import pickle
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.errors import InvalidInputError, ReadOnlyError, StorageError
from icechunk.storage import fsspec_storage, http_storage, redirect_storage
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange, ObjectChangedError, ReadCondition
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from tests.web_server import TOKEN, WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from icechunk.storage import Storage

DATA = bytes(range(256)) * 40
FEW_TRIES = StorageSettings(
    retries=StorageRetriesSettings(max_tries=3, initial_backoff_ms=1, max_backoff_ms=10)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("web")
    (made / "chunks").mkdir()
    (made / "chunks" / "A").write_bytes(DATA)
    (made / "chunks" / "a b%é").write_bytes(b"odd")
    repo = ic.Repository.create(ic.local_filesystem_storage(made / "repository"))
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(1000), chunks=(100,))
    return made


@pytest.fixture(scope="module")
def web_server(folder: Path) -> Iterator[WebServer]:
    with WebServer.running(folder) as server:
        yield server


@pytest.fixture(params=["aiohttp", "auto"])
def web(web_server: WebServer, request: pytest.FixtureRequest) -> Iterator[WebServer]:
    """Return the server, for aiohttp to reach it with, or obstore where it can."""
    yield replace(web_server, backend=request.param)
    web_server.no_faults()


def at(web: WebServer, path: str = "", **options: Any) -> Storage:
    return http_storage(web.url + path, **({"backend": web.backend} | options)).with_settings(
        FEW_TRIES
    )


# ---------------------------------------------------------------- the contract, for reading


@pytest.mark.parametrize("path", ["", "/", "/whole"])
def test_reading(web: WebServer, path: str) -> None:
    storage = at(web, path)
    assert run(storage.get("chunks/A")) == DATA
    assert run(storage.get("chunks/a b%é")) == b"odd"
    for start, stop in ((0, 1), (5, 5), (10, 300), (0, len(DATA))):
        got = run(storage.get("chunks/A", ByteRange(start=start, stop=stop)))
        assert got == DATA[start:stop]
    for start, stop in ((0, len(DATA) + 1), (len(DATA), len(DATA) + 9)):
        with pytest.raises(StorageError, match="chunks/A") as caught:
            run(storage.get("chunks/A", ByteRange(start=start, stop=stop)))
        assert caught.value.kind == "invalid-object-size"
    info = run(storage.head("chunks/A"))
    assert info.size_bytes == len(DATA)
    assert abs(info.last_modified_us / 1e6 - time.time()) < 600
    data, version = run(storage.get_versioned("chunks/A"))
    assert data == DATA
    assert version
    for attempt in (storage.get("no/such"), storage.head("no/such"), storage.get_versioned("no")):
        with pytest.raises(StorageError) as caught:
            run(attempt)
        assert caught.value.kind == "object-not-found"


def test_conditions(web: WebServer) -> None:
    storage = at(web)
    etag = run(storage.get_versioned("chunks/A"))[1]
    then = run(storage.head("chunks/A")).last_modified_us
    part = ByteRange(start=1, stop=9)
    for condition in (ReadCondition(etag=etag), ReadCondition(unmodified_since_us=then)):
        assert run(storage.get("chunks/A", part, condition=condition)) == DATA[1:9]
    for condition in (ReadCondition(etag='"x"'), ReadCondition(unmodified_since_us=then - 10**6)):
        with pytest.raises(ObjectChangedError):
            run(storage.get("chunks/A", part, condition=condition))


def test_writing_is_refused(web: WebServer) -> None:
    storage = at(web)
    for attempt in (
        storage.put("a", b""),
        storage.put_if_absent("a", b""),
        storage.put_if_unchanged("a", b"", Version("1")),
        storage.delete_many(["a"]),
    ):
        with pytest.raises(ReadOnlyError, match="read-only") as caught:
            run(attempt)
        assert caught.value.kind == "read-only-storage"
    run(storage.delete_many([]))
    with pytest.raises(ReadOnlyError):
        ic.Repository.create(storage)
    with pytest.raises(StorageError, match="web servers have no listing"):
        storage.list_objects()


def test_large_ranges_come_in_parts(web: WebServer) -> None:
    storage = at(web).with_settings(
        StorageSettings(
            concurrency=StorageConcurrencySettings(
                max_concurrent_requests_for_object=4, ideal_concurrent_request_size=1000
            )
        )
    )
    before = len(web.requests("chunks/A"))
    assert run(storage.get("chunks/A", ByteRange(start=7, stop=9007))) == DATA[7:9007]
    sent = web.requests("chunks/A")[before:]
    assert sorted(r["headers"]["range"] for r in sent) == [
        "bytes=2257-4506",
        "bytes=4507-6756",
        "bytes=6757-9006",
        "bytes=7-2256",
    ]


def test_many_loops_and_pickles(web: WebServer) -> None:
    storage = at(web, headers={"x-a": "1"})
    twin = pickle.loads(pickle.dumps(storage))
    assert twin == storage
    assert hash(twin) == hash(storage)

    async def several() -> list[bytes]:
        return await asyncio.gather(*(twin.get("chunks/A") for _ in range(10)))

    with asyncio.Runner() as runner:
        assert set(runner.run(several())) == {DATA}
    assert web.requests("chunks/A")[-1]["headers"]["x-a"] == "1"


def test_repository_is_read(web: WebServer) -> None:
    repo = ic.Repository.open(at(web, "/repository"))
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert array[:].tolist() == list(range(1000))  # type: ignore[index, union-attr]
    assert next(iter(repo.ancestry(branch="main"))).message == "one"
    with pytest.raises(ic.IcechunkError) as caught:
        repo.create_tag("v1", snapshot_id=repo.lookup_branch("main"))
    assert caught.value.kind == "read-only-storage"


# ---------------------------------------------------------------- options, times, secrets


def test_headers_and_secrets(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageError, match="the server wants to know who asks"):
        run(at(web, "/token").get("chunks/A"))
    storage = at(web, "/token", headers={"authorization": f"Bearer {TOKEN}"})
    with caplog.at_level("DEBUG"):
        assert run(storage.get("chunks/A")) == DATA
    assert TOKEN not in repr(storage) + storage.description + caplog.text
    named = http_storage("http://user:hidden@127.0.0.1:1/x").with_settings(FEW_TRIES)
    with pytest.raises(StorageError) as caught:
        run(named.get("repo"))
    assert "hidden" not in repr(named) + named.description + str(caught.value)


def test_options(web: WebServer) -> None:
    run(at(web, opts={"user_agent": "somebody", "allow_http": "true"}).get("chunks/A"))
    assert web.requests("chunks/A")[-1]["headers"]["user-agent"] == "somebody"
    web.fault("sleep", "GET", "chunks/A", count=9)
    once = StorageSettings(retries=StorageRetriesSettings(max_tries=1))
    for options in ({"timeout": "200ms"}, {"read_timeout": "0.2s"}):
        with pytest.raises(StorageError, match="timeout: no answer in time"):
            run(at(web, opts=options).with_settings(once).get("chunks/A"))
    attempt = StorageTimeoutSettings(operation_attempt_timeout_ms=200)
    with pytest.raises(StorageError, match="timeout"):
        run(at(web).with_settings(once.merge(StorageSettings(timeouts=attempt))).get("chunks/A"))
    with pytest.raises(InvalidInputError, match="unknown options nonsense"):
        http_storage(web.url, opts={"nonsense": "1"})
    for url in ("ftp://x/y", "no url", "http://"):
        with pytest.raises(InvalidInputError) as caught:
            http_storage(url)
        assert caught.value.kind == "cannot-parse-url"


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_passing_refusals_are_tried_again(web: WebServer, status: str) -> None:
    web.fault(status, "GET", "chunks/A", count=2)
    assert run(at(web).get("chunks/A")) == DATA
    web.fault("lose", "GET", "chunks/A", count=2)
    assert run(at(web).get("chunks/A")) == DATA


def test_times(web: WebServer) -> None:
    once = StorageRetriesSettings(max_tries=1)
    web.fault("sleep", "GET", "slow", count=9)
    for timeouts, message in (
        (StorageTimeoutSettings(read_timeout_ms=200), "timeout"),
        (StorageTimeoutSettings(operation_attempt_timeout_ms=200), "timeout"),
        (StorageTimeoutSettings(operation_timeout_ms=200), "took longer than 200 ms"),
    ):
        settings = StorageSettings(retries=once, timeouts=timeouts)
        storage = http_storage(f"{web.url}/slow", backend=web.backend).with_settings(settings)
        with pytest.raises(StorageError, match=message):
            run(storage.get("repo"))
    others = fsspec_storage(f"{web.url}/slow").with_settings(settings)
    with pytest.raises(StorageError, match="took longer than 200 ms"):
        run(others.get("repo"))


def test_which_library(web: WebServer) -> None:
    def used(path: str = "", **options: Any) -> bool:
        before = len(web.requests("chunks/A"))
        run(at(web, path, **options).get("chunks/A", ByteRange(start=1, stop=9)))
        last = web.requests("chunks/A")[before:][-1]
        return bool(last["headers"].get("user-agent", "").startswith("object_store"))

    assert not used(backend="aiohttp")
    assert used(backend="obstore")
    assert used(backend="auto")
    assert not used("/whole", backend="obstore")  # that server knows no ranges
    assert not used("?signature=x", backend="auto")
    with pytest.raises(InvalidInputError, match="obstore cannot do a query in a URL"):
        at(web, "?signature=x", backend="obstore")


# ---------------------------------------------------------------- redirects


def test_redirect(web: WebServer) -> None:
    host = web.url.removeprefix("http://")
    web.redirect("/a", "/b")
    web.redirect("/b", f"http+icechunk://{host}/repository")
    storage = redirect_storage(f"{web.url}/a")
    assert str(storage) == f"<icechunk.Storage>\ntype: redirect\nurl: {web.url}/a\n"
    before = len(web.requests("/a"))
    for place in (storage, pickle.loads(pickle.dumps(storage)), storage.with_settings(FEW_TRIES)):
        repo = ic.Repository.open(place)
        array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
        assert array[-1] == 999
    assert place == storage
    assert len(web.requests("/a")) <= before + 6
    with pytest.raises(ReadOnlyError) as caught:
        ic.Repository.create(storage)
    assert caught.value.kind == "read-only-storage"


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (None, "answered with no redirect"),
        ("/r", "more than 10 redirects"),
        ("ftp://x/y", "no storage for URLs that begin with ftp"),
        ("file:///etc", "no storage for URLs that begin with file"),
        ("memory://x", "no storage for URLs that begin with memory"),
        ("s3://bucket/prefix", "needs a region"),
        ("r2://bucket/prefix", "needs a account_id"),
        ("http://127.0.0.1:1/x", "did not answer"),
    ],
)
def test_redirect_leads_nowhere(web: WebServer, location: str | None, message: str) -> None:
    web.redirect("/r", location or "") if location else web.redirect("/q", "")
    path = "/r" if location else "/nothing"
    storage = redirect_storage(web.url + path).with_settings(FEW_TRIES)
    with pytest.raises(StorageError, match=message) as caught:
        run(storage.get("repo"))
    assert caught.value.kind == "bad-redirect"


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("s3://bucket/a/b?region=us-west-2", "type: S3\nbucket: bucket\nprefix: a/b\nregion: us-w"),
        ("tigris://bucket/a?region=iad", "endpoint_url: https://t3.storage.dev\nanonymous: True"),
        ("r2://bucket/a?account_id=me", "endpoint_url: https://me.r2.cloudflarestorage.com"),
        ("gs://bucket/a", "type: GCS\nbucket: bucket\nprefix: a\nanonymous: True"),
        ("https+icechunk://example.org/a", "type: HTTP\nurl: https://example.org/a"),
    ],
)
def test_redirect_targets(web: WebServer, location: str, shown: str) -> None:
    web.redirect("/t", location)
    storage: Any = redirect_storage(f"{web.url}/t")
    assert shown in str(run(storage._target()))


def test_redirect_url() -> None:
    with pytest.raises(InvalidInputError):
        redirect_storage("s3://x/y")
