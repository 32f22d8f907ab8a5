"""Web servers through obstore."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from obstore.exceptions import NotSupportedError
from obstore.store import HTTPStore

from icechunk.storage._choice import UnspeakableError
from icechunk.storage._obstore import Failure, ObstoreRequests, make_web_stores
from icechunk.storage._obstore_clients import OpenStores, clients
from icechunk.storage._web import unanswered
from icechunk.storage.base import Version

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from icechunk._io.limits import Limiter
    from icechunk.errors import StorageError
    from icechunk.storage._http_requests import HttpPlace
    from icechunk.storage._object_requests import ObjectReads
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")

_NO_LENGTH: Final = re.compile("(?i)content.?length header")
_NO_TIME: Final = datetime(1970, 1, 1, tzinfo=UTC)  # what obstore says when the server says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class _WebReads(ObstoreRequests):
    """What can be read from a web server through obstore.

    It gives neither entity tag nor exact words for a time, so what depends on these, and what its
    strictness about replies would refuse, is left to the other library.
    """

    def _version(self, meta: Mapping[str, Any]) -> Version:
        if meta["last_modified"] == _NO_TIME:
            raise UnspeakableError(meta["path"])
        return Version(meta.get("e_tag") or meta["last_modified"].isoformat())

    def _judged(self, verb: str, key: str, error: BaseException) -> Exception:
        if isinstance(error, NotSupportedError):  # this server knows no ranges
            return UnspeakableError(key)
        if _NO_LENGTH.search(str(error)):
            return UnspeakableError(key)
        return super(_WebReads, self)._judged(verb, key, error)


async def use(
    place: HttpPlace,
    settings: StorageSettings,
    gate: Limiter,
    work: Callable[[ObjectReads], Awaitable[T]],
) -> T:
    """Make the requests of ``work``, on the caller's loop; parameters as for Google's ``use``."""

    async def open_stores() -> OpenStores:
        def make(client_options: Any, retry: Any) -> HTTPStore:
            return HTTPStore.from_url(
                place.base_url, client_options=client_options, retry_config=retry
            )

        headers = place.sent_headers
        stores = make_web_stores(
            make, settings, place.web, read_headers=headers, write_headers=headers
        )
        return OpenStores(stores=stores, given=None)

    def explain(_: str, key: str, failure: Failure) -> StorageError:
        if failure.status is None:
            return unanswered(place.operation(key), failure.text)
        return place.refusal(key, failure.status)

    client = await clients.get((place, str(settings)), open_stores)
    requests = _WebReads(
        settings=settings,
        root="",
        gate=gate,
        stores=client.stores,
        place=place.description,
        explain=explain,
        lists=False,
        writes=False,
    )
    return await client.lend(requests, work)
