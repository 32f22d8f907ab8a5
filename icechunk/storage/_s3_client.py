"""Opening S3 clients by recipe, and what their errors mean. The only module that sees s3fs.

s3fs makes the client (credentials, region of the bucket, endpoint); requests go through the
client's own calls, because s3fs has no conditional update, no user metadata on writes of its own
choice, and retries a lost reply as if nothing had been written.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import aiobotocore.session  # type: ignore[import-untyped,unused-ignore]
import aiohttp
import botocore.exceptions  # type: ignore[import-untyped,unused-ignore]
import botocore.loaders  # type: ignore[import-untyped,unused-ignore]
import s3fs
from aiobotocore.credentials import (  # type: ignore[import-untyped,unused-ignore]
    AioRefreshableCredentials,
)
from botocore.parsers import (  # type: ignore[import-untyped,unused-ignore]
    ResponseParserError,
)

from icechunk._io import loop
from icechunk.credential_values import S3Credentials, S3StaticCredentials
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage_settings import StorageSettings

_READS: Final = frozenset({"GetObject", "HeadObject", "ListObjectsV2", "HeadBucket"})
_CONNECTIONS: Final = 256
_STREAM_TIMEOUT_SECONDS: Final = 60
_CONNECT_TIMEOUT_SECONDS: Final = 10
# Credentials are renewed this long before they end; botocore's own 10 to 15 minutes would renew
# short-lived ones before every request.
_RENEW_SECONDS: Final = 60
_MUST_RENEW_SECONDS: Final = 15
_FAR_FUTURE: Final = timedelta(days=36500)

LOST_RACE_CODES: Final = frozenset({"PreconditionFailed", "412"})
CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "409"})
_MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_THROTTLED_CODES: Final = frozenset({"SlowDown", "503", "RequestLimitExceeded", "Throttling"})
_TOO_SHORT_CODES: Final = frozenset({"InvalidRange", "416"})
_REFUSED: Final = {
    "AccessDenied": "access was denied: check what the credentials may do in this bucket",
    "403": "access was denied: check the credentials and what they may do in this bucket",
    "InvalidAccessKeyId": "the access key id is not known there: check access_key_id",
    "SignatureDoesNotMatch": "the signature is wrong: check secret_access_key and region",
    "ExpiredToken": "the credentials have expired: get new ones, or pass get_credentials",
    "InvalidToken": "the session token is not valid: check session_token",
    "NoSuchBucket": "there is no such bucket: check bucket, region and endpoint_url",
    "PermanentRedirect": "the bucket is in another region: pass its region",
    "AuthorizationHeaderMalformed": "the bucket is in another region: pass its region",
    "301": "the bucket is in another region: pass its region",
}
# No reply, or one that does not say what happened.
NETWORK_ERRORS: Final = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    botocore.exceptions.IncompleteReadError,
    ResponseParserError,
    aiohttp.ClientError,
    TimeoutError,
    ConnectionError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where objects are in S3 or a compatible service, and how to get at them.

    Parameters
    ----------
    bucket : str
        Not empty.
    prefix : str
        Without slashes at its ends; may be empty.
    options : S3Options
        Region, endpoint and the like.
    credentials : AnyS3Credential
        One of the four cases.
    rooted : bool or None
        Keys start with a slash, as in some very old repositories; None to find out.
    read_headers, write_headers : tuple of (str, str)
        Sent with every request that reads or writes.
    """

    bucket: str
    prefix: str
    options: S3Options
    credentials: AnyS3Credential
    rooted: bool | None
    read_headers: tuple[tuple[str, str], ...]
    write_headers: tuple[tuple[str, str], ...]

    @property
    def description(self) -> str:
        """Return ``s3://`` with bucket and prefix."""
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


