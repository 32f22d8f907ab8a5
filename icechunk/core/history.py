"""Changes of branches, tags and the snapshot graph, as pure functions of the repo state.

Source: Icechunk specification, sections "Contents" (of the repo object) and "Refs over history".
Each returns what `icechunk.assets.refs.update_repo` wants: a function that checks its
preconditions on the state it is given and returns the changed state and the log entry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from icechunk.core.features import Feature, require_feature
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    InvalidInputError,
    RefNotFoundError,
    SessionStateError,
    SnapshotNotFoundError,
)
from icechunk.format.repo_info import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    NewCommit,
    NewDetachedSnapshot,
    RepoInfo,
    SnapshotRecord,
    TagCreated,
    TagDeleted,
)
from icechunk.ids import ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from icechunk.format.repo_info import UpdateKind
    from icechunk.format.snapshot import Snapshot

    Change = Callable[[RepoInfo], tuple[RepoInfo, UpdateKind]]

MAIN: Final = "main"
_SHOWN: Final = 10


def tip_of_branch(info: RepoInfo, branch: str) -> ObjectId:
    """Return the snapshot a branch points at.

    Raises
    ------
    RefNotFoundError
        Kind ``ref-not-found``; the message lists the branches there are.
    """
    return _ref(info.branches, branch, "branch")


def target_of_tag(info: RepoInfo, tag: str) -> ObjectId:
    """Return the snapshot a tag points at.

    Raises
    ------
    RefNotFoundError
        Kind ``ref-not-found``; the message lists the tags there are.
    """
    return _ref(info.tags, tag, "tag")


def _ref(refs: Mapping[str, ObjectId], name: str, what: str) -> ObjectId:
    found = refs.get(name)
    if found is None:
        raise no_such_ref(refs, name, what)
    return found


def no_such_ref(there: Iterable[str], name: str, what: str) -> RefNotFoundError:
    """Return the error of a branch or tag that does not exist; it lists those that do."""
    names = sorted(there)
    shown = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
    return RefNotFoundError(
        f"no {what} {name!r}. There {'are' if names else 'is no ' + what} {shown}".rstrip() + ".",
        ErrorKind.REF_NOT_FOUND,
    )


def require_snapshot(info: RepoInfo, snapshot_id: ObjectId) -> SnapshotRecord:
    """Return the record of a snapshot.

    Raises
    ------
    SnapshotNotFoundError
        Kind ``snapshot-not-found``; it is not registered in the repository.
    """
    record = info.snapshots.get(snapshot_id)
    if record is None:
        raise SnapshotNotFoundError(
            f"no snapshot {id_text(snapshot_id)} in this repository. It never was, or it expired "
            "and was collected; repo.ancestry(branch=...) lists what there is.",
            ErrorKind.SNAPSHOT_NOT_FOUND,
        )
    return record


def require_branch(info: RepoInfo, branch: str) -> ObjectId:
    """Return the tip of a branch a session is on.

    Raises
    ------
    RefNotFoundError
        Kind ``branch-not-found``.
    """
    tip = info.branches.get(branch)
    if tip is None:
        raise RefNotFoundError(
            f"branch {branch!r} was deleted since the session was opened. Create it again at the "
            "session's snapshot to commit there.",
            ErrorKind.BRANCH_NOT_FOUND,
        )
    return tip


def moved(expected: ObjectId | None, actual: ObjectId | None) -> ConflictError:
    """Return the error of a commit to a branch that moved; no actual one: it was deleted."""
    base = None if expected is None else id_text(expected)
    if actual is None:
        return ConflictError(
            base,
            None,
            "the branch was deleted since the session was opened. Create it again at the session's "
            "snapshot to commit there.",
        )
    return ConflictError(base, id_text(actual))


def record_of(
    snapshot: Snapshot, parent_id: ObjectId | None, pruned_logs: Sequence[ObjectId] = ()
) -> SnapshotRecord:
    """Return what a repository's history holds of a snapshot."""
    return SnapshotRecord(
        id=snapshot.id,
        parent_id=parent_id,
        flushed_at_us=snapshot.flushed_at_us,
        message=snapshot.message,
        metadata=snapshot.metadata,
        pruned_logs=pruned_logs,
    )


@dataclass(frozen=True, slots=True)
class Fence:
    """A condition on the metadata of the repository, looked at when a commit takes place.

    Whoever puts another value there stops the commits that were prepared before, however late they
    come.

    Parameters
    ----------
    key : str
        Of the metadata.
    value : str or None
        What it must be; None for not there.
    """

    key: str
    value: str | None


def advance_branch(
    branch: str, snapshot: Snapshot, base: ObjectId, fence: Fence | None = None
) -> Change:
    """Plan to make a new snapshot the tip of a branch that is at ``base``."""

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        _require_at(info, branch, base)
        if fence is not None and info.metadata.get(fence.key) != fence.value:
            raise SessionStateError(
                "the commit was stopped: another process took it over while this one was paused, "
                f"and went on ({fence.key} in the repository's metadata). See what became of it.",
                ErrorKind.NOT_ALLOWED,
            )
        return (
            _with_tip(info, branch, record_of(snapshot, base)),
            NewCommit(branch=branch, new_snap_id=snapshot.id),
        )

    return change


