"""Azure Blob Storage through obstore."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from obstore.store import AzureStore

from icechunk.credential_values import (
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
)
from icechunk.storage import _azure_client
from icechunk.storage._azure_client import AzurePlace, fixed_credential, refusal
from icechunk.storage._object_requests import ExpiredCredentialsError
from icechunk.storage._obstore import Failure, ObstoreRequests, make_web_stores
from icechunk.storage._obstore_clients import OpenStores, clients

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from obstore.store import AzureCredential

    from icechunk._io.limits import Limiter
    from icechunk.credential_values import (
        AnyAzureRefreshableCredential,
        AnyAzureStaticCredential,
    )
    from icechunk.errors import StorageError
    from icechunk.storage._object_requests import ObjectRequests
    from icechunk.storage._renewal import Renewed
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")


class _Fixed:
    """Hands obstore credentials that stay."""

    def __init__(self, credential: AnyAzureStaticCredential) -> None:
        self._credential = credential

    async def ready(self) -> None:
        return

    async def renew(self, seen: None) -> bool:  # noqa: ARG002 (there are no others)
        return False

    def __call__(self) -> AzureCredential:
        value = self._credential[0]
        match self._credential:
            case AzureStaticCredentials.AccessKey():
                return {"access_key": value, "expires_at": None}
            case AzureStaticCredentials.SasToken():
                return {"sas_token": value.removeprefix("?"), "expires_at": None}
            case AzureStaticCredentials.BearerToken():
                return {"token": value, "expires_at": None}


class _Called:
    """Hands obstore credentials that a callback returned last."""

    def __init__(self, renewed: Renewed[AnyAzureRefreshableCredential]) -> None:
        self._renewed = renewed

    async def ready(self) -> AnyAzureRefreshableCredential:
        return await self._renewed.ready()

    async def renew(self, seen: AnyAzureRefreshableCredential) -> bool:
        await self._renewed.renewed(seen)
        return True

    def __call__(self) -> AzureCredential:
        current = self._renewed.current
        assert current is not None
        now = datetime.now(UTC)  # ended at once, so that obstore asks before every request
        match current:
            case AzureRefreshableCredential.AccessKey():
                return {"access_key": current.key, "expires_at": now}
            case AzureRefreshableCredential.SasToken():
                return {"sas_token": current.token.removeprefix("?"), "expires_at": now}
            case AzureRefreshableCredential.BearerToken():
                return {"token": current.bearer, "expires_at": now}


async def use(
    place: AzurePlace,
    settings: StorageSettings,
    recipe: str,
    root: str,
    gate: Limiter,
    work: Callable[[ObjectRequests], Awaitable[T]],
) -> T:
    """Make the requests of ``work``, on the caller's loop; parameters as for Google's ``use``."""

    async def open_stores() -> OpenStores:
        return _open(place, settings)

    def explain(verb: str, key: str, failure: Failure) -> StorageError:
        code = "" if failure.code.isdigit() else failure.code
        seen = _azure_client.Failure(status=failure.status, code=code)
        error = refusal(place, verb, key, seen, failure.text)
        # A reply without a body, to HEAD, does not say why.
        is_expired = seen.is_expired or (seen.status == 403 and not code)
        return ExpiredCredentialsError(error.message) if is_expired else error

    client = await clients.get(recipe, open_stores)
    requests = ObstoreRequests(
        settings=settings,
        root=root,
        gate=gate,
        stores=client.stores,
        place=place.description,
        explain=explain,
        lists=False,  # it would begin every page at the beginning
        deletes_many=False,  # it stops at the first that is gone
    )
    return await client.lend(requests, work)


def _open(place: AzurePlace, settings: StorageSettings) -> OpenStores:
    given: _Fixed | _Called | None = None
    if isinstance(place.credentials, AzureCredentials.Refreshable):
        given = _Called(_azure_client.renewals.of(place.credentials))
    elif (fixed := fixed_credential(place.credentials)) is not None:
        given = _Fixed(fixed)
    config: Any = {
        "account_name": place.account,
        "endpoint": place.endpoint,
        "skip_signature": given is None,
        "use_emulator": False,  # whatever the environment says
    }

    def make(client_options: Any, retry: Any) -> AzureStore:
        return AzureStore(
            place.container,
            config=config,
            client_options=client_options,
            retry_config=retry,
            credential_provider=given,
        )

    stores = make_web_stores(make, settings, place.web, read_headers={}, write_headers={})
    return OpenStores(stores=stores, given=given)
