"""The ref files of a version 1 repository as they lie in the storage.

Source: Icechunk specification, section "References in v1".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from icechunk.assets.manager import REPO_KEY, exists
from icechunk.core.history import MAIN
from icechunk.errors import (
    ErrorKind,
    FormatError,
    InvalidInputError,
    SessionStateError,
    StorageError,
)
from icechunk.ids import ObjectId, id_text, parse_object_id
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from icechunk.storage.base import Storage, Version

BRANCH: Final = "branch"
TAG: Final = "tag"

_PREFIX: Final = "refs/"
_FILE: Final = "ref.json"
_TOMBSTONE: Final = ".deleted"
# A ref is some 35 bytes; whatever is much longer is something else.
_MOST_REF_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ref:
    """A ref as it was read.

    Parameters
    ----------
    key : str
        Of the file.
    target : ObjectId
        Snapshot it points at.
    version : Version
        What a conditional write relies on.
    """

    key: str
    target: ObjectId
    version: Version


class RefFolder:
    """The ref files below one root; every question reads them anew.

    Parameters
    ----------
    storage : Storage
        Where they are.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    async def require_in_use(self) -> None:
        """Refuse to go on with refs that an upgrade took the place of.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the repository was upgraded.
        """
        if await exists(self._storage, REPO_KEY):
            raise SessionStateError(
                "the repository was upgraded to format version 2 since it was opened here. Open it "
                "again.",
                ErrorKind.NOT_ALLOWED,
            )

    async def keys(self) -> list[str]:
        """Return the keys of all ref files, that of ``main`` first."""
        found = [info.key async for info in self._storage.list(_PREFIX)]
        return sorted(found, key=lambda key: (key != ref_key(BRANCH, MAIN), key))

    async def branches(self) -> set[str]:
        """Return the names of all branches."""
        return {name for kind, name, file in await self._files() if (kind, file) == (BRANCH, _FILE)}

    async def tags(self) -> tuple[set[str], set[str]]:
        """Return the names of the tags there are, and of those that were deleted."""
        files = [(name, file) for kind, name, file in await self._files() if kind == TAG]
        deleted = {name for name, file in files if file == _FILE + _TOMBSTONE}
        return {name for name, file in files if file == _FILE} - deleted, deleted

    async def _files(self) -> list[tuple[str, str, str]]:
        """Return kind, name and file name of every ref file."""
        found = []
        for key in await self.keys():
            parts = key.split("/")
            kind, dot, name = parts[1].partition(".")
            if dot and len(parts) == 3:
                found.append((kind, _decoded(name), parts[2]))
        return found

    async def find(self, kind: str, name: str) -> Ref | None:
        """Return a ref, a deleted tag too; None when there is no file of it.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-ref-name``; the name has a ``/``.
        FormatError
            The file is damaged.
        """
        check_no_slash(name, kind)
        for key in _keys(kind, name):
            try:
                data, version = await self._storage.get_versioned(key)
            except StorageError as e:
                if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                    raise
                continue
            return Ref(key, _target(data, key), version)
        return None

    async def is_deleted(self, tag: str) -> bool:
        """Say whether a tag of the name was deleted."""
        check_no_slash(tag, TAG)
        for key in _keys(TAG, tag):
            if await exists(self._storage, key + _TOMBSTONE):
                return True
        return False

    async def create(self, kind: str, name: str, target: ObjectId) -> bool:
        """Write a ref that is not there; False when it is."""
        return await self._create(ref_key(kind, name), _content(target))

    async def mark_deleted(self, tag: Ref) -> bool:
        """Make a tag a deleted one; False when it is."""
        return await self._create(tag.key + _TOMBSTONE, b"")

    async def _create(self, key: str, data: bytes) -> bool:
        try:
            await self._storage.put_if_absent(key, data, content_type="application/json")
        except LostRaceError:
            return False
        except UnknownOutcomeError:
            return await self._storage.get(key) == data
        return True

    async def replace(self, ref: Ref, target: ObjectId) -> bool:
        """Point a ref at a snapshot; False when it changed meanwhile, or nobody knows."""
        try:
            await self._storage.put_if_unchanged(
                ref.key, _content(target), ref.version, content_type="application/json"
            )
        except (LostRaceError, UnknownOutcomeError):
            return False
        return True

    async def delete(self, ref: Ref) -> None:
        """Delete the file of a ref."""
        await self._storage.delete_many([ref.key])


def ref_key(kind: str, name: str) -> str:
    """Return the storage key of a branch or tag."""
    return f"{_PREFIX}{kind}.{name}/{_FILE}"


def _keys(kind: str, name: str) -> list[str]:
    """Return where a ref may be: other writers escape all but ASCII on some storages."""
    escaped = "".join(c if c.isascii() else quote(c) for c in name)
    return [ref_key(kind, n) for n in dict.fromkeys((name, escaped))]


def _decoded(name: str) -> str:
    """Return the name of a ref whose non-ASCII characters another writer escaped."""
    try:
        plain = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return plain if _keys("", plain)[-1] == ref_key("", name) else name


def check_no_slash(name: str, kind: str) -> None:
    """Refuse a name with a ``/``; raises `InvalidInputError`."""
    if "/" in name:
        raise InvalidInputError(
            f"not a {kind} name in format version 1: {name!r} contains '/'.",
            ErrorKind.INVALID_REF_NAME,
        )


def _content(target: ObjectId) -> bytes:
    return json.dumps({"snapshot": id_text(target)}, separators=(",", ":")).encode()


def _target(data: bytes, key: str) -> ObjectId:
    """Return the snapshot a ref file names; FormatError when it names none."""
    try:
        found: Any = json.loads(data) if len(data) <= _MOST_REF_BYTES else None
        return parse_object_id(found["snapshot"])
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as e:
        raise FormatError(
            f"{key}: snapshot: this is no ref file ({e!r}).", ErrorKind.DESERIALIZATION
        ) from e
