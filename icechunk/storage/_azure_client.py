"""Opening Azure clients, and what their errors mean. The only module that sees the Azure SDK.

The SDK is an optional library, loaded when the first client is opened. It is asked directly and not
through adlfs, which has no conditional update.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from icechunk.credential_values import (
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
)
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage._renewal import Renewals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.credential_values import (
        AnyAzureCredential,
        AnyAzureRefreshableCredential,
        AnyAzureStaticCredential,
    )
    from icechunk.storage._renewal import Renewed
    from icechunk.storage._web import WebOptions
    from icechunk.storage_settings import StorageSettings

_CONNECT_SECONDS: Final = 10.0
_READ_SECONDS: Final = 60.0
_LARGE_BYTES: Final = 1 << 19
_SINGLE_GET_BYTES: Final = 1 << 40  # parts are our own
_MOST_SINGLE_PUT_BYTES: Final = 4000 << 20  # the service's limit

_KEY_NAMES: Final = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_KEY",
)
_SAS_NAMES: Final = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
_TOKEN_NAMES: Final = ("AZURE_STORAGE_TOKEN",)

_THROTTLED: Final = frozenset({429, 503})
_ADVICE: Final = {
    400: "the request was not understood: check account, container and config",
    401: "access was denied: check the credentials",
    403: "access was denied: check the credentials and what they may do in this container",
}
_NO_CREDENTIALS: Final = "NoCredentials"  # a code of ours
_OF_IDENTITY: Final = frozenset({"ClientAuthenticationError", "CredentialUnavailableError"})
_REFUSED: Final = {
    _NO_CREDENTIALS: "no credentials were found in the environment, or they got no token: set "
    "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, log in, pass credentials, or "
    "anonymous=True for public data",
    "ContainerNotFound": "there is no such container: check container and account",
    "AuthenticationFailed": "the credentials are wrong or have ended: check them and this "
    "machine's clock, or pass get_credentials",
    "AuthorizationFailure": "access was denied: check the credentials",
    "NoAuthenticationInformation": "the container is not public: pass credentials",
    "InvalidAuthenticationInfo": "the token is not valid or has ended: check the credentials",
}

renewals: Final[Renewals[AnyAzureRefreshableCredential]] = Renewals()

AzureBackend: TypeAlias = Literal["auto", "azure", "obstore"]
"""Which library makes the requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AzurePlace:
    """Where objects are in Azure Blob Storage, and how to get at them.

    Parameters
    ----------
    account, container, prefix : str
        Prefix without slashes at its ends.
    credentials : AnyAzureCredential
        One of the four cases.
    endpoint : str
        URL of the account.
    web : WebOptions
        Of the HTTP client.
    backend : {"auto", "azure", "obstore"}
        Which library makes the requests.
    """

    account: str
    container: str
    prefix: str
    credentials: AnyAzureCredential
    endpoint: str
    web: WebOptions
    backend: AzureBackend = field(default="auto", compare=False)  # the place is the same

    @property
    def description(self) -> str:
        """Return ``az://`` with container and prefix, and the account."""
        prefix = f"/{self.prefix}" if self.prefix else ""
        return f"az://{self.container}{prefix} (account {self.account})"


