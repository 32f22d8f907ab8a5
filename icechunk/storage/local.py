"""Objects as files below a directory.

Source: specification section 1.2; the files themselves are in `icechunk.storage._files`. Small
objects are read and written at once, large ones in a thread so that the event loop goes on.
"""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

from icechunk._io.loop import in_thread
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._files import LARGE_BYTES, Files
from icechunk.storage.base import Storage, Version
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from icechunk.storage._line import Line
    from icechunk.storage.objects import ByteRange, ObjectInfo, ReadCondition

_LISTED_AT_ONCE: Final = 1000
_DELETED_AT_ONCE: Final = 100
# A pack stays as long as one of its chunks is wanted, so this is what a chunk can keep from being
# collected. Larger packs were not faster.
_PACK_BYTES: Final = 1 << 20


class LocalStorage(Storage):
    """Objects as files below a directory.

    Parameters
    ----------
    root : str
        Absolute path of the directory; made when the first object is written.

    Notes
    -----
    Conditional updates take a lock on a file at the root, hidden from listings, so that commits of
    several threads and processes of one machine do not overwrite each other. Programs that do not
    take it (the reference implementation) are not kept out. The settings
    ``unsafe_use_conditional_create`` and ``_update`` change nothing: both are always on.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset(
        {"write", "conditional create", "conditional update", "list", "extend"}
    )

    immediate = True

    def __init__(self, root: str, pack_bytes: int = _PACK_BYTES) -> None:
        self._files = Files(root)
        self.pack_bytes = pack_bytes

    @classmethod
    def create(
        cls, path: str | os.PathLike[str], *, pack_small_chunks: bool = True
    ) -> LocalStorage:
        """Return the storage below ``path``, which need not exist yet."""
        text = os.fspath(path)
        if not isinstance(text, str) or not text or "\0" in text:
            raise InvalidInputError(f"not a directory path: {path!r}", ErrorKind.BAD_PREFIX)
        root = os.path.abspath(text)  # noqa: PTH100 (resolve() would follow links)
        return cls(root, _PACK_BYTES if pack_small_chunks else 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (self._files.root, self.pack_bytes, self._settings))

    # ---------------------------------------------------------------- reading

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        if byte_range is not None and condition is None:
            data = self._files.read_small(key, byte_range)
            if data is not None:
                return data
        fd, size = self._files.open(key)
        length = size if byte_range is None else byte_range.stop - byte_range.start
        if length < LARGE_BYTES:
            return self._files.read_and_close(key, fd, size, byte_range, condition)
        # Opened again in the thread: if this task is cancelled, the thread may never begin and
        # the descriptor stay open, or be closed under its feet.
        os.close(fd)
        return await in_thread(self._files.read, key, byte_range, condition)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and the version that it is."""
        data = await self.get(key)
        return data, await self._version(data)

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        return self._files.head(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``."""
        found = self._files.walk(prefix)
        batch = list(islice(found, _LISTED_AT_ONCE))
        while batch:
            for info in batch:
                yield info
            if len(batch) < _LISTED_AT_ONCE:
                return
            batch = await in_thread(list, islice(found, _LISTED_AT_ONCE))

    # ---------------------------------------------------------------- writing

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002 (files carry none)
        content_type: str | None = None,  # noqa: ARG002
    ) -> None:
        """Write an object whole."""
        if len(data) < LARGE_BYTES:
            self._files.put(key, data)
        else:
            await in_thread(self._files.put, key, data)

    async def put_copy(
        self,
        key: str,
        data: bytes,
        of: str,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object with the content that another one had when it was read."""
        if not self._files.link(key, of, len(data)):
            await self.put(key, data, metadata=metadata)

    async def put_if_absent(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> Version:
        """Create an object, unless there is one."""
        if len(data) < LARGE_BYTES:
            self._files.create(key, data)
        else:
            await in_thread(self._files.create, key, data)
        return await self._version(data)

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
        if len(data) < LARGE_BYTES:
            self._files.update(key, data, version)
        else:
            await in_thread(self._files.update, key, data, version)
        return await self._version(data)

    async def extend(self, key: str, offset: int, data: bytes | memoryview) -> None:
        """Write bytes into an object, from an offset that nobody wrote yet."""
        if len(data) < LARGE_BYTES:
            self._files.extend(key, offset, data)
        else:
            await in_thread(self._files.extend, key, offset, data)

    def line(self, name: str) -> Line:
        """Return a place in the line in which writers wait for ``name``."""
        return self._files.line(name)

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""
        if len(keys) <= _DELETED_AT_ONCE:
            self._files.delete(keys)
        else:
            await in_thread(self._files.delete, keys)

    async def _version(self, data: bytes | memoryview) -> Version:
        find = self._files.versions.find
        return find(data) if len(data) < LARGE_BYTES else await in_thread(find, data)

    # ---------------------------------------------------------------- about itself

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, as the specification's table has them."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(
                max_concurrent_requests_for_object=5, ideal_concurrent_request_size=4096
            ),
            retries=StorageRetriesSettings(max_tries=1, initial_backoff_ms=0, max_backoff_ms=0),
            unsafe_use_conditional_update=False,
            unsafe_use_metadata=False,
        )

    @property
    def description(self) -> str:
        """Return ``local:`` and the path."""
        return self._files.description

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "local filesystem"
        yield "path", self._files.root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LocalStorage) and self._files.root == other._files.root

    def __hash__(self) -> int:
        return hash(self._files.root)


def _reopen(root: str, pack_bytes: int, settings: StorageSettings | None) -> LocalStorage:
    storage = LocalStorage(root, pack_bytes)
    return storage if settings is None else storage.with_settings(settings)
