"""The commands ``ls`` and ``tree``."""

from __future__ import annotations

import math
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer
import zarr

from icechunk.cli import render
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import REF_HELP, AsJson, Repo, StorageOptions
from icechunk.cli.repos import open_repository, resolve, session_at

if TYPE_CHECKING:
    from icechunk.session import Session

NodePath = Annotated[str, typer.Argument(metavar="PATH", help="Group or array in the repository.")]
AtRef = Annotated[str, typer.Option("--ref", "-r", metavar="REF", help=REF_HELP)]


def ls(
    repo: Repo,
    path: NodePath = "/",
    *,
    ref: AtRef = "main",
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """List the groups and arrays directly below a path.

    For example:
      icechunk ls my-repo
      icechunk ls my-repo /forecast --ref v1.0
      icechunk ls my-repo --json
    """
    repository = open_repository(repo, storage_option)
    node = _node_at(session_at(repository, resolve(repository, ref)), path)
    if isinstance(node, zarr.Array):
        data = [node_data(node)]
    else:
        children = node.members(max_depth=0) if node is not None else ()
        data = [node_data(child) for _, child in sorted(children)]
    Output.from_streams(as_json=as_json).show(data, render.listing(data))


def tree(
    repo: Repo,
    path: NodePath = "/",
    *,
    ref: AtRef = "main",
    depth: Annotated[
        int | None, typer.Option("--depth", "-d", min=1, metavar="N", help="Go N levels deep only.")
    ] = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Show all groups and arrays below a path as a tree.

    For example:
      icechunk tree my-repo
      icechunk tree my-repo /forecast --depth 2 --ref v1.0
    """
    repository = open_repository(repo, storage_option)
    node = _node_at(session_at(repository, resolve(repository, ref)), path)
    data = tree_data(node, depth)
    Output.from_streams(as_json=as_json).show(data, render.node_tree(data))


def _node_at(session: Session, path: str) -> zarr.Group | zarr.Array[Any] | None:
    """Open a node; None stands for the root of an empty repository."""
    inner = path.strip("/")
    try:
        return zarr.open(session.store, path=inner, mode="r", zarr_format=3)
    except FileNotFoundError as error:
        if not inner:
            return None
        hint = _near(session, inner)
        raise CommandError(f"no group or array at /{inner}", hint, ExitCode.NOT_FOUND) from error


def _near(session: Session, inner: str) -> str | None:
    root = _node_at(session, "/")
    if not isinstance(root, zarr.Group):
        return "The repository holds no groups or arrays here."
    names = [name for name, _ in root.members(max_depth=None)]
    close = get_close_matches(inner, names, n=1)
    return f"Did you mean /{close[0]}?" if close else None


def node_data(node: zarr.Group | zarr.Array[Any]) -> dict[str, Any]:
    """Return one group or array as plain data; sizes are of uncompressed values."""
    data: dict[str, Any] = {"path": f"/{node.path}", "name": node.basename}
    if isinstance(node, zarr.Group):
        return {**data, "kind": "group", "attributes": dict(node.attrs)}
    chunks = list(getattr(node, "chunks", node.shape))
    return {
        **data,
        "kind": "array",
        "dtype": str(node.dtype),
        "shape": list(node.shape),
        "chunks": chunks,
        "shards": list(node.shards) if node.shards else None,
        "dimension_names": list(getattr(node.metadata, "dimension_names", None) or ()) or None,
        "size_bytes": math.prod(node.shape) * node.dtype.itemsize,
        "attributes": dict(node.attrs),
    }


def tree_data(node: zarr.Group | zarr.Array[Any] | None, depth: int | None) -> dict[str, Any]:
    """Return a node with all below it, nested under ``children``."""
    if node is None:
        return {"path": "/", "name": "", "kind": "group", "attributes": {}, "children": []}
    data = node_data(node)
    if isinstance(node, zarr.Group):
        data["children"] = []
        if depth is None or depth > 0:
            below = None if depth is None else depth - 1
            children = sorted(node.members(max_depth=0), key=lambda item: item[0])
            data["children"] = [tree_data(child, below) for _, child in children]
    return data