def amend_branch(branch: str, snapshot: Snapshot, base: ObjectId) -> Change:
    """Plan to put a new snapshot in the place of ``base``, the tip of a branch."""

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        _require_at(info, branch, base)
        replaced = require_snapshot(info, base)
        record = record_of(snapshot, replaced.parent_id, replaced.pruned_logs)
        return (
            _with_tip(info, branch, record),
            CommitAmended(branch=branch, previous_snap_id=base, new_snap_id=snapshot.id),
        )

    return change


def register_snapshot(snapshot: Snapshot, base: ObjectId) -> Change:
    """Plan a new snapshot after ``base`` that no branch points at."""

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        require_snapshot(info, base)
        snapshots = info.snapshots.inserted(record_of(snapshot, base))
        return replace(info, snapshots=snapshots), NewDetachedSnapshot(new_snap_id=snapshot.id)

    return change


def _require_at(info: RepoInfo, branch: str, base: ObjectId) -> None:
    tip = require_branch(info, branch)
    if tip != base:
        raise moved(base, tip)


def _with_tip(info: RepoInfo, branch: str, record: SnapshotRecord) -> RepoInfo:
    branches = {**info.branches, branch: record.id}
    return replace(info, branches=branches, snapshots=info.snapshots.inserted(record))


def check_ref_name(name: str, what: str) -> None:
    """Refuse a name that other implementations could not address.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-ref-name``; empty, or not encodable as UTF-8.
    """
    try:
        if isinstance(name, str) and name.encode("utf-8"):
            return
    except UnicodeEncodeError:
        pass
    raise InvalidInputError(
        f"not a {what} name: {name!r}. Expected non-empty text.", ErrorKind.INVALID_REF_NAME
    )


def create_branch(branch: str, snapshot_id: ObjectId) -> Change:
    """Plan a new branch at a snapshot."""
    check_ref_name(branch, "branch")

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        if branch in info.branches:
            raise AlreadyExistsError(
                f"branch {branch!r} exists already, at {id_text(info.branches[branch])}. Use "
                "reset_branch to move it.",
                ErrorKind.BRANCH_ALREADY_EXISTS,
            )
        require_snapshot(info, snapshot_id)
        branches = {**info.branches, branch: snapshot_id}
        return replace(info, branches=branches), BranchCreated(name=branch)

    return change


def refuse_main(branch: str) -> None:
    """Refuse to delete ``main``; raises `SessionStateError`, kind ``cannot-delete-main``."""
    if branch == MAIN:
        raise SessionStateError("branch 'main' cannot be deleted.", ErrorKind.CANNOT_DELETE_MAIN)


def delete_branch(branch: str) -> Change:
    """Plan the end of a branch; its snapshots stay until they are collected."""
    refuse_main(branch)

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        tip = tip_of_branch(info, branch)
        branches = {name: at for name, at in info.branches.items() if name != branch}
        return (
            replace(info, branches=branches),
            BranchDeleted(name=branch, previous_snap_id=tip),
        )

    return change


def not_reset(branch: str, expected: ObjectId, tip: ObjectId) -> ConflictError:
    """Return the error of a branch that is not where a reset expected it."""
    return ConflictError(
        id_text(expected),
        id_text(tip),
        f"branch {branch!r} was not reset: it is at {id_text(tip)}, not at {id_text(expected)}. "
        "Look at what was committed there first.",
        ErrorKind.BRANCH_UPDATE_CONFLICT,
    )


def reset_branch(branch: str, snapshot_id: ObjectId, expected: ObjectId | None) -> Change:
    """Plan to point a branch at another snapshot; ``expected`` is where it must be now."""

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        tip = tip_of_branch(info, branch)
        if expected is not None and tip != expected:
            raise not_reset(branch, expected, tip)
        require_snapshot(info, snapshot_id)
        branches = {**info.branches, branch: snapshot_id}
        return (
            replace(info, branches=branches),
            BranchReset(name=branch, previous_snap_id=tip),
        )

    return change


def create_tag(tag: str, snapshot_id: ObjectId) -> Change:
    """Plan a new tag; a tag never moves."""
    check_ref_name(tag, "tag")

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        require_feature(info, Feature.CREATE_TAG)
        if tag in info.tags:
            raise AlreadyExistsError(
                f"tag {tag!r} exists already, at {id_text(info.tags[tag])}; tags never move.",
                ErrorKind.TAG_ALREADY_EXISTS,
            )
        if tag in info.deleted_tags:
            raise AlreadyExistsError(
                f"tag {tag!r} was used and deleted; its name cannot be used again.",
                ErrorKind.TAG_PREVIOUSLY_DELETED,
            )
        require_snapshot(info, snapshot_id)
        return replace(info, tags={**info.tags, tag: snapshot_id}), TagCreated(name=tag)

    return change


def delete_tag(tag: str) -> Change:
    """Plan the end of a tag; its name is used up for ever."""

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        require_feature(info, Feature.DELETE_TAG)
        target = target_of_tag(info, tag)
        return (
            replace(
                info,
                tags={name: at for name, at in info.tags.items() if name != tag},
                deleted_tags=info.deleted_tags | {tag},
            ),
            TagDeleted(name=tag, previous_snap_id=target),
        )

    return change
