"""The commands ``ls`` and ``tree``.

They read what the snapshot says of each node, and open no arrays: so a data type or codec that this
machine does not know is shown like any other.
"""

from __future__ import annotations

import json
import math
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Final

import numpy as np
import typer

from icechunk.cli import render
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import REF_HELP, AsJson, Repo, StorageOptions
from icechunk.cli.repos import open_repository, resolve, session_at
from icechunk.format.snapshot import NodeKind
from icechunk.paths import is_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk.format.snapshot import NodeSnapshot, NodeTable

NodePath = Annotated[str, typer.Argument(metavar="PATH", help="Group or array in the repository.")]
AtRef = Annotated[str, typer.Option("--ref", "-r", metavar="REF", help=REF_HELP)]

_RAW_BITS: Final = re.compile(r"r([0-9]+)\Z")
_TIME_BYTES: Final = 8


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
        data = [_data_at(nodes, child) for child in _children(nodes.paths, start)]
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
    Output.from_streams(as_json=as_json).show(data, render.node_tree(data))


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


def _children(paths: Sequence[str], parent: str) -> list[str]:
    """Return the paths directly below one, those of groups that were never stored included."""
    prefix = parent.rstrip("/") + "/"
    names = {p[len(prefix) :].partition("/")[0] for p in paths if p.startswith(prefix)}
    return [prefix + name for name in sorted(names - {""})]


def _data_at(nodes: NodeTable, path: str) -> dict[str, Any]:
    node = nodes.get(path)
    if node is None:
        name = path.rpartition("/")[2]
        return {"path": path, "name": name, "kind": "group", "attributes": {}}
    return node_data(node)


def node_data(node: NodeSnapshot) -> dict[str, Any]:
    """Return one group or array as plain data.

    Parameters
    ----------
    node : NodeSnapshot
        As the snapshot has it.

    Returns
    -------
    dict
        For an array also its type, shape and chunks; sizes are of uncompressed values, None when
        the type does not say.
    """
    document = json.loads(node.user_data)
    data = {"path": node.path, "name": node.path.rpartition("/")[2]}
    attributes = document.get("attributes", {})
    if node.kind is NodeKind.GROUP:
        return {**data, "kind": "group", "attributes": attributes}
    shape = [dim.array_length for dim in node.shape]
    item_bytes = _item_bytes(document.get("data_type"))
    return {
        **data,
        "kind": "array",
        "dtype": _type_text(document.get("data_type")),
        "shape": shape,
        **_chunk_shapes(document),
        "dimension_names": list(node.dimension_names) if node.dimension_names else None,
        "size_bytes": None if item_bytes is None else math.prod(shape) * item_bytes,
        "attributes": attributes,
    }


def _type_text(data_type: Any) -> str:
    name = data_type.get("name") if isinstance(data_type, dict) else data_type
    return str(name).removeprefix("numpy.")


def _item_bytes(data_type: Any) -> int | None:
    if isinstance(data_type, dict):
        length = data_type.get("configuration", {}).get("length_bytes")
        if isinstance(length, int):
            return length
    name = _type_text(data_type)
    if name in {"datetime64", "timedelta64"}:
        return _TIME_BYTES
    if raw := _RAW_BITS.match(name):
        return int(raw[1]) // 8
    try:
        dtype = np.dtype(name)
    except TypeError:
        return None
    return dtype.itemsize if dtype.kind in "biufc" else None


def _chunk_shapes(document: Any) -> dict[str, Any]:
    """Return the shape of chunks and shards; None for chunks of different sizes."""
    grid = document.get("chunk_grid", {}).get("configuration", {}).get("chunk_shape")
    for codec in document.get("codecs", ()):
        if isinstance(codec, dict) and codec.get("name") == "sharding_indexed":
            return {"chunks": codec.get("configuration", {}).get("chunk_shape"), "shards": grid}
    return {"chunks": grid, "shards": None}


def tree_data(nodes: NodeTable, path: str, depth: int | None) -> dict[str, Any]:
    """Return a node with all below it, nested under ``children``."""
    data = _data_at(nodes, path)
    if data["kind"] == "group":
        below = None if depth is None else depth - 1
        inside = _children(nodes.paths, path) if depth is None or depth > 0 else []
        data["children"] = [tree_data(nodes, child, below) for child in inside]
    return data