class S3Client:
    """A client and what has to be closed with it.

    Parameters
    ----------
    api : aiobotocore client
        For the region of the bucket.
    general : aiobotocore client
        The one it was found through; often the same.
    """

    def __init__(self, api: Any, general: Any) -> None:
        self.api = api
        self._general = general

    async def close(self) -> None:
        """Close the connections."""
        await self.api.close()
        if self._general is not self.api:
            await self._general.close()


async def open_client(place: S3Place, settings: StorageSettings) -> S3Client:
    """Open a client; awaited on the I/O thread's loop, to which it is tied.

    Raises
    ------
    StorageError
        The bucket's region could not be found out.
    """
    options = place.options
    filesystem = s3fs.S3FileSystem(
        asynchronous=True,
        skip_instance_cache=True,  # its cache knows nothing of our loop
        anon=isinstance(place.credentials, S3Credentials.Anonymous) or options.anonymous,
        endpoint_url=options.endpoint_url,
        session=await _session(place.credentials),
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs=_config(options, settings),
        cache_regions=options.region is None and options.endpoint_url is None,
    )
    with translated(place, "connect to", ""):
        general = await filesystem.set_session()
        api = await filesystem.get_s3(place.bucket)
    for client in {id(general): general, id(api): api}.values():
        client.meta.events.register("before-call.s3", _HeaderAdder(place))
    return S3Client(api, general)


class _HeaderAdder:
    """Adds the extra headers of a place to a request before it is signed."""

    def __init__(self, place: S3Place) -> None:
        self._place = place

    def __call__(self, *, model: Any, params: dict[str, Any], **_: object) -> None:
        reads = model.name in _READS
        for name, value in self._place.read_headers if reads else self._place.write_headers:
            params["headers"][name] = value


def _config(options: S3Options, settings: StorageSettings) -> dict[str, Any]:
    timeouts, retries = settings.timeouts, settings.retries
    connect_ms = timeouts.connect_timeout_ms if timeouts else None
    read_ms = timeouts.read_timeout_ms if timeouts else None
    if read_ms is None and timeouts is not None:
        read_ms = timeouts.operation_attempt_timeout_ms
    stream_seconds = options.network_stream_timeout_seconds
    default_seconds = _STREAM_TIMEOUT_SECONDS if stream_seconds is None else stream_seconds
    read_seconds = default_seconds if read_ms is None else read_ms / 1000
    return {
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS if connect_ms is None else connect_ms / 1000,
        "read_timeout": read_seconds or None,  # 0 is no timeout
        "max_pool_connections": _CONNECTIONS,
        "retries": {
            "mode": "standard",
            "total_max_attempts": retries.max_tries if retries and retries.max_tries else 1,
        },
        "s3": {"addressing_style": "path" if options.force_path_style else "auto"},
    }


