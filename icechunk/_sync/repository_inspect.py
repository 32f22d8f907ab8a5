"""Blocking twins of `icechunk.repository_inspect`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import iterate, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from icechunk.ops.updates import Update
    from icechunk.snapshots import ManifestFileInfo


class RepositoryInspectTwins:
    """Blocking methods of `icechunk.repository_inspect.RepositoryInspect`."""

    __slots__ = ()

    def ops_log(self) -> Iterator[Update]:
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
        return iterate(self.ops_log_async())

    def list_manifest_files(self, snapshot_id: str) -> list[ManifestFileInfo]:
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
        return run(self.list_manifest_files_async(snapshot_id))

    def inspect_snapshot(self, snapshot_id: str) -> dict[str, Any]:
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
        return run(self.inspect_snapshot_async(snapshot_id))

    def inspect_manifest(self, manifest_id: str) -> dict[str, Any]:
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
        return run(self.inspect_manifest_async(manifest_id))

    def inspect_transaction_log(self, snapshot_id: str) -> dict[str, Any]:
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
        return run(self.inspect_transaction_log_async(snapshot_id))

    def inspect_repo_info(self) -> dict[str, Any]:
        """Return what the repo object says, as JSON-like values: refs, snapshots, operations.

        Raises
        ------
        FormatError
            Kind ``unsupported-spec-version``; a repository of version 1.

        Examples
        --------
        >>> found = repo.inspect_repo_info()
        """
        return run(self.inspect_repo_info_async())
