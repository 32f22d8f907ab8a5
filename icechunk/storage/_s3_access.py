"""The S3 credentials in force for one client, fetched anew when they end, once for everybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from icechunk.credential_values import S3Credentials, S3StaticCredentials
from icechunk.storage._renewal import Renewals

if TYPE_CHECKING:
    from icechunk.storage._renewal import Renewed

_renewals: Final[Renewals[S3StaticCredentials]] = Renewals()


class S3Access:
    """Fixed credentials, or those that a callback returned last.

    Parameters
    ----------
    credentials : S3Credentials.Static or S3Credentials.Refreshable
        Where they come from.

    Notes
    -----
    Concurrency: any thread and loop. All clients of this process with the same callback share what
    it returned.
    """

    def __init__(self, credentials: S3Credentials.Static | S3Credentials.Refreshable) -> None:
        self._fixed: S3StaticCredentials | None = None
        self._renewed: Renewed[S3StaticCredentials] | None = None
        if isinstance(credentials, S3Credentials.Static):
            self._fixed = credentials[0]
        else:
            self._renewed = _renewals.of(credentials)

    @property
    def can_renew(self) -> bool:
        """Whether there is a callback to ask."""
        return self._renewed is not None

    @property
    def current(self) -> S3StaticCredentials | None:
        """The credentials used last; None before the first use of a callback."""
        return self._fixed if self._renewed is None else self._renewed.current

    async def ready(self) -> S3StaticCredentials:
        """Return credentials to use now, new ones if the last are about to end.

        Raises
        ------
        IcechunkError
            Kind ``invalid-credentials``; the callback failed, and the last ones have ended.
        """
        if self._renewed is not None:
            return await self._renewed.ready()
        assert self._fixed is not None
        return self._fixed

    async def renewed(self, seen: S3StaticCredentials | None) -> S3StaticCredentials:
        """Return other credentials than ``seen``, which are of no use any more."""
        assert self._renewed is not None
        return await self._renewed.renewed(seen)
