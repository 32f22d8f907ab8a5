"""Scenarios that are measured at growing sizes only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import zarr

from benchmarks.children import measure
from benchmarks.measure import peak_rss_mb
from benchmarks.scenarios import (
    create,
    forks,
    manifest_bytes,
    plain_array,
    reopened,
    virtual_references,
    write_part,
)

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measure import Recorder


def references(place: Path, size: int, record: Recorder) -> None:
    """Set and commit references here, and look one up in a fresh process."""
    virtual_references(place, size, record, "references")
    record.add("references.write_peak_rss", peak_rss_mb(), "MB")
    record.add("references.manifest_bytes", manifest_bytes(place / "repo") / 1e6, "MB")
    looked_up = measure(sys.executable, "curves:lookup", size, folder=place)
    if looked_up.error:
        raise RuntimeError(looked_up.error)
    for name, figure in looked_up.figures.items():
        record.add(f"references.lookup.{name}", figure.value, figure.unit, figure.cpu)


def lookup(place: Path, size: int, record: Recorder) -> None:
    """Look one reference up in a repository that another process wrote."""
    side = int(size**0.5)
    with record.time("cold"):
        session = reopened(place / "repo").readonly_session("main")
        session.chunk_type("/a", [side // 2, side // 3])


def history(place: Path, size: int, record: Recorder) -> None:
    """Open, read and commit where the history has so many snapshots."""
    repo = create(place)
    session = repo.writable_session("main")
    plain_array(session.store, (1000,), (100,), "f8")
    session.commit("template")
    for number in range(max(0, size - 2)):
        repo.writable_session("main").commit(f"{number}", allow_empty=True)
    with record.time("history.open"):
        repo = reopened(place)
        session = repo.readonly_session("main")
    with record.time("history.ancestry"):
        snapshots = list(repo.ancestry(branch="main"))
    assert len(snapshots) == max(2, size)
    with record.time("history.commit"):
        write_part(repo, 0, 100)
    with record.time("history.open_oldest"):
        first = repo.readonly_session(snapshot_id=snapshots[-2].id)
        zarr.open_array(first.store, path="a", mode="r")
    record.add("history.repo_file", (place / "repo").stat().st_size / 1e6, "MB")


def small_forks(place: Path, size: int, record: Recorder) -> None:
    """Write, merge and commit many forks that have few chunks each."""
    forks(place, size, record, chunks=20)