class _Provider:
    """Hands ready credentials to a session."""

    def __init__(self, credentials: AioRefreshableCredentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> AioRefreshableCredentials:
        return self._credentials


@functools.cache
def _loader() -> Any:
    """Return what reads the service's description, once; six sevenths of opening a client."""
    return botocore.loaders.create_loader()


async def _session(credentials: AnyS3Credential) -> aiobotocore.session.AioSession:
    session = aiobotocore.session.AioSession()
    session.register_component("data_loader", _loader())
    match credentials:
        case S3Credentials.Static():
            fixed: S3StaticCredentials = credentials[0]
            session.set_credentials(
                fixed.access_key_id, fixed.secret_access_key, fixed.session_token
            )
        case S3Credentials.Refreshable():
            first = credentials.current
            if first is None or _has_expired(first):
                first = await _fetch(credentials)
            provider = _Provider(
                AioRefreshableCredentials(
                    first.access_key_id,
                    first.secret_access_key,
                    first.session_token,
                    _end(first),
                    lambda: _fetch_for_botocore(credentials),
                    "icechunk-callback",
                    advisory_timeout=_RENEW_SECONDS,
                    mandatory_timeout=_MUST_RENEW_SECONDS,
                )
            )
            session.register_component("credential_provider", provider)
        case _:
            pass  # the environment, or none
    return session


def _end(credentials: S3StaticCredentials) -> datetime:
    return credentials.expires_after or datetime.now(UTC) + _FAR_FUTURE


def _has_expired(credentials: S3StaticCredentials) -> bool:
    return _end(credentials) <= datetime.now(UTC)


async def _fetch(credentials: S3Credentials.Refreshable) -> S3StaticCredentials:
    """Call the user's callback in a thread, for it may take its time."""
    try:
        found = await loop.in_thread(credentials.fetch)
    except IcechunkError:
        raise
    except Exception as error:
        raise StorageError(
            f"get_credentials failed: {type(error).__name__}: {error}",
            ErrorKind.INVALID_CREDENTIALS,
        ) from error
    if _has_expired(found):
        raise InvalidInputError(
            f"get_credentials returned credentials that ended at {_end(found)}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    return found


async def _fetch_for_botocore(credentials: S3Credentials.Refreshable) -> dict[str, Any]:
    found = await _fetch(credentials)
    return {
        "access_key": found.access_key_id,
        "secret_key": found.secret_access_key,
        "token": found.session_token,
        "expiry_time": _end(found).isoformat(),
    }


# -------------------------------------------------------------------- errors


def error_code(error: botocore.exceptions.ClientError) -> str:
    """Return the code of an error reply."""
    return str(error.response.get("Error", {}).get("Code", ""))


def response_metadata(reply: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what botocore says about a reply: status, headers, number of retries."""
    found: Mapping[str, Any] = reply.get("ResponseMetadata", {})
    return found


def is_server_fault(error: botocore.exceptions.ClientError) -> bool:
    """Tell whether the reply leaves open what happened (status 5xx, or a request timeout)."""
    status = int(response_metadata(error.response).get("HTTPStatusCode", 0))
    return status >= 500 or error_code(error) in {"RequestTimeout", "InternalError"}


def is_denied(error: BaseException | None) -> bool:
    """Tell whether the reply was that these credentials may not do this."""
    return isinstance(error, botocore.exceptions.ClientError) and error_code(error) in {
        "AccessDenied",
        "403",
    }


@contextlib.contextmanager
def translated(place: S3Place, verb: str, key: str) -> Iterator[None]:
    """Turn errors of the client into ours, naming the place and what to do."""
    try:
        yield
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise storage_error(place, verb, key, error) from error
    except NETWORK_ERRORS as error:
        raise storage_error(place, verb, key, error) from error


def storage_error(place: S3Place, verb: str, key: str, error: Exception) -> StorageError:
    """Return our error for one of the client's."""
    where = f"{verb} s3://{place.bucket}" + (f"/{key.lstrip('/')}" if key else "")
    if isinstance(error, botocore.exceptions.ClientError):
        code = error_code(error)
        text = error.response.get("Error", {}).get("Message", "")
        if code in _MISSING_CODES:
            return StorageError(f"cannot {where}: no such object", ErrorKind.OBJECT_NOT_FOUND)
        if code in _THROTTLED_CODES:
            return StorageError(
                f"cannot {where}: the service asks to slow down, also after all retries; lower "
                "max_concurrent_requests or try again later",
                ErrorKind.THROTTLED,
            )
        too_short = code in _TOO_SHORT_CODES
        advice = _REFUSED.get(code, text or "the service gave no reason")
        return StorageError(
            f"cannot {where}: {code}: {advice}",
            ErrorKind.INVALID_OBJECT_SIZE if too_short else None,
        )
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        advice = (
            "pass access_key_id and secret_access_key, get_credentials, or anonymous=True, or set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    elif isinstance(error, botocore.exceptions.MissingDependencyException):
        advice = "pip install 'botocore[crt]', or choose another checksum_algorithm"
    else:
        advice = "check endpoint_url and the network"
    return StorageError(f"cannot {where}: {error or type(error).__name__}; {advice}")
