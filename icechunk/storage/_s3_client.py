"""Opening S3 clients by recipe, and what their errors mean. The only module that sees s3fs.

s3fs makes the client (credentials, region of the bucket, endpoint); requests go through the
client's own calls, because s3fs has no conditional update, no user metadata on writes of its own
choice, and retries a lost reply as if nothing had been written.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

import aiobotocore.session  # type: ignore[import-untyped,unused-ignore]
import aiohttp
import botocore.exceptions  # type: ignore[import-untyped,unused-ignore]
import botocore.loaders  # type: ignore[import-untyped,unused-ignore]
import s3fs
from aiobotocore.credentials import (  # type: ignore[import-untyped,unused-ignore]
    AioCredentials,
)
from aiobotocore.httpsession import (  # type: ignore[import-untyped,unused-ignore]
    AIOHTTPSession,
)
from botocore.credentials import (  # type: ignore[import-untyped,unused-ignore]
    ReadOnlyCredentials,
)
from botocore.parsers import (  # type: ignore[import-untyped,unused-ignore]
    ResponseParserError,
)

from icechunk.credential_values import S3Credentials
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._s3_place import (
    NO_CREDENTIALS,
    UNSETTLED_CODES,
    S3Place,
    access_by,
    operation,
    refusal,
    stream_timeouts,
    unanswered,
)
from icechunk.storage.retry import AmbiguousError, backoff_of, repeated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.credential_values import AnyS3Credential, S3StaticCredentials
    from icechunk.object_store_config import S3Options
    from icechunk.storage._renewal import Renewed
    from icechunk.storage_settings import StorageSettings

_READS: Final = frozenset({"GetObject", "HeadObject", "ListObjectsV2", "HeadBucket"})
_CONNECTIONS: Final = 256

CLIENT_ERRORS: Final = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
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


class S3Client:
    """A client and what has to be closed with it.

    Parameters
    ----------
    api : aiobotocore client
        For the region of the bucket.
    general : aiobotocore client
        The one it was found through; often the same.
    access : Renewed or None
        Where its credentials come from, unless from the environment.
    """

    def __init__(self, api: Any, general: Any, access: Renewed[S3StaticCredentials] | None) -> None:
        self.api = api
        self.access = access
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
    session, access = open_session(place.credentials)
    filesystem = s3fs.S3FileSystem(
        asynchronous=True,
        skip_instance_cache=True,  # its cache knows nothing of our loop
        anon=isinstance(place.credentials, S3Credentials.Anonymous) or options.anonymous,
        endpoint_url=options.endpoint_url,
        session=session,
        client_kwargs={"region_name": options.region} if options.region else {},
        config_kwargs=_config(options, settings),
        cache_regions=options.region is None and options.endpoint_url is None,
    )

    async def connect() -> tuple[Any, Any]:
        with translated(place, "connect to", ""):
            return await filesystem.set_session(), await filesystem.get_s3(place.bucket)

    general, api = await repeated(connect, backoff_of(settings))
    for client in {id(general): general, id(api): api}.values():
        client.meta.events.register("before-call.s3", _HeaderAdder(place))
    return S3Client(api, general, access)


class _OneSendSession(AIOHTTPSession):  # type: ignore[misc,unused-ignore] # the library is untyped
    """Sends every request once.

    aiohttp sends a PUT whose connection was closed once more and tells nobody. When the first one
    took place, a conditional write then fails because of itself; and when somebody else has written
    since, nothing tells that from a lost race.
    """

    async def _get_session(self, proxy_url: str | None) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = await super()._get_session(proxy_url)
        session._retry_connection = False  # noqa: SLF001 (there is no public switch)
        return session


class _HeaderAdder:
    """Adds the extra headers of a place to a request before it is signed."""

    def __init__(self, place: S3Place) -> None:
        self._place = place

    def __call__(self, *, model: Any, params: dict[str, Any], **_: object) -> None:
        reads = model.name in _READS
        for name, value in self._place.read_headers if reads else self._place.write_headers:
            params["headers"][name] = value


def _config(options: S3Options, settings: StorageSettings) -> dict[str, Any]:
    connect_seconds, read_seconds = stream_timeouts(options, settings)
    return {
        "connect_timeout": connect_seconds,
        "read_timeout": read_seconds,
        "max_pool_connections": _CONNECTIONS,
        "http_session_cls": _OneSendSession,
        "retries": {"total_max_attempts": 1},  # repeated by `icechunk.storage.retry`
        "s3": {"addressing_style": "path" if options.force_path_style else "auto"},
    }


class _Handed(AioCredentials):  # type: ignore[misc,unused-ignore] # the library is untyped
    """Hands a client the credentials that `access_by` has."""

    def __init__(self, access: Renewed[S3StaticCredentials]) -> None:
        super().__init__("", "", method="icechunk")
        self._access = access

    async def get_frozen_credentials(self) -> ReadOnlyCredentials:
        now = await self._access.ready()
        return ReadOnlyCredentials(
            now.access_key_id, now.secret_access_key, now.session_token, None
        )


class _Provider:
    """Hands ready credentials to a session."""

    def __init__(self, credentials: AioCredentials) -> None:
        self._credentials = credentials

    async def load_credentials(self) -> AioCredentials:
        return self._credentials


@functools.cache
def _loader() -> Any:
    """Return what reads the service's description, once; six sevenths of opening a client."""
    return botocore.loaders.create_loader()


