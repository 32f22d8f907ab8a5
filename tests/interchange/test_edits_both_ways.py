"""Amendments, moves, shifts, rewriting and settings: made by one package, read by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.interchange import edits_history
from tests.peer import run_peer

SCRIPT = Path(edits_history.__file__)

pytestmark = pytest.mark.peer


def by_peer(step: str, path: Path) -> Any:
    code = (
        "import json, runpy, sys; "
        f"step = runpy.run_path({str(SCRIPT)!r})[{step!r}]; "
        "print(json.dumps(step(sys.argv[1])))"
    )
    return run_peer(code, path)


def by_us(step: str, path: Path) -> Any:
    return json.loads(json.dumps(getattr(edits_history, step)(str(path))))


SIDES = {"ours": by_us, "official": by_peer}
MESSAGES = [
    "last",
    "moved again",
    "theirs",
    "split again",
    "shifted",
    "moved on",
    "second, better",
    "first",
    "Repository initialized",
]
KINDS = [
    "NewCommit",
    *["RepoStatusChanged"] * 2,
    *["FeatureFlagChanged"] * 3,
    *["MetadataChanged"] * 2,
    *["NewCommit"] * 2,
    "CommitAmended",
    *["NewCommit"] * 2,
    "ConfigChanged",
    "TagCreated",
    "NewDetachedSnapshot",
    "CommitAmended",
    "NewCommit",
    "CommitAmended",
    *["NewCommit"] * 2,
    "RepoInitialized",
]


@pytest.mark.parametrize("writer", SIDES)
@pytest.mark.parametrize("continuer", SIDES)
def test_one_writes_the_other_goes_on_both_read_the_same(
    tmp_path: Path, writer: str, continuer: str
) -> None:
    SIDES[writer]("write", tmp_path)
    assert by_peer("read", tmp_path) == by_us("read", tmp_path)
    SIDES[continuer]("go_on", tmp_path)
    ours = by_us("read", tmp_path)
    assert by_peer("read", tmp_path) == ours
    assert [message for _, _, message, _ in ours["history"]] == MESSAGES
    kinds = [entry.partition("UpdateType.")[2].partition("(")[0] for entry in ours["log"]]
    assert kinds == KINDS
    assert set(ours["main"]["values"]) == {"a", "moved/t/b"}
    assert ours["main"]["values"]["moved/t/b"][0][:3] == [77, 77, 0]
    assert "moved/new" in ours["main"]["ids"]
    assert len(ours["info"]["latest_updates"]) == 4


def test_both_make_the_same_of_the_same_operations(tmp_path: Path) -> None:
    found = []
    for name, side in SIDES.items():
        side("write", tmp_path / name)
        side("go_on", tmp_path / name)
        found.append(by_us("read", tmp_path / name))
    ours, official = found
    assert ours["main"]["values"] == official["main"]["values"]
    assert ours["aside"]["values"] == official["aside"]["values"]
    # Theirs leaves out what others put below a moved group; its path changed all the same.
    ours["moves"][1][1].remove(["/h/new", "/moved/new"])
    assert ours["moves"] == official["moves"]
    assert [h[2:] for h in ours["history"]] == [h[2:] for h in official["history"]]
    assert ours["metadata"] == official["metadata"]
