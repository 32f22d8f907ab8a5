"""The requests of one operation on a web server, made on the I/O thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from urllib.parse import quote

from icechunk._display import scrubbed
from icechunk.storage._object_requests import Head, ObjectReads
from icechunk.storage._web import NETWORK_ERRORS, ask_patiently, refusal, unanswered
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange, object_not_found, range_beyond_end

if TYPE_CHECKING:
    from icechunk.errors import StorageError
    from icechunk.storage._web import Reply, WebClient, WebOptions
    from icechunk.storage.objects import ReadCondition

_ADVICE: Final = {
    401: "the server wants to know who asks: pass headers, as in {'authorization': 'Bearer ...'}",
    403: "access was denied: check the URL and the headers",
}

HttpBackend: TypeAlias = Literal["auto", "aiohttp", "obstore"]
"""Which library makes the requests."""


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
    backend : {"auto", "aiohttp", "obstore"}
        Which library makes the requests.
    """

    base_url: str
    web: WebOptions
    headers: tuple[tuple[str, str], ...]
    backend: HttpBackend = field(default="auto", compare=False)  # the place is the same

    @property
    def description(self) -> str:
        """Return the URL, without a password in it."""
        return scrubbed(self.base_url)

    @property
    def sent_headers(self) -> dict[str, str]:
        """Return what is sent with every request: an object is the bytes that are stored."""
        return {"Accept-Encoding": "identity", **dict(self.headers)}

    def operation(self, key: str) -> str:
        """Return what was tried, for a message."""
        return f"read {key!r} in {self.description}"

    def refusal(self, key: str, status: int) -> StorageError:
        """Return our error for an error reply of the server."""
        return refusal(self.operation(key), status, _ADVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpReads(ObjectReads):
    """What can be read from a web server.

    Parameters
    ----------
    client : WebClient
        Makes the requests.
    place : HttpPlace
        Server and options.
    """

    client: WebClient
    place: HttpPlace

    async def download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> tuple[bytes, Version]:
        """Return an object or one range of it, in one request, and its version."""
        reply = await self._ask("GET", key, byte_range)
        description = self.place.description
        if condition is not None and reply.is_good:
            condition.check(
                key,
                description,
                etag=reply.headers.get("ETag"),
                last_modified_us=reply.modified_us(),
            )
        data = reply.body
        if byte_range is not None:
            total = reply.total_bytes()
            if reply.status == 416:
                total = (await self.head(key)).size_bytes if total is None else total
                raise range_beyond_end(key, description, byte_range, total)
            if reply.status == 200:  # this server knows no ranges
                total, data = len(data), data[byte_range.start : byte_range.stop]
            if len(data) != byte_range.stop - byte_range.start:
                total = byte_range.start + len(data) if total is None else total
                raise range_beyond_end(key, description, byte_range, total)
        return data, _version(reply)

    async def head(self, key: str) -> Head:
        """Return what the server says about an object."""
        reply = await self._ask("HEAD", key)
        size = reply.headers.get("Content-Length")
        if size is None:
            raise object_not_found(key, f"{self.place.description} (no length given)")
        return Head(
            size_bytes=int(size),
            last_modified_us=reply.modified_us() or 0,
            version=_version(reply),
            write_id=None,
        )

    async def _ask(self, method: str, key: str, byte_range: ByteRange | None = None) -> Reply:
        """Make a request, repeated as the settings say; a refusal is raised, but for 416."""
        headers = self.place.sent_headers
        if byte_range is not None:
            headers["Range"] = f"bytes={byte_range.start}-{byte_range.stop - 1}"
        path, mark, query = self.place.base_url.partition("?")
        url = f"{path}/{quote(key)}{mark}{query}"
        try:
            reply = await ask_patiently(
                lambda: self.client.ask(method, url, headers=headers), self._backoff()
            )
        except NETWORK_ERRORS as error:
            raise unanswered(self.place.operation(key), error) from error
        if not reply.is_good and reply.status != 416:
            raise self.place.refusal(key, reply.status)
        return reply


def _version(reply: Reply) -> Version:
    """Return the entity tag of an object, or its time."""
    return Version(reply.headers.get("ETag") or reply.headers.get("Last-Modified", ""))