class AzureClient:
    """A client of one container, replaced when its credentials are.

    Parameters
    ----------
    place : AzurePlace
        Which container.
    settings : StorageSettings
        Times and sizes.
    """

    def __init__(self, place: AzurePlace, settings: StorageSettings) -> None:
        self._place = place
        self._settings = settings
        self._renewed: Renewed[AnyAzureRefreshableCredential] | None = None
        if isinstance(place.credentials, AzureCredentials.Refreshable):
            self._renewed = renewals.of(place.credentials)
        self._made_of: AnyAzureRefreshableCredential | None = None
        self._container: Any = None
        self._ambient: Any = None
        self._old: list[Any] = []

    async def container(self) -> Any:
        """Return the client to use now.

        Raises
        ------
        IcechunkError
            Kind ``invalid-credentials``; there are none, and the message says why.
        """
        current = None if self._renewed is None else await self._renewed.ready()
        if self._container is None or current is not self._made_of:
            made = await self._open(current)
            if self._container is not None:
                self._old.append(self._container)  # requests may still be on their way
            self._container, self._made_of = made, current
        return self._container

    async def renew(self, used: Any) -> bool:
        """Get other credentials than those of the client ``used``; False when there can be none."""
        if self._renewed is None:
            return False
        if used is self._container:
            await self._renewed.renewed(self._made_of)
        return True

    async def _open(self, current: AnyAzureRefreshableCredential | None) -> Any:
        try:
            from aiohttp import ClientSession, DummyCookieJar, TCPConnector  # noqa: PLC0415
            from azure.core.pipeline.transport import AioHttpTransport  # noqa: PLC0415
            from azure.storage.blob.aio import (  # noqa: PLC0415
                ContainerClient,
                ExponentialRetry,
            )
        except ImportError as error:
            raise InvalidInputError(
                "Azure needs the azure-storage-blob package: pip install 'icechunk[azure]'",
                ErrorKind.STORAGE_CONFIG,
            ) from error
        place, settings, web = self._place, self._settings, self._place.web
        timeouts = settings.timeouts
        connect_ms = timeouts.connect_timeout_ms if timeouts else None
        read_ms = timeouts.read_timeout_ms if timeouts else None
        least = settings.minimum_size_for_multipart_upload
        single = _MOST_SINGLE_PUT_BYTES if least is None else min(least, _MOST_SINGLE_PUT_BYTES)
        more: dict[str, Any] = {}
        if web.user_agent is not None:
            more["user_agent"] = web.user_agent
        if web.proxy is not None:
            more["proxies"] = {"http": web.proxy, "https": web.proxy}
        credential = self._credential(current)  # first: if it fails, nothing is open yet
        session = ClientSession(
            trust_env=True,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            # How much is under way at once is decided here. The SDK holds the connection of a read
            # that stalled while it asks for another; with a limit, all wait for ever.
            connector=TCPConnector(limit=0),
        )
        transport = AioHttpTransport(
            session=session,
            connection_timeout=_seconds(connect_ms, web.connect_seconds, _CONNECT_SECONDS),
            read_timeout=_seconds(read_ms, web.read_seconds, _READ_SECONDS),
        )
        await transport.open()
        # It would send a request whose connection was closed once more and tell nobody; what is
        # worth another attempt is decided here.
        session._retry_connection = False  # noqa: SLF001 (there is no public switch)
        bearer = credential if isinstance(credential, _Bearer) else None
        return ContainerClient(
            place.endpoint,
            place.container,
            credential=credential if bearer is None else None,
            raw_request_hook=_Outgoing(bearer),
            # Attempts are ours, because a conditional write is judged after each.
            retry_policy=ExponentialRetry(retry_total=0),
            max_single_get_size=_SINGLE_GET_BYTES,
            max_single_put_size=max(single - 1, 1),
            transport=transport,
            logging_enable=False,
            **more,
        )

    def _credential(self, current: AnyAzureRefreshableCredential | None) -> Any:
        account, case = self._place.account, self._place.credentials
        if isinstance(case, AzureCredentials.Anonymous):
            return None
        match fixed_credential(case) if current is None else current:
            case AzureStaticCredentials.AccessKey() as fixed:
                return _key(account, fixed[0])
            case AzureStaticCredentials.SasToken() as fixed:
                return fixed[0].removeprefix("?")
            case AzureStaticCredentials.BearerToken() as fixed:
                return _Bearer(fixed[0])
            case None:
                return self._of_identity()
            case called:
                return _renewed(account, called)

    def _of_identity(self) -> Any:
        try:
            from azure.identity.aio import DefaultAzureCredential  # noqa: PLC0415
        except ImportError as error:
            raise InvalidInputError(
                "there are no Azure credentials in the environment: set AZURE_STORAGE_ACCOUNT_KEY "
                "or AZURE_STORAGE_SAS_TOKEN, pass credentials, or pip install 'icechunk[azure]' "
                "for those of a logged-in user",
                ErrorKind.INVALID_CREDENTIALS,
            ) from error
        if self._ambient is None:
            self._ambient = DefaultAzureCredential()
        return self._ambient

    async def close(self) -> None:
        """Close the connections."""
        for client in (*self._old, self._container, self._ambient):
            if client is not None:
                await client.close()


def fixed_credential(case: AnyAzureCredential) -> AnyAzureStaticCredential | None:
    """Return what a user gave or the environment has; None where there is nothing fixed."""
    if isinstance(case, AzureCredentials.Static):
        given: AnyAzureStaticCredential = case[0]
        return _checked(given)
    if isinstance(case, AzureCredentials.FromEnv):
        if found := _first(_KEY_NAMES):
            return _checked(AzureStaticCredentials.AccessKey(found))
        if found := _first(_SAS_NAMES):
            return AzureStaticCredentials.SasToken(found)
        if found := _first(_TOKEN_NAMES):
            return AzureStaticCredentials.BearerToken(found)
    return None


def _checked(given: AnyAzureStaticCredential) -> AnyAzureStaticCredential:
    """Refuse an access key that neither library could sign with."""
    if isinstance(given, AzureStaticCredentials.AccessKey):
        try:
            base64.b64decode(given[0], validate=True)
        except ValueError:
            raise InvalidInputError(
                "the Azure access key is not base64; copy it again, from its first letter to the "
                "= signs at its end",
                ErrorKind.INVALID_CREDENTIALS,
            ) from None  # the error may quote the key
    return given


