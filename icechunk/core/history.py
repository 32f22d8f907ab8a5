"""Changes of branches, tags and the snapshot graph, as pure functions of the repo state.

Source: Icechunk specification, sections "Contents" (of the repo object) and "Refs over history".
Each returns what `icechunk.assets.refs.update_repo` wants: a function that checks its
preconditions on the state it is given and returns the changed state and the log entry.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

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
    RepoInfo,
    SnapshotRecord,
    TagCreated,
    TagDeleted,
)
from icechunk.ids import ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icechunk.format.repo_info import UpdateKind

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
        names = sorted(refs)
        there = ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
        raise RefNotFoundError(
            f"no {what} {name!r}. There {'are' if names else 'is no ' + what} {there}".rstrip()
            + ".",
            ErrorKind.REF_NOT_FOUND,
        )
    return found


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


def delete_branch(branch: str) -> Change:
    """Plan the end of a branch; its snapshots stay until they are collected."""
    if branch == MAIN:
        raise SessionStateError("branch 'main' cannot be deleted.", ErrorKind.CANNOT_DELETE_MAIN)

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        tip = tip_of_branch(info, branch)
        branches = {name: at for name, at in info.branches.items() if name != branch}
        return (
            replace(info, branches=branches),
            BranchDeleted(name=branch, previous_snap_id=tip),
        )

    return change


def reset_branch(branch: str, snapshot_id: ObjectId, expected: ObjectId | None) -> Change:
    """Plan to point a branch at another snapshot; ``expected`` is where it must be now."""

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        tip = tip_of_branch(info, branch)
        if expected is not None and tip != expected:
            raise ConflictError(
                id_text(expected),
                id_text(tip),
                f"branch {branch!r} was not reset: it is at {id_text(tip)}, not at "
                f"{id_text(expected)}. Look at what was committed there first.",
                ErrorKind.BRANCH_UPDATE_CONFLICT,
            )
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
