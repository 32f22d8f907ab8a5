"""Objects in this process's memory."""

from __future__ import annotations

import os
import threading
import time
import uuid
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from icechunk._io import fork
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.base import Storage, Version
from icechunk.storage.objects import (
    ByteRange,
    LostRaceError,
    ObjectInfo,
    ReadCondition,
    check_key,
    object_not_found,
    range_beyond_end,
)
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence


class _Bucket:
    """The objects of one memory storage, shared by all views of it."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        # A forked child has a copy of the objects, which is another place from then on.
        self.token = f"{os.getpid()}-{uuid.uuid4()}"
        self.objects: dict[str, tuple[bytes, int, int]] = {}
        self.writes = 0
        self.lock = threading.Lock()
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()

    def store(self, key: str, data: bytes | memoryview) -> Version:
        """Write an object; the lock is held by the caller."""
        self.writes += 1
        self.objects[key] = (bytes(data), self.writes, time.time_ns() // 1000)
        return Version(str(self.writes))


# How pickles and `memory://` URLs find a bucket again: one without a name lives as long as
# some storage uses it, a named one as long as the process.
_by_token: weakref.WeakValueDictionary[str, _Bucket] = weakref.WeakValueDictionary()
_by_name: dict[str, _Bucket] = {}
_naming = threading.Lock()


class MemoryStorage(Storage):
    """Objects in this process's memory, gone when it ends.

    Notes
    -----
    Pickles as a reference: unpickled in the same process it is the same place (so dask's threads
    see one repository), and unpickled in any other process, forked children included, it raises,
    because what they would write could never come back.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"write", "conditional create", "conditional update", "list"}
    )

    immediate = True

    def __init__(self, bucket: _Bucket) -> None:
        self._bucket = bucket

    @classmethod
    def create(cls, name: str | None = None) -> MemoryStorage:
        """Return a new, empty storage, or the one of that name in this process."""
        if name is None:
            bucket = _Bucket()
        else:
            with _naming:
                bucket = _by_name.get(name) or _by_name.setdefault(name, _Bucket(name))
        _by_token[bucket.token] = bucket
        return cls(bucket)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._bucket.token, self._settings))

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        found = self._bucket.objects.get(key)
        if found is None:
            raise object_not_found(key, self.description)
        data, version, modified_us = found
        if condition is not None:
            condition.check(key, self.description, etag=str(version), last_modified_us=modified_us)
        if byte_range is None:
            return data
        if byte_range.stop > len(data):
            raise range_beyond_end(key, self.description, byte_range, len(data))
        return data[byte_range.start : byte_range.stop]

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and the version that it is."""
        found = self._bucket.objects.get(key)
        if found is None:
            raise object_not_found(key, self.description)
        return found[0], Version(str(found[1]))

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002 (nobody reads it back)
        content_type: str | None = None,  # noqa: ARG002
    ) -> None:
        """Write an object whole."""
        check_key(key)
        with self._bucket.lock:
            self._bucket.store(key, data)

    async def put_if_absent(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> Version:
        """Create an object, unless there is one."""
        check_key(key)
        with self._bucket.lock:
            if key in self._bucket.objects:
                raise LostRaceError(key)
            return self._bucket.store(key, data)

    async def put_if_unchanged(
        self,
        key: str,
        data: bytes | memoryview,
        version: Version,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> Version:
        """Replace an object, if it is still the version that was read."""
        with self._bucket.lock:
            found = self._bucket.objects.get(key)
            if found is None or str(found[1]) != version:
                raise LostRaceError(key)
            return self._bucket.store(key, data)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``."""
        with self._bucket.lock:
            found = list(self._bucket.objects.items())
        for key, (data, _, modified_us) in found:
            if key.startswith(prefix):
                yield ObjectInfo(key=key, size_bytes=len(data), last_modified_us=modified_us)

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""
        with self._bucket.lock:
            for key in keys:
                self._bucket.objects.pop(key, None)

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        found = self._bucket.objects.get(key)
        if found is None:
            raise object_not_found(key, self.description)
        return ObjectInfo(key=key, size_bytes=len(found[0]), last_modified_us=found[2])

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings: one try, ranges of any size."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(
                max_concurrent_requests_for_object=5, ideal_concurrent_request_size=1
            ),
            retries=StorageRetriesSettings(max_tries=1, initial_backoff_ms=0, max_backoff_ms=0),
        )

    @property
    def description(self) -> str:
        """Return ``memory:`` and the name, if it has one."""
        return f"memory:{self._bucket.name or ''}"

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "in-memory"
        if self._bucket.name is not None:
            yield "name", self._bucket.name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MemoryStorage) and self._bucket is other._bucket

    def __hash__(self) -> int:
        return hash(self._bucket.token)


def _reopen(token: str, settings: StorageSettings | None) -> MemoryStorage:
    bucket = _by_token.get(token)
    if bucket is None or not token.startswith(f"{os.getpid()}-"):
        raise StorageError(
            "an in-memory repository lives in one process only: it cannot be sent to another one, "
            "nor be unpickled after everything that used it is gone. Use "
            "local_filesystem_storage(path) or an object store for work on several processes",
            ErrorKind.STORAGE_CONFIG,
        )
    storage = MemoryStorage(bucket)
    return storage if settings is None else storage.with_settings(settings)
