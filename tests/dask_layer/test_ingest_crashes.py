"""The client of a job killed at any point: values and history are exact after it was resumed."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import xarray as xr
import zarr

import icechunk as ic
from icechunk.dask.ingest import list_jobs
from icechunk.dask.ingest.jobs import METADATA_KEY
from icechunk.dask.ingest.units import parse_ranges
from tests.dask_layer.ingest_server import UNITS, IngestServer, source, storage_at
from tests.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Place = str | dict[str, Any]

KILLED = -9


@pytest.fixture(scope="module")
def server() -> Iterator[IngestServer]:
    with IngestServer.running() as server:
        yield server


def created(place: Place) -> ic.Repository:
    repo = ic.Repository.create(storage_at(place))
    with repo.transaction("main", message="others") as store:
        zarr.create_array(store, name="other", shape=(100,), chunks=(1,), dtype="i4")
    return repo


def somebody_else_commits(place: Place, step: int) -> None:
    session = ic.Repository.open(storage_at(place)).writable_session("main")
    zarr.open_array(session.store, path="other", mode="r+")[step] = step + 1
    session.commit(f"other {step}")


def check(place: Place, others: int) -> None:
    """Everything is there, every unit is in one commit, and nothing is left over."""
    repo = ic.Repository.open(storage_at(place))
    session = repo.readonly_session("main")
    found = xr.open_zarr(session.store, group="g", consolidated=False)
    xr.testing.assert_identical(found.compute(), source().compute())
    history = list(repo.ancestry(branch="main"))
    units = Counter[int]()
    for info in history:
        named = info.metadata.get(METADATA_KEY)
        if named is not None:
            assert named["job"] == "job"
            assert info.metadata["by"] == "test"
            units.update(parse_ranges(named["units"]))
    assert units == Counter(range(UNITS))
    messages = [info.message for info in history if METADATA_KEY not in info.metadata]
    assert messages == [
        *(f"other {step}" for step in reversed(range(others))),
        "others",
        "Repository initialized",
    ]
    other = zarr.open_array(session.store, path="other", mode="r")
    assert list(other[:others]) == list(range(1, others + 1))
    (job,) = list_jobs(repo)
    assert (job.state, job.kept, job.committed) == ("finished", 0, UNITS)


def kill_and_resume(
    server: IngestServer, place: Place, draw: random.Random, kill_at: int, how: str
) -> int:
    """Run a job that is killed at a point; resume until it is done. Return how often it died."""
    created(place)
    killed = others = 0
    outcome = server(do="start", place=place, kill_at=kill_at, how=how)
    while outcome.code:
        if outcome.code == KILLED:
            killed += 1
            somebody_else_commits(place, others)
            others += 1
            again = draw.random() < 0.5 and killed < 4
        else:
            # It died before it was a job; then there is nothing of it, and it is started again.
            assert "no job job is kept" in outcome.out, outcome.out
            assert not list_jobs(ic.Repository.open(storage_at(place)))
            outcome = server(do="start", place=place)
            continue
        point = {"kill_at": draw.randrange(30), "how": draw.choice(("before", "after"))}
        outcome = server(do="resume", place=place, **(point if again else {}))
    check(place, others)
    return killed


def points(server: IngestServer, place: Place) -> list[tuple[int, str]]:
    """Return every point where a job that is not disturbed could be killed."""
    created(place)
    outcome = server(do="start", place=place)
    assert not outcome.code, outcome.out
    check(place, 0)
    return [(n, how) for n in range(int(outcome.out)) for how in ("before", "after")]


def run_points(server: IngestServer, places: Iterator[Place], count: int, seed: int) -> None:
    draw = random.Random(seed)
    every = points(server, next(places))
    assert len(every) > 60
    chosen = draw.sample(every, count)
    died = [kill_and_resume(server, next(places), draw, *point) for point in chosen]
    assert all(died)


def directories(tmp_path: Path) -> Iterator[Place]:
    number = 0
    while True:
        yield str(tmp_path / str(number))
        number += 1


def prefixes(server: S3Server) -> Iterator[Place]:
    number = 0
    while True:
        yield server.options(prefix=f"ingest-{number}")
        number += 1


def test_killed_at_six_points(server: IngestServer, tmp_path: Path) -> None:
    run_points(server, directories(tmp_path), 6, seed=1)


@pytest.mark.slow
def test_killed_at_fifty_points(server: IngestServer, tmp_path: Path) -> None:
    run_points(server, directories(tmp_path), 50, seed=2)


@pytest.mark.slow
def test_killed_at_points_of_s3(server: IngestServer) -> None:
    with S3Server.running() as s3:
        run_points(server, prefixes(s3), 8, seed=3)
