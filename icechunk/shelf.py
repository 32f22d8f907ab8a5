"""Change sets kept durably beside a repository, for work that outlives a process.

The keys are an extension of this package. The Icechunk specification does not know them, so other
implementations neither read nor collect them (and neither do they know which chunks they need):

``x-shelf/<shelf id>/record``
    What the shelf is for and how far that got; changed by compare-and-swap.
``x-shelf/<shelf id>/items/<name>``
    Facts, and mostly a change set with the snapshot it lies on; written once.

Each object is one MessagePack document in a zstd frame with a checksum, holds the key it was
written under, and carries values only: reading one never runs code.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from icechunk._io.limits import gather_limited
from icechunk.assets.refs import now_us, pauses
from icechunk.core.wire import decode_document, encode_document, pack_changes, unpack_changes
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    FormatError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from icechunk.ids import OBJECT_ID_BYTES, ObjectId
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from icechunk.core.changes import ChangeSet
    from icechunk.storage.base import Storage, Version
    from icechunk.storage.objects import ObjectInfo

SHELF_PREFIX: Final = "x-shelf/"
SHELF_VERSION: Final = 1

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_CONCURRENT_READS: Final = 16
_READ_AT_ONCE: Final = 256
_UPDATE_TRIES: Final = 100
_FIRST_WAIT_SECONDS: Final = 0.01
_LONGEST_WAIT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfRecord:
    """What a shelf is for, and how far that got.

    Parameters
    ----------
    shelf_id : str
        Its name: letters, digits, ``_`` and ``-``.
    kind : str
        Who keeps it, such as ``ingest``.
    created_at_us, updated_at_us : int
        By the clock of the process that wrote it; microseconds since the Unix epoch.
    expires_at_us : int or None
        From when on its chunks count as garbage; None for never.
    facts : mapping
        Numbers, text, bytes, lists and mappings; whatever its keeper needs to go on.
    """

    shelf_id: str
    kind: str
    created_at_us: int = field(default_factory=now_us)
    updated_at_us: int = field(default_factory=now_us)
    expires_at_us: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def is_live(self, at_us: int) -> bool:
        """Say whether the shelf is in use at a time."""
        return self.expires_at_us is None or at_us < self.expires_at_us


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfItem:
    """Something put on a shelf once.

    Parameters
    ----------
    name : str
        Letters, digits, ``_`` and ``-``.
    facts : mapping
        As in `ShelfRecord`.
    base : ObjectId or None
        Snapshot the changes lie on.
    changes : ChangeSet or None
        What was changed; its native chunks are in the repository already.
    """

    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    base: ObjectId | None = None
    changes: ChangeSet | None = None


class Shelf:
    """Reads and writes the shelves of one repository.

    Parameters
    ----------
    storage : Storage
        Of the repository.

    Notes
    -----
    Concurrency: any number of processes may use one shelf. An item is put once, and whoever comes
    second is told so; a record changes by compare-and-swap.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    # -- records ------------------------------------------------------------------------------

    async def create(self, record: ShelfRecord) -> None:
        """Begin a shelf.

        Raises
        ------
        AlreadyExistsError
            Kind ``not-allowed``; there is one of that id.
        InvalidInputError
            Kind ``invalid-key``; the id is no name for one.
        """
        key = record_key(record.shelf_id)
        if not await self._put_once(key, _record_bytes(key, record)):
            raise AlreadyExistsError(
                f"there is a {record.kind} {record.shelf_id} already. Choose another name.",
                ErrorKind.NOT_ALLOWED,
            )

    async def record(self, shelf_id: str) -> ShelfRecord:
        """Return a shelf's record.

        Raises
        ------
        NotFoundError
            Kind ``key-not-found``; there is no such shelf.
        FormatError
            The object is damaged.
        """
        return (await self._versioned(shelf_id))[0]

    async def records(self, kind: str | None = None) -> list[ShelfRecord]:
        """Return the records of all shelves, of one kind or of any, oldest first."""
        found = []
        async for info in self._storage.list(SHELF_PREFIX):
            parts = info.key.split("/")
            if len(parts) == 3 and parts[2] == "record":
                try:
                    found.append(await self.record(parts[1]))
                except NotFoundError:
                    continue  # removed since it was listed
        wanted = [record for record in found if kind is None or record.kind == kind]
        return sorted(wanted, key=lambda record: (record.created_at_us, record.shelf_id))

    async def update(
        self, shelf_id: str, change: Callable[[ShelfRecord], ShelfRecord]
    ) -> ShelfRecord:
        """Change a record by compare-and-swap.

        Parameters
        ----------
        shelf_id : str
            Of the record.
        change : callable
            Pure; called again on the newer record when somebody else was faster. The time of the
            update is set for it.

        Raises
        ------
        NotFoundError
            Kind ``key-not-found``.
        ConflictError
            Kind ``update-attempts-exhausted``.
        """
        key = record_key(shelf_id)
        for pause in pauses(_UPDATE_TRIES, 2, _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS):
            if pause:
                await asyncio.sleep(pause)
            record, version = await self._versioned(shelf_id)
            changed = replace(change(record), updated_at_us=now_us())
            data = _record_bytes(key, changed)
            try:
                await self._storage.put_if_unchanged(key, data, version)
            except LostRaceError:
                continue
            except UnknownOutcomeError:
                if await self._storage.get(key) != data:
                    continue
            return changed
        raise ConflictError(
            f"others kept changing {key}; try again later.",
            kind=ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
        )

    async def remove(self, shelf_id: str) -> None:
        """Remove a shelf, its record last; none is no error.

        Chunks that only its items referred to are garbage from now on.
        """
        prefix = f"{SHELF_PREFIX}{_checked(shelf_id)}/items/"
        await self._storage.delete_many([info.key async for info in self._storage.list(prefix)])
        await self._storage.delete_many([record_key(shelf_id)])

    async def remove_ended(self, before_us: int) -> None:
        """Remove the shelves that ended before a time that is past; unix microseconds.

        Also items whose keeper died before it wrote the record, when all of them are older.
        """
        at = min(before_us, now_us())
        for record in await self.records():
            if not record.is_live(at):
                await self.remove(record.shelf_id)
        found: dict[str, list[ObjectInfo]] = {}
        async for info in self._storage.list(SHELF_PREFIX):
            found.setdefault(info.key.split("/")[1], []).append(info)
        for shelf_id, infos in found.items():
            keys = [info.key for info in infos]
            if f"{SHELF_PREFIX}{shelf_id}/record" not in keys and all(
                info.last_modified_us < at for info in infos
            ):
                await self._storage.delete_many(keys)

    # -- items --------------------------------------------------------------------------------

    async def put(self, shelf_id: str, item: ShelfItem) -> bool:
        """Put an item on a shelf; it is durable when this returns.

        Returns
        -------
        bool
            False when there is one of that name already; it stays as it is.
        """
        key = item_key(shelf_id, item.name)
        return await self._put_once(key, _item_bytes(key, item))

    async def item(self, shelf_id: str, name: str) -> ShelfItem:
        """Return an item.

        Raises
        ------
        NotFoundError
            Kind ``key-not-found``.
        FormatError
            The object is damaged.
        """
        key = item_key(shelf_id, name)
        try:
            data = await self._storage.get(key)
        except StorageError as e:
            raise _not_there(key, e) from e
        return _item_of(key, name, data)

    async def items(self, shelf_id: str, names: Sequence[str]) -> list[ShelfItem | None]:
        """Return several items, None for one that is not there; else raises as `item`."""

        async def read(name: str) -> ShelfItem | None:
            try:
                return await self.item(shelf_id, name)
            except NotFoundError:
                return None

        return await gather_limited(_CONCURRENT_READS, [read(name) for name in names])

    async def names(self, shelf_id: str) -> dict[str, int]:
        """Return the names of a shelf's items and their sizes; unit: bytes."""
        prefix = f"{SHELF_PREFIX}{_checked(shelf_id)}/items/"
        return {
            info.key[len(prefix) :]: info.size_bytes async for info in self._storage.list(prefix)
        }

    async def discard(self, shelf_id: str, names: Sequence[str]) -> None:
        """Remove items; those that are not there count as removed."""
        await self._storage.delete_many([item_key(shelf_id, name) for name in names])

    async def changes_in_use(self, at_us: int) -> AsyncIterator[ChangeSet]:
        """Yield every change set of every shelf in use at a time: their chunks are needed.

        Raises
        ------
        FormatError
            Something is damaged, so it is not known what it needs.
        """
        for record in await self.records():
            if not record.is_live(at_us):
                continue
            read: set[str] = set()
            complete = False
            while not complete:
                complete = True
                names = sorted((await self.names(record.shelf_id)).keys() - read)
                read.update(names)
                for start in range(0, len(names), _READ_AT_ONCE):
                    batch = names[start : start + _READ_AT_ONCE]
                    for item in await self.items(record.shelf_id, batch):
                        if item is None:  # committed, or it gave way to one not listed yet
                            complete = False
                        elif item.changes is not None:
                            yield item.changes

    # -- bytes --------------------------------------------------------------------------------

    async def _put_once(self, key: str, data: bytes) -> bool:
        try:
            await self._storage.put_if_absent(key, data)
        except LostRaceError:
            return False
        except UnknownOutcomeError:
            return await self._storage.get(key) == data
        return True

    async def _versioned(self, shelf_id: str) -> tuple[ShelfRecord, Version]:
        key = record_key(shelf_id)
        try:
            data, version = await self._storage.get_versioned(key)
        except StorageError as e:
            raise _not_there(key, e) from e
        return _record_of(key, shelf_id, data), version