def open_session(
    credentials: AnyS3Credential,
) -> tuple[aiobotocore.session.AioSession, Renewed[S3StaticCredentials] | None]:
    """Return a session, and where its credentials come from unless from the environment."""
    session = aiobotocore.session.AioSession()
    session.register_component("data_loader", _loader())
    if not isinstance(credentials, S3Credentials.Static | S3Credentials.Refreshable):
        return session, None
    access = access_by(credentials)
    session.register_component("credential_provider", _Provider(_Handed(access)))
    return session, access


# -------------------------------------------------------------------- errors


def error_code(error: botocore.exceptions.ClientError) -> str:
    """Return the code of an error reply."""
    return str(error.response.get("Error", {}).get("Code", ""))


def request_error(place: S3Place, verb: str, key: str, error: Exception) -> Exception:
    """Return what a failed request means: our error, in an `AmbiguousError` if it may pass."""
    cause = storage_error(place, verb, key, error)
    if not isinstance(error, botocore.exceptions.ClientError):
        return AmbiguousError(cause) if isinstance(error, NETWORK_ERRORS) else cause
    if cause.kind == ErrorKind.THROTTLED:
        return AmbiguousError(cause, refused=True)
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    unsettled = status >= 500 or error_code(error) in UNSETTLED_CODES
    return AmbiguousError(cause) if unsettled else cause


@contextlib.contextmanager
def translated(place: S3Place, verb: str, key: str) -> Iterator[None]:
    """Turn errors of the client into ours, naming the place and what to do."""
    try:
        yield
    except (*CLIENT_ERRORS, *NETWORK_ERRORS) as error:
        raise request_error(place, verb, key, error) from error


def storage_error(place: S3Place, verb: str, key: str, error: Exception) -> StorageError:
    """Return our error for one of the client's."""
    if isinstance(error, botocore.exceptions.ClientError):
        text = str(error.response.get("Error", {}).get("Message", ""))
        return refusal(place, verb, key, error_code(error), text)
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        advice = NO_CREDENTIALS
    elif isinstance(error, botocore.exceptions.MissingDependencyException):
        advice = "pip install 'botocore[crt]', or choose another checksum_algorithm"
    else:
        return unanswered(place, verb, key, str(error) or type(error).__name__)
    return StorageError(f"cannot {operation(place, verb, key)}: {error}; {advice}")
