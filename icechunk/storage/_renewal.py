"""Credentials that may be renewed by a callback: when they end, once for all in this process."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from icechunk._io import loop
from icechunk._io.flight import Flight
from icechunk._io.registry import Registry
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Hashable

# How long before their end credentials are renewed: so many seconds, but never more than this
# part of their life, or short-lived ones would be renewed before every request.
_RENEW_SECONDS: Final = 60.0
_RENEW_PART: Final = 0.1
_KEPT: Final = 64


class Expiring(Protocol):
    """Credentials that end."""

    @property
    def expires_after(self) -> datetime | None:
        """When; None for never."""


C = TypeVar("C", bound=Expiring)
C_co = TypeVar("C_co", bound=Expiring, covariant=True)


class Source(Protocol[C_co]):
    """What makes credentials: the refreshable case of each family."""

    @property
    def pickled_function(self) -> bytes:
        """The callback."""

    @property
    def current(self) -> C_co | None:
        """What it returned last, sent along from elsewhere."""

    def fetch(self) -> C_co:
        """Call it, in this thread."""


class Renewed(Generic[C]):
    """Fixed credentials, or those that a callback returned last.

    Parameters
    ----------
    source : Source or None
        A refreshable case of credentials; None for fixed ones.
    current : Expiring or None
        What to begin with; fixed ones for good.

    Notes
    -----
    Concurrency: any thread and loop; whoever needs new credentials at the same time shares one
    call of the callback.
    """

    def __init__(self, source: Source[C] | None, current: C | None = None) -> None:
        self._source = source
        self._flight: Flight[str, C] = Flight()
        self._renew_at = float("inf")  # by the monotonic clock
        self.current = current

    @property
    def can_renew(self) -> bool:
        """Whether there is a callback to ask."""
        return self._source is not None

    def offer(self, sent: C | None) -> None:
        """Use credentials that were sent along, if there are none or they have ended."""
        has_none = self.current is None or _has_expired(self.current)
        if sent is not None and has_none and not _has_expired(sent):
            self._take(sent)

    async def ready(self) -> C:
        """Return credentials to use now, new ones if the last are about to end.

        Raises
        ------
        IcechunkError
            Kind ``invalid-credentials``; the callback failed, and the last ones have ended.
        """
        current = self.current
        if current is not None and time.monotonic() < self._renew_at:
            return current
        try:
            return await self.renewed(current)
        except IcechunkError:
            if current is None or _has_expired(current):
                raise
            return current  # good for a while yet; the next request asks again

    async def renewed(self, seen: C | None) -> C:
        """Return other credentials than ``seen``, which are of no use any more."""
        current = self.current
        if current is not None and current is not seen:
            return current  # somebody else renewed them
        return await self._flight.share("renew", self._fetch)

    async def _fetch(self) -> C:
        assert self._source is not None
        try:
            # In a thread, for the user's callback may take its time.
            found = await loop.in_thread(self._source.fetch)
        except IcechunkError:
            raise
        except Exception as error:
            raise StorageError(
                f"get_credentials failed: {type(error).__name__}: {error}",
                ErrorKind.INVALID_CREDENTIALS,
            ) from error
        if _has_expired(found):
            raise InvalidInputError(
                f"get_credentials returned credentials that ended at {found.expires_after}; check "
                "the callback, and this machine's clock",
                ErrorKind.INVALID_CREDENTIALS,
            )
        self._take(found)
        return found

    def _take(self, found: C) -> None:
        self.current = found
        if found.expires_after is None:
            self._renew_at = float("inf")
        else:
            left = (found.expires_after - datetime.now(UTC)) / timedelta(seconds=1)
            self._renew_at = time.monotonic() + left - min(_RENEW_SECONDS, left * _RENEW_PART)


def _has_expired(credentials: Expiring) -> bool:
    end = credentials.expires_after
    return end is not None and end <= datetime.now(UTC)


class Renewals(Generic[C]):
    """The renewed credentials of this process, one for all storages with the same callback."""

    def __init__(self) -> None:
        self._registry: Registry[Hashable, Renewed[C]] = Registry(_KEPT)

    def of(self, source: Source[C]) -> Renewed[C]:
        """Return the credentials of a callback; those sent along count when there are none yet."""
        found = self._registry.get(source.pickled_function, lambda: Renewed(source))
        found.offer(source.current)
        return found