def record_key(shelf_id: str) -> str:
    """Return the storage key of a record; raises as `Shelf.create` for an unusable id."""
    return f"{SHELF_PREFIX}{_checked(shelf_id)}/record"


def item_key(shelf_id: str, name: str) -> str:
    """Return the storage key of an item."""
    return f"{SHELF_PREFIX}{_checked(shelf_id)}/items/{_checked(name)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot be used as a name: up to 128 letters, digits, _ and -, the first a "
            "letter or digit.",
            ErrorKind.INVALID_KEY,
        )
    return name


def _not_there(key: str, error: StorageError) -> NotFoundError | StorageError:
    if error.kind != ErrorKind.OBJECT_NOT_FOUND:
        return error
    _, shelf_id, *rest = key.split("/")
    what = f"{shelf_id} has no {rest[-1]}" if len(rest) > 1 else f"nothing is kept as {shelf_id}"
    return NotFoundError(f"{what} beside this repository.", ErrorKind.KEY_NOT_FOUND)


def _record_bytes(key: str, record: ShelfRecord) -> bytes:
    return encode_document(
        {
            "shelf": SHELF_VERSION,
            "key": key,
            "kind": record.kind,
            "created_at_us": record.created_at_us,
            "updated_at_us": record.updated_at_us,
            "expires_at_us": record.expires_at_us,
            "facts": dict(record.facts),
        }
    )


