"""Every kind of network fault, by a proxy on loopback, in front of every network backend."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from icechunk import Repository, RepositoryConfig
from icechunk._io.loop import run
from icechunk.errors import IcechunkError, StorageError
from icechunk.storage import Storage, azure_storage, gcs_storage, http_storage, s3_storage
from icechunk.storage.objects import ByteRange, LostRaceError, UnknownOutcomeError
from icechunk.storage_settings import (
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from tests.proxy import FAULTS, NOT_DONE, FaultyProxy
from tests.storage.workload import Workload
from tests.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.azurite import Azurite
    from tests.gcs_server import GcsServer
    from tests.s3_server import S3Server

PATIENT = StorageSettings(
    retries=StorageRetriesSettings(max_tries=10, initial_backoff_ms=1, max_backoff_ms=20),
    timeouts=StorageTimeoutSettings(read_timeout_ms=150, connect_timeout_ms=2000),
)
HASTY = StorageSettings(
    retries=StorageRetriesSettings(max_tries=1, initial_backoff_ms=1, max_backoff_ms=2),
    timeouts=StorageTimeoutSettings(read_timeout_ms=150, connect_timeout_ms=2000),
)
# Many requests at once on a busy machine take their time.
CROWDED = PATIENT.merge(
    StorageSettings(timeouts=StorageTimeoutSettings(read_timeout_ms=1500, connect_timeout_ms=5000))
)
RATE = 0.05


class Place:
    """A place reached through the proxy, and directly."""

    def __init__(self, proxy: FaultyProxy, through: Storage, direct: Storage, backend: str) -> None:
        self.backend = backend
        self.proxy = proxy
        self.through = through.with_settings(PATIENT)
        self.hasty = through.with_settings(HASTY)
        self.direct = direct


SERVICES = ["s3 s3fs", "s3 obstore", "gcs aiohttp", "gcs obstore", "azure azure", "azure obstore"]


@pytest.fixture(params=SERVICES)
def place(request: pytest.FixtureRequest, s3_server: S3Server) -> Iterator[Place]:
    prefix = uuid.uuid4().hex
    make: Callable[[str], Storage]
    service, backend = request.param.split()
    match service:
        case "gcs":
            gcs: GcsServer = request.getfixturevalue("gcs_server")
            url = gcs.url
            make = lambda url: gcs_storage(
                prefix=prefix, **gcs.options(config={"google_base_url": url}, backend=backend)
            )
        case "azure":
            azurite: Azurite = request.getfixturevalue("azurite")
            url = azurite.url
            make = lambda url: azure_storage(
                prefix=prefix,
                **azurite.options(config={"azure_storage_endpoint": url}, backend=backend),
            )
        case _:
            url = s3_server.url
            make = lambda url: s3_storage(
                prefix=prefix, **s3_server.options(endpoint_url=url, backend=backend)
            )
    start = urlsplit(url)
    with FaultyProxy(f"{start.scheme}://{start.netloc}").running() as proxy:
        yield Place(proxy, make(proxy.url + start.path), make(url), request.param)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_changes_nothing(place: Place, fault: str) -> None:
    """Whatever befalls a request once, the operation succeeds, and takes place once."""
    storage, proxy = place.through, place.proxy
    data = bytes(range(256)) * 100
    operations = 0

    def next_goes_wrong() -> None:
        nonlocal operations
        operations += 1
        proxy.next(fault)

    next_goes_wrong()
    run(storage.put("chunks/A", data))
    assert run(place.direct.get("chunks/A")) == data
    next_goes_wrong()
    assert run(storage.get("chunks/A")) == data
    if fault != "short read":  # there is nothing to cut short
        next_goes_wrong()
    assert run(storage.head("chunks/A")).size_bytes == len(data)
    next_goes_wrong()
    version = run(storage.put_if_absent("repo", b"1"))
    next_goes_wrong()
    newer = run(storage.put_if_unchanged("repo", b"2", version))
    assert run(place.direct.get_versioned("repo")) == (b"2", newer)
    next_goes_wrong()
    assert storage.list_objects() == [("chunks/A", len(data)), ("repo", 1)]
    next_goes_wrong()
    run(storage.delete_many(["chunks/A"]))
    assert place.direct.list_objects() == [("repo", 1)]
    assert proxy.tally.faults[fault] == operations


@pytest.mark.parametrize("fault", FAULTS)
def test_without_retries_there_is_a_clear_error(place: Place, fault: str) -> None:
    storage, proxy = place.hasty, place.proxy
    run(place.direct.put("chunks/A", bytes(5000)))
    proxy.next(*[fault] * 4)  # the Azure SDK repeats a read that breaks off, up to twice
    with pytest.raises(StorageError, match=r"cannot read .*chunks/A") as caught:
        run(storage.get("chunks/A"))
    throttled = fault in {"throttle 429", "slow down 503"}
    assert caught.value.kind == ("throttled" if throttled else "object-store")
    assert ("slow down" in str(caught.value)) == throttled
    proxy.next(fault)
    if fault not in NOT_DONE:
        version = run(storage.put_if_absent("repo", b"1"))
        assert run(place.direct.get_versioned("repo")) == (b"1", version)
        return
    # Throttled is certainly not done; whatever else left no trace may still come.
    with pytest.raises(StorageError) as raised:
        run(storage.put_if_absent("repo", b"1"))
    assert not isinstance(raised.value, LostRaceError)
    assert isinstance(raised.value, UnknownOutcomeError) != throttled
    assert place.direct.list_objects() == [("chunks/A", 5000)]


def test_throttled_conditional_writes_go_on_as_long_as_others(place: Place) -> None:
    """They certainly did not take place, so only the settings limit how often they are repeated."""
    storage, proxy = place.through, place.proxy
    for status in ("throttle 429", "slow down 503"):
        proxy.next(*[status] * 6, method="PUT")
        version = run(storage.put_if_absent(f"first-{status[-3:]}", b"1"))
        proxy.next(*[status] * 6, method="PUT")
        run(storage.put_if_unchanged(f"first-{status[-3:]}", b"2", version))
        assert proxy.tally.faults[status] == 12
    assert [size for _, size in place.direct.list_objects()] == [1, 1]


def test_time_limits_hold(place: Place) -> None:
    place.proxy.next(*["silence"] * 9)
    start = time.monotonic()
    with pytest.raises(StorageError, match="imeout"):
        run(place.hasty.get("chunks/A"))
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("end", ["fails", "is cancelled"])
def test_a_read_that_stalls_leaves_no_connection_behind(place: Place, end: str) -> None:
    """More of them than there are connections, and then there is one for the next."""
    run(place.direct.put("chunks/A", bytes(5000)))

    async def read(seconds: float) -> bytes:
        async with asyncio.timeout(seconds):
            return await place.hasty.get("chunks/A")

    async def read_many() -> list[bytes | BaseException]:
        seconds = 30 if end == "fails" else 0.1
        return await asyncio.gather(*(read(seconds) for _ in range(300)), return_exceptions=True)

    async def read_one() -> bytes:
        async with asyncio.timeout(30):
            while True:  # a busy machine may not answer in time
                with contextlib.suppress(StorageError):
                    return await place.hasty.get("chunks/A")

    place.proxy.draw(1.0, "stall")
    kept = run(read_many())  # with all that their tracebacks keep alive
    place.proxy.draw(0.0)
    kind = StorageError if end == "fails" else TimeoutError
    assert all(isinstance(error, kind) for error in kept)
    assert run(read_one()) == bytes(5000)


def work(place: Place, requests: int, kinds: tuple[str, ...]) -> Workload:
    workload = Workload(place.through.with_settings(CROWDED))
    place.proxy.draw(RATE, *kinds)
    run(workload.run(lambda: place.proxy.tally.requests >= requests, tasks=16))
    place.proxy.draw(0.0)
    run(workload.check(place.direct, place.proxy.tally.repeated))
    return workload


def test_many_faults_lose_and_double_nothing(place: Place) -> None:
    workload = work(place, 300, FAULTS)
    assert sum(place.proxy.tally.faults.values()) > 80
    assert workload.account.appended
    assert sum(workload.account.errors.values()) < workload.account.operations // 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_requests_lose_and_double_nothing(
    place: Place, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """As many as ``ICECHUNK_FAULT_REQUESTS`` says; 10,000 take up to six minutes a place."""
    requests = int(os.environ.get("ICECHUNK_FAULT_REQUESTS", "1200"))
    start = time.monotonic()
    workload = work(place, requests, FAULTS)
    account, tally = workload.account, place.proxy.tally
    assert tally.requests >= requests
    assert set(tally.faults) == set(FAULTS)
    assert all(count > 0.02 * requests for count in tally.faults.values())
    figures = {
        "seconds": round(time.monotonic() - start),
        "requests": tally.requests,
        "faults": dict(tally.faults),
        "operations": account.operations,
        "objects": len(account.written),
        "appends": len(account.appended),
        "appends in doubt": len(account.append_in_doubt),
        "errors": dict(account.errors),
    }
    record_property("figures", figures)
    with capsys.disabled():
        print(figures)


# ---------------------------------------------------------------- web servers, which are only read


@pytest.fixture(params=["aiohttp", "obstore"])
def web(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[FaultyProxy, Storage]]:
    for number in range(10):
        (tmp_path / f"{number}").write_bytes(bytes([number]) * 5000)
    with WebServer.running(tmp_path) as server, FaultyProxy(server.url).running() as proxy:
        yield proxy, http_storage(proxy.url, backend=request.param)


def test_a_web_server_is_read_through_every_fault(web: tuple[FaultyProxy, Storage]) -> None:
    proxy, storage = web
    patient, hasty = storage.with_settings(PATIENT), storage.with_settings(HASTY)
    part = ByteRange(start=10, stop=2010)
    for fault in FAULTS:
        proxy.next(fault)
        assert run(patient.get("1")) == bytes([1]) * 5000
        proxy.next(fault)
        assert run(patient.get("2", part)) == bytes([2]) * 2000
        if fault != "short read":  # there is nothing to cut short
            proxy.next(fault)
        assert run(patient.head("3")).size_bytes == 5000
        proxy.next(fault)
        with pytest.raises(StorageError, match=r"cannot read '4'") as caught:
            run(hasty.get("4"))
        assert (caught.value.kind == "throttled") == (fault in {"throttle 429", "slow down 503"})
        assert proxy.tally.faults[fault] == (3 if fault == "short read" else 4)


def test_many_faults_change_nothing_that_is_read(web: tuple[FaultyProxy, Storage]) -> None:
    proxy, storage = web
    patient = storage.with_settings(CROWDED)
    proxy.draw(0.03, *FAULTS)  # ten tries are enough for that

    async def read(worker: int) -> None:
        for number in range(20):
            key = (worker + number) % 10
            assert await patient.get(str(key)) == bytes([key]) * 5000

    async def all_of_them() -> None:
        await asyncio.gather(*(read(worker) for worker in range(10)))

    run(all_of_them())
    assert sum(proxy.tally.faults.values()) > 40


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_reads_change_nothing(
    web: tuple[FaultyProxy, Storage], capsys: pytest.CaptureFixture[str]
) -> None:
    """As many requests as ``ICECHUNK_FAULT_REQUESTS`` says, of which every second goes wrong."""
    requests = int(os.environ.get("ICECHUNK_FAULT_REQUESTS", "1200"))
    proxy, storage = web
    patient = storage.with_settings(CROWDED)
    proxy.draw(RATE, *FAULTS)
    counts: Counter[str] = Counter()

    async def read(worker: int) -> None:
        for number in itertools.count(worker):
            if proxy.tally.requests >= requests:
                return
            key = number % 10
            part = ByteRange(start=10, stop=2010) if number % 3 else None
            counts["operations"] += 1
            try:
                data = await patient.get(str(key), part)
            except StorageError as error:
                counts[type(error).__name__] += 1
                continue
            assert data == bytes([key]) * (5000 if part is None else 2000)

    async def all_of_them() -> None:
        await asyncio.gather(*(read(worker) for worker in range(16)))

    run(all_of_them())
    assert set(proxy.tally.faults) == set(FAULTS)
    assert counts["StorageError"] < counts["operations"] // 50
    with capsys.disabled():
        print({"requests": proxy.tally.requests, "faults": dict(proxy.tally.faults), **counts})


# ---------------------------------------------------------------- commits


def commit_many(place: Place, count: int) -> None:
    config = RepositoryConfig(storage=CROWDED)
    repo = Repository.create(place.through, config=config)
    place.proxy.draw(RATE, *FAULTS)
    promised, in_doubt = [], []
    for number in range(count):
        session = repo.writable_session("main")
        message = f"commit {number}"
        try:
            session.commit(message, allow_empty=True)
        except IcechunkError:
            in_doubt.append(message)
        else:
            promised.append(message)
    place.proxy.draw(0.0)
    direct = Repository.open(place.direct)
    messages = [snapshot.message for snapshot in direct.ancestry(branch="main")][::-1][1:]
    assert len(messages) == len(set(messages))
    assert set(promised) <= set(messages) <= set(promised) | set(in_doubt)
    assert [m for m in messages if m in set(promised)] == promised
    assert len(in_doubt) <= count // 4


def test_no_commit_is_lost_or_doubled(place: Place) -> None:
    commit_many(place, 8)
