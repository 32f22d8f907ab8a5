"""Writing a change set as a new snapshot, and rebasing it onto what others committed.

Source: Icechunk specification, sections "Commit", "What a commit does to manifests" and "The
rebase loop". Files are written first, under fresh ids; then one conditional write of what holds
the branch makes the snapshot exist. Whatever dies before that leaves garbage and no trace.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from icechunk._io.limits import gather_limited
from icechunk._io.loop import sleep
from icechunk._io.started import Started
from icechunk.assets.ref_stores import read_refs
from icechunk.assets.refs import now_us, pauses
from icechunk.checkout import SessionMode
from icechunk.core.commit import (
    array_nodes_to_write,
    changes_nothing,
    effective_changes,
    next_manifest_files,
    next_nodes,
    transaction_log_of,
    united_log,
)
from icechunk.core.conflict_report import rebase_failure
from icechunk.core.conflicts import (
    Comparison,
    ConflictDetector,
    ConflictSolver,
    VersionSelection,
    solve,
)
from icechunk.core.history import moved
from icechunk.core.manifest_tiers import SMALL_MANIFEST
from icechunk.core.manifests import ManifestPlan, plan_manifests, split_of, split_table
from icechunk.errors import (
    ConflictError,
    ErrorKind,
    SessionStateError,
    StorageError,
)
from icechunk.format.manifest import Manifest
from icechunk.format.snapshot import ManifestFiles, ManifestRefs, NodeSnapshot, Snapshot
from icechunk.format.values import plain_value
from icechunk.ids import NodeId, ObjectId, id_text, new_object_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.ref_store import RefStore
    from icechunk.checkout import Checkout
    from icechunk.core.changes import ChangeSet
    from icechunk.core.history import Fence
    from icechunk.errors import RebaseFailedError
    from icechunk.format.chunk_table import ChunkTable
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.format.transaction_log import TransactionLog
    from icechunk.storage._line import Line

logger = logging.getLogger(__name__)

_CONCURRENT_ARRAYS: Final = 8
_CONCURRENT_WRITES: Final = 32
_CONCURRENT_READS: Final = 16
# How long a commit waits between rebases when other writers keep winning; unit: what its last
# attempt took. So waits fit the storage and the load, and who lost often is not left far behind.
_FIRST_WAIT: Final = 0.5
_LONGEST_WAIT: Final = 2.0
_LONGEST_WAIT_SECONDS: Final = 2.0
_REBASES_WITHOUT_WAIT: Final = 1

ENGINE_METADATA_KEY: Final = "__icechunk"
"""Commit metadata key for facts the engine records (specification section 5)."""


class CommitMode(Enum):
    """Where a new snapshot goes."""

    NEW = "new_commit"
    """After the session's base, on its branch."""

    AMEND = "amend"
    """In the place of the session's base, on its branch."""

    DETACHED = "detached"
    """After the session's base; no branch points at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitRequest:
    """What a commit was asked to do.

    Parameters
    ----------
    mode : CommitMode
        Where the snapshot goes.
    branch : str or None
        Branch to move; None for a detached snapshot.
    message : str
        Commit message.
    metadata : mapping
        Commit metadata, defaults included.
    allow_empty : bool
        Commit although nothing changed.
    solver : ConflictSolver or None
        What to do when the branch moved; None fails then.
    max_rebases : int
        How often to rebase before giving up.
    rewrite : bool
        Write every manifest again, as the configuration splits them now.
    fence : Fence or None
        What must hold when the commit takes place.
    """

    mode: CommitMode = CommitMode.NEW
    branch: str | None
    message: str
    metadata: Mapping[str, Any]
    allow_empty: bool = False
    solver: ConflictSolver | None = None
    max_rebases: int = 0
    rewrite: bool = False
    fence: Fence | None = None


@dataclass(frozen=True, slots=True)
class _WrittenManifests:
    """The new manifests of one array, and what they were made from."""

    old_ids: bytes
    table: ChunkTable
    grid: tuple[int, ...]
    refs: ManifestRefs
    files: ManifestFiles


@dataclass(slots=True)
class _Reuse:
    """Manifests an earlier attempt of a commit wrote, good while their sources are the same."""

    by_node: dict[NodeId, _WrittenManifests] = field(default_factory=dict)


async def commit_changes(checkout: Checkout, request: CommitRequest) -> ObjectId:
    """Commit a checkout's changes; it becomes read-only on the new snapshot.

    Returns
    -------
    ObjectId
        Id of the new snapshot.

    Raises
    ------
    SessionStateError
        Kind ``no-changes-to-commit``; of an amendment also ``no-amend-for-initial-commit`` and
        ``rearrange-session-only``.
    ConflictError
        Kind ``commit-conflict``; the branch moved, and there was no solver or no try left. The
        checkout keeps its changes.
    RebaseFailedError
        The solver did not resolve the conflicts.
    RefNotFoundError
        Kind ``branch-not-found``; the branch was deleted meanwhile. In version 1 of the format
        that is a ConflictError with no actual parent.
    """
    # What cannot be stored is refused here, before anything is written.
    request = replace(request, metadata=plain_value(request.metadata))
    await checkout.ready()
    base = id_text(checkout.snapshot_id)
    logger.info("commit started on branch %s at snapshot %s", request.branch, base)
    checkout.seal()
    try:
        snapshot_id = await _commit_sealed(checkout, request)
    finally:
        checkout.unseal()
    logger.info("commit of snapshot %s to branch %s done", id_text(snapshot_id), request.branch)
    return snapshot_id


async def _commit_sealed(checkout: Checkout, request: CommitRequest) -> ObjectId:
    assets = checkout.assets
    if not request.allow_empty and changes_nothing(checkout.base.nodes, checkout.changes):
        raise SessionStateError(
            "nothing to commit: the session has no changes. Pass allow_empty=True to make a "
            "snapshot all the same.",
            ErrorKind.NO_CHANGES_TO_COMMIT,
        )
    with assets.storage.line(request.branch or "") as line:
        return await _commit_in_turn(checkout, request, line)


async def _commit_in_turn(checkout: Checkout, request: CommitRequest, line: Line) -> ObjectId:
    """Try until the commit is made, behind those who wait already."""
    assets, solver = checkout.assets, request.solver
    reuse = _Reuse()
    tries = 1 if solver is None else 1 + request.max_rebases
    waits = pauses(tries, 1 + _REBASES_WITHOUT_WAIT, _FIRST_WAIT, _LONGEST_WAIT)
    conflict: ConflictError | None = None
    rebases, attempt_seconds = 0, 0.0
    for wait in waits:
        # Whoever cannot rebase only gets older by waiting.
        if tries == 1 or not await line.turn(lost=conflict is not None):
            await sleep(min(wait * attempt_seconds, _LONGEST_WAIT_SECONDS))
        start = time.monotonic()
        refs = await read_refs(assets)
        if request.branch is not None:
            base = checkout.snapshot_id
            tip = await refs.tip_to_commit_on(request.branch, base)
            if tip != base:
                conflict = moved(base, tip)
                if solver is None or rebases == request.max_rebases:
                    break
                rebases += 1
                logger.debug("branch %s: rebase %d", request.branch, rebases)
                await _rebase_onto(checkout, refs, tip, solver)
        try:
            return await _commit_once(checkout, request, refs, rebases, reuse)
        except ConflictError as e:
            if e.kind != ErrorKind.COMMIT_CONFLICT:
                raise
            conflict = e
        attempt_seconds = time.monotonic() - start
    assert conflict is not None, "there is at least one attempt"
    raise conflict


async def _commit_once(
    checkout: Checkout, request: CommitRequest, refs: RefStore, rebases: int, reuse: _Reuse
) -> ObjectId:
    """Write the files of a snapshot on the checkout's base, then make the repository know it.

    All of them, and the copy of what holds the branch, are written at once: only what holds the
    branch must come last.
    """
    replaced = None
    if request.mode is CommitMode.AMEND:
        replaced = await _log_to_replace(checkout, refs)
    async with Started(_CONCURRENT_WRITES) as started:
        snapshot = await _start_writing(checkout, request, rebases, reuse, replaced, started)
        base, moves = checkout.snapshot_id, checkout.mode is SessionMode.rearrange
        if request.mode is CommitMode.NEW and request.branch is not None:
            await refs.commit(
                request.branch,
                snapshot,
                base,
                started,
                moves=moves,
                fence=request.fence,
            )
        else:
            await started.finish()
            if request.branch is None:
                await refs.register(snapshot, base, moves=moves)
            else:
                await refs.amend(request.branch, snapshot, base, moves=moves)
    checkout.committed(snapshot)
    return snapshot.id


async def _start_writing(
    checkout: Checkout,
    request: CommitRequest,
    rebases: int,
    reuse: _Reuse,
    replaced: TransactionLog | None,
    started: Started,
) -> Snapshot:
    """Start writing manifests, snapshot and log; return the snapshot."""
    assets, base = checkout.assets, checkout.base.snapshot
    with checkout.lock:
        changes = effective_changes(base.nodes, checkout.changes)
    metadata = dict(request.metadata)
    if request.solver is not None:
        metadata[ENGINE_METADATA_KEY] = {"rebase_attempts": rebases}
    nodes_to_write = array_nodes_to_write(base.nodes, changes, every=request.rewrite)
    manifests, files = await write_manifests(
        assets, nodes_to_write, changes, reuse, started, rewrite=request.rewrite
    )
    nodes = next_nodes(base.nodes, changes, manifests)
    snapshot = Snapshot(
        id=new_object_id(),
        parent_id=base.id,
        flushed_at_us=max(now_us(), base.flushed_at_us + 1),
        message=request.message,
        metadata=metadata,
        nodes=nodes,
        manifest_files=next_manifest_files(base.manifest_files, nodes, files),
        spec_version=assets.spec_version,
    )
    log = transaction_log_of(snapshot.id, base.nodes, changes)
    if replaced is not None:
        log = united_log(replaced, log)
    await assets.write_snapshot(snapshot, started)
    await assets.write_transaction_log(log, started)
    return snapshot


async def _log_to_replace(checkout: Checkout, refs: RefStore) -> TransactionLog:
    """Return the log of the snapshot that an amendment replaces.

    Raises
    ------
    SessionStateError
        Kind ``no-amend-for-initial-commit``, or ``rearrange-session-only``.
    FormatError
        Kind ``unsupported-spec-version``; version 1 has no amending.
    """
    base = checkout.snapshot_id
    if (await refs.record_to_amend(base)).parent_id is None:
        raise SessionStateError(
            "the initial snapshot cannot be amended: commit instead.",
            ErrorKind.NO_AMEND_FOR_INITIAL_COMMIT,
        )
    log = await checkout.assets.transaction_log(base)
    if log.moved_nodes and checkout.mode is not SessionMode.rearrange:
        raise SessionStateError(
            f"snapshot {id_text(base)} moved nodes, so edits cannot amend it. Commit instead, or "
            "amend it with further moves from repo.rearrange_session(branch).",
            ErrorKind.REARRANGE_SESSION_ONLY,
        )
    return log


# -- manifests --------------------------------------------------------------------------------


async def write_manifests(
    assets: AssetManager,
    nodes: Sequence[NodeSnapshot],
    changes: ChangeSet,
    reuse: _Reuse,
    started: Started,
    *,
    rewrite: bool,
) -> tuple[dict[NodeId, ManifestRefs], ManifestFiles]:
    """Start writing the manifests that changes need.

    Returns
    -------
    dict of NodeId to ManifestRefs
        All manifests of each array that was looked at, kept and new.
    ManifestFiles
        The files that were written, by this attempt or a reused one.
    """

    async def one(node: NodeSnapshot) -> _WrittenManifests:
        table = changes.chunk_table(node.id, len(node.shape))
        grid = tuple(dim.num_chunks for dim in node.shape)
        old_ids = node.manifests.ids.tobytes()
        earlier = reuse.by_node.get(node.id)
        if (
            earlier is not None
            and earlier.table is table
            and (earlier.old_ids, earlier.grid) == (old_ids, grid)
        ):
            return earlier
        refs, files = await _write_array(assets, node, table, grid, started, rewrite=rewrite)
        written = _WrittenManifests(old_ids, table, grid, refs, files)
        reuse.by_node[node.id] = written
        return written

    results = await gather_limited(_CONCURRENT_ARRAYS, [one(node) for node in nodes])
    refs = {node.id: written.refs for node, written in zip(nodes, results, strict=True)}
    return refs, ManifestFiles.concat([written.files for written in results])


async def _write_array(
    assets: AssetManager,
    node: NodeSnapshot,
    changes: ChunkTable,
    grid: tuple[int, ...],
    started: Started,
    *,
    rewrite: bool,
) -> tuple[ManifestRefs, ManifestFiles]:
    split = split_of(node, assets.config.splitting)
    if rewrite:
        plan = ManifestPlan.rewriting(node.manifests)
    else:
        small = SMALL_MANIFEST if assets.config.splitting is None else 0
        plan = plan_manifests(node.manifests, changes.coords, grid, split, small=small)

    async def load(which: int) -> list[ChunkTable]:
        async with assets.fetches_during_commit:
            manifest = await assets.manifest(node.manifests.id_at(which))
        return [table for node_id, table in manifest.arrays if node_id == node.id]

    loads = [load(int(which)) for which in plan.load]
    loaded = [t for tables in await gather_limited(_CONCURRENT_READS, loads) for t in tables]
    tables = split_table(loaded, changes, grid, split)
    manifests = [Manifest(id=new_object_id(), arrays=((node.id, table),)) for table in tables]
    sizes = await gather_limited(
        _CONCURRENT_ARRAYS, [assets.write_manifest(manifest, started) for manifest in manifests]
    )
    new = ManifestRefs.of(
        [m.id for m in manifests], [table.extent() for table in tables], len(grid)
    )
    files = ManifestFiles.of([m.id for m in manifests], sizes, [len(table) for table in tables])
    if not len(plan.keep):
        return new, files
    return node.manifests.take(plan.keep).joined(new), files


# -- rebase -----------------------------------------------------------------------------------


async def rebase_changes(checkout: Checkout, branch: str, solver: ConflictSolver) -> None:
    """Move a checkout's changes onto the tip of a branch; nothing is written.

    Raises
    ------
    RebaseFailedError
        The solver did not resolve the conflicts with one commit. The checkout is then on the last
        commit before it, with its changes as they were resolved so far.
    SessionStateError
        Kind ``rebase-tx-log-pruned``; a transaction log is gone, conflicts cannot be found.
    ConflictError
        Kind ``commit-conflict``; the base is no ancestor of the tip: the branch was reset.
    """
    refs = await read_refs(checkout.assets)
    tip = await refs.find_branch(branch)
    if tip is not None and tip != checkout.snapshot_id:
        await _rebase_onto(checkout, refs, tip, solver)


async def _rebase_onto(
    checkout: Checkout, refs: RefStore, tip: ObjectId, solver: ConflictSolver
) -> None:
    """Move a checkout's changes onto a commit; raises as `rebase_changes`."""
    assets = checkout.assets
    with checkout.lock:
        changes = effective_changes(checkout.base.nodes, checkout.changes)
    # Both at once: the less time from reading the refs to writing them, the less others get ahead.
    reads: list[Any] = [
        replay_changes(checkout, refs, tip, changes, solver),
        assets.snapshot(tip),
    ]
    outcome, snapshot = await gather_limited(len(reads), reads)
    if outcome.failure is None:
        checkout.rebased(snapshot, outcome.changes)
        return
    checkout.rebased(await assets.snapshot(outcome.reached), outcome.changes)
    raise outcome.failure