def _record_of(key: str, shelf_id: str, data: bytes) -> ShelfRecord:
    document = _decoded(key, data)
    try:
        return ShelfRecord(
            shelf_id=shelf_id,
            kind=str(document["kind"]),
            created_at_us=int(document["created_at_us"]),
            updated_at_us=int(document["updated_at_us"]),
            expires_at_us=_optional_int(document["expires_at_us"]),
            facts=dict(document["facts"]),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise _damaged(key, repr(e)) from e


def _item_bytes(key: str, item: ShelfItem) -> bytes:
    changes = None if item.changes is None else pack_changes(item.changes)
    return encode_document(
        {
            "shelf": SHELF_VERSION,
            "key": key,
            "facts": dict(item.facts),
            "base": item.base,
            "changes": changes,
        }
    )


def _item_of(key: str, name: str, data: bytes) -> ShelfItem:
    document = _decoded(key, data)
    try:
        changes = document["changes"]
        return ShelfItem(
            name=name,
            facts=dict(document["facts"]),
            base=_optional_id(document["base"]),
            changes=None if changes is None else unpack_changes(changes),
        )
    except (KeyError, TypeError, ValueError, FormatError) as e:
        raise _damaged(key, str(e)) from e


def _decoded(key: str, data: bytes) -> dict[str, Any]:
    try:
        document = decode_document(data)
    except FormatError as e:
        raise _damaged(key, e.message) from e
    if document.get("shelf") != SHELF_VERSION:
        raise FormatError(
            f"{key} is of version {document.get('shelf')!r}, expected {SHELF_VERSION}; use the "
            "version of icechunk that wrote it.",
            ErrorKind.DESERIALIZATION,
        )
    if document.get("key") != key:
        raise _damaged(key, f"it was written as {document.get('key')!r}")
    return document


def _damaged(key: str, why: str) -> FormatError:
    return FormatError(f"{key} is damaged: {why}", ErrorKind.DESERIALIZATION)


def _optional_id(value: Any) -> ObjectId | None:
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) != OBJECT_ID_BYTES:
        raise ValueError(f"{value!r} is no snapshot id")
    return ObjectId(value)


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)
