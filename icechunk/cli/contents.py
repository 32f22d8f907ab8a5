"""The commands ``ls`` and ``tree``.

They read what the snapshot says of each node, and open no arrays: so a data type or codec that this
machine does not know is shown like any other.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from icechunk._trees import node_tree
from icechunk.cli import render
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import REF_HELP, AsJson, Repo, StorageOptions
from icechunk.cli.repos import open_repository, resolve, session_at
from icechunk.format.snapshot import NodeKind
from icechunk.outline import children_of, data_at, node_data, tree_data
from icechunk.paths import is_within

if TYPE_CHECKING:
    from icechunk.format.snapshot import NodeTable

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
    nodes = _nodes_of(repo, storage_option, ref)
    start = _existing(nodes, path)
    node = nodes.get(start)
    if node is not None and node.kind is NodeKind.ARRAY:
        data = [node_data(node)]
    else:
        data = [data_at(nodes, child) for child in children_of(nodes.paths, start)]
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
    nodes = _nodes_of(repo, storage_option, ref)
    data = tree_data(nodes, _existing(nodes, path), depth)
    Output.from_streams(as_json=as_json).show(data, node_tree(data))


def _nodes_of(repo: str, storage_option: list[str] | None, ref: str) -> NodeTable:
    repository = open_repository(repo, storage_option)
    session = session_at(repository, resolve(repository, ref))
    return session.checkout.base.snapshot.nodes


def _existing(nodes: NodeTable, path: str) -> str:
    """Return an absolute path at or above a node; the root always is one."""
    start = "/" + path.strip("/")
    if start == "/" or any(is_within(other, start) for other in nodes.paths):
        return start
    close = get_close_matches(start, nodes.paths, n=1)
    hint = f"Did you mean {close[0]}?" if close else None
    raise CommandError(f"no group or array at {start}", hint, ExitCode.NOT_FOUND)
