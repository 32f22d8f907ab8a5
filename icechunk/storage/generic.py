"""Objects in any file system that fsspec knows.

fsspec has no conditional update and cannot say which version was read, so this backend serves
reading, and writing by a single process. S3 has a backend of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final

from icechunk._display import scrubbed
from icechunk._io.limits import Limiter, gather_limited
from icechunk.errors import ErrorKind, IcechunkError, StorageError
from icechunk.storage._fsspec_calls import FileSystem
from icechunk.storage.base import Storage, Version
from icechunk.storage.objects import (
    ByteRange,
    LostRaceError,
    ObjectInfo,
    ReadCondition,
    check_key,
    check_readable,
    object_not_found,
    range_beyond_end,
)
from icechunk.storage.retry import backoff_of, in_time
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

# Where fsspec's "create" mode is one conditional request; elsewhere it looks first, then writes.
_CREATE_ATOMICALLY: Final = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
_DELETES_IN_PARALLEL: Final = 32
_PATTERN: Final = frozenset("*?[")
_TIMES: Final = (
    "mtime", "LastModified", "last_modified", "updated", "modified", "modify", "created"
)  # fmt: skip
_FTP_TIME: Final = re.compile(r"^(\d{8})(\d{6})")
_TAGS: Final = ("ETag", "etag")

# Makes looking and writing one step for all storages of this process; also across its loops.
_one_writer: Final = Limiter(1)


class FsspecStorage(Storage):
    """Objects in a file system that fsspec knows.

    Parameters
    ----------
    url : str
        Of the root, such as ``gs://bucket/prefix``; may be chained.
    options : mapping
        For the file system's constructor.
    single_writer : bool
        The caller promises that no other process writes at the same time.

    Notes
    -----
    Conditional create: by the service for S3, Google Cloud Storage and Azure. Conditional update:
    never by the service. Where the service does not help, conditional writes are refused without
    ``single_writer``, and with it are serialised among the threads of this process. Whether a
    write can be seen half done depends on the file system.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset({"write", "list"})

    def __init__(self, url: str, options: Mapping[str, Any], *, single_writer: bool) -> None:
        self._url = url
        self._options = dict(options)
        self._single_writer = single_writer
        self._filesystem = FileSystem(url, self._options)
        self._root = self._filesystem.root.rstrip("/")
        self._creates_atomically = bool(self._filesystem.protocols & _CREATE_ATOMICALLY)

    @classmethod
    def create(
        cls, url: str, *, single_writer: bool = False, options: Mapping[str, Any] | None = None
    ) -> FsspecStorage:
        """Return the storage at ``url``; see `fsspec_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``cannot-parse-url``; no such protocol, or its library is not installed.
        StorageError
            A file system that connects at once, as ``ftp`` and ``sftp``, could not.
        """
        return cls(url, options or {}, single_writer=single_writer)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_reopen, (*self._recipe(), self._settings))

    def __copy__(self) -> FsspecStorage:
        twin = object.__new__(type(self))  # not by the recipe, which would connect once more
        twin.__dict__.update(self.__dict__)
        return twin

    def _recipe(self) -> tuple[str, dict[str, Any], bool]:
        return (self._url, self._options, self._single_writer)

    async def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of the file system; errors come as they are."""
        async with in_time(self.settings, self.description), self._gate:
            return await self._filesystem.call(
                backoff_of(self.settings), method, *arguments, **options
            )

    @contextlib.contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except IcechunkError:
            raise
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise object_not_found(key, self.description) from error
        except FileExistsError as error:
            raise LostRaceError(key) from error
        except Exception as error:  # the libraries behind fsspec have no common base
            raise StorageError(
                f"cannot {verb} {key!r} in {self.description}: {type(error).__name__}: {error}"
            ) from error

    def _readable_path(self, key: str) -> str:
        check_readable(key)
        return f"{self._root}/{key}"

    def _path(self, key: str) -> str:
        check_key(key)
        return f"{self._root}/{key}"

    # ---------------------------------------------------------------- reading

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        if condition is None:
            return await self._read(key, byte_range)
        # There is no conditional read, but what has not changed when the reading is over had not
        # changed before; and what is no longer there need not be explained as a short object.
        try:
            data = await self._read(key, byte_range)
        except StorageError:
            await self._check(key, condition)
            raise
        await self._check(key, condition)
        return data

    async def _check(self, key: str, condition: ReadCondition) -> None:
        info = await self._info(key)
        etag = next((str(info[name]) for name in _TAGS if info.get(name)), None)
        modified_us = _modified_us(info)
        condition.check(key, self.description, etag=etag, last_modified_us=modified_us)

    async def _read(self, key: str, byte_range: ByteRange | None) -> bytes:
        path = self._readable_path(key)
        start, stop = (None, None) if byte_range is None else (byte_range.start, byte_range.stop)
        if start == stop and start is not None:
            return b""
        try:
            with self._translated("read", key):
                data: bytes = await self._call("cat_file", path, start=start, end=stop)
        except StorageError as error:
            if error.kind == ErrorKind.OBJECT_NOT_FOUND:
                raise
            if byte_range is not None:
                await self._check_reach(key, byte_range)
            elif await self._is_folder(path):  # not every library says so
                raise object_not_found(key, self.description) from error
            raise
        if byte_range is not None and len(data) != byte_range.stop - byte_range.start:
            await self._check_reach(key, byte_range)
            raise StorageError(f"{self.description} sent {len(data)} bytes for {byte_range}")
        return data

    async def _is_folder(self, path: str) -> bool:
        try:
            info = await self._call("info", path)
        except Exception:  # noqa: BLE001 (the error that led here says more)
            return False
        return bool(info["type"] == "directory")

    async def _check_reach(self, key: str, byte_range: ByteRange) -> None:
        size_bytes = (await self.head(key)).size_bytes
        if byte_range.stop > size_bytes:
            raise range_beyond_end(key, self.description, byte_range, size_bytes)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object, and its hash as the version."""
        data = await self.get(key)
        return data, _version(data)

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        info = await self._info(key)
        return ObjectInfo(
            key=key, size_bytes=int(info["size"] or 0), last_modified_us=_modified_us(info)
        )

    async def _info(self, key: str) -> Mapping[str, Any]:
        path = self._readable_path(key)
        with self._translated("read", key):
            self._filesystem.forget()
            info: Mapping[str, Any] = await self._call("info", path)
        if info.get("type") == "directory":
            raise object_not_found(key, self.description)
        return info

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``."""
        folder = prefix.rpartition("/")[0]
        try:
            with self._translated("list", prefix):
                self._filesystem.forget()
                where = self._path(folder) if folder else self._root
                found = await self._call("find", where, detail=True)
        except StorageError as error:
            if error.kind == ErrorKind.OBJECT_NOT_FOUND:
                return
            raise
        for path, info in found.items():
            key = path.removeprefix(self._root).lstrip("/")
            if not key.startswith(prefix) or key.endswith("/") or not key:
                continue
            yield ObjectInfo(
                key=key, size_bytes=int(info["size"] or 0), last_modified_us=_modified_us(info)
            )

    # ---------------------------------------------------------------- writing

    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002 (fsspec has no common way)
        content_type: str | None = None,  # noqa: ARG002
    ) -> None:
        """Write an object."""
        with self._translated("write", key):
            await self._pipe(self._path(key), bytes(data))

    async def _pipe(self, path: str, data: bytes, **options: Any) -> None:
        try:
            await self._call("pipe_file", path, data, **options)
        except (FileExistsError, PermissionError):
            raise
        except Exception as error:  # where there are real directories; they have no common base
            if self._creates_atomically:
                raise
            folder = path.rpartition("/")[0]
            if isinstance(error, FileNotFoundError) or not await self._exists(folder):
                with contextlib.suppress(Exception):  # somebody else may be making it as well
                    await self._call("makedirs", folder, exist_ok=True)
            await self._call("pipe_file", path, data, **options)

    async def _exists(self, path: str) -> bool:
        """Tell whether something is there; fsspec's own ``exists`` takes any error for a no."""
        self._filesystem.forget()
        try:
            await self._call("info", path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    async def put_if_absent(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> Version:
        """Create an object, unless there is one."""
        path, content = self._path(key), bytes(data)
        if self._creates_atomically:
            with self._translated("write", key):
                await self._pipe(path, content, mode="create")
            return _version(content)
        self._require_single_writer("create", key)
        async with _one_writer:
            with self._translated("write", key):
                if await self._exists(path):
                    raise LostRaceError(key)
                await self._pipe(path, content)
        return _version(content)

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
        path, content = self._path(key), bytes(data)
        self._require_single_writer("update", key)
        async with _one_writer:
            try:
                current = await self.get(key)
            except StorageError as error:
                if error.kind == ErrorKind.OBJECT_NOT_FOUND:
                    raise LostRaceError(key) from error
                raise
            if _version(current) != version:
                raise LostRaceError(key)
            with self._translated("write", key):
                await self._pipe(path, content)
        return _version(content)

    def check_creatable(self) -> None:
        """Refuse a place where commits of several processes could overwrite each other."""
        self._require_single_writer("update", "repo")

    def _require_single_writer(self, verb: str, key: str) -> None:
        if not self._single_writer:
            raise StorageError(
                f"{self.description} cannot {verb} {key!r} conditionally through fsspec, so "
                "commits of several processes could overwrite each other. If only one process "
                "ever writes this repository at a time, pass single_writer=True",
                ErrorKind.STORAGE_CONFIG,
            )

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted."""
        paths = [self._path(key) for key in keys]

        async def delete(path: str) -> None:
            try:
                await self._call("rm_file", path)
            except FileNotFoundError:
                return
            except Exception:
                if await self._exists(path):
                    raise

        with self._translated("delete", keys[0] if keys else ""):
            # In bulk where that may be one request, but "rm" takes some characters for patterns.
            bulk = self._filesystem.is_async and len(paths) > 1
            if bulk and not any(_PATTERN.intersection(path) for path in paths):
                with contextlib.suppress(FileNotFoundError):
                    await self._call("rm", paths)
                    return
            await gather_limited(_DELETES_IN_PARALLEL, (delete(path) for path in paths))

    # ---------------------------------------------------------------- about itself

    def default_settings(self) -> StorageSettings:
        """Return this backend's settings: as for buckets, without metadata."""
        return StorageSettings(
            concurrency=StorageConcurrencySettings(),
            retries=StorageRetriesSettings(),
            unsafe_use_conditional_create=self._creates_atomically,
            unsafe_use_conditional_update=False,
            unsafe_use_metadata=False,
        )

    @property
    def description(self) -> str:
        """Return the URL, without a password in it."""
        return scrubbed(self._url)

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield "type", "fsspec"
        yield "url", self.description
        yield "conditional_create", self._creates_atomically or self._single_writer
        yield "conditional_update", self._single_writer
        yield "single_writer", self._single_writer

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FsspecStorage) and self._recipe() == other._recipe()

    def __hash__(self) -> int:
        return hash(self._url)


def _reopen(
    url: str, options: Mapping[str, Any], single_writer: bool, settings: StorageSettings | None
) -> FsspecStorage:
    storage = FsspecStorage(url, options, single_writer=single_writer)
    return storage if settings is None else storage.with_settings(settings)


def _version(data: bytes) -> Version:
    return Version(hashlib.blake2b(data, digest_size=16).hexdigest())


def _modified_us(info: Mapping[str, Any]) -> int:
    """Return when an object was written; now, if nobody knows, so that it never looks old."""
    for name in _TIMES:
        when = info.get(name)
        if isinstance(when, str):
            with contextlib.suppress(ValueError):
                when = datetime.fromisoformat(_FTP_TIME.sub(r"\1T\2", when))
        if isinstance(when, datetime):
            when = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
        if isinstance(when, int | float):
            return round(when * 1e6)
    return time.time_ns() // 1000
