"""Waiting between attempts, and what to make of a conditional write whose reply was lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from icechunk.errors import StorageError
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from icechunk.storage.base import Version
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")

_MOST_UNSETTLED: Final = 3  # each may arrive late, after somebody else's write


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponentially growing waits with jitter.

    Parameters
    ----------
    max_tries : int
        Attempts altogether, the first included; at least 1.
    initial_seconds, max_seconds : float
        Upper bound of the first wait, and of any.
    draw : callable
        Returns a random number from 0 to 1.
    sleep : callable
        Waits that many seconds.
    """

    max_tries: int
    initial_seconds: float
    max_seconds: float
    draw: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep

    def delays(self) -> Iterator[float]:
        """Yield the wait after each attempt but the last, in seconds."""
        bound = self.initial_seconds
        for _ in range(self.max_tries - 1):
            # At least half of the bound, so that a wait is one.
            yield min(bound, self.max_seconds) * (1 + self.draw()) / 2
            bound *= 2


def backoff_of(settings: StorageSettings) -> Backoff:
    """Return the waits that settings in force ask for."""
    retries = settings.retries
    assert retries is not None
    return Backoff(
        max_tries=retries.max_tries or 1,
        initial_seconds=(retries.initial_backoff_ms or 0) / 1000,
        max_seconds=(retries.max_backoff_ms or 0) / 1000,
    )


class AmbiguousError(Exception):
    """A write may or may not have taken place, or might if it is attempted again.

    Parameters
    ----------
    cause : StorageError
        What was seen of it.
    refused : bool
        It certainly did not, but for a passing reason: worth another attempt.
    """

    def __init__(self, cause: StorageError, *, refused: bool = False) -> None:
        self.cause = cause
        self.refused = refused
        super().__init__(cause)


@contextlib.asynccontextmanager
async def in_time(
    settings: StorageSettings, place: str, decides: str | None = None
) -> AsyncIterator[None]:
    """Let an operation take as long as ``operation_timeout_ms`` says, with all its attempts.

    Parameters
    ----------
    settings : StorageSettings
        In force.
    place : str
        For the message.
    decides : str or None
        The key whose conditional write this is, so that running out of time leaves it open.

    Raises
    ------
    UnknownOutcomeError
        It took longer, and was to decide.
    StorageError
        It took longer.
    """
    limit_ms = settings.timeouts.operation_timeout_ms if settings.timeouts else None
    if limit_ms is None:
        yield
        return
    try:
        async with asyncio.timeout(limit_ms / 1000) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        if decides is not None:
            raise UnknownOutcomeError(decides) from error
        raise StorageError(
            f"an operation on {place} took longer than {limit_ms} ms, the operation_timeout_ms of "
            "its storage settings"
        ) from error


async def repeated(attempt: Callable[[], Awaitable[T]], backoff: Backoff) -> T:
    """Make a request that may be made twice, until it succeeds or the tries are used up.

    Parameters
    ----------
    attempt : callable
        Makes it once; raises `AmbiguousError` when another attempt is worth it.
    backoff : Backoff
        How often and how soon.

    Returns
    -------
    T
        What an attempt returned.

    Raises
    ------
    StorageError
        What the last attempt came to, or any that is final.
    """
    delays = backoff.delays()
    while True:
        try:
            return await attempt()
        except AmbiguousError as error:
            delay = next(delays, None)
            if delay is None:
                raise error.cause from error.__cause__
        await backoff.sleep(delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is at a key, read after a lost reply.

    Parameters
    ----------
    version : Version or None
        None when there is no object.
    write_id : str or None
        Of the write that made this version, as far as it left one.
    """

    version: Version | None
    write_id: str | None


async def put_conditionally(
    key: str,
    *,
    expected: Version | None,
    write_id: str,
    attempt: Callable[[], Awaitable[Version]],
    read_back: Callable[[], Awaitable[Found]],
    backoff: Backoff,
) -> Version:
    """Make a conditional write that ends stored, lost, or unknown.

    Parameters
    ----------
    key : str
        What is written.
    expected : Version or None
        The version it replaces; None when there must be none.
    write_id : str
        Random, the same for all attempts of this write.
    attempt : callable
        Writes; raises `LostRaceError` when certainly refused and `AmbiguousError` when the
        outcome is open.
    read_back : callable
        Looks at the object, with retries of its own; raises `StorageError`.
    backoff : Backoff
        How often, and how soon, a write that was refused for a passing reason is attempted again;
        one that may have taken place and left no trace, three times at most.

    Returns
    -------
    Version
        Of the object written.

    Raises
    ------
    LostRaceError
        Certainly not written, because somebody else was first.
    StorageError
        Certainly not written, for the reason it gives.
    UnknownOutcomeError
        Nothing could be read back, or somebody else has written since, perhaps on top of ours; or
        the write left no trace but may still be on its way.
    """
    delays = backoff.delays()
    all_refused = True
    unsettled = 0
    while True:
        outcome = await _tried(key, attempt, all_refused=all_refused)
        if not isinstance(outcome, AmbiguousError):
            return outcome
        cause = outcome.cause
        all_refused = all_refused and outcome.refused
        unsettled += not outcome.refused
        try:
            found = await read_back()
        except StorageError as error:
            raise UnknownOutcomeError(key) from error
        if found.version is not None and found.write_id == write_id:
            return found.version
        delay = next(delays, None) if unsettled < _MOST_UNSETTLED else None
        if all_refused and found.version != expected:
            raise LostRaceError(key) from cause
        if all_refused and delay is None:
            raise cause
        if found.version != expected or delay is None:
            raise UnknownOutcomeError(key) from cause
        await backoff.sleep(delay)


async def _tried(
    key: str, attempt: Callable[[], Awaitable[Version]], *, all_refused: bool
) -> Version | AmbiguousError:
    try:
        return await attempt()
    except AmbiguousError as error:
        return error
    except LostRaceError:
        raise
    except StorageError as error:
        if all_refused:
            raise
        raise UnknownOutcomeError(key) from error  # an earlier attempt may be on its way yet
