"""Every documented Python and shell block runs, in order, page by page.

A block that cannot run is preceded by ``<!-- docs-test: skip REASON -->``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RUN = {"python", "bash"}
SHOWN = {"text", "json", "toml", "yaml"}
SKIP = re.compile(r"<!-- docs-test: skip (?P<reason>.*?) -->")
LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:|#)(?P<target>[^)#\s]+)(?:#[^)]*)?\)")
SECONDS = 170


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    code: str
    skip: str | None


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page; `line` is that of the fence."""
    blocks: list[Block] = []
    lines = page.read_text("utf-8").splitlines()
    start: int | None = None
    for number, text in enumerate(lines):
        if not text.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        before = lines[start - 1] if start else ""
        skip = SKIP.fullmatch(before.strip())
        code = "\n".join(lines[start + 1 : number])
        name = page.relative_to(ROOT).as_posix()
        language = lines[start].removeprefix("```").strip()
        blocks.append(Block(name, start + 1, language, code, skip["reason"] if skip else None))
        start = None
    assert start is None, f"{page.name}: the block of line {start} has no end"
    return blocks


def page_id(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language in RUN | SHOWN, f"{block.page}:{block.line}: {block.language!r}"
        assert block.skip is None or len(block.skip) > 5, f"{block.page}:{block.line}: say why"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for match in LINK.finditer(page.read_text("utf-8")):
        assert (page.parent / match["target"]).exists(), match["target"]


def environment_with_command(directory: Path) -> dict[str, str]:
    """Return an environment that has an ``icechunk`` command for this very checkout."""
    command = directory / "bin" / "icechunk"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m icechunk.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PATH": path, "PYTHONPATH": python_path}


PAGES_TO_RUN = [p for p in PAGES if any(b.language in RUN and not b.skip for b in blocks_of(p))]


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("page", PAGES_TO_RUN, ids=page_id)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    blocks = [asdict(b) for b in blocks_of(page) if b.language in RUN and not b.skip]
    plan = tmp_path / "blocks.json"
    plan.write_text(json.dumps(blocks), "utf-8")
    work = tmp_path / "work"
    work.mkdir()
    runner = Path(__file__).with_name("run_page.py")
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:icechunk", str(runner), str(plan)],
        cwd=work,
        env=environment_with_command(tmp_path),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    assert "Traceback" not in done.stderr, done.stderr[-6000:]
