"""Upkeep of a repository: expiration, garbage collection, statistics.

Source: Icechunk specification, sections "Expiration" and "Garbage collection".
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from icechunk._sync.repository_upkeep import RepositoryUpkeepTwins
from icechunk.ids import id_text
from icechunk.ops.gc import GCLimits, GCSummary, collect_garbage
from icechunk.ops.reading import ReadLimits
from icechunk.ops.stats import ChunkStorageStats, chunk_storage_stats

if TYPE_CHECKING:
    from icechunk.progress import ProgressOption
    from icechunk.repository_state import RepositoryState

_TOTAL_IS_DEPRECATED: Final = (
    "total_chunks_storage counts native chunks only: use chunk_storage_stats(), whose native_bytes "
    "is the same number"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class RepositoryUpkeep(RepositoryUpkeepTwins):
    """The part of a repository that keeps it small."""

    _state: RepositoryState

    async def expire_snapshots_async(
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
        refs = await self._state.refs()
        released = await refs.expire(
            _microseconds(older_than),
            delete_branches=delete_expired_branches,
            delete_tags=delete_expired_tags,
        )
        return set(map(id_text, released))

    async def garbage_collect_async(
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
        limits = GCLimits(
            read=ReadLimits(
                max_snapshots_in_memory=max_snapshots_in_memory,
                max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
                max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
                max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
            ),
            max_concurrent_deletes=max_concurrent_deletes,
            max_consecutive_delete_failures=max_consecutive_delete_failures,
            max_concurrent_listings=max_concurrent_listings,
        )
        cutoff_us = _microseconds(delete_object_older_than)
        return await collect_garbage(
            self._state.assets, cutoff_us, limits, dry_run=dry_run, progress=progress
        )

    async def chunk_storage_stats_async(
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
        limits = ReadLimits(
            max_snapshots_in_memory=max_snapshots_in_memory,
            max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
            max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
            max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
        )
        return await chunk_storage_stats(self._state.assets, limits)

    async def total_chunks_storage_async(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
    ) -> int:
        """Return the bytes of native chunks; deprecated, see `chunk_storage_stats_async`.

        Parameters and errors as there.
        """
        warnings.warn(_TOTAL_IS_DEPRECATED, DeprecationWarning, stacklevel=2)
        stats = await self.chunk_storage_stats_async(
            max_snapshots_in_memory=max_snapshots_in_memory,
            max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
            max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
            max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
        )
        return stats.native_bytes

    # By hand, so that the warning names the caller's line and not one of the I/O thread.
    def total_chunks_storage(
        self,
        *,
        max_snapshots_in_memory: int = 50,
        max_compressed_manifest_mem_bytes: int = 512 * 1024 * 1024,
        max_decoded_manifest_mem_bytes: int = 4 * 1024 * 1024 * 1024,
        max_concurrent_manifest_fetches: int = 500,
    ) -> int:
        """Return the bytes of native chunks; deprecated, see `chunk_storage_stats`.

        Parameters and errors as there.
        """
        warnings.warn(_TOTAL_IS_DEPRECATED, DeprecationWarning, stacklevel=2)
        return self.chunk_storage_stats(
            max_snapshots_in_memory=max_snapshots_in_memory,
            max_compressed_manifest_mem_bytes=max_compressed_manifest_mem_bytes,
            max_decoded_manifest_mem_bytes=max_decoded_manifest_mem_bytes,
            max_concurrent_manifest_fetches=max_concurrent_manifest_fetches,
        ).native_bytes


def _microseconds(when: datetime) -> int:
    """Return a time in microseconds since the Unix epoch."""
    if not isinstance(when, datetime):
        raise TypeError(f"expected a datetime, not {type(when).__name__}")
    if when.tzinfo is None:
        raise TypeError("expected a datetime with non-None tzinfo")
    return (when - _EPOCH) // _MICROSECOND
