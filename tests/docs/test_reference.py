"""The reference pages name what exists."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import icechunk

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs" / "reference"
ROW = re.compile(r"^\| [^|]+ \| (?P<names>`[^|]+) \| yes \|$", re.MULTILINE)


def supported_names() -> list[str]:
    text = (REFERENCE / "supported.md").read_text("utf-8")
    return [name for row in ROW.finditer(text) for name in re.findall(r"`([^`]+)`", row["names"])]


def find(name: str) -> Any:
    """Return a public name below ``icechunk``: of a class, of a module, or of a module to load."""
    parent, _, last = name.rpartition(".")
    if not parent:
        return getattr(icechunk, name)
    if parent[0].isupper():
        return getattr(getattr(icechunk, parent), last)
    try:
        return getattr(importlib.import_module(f"icechunk.{parent}"), last)
    except AttributeError:
        return importlib.import_module(f"icechunk.{name}")


def test_the_table_has_names() -> None:
    assert len(supported_names()) > 30


@pytest.mark.parametrize("name", supported_names())
def test_what_is_called_supported_exists(name: str) -> None:
    assert find(name) is not None


@pytest.mark.parametrize("name", ["build_spec_map", "build_api"])
def test_generated_pages_are_up_to_date(name: str) -> None:
    path = REFERENCE / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.build() == module.PAGE.read_text("utf-8"), f"run python {path.relative_to(ROOT)}"
