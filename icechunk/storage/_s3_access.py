"""The S3 credentials in force for one client, fetched anew when they end, once for everybody."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from icechunk._io import loop
from icechunk._io.flight import Flight
from icechunk.credential_values import S3Credentials
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError

if TYPE_CHECKING:
    from icechunk.credential_values import S3StaticCredentials

# How long before their end credentials are renewed: so many seconds, but never more than this
# part of their life, or short-lived ones would be renewed before every request.
_RENEW_SECONDS: Final = 60.0
_RENEW_PART: Final = 0.1


class S3Access:
    """Fixed credentials, or those that a callback returned last.

    Parameters
    ----------
    credentials : S3Credentials.Static or S3Credentials.Refreshable
        Where they come from.

    Notes
    -----
    Concurrency: any thread and loop; whoever needs new credentials at the same time shares one
    call of the callback.
    """

    def __init__(self, credentials: S3Credentials.Static | S3Credentials.Refreshable) -> None:
        self._source = credentials
        self._flight: Flight[str, S3StaticCredentials] = Flight()
        self._renew_at = float("inf")  # by the monotonic clock
        self.current: S3StaticCredentials | None = None
        if isinstance(credentials, S3Credentials.Static):
            self.current = credentials[0]
        elif credentials.current is not None and not _has_expired(credentials.current):
            self._take(credentials.current)

    @property
    def can_renew(self) -> bool:
        """Whether there is a callback to ask."""
        return isinstance(self._source, S3Credentials.Refreshable)

    async def ready(self) -> S3StaticCredentials:
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

    async def renewed(self, seen: S3StaticCredentials | None) -> S3StaticCredentials:
        """Return other credentials than ``seen``, which are of no use any more."""
        current = self.current
        if current is not None and current is not seen:
            return current  # somebody else renewed them
        return await self._flight.share("renew", self._fetch)

    async def _fetch(self) -> S3StaticCredentials:
        assert isinstance(self._source, S3Credentials.Refreshable)
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

    def _take(self, found: S3StaticCredentials) -> None:
        self.current = found
        if found.expires_after is None:
            self._renew_at = float("inf")
        else:
            left = (found.expires_after - datetime.now(UTC)) / timedelta(seconds=1)
            self._renew_at = time.monotonic() + left - min(_RENEW_SECONDS, left * _RENEW_PART)


def _has_expired(credentials: S3StaticCredentials) -> bool:
    end = credentials.expires_after
    return end is not None and end <= datetime.now(UTC)
