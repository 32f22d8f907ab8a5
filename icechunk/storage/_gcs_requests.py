"""The requests of one operation on Google Cloud Storage, made on the I/O thread.

Objects go by the XML interface, because its entity tags and times are those that references to
virtual chunks are made with; listings, deletions and uploads in parts by the JSON interface.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._object_requests import (
    WRITE_ID,
    Head,
    ObjectRequests,
    Page,
    listed_info,
)
from icechunk.storage._web import (
    MISSING,
    NETWORK_ERRORS,
    PASSING,
    Reply,
    ask_patiently,
    refusal,
    unanswered,
)
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange, range_beyond_end
from icechunk.storage.retry import AmbiguousError, backoff_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping, Sequence

    from icechunk.credential_values import AnyGcsCredential
    from icechunk.storage._gcs_access import GcsAccess
    from icechunk.storage._web import WebClient, WebOptions
    from icechunk.storage.objects import ReadCondition

_DELETES_IN_PARALLEL: Final = 32
_PART_UNIT_BYTES: Final = 1 << 18  # the service takes parts of whole units only
_RESUME: Final = 308
_ADVICE: Final = {
    400: "the request was not understood: check bucket, prefix and config",
    401: "the token is not valid or has ended: check the credentials, or pass get_credentials",
    403: "access was denied: check the credentials and what they may do in this bucket",
}


GcsBackend: TypeAlias = Literal["auto", "aiohttp", "obstore"]
"""Which library makes the requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsPlace:
    """Where objects are in Google Cloud Storage, and how to get at them.

    Parameters
    ----------
    bucket, prefix : str
        Prefix without slashes at its ends.
    credentials : AnyGcsCredential
        One of the four cases.
    base_url : str
        Of the service.
    web : WebOptions
        Of the HTTP client.
    read_headers, write_headers : tuple of (str, str)
        Sent with every request that reads or writes.
    backend : {"auto", "aiohttp", "obstore"}
        Which library makes the requests.
    """

    bucket: str
    prefix: str
    credentials: AnyGcsCredential
    base_url: str
    web: WebOptions
    read_headers: tuple[tuple[str, str], ...]
    write_headers: tuple[tuple[str, str], ...]
    backend: GcsBackend = field(default="auto", compare=False)  # the place is the same

    @property
    def description(self) -> str:
        """Return ``gs://`` with bucket and prefix."""
        return f"gs://{self.bucket}" + (f"/{self.prefix}" if self.prefix else "")

    def operation(self, verb: str, key: str) -> str:
        """Return what was tried, for a message."""
        return f"{verb} gs://{self.bucket}/{key}"

    def refusal(self, verb: str, key: str, status: int) -> StorageError:
        """Return our error for an error reply of the service."""
        return refusal(self.operation(verb, key), status, _ADVICE)


