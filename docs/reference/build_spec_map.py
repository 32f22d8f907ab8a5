"""Write ``spec-map.md``: which module implements which section of the format description.

usage: python docs/reference/build_spec_map.py

Every module that implements a part of the specification says so in its docstring ("Source: ...").
This collects what they say, so the page cannot be out of date without a test noticing.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_name("spec-map.md")

SECTIONS = {
    "1": "Storage model and object keys",
    "1.1": "Bucket stores",
    "1.2": "Local file system",
    "2": "Identifiers",
    "3": "File envelope",
    "3.1": "Limits a writer must respect",
    "4": "FlatBuffers tables",
    "4.2": "Snapshot (file type 1)",
    "4.3": "Manifest",
    "4.4": "Transaction log",
    "4.5": "Repo (file type 6, v2 only)",
    "5": "Dynamic values",
    "6": "Repository configuration",
    "7": "References in v1",
    "8": "The repo object in v2",
    "8.2": "Operations log",
    "8.3": "Contents",
    "9.1": "Reading a chunk",
    "9.2": "Splitting",
    "9.3": "What a commit does to manifests",
    "9.4": "rewrite_manifests",
    "10": "Virtual chunks",
    "10.1": "Locations and containers",
    "10.3": "Location compression",
    "11.1": "Session",
    "11.2": "Commit",
    "11.3": "Other ways to make snapshots",
    "12": "Transaction log content",
    "13": "Diff",
    "14": "Conflicts and rebase",
    "14.1": "The rebase loop",
    "15": "Node changes in a session",
    "16": "Fork and merge",
    "17": "Expiration",
    "18": "Garbage collection",
    "19": "Move (v2)",
    "20": "Paths",
    "21": "Refs over history, upgrade",
    "22": "Zarr store surface",
    "22.1": "Keys",
    "22.2": "Metadata document checks",
    "23": "Behaviours of the reference not to imitate",
    "24": "Errors",
}
SAME = {
    "Manifests: reading a chunk": "Reading a chunk",
    "Rebase": "The rebase loop",
    "Refs over history": "Refs over history, upgrade",
}
NUMBERS = {title: number for number, title in SECTIONS.items()}

HEAD = """# Specification map

Which modules implement which section of the Icechunk format description. Made by
`docs/reference/build_spec_map.py` from what each module's docstring names as its source.

| Section | Subject | Modules |
|---|---|---|
"""

TAIL = """
## Beside the format

| Keys | What they are | Modules |
|---|---|---|
| `x-shelf/` | [uncommitted change sets](../explanation/exactly-once.md) | `icechunk/shelf.py` |
"""


def sections_of(docstring: str) -> set[str]:
    """Return the numbers of the sections that a docstring names as its source.

    Raises
    ------
    KeyError
        It names one that is not in the table.
    """
    text = " ".join(docstring.split())
    found = set()
    for source in re.finditer(r"Source: (.*?)(?:\.(?= )|\.?$)", text):
        found |= {NUMBERS[SAME.get(t, t)] for t in re.findall(r'"([^"]+)"', source[1])}
        found |= set(re.findall(r"specification section ([0-9.]*[0-9])", source[1]))
    return found


def build() -> str:
    """Return the page."""
    modules: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "icechunk").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        for number in sections_of(docstring):
            modules[number].append(f"`{path.relative_to(ROOT).as_posix()}`")
    rows = [
        f"| {number} | {title} | {', '.join(modules[number])} |"
        for number, title in SECTIONS.items()
        if modules[number]
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


def main() -> int:
    """Write the page."""
    PAGE.write_text(build(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
