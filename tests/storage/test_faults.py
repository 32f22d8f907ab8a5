"""Every kind of network fault, by a proxy on loopback, in front of every network backend."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from icechunk import Repository, RepositoryConfig
from icechunk._io.loop import run
from icechunk.errors import IcechunkError, StorageError
from icechunk.storage import Storage, s3_storage
from icechunk.storage.base import LostRaceError, UnknownOutcomeError
from icechunk.storage_settings import (
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from tests.proxy import FAULTS, NOT_DONE, FaultyProxy
from tests.storage.workload import Workload

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.s3_server import S3Server

PATIENT = StorageSettings(
    retries=StorageRetriesSettings(max_tries=10, initial_backoff_ms=1, max_backoff_ms=20),
    timeouts=StorageTimeoutSettings(read_timeout_ms=150, connect_timeout_ms=2000),
)
HASTY = StorageSettings(
    retries=StorageRetriesSettings(max_tries=1, initial_backoff_ms=1, max_backoff_ms=2),
    timeouts=StorageTimeoutSettings(read_timeout_ms=150, connect_timeout_ms=2000),
)
RATE = 0.05


class Place:
    """A place reached through the proxy, and directly."""

    def __init__(self, proxy: FaultyProxy, through: Storage, direct: Storage) -> None:
        self.proxy = proxy
        self.through = through.with_settings(PATIENT)
        self.hasty = through.with_settings(HASTY)
        self.direct = direct


@pytest.fixture
def place(s3: S3Server) -> Iterator[Place]:
    prefix = uuid.uuid4().hex
    with FaultyProxy(s3.url).running() as proxy:
        options: dict[str, Any] = s3.options(endpoint_url=proxy.url)
        yield Place(
            proxy,
            s3_storage(prefix=prefix, **options),
            s3_storage(prefix=prefix, **s3.options()),
        )


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_changes_nothing(place: Place, fault: str) -> None:
    """Whatever befalls a request once, the operation succeeds, and takes place once."""
    storage, proxy = place.through, place.proxy
    data = bytes(range(256)) * 100
    proxy.next(fault, method="PUT")
    run(storage.put("chunks/A", data))
    assert run(place.direct.get("chunks/A")) == data
    proxy.next(fault, method="GET")
    assert run(storage.get("chunks/A")) == data
    if fault != "short read":  # there is nothing to cut short
        proxy.next(fault, method="HEAD")
    assert run(storage.head("chunks/A")).size_bytes == len(data)
    proxy.next(fault, method="PUT")
    version = run(storage.put_if_absent("repo", b"1"))
    proxy.next(fault, method="PUT")
    newer = run(storage.put_if_unchanged("repo", b"2", version))
    assert run(place.direct.get_versioned("repo")) == (b"2", newer)
    proxy.next(fault, method="GET", contains="list-type")
    assert storage.list_objects() == [("chunks/A", len(data)), ("repo", 1)]
    proxy.next(fault, method="POST", contains="delete")
    run(storage.delete_many(["chunks/A"]))
    assert place.direct.list_objects() == [("repo", 1)]
    assert proxy.tally.faults[fault] == (6 if fault == "short read" else 7)


@pytest.mark.parametrize("fault", FAULTS)
def test_without_retries_there_is_a_clear_error(place: Place, fault: str) -> None:
    storage, proxy = place.hasty, place.proxy
    run(place.direct.put("chunks/A", bytes(5000)))
    proxy.next(fault, method="GET")
    with pytest.raises(StorageError, match=r"cannot read s3://test-bucket/.*/chunks/A") as caught:
        run(storage.get("chunks/A"))
    throttled = fault in {"throttle 429", "slow down 503"}
    assert caught.value.kind == ("throttled" if throttled else "object-store")
    assert ("slow down" in str(caught.value)) == throttled
    proxy.next(fault, method="PUT")
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


def test_time_limits_hold(place: Place) -> None:
    place.proxy.next(*["silence"] * 9)
    start = time.monotonic()
    with pytest.raises(StorageError, match="imeout"):
        run(place.hasty.get("chunks/A"))
    assert time.monotonic() - start < 5


def work(place: Place, requests: int, kinds: tuple[str, ...]) -> Workload:
    workload = Workload(place.through)
    place.proxy.draw(RATE, *kinds)
    run(workload.run(lambda: place.proxy.tally.requests >= requests, tasks=16))
    place.proxy.draw(0.0)
    run(workload.check(place.direct))
    return workload


def test_many_faults_lose_and_double_nothing(place: Place) -> None:
    workload = work(place, 300, FAULTS)
    assert sum(place.proxy.tally.faults.values()) > 80
    assert workload.account.appended
    assert sum(workload.account.errors.values()) < workload.account.operations // 4


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_thousand_requests_lose_and_double_nothing(
    place: Place, record_property: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    workload = work(place, 10_000, FAULTS)
    account, tally = workload.account, place.proxy.tally
    assert tally.requests >= 10_000
    assert set(tally.faults) == set(FAULTS)
    assert all(count > 400 for count in tally.faults.values())
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


# ---------------------------------------------------------------- commits


def commit_many(place: Place, count: int) -> None:
    config = RepositoryConfig(storage=PATIENT)
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
