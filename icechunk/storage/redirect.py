"""A storage whose place a web server tells, by an HTTP redirect. For reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urljoin, urlsplit

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.flight import Flight
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError, StorageError
from icechunk.storage._public_url import storage_for_public_url
from icechunk.storage._web import NETWORK_ERRORS, Reply, WebOptions, ask_patiently, open_web
from icechunk.storage.read_only import ReadOnlyView
from icechunk.storage.retry import backoff_of
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.storage.base import Storage

_MOST_REDIRECTS: Final = 10
_WEB: Final = frozenset({"http", "https"})


class RedirectStorage(ReadOnlyView):
    """A storage that a web server points to.

    Parameters
    ----------
    base_url : str
        Answered with a redirect.

    Notes
    -----
    The redirect is followed once per process, when the first object is read. It pickles as the URL,
    so other processes ask again.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"list"})

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._found: Storage | None = None
        self._limit: int | None = None
        self._flight: Flight[str, Storage] = Flight()

    @classmethod
    def create(cls, base_url: str) -> RedirectStorage:
        """Return the storage that ``base_url`` points to; see `redirect_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``cannot-parse-url``; not the URL of a web server.
        """
        url = urlsplit(base_url)
        if url.scheme not in _WEB or not url.netloc:
            raise InvalidInputError(
                f"not the URL of a web server: {scrubbed(base_url)!r}; expected http:// or https://",
                ErrorKind.CANNOT_PARSE_URL,
            )
        return cls(base_url)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._base_url, self._settings))

    def with_settings(self, settings: StorageSettings) -> RedirectStorage:
        """Return the same place, used with other settings."""
        twin = super().with_settings(settings)
        twin._limit = self._limit  # noqa: SLF001 (a copy of this object)
        twin._found, twin._flight = None, Flight()  # noqa: SLF001
        return twin

    def with_request_limit(self, limit: int) -> RedirectStorage:
        """Return the same place, asked at most so many things at once."""
        twin = super().with_request_limit(limit)
        twin._limit = limit  # noqa: SLF001 (a copy of this object)
        twin._found, twin._flight = None, Flight()  # noqa: SLF001
        return twin

    async def _target(self) -> Storage:
        if self._found is None:
            self._found = await self._flight.share("follow", self._follow)
        return self._found

    async def _follow(self) -> Storage:
        url = self._base_url
        for _ in range(_MOST_REDIRECTS):
            reply = await self._ask(url)
            location = reply.headers.get("Location")
            if not 300 <= reply.status < 400 or location is None:
                raise _bad(
                    self.description,
                    f"{scrubbed(url)} answered with no redirect (status {reply.status})",
                )
            url = urljoin(url, location)
            if urlsplit(url).scheme not in _WEB:
                return self._opened(url)
        raise _bad(self.description, f"there are more than {_MOST_REDIRECTS} redirects")

    def _opened(self, url: str) -> Storage:
        try:
            found = storage_for_public_url(url)
        except IcechunkError as error:
            raise _bad(self.description, error.message) from error
        if self._settings is not None:
            found = found.with_settings(self._settings)
        return found if self._limit is None else found.with_request_limit(self._limit)

    async def _ask(self, url: str) -> Reply:
        settings = self.settings

        async def on_io_thread() -> Reply:
            client = await open_web(WebOptions(), settings)
            try:
                return await ask_patiently(
                    lambda: client.ask("GET", url, headers={}, follow=False), backoff_of(settings)
                )
            finally:
                await client.close()

        try:
            return await loop.on_io_thread(on_io_thread())
        except NETWORK_ERRORS as error:
            raise _bad(
                self.description, f"{scrubbed(url)} did not answer: {type(error).__name__}"
            ) from error

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, as for buckets."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(), retries=StorageRetriesSettings()
        )

    @property
    def description(self) -> str:
        """Return the URL, without a password in it."""
        return scrubbed(self._base_url)

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "redirect"
        yield "url", self.description

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RedirectStorage) and self._base_url == other._base_url

    def __hash__(self) -> int:
        return hash(self._base_url)


def _bad(place: str, why: str) -> StorageError:
    return StorageError(
        f"cannot find the storage that {place} redirects to: {why}", ErrorKind.BAD_REDIRECT
    )


def _reopen(base_url: str, settings: StorageSettings | None) -> RedirectStorage:
    storage = RedirectStorage(base_url)
    return storage if settings is None else storage.with_settings(settings)
