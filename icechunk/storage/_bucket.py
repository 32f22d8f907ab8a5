"""What storages in object stores have in common, whatever the service."""

from __future__ import annotations

import hashlib
import pickle
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar

from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage.base import CAPABILITIES, Storage, Version
from icechunk.storage.objects import ByteRange, ObjectInfo, ReadCondition, check_key
from icechunk.storage.retry import in_time
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from icechunk.storage._object_requests import ObjectRequests, Page

T = TypeVar("T")

_LISTED_AT_ONCE: Final = 1000  # the most that one reply holds
_DELETED_AT_ONCE: Final = 1000  # the most that one request may name
_DELETES_IN_PARALLEL: Final = 4


def trimmed_prefix(prefix: str | None) -> str:
    """Return a prefix without slashes at its ends.

    Raises
    ------
    InvalidInputError
        Kind ``bad-prefix``; it has empty parts, ``.`` or ``..``.
    """
    trimmed = (prefix or "").strip("/")
    if trimmed:
        check_key(trimmed)
    return trimmed


class BucketStorage(Storage):
    """Objects in a bucket or container of an object store.

    Parameters
    ----------
    place : dataclass
        Where, and how to get at it; equal places are the same place.
    bucket, prefix : str
        Where in the service.

    Notes
    -----
    Conditional writes are the service's own. When the reply to one is lost, the object's metadata
    tell whether the write took place.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(CAPABILITIES) - {"extend"}

    def __init__(self, place: Any, bucket: str, prefix: str) -> None:
        self._place = place
        self._bucket = bucket
        self._prefix = prefix
        self._recipe: str | None = None

    @classmethod
    @abstractmethod
    def at(cls, place: Any) -> BucketStorage:
        """Return the storage at a place."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (type(self), self._place, self._settings))

    def with_settings(self, settings: StorageSettings) -> BucketStorage:
        """Return the same place, used with other settings, and with connections of its own."""
        twin = super().with_settings(settings)
        twin._recipe = None  # noqa: SLF001 (a copy of this object)
        return twin

    def check_creatable(self) -> None:
        """Refuse to create a repository that would fill a whole bucket."""
        if not self._prefix:
            raise InvalidInputError(
                f"a repository needs a prefix inside {self._bucket!r}; pass one",
                ErrorKind.EMPTY_PREFIX_CREATION,
            )

    # ---------------------------------------------------------------- requests

    @abstractmethod
    async def _lend(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        """Do work with requests to this place."""

    def _client_recipe(self) -> str:
        """Return what tells clients apart: place and settings, hashed for the secrets in them."""
        if self._recipe is None:
            content = pickle.dumps((type(self).__name__, self._place, self.settings))
            self._recipe = hashlib.sha256(content).hexdigest()
        return self._recipe

    def _root(self) -> str:
        return f"{self._prefix}/" if self._prefix else ""

    async def _call(
        self, work: Callable[[ObjectRequests], Awaitable[T]], decides: str | None = None
    ) -> T:
        """Make requests, as many at once as the process may.

        Parameters
        ----------
        work : callable
            Makes them.
        decides : str or None
            The key whose conditional write this is, so that running out of time leaves it open.
        """
        async with in_time(self.settings, self.description, decides), self._gate:
            return await self._lend(work)

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
            with self._gate.as_free(min(_DELETES_IN_PARALLEL, len(batches))) as most:
                await gather_limited(
                    most, (requests.delete(keys[at : at + _DELETED_AT_ONCE]) for at in batches)
                )

        if keys:
            await self._call(work)

    # ---------------------------------------------------------------- about itself

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, as the specification's table has them."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(), retries=StorageRetriesSettings()
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and bool(self._place == other._place)

    def __hash__(self) -> int:
        return hash((self._bucket, self._prefix))


def _reopen(
    made: type[BucketStorage], place: Any, settings: StorageSettings | None
) -> BucketStorage:
    storage = made.at(place)
    return storage if settings is None else storage.with_settings(settings)
