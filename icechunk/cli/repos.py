"""From what a user types to a repository, a snapshot, a session."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import parse_pairs
from icechunk.errors import (
    IcechunkError,
    InvalidInputError,
    RefNotFoundError,
    RepositoryNotFoundError,
)
from icechunk.ids import OBJECT_ID_BYTES
from icechunk.inputs.kinds import is_url
from icechunk.repository import Repository
from icechunk.storage.url import storage_for_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.session import Session
    from icechunk.snapshots import SnapshotInfo
    from icechunk.storage import Storage

_ID_CHARACTERS: Final = -(-OBJECT_ID_BYTES * 8 // 5)
_SHORTEST_PREFIX: Final = 4


def storage_at(location: str, options: list[str] | None) -> Storage:
    """Return the storage a location names; nothing is read.

    Raises
    ------
    CommandError
        When the URL or an option is not understood.
    """
    pairs = parse_pairs(options, "--storage-option")
    place = location if is_url(location) else str(Path(location).expanduser())
    try:
        return storage_for_url(place, **pairs)
    except InvalidInputError as error:
        raise CommandError(f"{location}: {error.message}", None, ExitCode.USAGE) from error


def open_repository(location: str, options: list[str] | None) -> Repository:
    """Open the repository at a location.

    Raises
    ------
    CommandError
        When there is none; the hint says what is there instead.
    """
    try:
        return Repository.open(storage_at(location, options))
    except RepositoryNotFoundError as error:
        raise CommandError(
            f"no repository at {location}", _what_is_there(location), ExitCode.NOT_FOUND
        ) from error


def _what_is_there(location: str) -> str:
    if is_url(location):
        return "Check the bucket, the prefix and the storage options."
    path = Path(location).expanduser()
    if path.is_file():
        return f"It is a file. To store its data: icechunk ingest {location} REPO"
    if any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return f"It is a plain Zarr store. To store its data: icechunk ingest {location} REPO"
    if path.is_dir():
        inside = [child.name for child in sorted(path.iterdir()) if (child / "repo").is_file()]
        found = f"There is one inside: {path / inside[0]}" if inside else None
        return found or "The directory is there, but holds no repository."
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    close = get_close_matches(path.name, [c.name for c in siblings if (c / "repo").is_file()], n=1)
    found = f"Did you mean {path.parent / close[0]}?" if close else None
    return found or "`icechunk ingest SOURCE REPO` creates one, and `icechunk demo` shows how."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ref:
    """What a user's text names in a repository.

    Parameters
    ----------
    kind : str
        ``branch``, ``tag`` or ``snapshot``.
    name : str
        Name of the branch or tag, or the id.
    snapshot_id : str
        The snapshot meant.
    """

    kind: str
    name: str
    snapshot_id: str


def resolve(repo: Repository, text: str) -> Ref:
    """Return the snapshot that a branch, tag, id, start of an id, or ``NAME~N`` means.

    Raises
    ------
    CommandError
        When nothing, or more than one thing, has that name.
    """
    base, tilde, steps = text.rpartition("~")
    if tilde and steps.isdecimal():
        return _ancestor(repo, text, _resolve_name(repo, base), int(steps))
    return _resolve_name(repo, text)


def _ancestor(repo: Repository, text: str, start: Ref, steps: int) -> Ref:
    for index, info in enumerate(repo.ancestry(snapshot_id=start.snapshot_id)):
        if index == steps:
            return Ref(kind="snapshot", name=info.id, snapshot_id=info.id)
    raise CommandError(
        f"{text}: {start.name} has fewer than {steps} ancestors", None, ExitCode.NOT_FOUND
    )


def _resolve_name(repo: Repository, text: str) -> Ref:
    kind, colon, name = text.partition(":")
    if colon and kind in {"branch", "tag"}:
        tip = repo.lookup_branch(name) if kind == "branch" else repo.lookup_tag(name)
        return Ref(kind=kind, name=name, snapshot_id=tip)
    branches, tags = repo.list_branches(), repo.list_tags()
    if text in branches and text in tags:
        raise CommandError(
            f"{text} is both a branch and a tag",
            f"Write branch:{text} or tag:{text}.",
            ExitCode.USAGE,
        )
    if text in branches:
        return Ref(kind="branch", name=text, snapshot_id=repo.lookup_branch(text))
    if text in tags:
        return Ref(kind="tag", name=text, snapshot_id=repo.lookup_tag(text))
    matches = _snapshots_starting_with(repo, text.upper())
    if len(matches) == 1:
        return Ref(kind="snapshot", name=matches[0], snapshot_id=matches[0])
    if matches:
        raise CommandError(
            f"{text} is the start of {len(matches)} snapshot ids",
            f"Such as {', '.join(matches[:3])}.",
            ExitCode.USAGE,
        )
    raise CommandError(
        f"no branch, tag or snapshot is called {text}",
        _names_hint(text, {*branches, *tags}),
        ExitCode.NOT_FOUND,
    )


def _names_hint(text: str, names: set[str]) -> str:
    close = get_close_matches(text, names, n=1)
    if close:
        return f"Did you mean {close[0]}?"
    shown = sorted(names)[:8]
    more = ", ..." if len(names) > len(shown) else ""
    return f"There are: {', '.join(shown)}{more}"


def known_snapshots(repo: Repository) -> Iterator[SnapshotInfo]:
    """Yield every snapshot that a branch or tag leads to, once."""
    tips = [repo.lookup_branch(name) for name in sorted(repo.list_branches())]
    tips += [repo.lookup_tag(name) for name in sorted(repo.list_tags())]
    seen: set[str] = set()
    for tip in tips:
        for info in repo.ancestry(snapshot_id=tip):
            if info.id in seen:
                break
            seen.add(info.id)
            yield info


def _snapshots_starting_with(repo: Repository, prefix: str) -> list[str]:
    if len(prefix) == _ID_CHARACTERS:
        try:
            return [repo.lookup_snapshot(prefix).id]
        except IcechunkError:
            return []
    if len(prefix) < _SHORTEST_PREFIX:
        return []
    return [info.id for info in known_snapshots(repo) if info.id.startswith(prefix)]


def session_at(repo: Repository, ref: Ref) -> Session:
    """Return a read-only session on what a reference means."""
    return repo.readonly_session(snapshot_id=ref.snapshot_id)


def branch_tip(repo: Repository, name: str) -> str:
    """Return the snapshot a branch is at.

    Raises
    ------
    CommandError
        When there is no such branch; the hint names one that is close.
    """
    try:
        return repo.lookup_branch(name)
    except RefNotFoundError as error:
        hint = _names_hint(name, set(repo.list_branches()))
        raise CommandError(f"no branch is called {name}", hint, ExitCode.NOT_FOUND) from error


def tag_target(repo: Repository, name: str) -> str:
    """Return the snapshot a tag is on.

    Raises
    ------
    CommandError
        When there is no such tag; the hint names one that is close.
    """
    try:
        return repo.lookup_tag(name)
    except RefNotFoundError as error:
        names = set(repo.list_tags())
        hint = _names_hint(name, names) if names else "The repository has no tags."
        raise CommandError(f"no tag is called {name}", hint, ExitCode.NOT_FOUND) from error


def names_by_snapshot(repo: Repository) -> dict[str, dict[str, list[str]]]:
    """Return the branches and tags on each snapshot, by snapshot id."""
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(repo.list_branches()):
        entry = found.setdefault(repo.lookup_branch(name), {"branches": [], "tags": []})
        entry["branches"].append(name)
    for name in sorted(repo.list_tags()):
        entry = found.setdefault(repo.lookup_tag(name), {"branches": [], "tags": []})
        entry["tags"].append(name)
    return found


def snapshot_data(info: SnapshotInfo, names: dict[str, dict[str, list[str]]]) -> dict[str, Any]:
    """Return one snapshot as plain data."""
    on_it = names.get(info.id, {"branches": [], "tags": []})
    return {
        "id": info.id,
        "parent_id": info.parent_id,
        "written_at": info.written_at,
        "message": info.message,
        "metadata": dict(info.metadata),
        **on_it,
    }