@dataclass(frozen=True, slots=True, kw_only=True)
class GcsRequests(ObjectRequests):
    """What can be asked of a place in Google Cloud Storage.

    Parameters
    ----------
    client : WebClient
        Makes the requests.
    access : GcsAccess
        Has the token.
    place : GcsPlace
        Bucket and options.
    """

    client: WebClient
    access: GcsAccess
    place: GcsPlace

    # ---------------------------------------------------------------- reading

    async def download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> tuple[bytes, Version]:
        """Return an object or one range of it, in one request, and its version."""
        # Without this header compressed objects would come decompressed, with other offsets.
        headers = {"Accept-Encoding": "gzip"}
        if byte_range is not None:
            headers["Range"] = f"bytes={byte_range.start}-{byte_range.stop - 1}"
        reply = await self._asked("read", key, "GET", self._object_url(key), headers)
        if byte_range is not None and reply.status == 416:
            size_bytes = reply.total_bytes()
            size_bytes = (await self.head(key)).size_bytes if size_bytes is None else size_bytes
            raise range_beyond_end(key, self.place.description, byte_range, size_bytes)
        self._require("read", key, reply)
        if condition is not None:
            condition.check(
                key,
                self.place.description,
                etag=reply.headers.get("ETag"),
                last_modified_us=reply.modified_us(),
            )
        data = reply.body
        if byte_range is not None:
            total = reply.total_bytes()
            if reply.status == 200:  # the whole object
                total, data = len(data), data[byte_range.start : byte_range.stop]
            if len(data) != byte_range.stop - byte_range.start:
                size_bytes = len(data) if total is None else total
                raise range_beyond_end(key, self.place.description, byte_range, size_bytes)
        return data, _version(reply)

    async def head(self, key: str) -> Head:
        """Return what the store says about an object."""
        headers = {"Accept-Encoding": "gzip"}
        reply = await self._asked("read", key, "HEAD", self._object_url(key), headers)
        self._require("read", key, reply)
        stored = reply.headers.get("x-goog-stored-content-length")
        return Head(
            size_bytes=int(stored or reply.headers.get("Content-Length") or 0),
            last_modified_us=reply.modified_us() or 0,
            version=_version(reply),
            write_id=reply.headers.get(f"x-goog-meta-{WRITE_ID}"),
        )

    async def list_page(self, prefix: str, token: str | None, most: int) -> Page:
        """Return one page of a listing."""
        query = {
            "prefix": self.root + prefix,
            "maxResults": str(most),
            "fields": "items(name,size,updated),nextPageToken",
        }
        if token is not None:
            query["pageToken"] = token
        url = f"{self.place.base_url}/storage/v1/b/{quote(self.place.bucket)}/o?{urlencode(query)}"
        reply = await self._asked("list", prefix, "GET", url, {})
        if reply.status in MISSING:
            raise StorageError(
                f"cannot list {self.place.description}: there is no such bucket: check its name"
            )
        self._require("list", prefix, reply)
        found: dict[str, Any] = json.loads(reply.body)
        infos = (
            listed_info(
                self.root, item["name"], int(item["size"]), datetime.fromisoformat(item["updated"])
            )
            for item in found.get("items", ())
        )
        return Page(
            infos=tuple(info for info in infos if info is not None),
            token=found.get("nextPageToken"),
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
        body = bytes(data)
        kept = dict(metadata or {}) if self.settings.unsafe_use_metadata else {}
        if self._goes_in_parts(len(body)):
            await self._upload_parts(key, body, kept, content_type)
            return
        headers = self._new_object(key, kept, content_type)
        reply = await self._asked("write", key, "PUT", self._object_url(key), headers, body)
        self._require("write", key, reply)

    async def _upload_parts(
        self, key: str, body: bytes, metadata: Mapping[str, str], content_type: str | None
    ) -> None:
        """Send an object part by part; the service knows one upload and no parallel parts."""
        bucket, name = quote(self.place.bucket), quote(self.root + key, safe="")
        url = (
            f"{self.place.base_url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&name={name}"
        )
        about: dict[str, Any] = {"metadata": dict(metadata)}
        if content_type is not None:
            about["contentType"] = content_type
        if (storage_class := self._storage_class(key)) is not None:
            about["storageClass"] = storage_class
        json_type = {"Content-Type": "application/json"}
        reply = await self._asked("write", key, "POST", url, json_type, json.dumps(about).encode())
        self._require("write", key, reply)
        upload_url = reply.headers["Location"]
        unit = _PART_UNIT_BYTES
        step = -(-self._part_bytes(len(body)) // unit) * unit
        start, total = 0, len(body)
        while start < total:
            stop = min(start + step, total)
            part = memoryview(body)[start:stop]
            span = {"Content-Range": f"bytes {start}-{stop - 1}/{total}"}
            try:
                reply = await self._once("PUT", upload_url, span, bytes(part), "write")
                settled = reply.status not in PASSING
            except NETWORK_ERRORS:
                settled = False
            if not settled:  # ask how far it came
                span = {"Content-Range": f"bytes */{total}"}
                reply = await self._asked("write", key, "PUT", upload_url, span, b"")
            if reply.status != _RESUME:
                self._require("write", key, reply)
                return
            last = reply.headers.get("Range", "").rpartition("-")[2]
            start = int(last) + 1 if last else 0

    async def attempt(
        self,
        key: str,
        body: bytes,
        expected: Version | None,
        metadata: Mapping[str, str],
        content_type: str | None,
    ) -> Version:
        """Make one conditional write."""
        headers = self._new_object(key, metadata, content_type)
        if self._is_conditional(expected):
            headers["x-goog-if-generation-match"] = "0" if expected is None else expected
        try:
            reply = await self._once("PUT", self._object_url(key), headers, body, "write")
        except NETWORK_ERRORS as error:
            raise AmbiguousError(unanswered(self._where("write", key), error)) from error
        if reply.is_good:
            return _version(reply)
        cause = self._refusal("write", key, reply)
        lost = reply.status == 412 or (expected is not None and reply.status in MISSING)
        if lost or cause.kind == ErrorKind.THROTTLED:
            raise AmbiguousError(cause, refused=True)
        raise AmbiguousError(cause) if reply.status in PASSING else cause

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, one request each."""

        async def one(key: str) -> None:
            bucket, name = quote(self.place.bucket), quote(self.root + key, safe="")
            url = f"{self.place.base_url}/storage/v1/b/{bucket}/o/{name}"
            reply = await self._asked("delete", key, "DELETE", url, {})
            if reply.status not in MISSING:
                self._require("delete", key, reply)

        with self.gate.as_free(min(_DELETES_IN_PARALLEL, len(keys))) as most:
            await gather_limited(most, (one(key) for key in keys))

    # ---------------------------------------------------------------- requests

    async def _asked(
        self,
        verb: str,
        key: str,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> Reply:
        """Make a request that may be made twice; any reply is returned."""

        async def send() -> Reply:
            return await self._once(method, url, headers, body, verb)

        try:
            return await ask_patiently(send, backoff_of(self.settings))
        except NETWORK_ERRORS as error:
            raise unanswered(self._where(verb, key), error) from error

    async def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, verb: str
    ) -> Reply:
        """Make one request; with another token, if the first has ended."""
        place = self.place
        extra = place.read_headers if verb in {"read", "list"} else place.write_headers

        def asking(token: str | None) -> Awaitable[Reply]:
            signed = {} if token is None else {"Authorization": f"Bearer {token}"}
            return self.client.ask(
                method, url, headers={**headers, **dict(extra), **signed}, body=body
            )

        token = await self.access.token()
        reply = await asking(token)
        if reply.status == 401 and token is not None:
            other = await self.access.token(refused=token)
            if other != token:
                reply = await asking(other)
        return reply

    # ---------------------------------------------------------------- arguments

    def _object_url(self, key: str) -> str:
        return f"{self.place.base_url}/{quote(self.place.bucket)}/{quote(self.root + key)}"

    def _new_object(
        self, key: str, metadata: Mapping[str, str], content_type: str | None
    ) -> dict[str, str]:
        headers = {f"x-goog-meta-{name}": value for name, value in metadata.items()}
        headers["Content-Type"] = content_type or "application/octet-stream"
        storage_class = self._storage_class(key)
        if storage_class is not None:
            headers["x-goog-storage-class"] = storage_class
        return headers

    def _where(self, verb: str, key: str) -> str:
        return self.place.operation(verb, self.root + key)

    def _refusal(self, verb: str, key: str, reply: Reply) -> StorageError:
        return self.place.refusal(verb, self.root + key, reply.status)

    def _require(self, verb: str, key: str, reply: Reply) -> None:
        if not reply.is_good:
            raise self._refusal(verb, key, reply)


def _version(reply: Reply) -> Version:
    generation = reply.headers.get("x-goog-generation")
    if not generation:
        raise StorageError(
            "the service sent no generation, without which commits cannot be told apart",
            ErrorKind.STORAGE_CONFIG,
        )
    return Version(generation)
