"""`max_concurrent_requests`: holds in a process over all sessions, seen by the server."""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.limits import Limiter
from icechunk._io.loop import run
from icechunk.storage import http_storage, redirect_storage
from icechunk.storage.objects import ByteRange
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)
from tests.storage.conformance import on_own_loops
from tests.web_control import ControlledHandler
from tests.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from icechunk.storage import Storage
    from tests.s3_server import S3Server


class Counting(ControlledHandler):
    """Answers every request with zeros, and knows how many it had at once."""

    now = 0
    most = 0
    together = threading.Condition()

    def serve(self, body: bytes) -> None:
        cls = type(self)
        with self.together:
            cls.now += 1
            cls.most = max(cls.most, cls.now)
            self.together.wait(0.02)  # let others come
        first, _, last = (
            self.headers.get("Range", "bytes=0-0").removeprefix("bytes=").partition("-")
        )
        data = bytes(int(last) - int(first) + 1)
        with self.together:
            cls.now -= 1
        self.reply(206, data, Content_Range=f"bytes {first}-{last}/999999")


@pytest.fixture(scope="module")
def counting() -> Iterator[str]:
    import http.server

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("limit", [1, 3])
def test_limit_over_storages_threads_and_parts(counting: str, limit: int) -> None:
    """Copies of one place, on several loops, with ranges that go in parts, share one limit."""
    settings = StorageSettings(
        concurrency=StorageConcurrencySettings(
            max_concurrent_requests_for_object=5, ideal_concurrent_request_size=10
        )
    )
    Counting.most = 0
    first = http_storage(f"{counting}/{limit}")
    copies: list[Storage] = [first.with_settings(settings), pickle.loads(pickle.dumps(first))]
    limited = [storage.with_request_limit(limit) for storage in (*copies, first)]

    async def read(index: int) -> int:
        whole = ByteRange(start=0, stop=50)
        parts = await asyncio.gather(*(limited[index].get(f"x{n}", whole) for n in range(6)))
        return sum(map(len, parts))

    assert on_own_loops(3, read) == [300] * 3
    assert 1 <= Counting.most <= limit
    Counting.most = 0
    on_own_loops(3, lambda i: copies[0].get(f"y{i}", ByteRange(start=0, stop=50)))
    assert Counting.most > limit or limit > 1


def test_free_places() -> None:
    gate = Limiter(4)

    async def inside() -> list[int]:
        async with gate:
            with gate.as_free(10) as most, gate.as_free(10) as rest:
                return [most, rest]

    assert run(inside()) == [4, 1]
    with gate.as_free(1) as most:
        assert most == 1
    assert run(inside()) == [4, 1]


def test_sessions_of_a_repository(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the configuration reaches the requests of every session."""
    entered: list[int] = []
    enter = Limiter.__aenter__

    async def watched(self: Any) -> None:
        await enter(self)
        if self.limit == 2:
            entered.append(self._inside)

    monkeypatch.setattr(Limiter, "__aenter__", watched)
    config = ic.RepositoryConfig.default()
    config.max_concurrent_requests = 2
    config.inline_chunk_threshold_bytes = 0
    storage = ic.s3_storage(prefix=uuid.uuid4().hex, **s3.options())
    repo = ic.Repository.create(storage, config=config)
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(40), chunks=(2,))
    sessions = [
        repo.readonly_session("main"),
        ic.Repository.open(storage, config).readonly_session("main"),
    ]
    arrays = [zarr.open_array(session.store, path="a", mode="r") for session in sessions]
    for array in arrays:
        np.testing.assert_array_equal(array[:], np.arange(40))
    assert len(entered) > 40
    assert max(entered) == 2


@pytest.mark.parametrize("order", ["settings first", "limit first"])
def test_limit_behind_a_redirect(counting: str, tmp_path: Path, order: str) -> None:
    """What a redirect leads to is asked as little at once as the redirect itself."""
    settings = StorageSettings(retries=StorageRetriesSettings(max_tries=2))
    with WebServer.running(tmp_path) as web:
        web.redirect("/r", counting.replace("http:", "http+icechunk:") + f"/{order[0]}")
        storage = redirect_storage(f"{web.url}/r")
        if order == "settings first":
            storage = storage.with_settings(settings).with_request_limit(2)
        else:
            storage = storage.with_request_limit(2).with_settings(settings)

        async def read_all() -> None:
            part = ByteRange(start=0, stop=10)
            await asyncio.gather(*(storage.get(str(number), part) for number in range(12)))

        Counting.most = 0
        run(read_all())
    assert Counting.most == 2
