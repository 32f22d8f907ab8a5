"""Objects in Azure Blob Storage.

Source: specification section 1.1. Conditional writes compare entity tags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.clients import ClientPool
from icechunk.credential_values import AzureCredentials, AzureStaticCredentials
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._azure_client import AzureClient, AzurePlace, fixed_credential
from icechunk.storage._azure_requests import AzureRequests
from icechunk.storage._bucket import BucketStorage, trimmed_prefix
from icechunk.storage._choice import check_address, check_backend, use_either
from icechunk.storage._web import WebOptions, is_on, obstacle_in_url

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from icechunk.credential_values import AnyAzureCredential
    from icechunk.storage._azure_client import AzureBackend
    from icechunk.storage._object_requests import ObjectRequests

T = TypeVar("T")

_ENDPOINT: Final = ("azure_storage_endpoint", "azure_endpoint", "endpoint")
_EMULATOR: Final = ("azure_storage_use_emulator", "use_emulator")
_EMULATOR_URL: Final = "http://127.0.0.1:10000/devstoreaccount1"
_SKIP_SIGNATURE: Final = ("azure_skip_signature", "skip_signature")
_ACCOUNT: Final = ("account", "account_name", "azure_storage_account_name")
_KEY: Final = (
    "azure_storage_account_key",
    "azure_storage_access_key",
    "azure_storage_master_key",
    "access_key",
    "account_key",
    "master_key",
)
_SAS: Final = ("azure_storage_sas_key", "azure_storage_sas_token", "sas_key", "sas_token")
_TOKEN: Final = ("azure_storage_token", "bearer_token", "token")
_OPTIONS: Final = frozenset(
    (*_ENDPOINT, *_EMULATOR, *_SKIP_SIGNATURE, *_ACCOUNT, *_KEY, *_SAS, *_TOKEN)
)

_clients: Final[ClientPool[AzureClient]] = ClientPool()


class AzureStorage(BucketStorage):
    """Objects in a container of Azure Blob Storage.

    Parameters
    ----------
    place : AzurePlace
        Where, and how to get at it.
    """

    def __init__(self, place: AzurePlace) -> None:
        super().__init__(place, place.container, place.prefix)
        self._azure = place

    @classmethod
    def at(cls, place: AzurePlace) -> AzureStorage:
        """Return the storage at a place."""
        return cls(place)

    @classmethod
    def create(
        cls,
        account: str,
        container: str,
        prefix: str | None,
        credentials: AnyAzureCredential,
        *,
        config: Mapping[str, str] | None = None,
        backend: AzureBackend = "auto",
    ) -> AzureStorage:
        """Return the storage below ``prefix`` in ``container``; see `azure_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``bad-prefix`` or ``storage-config``; arguments that cannot be meant.
        """
        for name, value in (("account", account), ("container", container)):
            if not value or "/" in value:
                raise InvalidInputError(
                    f"not the name of an Azure {name}: {value!r}", ErrorKind.STORAGE_CONFIG
                )
        options = {name.lower(): value for name, value in (config or {}).items()}
        default = f"https://{account}.blob.core.windows.net"
        if is_on(options, *_EMULATOR):
            default = _EMULATOR_URL
        endpoint = next((options[name] for name in _ENDPOINT if name in options), default)
        place = AzurePlace(
            account=account,
            container=container,
            prefix=trimmed_prefix(prefix),
            credentials=_credentials(options, credentials),
            endpoint=endpoint.rstrip("/"),
            web=WebOptions.parse(options, _OPTIONS),
            backend=backend,
        )
        check_address(_ENDPOINT[0], place.endpoint)
        check_backend(backend, "azure", _obstacle(place))
        return cls(place)

    async def _lend(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        place = self._azure

        async def by_obstore(module: Any) -> T:
            found: T = await module.use(
                place, self.settings, self._client_recipe(), self._root(), self._gate, work
            )
            return found

        return await use_either(
            place.backend,
            _obstacle(place),
            fast="icechunk.storage._azure_obstore",
            by_obstore=by_obstore,
            by_other=lambda: loop.on_io_thread(self._there(work)),
        )

    async def _there(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        place, settings = self._azure, self.settings

        async def open_client() -> AzureClient:
            client = AzureClient(place, settings)
            await client.container()
            return client

        async with _clients.lease(self._client_recipe(), open_client) as client:
            return await work(
                AzureRequests(
                    settings=settings,
                    root=self._root(),
                    gate=self._gate,
                    client=client,
                    place=place,
                )
            )

    @property
    def description(self) -> str:
        """Return ``az://`` with container and prefix, and the account."""
        return self._azure.description

    def _fields(self) -> Iterator[tuple[str, object]]:
        place = self._azure
        yield "type", "Azure"
        yield "account", place.account
        yield "container", place.container
        yield "prefix", place.prefix
        if not place.endpoint.endswith(f"{place.account}.blob.core.windows.net"):
            yield "endpoint", scrubbed(place.endpoint)
        if isinstance(place.credentials, AzureCredentials.Anonymous):
            yield "anonymous", True


def _obstacle(place: AzurePlace) -> str | None:
    """Return what of a place obstore cannot do; None if it can do everything asked."""
    case = place.credentials
    if isinstance(case, AzureCredentials.FromEnv) and fixed_credential(case) is None:
        return "credentials that azure.identity finds"
    return obstacle_in_url(place.endpoint)


def _credentials(options: Mapping[str, str], given: AnyAzureCredential) -> AnyAzureCredential:
    """Return the credentials given, or where that was the environment, those of the options."""
    if not isinstance(given, AzureCredentials.FromEnv):
        return given
    if is_on(options, *_SKIP_SIGNATURE):
        return AzureCredentials.Anonymous()
    for names, case in (
        (_KEY, AzureStaticCredentials.AccessKey),
        (_SAS, AzureStaticCredentials.SasToken),
        (_TOKEN, AzureStaticCredentials.BearerToken),
    ):
        for name in names:
            if name in options:
                return AzureCredentials.Static(case(options[name]))
    return given
