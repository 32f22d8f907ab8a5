"""Objects in S3 and services compatible with it.

Source: specification section 1.1. The client is tied to the I/O thread's loop, so every request
hops there; retries of single requests are botocore's, from the storage settings.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import pickle
import secrets
from typing import TYPE_CHECKING, Any, Final, TypeVar

import botocore.exceptions  # type: ignore[import-untyped,unused-ignore]

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.clients import ClientPool
from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage._s3_client import (
    CONFLICT_CODES,
    LOST_RACE_CODES,
    NETWORK_ERRORS,
    S3Client,
    S3Place,
    error_code,
    is_denied,
    is_server_fault,
    open_client,
    response_metadata,
    storage_error,
    translated,
)
from icechunk.storage.base import (
    ByteRange,
    ObjectInfo,
    Storage,
    UnknownOutcomeError,
    Version,
    check_key,
    range_beyond_end,
)
from icechunk.storage.retry import AmbiguousError, Backoff, Found, put_conditionally
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options

T = TypeVar("T")

_WRITE_ID: Final = "icechunkwriteid"
_CHUNKS: Final = "chunks/"
_LISTED_AT_ONCE: Final = 1000  # the most that one reply holds
_DELETED_AT_ONCE: Final = 1000  # the most that one request may name
_DELETES_IN_PARALLEL: Final = 4
_MOST_PARTS: Final = 10_000
_SMALLEST_PART_BYTES: Final = 5 << 20
_WRITES_TRIED_AGAIN: Final = 3

_clients: Final[ClientPool[S3Client]] = ClientPool()


class S3Storage(Storage):
    """Objects in a bucket of S3 or of a compatible service.

    Parameters
    ----------
    place : S3Place
        Where, and how to get at it.

    Notes
    -----
    Conditional writes are the service's own (``If-None-Match``, ``If-Match``). When the reply to
    one is lost, the object's metadata tell whether the write took place. Pickles with fixed
    credentials in it, or with the callback that gets them.
    """

    def __init__(self, place: S3Place) -> None:
        self._place = place
        self._rooted = place.rooted if not place.prefix else False
        self._recipe: str | None = None

    @classmethod
    def create(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential,
        *,
        legacy_rooted_keys: bool | None = None,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> S3Storage:
        """Return the storage below ``prefix`` in ``bucket``; see `s3_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``bad-prefix`` or ``storage-config``; arguments that cannot be meant.
        """
        if not bucket or "/" in bucket:
            raise InvalidInputError(f"not a bucket name: {bucket!r}", ErrorKind.STORAGE_CONFIG)
        trimmed = (prefix or "").strip("/")
        if trimmed:
            check_key(trimmed)
            if legacy_rooted_keys:
                raise InvalidInputError(
                    "legacy_rooted_keys=True is only for repositories with an empty prefix",
                    ErrorKind.STORAGE_CONFIG,
                )
        url = config.endpoint_url
        if url is not None and url.lower().startswith("http:") and not config.allow_http:
            raise InvalidInputError(
                f"endpoint_url {scrubbed(url)} is not encrypted; pass allow_http=True if that is "
                "meant, or use https",
                ErrorKind.STORAGE_CONFIG,
            )
        common = dict(headers or {})
        return cls(
            S3Place(
                bucket=bucket,
                prefix=trimmed,
                options=copy.deepcopy(config),  # it can be changed from outside
                credentials=credentials,
                rooted=legacy_rooted_keys,
                read_headers=tuple((common | dict(read_headers or {})).items()),
                write_headers=tuple((common | dict(write_headers or {})).items()),
            )
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._place, self._settings))

    def with_settings(self, settings: StorageSettings) -> S3Storage:
        """Return the same place, used with other settings, and with connections of its own."""
        twin = super().with_settings(settings)
        twin._recipe = None  # noqa: SLF001 (a copy of this object)
        return twin

    def check_creatable(self) -> None:
        """Refuse to create a repository that would fill a whole bucket."""
        if not self._place.prefix:
            raise InvalidInputError(
                f"a repository needs a prefix inside the bucket {self._place.bucket!r}; pass one",
                ErrorKind.EMPTY_PREFIX_CREATION,
            )

    # ---------------------------------------------------------------- requests

    async def _call(
        self, work: Callable[[Any, str], Awaitable[T]], decides: str | None = None
    ) -> T:
        """Run requests on the I/O thread.

        Parameters
        ----------
        work : callable
            Given the client and what every key starts with.
        decides : str or None
            The key whose conditional write this is, so that running out of time leaves it open.
        """
        if self._recipe is None:
            recipe = pickle.dumps((self._place, self.settings))
            self._recipe = hashlib.sha256(recipe).hexdigest()
        timeouts = self.settings.timeouts
        limit_ms = timeouts.operation_timeout_ms if timeouts else None
        if limit_ms is None:
            return await loop.on_io_thread(self._on_io_thread(self._recipe, work))
        try:
            async with asyncio.timeout(limit_ms / 1000) as limit:
                return await loop.on_io_thread(self._on_io_thread(self._recipe, work))
        except TimeoutError as error:
            if not limit.expired():
                raise
            if decides is not None:
                raise UnknownOutcomeError(decides) from error
            raise StorageError(
                f"an operation on {self.description} took longer than {limit_ms} ms, the "
                "operation_timeout_ms of its storage settings"
            ) from error

    async def _on_io_thread(self, recipe: str, work: Callable[[Any, str], Awaitable[T]]) -> T:
        async with _clients.lease(
            recipe, lambda: open_client(self._place, self.settings)
        ) as client:
            return await work(client.api, await self._root(client.api))

    async def _root(self, api: Any) -> str:
        if self._place.prefix:
            return f"{self._place.prefix}/"
        if self._rooted is None:
            try:
                self._rooted = await self._finds_rooted_keys(api)
            except StorageError as error:
                if not is_denied(error.__cause__):
                    raise
                self._rooted = False  # who may not list must take the ordinary layout
        return "/" if self._rooted else ""

    async def _finds_rooted_keys(self, api: Any) -> bool:
        for start, rooted in (("", False), ("/", True)):
            for prefix in (f"{start}repo", f"{start}refs/"):
                with translated(self._place, "list", prefix):
                    page = await api.list_objects_v2(
                        Bucket=self._place.bucket, Prefix=prefix, MaxKeys=1, **self._payer()
                    )
                if any(o["Key"] == prefix or prefix[-1] == "/" for o in page.get("Contents", ())):
                    return rooted
        return False

    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self._place.options.requester_pays else {}

    def _object(self, root: str, key: str) -> dict[str, str]:
        return {"Bucket": self._place.bucket, "Key": root + key, **self._payer()}

    def _checksum(self) -> dict[str, str]:
        algorithm = self._place.options.checksum_algorithm
        return {} if algorithm is None else {"ChecksumAlgorithm": algorithm.name.upper()}

    def _backoff(self, most: int | None = None) -> Backoff:
        retries = self.settings.retries
        assert retries is not None
        tries = retries.max_tries or 1
        return Backoff(
            max_tries=tries if most is None else min(tries, most),
            initial_seconds=(retries.initial_backoff_ms or 0) / 1000,
            max_seconds=(retries.max_backoff_ms or 0) / 1000,
        )

    # ---------------------------------------------------------------- reading

    async def get(self, key: str, byte_range: ByteRange | None = None) -> bytes:
        """Return the content of an object, or exactly one range of it."""

        async def work(api: Any, root: str) -> bytes:
            if byte_range is None:
                return (await self._download(api, root, key, None))[0]
            parts = await gather_limited(
                self._concurrency()[0],
                (self._download(api, root, key, part) for part in self._split(byte_range)),
            )
            return b"".join(part[0] for part in parts) if len(parts) > 1 else parts[0][0]

        if byte_range is not None and byte_range.start == byte_range.stop:
            return b""
        return await self._call(work)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and the version that it is."""
        return await self._call(lambda api, root: self._download(api, root, key, None))

    def _concurrency(self) -> tuple[int, int]:
        """Return how many requests one object may take at once, and their ideal size in bytes."""
        concurrency = self.settings.concurrency
        assert concurrency is not None
        return (
            concurrency.max_concurrent_requests_for_object or 1,
            concurrency.ideal_concurrent_request_size or 1,
        )

    def _split(self, whole: ByteRange) -> list[ByteRange]:
        most, ideal_bytes = self._concurrency()
        size = whole.stop - whole.start
        count = min(most, -(-size // ideal_bytes))
        step = -(-size // count)
        return [
            ByteRange(start=start, stop=min(start + step, whole.stop))
            for start in range(whole.start, whole.stop, step)
        ]

    async def _download(
        self, api: Any, root: str, key: str, byte_range: ByteRange | None
    ) -> tuple[bytes, Version]:
        arguments: dict[str, Any] = self._object(root, key)
        if byte_range is not None:
            arguments["Range"] = f"bytes={byte_range.start}-{byte_range.stop - 1}"
        backoff = self._backoff()
        delays = backoff.delays()
        while True:
            with translated(self._place, "read", root + key):
                reply = await api.get_object(**arguments)
                try:
                    async with reply["Body"] as body:
                        data: bytes = await body.read()
                    break
                except NETWORK_ERRORS:  # in the middle: botocore retries only up to the headers
                    delay = next(delays, None)
                    if delay is None:
                        raise
            await backoff.sleep(delay)
        if byte_range is not None and len(data) != byte_range.stop - byte_range.start:
            total = int(str(reply.get("ContentRange", "")).rpartition("/")[2] or len(data))
            raise range_beyond_end(key, self.description, byte_range, total)
        return data, _version(reply)

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""

        async def work(api: Any, root: str) -> ObjectInfo:
            with translated(self._place, "read", root + key):
                reply = await api.head_object(**self._object(root, key))
            return ObjectInfo(
                key=key,
                size_bytes=reply["ContentLength"],
                last_modified_us=round(reply["LastModified"].timestamp() * 1e6),
            )

        return await self._call(work)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``."""
        token: str | None = None
        while True:

            async def work(
                api: Any, root: str, token: str | None = token
            ) -> tuple[str, dict[str, Any]]:
                arguments: dict[str, Any] = {
                    "Bucket": self._place.bucket,
                    "Prefix": root + prefix,
                    "MaxKeys": _LISTED_AT_ONCE,
                    **self._payer(),
                }
                if token is not None:
                    arguments["ContinuationToken"] = token
                with translated(self._place, "list", root + prefix):
                    return root, await api.list_objects_v2(**arguments)

            root, page = await self._call(work)
            for found in page.get("Contents", ()):
                key = found["Key"][len(root) :]
                if not key or key.endswith("/"):  # made by tools that show folders
                    continue
                yield ObjectInfo(
                    key=key,
                    size_bytes=found["Size"],
                    last_modified_us=round(found["LastModified"].timestamp() * 1e6),
                )
            token = page.get("NextContinuationToken")
            if token is None:
                return

    # ---------------------------------------------------------------- writing

    def _new_object(
        self, root: str, key: str, metadata: Mapping[str, str] | None, content_type: str | None
    ) -> dict[str, Any]:
        settings = self.settings
        arguments: dict[str, Any] = {**self._object(root, key), **self._checksum()}
        if settings.unsafe_use_metadata and metadata:
            arguments["Metadata"] = dict(metadata)
        if content_type is not None:
            arguments["ContentType"] = content_type
        special = (
            settings.chunks_storage_class
            if key.startswith(_CHUNKS)
            else settings.metadata_storage_class
        )
        storage_class = special or settings.storage_class
        if storage_class is not None:
            arguments["StorageClass"] = storage_class
        return arguments

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        """Write an object whole, in parts if it is large."""
        check_key(key)

        async def work(api: Any, root: str) -> None:
            arguments = self._new_object(root, key, metadata, content_type)
            least = self.settings.minimum_size_for_multipart_upload
            with translated(self._place, "write", root + key):
                if least is not None and len(data) >= max(least, 1):
                    await self._upload_parts(api, arguments, memoryview(data))
                else:
                    await api.put_object(Body=bytes(data), **arguments)

        await self._call(work)

    async def _upload_parts(self, api: Any, arguments: dict[str, Any], data: memoryview) -> None:
        upload = await api.create_multipart_upload(**arguments)
        target = {name: arguments[name] for name in ("Bucket", "Key")} | self._payer()
        target["UploadId"] = upload["UploadId"]
        most, ideal_bytes = self._concurrency()
        step = max(ideal_bytes, _SMALLEST_PART_BYTES, -(-len(data) // _MOST_PARTS))

        async def send(number: int, start: int) -> dict[str, Any]:
            part = await api.upload_part(
                Body=bytes(data[start : start + step]),
                PartNumber=number,
                **target,
                **self._checksum(),
            )
            kept = {name: part[name] for name in part if name.startswith("Checksum")}
            return {"PartNumber": number, "ETag": part["ETag"], **kept}

        try:
            starts = range(0, len(data), step)
            parts = await gather_limited(most, (send(n, at) for n, at in enumerate(starts, 1)))
            await api.complete_multipart_upload(MultipartUpload={"Parts": parts}, **target)
        except BaseException:
            # Parts of an upload that is neither completed nor aborted are charged for, unseen.
            await asyncio.shield(_abort(api, target))
            raise

    async def put_if_absent(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Version:
        """Create an object, unless there is one."""
        check_key(key)
        condition = {"IfNoneMatch": "*"} if self.settings.unsafe_use_conditional_create else {}
        return await self._call(
            lambda api, root: self._put_if(
                api,
                key,
                bytes(data),
                None,
                {**self._new_object(root, key, metadata, content_type), **condition},
            ),
            decides=key,
        )

    async def put_if_unchanged(
        self,
        key: str,
        data: bytes | memoryview,
        version: Version,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Version:
        """Replace an object, if it is still the version that was read."""
        check_key(key)
        condition = {"IfMatch": version} if self.settings.unsafe_use_conditional_update else {}
        return await self._call(
            lambda api, root: self._put_if(
                api,
                key,
                bytes(data),
                version,
                {**self._new_object(root, key, metadata, content_type), **condition},
            ),
            decides=key,
        )

    async def _put_if(
        self, api: Any, key: str, data: bytes, expected: Version | None, arguments: dict[str, Any]
    ) -> Version:
        write_id = secrets.token_hex(12)
        if self.settings.unsafe_use_metadata:
            arguments["Metadata"] = arguments.get("Metadata", {}) | {_WRITE_ID: write_id}
        target = {name: arguments[name] for name in ("Bucket", "Key")} | self._payer()

        async def attempt() -> Version:
            try:
                return _version(await api.put_object(Body=data, **arguments))
            except botocore.exceptions.ClientError as error:
                raise self._judged(target["Key"], expected, error) from error
            except NETWORK_ERRORS as error:
                cause = storage_error(self._place, "write", target["Key"], error)
                raise AmbiguousError(cause) from error
            except botocore.exceptions.BotoCoreError as error:
                raise storage_error(self._place, "write", target["Key"], error) from error

        async def read_back() -> Found:
            try:
                with translated(self._place, "read", target["Key"]):
                    reply = await api.head_object(**target)
            except StorageError as error:
                if error.kind == ErrorKind.OBJECT_NOT_FOUND:
                    return Found(version=None, write_id=None)
                raise
            return Found(version=_version(reply), write_id=reply["Metadata"].get(_WRITE_ID))

        return await put_conditionally(
            key,
            expected=expected,
            write_id=write_id,
            attempt=attempt,
            read_back=read_back,
            backoff=self._backoff(_WRITES_TRIED_AGAIN),
        )

    def _judged(
        self,
        full_key: str,
        expected: Version | None,
        error: botocore.exceptions.ClientError,
    ) -> Exception:
        """Return what an error reply to a conditional write means for it."""
        cause = storage_error(self._place, "write", full_key, error)
        lost = error_code(error) in LOST_RACE_CODES or (
            expected is not None and cause.kind == ErrorKind.OBJECT_NOT_FOUND
        )
        # An earlier attempt may have stored our object and its reply been lost: then the condition
        # fails because of ourselves. botocore counts its retries, but below it aiohttp repeats a
        # request whose connection was closed, and tells nobody; so the object is always looked at.
        once = not response_metadata(error.response).get("RetryAttempts", 0)
        if lost or error_code(error) in CONFLICT_CODES or cause.kind == ErrorKind.THROTTLED:
            return AmbiguousError(cause, refused=once)
        return AmbiguousError(cause) if is_server_fault(error) else cause

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""

        async def work(api: Any, root: str) -> None:
            batches = range(0, len(keys), _DELETED_AT_ONCE)
            await gather_limited(
                _DELETES_IN_PARALLEL,
                (self._delete(api, root, keys[at : at + _DELETED_AT_ONCE]) for at in batches),
            )

        if keys:
            await self._call(work)

    async def _delete(self, api: Any, root: str, keys: Sequence[str]) -> None:
        with translated(self._place, "delete", root + keys[0]):
            reply = await api.delete_objects(
                Bucket=self._place.bucket,
                Delete={"Objects": [{"Key": root + key} for key in keys], "Quiet": True},
                **self._checksum(),
                **self._payer(),
            )
        failed = [e for e in reply.get("Errors", ()) if e.get("Code") != "NoSuchKey"]
        if failed:
            raise StorageError(
                f"could not delete {len(failed)} of {len(keys)} objects in {self.description}; the "
                f"first was {failed[0].get('Key')!r}: {failed[0].get('Code')}: "
                f"{failed[0].get('Message')}"
            )

    # ---------------------------------------------------------------- about itself

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, as the specification's table has them."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(), retries=StorageRetriesSettings()
        )

    @property
    def description(self) -> str:
        """Return ``s3://`` with bucket and prefix."""
        prefix = f"/{self._place.prefix}" if self._place.prefix else ""
        return f"s3://{self._place.bucket}{prefix}"

    def _fields(self) -> Iterator[tuple[str, object]]:
        place, options = self._place, self._place.options
        yield "type", "S3"
        yield "bucket", place.bucket
        if place.prefix:
            yield "prefix", place.prefix
        if options.region is not None:
            yield "region", options.region
        if options.endpoint_url is not None:
            yield "endpoint_url", scrubbed(options.endpoint_url)
        for flag in ("allow_http", "anonymous", "force_path_style", "requester_pays"):
            if getattr(options, flag):
                yield flag, True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, S3Storage) and self._place == other._place

    def __hash__(self) -> int:
        return hash((self._place.bucket, self._place.prefix))


async def _abort(api: Any, target: Mapping[str, Any]) -> None:
    try:
        await api.abort_multipart_upload(**target)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError, *NETWORK_ERRORS):
        return  # the error that led here is the one to report


def _version(reply: Mapping[str, Any]) -> Version:
    tag = reply.get("ETag")
    if not tag:
        raise StorageError(
            "the service sent no ETag, without which commits cannot be told apart",
            ErrorKind.STORAGE_CONFIG,
        )
    return Version(str(tag))


def _reopen(place: S3Place, settings: StorageSettings | None) -> S3Storage:
    storage = S3Storage(place)
    return storage if settings is None else storage.with_settings(settings)
