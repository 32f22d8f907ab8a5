"""Requests through obstore, to any service it knows. The only module that sees it.

Loaded when the first such request is made: obstore is an optional library.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import obstore
from obstore.exceptions import BaseError, InvalidPathError

from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._choice import UnspeakableError
from icechunk.storage._object_requests import (
    AFTER,
    WRITE_ID,
    Head,
    ObjectRequests,
    Page,
    listed_info,
    microseconds,
    version_of,
)
from icechunk.storage.objects import ByteRange, ReadCondition, is_ordinary_key, range_beyond_end
from icechunk.storage.retry import AmbiguousError, repeated

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

    from icechunk.storage._web import WebOptions
    from icechunk.storage.base import Version
    from icechunk.storage_settings import StorageSettings

T = TypeVar("T")

ERRORS: Final = (BaseError, OSError)

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([^<]{1,100})</Code>")
_MESSAGE: Final = re.compile(r"<Message>([^<]{1,500})</Message>")
_KIND: Final = re.compile(r"\bkind: (Timeout|Connect|Interrupted|Decode)\b")
_KINDS: Final = {
    "Timeout": "timeout: no answer in time",
    "Connect": "no connection could be made",
    "Interrupted": "the connection broke in the middle of the reply",
    "Decode": "the reply makes no sense",
}
# Not one request for ever: the time allowed between two arrivals of bytes decides.
_WHOLE_REQUEST: Final = timedelta(days=1)
_DELETES_IN_PARALLEL: Final = 32
_URL: Final = re.compile(r"https?://\S+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What an error of obstore says about a request.

    Parameters
    ----------
    status : int or None
        HTTP status of the reply; None when there was none, or not a whole one.
    code : str
        The service's code, or the status where it gave none; empty without a reply.
    text : str
        What happened, in words that hold no secrets.
    """

    status: int | None
    code: str
    text: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Read the text of an error; obstore keeps what happened nowhere else."""
        text = str(error)
        status = _STATUS.search(text)
        if status is not None:
            code, message = _CODE.search(text), _MESSAGE.search(text)
            return cls(
                status=int(status[1]),
                code=code[1] if code else status[1],
                text=message[1] if message else "",
            )
        if isinstance(error, FileNotFoundError):
            return cls(status=404, code="404", text="")
        if "StartTooLarge" in text:  # a success, by a service that sends what there is
            return cls(status=416, code="416", text="")
        kind = _KIND.search(text)
        first = _URL.sub("the server", text.partition("\n")[0])
        return cls(status=None, code="", text=_KINDS[kind[1]] if kind else first)


Explain: TypeAlias = Callable[[str, str, Failure], StorageError]
"""Makes our error of what was tried, the key, and how it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """The stores of one place, which share nothing but what they were made of.

    Parameters
    ----------
    reader, writer : obstore store
        With the headers for reading and for writing. They make each request once: what is worth
        another attempt is decided here, the same for all libraries.
    parts : obstore store
        As ``writer``, but with retries of its own, which an upload in parts needs.
    """

    reader: Any
    writer: Any
    parts: Any


def make_stores(
    make: Callable[[dict[str, Any], dict[str, Any]], Any],
    settings: StorageSettings,
    *,
    connect_seconds: float,
    read_seconds: float | None,
    allow_http: bool,
    read_headers: Mapping[str, str],
    write_headers: Mapping[str, str],
    more: Mapping[str, Any] | None = None,
) -> Stores:
    """Return the stores of a place.

    Parameters
    ----------
    make : callable
        Makes one, given its client options and its retry configuration.
    settings : StorageSettings
        In force.
    connect_seconds, read_seconds : float
        How long to wait for a connection and for the next bytes; None for ever.
    allow_http : bool
        Whether servers without TLS will do.
    read_headers, write_headers : mapping
        Sent along, unsigned.
    more : mapping, optional
        Other options of the client.
    """
    retries = settings.retries
    assert retries is not None
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=connect_seconds),
        "timeout": _WHOLE_REQUEST,
        "allow_http": allow_http,
        **(more or {}),
    }
    if read_seconds is not None:
        options["read_timeout"] = timedelta(seconds=read_seconds)
    backoff = {
        "init_backoff": timedelta(milliseconds=max(retries.initial_backoff_ms or 0, 1)),
        "max_backoff": timedelta(milliseconds=max(retries.max_backoff_ms or 0, 1)),
    }
    patient = {"max_retries": (retries.max_tries or 1) - 1, "backoff": backoff}
    once = {"max_retries": 0, "backoff": backoff}

    def store(headers: Mapping[str, str], retry: dict[str, Any]) -> Any:
        more = {"default_headers": dict(headers)} if headers else {}
        return make(options | more, retry)

    return Stores(
        reader=store(read_headers, once),
        writer=store(write_headers, once),
        parts=store(write_headers, patient),
    )


