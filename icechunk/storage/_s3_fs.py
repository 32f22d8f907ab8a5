"""S3 through the client of s3fs, which is tied to the I/O thread's loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._io import loop
from icechunk._io.clients import ClientPool
from icechunk.errors import StorageError
from icechunk.storage._object_requests import ExpiredCredentialsError
from icechunk.storage._s3_client import S3Client, open_client, open_session
from icechunk.storage._s3_place import NO_CREDENTIALS, S3Place, operation
from icechunk.storage._s3_requests import S3Requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from icechunk.storage._object_requests import ObjectRequests
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")

_NO_REGION: Final = "aws-global"
_USUAL_REGION: Final = "us-east-1"

_clients: Final[ClientPool[S3Client]] = ClientPool()


async def use(
    place: S3Place,
    settings: StorageSettings,
    recipe: str,
    work: Callable[[ObjectRequests], Awaitable[T]],
) -> T:
    """Make the requests of ``work``, on the I/O thread; parameters as for obstore's ``use``."""

    async def there() -> T:
        async with _clients.lease(recipe, lambda: open_client(place, settings)) as client:
            requests = S3Requests(api=client.api, place=place, settings=settings, root="")
            access = client.access
            if access is None or not access.can_renew:
                return await work(requests)
            seen = access.current
            try:
                return await work(requests)
            except ExpiredCredentialsError:
                await access.renewed(seen)
            return await work(requests)

    return await loop.on_io_thread(there())


async def region_of(place: S3Place, settings: StorageSettings) -> str:
    """Return the region of a bucket, as s3fs finds it out."""

    async def there() -> str:
        client = await open_client(place, settings)
        try:
            found = str(client.api.meta.region_name or _NO_REGION)
        finally:
            await client.close()
        return _USUAL_REGION if found == _NO_REGION else found

    return await loop.on_io_thread(there())


async def ambient_credentials(place: S3Place) -> Any:
    """Return botocore's credentials from the environment.

    Raises
    ------
    StorageError
        There are none.
    """

    async def there() -> Any:
        session, _ = open_session(place.credentials)
        return await session.get_credentials()

    found = await loop.on_io_thread(there())
    if found is None:
        raise StorageError(
            f"cannot {operation(place, 'connect to', '')}: no credentials were found; "
            f"{NO_CREDENTIALS}"
        )
    return found
