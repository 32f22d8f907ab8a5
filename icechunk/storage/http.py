"""Objects on a web server, for reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from urllib.parse import urlsplit

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.clients import ClientPool
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage._choice import check_backend, use_either
from icechunk.storage._http_requests import HttpPlace, HttpReads
from icechunk.storage._web import WebClient, WebOptions, obstacle_in_url, open_web
from icechunk.storage.objects import ByteRange, ObjectInfo, ReadCondition, check_readable
from icechunk.storage.read_only import ReadOnlyStorage
from icechunk.storage.retry import in_time
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from icechunk.storage._http_requests import HttpBackend
    from icechunk.storage._object_requests import ObjectReads
    from icechunk.storage.base import Version

_clients: Final[ClientPool[WebClient]] = ClientPool()

T = TypeVar("T")


class HttpStorage(ReadOnlyStorage):
    """Objects on a web server, for reading.

    Parameters
    ----------
    place : HttpPlace
        Where.

    Notes
    -----
    Web servers have no listing that all agree on, so what needs one (the branches and tags of a
    repository of format version 1, storage statistics) is refused; repositories of format version
    2 are read without.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, place: HttpPlace) -> None:
        self._place = place

    @classmethod
    def create(
        cls,
        base_url: str,
        *,
        opts: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        backend: HttpBackend = "auto",
    ) -> HttpStorage:
        """Return the storage at ``base_url``; see `http_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``cannot-parse-url`` or ``storage-config``; arguments that cannot be meant.
        """
        try:
            url = urlsplit(base_url)
        except ValueError as error:
            raise _no_url(base_url) from error
        if url.scheme not in {"http", "https"} or not url.netloc:
            raise _no_url(base_url)
        options = {name.lower(): value for name, value in (opts or {}).items()}
        place = HttpPlace(
            base_url=base_url.rstrip("/"),
            web=WebOptions.parse(options, frozenset()),
            headers=tuple((headers or {}).items()),
            backend=backend,
        )
        check_backend(backend, "aiohttp", obstacle_in_url(place.base_url))
        return cls(place)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._place, self._settings))

    async def _lend(self, work: Callable[[ObjectReads], Awaitable[T]]) -> T:
        place, settings = self._place, self.settings

        async def by_obstore(module: Any) -> T:
            found: T = await module.use(place, settings, self._gate, work)
            return found

        async def there() -> T:
            async with _clients.lease(
                (place, str(settings)), lambda: open_web(place.web, settings)
            ) as client:
                return await work(
                    HttpReads(
                        settings=settings, root="", gate=self._gate, client=client, place=place
                    )
                )

        async with in_time(settings, self.description), self._gate:
            return await use_either(
                place.backend,
                obstacle_in_url(place.base_url),
                fast="icechunk.storage._http_obstore",
                by_obstore=by_obstore,
                by_other=lambda: loop.on_io_thread(there()),
            )

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        check_readable(key)
        if byte_range is None:
            return (await self._lend(lambda reads: reads.download(key, None, condition)))[0]
        if byte_range.start == byte_range.stop:
            return b""
        return await self._lend(lambda reads: reads.download_range(key, byte_range, condition))

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and its entity tag, or its time."""
        check_readable(key)
        return await self._lend(lambda reads: reads.download(key, None, None))

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        check_readable(key)
        found = await self._lend(lambda reads: reads.head(key))
        return ObjectInfo(
            key=key, size_bytes=found.size_bytes, last_modified_us=found.last_modified_us
        )

    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """Refuse to list."""
        raise StorageError(
            f"cannot list {prefix!r} in {self.description}: web servers have no listing. Reading "
            "repositories of format version 2 needs none; copy others to a place that has one",
            ErrorKind.UNIMPLEMENTED,
        )

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, as the specification's table has them."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(), retries=StorageRetriesSettings()
        )

    @property
    def description(self) -> str:
        """Return the URL, without a password in it."""
        return self._place.description

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "HTTP"
        yield "url", self.description

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HttpStorage) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place.base_url)


def _no_url(base_url: str) -> InvalidInputError:
    return InvalidInputError(
        f"not the URL of a web server: {scrubbed(str(base_url))!r}; expected http:// or https://",
        ErrorKind.CANNOT_PARSE_URL,
    )


def _reopen(place: HttpPlace, settings: StorageSettings | None) -> HttpStorage:
    storage = HttpStorage(place)
    return storage if settings is None else storage.with_settings(settings)
