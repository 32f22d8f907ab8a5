"""Groups and arrays as plain data, to show them: one node, or a tree of them.

Read off what a snapshot says of each node; no array is opened, so a data type or codec that this
machine does not know is shown like any other.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icechunk.format.snapshot import NodeKind

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from icechunk.format.snapshot import NodeSnapshot, NodeTable

_RAW_BITS: Final = re.compile(r"r([0-9]+)\Z")
_TIME_BYTES: Final = 8


def children_of(paths: Sequence[str], parent: str) -> list[str]:
    """Return the paths directly below one, those of groups that were never stored included."""
    prefix = parent.rstrip("/") + "/"
    names = {p[len(prefix) :].partition("/")[0] for p in paths if p.startswith(prefix)}
    return [prefix + name for name in sorted(names - {""})]


def data_at(nodes: NodeTable, path: str) -> dict[str, Any]:
    """Return what is at a path as plain data; an empty group where nothing was stored."""
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


def attributes_of(node: NodeSnapshot) -> dict[str, Any]:
    """Return the attributes of a group or array; a NaN in them is a float."""
    attributes: dict[str, Any] = json.loads(node.user_data).get("attributes", {})
    return attributes


def kept_data(data: dict[str, Any], paths: Collection[str]) -> dict[str, Any]:
    """Return a tree of `tree_data` with only some nodes in it, and the groups above those."""
    children = [kept_data(child, paths) for child in data.get("children", ())]
    kept = [child for child in children if child["path"] in paths or child.get("children")]
    return {**data, "children": kept} if "children" in data else data


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
    """Return a node with all below it, nested under ``children``.

    Parameters
    ----------
    nodes : NodeTable
        Where it is.
    path : str
        Absolute path of the node.
    depth : int or None
        How many levels below it; all when None. A group that is not looked into says under
        ``not_shown`` how many nodes it has.
    """
    below: dict[str, set[str]] = {}
    for full in nodes.paths:
        parent, _, name = full.rpartition("/")
        while name and full not in below.setdefault(parent or "/", set()):
            below[parent or "/"].add(full)
            full = parent  # noqa: PLW2901 # groups that were never stored are above it
            parent, _, name = full.rpartition("/")

    def grown(path: str, depth: int | None) -> dict[str, Any]:
        data = data_at(nodes, path)
        if data["kind"] == "group":
            inside = sorted(below.get(path, ()))
            open_here = depth is None or depth > 0
            deeper = None if depth is None else depth - 1
            data["children"] = [grown(child, deeper) for child in inside] if open_here else []
            if inside and not open_here:
                data["not_shown"] = len(inside)
        return data

    return grown(path, depth)
