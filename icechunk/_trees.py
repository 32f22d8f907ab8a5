"""Groups and arrays as a tree for a terminal or a notebook, from the data of `icechunk.outline`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text
from rich.tree import Tree

from icechunk._units import bytes_text, shape_text

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME: Final = "bold"
QUIET: Final = "dim"
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Return text of unknown origin without control characters, which could steer the terminal."""
    return _CONTROL.sub("�", text.replace("\r\n", "\n"))


def dims_text(data: Mapping[str, Any]) -> str:
    """Return the dimensions of an array, with their names where it has any."""
    names = data["dimension_names"]
    if not names:
        return shape_text(data["shape"])
    sides = zip(names, data["shape"], strict=True)
    return ", ".join(f"{clean(name)} {size}" if name else str(size) for name, size in sides)


def size_text(data: Mapping[str, Any]) -> str:
    """Return the size of an array's values, nothing where its type does not say."""
    return "" if data["size_bytes"] is None else bytes_text(data["size_bytes"])


def node_tree(data: Mapping[str, Any]) -> Tree:
    """Return nested nodes as a tree."""
    root = Tree(_node_label(data), guide_style=QUIET)
    _grow(root, data)
    return root


def _grow(branch: Tree, data: Mapping[str, Any]) -> None:
    for child in data.get("children", ()):
        _grow(branch.add(_node_label(child)), child)


def _node_label(data: Mapping[str, Any]) -> Text:
    name = clean(data["name"]) or data["path"]
    if data["kind"] == "group":
        label = Text(name, style="bold blue")
        if hidden := data.get("not_shown"):
            label.append(f"  {hidden:,} not shown", QUIET)
        elif not data.get("children", True):
            label.append("  empty", QUIET)
        return label
    facts = f"  {data['dtype']}  ({dims_text(data)})  {size_text(data)}"
    return Text.assemble((name, NAME), (facts, QUIET))
