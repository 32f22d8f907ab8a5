"""What is measured: scenarios, curves, and the ratios to reach.

A scenario is a function ``(place, size, record)``. The same code runs with both packages, so it
uses the common public names alone.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.measure import Recorder


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing to measure, in a process of its own.

    Attributes
    ----------
    name : str
        What the command line calls it.
    work : str
        The function, as ``module:name`` within this folder.
    size : int
        How much it does at full size.
    what : str
        One line for the page.
    limit : bool
        Whether it uses neither package, but shows what could be reached.
    """

    name: str
    work: str
    size: int
    what: str
    limit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A scenario at growing sizes."""

    name: str
    work: str
    unit: str
    sizes: tuple[int, ...]


SCENARIOS: Final = (
    Scenario(name="native", work="scenarios:native", size=4_000,
             what="chunks of 32 KiB written and read through zarr"),
    Scenario(name="native_fused", work="scenarios:native_fused", size=4_000,
             what="chunks as those, with zarr's fused codec pipeline (zarr 3.4 and later)"),
    Scenario(name="raw", work="scenarios:raw", size=10_000,
             what="chunks of 1 KiB through the store alone, 64 at once"),
    Scenario(name="virtual", work="scenarios:virtual", size=1_000_000,
             what="virtual references set at once, committed, looked up cold, one changed"),
    Scenario(name="commits", work="scenarios:commits", size=300,
             what="commits of one chunk in a row"),
    Scenario(name="forks", work="scenarios:forks", size=64,
             what="forks, each pickled there and back with 500 chunks of 4 KiB, and merged"),
    Scenario(name="nodes", work="scenarios:nodes", size=3_000,
             what="groups and arrays created, committed, listed cold, one changed"),
    Scenario(name="rebase", work="scenarios:rebase", size=100,
             what="commits that a session is behind when it commits with a rebase"),
    Scenario(name="dask_threads", work="dask_scenarios:threads", size=2_000,
             what="blocks of 40 kB written by `to_icechunk` and read, dask's threads"),
    Scenario(name="dask_cluster", work="dask_scenarios:cluster", size=2_000,
             what="such blocks written on a cluster of two processes"),
    Scenario(name="import", work="imports:imports", size=1,
             what="`import icechunk` after zarr is imported"),
    Scenario(name="limit_zarr", work="limits:zarr_store", size=4_000, limit=True,
             what="chunks of `native` in zarr's own `LocalStore`"),
    Scenario(name="limit_zarr_fused", work="limits:zarr_store_fused", size=4_000, limit=True,
             what="chunks in the same store, with the fused pipeline"),
    Scenario(name="limit_files", work="limits:files", size=4_000, limit=True,
             what="files of 32 KiB, each under a temporary name and renamed"),
    Scenario(name="limit_ocdbt", work="ocdbt:ocdbt", size=4_000, limit=True,
             what="chunks of `native` in TensorStore's OCDBT (needs `tensorstore`)"),
)  # fmt: skip

CURVES: Final = (
    Curve(name="references", work="curves:references", unit="virtual references",
          sizes=(10_000, 100_000, 1_000_000, 10_000_000)),
    Curve(name="commits", work="scenarios:commits", unit="commits in a row",
          sizes=(1, 10, 100, 1_000, 3_000)),
    Curve(name="history", work="curves:history", unit="snapshots in the history",
          sizes=(1, 10, 100, 1_000, 3_000)),
    Curve(name="nodes", work="scenarios:nodes", unit="groups and arrays",
          sizes=(10, 100, 1_000, 10_000, 30_000)),
    Curve(name="forks", work="curves:small_forks", unit="forks of 20 chunks",
          sizes=(1, 10, 100, 1_000)),
)  # fmt: skip

GOALS: Final = {
    "native.write": 0.6, "native.open_read_all": 0.4,
    "native_fused.write": 0.4, "native_fused.open_read_all": 0.2,
    "raw.set": 0.3, "raw.get": 0.3, "raw.list": 0.2,
    "virtual.set_arr": 0.6, "virtual.commit": 0.8, "virtual.open_lookup_one": 0.6,
    "virtual.all_locations": 0.8, "virtual.update_one_commit": 0.1, "virtual.manifest_bytes": 1.0,
    "commits.first_mean": 1.0, "commits.last_mean": 1.0, "commits.ancestry": 2.0,
    "forks.write_pickle": 0.3, "forks.unpickle_merge": 1.0, "forks.commit": 1.0,
    "nodes.create": 0.6, "nodes.commit": 1.0, "nodes.open_members": 0.6,
    "nodes.touch_one_commit": 1.0, "rebase.commit": 1.0,
    "dask.threads.to_icechunk": 0.6, "dask.threads.read": 0.5, "dask.cluster.to_icechunk": 0.6,
    "peak_rss": 0.6,
}  # fmt: skip
"""The ratio to the official package to reach, by figure; smaller is better."""

IMPORT_LIMIT_SECONDS: Final = 0.25

BESIDE_LIMITS: Final = (
    ("limit_zarr.write", "native.write"),
    ("limit_zarr.read", "native.open_read_all"),
    ("limit_zarr_fused.write", "native_fused.write"),
    ("limit_zarr_fused.read", "native_fused.open_read_all"),
    ("limit_files.write", "native.write"),
    ("limit_files.write", "native_fused.write"),
    ("limit_files.read", "native.open_read_all"),
    ("limit_files.read", "native_fused.open_read_all"),
    ("limit_ocdbt.write", "native.write"),
    ("limit_ocdbt.read", "native.open_read_all"),
)
"""Which limit each figure is held against."""


def function_of(work: str) -> Callable[[Path, int, Recorder], None]:
    """Import the function of a scenario."""
    module, _, name = work.partition(":")
    found: Callable[[Path, int, Recorder], None] = getattr(
        importlib.import_module(f"benchmarks.{module}"), name
    )
    return found


def chosen(names: str | None) -> tuple[Scenario, ...]:
    """Return the scenarios that a comma-separated list names; all without one.

    Raises
    ------
    KeyError
        There is no scenario of that name.
    """
    if names is None:
        return SCENARIOS
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    return tuple(by_name[name.strip()] for name in names.split(","))
