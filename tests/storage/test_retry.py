"""What becomes of a conditional write whose reply is lost, decided without a network."""

from __future__ import annotations

import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icechunk._io.loop import run_now
from icechunk.errors import ErrorKind, IcechunkError, StorageError
from icechunk.storage.base import Version
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError
from icechunk.storage.retry import AmbiguousError, Backoff, Found, put_conditionally


class Service:
    """One object, with a script of what happens to each attempt.

    ``ok``; ``lost-reply`` (stored, no reply); ``nothing`` (no reply, not stored); ``busy`` (refused
    for a passing reason); ``denied`` (refused for good); ``overtaken`` (somebody else writes, then
    a conditional failure); ``stored-overtaken`` (stored, no reply, and then somebody else writes).
    """

    def __init__(self, script: list[str], *, there: bool) -> None:
        self.script = iter(script)
        self.version = 1 if there else 0
        self.writer: str | None = "before" if there else None
        self.writes: list[str] = []
        self.readable = True
        self.waits: list[float] = []
        self.expected = Version("1") if there else None

    def now(self) -> Version | None:
        return Version(str(self.version)) if self.writer is not None else None

    def store(self, writer: str) -> None:
        self.version += 1
        self.writer = writer
        self.writes.append(writer)

    async def attempt(self) -> Version:
        step = next(self.script, "ok")
        if step == "overtaken":
            self.store("other")
        if step == "denied":
            raise StorageError("denied")
        if step == "busy":
            raise AmbiguousError(StorageError("busy", ErrorKind.THROTTLED), refused=True)
        if step == "nothing":
            raise AmbiguousError(StorageError("nothing"))
        if self.now() != self.expected:
            raise AmbiguousError(StorageError("condition"), refused=True)
        self.store("ours")
        if step == "ok":
            version = self.now()
            assert version is not None
            return version
        if step == "stored-overtaken":
            self.store("other")
        raise AmbiguousError(StorageError("lost"))

    async def read_back(self) -> Found:
        if not self.readable:
            raise StorageError("dark")
        return Found(version=self.now(), write_id=self.writer)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def put(self, tries: int = 3) -> Version:
        backoff = Backoff(
            max_tries=tries,
            initial_seconds=1,
            max_seconds=2.5,
            draw=itertools.cycle([0.0, 1.0]).__next__,
            sleep=self.sleep,
        )
        return run_now(
            put_conditionally(
                "repo",
                expected=self.expected,
                write_id="ours",
                attempt=self.attempt,
                read_back=self.read_back,
                backoff=backoff,
            )
        )


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    ("script", "end", "writes"),
    [
        (["ok"], None, ["ours"]),
        (["lost-reply"], None, ["ours"]),
        (["nothing", "ok"], None, ["ours"]),
        (["busy", "busy", "ok"], None, ["ours"]),
        (["nothing", "lost-reply"], None, ["ours"]),
        (["overtaken"], LostRaceError, ["other"]),
        (["busy", "overtaken"], LostRaceError, ["other"]),
        (["busy"] * 3, StorageError, []),
        (["denied"], StorageError, []),
        (["nothing"] * 3, UnknownOutcomeError, []),
        (["nothing", "overtaken"], UnknownOutcomeError, ["other"]),
        (["nothing", "denied"], UnknownOutcomeError, []),
        (["busy", "denied"], StorageError, []),
        (["stored-overtaken"], UnknownOutcomeError, ["ours", "other"]),
    ],
)
def test_story(
    script: list[str], end: type[IcechunkError] | None, writes: list[str], there: bool
) -> None:
    service = Service(script, there=there)
    if end is None:
        assert service.put() == service.now()
    else:
        with pytest.raises(end) as caught:
            service.put()
        assert type(caught.value) is end
    assert service.writes == writes


def test_nothing_can_be_read_back() -> None:
    service = Service(["lost-reply"], there=True)
    service.readable = False
    with pytest.raises(UnknownOutcomeError) as caught:
        service.put()
    assert str(caught.value.__cause__) == "dark"


STEPS = ["ok", "lost-reply", "nothing", "busy", "overtaken", "stored-overtaken", "denied"]


@given(st.lists(st.sampled_from(STEPS), max_size=6), st.booleans(), st.integers(1, 5))
def test_never_says_what_is_not_so(script: list[str], there: bool, tries: int) -> None:
    service = Service(script, there=there)
    try:
        version = service.put(tries)
    except LostRaceError:
        assert "ours" not in service.writes
        assert service.now() != service.expected
    except UnknownOutcomeError:
        pass
    except StorageError:
        assert "ours" not in service.writes
    else:
        assert service.writes[-1] == "ours"
        assert version == service.now()
    assert service.writes.count("ours") <= 1


def test_waits_grow_to_their_limit() -> None:
    service = Service(["busy"] * 5, there=True)
    with pytest.raises(StorageError, match="busy"):
        service.put(5)
    assert service.waits == [0.5, 2.0, 1.25, 2.5]


def test_what_may_still_arrive_is_repeated_less_often() -> None:
    """Three attempts without an answer; those that were refused do not count."""
    service = Service(["busy", "nothing", "busy", "nothing", "nothing", "ok"], there=True)
    with pytest.raises(UnknownOutcomeError):
        service.put(9)
    assert len(service.waits) == 4


@pytest.mark.parametrize("error", [LostRaceError("repo"), UnknownOutcomeError("repo")])
def test_errors_pickle(error: LostRaceError | UnknownOutcomeError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.key, copy.kind) == (
        type(error),
        str(error),
        "repo",
        "object-store",
    )
