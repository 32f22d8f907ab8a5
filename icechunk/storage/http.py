"""Objects on a web server, for reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import quote, urlsplit

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.clients import ClientPool
from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage._web import (
    NETWORK_ERRORS,
    Reply,
    WebClient,
    WebOptions,
    ask_patiently,
    open_web,
    refusal,
    unanswered,
)
from icechunk.storage.base import (
    ByteRange,
    ObjectInfo,
    ReadCondition,
    Version,
    check_readable,
    object_not_found,
    range_beyond_end,
)
from icechunk.storage.read_only import ReadOnlyStorage
from icechunk.storage.retry import backoff_of
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

_ADVICE: Final = {
    401: "the server wants to know who asks: pass headers, as in {'authorization': 'Bearer ...'}",
    403: "access was denied: check the URL and the headers",
}
_clients: Final[ClientPool[WebClient]] = ClientPool()


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpPlace:
    """Where objects are on a web server, and how it is reached.

    Parameters
    ----------
    base_url : str
        Of the root, without a slash at its end.
    web : WebOptions
        Of the HTTP client.
    headers : tuple of (str, str)
        Sent with every request.
    """

    base_url: str
    web: WebOptions
    headers: tuple[tuple[str, str], ...]


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
        return cls(
            HttpPlace(
                base_url=base_url.rstrip("/"),
                web=WebOptions.parse(options, frozenset()),
                headers=tuple((headers or {}).items()),
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._place, self._settings))

    async def _ask(self, method: str, key: str, byte_range: ByteRange | None = None) -> Reply:
        """Make a request, repeated as the settings say; a refusal is raised, but for 416."""
        check_readable(key)
        headers = {"Accept-Encoding": "identity", **dict(self._place.headers)}
        if byte_range is not None:
            headers["Range"] = f"bytes={byte_range.start}-{byte_range.stop - 1}"
        path, mark, query = self._place.base_url.partition("?")
        url = f"{path}/{quote(key)}{mark}{query}"
        where = f"read {key!r} in {self.description}"

        async def on_io_thread() -> Reply:
            settings = self.settings
            async with _clients.lease(
                (self._place, str(settings)), lambda: open_web(self._place.web, settings)
            ) as client:
                return await ask_patiently(
                    lambda: client.ask(method, url, headers=headers), backoff_of(settings)
                )

        try:
            async with self._gate:
                reply = await loop.on_io_thread(on_io_thread())
        except NETWORK_ERRORS as error:
            raise unanswered(where, error) from error
        if not reply.is_good and reply.status != 416:
            raise refusal(where, reply, _ADVICE)
        return reply

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        if byte_range is None:
            return (await self._download(key, None, condition)).body
        size = byte_range.stop - byte_range.start
        if not size:
            return b""
        concurrency = self.settings.concurrency
        assert concurrency is not None
        most = concurrency.max_concurrent_requests_for_object or 1
        step = -(-size // min(most, -(-size // (concurrency.ideal_concurrent_request_size or 1))))
        parts = await gather_limited(
            most,
            (
                self._range(
                    key,
                    ByteRange(start=start, stop=min(start + step, byte_range.stop)),
                    condition,
                )
                for start in range(byte_range.start, byte_range.stop, step)
            ),
        )
        return b"".join(parts) if len(parts) > 1 else parts[0]

    async def _range(self, key: str, part: ByteRange, condition: ReadCondition | None) -> bytes:
        reply = await self._download(key, part, condition)
        data, total = reply.body, reply.total_bytes()
        if reply.status == 416:
            total = (await self.head(key)).size_bytes if total is None else total
            raise range_beyond_end(key, self.description, part, total)
        if reply.status == 200:  # this server knows no ranges
            total, data = len(data), data[part.start : part.stop]
        if len(data) != part.stop - part.start:
            total = part.start + len(data) if total is None else total
            raise range_beyond_end(key, self.description, part, total)
        return data

    async def _download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> Reply:
        reply = await self._ask("GET", key, byte_range)
        if condition is not None and reply.is_good:
            condition.check(
                key,
                self.description,
                etag=reply.headers.get("ETag"),
                last_modified_us=reply.modified_us(),
            )
        return reply

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and its entity tag, or its time."""
        reply = await self._download(key, None, None)
        tag = reply.headers.get("ETag") or reply.headers.get("Last-Modified", "")
        return reply.body, Version(tag)

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        reply = await self._ask("HEAD", key)
        size = reply.headers.get("Content-Length")
        if size is None:
            raise object_not_found(key, f"{self.description} (no length given)")
        return ObjectInfo(key=key, size_bytes=int(size), last_modified_us=reply.modified_us() or 0)

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
        return scrubbed(self._place.base_url)

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
