"""Tokens for Google Cloud Storage. The only module that sees google-auth.

google-auth is an optional library, loaded when credentials of Google's own kinds are used. It is
asked directly and not through gcsfs, which would send a bearer token to another server to find out
when it ends.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icechunk._io import loop
from icechunk._io.flight import Flight
from icechunk.credential_values import (
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
)
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.storage._renewal import Renewals

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.credential_values import AnyGcsCredential
    from icechunk.storage._renewal import Renewed

_SCOPES: Final = ("https://www.googleapis.com/auth/devstorage.read_write",)
_renewals: Final[Renewals[GcsBearerCredential]] = Renewals()


class GcsAccess:
    """The token in force for one client.

    Parameters
    ----------
    credentials : GcsCredentials.FromEnv, Static, Refreshable or Anonymous
        Where tokens come from.
    """

    def __init__(self, credentials: AnyGcsCredential) -> None:
        self._case = credentials
        self._renewed: Renewed[GcsBearerCredential] | None = None
        self._flight: Flight[str, Any] = Flight()
        self._google: Any = None  # google.auth.credentials.Credentials
        if isinstance(credentials, GcsCredentials.Refreshable):
            self._renewed = _renewals.of(credentials)

    async def token(self, refused: str | None = None) -> str | None:
        """Return a token to use now, or None for anonymous requests.

        Parameters
        ----------
        refused : str or None
            One that the service takes for ended: another is wanted, if there can be one.

        Raises
        ------
        IcechunkError
            Kind ``invalid-credentials``; there is none, and the message says why.
        """
        if isinstance(self._case, GcsCredentials.Anonymous):
            return None
        if self._renewed is not None:
            current = self._renewed.current
            if refused is not None and current is not None and current.bearer == refused:
                return (await self._renewed.renewed(current)).bearer
            return (await self._renewed.ready()).bearer
        static = self._case[0] if isinstance(self._case, GcsCredentials.Static) else None
        if isinstance(static, GcsStaticCredentials.BearerToken):
            return str(static[0])
        return await self._google_token(static, refused)

    async def _google_token(self, static: Any, refused: str | None) -> str:
        if self._google is None:
            self._google = await self._flight.share("load", lambda: loop.in_thread(_loaded, static))
        google = self._google
        if not google.valid or google.token == refused:
            await self._flight.share("refresh", lambda: loop.in_thread(_refresh, google))
        return str(google.token)


def _loaded(static: Any) -> Any:
    """Return credentials of google-auth; blocking, for it reads files and may ask servers."""
    try:
        import google.auth  # noqa: PLC0415
        from google.oauth2 import service_account  # noqa: PLC0415
    except ImportError as error:
        raise InvalidInputError(
            "these Google credentials need the google-auth package: pip install 'icechunk[gcs]'",
            ErrorKind.INVALID_CREDENTIALS,
        ) from error
    try:
        match static:
            case GcsStaticCredentials.ServiceAccount():
                return service_account.Credentials.from_service_account_file(
                    static[0], scopes=_SCOPES
                )
            case GcsStaticCredentials.ServiceAccountKey():
                return service_account.Credentials.from_service_account_info(
                    json.loads(static[0]), scopes=_SCOPES
                )
            case GcsStaticCredentials.ApplicationCredentials():
                return _of_file(json.loads(Path(static[0]).read_text(encoding="utf-8")))
            case _:
                return google.auth.default(scopes=_SCOPES)[0]
    # Not its text: it may quote the key.
    except (google.auth.exceptions.GoogleAuthError, OSError, ValueError, KeyError) as error:
        what = type(static).__name__ if static is not None else "environment"
        raise InvalidInputError(
            f"cannot use the Google credentials ({what}): {type(error).__name__}; check the file "
            "or key, or set GOOGLE_APPLICATION_CREDENTIALS, or pass anonymous=True for public data",
            ErrorKind.INVALID_CREDENTIALS,
        ) from None


def _of_file(content: Mapping[str, Any]) -> Any:
    """Return the credentials that an application credentials file describes."""
    from google.auth import aws, identity_pool, impersonated_credentials  # noqa: PLC0415
    from google.oauth2 import credentials, service_account  # noqa: PLC0415

    match content.get("type"):
        case "service_account":
            return service_account.Credentials.from_service_account_info(content, scopes=_SCOPES)
        case "authorized_user":
            return credentials.Credentials.from_authorized_user_info(content, scopes=_SCOPES)
        case "impersonated_service_account":
            return impersonated_credentials.Credentials.from_impersonated_service_account_info(
                content, scopes=_SCOPES
            )
        case "external_account":
            is_aws = str(content["credential_source"].get("environment_id", "")).startswith("aws")
            made = aws.Credentials if is_aws else identity_pool.Credentials
            return made.from_info(content, scopes=_SCOPES)
        case _:
            raise ValueError("a type of credentials that is not known")


def _refresh(google: Any) -> None:
    from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
    from google.auth.transport.requests import Request  # noqa: PLC0415

    try:
        google.refresh(Request())
    except IcechunkError:
        raise
    except (GoogleAuthError, OSError, ValueError) as error:
        raise StorageError(
            f"Google gave no token for these credentials: {type(error).__name__}; check that the "
            "account exists, its key is not revoked, and this machine's clock",
            ErrorKind.INVALID_CREDENTIALS,
        ) from error
