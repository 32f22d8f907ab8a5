"""Garbage collection: deleting what no snapshot needs.

Source: Icechunk specification, section "Garbage collection". What keeps it safe beside writers:

- First the repo object forgets the snapshots that are to go, by compare-and-swap. From then on
  nobody can point a branch at them; what anybody commits later is based on a snapshot that stays.
  In version 1 nothing can forget them: what refs lead to is looked up again before the end.
- Only then is collected what the remaining snapshots need, so nothing committed before is missed.
- What is younger than the cut-off stays, by the storage's own clock, and with it everything that
  young snapshots need which nobody registered: those of forks and of commits under way.
- What change sets on a live shelf refer to stays (`icechunk.shelf`). They are read first, so that
  one which is committed meanwhile is met in the shelf, in the history, or in both. Shelves that
  ended before the cut-off go last.
- Snapshots are deleted before logs, logs before manifests, manifests before chunks, so a collection
  that dies leaves nothing that refers to a missing object, and the next one goes on from there.
"""

from __future__ import annotations

import html
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk._cases import check_limit
from icechunk._io.limits import gather_limited
from icechunk.assets.manager import snapshot_key
from icechunk.assets.refs import now_us, read_state, update_repo
from icechunk.core.expiry import without_unreachable
from icechunk.core.id_columns import KeySet, id_column
from icechunk.errors import ErrorKind, StorageError
from icechunk.format.chunk_table import ChunkKind
from icechunk.format.repo_info import GCRan, RepoInfo, UpdateKind
from icechunk.ids import ObjectId
from icechunk.ops.reachable import reachable_snapshots
from icechunk.ops.reading import ReadLimits, manifests_of, reduce_manifests
from icechunk.ops.sweep import Listed, Sweep, SweepLimits, Swept, listing
from icechunk.progress import Operation, operation
from icechunk.shelf import Shelf

if TYPE_CHECKING:
    from icechunk._typing import U8Array
    from icechunk.assets.manager import AssetManager
    from icechunk.format.manifest import Manifest
    from icechunk.progress import ProgressOption

_HEADS_AT_ONCE: Final = 16
# A folder of remote storage with more objects than this is listed in 32 parts at once.
_LISTED_WHOLE: Final = 32_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GCSummary:
    """What a garbage collection deleted, or would delete.

    Parameters
    ----------
    bytes_deleted : int
        Sizes of all deleted objects together; unit: bytes.
    chunks_deleted, manifests_deleted, snapshots_deleted, transaction_logs_deleted : int
        Objects deleted, by kind.
    attributes_deleted : int
        Always 0; the format has no such objects any more.
    objects_failed_to_delete : int
        Objects that should have been deleted, but could not.
    throttled_batches : int
        Deleting requests that the storage refused because there were too many.
    delete_errors : list of str
        Why objects could not be deleted, the first few.
    skipped_phases : list of str
        Kinds of objects that were left alone because something they may be needed by could not be
        deleted.
    """

    bytes_deleted: int = 0
    chunks_deleted: int = 0
    manifests_deleted: int = 0
    snapshots_deleted: int = 0
    attributes_deleted: int = 0
    transaction_logs_deleted: int = 0
    objects_failed_to_delete: int = 0
    throttled_batches: int = 0
    delete_errors: list[str] = field(default_factory=list)
    skipped_phases: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{name}: {getattr(self, name)}" for name in self.__slots__]
        return "\n".join(["<icechunk.ops.GCSummary>", *lines, ""])

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclass(frozen=True, slots=True, kw_only=True)
class GCLimits(SweepLimits):
    """Limits on what a collection holds and does at once.

    Parameters
    ----------
    read : ReadLimits
        For reading snapshots and manifests.
    """

    read: ReadLimits = field(default_factory=ReadLimits)

    def __post_init__(self) -> None:
        check_limit("max_concurrent_deletes", self.max_concurrent_deletes)
        check_limit("max_consecutive_delete_failures", self.max_consecutive_delete_failures)
        if self.max_concurrent_listings is not None:
            check_limit("max_concurrent_listings", self.max_concurrent_listings)


@dataclass(frozen=True, slots=True)
class _Registered:
    """Ids of the snapshots that the repository knows, and of logs they stand in for."""

    snapshot_ids: U8Array
    pruned_logs: U8Array