class _Bearer:
    """A fixed token.

    The SDK's own way asks for objects that end, and refuses servers without TLS, which a user may
    have given on purpose.
    """

    def __init__(self, token: str) -> None:
        self.token = token


class _Outgoing:
    """Changes requests before they are signed and sent."""

    def __init__(self, bearer: _Bearer | None) -> None:
        self._bearer = bearer

    def __call__(self, request: Any) -> None:
        http = request.http_request
        if self._bearer is not None:
            http.headers["Authorization"] = f"Bearer {self._bearer.token}"
        if isinstance(http.data, bytes) and len(http.data) > _LARGE_BYTES:
            http.data = io.BytesIO(http.data)  # in one piece it would hold the loop up


def _renewed(account: str, given: AnyAzureRefreshableCredential) -> Any:
    match given:
        case AzureRefreshableCredential.AccessKey():
            return _key(account, given.key)
        case AzureRefreshableCredential.SasToken():
            return given.token.removeprefix("?")
        case AzureRefreshableCredential.BearerToken():
            return _Bearer(given.bearer)


def _key(account: str, key: str) -> dict[str, str]:
    return {"account_name": account, "account_key": key}


def _first(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _seconds(milliseconds: int | None, seconds: float | None, default: float) -> float:
    if milliseconds is not None:
        return milliseconds / 1000
    return default if seconds is None else seconds


# -------------------------------------------------------------------- errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What an error of the SDK says about a request.

    Parameters
    ----------
    status : int or None
        HTTP status of the reply; None when there was none.
    code : str
        The service's code.
    """

    status: int | None
    code: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Read an error."""
        code = getattr(error, "error_code", None)
        text = "" if code is None else str(getattr(code, "value", code))
        status = getattr(error, "status_code", None)
        if status is None and type(error).__name__ in _OF_IDENTITY:
            text = _NO_CREDENTIALS
        return cls(status=status, code=text)

    @property
    def is_passing(self) -> bool:
        """Whether another attempt may fare better."""
        if self.status is None:
            return self.code != _NO_CREDENTIALS
        return self.status in {408, 429} or self.status >= 500

    @property
    def is_expired(self) -> bool:
        """Whether other credentials may be taken."""
        return self.status == 401 or self.code in {
            "AuthenticationFailed",
            "AuthorizationFailure",
            "InvalidAuthenticationInfo",
        }

    @property
    def is_missing(self) -> bool:
        """Whether there is no such object; not to be taken for a missing container."""
        return self.status == 404 and self.code != "ContainerNotFound"


def sdk_errors() -> tuple[type[Exception], ...]:
    """Return what the SDK raises; to be called when it is loaded."""
    from azure.core.exceptions import AzureError  # noqa: PLC0415

    return (AzureError, TimeoutError, ConnectionError)


@contextlib.contextmanager
def translated(place: AzurePlace, verb: str, key: str) -> Iterator[None]:
    """Turn errors of the SDK into ours, naming the place and what to do."""
    try:
        yield
    except sdk_errors() as error:
        raise storage_error(place, verb, key, error) from error


def storage_error(place: AzurePlace, verb: str, key: str, error: Exception) -> StorageError:
    """Return our error for one of the SDK's."""
    what = f"{type(error).__name__}: no answer"
    return refusal(place, verb, key, Failure.of(error), what)


def refusal(
    place: AzurePlace, verb: str, key: str, failure: Failure, no_answer: str
) -> StorageError:
    """Return our error for a failed request, naming the place and what to do.

    Parameters
    ----------
    place : AzurePlace
        Where it was.
    verb, key : str
        What was tried.
    failure : Failure
        What is known of it.
    no_answer : str
        What happened, if there was no reply.
    """
    where = f"{verb} az://{place.container}/{key} (account {place.account})"
    if failure.is_missing:
        return StorageError(f"cannot {where}: no such object", ErrorKind.OBJECT_NOT_FOUND)
    if failure.status in _THROTTLED:
        return StorageError(
            f"cannot {where}: the service asks to slow down, also after all retries; lower "
            "max_concurrent_requests or try again later",
            ErrorKind.THROTTLED,
        )
    if failure.code == _NO_CREDENTIALS:
        return StorageError(
            f"cannot {where}: {_REFUSED[_NO_CREDENTIALS]}", ErrorKind.INVALID_CREDENTIALS
        )
    if failure.status is None:
        return StorageError(f"cannot {where}: {no_answer}; check the endpoint and the network")
    if failure.status == 416:
        return StorageError(
            f"cannot {where}: the object ends before the range asked for. It was cut short or "
            "replaced from outside",
            ErrorKind.INVALID_OBJECT_SIZE,
        )
    advice = _REFUSED.get(failure.code) or _ADVICE.get(failure.status, "the service gave no reason")
    return StorageError(f"cannot {where}: {failure.code or failure.status}: {advice}")
