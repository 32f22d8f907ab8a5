"""The benchmarks over S3 run, on a cluster too, and where files are looked at otherwise."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.children import ROOT


@pytest.mark.slow
def test_scenarios_over_s3():
    wanted = ["dask_cluster", "virtual"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.over_s3", "--scale", "0.002", "--rounds", "1", *wanted],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
        cwd=ROOT,
    )
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| `")]
    figures = {row[0].strip("| `"): row[1:] for row in rows}
    assert {"dask.cluster.to_icechunk", "virtual.manifest_bytes"} <= set(figures)
    assert all(float(cell.strip("| ")) >= 0 for row in figures.values() for cell in row)