@dataclass(frozen=True, slots=True)
class _Needed:
    """Ids of everything that must stay, by kind."""

    snapshots: KeySet
    logs: KeySet
    manifests: KeySet
    chunks: KeySet


async def collect_garbage(
    assets: AssetManager,
    cutoff_us: int,
    limits: GCLimits,
    *,
    dry_run: bool,
    progress: ProgressOption = False,
) -> GCSummary:
    """Delete what no snapshot needs and is older than a time.

    Parameters
    ----------
    assets : AssetManager
        Of the repository.
    cutoff_us : int
        Objects written at this time or later stay; microseconds since the Unix epoch, by the
        storage's clock.
    limits : GCLimits
        Memory and requests.
    dry_run : bool
        Change nothing, only count.
    progress : bool or Observer or None
        Who is told how many objects were looked at, and how many bytes were freed.

    Raises
    ------
    StorageError
        Kind ``gc-deletes-failing``; others when something cannot be read, and then nothing has
        been deleted.
    """
    with operation(progress, "collecting garbage") as running:
        needed = await _all_needed(assets, cutoff_us, limits, dry_run=dry_run)
        done = await _sweep_all(assets, needed, cutoff_us, limits, running, dry_run=dry_run)
        if not dry_run:
            await Shelf(assets.storage).remove_ended(cutoff_us)
        return done


async def _all_needed(
    assets: AssetManager, cutoff_us: int, limits: GCLimits, *, dry_run: bool
) -> _Needed:
    """Collect what must stay, after the repo object forgot what nothing leads to."""
    shelved = await _shelved_chunks(assets)
    before = await _snapshot_files(assets)
    old = KeySet()
    old.add(before.ids[before.older_than(cutoff_us)])
    young = before.ids[~old.holds(before.ids)]
    if assets.spec_version == 1:
        needed = await _needed_in_version_1(assets, young, limits)
    else:
        await _look_up_unlisted(assets, before, old, cutoff_us)
        registered = await _registered(assets, old, dry_run=dry_run)
        needed = await _needed(assets, registered, young, limits)
    needed.chunks.add(shelved)
    return needed


async def _registered(assets: AssetManager, old: KeySet, *, dry_run: bool) -> _Registered:
    """Make the repo object forget the old snapshots that nothing leads to; return the others."""

    def forget(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        return without_unreachable(info, old.holds)[0], GCRan()

    if dry_run:
        info = forget((await read_state(assets)).info)[0]
    else:
        info = await update_repo(assets, forget)
    pruned = [log for record in info.snapshots for log in record.pruned_logs]
    return _Registered(info.snapshots.ids, id_column(pruned))


async def _needed_in_version_1(assets: AssetManager, young: U8Array, limits: GCLimits) -> _Needed:
    """Collect what branches and tags lead to, until they lead to nothing else meanwhile."""
    ids = await reachable_snapshots(assets)
    while True:
        needed = await _needed(assets, _Registered(ids, id_column([])), young, limits)
        ids = await reachable_snapshots(assets)
        if needed.snapshots.holds(ids).all():
            return needed


async def _shelved_chunks(assets: AssetManager) -> U8Array:
    """Return the ids of the native chunks that uncommitted change sets on shelves refer to."""
    found = [id_column([])]
    async for changes in Shelf(assets.storage).changes_in_use(now_us()):
        for edits in changes.chunks.values():
            table = edits.table()
            found.append(table.chunk_id[table.kind == ChunkKind.NATIVE])
    return np.concatenate(found)


async def _snapshot_files(assets: AssetManager) -> Listed:
    parts = [part async for part in listing(assets.storage, "snapshots/")]
    return Listed(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.size_bytes for part in parts]),
        np.concatenate([part.modified_us for part in parts]),
        [],
    )


async def _look_up_unlisted(
    assets: AssetManager, listed: Listed, old: KeySet, cutoff_us: int
) -> None:
    """Add to the old snapshots those that the listing missed, or whose file is lost.

    Whatever is registered after this look is young.
    """
    info = (await read_state(assets)).info
    _, unreachable = without_unreachable(info, lambda ids: np.ones(len(ids), np.bool_))
    known = KeySet()
    known.add(listed.ids)

    async def look(snapshot_id: ObjectId) -> None:
        try:
            found = await assets.storage.head(snapshot_key(snapshot_id))
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
        else:
            if not Listed.of([found]).older_than(cutoff_us).all():
                return
        old.add(id_column([snapshot_id]))

    candidates = sorted(unreachable)
    missing = ~known.holds(id_column(candidates))
    await gather_limited(
        _HEADS_AT_ONCE, (look(candidates[row]) for row in np.flatnonzero(missing).tolist())
    )


