"""Making a version 1 repository one of version 2, in place.

Source: Icechunk specification, section "Refs over history, upgrade".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from icechunk._io.limits import gather_limited
from icechunk._io.loop import run
from icechunk.assets.config_file import CONFIG_KEY
from icechunk.assets.ref_files import RefFiles
from icechunk.assets.ref_folder import TAG
from icechunk.assets.refs import now_us
from icechunk.core.upgrade import OldRefs, upgraded
from icechunk.errors import ConflictError, ErrorKind, SessionStateError, StorageError
from icechunk.persisted_config import from_persisted, to_persisted
from icechunk.repository_state import RepositoryState
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError

if TYPE_CHECKING:
    from icechunk.assets.manager import AssetManager
    from icechunk.format.repo_info import RepoInfo, SnapshotRecord
    from icechunk.ids import ObjectId
    from icechunk.repository import Repository

_log = logging.getLogger(__name__)
_CONCURRENT_HISTORIES: Final = 64


def upgrade_icechunk_repository(
    repo: Repository,
    *,
    dry_run: bool,
    delete_unused_v1_files: bool = True,
    prefetch_concurrency: int | None = None,
) -> Repository:
    """Make a version 1 repository one of version 2, in place.

    Nobody else may write to the repository meanwhile. Snapshots, manifests and chunks stay as they
    are: only refs, history and configuration move into one new object.

    Parameters
    ----------
    repo : Repository
        Of version 1; not to be used any more afterwards.
    dry_run : bool
        Do everything but write: read the whole history and put the new object together.
    delete_unused_v1_files : bool
        Delete the old ref files and configuration afterwards. They are not read any more.
    prefetch_concurrency : int, optional
        How many histories of branches and tags to read at once; 64 by default.

    Returns
    -------
    Repository
        Opened anew: of version 2, or still of version 1 after a dry run.

    Raises
    ------
    SessionStateError
        Kind ``invalid-repository-migration``; it is of version 2 already.
    ConflictError
        Kind ``repo-info-updated``; somebody else upgraded it, or changed its refs, at this moment.
    StorageError
        Kind ``object-not-found``; a snapshot of its history is missing. Nothing was written.

    Notes
    -----
    Killed at any moment it leaves a repository of version 1, unchanged, or a whole one of version
    2, perhaps with old files beside it.

    Examples
    --------
    >>> old = icechunk.Repository.create(icechunk.in_memory_storage(), spec_version=1)
    >>> new = icechunk.upgrade_icechunk_repository(old, dry_run=False)
    >>> new.spec_version
    SpecVersion.v2 (current)
    """
    concurrency = prefetch_concurrency or _CONCURRENT_HISTORIES
    return run(_upgrade(repo, dry_run, delete_unused_v1_files, concurrency))


async def _upgrade(
    repo: Repository, dry_run: bool, delete_old_files: bool, concurrency: int
) -> Repository:
    state = repo.state
    refs = await state.refs()
    if not isinstance(refs, RefFiles):
        raise SessionStateError(
            "only repositories of format version 1 can be upgraded; this one is of version 2.",
            ErrorKind.INVALID_REPOSITORY_MIGRATION,
        )
    names = await _read_names(refs)
    records = await _read_records(refs, names, concurrency)
    stored = (await refs.read_config()).config
    config = None if stored is None else to_persisted(from_persisted(stored))
    info = upgraded(names, records, config, now_us())
    if await _read_names(refs) != names:
        raise _raced("changed its branches or tags")
    if not dry_run:
        new = RepositoryState.of(repo.storage, state.config, None)
        await _create(new.assets, info)
        if delete_old_files:
            await _delete_old_files(refs)
    authorized = state.virtual.authorized
    reopened = await type(repo).open_async(repo.storage, state.config, authorized)
    reopened.set_default_commit_metadata(state.default_metadata)
    return reopened


async def _read_names(refs: RefFiles) -> OldRefs:
    tags, deleted = await refs.folder.tags()
    old = {name: await refs.folder.find(TAG, name) for name in sorted(deleted)}
    return OldRefs(
        branches={name: await refs.tip_of_branch(name) for name in sorted(await refs.branches())},
        tags={name: await refs.target_of_tag(name) for name in sorted(tags)},
        deleted_tags={name: None if ref is None else ref.target for name, ref in old.items()},
    )


async def _read_records(
    refs: RefFiles, names: OldRefs, concurrency: int
) -> dict[ObjectId, SnapshotRecord]:
    """Return every snapshot that a branch or tag reaches, each read once."""
    records: dict[ObjectId, SnapshotRecord] = {}

    async def collect(start: ObjectId) -> None:
        async for record in refs.ancestors(start):
            if record.id in records:
                return
            records[record.id] = record

    starts = dict.fromkeys([*names.branches.values(), *names.tags.values()])
    await gather_limited(concurrency, [collect(start) for start in starts])
    return records


async def _create(assets: AssetManager, info: RepoInfo) -> None:
    """Write the repo object: from this moment the repository is of version 2."""
    try:
        await assets.create_repo(info)
    except LostRaceError as e:
        raise _raced("upgraded it") from e
    except UnknownOutcomeError as e:
        present, _, _ = await assets.read_repo()
        if list(present.updates) != list(info.updates):
            raise _raced("upgraded it") from e


def _raced(what: str) -> ConflictError:
    return ConflictError(
        None,
        None,
        f"the repository was not upgraded here: somebody else {what} at this moment. Open it and "
        "look.",
        ErrorKind.REPO_INFO_UPDATED,
    )


async def _delete_old_files(refs: RefFiles) -> None:
    """Delete what only version 1 reads, ``main`` first: the rest is no repository without it."""
    main, *others = await refs.folder.keys()
    try:
        for keys in ([main], others, [CONFIG_KEY]):
            await refs.assets.storage.delete_many(keys)
    except StorageError as e:
        # They are harmless, and the upgrade is done.
        _log.warning("files of format version 1 were left behind after the upgrade: %s", e)