async def require_unconflicted(checkout: Checkout, tip: ObjectId) -> None:
    """Refuse changes of a fork that conflict with what was committed after its base.

    Raises
    ------
    RebaseFailedError
        Kind ``rebase-failed``; names the arrays and chunks in conflict.
    ConflictError
        Kind ``commit-conflict``; the fork's base is no ancestor of ``tip``.
    """
    await checkout.ready()
    refs = await read_refs(checkout.assets)
    outcome = await replay_changes(checkout, refs, tip, checkout.changes, ConflictDetector())
    if outcome.failure is not None:
        raise outcome.failure


@dataclass(frozen=True, slots=True)
class Replayed:
    """Changes after they met the commits of others.

    Parameters
    ----------
    changes : ChangeSet
        As the solver left them.
    reached : ObjectId
        The last commit they went past.
    failure : RebaseFailedError or None
        What stopped them there.
    """

    changes: ChangeSet
    reached: ObjectId
    failure: RebaseFailedError | None = None


async def replay_changes(
    checkout: Checkout, refs: RefStore, tip: ObjectId, changes: ChangeSet, solver: ConflictSolver
) -> Replayed:
    """Hold changes against every commit after the checkout's base, oldest first.

    Raises
    ------
    ConflictError
        Kind ``commit-conflict``; the base is no ancestor of ``tip``.
    SessionStateError
        Kind ``rebase-tx-log-pruned``; a transaction log is gone.
    """
    assets, base = checkout.assets, checkout.base.nodes
    reached = checkout.snapshot_id
    records = await _commits_between(refs, reached, tip)
    logs = await gather_limited(_CONCURRENT_READS, [_logs_of(assets, record) for record in records])
    for record, record_logs in zip(records, logs, strict=True):
        # The rules look into their nodes only for nodes that we created, deleted or moved, and
        # where attributes may be told from other metadata.
        looks = bool(
            changes.new_nodes
            or changes.deleted
            or changes.moves
            or (changes.updated and solver.attributes_kept is not VersionSelection.Fail)
        )
        theirs = (await assets.snapshot(record.id)).nodes if looks else base
        for log in record_logs:
            changes, conflicts = solve(Comparison(log, theirs, changes, base), solver)
            if conflicts:
                return Replayed(changes, reached, rebase_failure(record, conflicts))
        reached = record.id
    return Replayed(changes, reached)


async def _commits_between(refs: RefStore, base: ObjectId, tip: ObjectId) -> list[SnapshotRecord]:
    """Return the commits after ``base`` up to ``tip``, oldest first."""
    behind: list[SnapshotRecord] = []
    async for record in refs.ancestors(tip):
        if record.id == base:
            return behind[::-1]
        behind.append(record)
    raise ConflictError(
        id_text(base),
        id_text(tip),
        f"the branch no longer contains snapshot {id_text(base)}, which the session is based on: "
        "it was reset or amended. Open a new session and make the changes again.",
    )


async def _logs_of(assets: AssetManager, record: SnapshotRecord) -> list[TransactionLog]:
    """Return the logs of a commit and of the commits that were pruned before it, oldest first."""
    logs = []
    for snapshot_id in (*record.pruned_logs, record.id):
        try:
            logs.append(await assets.transaction_log(snapshot_id))
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
            raise SessionStateError(
                f"cannot rebase: the transaction log of snapshot {id_text(snapshot_id)} is gone, "
                "so conflicts with it cannot be found. Open a new session and make the changes "
                "again.",
                ErrorKind.REBASE_TX_LOG_PRUNED,
            ) from e
    return logs
