"""The commands ``log``, ``show`` and ``diff``."""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icechunk.cli import render
from icechunk.cli.console import Output
from icechunk.cli.options import REF_HELP, AsJson, Repo, StorageOptions
from icechunk.cli.repos import (
    names_by_snapshot,
    open_repository,
    resolve,
    session_at,
    snapshot_data,
)
from icechunk.core.spans import grid_spans

if TYPE_CHECKING:
    from icechunk.repository import Repository
    from icechunk.snapshots import Diff

Ref = Annotated[str, typer.Argument(metavar="REF", help=REF_HELP)]


def log(
    repo: Repo,
    ref: Ref = "main",
    *,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, metavar="N", help="Show the newest N only."),
    ] = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Show the history of a branch, tag or snapshot, newest first.

    For example:
      icechunk log my-repo
      icechunk log my-repo v1.0 -n 5
      icechunk log s3://bucket/my-repo -o region=eu-west-1 --json
    """
    repository = open_repository(repo, storage_option)
    start = resolve(repository, ref)
    names = names_by_snapshot(repository)
    ancestry = repository.ancestry(snapshot_id=start.snapshot_id)
    data = [snapshot_data(info, names) for info in islice(ancestry, limit)]
    Output.from_streams(as_json=as_json).show(data, render.history(data))


def show(
    repo: Repo,
    ref: Ref = "main",
    *,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Show one commit: message, metadata, what it changed, what it holds.

    For example:
      icechunk show my-repo
      icechunk show my-repo main~1
      icechunk show my-repo B600 --json
    """
    repository = open_repository(repo, storage_option)
    target = resolve(repository, ref)
    info = repository.lookup_snapshot(target.snapshot_id)
    data = snapshot_data(info, names_by_snapshot(repository))
    files = session_at(repository, target).checkout.base.snapshot.manifest_files
    data["manifests"] = {
        "files": len(files),
        "size_bytes": int(files.size_bytes.sum()),
        "chunk_references": int(files.num_chunk_refs.sum()),
    }
    data["changes"] = None
    if info.parent_id is not None:
        changes = repository.diff(from_snapshot_id=info.parent_id, to_snapshot_id=info.id)
        data["changes"] = diff_data(changes)
    Output.from_streams(as_json=as_json).show(data, render.commit(data))


def diff(
    repo: Repo,
    start: Annotated[str, typer.Argument(metavar="FROM", help=REF_HELP, show_default=False)],
    stop: Annotated[str, typer.Argument(metavar="TO", help="A descendant of FROM.")] = "main",
    *,
    chunks: Annotated[
        bool, typer.Option("--chunks", help="List every changed chunk's coordinates.")
    ] = False,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Show what changed between two commits.

    For example:
      icechunk diff my-repo main~1
      icechunk diff my-repo v1.0 v2.0
      icechunk diff my-repo v1.0 main --chunks --json
    """
    repository = open_repository(repo, storage_option)
    data = _diff_between(repository, start, stop, with_coordinates=chunks)
    Output.from_streams(as_json=as_json).show(data, render.difference(data))


def _diff_between(
    repository: Repository, start: str, stop: str, *, with_coordinates: bool
) -> dict[str, Any]:
    first, last = resolve(repository, start), resolve(repository, stop)
    ends = {"from": first.snapshot_id, "to": last.snapshot_id}
    if first.snapshot_id == last.snapshot_id:
        # The library refuses this; for people and scripts "no difference" is the useful answer.
        return {**ends, **empty_diff_data()}
    changes = repository.diff(from_snapshot_id=first.snapshot_id, to_snapshot_id=last.snapshot_id)
    return {**ends, **diff_data(changes, with_coordinates=with_coordinates)}


_NODE_SETS = (
    "new_groups", "new_arrays", "updated_groups", "updated_arrays", "deleted_groups",
    "deleted_arrays",
)  # fmt: skip


def empty_diff_data() -> dict[str, Any]:
    """Return the difference of a snapshot from itself."""
    return {**{name: [] for name in _NODE_SETS}, "updated_chunks": {}, "moved_nodes": []}


def diff_data(changes: Diff, *, with_coordinates: bool = False) -> dict[str, Any]:
    """Return a difference as plain data.

    Parameters
    ----------
    changes : Diff
        What the library found.
    with_coordinates : bool
        Also list every changed chunk; else their number and the ranges that cover them.

    Returns
    -------
    dict
        Sorted paths by kind of change, chunks by array, and moves.
    """
    data: dict[str, Any] = {name: sorted(getattr(changes, name)) for name in _NODE_SETS}
    data["updated_chunks"] = {}
    for path, coordinates in sorted(changes.updated_chunks.items()):
        # An array may have taken the place of one with another number of dimensions.
        ranks = sorted(set(map(len, coordinates)))
        spans = (grid_spans([c for c in coordinates if len(c) == rank]) for rank in ranks)
        entry: dict[str, Any] = {"count": len(coordinates), "ranges": [*chain(*spans)]}
        if with_coordinates:
            entry["coordinates"] = coordinates
        data["updated_chunks"][path] = entry
    data["moved_nodes"] = [{"from": old, "to": new} for old, new in changes.moved_nodes]
    return data
