"""What requests to an object store have in common, whichever library makes them."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from icechunk._io.limits import Limiter, gather_limited
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange, ObjectInfo
from icechunk.storage.retry import Backoff, Found, backoff_of, put_conditionally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from icechunk.storage.objects import ReadCondition
    from icechunk.storage_settings import StorageSettings

WRITE_ID: Final = "icechunkwriteid"
AFTER: Final = "after:"
"""Begins a listing token that is the last key seen, which either library can go on from."""
SMALLEST_PART_BYTES: Final = 5 << 20
_MOST_PARTS: Final = 10_000
_CHUNKS: Final = "chunks/"
_NO_GATE: Final = Limiter(1 << 30)


class ExpiredCredentialsError(StorageError):
    """The service takes the credentials for expired: nothing was done, new ones may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a store says about one object.

    Parameters
    ----------
    size_bytes, last_modified_us : int
        As in `ObjectInfo`.
    version : Version
        What conditional writes compare.
    write_id : str or None
        Left by a conditional write of this package.
    """

    size_bytes: int
    last_modified_us: int
    version: Version
    write_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing.

    Parameters
    ----------
    infos : tuple of ObjectInfo
        Keys are relative to the root of the repository.
    token : str or None
        What to ask for the next page with; None at the end.
    """

    infos: tuple[ObjectInfo, ...]
    token: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectReads(ABC):
    """What can be read from a place, with a client and settings.

    Parameters
    ----------
    settings : StorageSettings
        In force: every field that has a default is set.
    root : str
        What every key starts with.
    gate : Limiter
        How much may be under way at once; whoever calls a method here is inside once.
    """

    settings: StorageSettings
    root: str
    gate: Limiter = _NO_GATE

    @abstractmethod
    async def download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> tuple[bytes, Version]:
        """Return an object or one range of it, in one request, and its version."""

    @abstractmethod
    async def head(self, key: str) -> Head:
        """Return what the store says about an object."""

    async def download_range(
        self, key: str, whole: ByteRange, condition: ReadCondition | None
    ) -> bytes:
        """Return a range, in parallel requests if it is large."""
        most, ideal_bytes = self._concurrency()
        size = whole.stop - whole.start
        step = -(-size // min(most, -(-size // ideal_bytes)))
        ranges = [
            ByteRange(start=start, stop=min(start + step, whole.stop))
            for start in range(whole.start, whole.stop, step)
        ]
        with self.gate.as_free(min(most, len(ranges))) as most:
            parts = await gather_limited(
                most, (self.download(key, part, condition) for part in ranges)
            )
        return b"".join(part[0] for part in parts) if len(parts) > 1 else parts[0][0]

    def _concurrency(self) -> tuple[int, int]:
        """Return how many requests one object may take at once, and their ideal size in bytes."""
        concurrency = self.settings.concurrency
        assert concurrency is not None
        return (
            concurrency.max_concurrent_requests_for_object or 1,
            concurrency.ideal_concurrent_request_size or 1,
        )

    def _backoff(self) -> Backoff:
        return backoff_of(self.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectRequests(ObjectReads):
    """What can be asked of a place in an object store, with a client and settings."""

    @abstractmethod
    async def list_page(self, prefix: str, token: str | None, most: int) -> Page:
        """Return one page of a listing, of at most ``most`` objects."""

    @abstractmethod
    async def upload(
        self,
        key: str,
        data: bytes | memoryview,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> None:
        """Write an object whole, in parts if it is large."""

    @abstractmethod
    async def attempt(
        self,
        key: str,
        body: bytes,
        expected: Version | None,
        metadata: Mapping[str, str],
        content_type: str | None,
    ) -> Version:
        """Make one conditional write.

        Raises
        ------
        AmbiguousError
            It may have taken place, or is worth another attempt.
        StorageError
            It certainly did not take place, and will not.
        """

    @abstractmethod
    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects."""

    # ---------------------------------------------------------------- made of these

    async def put_if(
        self,
        key: str,
        data: bytes | memoryview,
        expected: Version | None,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> Version:
        """Write an object if it is ``expected``, or if there is none; see `put_conditionally`."""
        write_id = secrets.token_hex(12)
        marked: dict[str, str] = {}
        if self.settings.unsafe_use_metadata:
            marked = {**(metadata or {}), WRITE_ID: write_id}
        body = bytes(data)

        async def read_back() -> Found:
            try:
                found = await self.head(key)
            except StorageError as error:
                if error.kind == ErrorKind.OBJECT_NOT_FOUND:
                    return Found(version=None, write_id=None)
                raise
            return Found(version=found.version, write_id=found.write_id)

        return await put_conditionally(
            key,
            expected=expected,
            write_id=write_id,
            attempt=lambda: self.attempt(key, body, expected, marked, content_type),
            read_back=read_back,
            backoff=self._backoff(),
        )

    # ---------------------------------------------------------------- what the settings say

    def _is_conditional(self, expected: Version | None) -> bool:
        settings = self.settings
        return bool(
            settings.unsafe_use_conditional_create
            if expected is None
            else settings.unsafe_use_conditional_update
        )

    def _goes_in_parts(self, size_bytes: int) -> bool:
        least = self.settings.minimum_size_for_multipart_upload
        return least is not None and size_bytes >= max(least, 1)

    def _part_bytes(self, size_bytes: int) -> int:
        return max(self._concurrency()[1], SMALLEST_PART_BYTES, -(-size_bytes // _MOST_PARTS))

    def _storage_class(self, key: str) -> str | None:
        settings = self.settings
        special = (
            settings.chunks_storage_class
            if key.startswith(_CHUNKS)
            else settings.metadata_storage_class
        )
        return special or settings.storage_class

    async def _is_there(self, key: str, size_bytes: int) -> bool:
        """Tell whether an upload in parts took place although its end was reported as failed.

        When the reply to the last request is lost, repeating it finds no upload any more.
        """
        try:
            return (await self.head(key)).size_bytes == size_bytes
        except StorageError:
            return False


def microseconds(when: datetime) -> int:
    """Return a time of a reply in microseconds since the Unix epoch."""
    return round(when.timestamp() * 1e6)


def listed_info(root: str, key: str, size_bytes: int, when: datetime) -> ObjectInfo | None:
    """Return a line of a listing, or None for the folders that some tools make objects for."""
    relative = key[len(root) :]
    if not relative or relative.endswith("/"):
        return None
    return ObjectInfo(key=relative, size_bytes=size_bytes, last_modified_us=microseconds(when))


def version_of(etag: str | None) -> Version:
    """Return the version that an entity tag stands for.

    Raises
    ------
    StorageError
        Kind ``storage-config``; the service sends none.
    """
    if not etag:
        raise StorageError(
            "the service sent no ETag, without which commits cannot be told apart",
            ErrorKind.STORAGE_CONFIG,
        )
    return Version(etag)