async def _needed(
    assets: AssetManager, registered: _Registered, young: U8Array, limits: GCLimits
) -> _Needed:
    """Collect what the registered snapshots need, and the young ones that nobody registered."""
    snapshots, logs, manifests = KeySet(), KeySet(), KeySet()
    snapshots.add(registered.snapshot_ids)
    unregistered = young[snapshots.add(young)]
    logs.add(registered.snapshot_ids)
    logs.add(unregistered)
    logs.add(registered.pruned_logs)
    chunks = _ChunkIds()
    # What is registered must be all there. Files of somebody who was about to commit may have gone.
    for ids, missing_ok in ((registered.snapshot_ids, False), (unregistered, True)):
        snapshot_ids = (ObjectId(row.tobytes()) for row in ids)
        files = await manifests_of(assets, snapshot_ids, limits.read, missing_ok=missing_ok)
        files = files.take(np.flatnonzero(manifests.add(files.ids)))
        await reduce_manifests(assets, files, limits.read, chunks.take, missing_ok=missing_ok)
    return _Needed(snapshots, logs, manifests, chunks.found)


class _ChunkIds:
    """The native chunks that manifests name."""

    def __init__(self) -> None:
        self.found = KeySet()
        self._lock = threading.Lock()

    def take(self, manifest: Manifest) -> None:
        for _, table in manifest.arrays:
            ids = table.chunk_id[table.kind == ChunkKind.NATIVE]
            with self._lock:
                self.found.add(ids)


async def _sweep_all(
    assets: AssetManager,
    needed: _Needed,
    cutoff_us: int,
    limits: GCLimits,
    running: Operation,
    *,
    dry_run: bool,
) -> GCSummary:
    phases = {
        "snapshots": needed.snapshots,
        "transactions": needed.logs,
        "manifests": needed.manifests,
        "chunks": needed.chunks,
    }
    done: dict[str, Swept] = {}
    skipped: list[str] = []
    for folder, keep in phases.items():
        if any(swept.failed for swept in done.values()):
            skipped.append("transaction_logs" if folder == "transactions" else folder)
            continue
        in_parts = not assets.storage.immediate and len(keep) > _LISTED_WHOLE
        sweep = Sweep(
            assets.storage, f"{folder}/", keep.holds, cutoff_us, limits,
            dry_run=dry_run, advance=lambda more: running.advance_to(running.done + more),
        )  # fmt: skip
        done[folder] = await sweep.run(in_parts=in_parts)
        _raise_if_given_up(assets, folder, done)
    return _summary(done, skipped)


def _summary(done: dict[str, Swept], skipped: list[str]) -> GCSummary:
    def count(folder: str) -> int:
        return done[folder].objects if folder in done else 0

    every = done.values()
    return GCSummary(
        bytes_deleted=sum(swept.size_bytes for swept in every),
        chunks_deleted=count("chunks"),
        manifests_deleted=count("manifests"),
        snapshots_deleted=count("snapshots"),
        transaction_logs_deleted=count("transactions"),
        objects_failed_to_delete=sum(swept.failed for swept in every),
        throttled_batches=sum(swept.throttled_batches for swept in every),
        delete_errors=[error for swept in every for error in swept.errors],
        skipped_phases=skipped,
    )


def _raise_if_given_up(assets: AssetManager, folder: str, done: dict[str, Swept]) -> None:
    swept = done[folder]
    if swept.gave_up is None:
        return
    deleted = sum(each.objects for each in done.values())
    raise StorageError(
        f"garbage collection stopped: deletes below {folder}/ of {assets.storage.description} keep "
        f"failing ({swept.gave_up.message}). {deleted} objects were deleted, {swept.failed} could "
        "not be. Nothing refers to a missing object; check the permissions and collect again.",
        ErrorKind.GC_DELETES_FAILING,
    ) from swept.gave_up
