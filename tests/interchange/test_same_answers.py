"""The same questions to both packages: the same answers, but for those that differ on purpose."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.peer import environment, run_peer

ROOT = Path(__file__).resolve().parents[2]
QUESTIONS = Path(__file__).with_name("same_answers.py")
PAGE = ROOT / "docs" / "reference" / "differences.md"

# What the answer is about, with the heading of the page that says why ours is another.
ON_PURPOSE = {
    "status.repr": "What is shown",
    "Diff.repr": "What is shown",
    "SnapshotInfo.repr": "What is shown",
    "SnapshotInfo.str": "What is shown",
    "GCSummary.repr": "What is shown",
    "stats.repr": "What is shown",
    "ConflictError.repr": "What is shown",
    "ConflictError.str": "What is shown",
    "Conflict.repr": "What is shown",
    "Conflict.str": "What is shown",
    "c": "What is shown",
    "metadata bad": "Errors",
    "reindex exc": "Errors",
    "plain move": "Errors",
    "ref empty name": "Names and paths",
    "ref list branches": "Names and paths",
    "ops_log": "Names and paths",  # for the branch without a name is not made
    "chunk_type bad rank": "Names and paths",
    "chunk_type rel": "Names and paths",
    "ManifestFileInfo.repr": "Files",
    "ManifestFileInfo.str": "Files",
}


def by_name(answers: list[Any]) -> dict[str, Any]:
    return {name: rest for name, *rest in answers}


def differs(name: str, official: Any, ours: Any) -> bool:
    if name.endswith(".attrs"):  # ours may have more
        return not set(ast.literal_eval(official[2])) <= set(ast.literal_eval(ours[2]))
    return bool(official != ours)


@pytest.mark.peer
def test_the_same_questions_have_the_same_answers() -> None:
    script = QUESTIONS.read_text("utf-8")
    official = by_name(run_peer(script, version="2.3.0"))
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = by_name(json.loads(done.stdout.splitlines()[-1]))
    assert official.keys() == ours.keys()
    found = {n: (official[n], ours[n]) for n in official if differs(n, official[n], ours[n])}
    unknown = {name: found[name] for name in found.keys() - ON_PURPOSE.keys()}
    assert not unknown, json.dumps(unknown, indent=1)
    # Sizes of compressed files may be equal by chance.
    by_chance = {name for name in ON_PURPOSE if name.startswith("ManifestFileInfo.")}
    assert not ON_PURPOSE.keys() - found.keys() - by_chance, "no difference any more"


def test_the_page_says_why() -> None:
    text = PAGE.read_text("utf-8")
    for heading in set(ON_PURPOSE.values()):
        assert f"\n## {heading}\n" in text
