"""S3 through obstore."""

from __future__ import annotations

import importlib
import ipaddress
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from obstore.store import S3Store

from icechunk._io import loop
from icechunk.credential_values import S3Credentials
from icechunk.storage._obstore import Failure, ObstoreRequests, make_stores
from icechunk.storage._obstore_clients import OpenStores, clients
from icechunk.storage._s3_place import (
    S3Place,
    access_by,
    refusal,
    stream_timeouts,
    unanswered,
    unencrypted,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from obstore.store import S3Credential

    from icechunk.credential_values import S3StaticCredentials
    from icechunk.errors import StorageError
    from icechunk.storage._object_requests import ObjectRequests
    from icechunk.storage._renewal import Renewed
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")
_S3FS: Final = "icechunk.storage._s3_fs"  # takes longer to load than obstore, and is rarely needed
_HOST_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]").fullmatch


class _Given:
    """Hands obstore the credentials that a place has."""

    def __init__(self, access: Renewed[S3StaticCredentials]) -> None:
        self._access = access

    async def ready(self) -> S3StaticCredentials:
        return await self._access.ready()

    async def renew(self, seen: S3StaticCredentials) -> bool:
        if self._access.can_renew:
            await self._access.renewed(seen)
        return self._access.can_renew

    def __call__(self) -> S3Credential:
        current = self._access.current
        assert current is not None
        return _handed(current.access_key_id, current.secret_access_key, current.session_token)


class _Ambient:
    """Hands obstore what botocore finds in the environment, so that both backends find the same."""

    def __init__(self, place: S3Place, found: Any) -> None:
        self._place = place
        self._found = found
        self._frozen: Any = None
        self._lasts = not hasattr(found, "refresh_needed")

    async def ready(self) -> None:
        if self._frozen is None or not self._lasts:
            self._frozen = await loop.on_io_thread(self._found.get_frozen_credentials())

    async def renew(self, seen: None) -> bool:  # noqa: ARG002 (botocore renews them in time)
        return False

    def __call__(self) -> S3Credential:
        return _handed(self._frozen.access_key, self._frozen.secret_key, self._frozen.token)


def _handed(key: str, secret: str, token: str | None) -> S3Credential:
    # Ended at once, so that obstore asks before every request instead of keeping them.
    return {
        "access_key_id": key,
        "secret_access_key": secret,
        "token": token,
        "expires_at": datetime.now(UTC),
    }


async def use(
    place: S3Place,
    settings: StorageSettings,
    recipe: str,
    work: Callable[[ObjectRequests], Awaitable[T]],
) -> T:
    """Make the requests of ``work``, on the caller's loop.

    Parameters
    ----------
    place : S3Place
        Where.
    settings : StorageSettings
        In force.
    recipe : str
        Names these two; equal recipes share connections and credentials.
    work : callable
        Makes the requests; called again when the service takes refreshable credentials for
        expired, after they were renewed.
    """
    client = await clients.get(recipe, lambda: _open(place, settings))

    def explain(verb: str, key: str, failure: Failure) -> StorageError:
        if failure.status is None:
            return unanswered(place, verb, key, failure.text)
        return refusal(place, verb, key, failure.code, failure.text)

    requests = ObstoreRequests(
        settings=settings,
        root="",
        stores=client.stores,
        place=place.description,
        explain=explain,
    )
    return await client.lend(requests, work)


async def _open(place: S3Place, settings: StorageSettings) -> OpenStores:
    options, credentials = place.options, place.credentials
    given: _Given | _Ambient | None = None
    if options.anonymous or isinstance(credentials, S3Credentials.Anonymous):
        pass
    elif isinstance(credentials, S3Credentials.FromEnv):
        found = await importlib.import_module(_S3FS).ambient_credentials(place)
        given = _Ambient(place, found)
    else:
        given = _Given(access_by(credentials))
    region = options.region
    if not region:
        region = await importlib.import_module(_S3FS).region_of(place, settings)
    config: Any = {"region": region, **_endpoint(place)}
    if options.requester_pays:
        config["request_payer"] = True
    if options.checksum_algorithm is not None:
        config["checksum_algorithm"] = options.checksum_algorithm.name.lower()

    if given is None:
        config["skip_signature"] = True

    def make(client_options: Any, retry: Any) -> S3Store:
        return S3Store(
            place.bucket,
            config=config,
            client_options=client_options,
            retry_config=retry,
            credential_provider=given,
        )

    connect_seconds, read_seconds = stream_timeouts(options, settings)
    stores = make_stores(
        make,
        settings,
        connect_seconds=connect_seconds,
        read_seconds=read_seconds,
        allow_http=unencrypted(options),
        read_headers=dict(place.read_headers),
        write_headers=dict(place.write_headers),
    )
    return OpenStores(stores=stores, given=given)


def _endpoint(place: S3Place) -> dict[str, Any]:
    """Return where requests go: the bucket in the host name where that can be, as with s3fs."""
    url = place.options.endpoint_url
    in_path = place.options.force_path_style or _HOST_NAME(place.bucket) is None
    if url is None:
        return {"virtual_hosted_style_request": not in_path}
    parts = urlsplit(url)
    if in_path or _is_address(parts.hostname or ""):
        return {"endpoint": url, "virtual_hosted_style_request": False}
    hosted = parts._replace(netloc=f"{place.bucket}.{parts.netloc}")
    return {"endpoint": urlunsplit(hosted), "virtual_hosted_style_request": True}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
