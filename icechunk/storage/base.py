"""The contract of a storage backend: bytes at keys, conditional writes, listing.

A storage knows nothing of the format. Keys are relative to the root of one repository (`repo`,
`snapshots/<ID>`; specification section 1), with ``/`` between their parts. Nothing here relies on
a listing being up to date.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Final, NewType, Self

from icechunk._display import Block, Shown, plain_fields
from icechunk._io import loop
from icechunk._io.limits import Limiter
from icechunk._io.registry import Registry
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._constructors import StorageConstructors
from icechunk.storage._line import Line
from icechunk.storage.objects import ObjectInfo, StorageObjectInfo, moment_of
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
)

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence

    from icechunk.storage.objects import ByteRange, ReadCondition


Version = NewType("Version", str)
"""Opaque token of one version of one object, compared for equality by its own backend only."""

CAPABILITIES: Final = (
    "write",
    "conditional create",
    "conditional update",
    "list",
    "metadata",
    "parts",
    "extend",
)
"""Conditional writes count if they hold against everybody who can reach the place."""

_NO_LIMIT: Final = 1 << 30
_GATES_KEPT: Final = 64
_gates: Final[Registry[tuple[Storage, int], Limiter]] = Registry(_GATES_KEPT)


_UNSET_MEANS = StorageSettings(
    concurrency=StorageConcurrencySettings(
        max_concurrent_requests_for_object=18, ideal_concurrent_request_size=12_582_912
    ),
    retries=StorageRetriesSettings(max_tries=10, initial_backoff_ms=100, max_backoff_ms=180_000),
    unsafe_use_conditional_create=True,
    unsafe_use_conditional_update=True,
    unsafe_use_metadata=True,
    minimum_size_for_multipart_upload=104_857_600,
)


class Storage(Block, StorageConstructors, ABC):
    """Where one repository's objects are kept.

    Made by `in_memory_storage`, `local_filesystem_storage`, `s3_storage`, `fsspec_storage` and
    their like, not by calling a class. Pickles as a recipe: where the objects are and how to get
    at them, never a connection.

    Notes
    -----
    Concurrency: one storage may be used from any number of threads and event loops at once.
    Conditional writes are atomic among all users of the place that the backend can reach: threads
    for memory, processes of the machine for local files, everybody for object stores.
    """

    immediate: bool = False
    """True when the asynchronous methods do not suspend for objects below 1 MiB, and never do when
    driven by `icechunk._io.loop.run_now`."""

    capabilities: ClassVar[frozenset[str]] = frozenset()
    """What of `CAPABILITIES` the backend has; docs/reference/storage.md has the table."""

    pack_bytes: int = 0
    """How large an object may grow that small chunks share; 0 where each is an object."""

    _settings: StorageSettings | None = None
    _effective: StorageSettings | None = None
    _gate: Limiter = Limiter(_NO_LIMIT)

    # ---------------------------------------------------------------- the contract

    @abstractmethod
    async def get(
        self,
        key: str,
        byte_range: ByteRange | None = None,
        *,
        condition: ReadCondition | None = None,
    ) -> bytes:
        """Return the content of an object, or exactly one range of it.

        Parameters
        ----------
        key : str
            The object.
        byte_range : ByteRange or None
            Which of its bytes; all when omitted.
        condition : ReadCondition or None
            What the object must be, at the moment of reading.

        Raises
        ------
        ObjectChangedError
            It is not what ``condition`` says.
        StorageError
            Kind ``object-not-found`` when there is none, ``invalid-object-size`` when it ends
            before ``byte_range.stop``, ``io`` or ``object-store`` for everything else.
        """

    @abstractmethod
    async def get_versioned(self, key: str) -> tuple[bytes, Version]:
        """Return the content of an object and the version that it is.

        Raises
        ------
        StorageError
            As `get`.
        """

    @abstractmethod
    async def put(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> None:
        """Write an object whole: readers see the old content or the new, never a part.

        Parameters
        ----------
        key : str
            Usually with a random id in it, so that nobody else writes it.
        data : bytes or memoryview
            The content.
        metadata : mapping of str to str, optional
            Kept beside the object where the backend can (specification section 1.1).
        content_type : str, optional
            Media type, likewise.

        Raises
        ------
        StorageError
            The object was not written, or not certainly; the message says what to do.
        """

    async def put_copy(
        self,
        key: str,
        data: bytes,
        of: str,  # noqa: ARG002
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Write an object with the content that another one had when it was read.

        Parameters
        ----------
        key : str
            The object, which is not there yet.
        data : bytes
            The content.
        of : str
            The other one, where a copy of it costs less than writing. If that has changed since,
            the copy may be of what it is now.
        metadata : mapping of str to str, optional
            As for `put`.

        Raises
        ------
        StorageError
            As `put`.
        """
        await self.put(key, data, metadata=metadata)

    @abstractmethod
    async def put_if_absent(
        self,
        key: str,
        data: bytes | memoryview,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Version:
        """Create an object, unless there is one.

        Returns
        -------
        Version
            Of the new object.

        Raises
        ------
        LostRaceError
            There is an object of that key.
        UnknownOutcomeError
            The reply was lost and reading back did not settle the matter.
        StorageError
            The write certainly failed.
        """

    @abstractmethod
    async def put_if_unchanged(
        self,
        key: str,
        data: bytes | memoryview,
        version: Version,
        *,
        metadata: Mapping[str, str] | None = None,
        content_type: str | None = None,
    ) -> Version:
        """Replace an object, if it is still the version that was read.

        Returns
        -------
        Version
            Of the new content.

        Raises
        ------
        LostRaceError
            The object is another version by now, or gone.
        UnknownOutcomeError
            The reply was lost and reading back did not settle the matter.
        StorageError
            The write certainly failed.
        """

    async def extend(
        self,
        key: str,  # noqa: ARG002
        offset: int,  # noqa: ARG002
        data: bytes | memoryview,  # noqa: ARG002
    ) -> None:
        """Write bytes into an object, from an offset that nobody wrote yet.

        Only where the backend has the capability ``extend``; ``pack_bytes`` is 0 elsewhere.

        Parameters
        ----------
        key : str
            An object that is there.
        offset : int
            Where the bytes go; between them and what is there may be a gap. Unit: bytes.
        data : bytes or memoryview
            What to write. What the object held stays readable all the while.

        Raises
        ------
        StorageError
            Kind ``object-not-found``, or what went wrong; then the bytes from ``offset`` on are
            any.
        """
        raise StorageError(
            f"objects in {self.description} are written whole", ErrorKind.STORAGE_CONFIG
        )

    @abstractmethod
    def list(self, prefix: str) -> AsyncIterator[ObjectInfo]:
        """List the objects whose key starts with ``prefix``, in no promised order.

        Objects written or deleted meanwhile may or may not be among them.
        """

    @abstractmethod
    async def delete_many(self, keys: Sequence[str]) -> None:
        """Delete objects; those that are not there count as deleted.

        Raises
        ------
        StorageError
            Some may have been deleted, at least one was not.
        """

    @abstractmethod
    async def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object.

        Raises
        ------
        StorageError
            As `get`.
        """

    def line(self, name: str) -> Line:  # noqa: ARG002
        """Return a place in the line in which writers wait for ``name``, such as a branch.

        Most backends have none, so nobody ever waits in it.
        """
        return Line(None, "")

    async def is_clean(self) -> bool:
        """Tell whether there is no object at all at the root."""
        async for _ in self.list(""):
            return False
        return True

    @abstractmethod
    def default_settings(self) -> StorageSettings:
        """Return this backend's settings, before a user or a repository changes any.

        Source: specification section 6.
        """

    # ---------------------------------------------------------------- shared by all

    def with_settings(self, settings: StorageSettings) -> Self:
        """Return the same place, used with other settings.

        Parameters
        ----------
        settings : StorageSettings
            Copied. Fields that are None take the backend's default.
        """
        twin = copy.copy(self)
        twin._settings, twin._effective = copy.deepcopy(settings), None  # noqa: SLF001 (a copy)
        twin._gate = self._gate  # noqa: SLF001
        return twin

    def with_request_limit(self, limit: int) -> Self:
        """Return the same place, asked at most so many things at once.

        Parameters
        ----------
        limit : int
            Requests under way in this process, over all storages of this place with this limit;
            at least 1. Storages that answer at once make no requests.
        """
        if self.immediate:
            return self
        twin = copy.copy(self)
        twin._gate = _gates.get((self, limit), lambda: Limiter(limit))  # noqa: SLF001
        return twin

    @property
    def settings(self) -> StorageSettings:
        """Return what is in force: the defaults, and over them what was set."""
        if self._effective is None:
            default = _UNSET_MEANS.merge(self.default_settings())
            self._effective = default if self._settings is None else default.merge(self._settings)
        return self._effective

    def check_creatable(self) -> None:
        """Refuse a place where no repository may be created.

        Raises
        ------
        InvalidInputError
            Kind ``empty-prefix-creation``; the root of a bucket.
        """

    @property
    @abstractmethod
    def description(self) -> str:
        """Return the place in one line, without secrets, for messages."""

    @abstractmethod
    def _fields(self) -> Iterator[tuple[str, object]]:
        """Yield the lines of the text form: name and value, ``type`` first, no secrets."""

    def _shown_block(self) -> tuple[str, builtins.list[Shown]]:
        return "icechunk.Storage", plain_fields(**dict(self._fields()))

    # ---------------------------------------------------------------- official surface

    def list_objects(
        self, settings: StorageSettings | None = None, prefix: str | None = None
    ) -> builtins.list[tuple[str, int]]:
        """List objects, blocking.

        Parameters
        ----------
        settings : StorageSettings, optional
            Used for this call in place of the storage's own.
        prefix : str, optional
            A folder, such as ``"snapshots"``; everything when omitted.

        Returns
        -------
        list of (str, int)
            Key relative to ``prefix``, and size in bytes, sorted by key.

        Raises
        ------
        StorageError
            The listing failed.
        """
        return [(info.key, info.size_bytes) for info in self._listed(settings, prefix)]

    def list_objects_metadata(
        self, settings: StorageSettings | None = None, prefix: str | None = None
    ) -> builtins.list[StorageObjectInfo]:
        """List objects with their times, blocking; parameters as `list_objects`.

        Returns
        -------
        list of StorageObjectInfo
            Sorted by key.

        Raises
        ------
        StorageError
            The listing failed.
        """
        return [
            StorageObjectInfo(
                key=info.key,
                size_bytes=info.size_bytes,
                created_at=moment_of(info.last_modified_us),
            )
            for info in self._listed(settings, prefix)
        ]

    def _listed(
        self, settings: StorageSettings | None, prefix: str | None
    ) -> builtins.list[ObjectInfo]:
        storage = self if settings is None else self.with_settings(settings)
        folder = (prefix or "").strip("/")
        folder = f"{folder}/" if folder else ""

        async def collect() -> builtins.list[ObjectInfo]:
            return [
                ObjectInfo(
                    key=info.key[len(folder) :],
                    size_bytes=info.size_bytes,
                    last_modified_us=info.last_modified_us,
                )
                async for info in storage.list(folder)
            ]

        infos = loop.run_either(collect(), immediate=self.immediate)
        return sorted(infos, key=lambda info: info.key)
