"""Storages that are only for reading."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, NoReturn

from icechunk.errors import ErrorKind, ReadOnlyError
from icechunk.storage.base import Storage, Version

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from icechunk.storage.objects import ByteRange, ObjectInfo, ReadCondition
    from icechunk.storage_settings import StorageSettings


class ReadOnlyStorage(Storage):
    """What storages that are only for reading do when asked to write."""

    def check_creatable(self) -> None:
        """Refuse to create a repository."""
        self._refuse("create a repository in")

    def _refuse(self, verb: str) -> NoReturn:
        raise ReadOnlyError(
            f"cannot {verb} {self.description}: this storage is read-only",
            ErrorKind.READ_ONLY_STORAGE,
        )

    async def put(
        self,
        key: str,
        data: bytes | memoryview,  # noqa: ARG002
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> None:
        """Refuse to write."""
        self._refuse(f"write {key!r} in")

    async def put_if_absent(
        self,
        key: str,
        data: bytes | memoryview,  # noqa: ARG002
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> Version:
        """Refuse to write."""
        self._refuse(f"write {key!r} in")

    async def put_if_unchanged(
        self,
        key: str,
        data: bytes | memoryview,  # noqa: ARG002
        version: Version,  # noqa: ARG002
        *,
        metadata: Mapping[str, str] | None = None,  # noqa: ARG002
        content_type: str | None = None,  # noqa: ARG002
    ) -> Version:
        """Refuse to write."""
        self._refuse(f"write {key!r} in")

    async def delete_many(self, keys: Sequence[str]) -> None:
        """Refuse to delete."""
        if keys:
            self._refuse(f"delete {keys[0]!r} from")


class ReadOnlyView(ReadOnlyStorage):
    """Another storage, for reading."""

    @abstractmethod
    async def _target(self) -> Storage:
        """Return the other storage, with the settings of this one."""

    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it."""
        return await (await self._target()).get(key, byte_range, condition=condition)

    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and the version that it is."""
        return await (await self._target()).get_versioned(key)

    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        return await (await self._target()).head(key)

    async def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``."""
        async for info in (await self._target()).list(prefix):
            yield info


class FixedView(ReadOnlyView):
    """A given storage, for reading.

    Parameters
    ----------
    inner : Storage
        Where the objects are.
    """

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.immediate = inner.immediate

    def __reduce__(self) -> tuple[Any, ...]:
        return (FixedView, (self._inner,))

    def with_settings(self, settings: StorageSettings) -> FixedView:
        """Return the same place, used with other settings."""
        return FixedView(self._inner.with_settings(settings))

    def with_request_limit(self, limit: int) -> FixedView:
        """Return the same place, asked at most so many things at once."""
        return FixedView(self._inner.with_request_limit(limit))

    @property
    def settings(self) -> StorageSettings:
        """Return what is in force."""
        return self._inner.settings

    async def _target(self) -> Storage:
        return self._inner

    def default_settings(self) -> StorageSettings:
        """Return the settings of the given storage."""
        return self._inner.default_settings()

    @property
    def description(self) -> str:
        """Return the description of the given storage."""
        return self._inner.description

    def _fields(self) -> Iterator[tuple[str, object]]:
        yield from self._inner._fields()
        yield "read_only", True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedView) and self._inner == other._inner

    def __hash__(self) -> int:
        return hash(self._inner)
