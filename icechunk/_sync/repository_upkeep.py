"""Blocking twins of `icechunk.repository_upkeep`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from datetime import datetime

    from icechunk.ops.gc import GCSummary
    from icechunk.ops.stats import ChunkStorageStats
    from icechunk.progress import ProgressOption


class RepositoryUpkeepTwins:
    """Blocking methods of `icechunk.repository_upkeep.RepositoryUpkeep`."""

    __slots__ = ()

    def expire_snapshots(
        self,
        older_than: datetime,
        *,
        delete_expired_branches: bool = False,
        delete_expired_tags: bool = False,
    ) -> set[str]:
        """Release old snapshots from the history, so that garbage collection can delete them.

        Tips of branches and targets of tags stay, whatever their age, and so does the first
        snapshot. The next younger snapshot takes the first one as parent. It keeps the
        transaction logs of those between, so that sessions can still be rebased over them and
        `diff` still tells what they changed.

        Parameters
        ----------
        older_than : datetime
            Snapshots committed before this expire; with a time zone.
        delete_expired_branches : bool
            Delete branches whose tip is that old, but never ``main``.
        delete_expired_tags : bool
            Delete tags whose target is that old; their names cannot be used again.

        Returns
        -------
        set of str
            Ids of the released snapshots; their files stay until they are collected.

        Raises
        ------
        TypeError
            ``older_than`` has no time zone.
        ReadOnlyError
            Kind ``read-only-repository``.

        Notes
        -----
        Concurrency: one conditional update; whoever commits meanwhile is not disturbed.

        Examples
        --------
        >>> from datetime import UTC, datetime, timedelta
        >>> repo.expire_snapshots(datetime.now(UTC) - timedelta(days=30))
        set()
        """
        return run(
            self.expire_snapshots_async(
                older_than,
                delete_expired_branches=delete_expired_branches,
                delete_expired_tags=delete_expired_tags,
            )
        )

    def garbage_collect(
        self,
        delete_object_older_than: datetime,
        *,
        dry_run: bool = False,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
        max_concurrent_deletes: int = 10,
        max_consecutive_delete_failures: int = 50,
        max_concurrent_listings: int | None = None,
        progress: ProgressOption = False,
    ) -> GCSummary:
        """Delete objects that no branch and no tag needs.

        Parameters
        ----------
        delete_object_older_than : datetime
            Objects written at this time or later stay, whether needed or not; with a time zone.
            It must be before the start of every session that is still going to commit: its chunks
            are in storage already, and only their age protects them.
        dry_run : bool
            Change nothing, only count what would be deleted.
        max_snapshots_in_memory : int
            Snapshots that are decoded at one time.
        max_compressed_manifest_mem_bytes, max_decoded_manifest_mem_bytes : int
            Manifests in memory at one time, as they are stored and as they are used; unit: bytes.
            One that is larger by itself is read alone.
        max_concurrent_manifest_fetches, max_concurrent_deletes : int
            Requests at one time.
        max_consecutive_delete_failures : int
            Objects that could not be deleted, one after the other, before it is given up.
        max_concurrent_listings : int, optional
            Parts of a large folder that are listed at one time.
        progress : bool or callable, default: False
            Show a bar: objects that were looked at, and bytes that were freed; or call a function
            with each event, see `icechunk.events`.

        Returns
        -------
        GCSummary
            What was deleted.

        Raises
        ------
        StorageError
            Kind ``gc-deletes-failing``; the storage does not delete.
        ReadOnlyError
            Kind ``read-only-repository``.
        TypeError, ValueError
            A time without time zone; a limit below 1.

        Notes
        -----
        Ages are by the storage's clock. Some storages keep whole seconds: what was written in the
        second of the cut-off stays there.

        Concurrency: anybody may commit, fork and move branches meanwhile. A collection that was
        interrupted is finished by the next one. Memory: besides the limits, 12 bytes for each
        chunk that is needed, and twice that for moments.

        Examples
        --------
        >>> from datetime import UTC, datetime, timedelta
        >>> summary = repo.garbage_collect(datetime.now(UTC) - timedelta(days=7), dry_run=True)
        >>> summary.bytes_deleted
        0
        """
        return run(
            self.garbage_collect_async(
                delete_object_older_than,
                dry_run=dry_run,
                max_snapshots_in_memory=max_snapshots_in_memory,
                max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
                max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
                max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
                max_concurrent_deletes=max_concurrent_deletes,
                max_consecutive_delete_failures=max_consecutive_delete_failures,
                max_concurrent_listings=max_concurrent_listings,
                progress=progress,
            )
        )

    def chunk_storage_stats(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
    ) -> ChunkStorageStats:
        """Add up what the chunks of all versions take.

        Parameters
        ----------
        max_snapshots_in_memory : int
            Snapshots that are decoded at one time.
        max_compressed_manifest_mem_bytes, max_decoded_manifest_mem_bytes : int
            Manifests in memory at one time, as they are stored and as they are used; unit: bytes.
            One that is larger by itself is read alone.
        max_concurrent_manifest_fetches : int
            Requests at one time.

        Returns
        -------
        ChunkStorageStats
            Of every snapshot that a branch or tag leads to. A chunk that many versions share
            counts once; chunks that only wait for garbage collection do not count.

        Raises
        ------
        StorageError, FormatError
            A snapshot or a manifest is missing or damaged.
        TypeError, ValueError
            A limit below 1.

        Examples
        --------
        >>> repo.chunk_storage_stats().total_bytes()
        32
        """
        return run(
            self.chunk_storage_stats_async(
                max_snapshots_in_memory=max_snapshots_in_memory,
                max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
                max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
                max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
            )
        )
