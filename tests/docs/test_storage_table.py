"""The table of storages says what the classes declare."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import icechunk.storage
from icechunk.storage._backends import _MODULES
from icechunk.storage.base import CAPABILITIES, Storage

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "storage.md"


def rows() -> list[dict[str, str]]:
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head = table[0]
    return [dict(zip(head, row, strict=True)) for row in table[2:] if len(row) == len(head)]


def classes() -> dict[str, type[Storage]]:
    found = (getattr(importlib.import_module(m), name) for m, name in _MODULES.values())
    return {c.__name__: c for c in found if issubclass(c, Storage)}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["Backend"])
def test_row(row: dict[str, str]) -> None:
    declared = classes()[row["Class"].strip("`")].capabilities
    for name in CAPABILITIES:
        assert row[name] == ("yes" if name in declared else "no"), name
    for maker in re.findall(r"`(\w+)`", row["Made by"]):
        assert callable(getattr(icechunk.storage, maker))
    assert row["Tested with"]


def test_every_class_and_maker_has_a_row() -> None:
    assert {row["Class"].strip("`") for row in rows()} == set(classes())
    makers = {name for name in icechunk.storage.__all__ if name.endswith("_storage")}
    assert makers == {m for row in rows() for m in re.findall(r"`(\w+)`", row["Made by"])}


def test_capabilities_are_known() -> None:
    for found in classes().values():
        assert found.capabilities <= set(CAPABILITIES)
