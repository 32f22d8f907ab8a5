"""Every scenario runs, at tiny sizes, and measures what the ratios to reach are about."""

from __future__ import annotations

import json
import sys

import pytest
import zarr

from benchmarks.children import measure
from benchmarks.measure import Recorder
from benchmarks.registry import BESIDE_LIMITS, CURVES, GOALS, SCENARIOS, Scenario, function_of

SIZES = {"virtual": 100, "references": 100}
CLUSTER = "dask_cluster"


def figures_of(work: str, size: int, place, capsys) -> dict[str, float]:
    """Run a scenario in this process and return its figures."""
    function_of(work)(place, size, Recorder())
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["figure"]: row["value"] for row in rows}


def wanted_of(scenario: Scenario) -> set[str]:
    """Return the figures of a scenario that the page holds against something."""
    named = {*GOALS, *(name for pair in BESIDE_LIMITS for name in pair)}
    prefix = scenario.name.replace("dask_", "dask.")
    return {name for name in named if name.startswith(f"{prefix}.")}


@pytest.mark.parametrize(
    "scenario", [s for s in SCENARIOS if s.name != CLUSTER], ids=lambda s: s.name
)
def test_scenario(scenario, tmp_path, capsys):
    fused = hasattr(zarr.core.codec_pipeline, "FusedCodecPipeline")
    if scenario.name.endswith("_fused") and not fused:
        with pytest.raises(RuntimeError, match="no fused codec pipeline"):
            figures_of(scenario.work, 3, tmp_path, capsys)
        return
    found = figures_of(scenario.work, SIZES.get(scenario.name, 3), tmp_path, capsys)
    assert wanted_of(scenario) <= set(found)
    assert all(value >= 0 for value in found.values())


@pytest.mark.slow
def test_scenario_on_a_cluster():
    scenario = next(s for s in SCENARIOS if s.name == CLUSTER)
    run = measure(sys.executable, scenario.work, 4)
    assert run.error is None
    assert wanted_of(scenario) <= set(run.figures)


@pytest.mark.parametrize(
    "curve", [c for c in CURVES if c.work.startswith("curves:")], ids=lambda c: c.name
)
def test_curve(curve, tmp_path, capsys):
    found = figures_of(curve.work, SIZES.get(curve.name, 3), tmp_path, capsys)
    assert any(name.startswith(f"{curve.name}.") for name in found)


def test_all_ratios_to_reach_are_of_a_scenario():
    measured = set().union(*(wanted_of(scenario) for scenario in SCENARIOS))
    assert set(GOALS) - measured == {"peak_rss"}  # of all of them