def make_web_stores(
    make: Callable[[dict[str, Any], dict[str, Any]], Any],
    settings: StorageSettings,
    web: WebOptions,
    *,
    read_headers: Mapping[str, str],
    write_headers: Mapping[str, str],
) -> Stores:
    """Return the stores of a place with the options of an HTTP client; see `make_stores`."""
    limits = web.limits(settings)
    more: dict[str, Any] = {}
    if limits.whole_seconds is not None:
        more["timeout"] = timedelta(seconds=limits.whole_seconds)
    if web.proxy is not None:
        more["proxy_url"] = web.proxy
    if web.user_agent is not None:
        more["user_agent"] = web.user_agent
    return make_stores(
        make,
        settings,
        connect_seconds=limits.connect_seconds,
        read_seconds=limits.read_seconds,
        allow_http=True,  # the URL says whether
        read_headers=read_headers,
        write_headers=write_headers,
        more=more,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ObstoreRequests(ObjectRequests):
    """What can be asked of a place through obstore.

    Parameters
    ----------
    stores : Stores
        For the place's bucket, without a prefix of their own.
    place : str
        For messages.
    explain : callable
        Makes our errors.
    version_field : {"e_tag", "version"}
        What of an object its conditional update compares.
    lists, writes, sends_parts : bool
        Whether obstore lists this service page by page, writes to it, and uploads in parts; else
        the other library does.
    deletes_many : bool
        Whether one request deletes many objects, and does not mind those that are gone.
    """

    stores: Stores
    place: str
    explain: Explain
    version_field: Literal["e_tag", "version"] = "e_tag"
    lists: bool = True
    writes: bool = True
    sends_parts: bool = True
    deletes_many: bool = True

    def _path(self, key: str) -> str:
        """Return a key as obstore has to be told it, or refuse one that it would change."""
        path = self.root + key
        if not is_ordinary_key(key) and (
            _CONTROL.search(path) or any(part in {"", ".", ".."} for part in path.split("/"))
        ):
            raise UnspeakableError(path)
        return path

    def _path_to_write(self, key: str) -> str:
        if not self.writes:
            raise UnspeakableError(key)
        return self._path(key)

    async def _patiently(self, verb: str, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        async def once() -> T:
            try:
                return await ask()
            except ERRORS as error:
                raise self._judged(verb, key, error) from error

        return await repeated(once, self._backoff())

    def _judged(self, verb: str, key: str, error: BaseException) -> Exception:
        """Return what a failed request means: our error, in an `AmbiguousError` if it may pass."""
        failure = Failure.of(error)
        cause = self.explain(verb, self.root + key, failure)
        if cause.kind == ErrorKind.THROTTLED:
            return AmbiguousError(cause, refused=True)
        passing = failure.status is None or failure.status >= 500 or failure.status == 408
        return AmbiguousError(cause) if passing else cause

    def _version(self, meta: Mapping[str, Any]) -> Version:
        return version_of(meta.get(self.version_field))

    # ---------------------------------------------------------------- reading

    async def download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> tuple[bytes, Version]:
        """Return an object or one range of it, in one request, and its version."""
        path = self._path(key)
        options: GetOptions = {}
        if byte_range is not None:
            options["range"] = (byte_range.start, byte_range.stop)

        async def ask() -> tuple[Mapping[str, Any], bytes]:
            reply = await obstore.get_async(self.stores.reader, path, options=options)
            if condition is not None:
                modified_us = microseconds(reply.meta["last_modified"])
                tag = reply.meta.get("e_tag")
                condition.check(key, self.place, etag=tag, last_modified_us=modified_us)
            return reply.meta, bytes(await reply.bytes_async())

        meta, data = await self._patiently("read", key, ask)
        if byte_range is not None and len(data) != byte_range.stop - byte_range.start:
            raise range_beyond_end(key, self.place, byte_range, meta["size"])
        return data, self._version(meta)

    async def head(self, key: str) -> Head:
        """Return what the store says about an object."""
        path = self._path(key)

        async def ask() -> GetResult:
            return await obstore.get_async(self.stores.reader, path, options={"head": True})

        reply = await self._patiently("read", key, ask)
        meta: Mapping[str, Any] = reply.meta
        return Head(
            size_bytes=meta["size"],
            last_modified_us=microseconds(meta["last_modified"]),
            version=self._version(meta),
            write_id=reply.attributes.get(WRITE_ID),
        )

    async def list_page(self, prefix: str, token: str | None, most: int) -> Page:
        """Return one page of a listing."""
        # obstore lists folders only; after the part of the prefix that names no folder, it can at
        # least begin late.
        wanted = self.root + prefix
        folder, _, start = wanted.rpartition("/")
        if not self.lists or not folder:  # a key that begins with a slash would be told without it
            raise UnspeakableError(prefix)
        offset = wanted[:-1] if len(start) > 1 else None
        if token is not None:
            offset = token.removeprefix(AFTER)

        async def ask() -> Sequence[Mapping[str, Any]]:
            listing = obstore.list(
                self.stores.reader, prefix=folder, offset=offset, chunk_size=most
            )
            try:
                return await anext(listing, [])
            except InvalidPathError as error:
                raise UnspeakableError(prefix) from error

        found = await self._patiently("list", prefix, ask)
        if any(line["size"] == 0 for line in found):
            # Perhaps made to show a folder, with a slash at the end that obstore leaves out.
            raise UnspeakableError(prefix)
        infos = (
            listed_info(self.root, line["path"], line["size"], line["last_modified"])
            for line in found
            if line["path"].startswith(wanted)
        )
        return Page(
            infos=tuple(info for info in infos if info is not None),
            token=AFTER + found[-1]["path"] if len(found) == most else None,
        )

    # ---------------------------------------------------------------- writing

    async def upload(
        self,
        key: str,
        data: bytes | memoryview,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> None:
        """Write an object whole, in parts if it is large."""
        body, path = bytes(data), self._path_to_write(key)
        in_parts = self._goes_in_parts(len(body))
        if in_parts and not self.sends_parts:
            raise UnspeakableError(key)

        async def ask() -> object:
            with self.gate.as_free(self._concurrency()[0] if in_parts else 1) as most:
                return await obstore.put_async(
                    self.stores.parts if in_parts else self.stores.writer,
                    path,
                    body,
                    attributes=self._attributes(key, metadata, content_type),
                    use_multipart=in_parts,
                    chunk_size=self._part_bytes(len(body)),
                    max_concurrency=most,
                )

        try:
            await self._patiently("write", key, ask)
        except StorageError as error:
            missing = in_parts and error.kind == ErrorKind.OBJECT_NOT_FOUND
            if not missing or not await self._is_there(key, len(body)):
                raise

    async def attempt(
        self,
        key: str,
        body: bytes,
        expected: Version | None,
        metadata: Mapping[str, str],
        content_type: str | None,
    ) -> Version:
        """Make one conditional write."""
        path = self._path_to_write(key)
        mode: Any = "overwrite"
        if self._is_conditional(expected):
            mode = "create" if expected is None else {self.version_field: expected}
        try:
            reply: Mapping[str, Any] = await obstore.put_async(
                self.stores.writer,
                path,
                body,
                attributes=self._attributes(key, metadata, content_type),
                use_multipart=False,
                mode=mode,
            )
        except ERRORS as error:
            raise self._judged_race(key, expected, error) from error
        return self._version(reply)

    def _judged_race(self, key: str, expected: Version | None, error: BaseException) -> Exception:
        """Return what a failed conditional write means."""
        found = self._judged("write", key, error)
        if isinstance(found, StorageError):
            gone = expected is not None and found.kind == ErrorKind.OBJECT_NOT_FOUND
            if gone or Failure.of(error).status in {409, 412}:
                return AmbiguousError(found, refused=True)
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, in one request where the service can."""
        paths = [self._path_to_write(key) for key in keys]

        async def ask(*paths: str) -> None:
            await obstore.delete_async(self.stores.writer, list(paths))

        async def one(key: str, path: str) -> None:
            try:
                await self._patiently("delete", key, lambda: ask(path))
            except StorageError as error:
                if error.kind != ErrorKind.OBJECT_NOT_FOUND:
                    raise

        if self.deletes_many:
            await self._patiently("delete", keys[0], lambda: ask(*paths))
            return
        with self.gate.as_free(min(_DELETES_IN_PARALLEL, len(keys))) as most:
            await gather_limited(most, map(one, keys, paths))

    def _attributes(
        self, key: str, metadata: Mapping[str, str] | None, content_type: str | None
    ) -> dict[str, str]:
        found = dict(metadata) if metadata and self.settings.unsafe_use_metadata else {}
        if content_type is not None:
            found["Content-Type"] = content_type
        storage_class = self._storage_class(key)
        if storage_class is not None:
            found["Storage-Class"] = storage_class
        return found
