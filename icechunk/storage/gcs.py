"""Objects in Google Cloud Storage.

Source: specification section 1.1. Conditional writes compare generations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.clients import ClientPool
from icechunk.credential_values import GcsCredentials, GcsStaticCredentials
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._bucket import BucketStorage, trimmed_prefix
from icechunk.storage._choice import check_address, check_backend, use_either
from icechunk.storage._gcs_access import GcsAccess
from icechunk.storage._gcs_requests import GcsPlace, GcsRequests
from icechunk.storage._web import WebClient, WebOptions, is_on, obstacle_in_url, open_web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from icechunk.credential_values import AnyGcsCredential
    from icechunk.storage._gcs_requests import GcsBackend
    from icechunk.storage._object_requests import ObjectRequests

T = TypeVar("T")

_PUBLIC_URL: Final = "https://storage.googleapis.com"
_BASE_URL: Final = ("google_base_url", "base_url")
_SKIP_SIGNATURE: Final = ("google_skip_signature", "skip_signature")
_ACCOUNT_FILE: Final = (
    "google_service_account",
    "service_account",
    "google_service_account_path",
    "service_account_path",
)
_ACCOUNT_KEY: Final = ("google_service_account_key", "service_account_key")
_APPLICATION: Final = ("google_application_credentials", "application_credentials")
_OPTIONS: Final = frozenset(
    (*_BASE_URL, *_SKIP_SIGNATURE, *_ACCOUNT_FILE, *_ACCOUNT_KEY, *_APPLICATION)
)

_clients: Final[ClientPool[GcsClient]] = ClientPool()


class GcsClient:
    """Connections and the token they are used with.

    Parameters
    ----------
    web : WebClient
        The connections.
    access : GcsAccess
        The token.
    """

    def __init__(self, web: WebClient, access: GcsAccess) -> None:
        self.web = web
        self.access = access

    async def close(self) -> None:
        """Close the connections."""
        await self.web.close()


class GcsStorage(BucketStorage):
    """Objects in a bucket of Google Cloud Storage.

    Parameters
    ----------
    place : GcsPlace
        Where, and how to get at it.
    """

    def __init__(self, place: GcsPlace) -> None:
        super().__init__(place, place.bucket, place.prefix)
        self._gcs = place

    @classmethod
    def at(cls, place: GcsPlace) -> GcsStorage:
        """Return the storage at a place."""
        return cls(place)

    @classmethod
    def create(
        cls,
        bucket: str,
        prefix: str | None,
        credentials: AnyGcsCredential,
        *,
        config: Mapping[str, str] | None = None,
        backend: GcsBackend = "auto",
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> GcsStorage:
        """Return the storage below ``prefix`` in ``bucket``; see `gcs_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``bad-prefix`` or ``storage-config``; arguments that cannot be meant.
        """
        if not bucket or "/" in bucket:
            raise InvalidInputError(f"not a bucket name: {bucket!r}", ErrorKind.STORAGE_CONFIG)
        options = {name.lower(): value for name, value in (config or {}).items()}
        base_url = next((options[name] for name in _BASE_URL if name in options), _PUBLIC_URL)
        common = dict(headers or {})
        place = GcsPlace(
            bucket=bucket,
            prefix=trimmed_prefix(prefix),
            credentials=_credentials(options, credentials),
            base_url=base_url.rstrip("/"),
            web=WebOptions.parse(options, _OPTIONS),
            read_headers=tuple((common | dict(read_headers or {})).items()),
            write_headers=tuple((common | dict(write_headers or {})).items()),
            backend=backend,
        )
        check_address(_BASE_URL[0], place.base_url)
        check_backend(backend, "aiohttp", obstacle_in_url(place.base_url))
        return cls(place)

    async def _lend(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        place = self._gcs

        async def by_obstore(module: Any) -> T:
            found: T = await module.use(
                place, self.settings, self._client_recipe(), self._root(), self._gate, work
            )
            return found

        return await use_either(
            place.backend,
            obstacle_in_url(place.base_url),
            fast="icechunk.storage._gcs_obstore",
            by_obstore=by_obstore,
            by_other=lambda: loop.on_io_thread(self._there(work)),
        )

    async def _there(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        place, settings = self._gcs, self.settings

        async def open_client() -> GcsClient:
            return GcsClient(await open_web(place.web, settings), GcsAccess(place.credentials))

        async with _clients.lease(self._client_recipe(), open_client) as client:
            return await work(
                GcsRequests(
                    settings=settings,
                    root=self._root(),
                    gate=self._gate,
                    client=client.web,
                    access=client.access,
                    place=place,
                )
            )

    @property
    def description(self) -> str:
        """Return ``gs://`` with bucket and prefix."""
        return self._gcs.description

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "GCS"
        yield "bucket", self._gcs.bucket
        if self._gcs.prefix:
            yield "prefix", self._gcs.prefix
        if self._gcs.base_url != _PUBLIC_URL:
            yield "base_url", scrubbed(self._gcs.base_url)
        if isinstance(self._gcs.credentials, GcsCredentials.Anonymous):
            yield "anonymous", True


def _credentials(options: Mapping[str, str], given: AnyGcsCredential) -> AnyGcsCredential:
    """Return the credentials given, or where that was the environment, those of the options."""
    if not isinstance(given, GcsCredentials.FromEnv):
        return given
    if is_on(options, *_SKIP_SIGNATURE):
        return GcsCredentials.Anonymous()
    for names, case in (
        (_ACCOUNT_FILE, GcsStaticCredentials.ServiceAccount),
        (_ACCOUNT_KEY, GcsStaticCredentials.ServiceAccountKey),
        (_APPLICATION, GcsStaticCredentials.ApplicationCredentials),
    ):
        for name in names:
            if name in options:
                return GcsCredentials.Static(case(options[name]))
    return given
