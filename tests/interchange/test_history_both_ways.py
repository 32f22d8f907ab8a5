"""Repositories made by one implementation, continued by the other, read by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.interchange import common_history
from tests.peer import run_peer

SCRIPT = Path(common_history.__file__)

pytestmark = pytest.mark.peer


STEPS = {"write": "write", "continue": "go_on", "read": "read"}


def by_peer(command: str, path: Path) -> Any:
    code = (
        "import json, runpy, sys; "
        f"step = runpy.run_path({str(SCRIPT)!r})[{STEPS[command]!r}]; "
        "print(json.dumps(step(sys.argv[1])))"
    )
    return run_peer(code, path)


def by_us(command: str, path: Path) -> Any:
    return json.loads(json.dumps(getattr(common_history, STEPS[command])(str(path))))


SIDES = {"ours": by_us, "official": by_peer}


@pytest.mark.parametrize("writer", SIDES)
@pytest.mark.parametrize("continuer", SIDES)
def test_one_writes_the_other_goes_on_both_read_the_same(
    tmp_path: Path, writer: str, continuer: str
) -> None:
    SIDES[writer]("write", tmp_path)
    after_write = by_us("read", tmp_path)
    assert by_peer("read", tmp_path) == after_write
    SIDES[continuer]("continue", tmp_path)
    after_all = by_us("read", tmp_path)
    assert by_peer("read", tmp_path) == after_all
    assert [message for _, _, message, *_ in after_all["ancestry"]["main"]] == [
        "merged forks",
        "delete",
        "ours",
        "theirs",
        "append",
        "first",
        "Repository initialized",
    ]
    rebased = after_all["ancestry"]["main"][2]
    assert rebased[4]["__icechunk"] == {"rebase_attempts": 1}
    assert after_all["at main"]["arrays"]["big"]["shape"] == [6000]
    assert "big/c/4" in after_all["at main"]["keys"]
    assert "big/c/3" not in after_all["at main"]["keys"]
    assert after_write["at main"]["ids"]["big"] == after_all["at main"]["ids"]["big"]


def test_both_implementations_make_the_same_of_the_same_operations(tmp_path: Path) -> None:
    for name, side in SIDES.items():
        side("write", tmp_path / name)
        side("continue", tmp_path / name)
    ours, theirs = by_us("read", tmp_path / "ours"), by_us("read", tmp_path / "official")
    for seen in (ours, theirs):
        for version in ("at main", "at side/line", "tagged v2"):
            del seen[version]["ids"]
    assert ours["at main"] == theirs["at main"]
    assert ours["at side/line"] == theirs["at side/line"]
    assert [d[2] for d in ours["diffs"]] == [d[2] for d in theirs["diffs"]]
