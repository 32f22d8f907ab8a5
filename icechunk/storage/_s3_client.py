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
from botocore.credentials import (  # type: ignore[import-untyped,unused-ignore]
    ReadOnlyCredentials,
)
from botocore.parsers import (  # type: ignore[import-untyped,unused-ignore]
    ResponseParserError,
)

from icechunk.credential_values import S3Credentials
from icechunk.errors import StorageError
from icechunk.storage._s3_access import S3Access
from icechunk.storage._s3_place import (
    NO_CREDENTIALS,
    UNSETTLED_CODES,
    S3Place,
    operation,
    refusal,
    stream_timeouts,
    unanswered,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage_settings import StorageSettings

_READS: Final = frozenset({"GetObject", "HeadObject", "ListObjectsV2", "HeadBucket"})
_CONNECTIONS: Final = 256

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
    access : S3Access or None
        Where its credentials come from, unless from the environment.
    """

    def __init__(self, api: Any, general: Any, access: S3Access | None) -> None:
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
    with translated(place, "connect to", ""):
        general = await filesystem.set_session()
        api = await filesystem.get_s3(place.bucket)
    for client in {id(general): general, id(api): api}.values():
        client.meta.events.register("before-call.s3", _HeaderAdder(place))
    return S3Client(api, general, access)


class _HeaderAdder:
    """Adds the extra headers of a place to a request before it is signed."""

    def __init__(self, place: S3Place) -> None:
        self._place = place

    def __call__(self, *, model: Any, params: dict[str, Any], **_: object) -> None:
        reads = model.name in _READS
        for name, value in self._place.read_headers if reads else self._place.write_headers:
            params["headers"][name] = value


def _config(options: S3Options, settings: StorageSettings) -> dict[str, Any]:
    retries = settings.retries
    connect_seconds, read_seconds = stream_timeouts(options, settings)
    return {
        "connect_timeout": connect_seconds,
        "read_timeout": read_seconds,
        "max_pool_connections": _CONNECTIONS,
        "retries": {
            "mode": "standard",
            "total_max_attempts": retries.max_tries if retries and retries.max_tries else 1,
        },
        "s3": {"addressing_style": "path" if options.force_path_style else "auto"},
    }


class _Handed(AioCredentials):  # type: ignore[misc,unused-ignore] # the library is untyped
    """Hands a client the credentials that `S3Access` has."""

    def __init__(self, access: S3Access) -> None:
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
) -> tuple[aiobotocore.session.AioSession, S3Access | None]:
    """Return a session, and where its credentials come from unless from the environment."""
    session = aiobotocore.session.AioSession()
    session.register_component("data_loader", _loader())
    if not isinstance(credentials, S3Credentials.Static | S3Credentials.Refreshable):
        return session, None
    access = S3Access(credentials)
    session.register_component("credential_provider", _Provider(_Handed(access)))
    return session, access


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
    return status >= 500 or error_code(error) in UNSETTLED_CODES


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
