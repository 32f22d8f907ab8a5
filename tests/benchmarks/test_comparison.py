"""Taking turns, what is kept of it, and the page made from it."""

from __future__ import annotations

import json
import math
import sys

import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import RESULTS, app
from benchmarks.children import ROOT, measure
from benchmarks.compare import OFFICIAL, OURS, Plan, versions
from benchmarks.measure import Spread, peak_rss_mb, slope
from benchmarks.report import quantity, ratios, replaced, section
from tests.peer import PEER_VERSION, peer_python

PAGE = """# Title

By hand, before.

<!-- benchmarks: comparison begins -->
old
<!-- benchmarks: comparison ends -->

By hand, after.
"""


def invoke(*arguments: object) -> str:
    done = CliRunner().invoke(
        app, [str(argument) for argument in arguments], env={"COLUMNS": "200"}
    )
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.slow
@pytest.mark.peer
def test_one_command_compares_both_packages_and_makes_the_page(tmp_path):
    out, page = tmp_path / "results" / "comparison.json", tmp_path / "page.md"
    page.write_text(PAGE)
    printed = invoke(
        "compare", "--official", peer_python(), "--scenarios", "rebase,limit_files", "--pairs", 2,
        "--scale", 0.02, "--out", out,
    )  # fmt: skip
    document = json.loads(out.read_text())
    assert document["versions"][OFFICIAL]["icechunk"] == PEER_VERSION
    assert document["versions"][OURS]["icechunk"] != PEER_VERSION
    figure = document["scenarios"]["rebase"]["figures"]["rebase.commit"]
    assert [len(figure[side]["values"]) for side in (OURS, OFFICIAL)] == [2, 2]
    assert [len(figure[side]["cpu"]) for side in (OURS, OFFICIAL)] == [2, 2]
    limit = document["scenarios"]["limit_files"]["figures"]["limit_files.write"]
    assert OFFICIAL not in limit
    assert "| `rebase.commit` | " in printed
    assert str(tmp_path) not in out.read_text()
    assert str(peer_python()) not in out.read_text()
    invoke("write-docs", out, "--page", page)
    text = page.read_text()
    assert section(document) in text
    assert "old" not in text
    assert text.startswith("# Title\n\nBy hand, before.")
    assert text.endswith("By hand, after.\n")
    invoke("write-docs", out, "--page", page)
    assert page.read_text() == text


@pytest.mark.slow
def test_curves_print_slopes(tmp_path):
    out = tmp_path / "curves.json"
    printed = invoke("curves", "--official", "", "--curves", "forks", "--quick", "--out", out)
    points = json.loads(out.read_text())["curves"]["forks"]["points"]
    assert [point["size"] for point in points] == [1, 10]
    assert "| `forks.unpickle_merge` | here | " in printed
    assert "| slope |" in printed


def test_unknown_scenarios_are_refused():
    done = CliRunner().invoke(app, ["compare", "--scenarios", "speed"])
    assert done.exit_code == 2
    assert "no such scenario" in done.output


def test_one_package_twice_is_refused():
    both = Plan(pythons={OURS: sys.executable, OFFICIAL: sys.executable}, pairs=1)
    with pytest.raises(RuntimeError, match="both interpreters import the same icechunk"):
        versions(both.pythons)


def test_what_fails_is_told():
    run = measure(sys.executable, "scenarios:nothing", 1)
    assert not run.figures
    assert "nothing" in (run.error or "")
    run = measure(sys.executable, "scenarios:native", 1, timeout=0.01)
    assert "not done in 0.01 s" in (run.error or "")


def test_the_page_is_made_from_the_kept_results():
    text = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    made = text
    for file in sorted(RESULTS.glob("*.json")):
        made = replaced(made, json.loads(file.read_text("utf-8")))
    assert made == text, "run `python -m benchmarks write-docs`"


def test_a_page_without_a_place_is_refused():
    with pytest.raises(ValueError, match="comparison begins"):
        replaced("# Title", {"kind": "comparison"})


def test_numbers():
    assert slope([10, 100, 1000], [0.3, 3, 30]) == pytest.approx(1)
    assert slope([1, 10, 100], [5, 5, 5]) == pytest.approx(0)
    assert math.isnan(slope([1], [2]))
    assert Spread.of([4]) == Spread(low=4, median=4, high=4)
    assert Spread.of([1, 2, 3, 4, 5]) == Spread(low=2, median=3, high=4)
    figure = {OURS: {"values": [1, 9], "cpu": []}, OFFICIAL: {"values": [2, 3], "cpu": []}}
    assert ratios(figure) == [0.5, 3]
    assert ratios({OURS: figure[OURS]}) == []
    assert 10 < peak_rss_mb() < 100_000


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (12.345, "s", "12.3 s"),
        (0.0021, "s", "2.10 ms"),
        (0.0000042, "s", "4.20 µs"),
        (0, "s", "0 s"),
        (1234.5, "MB", "1,234 MB"),
        (0.25, "MB", "250 kB"),
    ],
)
def test_quantities(value, unit, text):
    assert quantity(value, unit) == text
