"""Repositories: the operations log, and what the files say.

Source: Icechunk specification, sections "Operations log" and those on the file kinds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from icechunk._sync.repository_inspect import RepositoryInspectTwins
from icechunk.assets.manager import (
    REPO_KEY,
    manifest_key,
    needs_version_2,
    snapshot_key,
    transaction_log_key,
)
from icechunk.assets.refs import read_state
from icechunk.core.commit import united_log
from icechunk.errors import ErrorKind, SnapshotNotFoundError, StorageError
from icechunk.format.header import FileType
from icechunk.format.repo_info import parse_repo_info
from icechunk.format.snapshot import parse_snapshot
from icechunk.format.transaction_log import parse_transaction_log
from icechunk.ids import ObjectId, parse_object_id
from icechunk.ops import inspect
from icechunk.ops.updates import Update, public_update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from icechunk.format.transaction_log import TransactionLog
    from icechunk.repository_state import RepositoryState
    from icechunk.snapshots import ManifestFileInfo


class RepositoryInspect(RepositoryInspectTwins):
    """The part of a repository that shows how it came about, and what is stored."""

    _state: RepositoryState

    async def ops_log_async(self) -> AsyncIterator[Update]:
        """Yield everything that was done to the repository, newest first.

        Yields
        ------
        Update
            What was done and when, with the name of the backup that has the repository as it was
            just after.

        Raises
        ------
        FormatError
            Kind ``unsupported-spec-version``; a repository of version 1.
        StorageError
            Kind ``object-not-found``; a backup in which older entries are is gone.

        Notes
        -----
        Source: Icechunk specification, section "Operations log". Reads one file for each page of
        the log, when the iteration gets there.

        Examples
        --------
        >>> [type(update.kind).__name__ for update in repo.ops_log()]
        ['NewCommit', 'RepoInitialized']
        """
        assets = self._state.assets
        if assets.spec_version == 1:
            raise needs_version_2("the operations log")
        info = (await read_state(assets)).info
        name: str | None = None
        while True:
            for row, update in enumerate(info.updates):
                yield public_update(update, None if row else name)
            name = info.repo_before_updates
            if name is None:
                return
            key = f"overwritten/{name}"
            info = parse_repo_info(await assets.storage.get(key), key=key)

    async def list_manifest_files_async(self, snapshot_id: str) -> list[ManifestFileInfo]:
        """Return the manifests that a snapshot uses, by id.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-snapshot-id``.
        StorageError
            Kind ``object-not-found``; there is no such snapshot.

        Examples
        --------
        >>> files = repo.list_manifest_files(repo.lookup_branch("main"))
        >>> [file.num_chunk_refs for file in files]
        [2]
        """
        snapshot = await self._state.assets.snapshot(parse_object_id(snapshot_id))
        return inspect.list_manifests(snapshot.manifest_files)

    async def inspect_snapshot_async(self, snapshot_id: str) -> dict[str, Any]:
        """Return what the file of a snapshot says, as JSON-like values.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-snapshot-id``.
        StorageError
            Kind ``object-not-found``; there is no such file.

        Examples
        --------
        >>> found = repo.inspect_snapshot(repo.lookup_branch("main"))
        >>> type(found).__name__
        'dict'
        """
        key = snapshot_key(parse_object_id(snapshot_id))
        data = await self._state.assets.storage.get(key)
        header = inspect.describe_header(data, FileType.SNAPSHOT, key)
        return inspect.describe_snapshot(parse_snapshot(data, key=key), header)

    async def inspect_manifest_async(self, manifest_id: str) -> dict[str, Any]:
        """Return what a manifest says, as JSON-like values: references by array and kind.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-snapshot-id``; not an id.
        StorageError
            Kind ``object-not-found``; there is no such file.

        Examples
        --------
        >>> file = repo.list_manifest_files(repo.lookup_branch("main"))[0]
        >>> found = repo.inspect_manifest(file.id)
        """
        key = manifest_key(parse_object_id(manifest_id))
        data = await self._state.assets.storage.get(key)
        return inspect.describe_manifest(data, key)

    async def inspect_transaction_log_async(self, snapshot_id: str) -> dict[str, Any]:
        """Return what the transaction log of a snapshot says, as JSON-like values.

        Where snapshots before this one were released by expiration, their logs are merged in, and
        ``synthetic_composite`` names them.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-snapshot-id``.
        StorageError
            Kind ``object-not-found``; there is no such file.

        Examples
        --------
        >>> found = repo.inspect_transaction_log(repo.lookup_branch("main"))
        """
        own_id = parse_object_id(snapshot_id)
        key = transaction_log_key(own_id)
        data = await self._state.assets.storage.get(key)
        own = parse_transaction_log(data, key=key)
        header = inspect.describe_header(data, FileType.TRANSACTION_LOG, key)
        pruned = await self._pruned_logs(own_id)
        if not pruned:
            return inspect.describe_log(own, header)
        logs = {log_id: await self._log_or_none(log_id) for log_id in pruned}
        found = [log for log in logs.values() if log is not None]
        for log in reversed(found):
            own = united_log(log, own)
        missing = [log_id for log_id, log in logs.items() if log is None]
        return {
            **inspect.describe_log(own, header),
            "synthetic_composite": inspect.describe_merge(pruned, missing),
        }

    async def _pruned_logs(self, snapshot_id: ObjectId) -> tuple[ObjectId, ...]:
        try:
            record = await (await self._state.refs()).require_snapshot(snapshot_id)
        except SnapshotNotFoundError:
            return ()
        return tuple(record.pruned_logs)

    async def _log_or_none(self, log_id: ObjectId) -> TransactionLog | None:
        try:
            return await self._state.assets.transaction_log(log_id)
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
            return None

    async def inspect_repo_info_async(self) -> dict[str, Any]:
        """Return what the repo object says, as JSON-like values: refs, snapshots, operations.

        Raises
        ------
        FormatError
            Kind ``unsupported-spec-version``; a repository of version 1.

        Examples
        --------
        >>> found = repo.inspect_repo_info()
        """
        assets = self._state.assets
        if assets.spec_version == 1:
            raise needs_version_2("inspecting the repo object")
        state = await read_state(assets)
        header = inspect.describe_header(state.data, FileType.REPO, REPO_KEY)
        return inspect.describe_repo(state.info, header)
