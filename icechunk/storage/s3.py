"""Objects in S3 and services compatible with it.

Source: specification section 1.1. Requests are made by s3fs's client, or by obstore where it is
installed; retries of single requests are theirs, from the storage settings.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import importlib
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._display import scrubbed
from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage._choice import UnspeakableError, check_backend, chosen_library
from icechunk.storage._s3_place import DeniedError, S3Place, obstacle_to_obstore
from icechunk.storage.base import (
    ByteRange,
    ObjectInfo,
    ReadCondition,
    Storage,
    UnknownOutcomeError,
    Version,
    check_key,
)
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence

    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage._choice import Library
    from icechunk.storage._object_requests import ObjectRequests, Page
    from icechunk.storage._s3_place import Backend

T = TypeVar("T")

_LISTED_AT_ONCE: Final = 1000  # the most that one reply holds
_DELETED_AT_ONCE: Final = 1000  # the most that one request may name
_DELETES_IN_PARALLEL: Final = 4

# Loaded when they are used: each pulls in a large library.
_TRANSPORTS: Final = {
    "fsspec": "icechunk.storage._s3_fs",
    "obstore": "icechunk.storage._s3_obstore",
}


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
        backend: Backend = "auto",
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
        place = S3Place(
            bucket=bucket,
            prefix=trimmed,
            options=copy.deepcopy(config),  # it can be changed from outside
            credentials=credentials,
            rooted=legacy_rooted_keys,
            read_headers=tuple((common | dict(read_headers or {})).items()),
            write_headers=tuple((common | dict(write_headers or {})).items()),
            backend=backend,
        )
        check_backend(backend, "s3fs", obstacle_to_obstore(place))
        return cls(place)

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
        self, work: Callable[[ObjectRequests], Awaitable[T]], decides: str | None = None
    ) -> T:
        """Make requests.

        Parameters
        ----------
        work : callable
            Makes them.
        decides : str or None
            The key whose conditional write this is, so that running out of time leaves it open.
        """
        timeouts = self.settings.timeouts
        limit_ms = timeouts.operation_timeout_ms if timeouts else None
        if limit_ms is None:
            return await self._rooted_work(work)
        try:
            async with asyncio.timeout(limit_ms / 1000) as limit:
                return await self._rooted_work(work)
        except TimeoutError as error:
            if not limit.expired():
                raise
            if decides is not None:
                raise UnknownOutcomeError(decides) from error
            raise StorageError(
                f"an operation on {self.description} took longer than {limit_ms} ms, the "
                "operation_timeout_ms of its storage settings"
            ) from error

    async def _rooted_work(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        async def rooted(requests: ObjectRequests) -> T:
            return await work(replace(requests, root=await self._root(requests)))

        settings = self.settings
        if self._recipe is None:
            recipe = pickle.dumps((self._place, settings))
            self._recipe = hashlib.sha256(recipe).hexdigest()
        library = chosen_library(self._place.backend, obstacle_to_obstore(self._place))
        try:
            found: T = await _use(library)(self._place, settings, self._recipe, rooted)
        except UnspeakableError:
            found = await _use("fsspec")(self._place, settings, self._recipe, rooted)
        return found

    async def _root(self, requests: ObjectRequests) -> str:
        if self._place.prefix:
            return f"{self._place.prefix}/"
        if self._rooted is None:
            try:
                self._rooted = await _has_rooted_keys(requests)
            except DeniedError:
                self._rooted = False  # who may not list must take the ordinary layout
        return "/" if self._rooted else ""

    # ---------------------------------------------------------------- reading

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        if byte_range is None:
            found = await self._call(lambda requests: requests.download(key, None, condition))
            return found[0]
        if byte_range.start == byte_range.stop:
            return b""
        return await self._call(
            lambda requests: requests.download_range(key, byte_range, condition)
        )

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and the version that it is."""
        return await self._call(lambda requests: requests.download(key, None, None))

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        found = await self._call(lambda requests: requests.head(key))
        return ObjectInfo(
            key=key, size_bytes=found.size_bytes, last_modified_us=found.last_modified_us
        )

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``."""
        token: str | None = None
        while True:

            async def work(requests: ObjectRequests, token: str | None = token) -> Page:
                return await requests.list_page(prefix, token, _LISTED_AT_ONCE)

            page = await self._call(work)
            for info in page.infos:
                yield info
            token = page.token
            if token is None:
                return

    # ---------------------------------------------------------------- writing

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
        await self._call(lambda requests: requests.upload(key, data, metadata, content_type))

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
        return await self._call(
            lambda requests: requests.put_if(key, data, None, metadata, content_type), decides=key
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
        return await self._call(
            lambda requests: requests.put_if(key, data, version, metadata, content_type),
            decides=key,
        )

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""

        async def work(requests: ObjectRequests) -> None:
            batches = range(0, len(keys), _DELETED_AT_ONCE)
            await gather_limited(
                _DELETES_IN_PARALLEL,
                (requests.delete(keys[at : at + _DELETED_AT_ONCE]) for at in batches),
            )

        if keys:
            await self._call(work)

    # ---------------------------------------------------------------- about itself

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, as the specification's table has them."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(), retries=StorageRetriesSettings()
        )

    @property
    def description(self) -> str:
        """Return ``s3://`` with bucket and prefix."""
        return self._place.description

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


def _use(library: Library) -> Callable[..., Awaitable[Any]]:
    use: Callable[..., Awaitable[Any]] = importlib.import_module(_TRANSPORTS[library]).use
    return use


async def _has_rooted_keys(requests: ObjectRequests) -> bool:
    """Tell whether a repository at the root of a bucket has keys that begin with a slash."""
    for start, rooted in (("", False), ("/", True)):
        for prefix in (f"{start}repo", f"{start}refs/"):
            page = await requests.list_page(prefix, None, 1)
            if any(info.key == prefix or prefix[-1] == "/" for info in page.infos):
                return rooted
    return False


def _reopen(place: S3Place, settings: StorageSettings | None) -> S3Storage:
    storage = S3Storage(place)
    return storage if settings is None else storage.with_settings(settings)
