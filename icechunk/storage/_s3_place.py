"""Places in S3 and compatible services, and what their refusals mean, for every client library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from icechunk.credential_values import S3Credentials, S3StaticCredentials
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._object_requests import ExpiredCredentialsError
from icechunk.storage._renewal import Renewals, Renewed

if TYPE_CHECKING:
    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage_settings import StorageSettings

_OBSTORE_CHECKSUMS: Final = frozenset({"sha256", "crc64nvme"})

Backend: TypeAlias = Literal["auto", "s3fs", "obstore"]
"""Which library makes the requests."""

_STREAM_TIMEOUT_SECONDS: Final = 60
_CONNECT_TIMEOUT_SECONDS: Final = 10

LOST_RACE_CODES: Final = frozenset({"PreconditionFailed", "412"})
CONFLICT_CODES: Final = frozenset({"ConditionalRequestConflict", "409"})
UNSETTLED_CODES: Final = frozenset({"RequestTimeout", "InternalError"})
_EXPIRED_CODES: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
_MISSING_CODES: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_THROTTLED_CODES: Final = frozenset(
    {
        "SlowDown",
        "503",
        "429",
        "ServiceUnavailable",
        "TooManyRequests",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
    }
)
_TOO_SHORT_CODES: Final = frozenset({"InvalidRange", "416"})
_DENIED_CODES: Final = frozenset({"AccessDenied", "403"})
_CLOCK: Final = "this machine's clock is too far from the service's: set it right"
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
    "RequestTimeTooSkewed": _CLOCK,
    "RequestExpired": _CLOCK,
}
_renewals: Final[Renewals[S3StaticCredentials]] = Renewals()
NO_CREDENTIALS: Final = (
    "pass access_key_id and secret_access_key, get_credentials, or anonymous=True, or set "
    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Place:
    """Where objects are in S3 or a compatible service, and how to get at them.

    Parameters
    ----------
    bucket : str
        Not empty.
    prefix : str
        May be empty. Without a slash at its end; one at its beginning is a part of every key.
    options : S3Options
        Region, endpoint and the like.
    credentials : AnyS3Credential
        One of the four cases.
    rooted : bool or None
        Keys start with a slash, as in some very old repositories; None to find out.
    read_headers, write_headers : tuple of (str, str)
        Sent with every request that reads or writes.
    backend : {"auto", "s3fs", "obstore"}
        Which library makes the requests.
    """

    bucket: str
    prefix: str
    options: S3Options
    credentials: AnyS3Credential
    rooted: bool | None
    read_headers: tuple[tuple[str, str], ...]
    write_headers: tuple[tuple[str, str], ...]
    backend: Backend = field(default="auto", compare=False)  # the place is the same

    @property
    def description(self) -> str:
        """Return ``s3://`` with bucket and prefix."""
        return f"s3://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")


def access_by(
    credentials: S3Credentials.Static | S3Credentials.Refreshable,
) -> Renewed[S3StaticCredentials]:
    """Return the credentials in force; all clients of this process share those of a callback."""
    if isinstance(credentials, S3Credentials.Static):
        return Renewed(None, credentials[0])
    return _renewals.of(credentials)


def stream_timeouts(options: S3Options, settings: StorageSettings) -> tuple[float, float | None]:
    """Return how long to wait for a connection and for the next bytes, in seconds."""
    timeouts = settings.timeouts
    connect_ms = timeouts.connect_timeout_ms if timeouts else None
    read_ms = timeouts.read_timeout_ms if timeouts else None
    if read_ms is None and timeouts is not None:
        read_ms = timeouts.operation_attempt_timeout_ms
    stream_seconds = options.network_stream_timeout_seconds
    default_seconds = _STREAM_TIMEOUT_SECONDS if stream_seconds is None else stream_seconds
    read_seconds = default_seconds if read_ms is None else read_ms / 1000
    return (
        _CONNECT_TIMEOUT_SECONDS if connect_ms is None else connect_ms / 1000,
        read_seconds or None,  # 0 is no timeout
    )


def operation(place: S3Place, verb: str, key: str) -> str:
    """Return what was tried, for a message."""
    return f"{verb} s3://{place.bucket}" + (f"/{key}" if key else "")


def unencrypted(options: S3Options) -> bool:
    """Tell whether requests go to an endpoint without TLS."""
    return (options.endpoint_url or "").lower().startswith("http:")


def obstacle_to_obstore(place: S3Place) -> str | None:
    """Return what of a place obstore cannot do; None if it can do everything asked."""
    algorithm = place.options.checksum_algorithm
    if algorithm is not None and algorithm.name.lower() not in _OBSTORE_CHECKSUMS:
        return f"checksum_algorithm {algorithm.name}"
    for name, _ in (*place.read_headers, *place.write_headers):
        if name.lower().startswith("x-amz-"):  # the service wants these signed
            return f"the signed header {name}"
    if "@" in urlsplit(place.options.endpoint_url or "").netloc:  # its errors would show it
        return "a login in endpoint_url"
    if place.prefix.startswith("/"):
        return "keys that begin with a slash"
    if not place.prefix and place.rooted is not False:
        return "keys that begin with a slash, which the root of a bucket may have"
    return None


class DeniedError(StorageError):
    """These credentials may not do this."""


def refusal(place: S3Place, verb: str, key: str, code: str, text: str) -> StorageError:
    """Return our error for an error reply of the service, naming the place and what to do.

    Parameters
    ----------
    place : S3Place
        Where it was.
    verb, key : str
        What was tried.
    code : str
        Code of the reply, or its status where it has none.
    text : str
        The service's own words; may be empty.
    """
    where = operation(place, verb, key)
    if code in _MISSING_CODES:
        return StorageError(f"cannot {where}: no such object", ErrorKind.OBJECT_NOT_FOUND)
    if code in _THROTTLED_CODES:
        return StorageError(
            f"cannot {where}: the service asks to slow down, also after all retries; lower "
            "max_concurrent_requests or try again later",
            ErrorKind.THROTTLED,
        )
    too_short = code in _TOO_SHORT_CODES
    message = f"cannot {where}: {code}: {_REFUSED.get(code, text or 'the service gave no reason')}"
    if code in _EXPIRED_CODES:
        return ExpiredCredentialsError(message)
    if code in _DENIED_CODES:
        return DeniedError(message)
    return StorageError(message, ErrorKind.INVALID_OBJECT_SIZE if too_short else None)


def unanswered(place: S3Place, verb: str, key: str, what: str) -> StorageError:
    """Return our error for a request that no reply came to."""
    return StorageError(
        f"cannot {operation(place, verb, key)}: {what}; check endpoint_url and the network"
    )
