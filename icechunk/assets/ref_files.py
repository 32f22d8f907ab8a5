"""Refs as small files, the snapshot graph in the snapshots: version 1 of the format.

Source: Icechunk specification, section "References in v1". A ref names a snapshot; a snapshot names
its parent. There is no other shared state, so a commit is one conditional write of one branch.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote, unquote

from icechunk.assets.manager import REPO_KEY, exists, needs_version_2, snapshot_key
from icechunk.assets.ref_store import Ancestry, RefStore, StoredConfig
from icechunk.assets.refs import backup_name, pauses
from icechunk.core import history
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    FormatError,
    InvalidInputError,
    SessionStateError,
    StorageError,
)
from icechunk.ids import ObjectId, id_text, parse_object_id
from icechunk.persisted_yaml import config_to_yaml, yaml_to_config
from icechunk.storage.base import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from icechunk.assets.manager import AssetManager
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.format.snapshot import Snapshot
    from icechunk.storage.base import Version

CONFIG_KEY: Final = "config.yaml"
REFS_PREFIX: Final = "refs/"

_BRANCH: Final = "branch"
_TAG: Final = "tag"
_TOMBSTONE: Final = ".deleted"
# A ref is some 35 bytes; whatever is much longer is something else.
_MOST_REF_BYTES: Final = 64 * 1024
_IMMEDIATE_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class _Ref:
    key: str
    target: ObjectId
    version: Version


class RefFiles(RefStore):
    """The ref files of a version 1 repository; every question reads them anew."""

    MARK: Final = "refs/branch.main/ref.json"
    """The object by which a repository of this version is known."""

    @classmethod
    async def read(cls, assets: AssetManager) -> RefFiles:
        """Return the refs; nothing is read yet."""
        return cls(assets)

    @classmethod
    async def create(
        cls, assets: AssetManager, snapshot: Snapshot, config: Mapping[str, Any] | None
    ) -> Version | None:
        """Write the first files of a repository.

        Raises
        ------
        ConflictError
            Kind ``branch-update-conflict``; somebody else created one at this moment.
        """
        refs = cls(assets)
        await assets.write_snapshot(snapshot)
        version = None if config is None else await refs.save_config(config, None)
        await refs.create_branch(history.MAIN, snapshot.id)
        return version

    # -- what is allowed ----------------------------------------------------------------------

    def require_writable(self) -> None:
        """Allow writes: a version 1 repository has no status."""

    def require_moves(self) -> NoReturn:
        """Refuse: there are no moves in version 1."""
        raise needs_version_2("moving groups and arrays")

    # -- looking ------------------------------------------------------------------------------

    async def branches(self) -> set[str]:
        """Return the names of all branches."""
        return {name for kind, name, last in await self._listed() if (kind, last) == (_BRANCH, "")}

    async def tags(self) -> set[str]:
        """Return the names of all tags that are not deleted."""
        deleted = await self.deleted_tags()
        there = {name for kind, name, last in await self._listed() if (kind, last) == (_TAG, "")}
        return there - deleted

    async def deleted_tags(self) -> set[str]:
        """Return the names that were used for a tag and cannot be used again."""
        return {
            name for kind, name, last in await self._listed() if (kind, last) == (_TAG, _TOMBSTONE)
        }

    async def find_branch(self, branch: str) -> ObjectId | None:
        """Return the tip of a branch, None when there is none of the name."""
        ref = await self._find(_BRANCH, branch)
        return None if ref is None else ref.target

    async def tip_of_branch(self, branch: str) -> ObjectId:
        """Return the tip of a branch; raises `RefNotFoundError`."""
        return (await self._branch(branch)).target

    async def target_of_tag(self, tag: str) -> ObjectId:
        """Return the snapshot a tag points at; raises `RefNotFoundError`."""
        ref = None if await self._is_deleted(tag) else await self._find(_TAG, tag)
        if ref is None:
            raise history.no_such_ref(await self.tags(), tag, _TAG)
        return ref.target

    async def target_of_deleted_tag(self, tag: str) -> ObjectId | None:
        """Return the snapshot a deleted tag pointed at, None when that is not known any more."""
        ref = await self._find(_TAG, tag)
        return None if ref is None else ref.target

    async def tip_to_commit_on(self, branch: str, base: ObjectId) -> ObjectId:
        """Return the tip of a branch; raises `ConflictError` when it was deleted."""
        tip = await self.find_branch(branch)
        if tip is None:
            raise history.moved(base, None)
        return tip

    async def require_snapshot(self, snapshot_id: ObjectId) -> SnapshotRecord:
        """Return what a snapshot file says of itself; raises as `AssetManager.snapshot`."""
        snapshot = await self.assets.snapshot(snapshot_id)
        return history.record_of(snapshot, snapshot.parent_id)

    async def record_to_amend(self, base: ObjectId) -> NoReturn:  # noqa: ARG002
        """Refuse: there is no amending in version 1."""
        raise needs_version_2("amending a commit")

    async def ancestors(self, snapshot_id: ObjectId) -> AsyncIterator[SnapshotRecord]:
        """Yield a snapshot and all before it, newest first, reading file after file.

        Raises
        ------
        FormatError
            Kind ``invalid-file-format``; a snapshot is its own ancestor.
        """
        seen: set[ObjectId] = set()
        at: ObjectId | None = snapshot_id
        while at is not None:
            if at in seen:
                raise FormatError(
                    f"{snapshot_key(at)}: Snapshot.parent_id: the snapshot is its own ancestor."
                )
            seen.add(at)
            record = await self.require_snapshot(at)
            yield record
            at = record.parent_id

    async def ancestry(self, snapshot_id: ObjectId) -> Ancestry:
        """Return a snapshot and all before it."""
        records = {record.id: record async for record in self.ancestors(snapshot_id)}
        return Ancestry(records, list(records))

    # -- changing -----------------------------------------------------------------------------

    async def create_branch(self, branch: str, snapshot_id: ObjectId) -> None:
        """Make a branch at a snapshot; `ConflictError` when there is one of the name."""
        await self._prepare_write(branch, _BRANCH, snapshot_id)
        there = await self._find(_BRANCH, branch)
        if there is None and await self._created(_key(_BRANCH, branch), _content(snapshot_id)):
            return
        tip = await self.tip_of_branch(branch)
        raise ConflictError(
            None,
            id_text(tip),
            f"branch {branch!r} exists already, at {id_text(tip)}. Use reset_branch to move it.",
            ErrorKind.BRANCH_UPDATE_CONFLICT,
        )

    async def delete_branch(self, branch: str) -> None:
        """Delete a branch."""
        history.refuse_main(branch)
        await self._require_version_1()
        ref = await self._branch(branch)
        await self.assets.storage.delete_many([ref.key])

    async def reset_branch(
        self, branch: str, snapshot_id: ObjectId, expected: ObjectId | None
    ) -> None:
        """Point a branch at a snapshot; ``expected`` is where it must be now."""
        await self._prepare_write(branch, _BRANCH, snapshot_id)
        for pause in self._pauses():
            await asyncio.sleep(pause)
            ref = await self._branch(branch)
            if ref.target == snapshot_id and pause:
                return
            if expected is not None and ref.target != expected:
                raise history.not_reset(branch, expected, ref.target)
            if await self._replaced(ref, snapshot_id):
                return
        raise self._exhausted(branch)

    async def create_tag(self, tag: str, snapshot_id: ObjectId) -> None:
        """Make a tag at a snapshot; `AlreadyExistsError` when the name is or was in use."""
        await self._prepare_write(tag, _TAG, snapshot_id)
        free = not await self._is_deleted(tag) and await self._find(_TAG, tag) is None
        if free and await self._created(_key(_TAG, tag), _content(snapshot_id)):
            return
        raise AlreadyExistsError(
            f"tag {tag!r} exists already, or was used and deleted; tags never move, and their "
            "names cannot be used again.",
            ErrorKind.TAG_ALREADY_EXISTS,
        )

    async def delete_tag(self, tag: str) -> None:
        """Delete a tag; its name is used up for ever."""
        await self._require_version_1()
        await self.target_of_tag(tag)
        ref = await self._find(_TAG, tag)
        if ref is None or not await self._created(ref.key + _TOMBSTONE, b""):
            raise history.no_such_ref(await self.tags(), tag, _TAG)

    async def commit(self, branch: str, snapshot: Snapshot, base: ObjectId) -> None:
        """Make a written snapshot the tip of a branch that is at ``base``."""
        await self._require_version_1()
        unsure = False
        for pause in self._pauses():
            await asyncio.sleep(pause)
            ref = await self._find(_BRANCH, branch)
            tip = None if ref is None else ref.target
            if unsure and tip is not None and await self._contains(tip, snapshot.id, base):
                return
            if ref is None or ref.target != base:
                raise history.moved(base, tip)
            if await self._replaced(ref, snapshot.id):
                return
            unsure = True
        raise self._exhausted(branch)

    async def amend(self, branch: str, snapshot: Snapshot, base: ObjectId) -> NoReturn:  # noqa: ARG002
        """Refuse: there is no amending in version 1."""
        raise needs_version_2("amending a commit")

    async def register(self, snapshot: Snapshot, base: ObjectId) -> None:
        """Do nothing: in version 1 a snapshot exists when its file does."""

    async def _contains(self, tip: ObjectId, wanted: ObjectId, base: ObjectId) -> bool:
        """Say whether a snapshot is among those after ``base`` up to ``tip``."""
        async for record in self.ancestors(tip):
            if record.id in (wanted, base):
                return record.id == wanted
        return False

    async def _prepare_write(self, name: str, kind: str, snapshot_id: ObjectId) -> None:
        history.check_ref_name(name, kind)
        _check_no_slash(name, kind)
        await self._require_version_1()
        await self.assets.snapshot(snapshot_id)

    async def _require_version_1(self) -> None:
        """Refuse to write refs that nobody reads any more."""
        if await exists(self.assets.storage, REPO_KEY):
            raise SessionStateError(
                "the repository was upgraded to format version 2 since it was opened here. Open it "
                "again.",
                ErrorKind.NOT_ALLOWED,
            )

    # -- configuration ------------------------------------------------------------------------

    async def read_config(self) -> StoredConfig:
        """Return the stored configuration."""
        try:
            data, version = await self.assets.storage.get_versioned(CONFIG_KEY)
        except StorageError as e:
            if e.kind == ErrorKind.OBJECT_NOT_FOUND:
                return StoredConfig(None)
            raise
        return StoredConfig(yaml_to_config(data), version)

    async def save_config(self, config: Mapping[str, Any], known: Version | None) -> Version | None:
        """Store a configuration over the version that is known; None when there was none."""
        await self._require_version_1()
        storage, data = self.assets.storage, config_to_yaml(config)
        try:
            if known is None:
                return await storage.put_if_absent(
                    CONFIG_KEY, data, content_type="application/yaml"
                )
            old, there = await storage.get_versioned(CONFIG_KEY)
            if there == known:
                await storage.put(f"overwritten/{backup_name(CONFIG_KEY)}", old)
                return await storage.put_if_unchanged(
                    CONFIG_KEY, data, known, content_type="application/yaml"
                )
        except LostRaceError:
            pass
        except UnknownOutcomeError:
            present, there = await storage.get_versioned(CONFIG_KEY)
            if present == data:
                return there
        raise ConflictError(
            None,
            None,
            "somebody else changed the stored configuration since this repository was opened. "
            "Open it again, look at its configuration, and save yours then.",
            ErrorKind.CONFIG_UPDATED,
        )

    # -- files --------------------------------------------------------------------------------

    async def keys(self) -> list[str]:
        """Return the keys of all ref files, that of ``main`` first."""
        found = [info.key async for info in self.assets.storage.list(REFS_PREFIX)]
        return sorted(found, key=lambda key: (key != _key(_BRANCH, history.MAIN), key))

    async def _listed(self) -> list[tuple[str, str, str]]:
        """Return kind, name and what follows ``ref.json`` of every ref file."""
        found = []
        for key in await self.keys():
            parts = key.split("/")
            if len(parts) != 3 or not parts[2].startswith("ref.json"):
                continue
            kind, dot, name = parts[1].partition(".")
            if dot:
                found.append((kind, _decoded(name), parts[2].removeprefix("ref.json")))
        return found

    async def _branch(self, branch: str) -> _Ref:
        ref = await self._find(_BRANCH, branch)
        if ref is None:
            raise history.no_such_ref(await self.branches(), branch, _BRANCH)
        return ref

    async def _find(self, kind: str, name: str) -> _Ref | None:
        _check_no_slash(name, kind)
        for key in _keys(kind, name):
            try:
                data, version = await self.assets.storage.get_versioned(key)
            except StorageError as e:
                if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                    raise
                continue
            return _Ref(key, _target(data, key), version)
        return None

    async def _is_deleted(self, tag: str) -> bool:
        _check_no_slash(tag, _TAG)
        for key in _keys(_TAG, tag):
            if await exists(self.assets.storage, key + _TOMBSTONE):
                return True
        return False

    async def _created(self, key: str, data: bytes) -> bool:
        """Write a file that is not there; False when it is."""
        storage = self.assets.storage
        try:
            await storage.put_if_absent(key, data, content_type="application/json")
        except LostRaceError:
            return False
        except UnknownOutcomeError:
            return await storage.get(key) == data
        return True

    async def _replaced(self, ref: _Ref, target: ObjectId) -> bool:
        """Point a ref at a snapshot; False when it changed meanwhile, or nobody knows."""
        try:
            await self.assets.storage.put_if_unchanged(
                ref.key, _content(target), ref.version, content_type="application/json"
            )
        except (LostRaceError, UnknownOutcomeError):
            return False
        return True

    def _pauses(self) -> list[float]:
        retries = self.assets.config.repo_update_retries
        initial, longest = retries.initial_backoff_ms / 1000, retries.max_backoff_ms / 1000
        return list(pauses(retries.max_tries, _IMMEDIATE_TRIES, initial, longest))

    def _exhausted(self, branch: str) -> ConflictError:
        return ConflictError(
            None,
            None,
            f"branch {branch!r} was changed by others in every attempt to change it. Try again.",
            ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
        )


def _key(kind: str, name: str) -> str:
    return f"{REFS_PREFIX}{kind}.{name}/ref.json"


def _keys(kind: str, name: str) -> list[str]:
    """Return where a ref may be: other writers escape all but ASCII on some storages."""
    escaped = "".join(c if c.isascii() else quote(c) for c in name)
    return [_key(kind, n) for n in dict.fromkeys((name, escaped))]


def _decoded(name: str) -> str:
    """Return the name of a ref whose non-ASCII characters another writer escaped."""
    try:
        plain = unquote(name, errors="strict")
    except UnicodeDecodeError:
        return name
    return plain if _keys("", plain)[-1] == _key("", name) else name


def _check_no_slash(name: str, kind: str) -> None:
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
