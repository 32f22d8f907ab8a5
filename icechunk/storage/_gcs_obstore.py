"""Google Cloud Storage through obstore: what `_gcs_requests` does by the XML interface."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from obstore.store import GCSStore

from icechunk.credential_values import GcsCredentials
from icechunk.storage._choice import UnspeakableError
from icechunk.storage._gcs_access import GcsAccess
from icechunk.storage._object_requests import ExpiredCredentialsError
from icechunk.storage._obstore import ERRORS, Failure, ObstoreRequests, make_web_stores
from icechunk.storage._obstore_clients import OpenStores, clients
from icechunk.storage._web import unanswered

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from obstore.store import GCSCredential

    from icechunk._io.limits import Limiter
    from icechunk.errors import StorageError
    from icechunk.storage._gcs_requests import GcsPlace
    from icechunk.storage._object_requests import ObjectRequests
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")


class _Given:
    """Hands obstore the tokens that a place has."""

    def __init__(self, access: GcsAccess) -> None:
        self._access = access
        self._token: str | None = None

    async def ready(self) -> str | None:
        self._token = await self._access.token()
        return self._token

    async def renew(self, seen: str | None) -> bool:
        self._token = await self._access.token(refused=seen)
        return self._token != seen

    def __call__(self) -> GCSCredential:
        assert self._token is not None
        # Ended at once, so that obstore asks before every request instead of keeping it.
        return {"token": self._token, "expires_at": datetime.now(UTC)}


async def use(
    place: GcsPlace,
    settings: StorageSettings,
    recipe: str,
    root: str,
    gate: Limiter,
    work: Callable[[ObjectRequests], Awaitable[T]],
) -> T:
    """Make the requests of ``work``, on the caller's loop.

    Parameters
    ----------
    place : GcsPlace
        Where.
    settings : StorageSettings
        In force.
    recipe : str
        Names these two; equal recipes share connections and tokens.
    root : str
        What every key starts with.
    gate : Limiter
        How much may be under way at once.
    work : callable
        Makes the requests; called again when the service takes a token for ended and there is
        another.
    """

    async def open_stores() -> OpenStores:
        return _open(place, settings)

    def explain(verb: str, key: str, failure: Failure) -> StorageError:
        if failure.status is None:
            return unanswered(place.operation(verb, key), failure.text)
        error = place.refusal(verb, key, failure.status)
        return ExpiredCredentialsError(error.message) if failure.status == 401 else error

    client = await clients.get(recipe, open_stores)
    requests = ObstoreRequests(
        settings=settings,
        root=root,
        gate=gate,
        stores=client.stores,
        place=place.description,
        explain=explain,
        version_field="version",
        # Listings and uploads in parts go by the JSON interface, which obstore does not know.
        lists=False,
        # Even when told not to, it asks for a token before it writes.
        writes=client.given is not None,
        sends_parts=False,
        deletes_many=False,
    )
    return await client.lend(requests, work)


def _open(place: GcsPlace, settings: StorageSettings) -> OpenStores:
    given = None
    config: Any = {"base_url": place.base_url}
    if isinstance(place.credentials, GcsCredentials.Anonymous):
        config["skip_signature"] = True
    else:
        given = _Given(GcsAccess(place.credentials))

    def make(client_options: Any, retry: Any) -> GCSStore:
        return GCSStore(
            place.bucket,
            config=config,
            client_options=client_options,
            retry_config=retry,
            credential_provider=given,
        )

    try:
        stores = make_web_stores(
            make,
            settings,
            place.web,
            # Without this header compressed objects would come decompressed, with other offsets.
            read_headers={"Accept-Encoding": "gzip", **dict(place.read_headers)},
            write_headers=dict(place.write_headers),
        )
    except ERRORS as error:
        # It reads the environment's account file even when it is told not to use it.
        raise UnspeakableError(place.description) from error
    return OpenStores(stores=stores, given=given)
