"""Refs as small files, the snapshot graph in the snapshots: version 1 of the format.

Source: Icechunk specification, section "References in v1". A ref names a snapshot; a snapshot names
its parent. There is no other shared state, so a commit is one conditional write of one branch.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, NoReturn

from icechunk._io.loop import sleep
from icechunk.assets.config_file import read_config_file, write_config_file
from icechunk.assets.manager import needs_version_2, snapshot_key
from icechunk.assets.ref_folder import BRANCH, TAG, Ref, RefFolder, check_no_slash, ref_key
from icechunk.assets.ref_store import Ancestry, RefStore, StoredConfig
from icechunk.assets.refs import pauses
from icechunk.core import history
from icechunk.errors import AlreadyExistsError, ConflictError, ErrorKind, FormatError
from icechunk.ids import ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from icechunk._io.started import Started
    from icechunk.assets.manager import AssetManager
    from icechunk.core.history import Fence
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.format.snapshot import Snapshot
    from icechunk.storage.base import Version

REF_FILES_MARK: Final = ref_key(BRANCH, history.MAIN)
"""The object by which a repository of this version is known."""

_IMMEDIATE_TRIES: Final = 5


class RefFiles(RefStore):
    """The refs of a version 1 repository; every question reads them anew.

    Parameters
    ----------
    assets : AssetManager
        Files of the repository.
    """

    def __init__(self, assets: AssetManager) -> None:
        super().__init__(assets)
        self.folder = RefFolder(assets.storage)

    # -- what is allowed ----------------------------------------------------------------------

    def require_writable(self) -> None:
        """Allow writes: a version 1 repository has no status."""

    def require_moves(self) -> NoReturn:
        """Refuse: there are no moves in version 1."""
        raise needs_version_2("moving groups and arrays")

    # -- looking ------------------------------------------------------------------------------

    async def branches(self) -> set[str]:
        """Return the names of all branches."""
        return await self.folder.branches()

    async def tags(self) -> set[str]:
        """Return the names of all tags that are not deleted."""
        return (await self.folder.tags())[0]

    async def find_branch(self, branch: str) -> ObjectId | None:
        """Return the tip of a branch, None when there is none of the name."""
        ref = await self.folder.find(BRANCH, branch)
        return None if ref is None else ref.target

    async def tip_of_branch(self, branch: str) -> ObjectId:
        """Return the tip of a branch; raises `RefNotFoundError`."""
        return (await self._branch(branch)).target

    async def target_of_tag(self, tag: str) -> ObjectId:
        """Return the snapshot a tag points at; raises `RefNotFoundError`."""
        return (await self._tag(tag)).target

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
        await self._prepare(branch, BRANCH, snapshot_id)
        there = await self.folder.find(BRANCH, branch)
        if there is None and await self.folder.create(BRANCH, branch, snapshot_id):
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
        await self.folder.require_in_use()
        await self.folder.delete(await self._branch(branch))

    async def reset_branch(
        self, branch: str, snapshot_id: ObjectId, expected: ObjectId | None
    ) -> None:
        """Point a branch at a snapshot; ``expected`` is where it must be now."""
        await self._prepare(branch, BRANCH, snapshot_id)
        unsure = False
        for pause in _attempts(self.assets):
            await sleep(pause)
            ref = await self._branch(branch)
            if unsure and ref.target == snapshot_id:
                return
            if expected is not None and ref.target != expected:
                raise history.not_reset(branch, expected, ref.target)
            if await self.folder.replace(ref, snapshot_id):
                return
            unsure = True
        raise _exhausted(branch)

    async def create_tag(self, tag: str, snapshot_id: ObjectId) -> None:
        """Make a tag at a snapshot; `AlreadyExistsError` when the name is or was in use."""
        await self._prepare(tag, TAG, snapshot_id)
        folder = self.folder
        free = not await folder.is_deleted(tag) and await folder.find(TAG, tag) is None
        if free and await folder.create(TAG, tag, snapshot_id):
            return
        raise AlreadyExistsError(
            f"tag {tag!r} exists already, or was used and deleted; tags never move, and their "
            "names cannot be used again.",
            ErrorKind.TAG_ALREADY_EXISTS,
        )

    async def delete_tag(self, tag: str) -> None:
        """Delete a tag; its name is used up for ever."""
        await self.folder.require_in_use()
        if not await self.folder.mark_deleted(await self._tag(tag)):
            raise history.no_such_ref(await self.tags(), tag, TAG)

    async def commit(
        self,
        branch: str,
        snapshot: Snapshot,
        base: ObjectId,
        started: Started,
        *,
        moves: bool = False,  # noqa: ARG002 # there are no sessions that move, see require_moves
        fence: Fence | None = None,  # noqa: ARG002 # there is no metadata beside the branch
    ) -> None:
        """Make a snapshot the tip of a branch that is at ``base``."""
        await started.finish()
        await self.folder.require_in_use()
        unsure = False
        for pause in _attempts(self.assets):
            await sleep(pause)
            ref = await self.folder.find(BRANCH, branch)
            if ref is None:
                raise history.moved(base, None)
            if unsure and await _contains(self, ref.target, snapshot.id, base):
                return
            if ref.target != base:
                raise history.moved(base, ref.target)
            if await self.folder.replace(ref, snapshot.id):
                return
            unsure = True
        raise _exhausted(branch)

    async def amend(
        self,
        branch: str,  # noqa: ARG002
        snapshot: Snapshot,  # noqa: ARG002
        base: ObjectId,  # noqa: ARG002
        *,
        moves: bool = False,  # noqa: ARG002
    ) -> NoReturn:
        """Refuse: there is no amending in version 1."""
        raise needs_version_2("amending a commit")

    async def register(self, snapshot: Snapshot, base: ObjectId, *, moves: bool = False) -> None:
        """Do nothing: in version 1 a snapshot exists when its file does."""

    async def expire(
        self, older_than_us: int, *, delete_branches: bool, delete_tags: bool
    ) -> frozenset[ObjectId]:
        """Release old snapshots: the oldest kept one of each ref gets the root as parent.

        Its file is written again in place, the one case in which a snapshot file changes. Killed
        on the way, some refs are shortened and some not; the next run does the rest.
        """
        await self.folder.require_in_use()
        released: set[ObjectId] = set()
        kept: set[ObjectId] = set()
        for kind, names, delete in (
            (BRANCH, await self.branches(), delete_branches),
            (TAG, await self.tags(), delete_tags),
        ):
            for name in sorted(names):
                ref = await self.folder.find(kind, name)
                if ref is None:
                    continue
                records = [record async for record in self.ancestors(ref.target)]
                *line, root = records
                young = [*takewhile(lambda record: record.flushed_at_us >= older_than_us, line)]
                released.update(record.id for record in line[len(young) :])
                if line and not young and delete and name != history.MAIN:
                    await (self.delete_tag if kind == TAG else self.delete_branch)(name)
                    continue
                last = line[: max(1, len(young))]
                kept.update(record.id for record in last)
                if len(line) > len(last):
                    await self._make_child_of(last[-1].id, root.id)
        return frozenset(released - kept)

    async def _make_child_of(self, snapshot_id: ObjectId, parent_id: ObjectId) -> None:
        snapshot = await self.assets.snapshot(snapshot_id)
        await self.assets.write_snapshot(replace(snapshot, parent_id=parent_id))

    # -- configuration ------------------------------------------------------------------------

    async def read_config(self) -> StoredConfig:
        """Return the stored configuration."""
        return await read_config_file(self.assets.storage)

    async def save_config(self, config: Mapping[str, Any], known: Version | None) -> Version | None:
        """Store a configuration over the version that is known; None when there was none."""
        await self.folder.require_in_use()
        return await write_config_file(self.assets.storage, config, known)

    # -- helpers ------------------------------------------------------------------------------

    async def _branch(self, branch: str) -> Ref:
        ref = await self.folder.find(BRANCH, branch)
        if ref is None:
            await self.folder.require_in_use()
            raise history.no_such_ref(await self.branches(), branch, BRANCH)
        return ref

    async def _tag(self, tag: str) -> Ref:
        ref = None if await self.folder.is_deleted(tag) else await self.folder.find(TAG, tag)
        if ref is None:
            await self.folder.require_in_use()
            raise history.no_such_ref(await self.tags(), tag, TAG)
        return ref

    async def _prepare(self, name: str, kind: str, target: ObjectId) -> None:
        """Check what is asked for: the name, that the refs are in use, and the snapshot."""
        history.check_ref_name(name, kind)
        check_no_slash(name, kind)
        await self.folder.require_in_use()
        await self.assets.snapshot(target)


async def read_ref_files(assets: AssetManager) -> RefFiles:
    """Return the refs; nothing is read yet."""
    return RefFiles(assets)


async def create_ref_files(
    assets: AssetManager, snapshot: Snapshot, config: Mapping[str, Any] | None
) -> Version | None:
    """Write the first files of a repository; return the version of its configuration.

    Raises
    ------
    ConflictError
        Kind ``branch-update-conflict``; somebody else created one at this moment.
    """
    refs = RefFiles(assets)
    await assets.write_snapshot(snapshot)
    version = None if config is None else await refs.save_config(config, None)
    await refs.create_branch(history.MAIN, snapshot.id)
    return version


async def _contains(refs: RefStore, tip: ObjectId, wanted: ObjectId, base: ObjectId) -> bool:
    """Say whether a snapshot is among those after ``base`` up to ``tip``."""
    async for record in refs.ancestors(tip):
        if record.id in (wanted, base):
            return record.id == wanted
    return False


def _attempts(assets: AssetManager) -> Iterator[float]:
    """Yield how long to wait before each attempt; unit: seconds."""
    retries = assets.config.repo_update_retries
    initial, longest = retries.initial_backoff_ms / 1000, retries.max_backoff_ms / 1000
    return pauses(retries.max_tries, _IMMEDIATE_TRIES, initial, longest)


def _exhausted(branch: str) -> ConflictError:
    return ConflictError(
        None,
        None,
        f"branch {branch!r} was changed by others in every attempt to change it. Try again.",
        ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
    )
