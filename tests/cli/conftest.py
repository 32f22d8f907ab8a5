"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
import zarr
from typer.testing import CliRunner

import icechunk
from icechunk.cli.main import app
from icechunk.xarray import to_icechunk
from tests.s3_server import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What ``--json`` printed; fails when anything else is on standard output."""
        return json.loads(self.out)


class Cli:
    """The command line, in this process or in one of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, *args: object, code: int = 0) -> Result:
        """Run in this process, in the test's directory; check the exit code."""
        before = Path.cwd()
        os.chdir(self.directory)
        try:
            done = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
        finally:
            os.chdir(before)
        result = Result(done.exit_code, done.stdout, done.stderr)
        assert result.code == code, f"{args}: exit code {result.code}\n{result.out}{result.err}"
        return result

    def environment(self, **extra: str) -> dict[str, str]:
        """Return the environment of a process of its own."""
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "ICECHUNK_D"))}
        return {**kept, "PYTHONPATH": paths, "COLUMNS": "100", **extra}

    def command(self, *args: object) -> list[str]:
        """Return the command for a process of its own."""
        return [sys.executable, "-m", "icechunk.cli", *map(str, args)]

    def process(self, *args: object, code: int = 0, timeout: float = 170, **extra: str) -> Result:
        """Run in a process of its own; check the exit code."""
        done = subprocess.run(
            self.command(*args),
            cwd=self.directory,
            env=self.environment(**extra),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        result = Result(done.returncode, done.stdout, done.stderr)
        assert result.code == code, f"{args}: exit code {result.code}\n{result.out}{result.err}"
        return result


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


def series(start: int, stop: int, *, offset: float = 0.0) -> xr.Dataset:
    """Return a small dataset along time, with attributes."""
    time = np.arange(start, stop)
    values = (time[:, None] * 10 + np.arange(4) + offset).astype("f4")
    return xr.Dataset(
        {"t": (("time", "x"), values, {"units": "K"})},
        {"time": ("time", time, {"units": "hours since 2026-01-01"}), "x": np.arange(4.0)},
        {"title": "a series"},
    )


@dataclass(frozen=True)
class Repo:
    """A small repository and its commits, oldest first."""

    path: Path
    first: str
    second: str
    fix: str

    def open(self) -> icechunk.Repository:
        return icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.path)))


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """Two commits on main, the first tagged v1, and a branch fix with a third commit."""
    path = tmp_path / "repo"
    there = icechunk.Repository.create(icechunk.local_filesystem_storage(str(path)))
    session = there.writable_session("main")
    to_icechunk(series(0, 6).chunk(time=3), session)
    first = session.commit("First\n\nwith details", {"author": "Ada"})
    session = there.writable_session("main")
    to_icechunk(series(6, 9).chunk(time=3), session, append_dim="time")
    second = session.commit("Second")
    there.create_tag("v1", first)
    there.create_branch("fix", second)
    session = there.writable_session("fix")
    group = zarr.open_group(session.store, mode="r+")
    group.create_group("forecast").create_array("u", shape=(2, 2), chunks=(1, 1), dtype="i2")
    zarr.open_array(session.store, path="t", mode="r+")[0:3] = 7.0
    fix = session.commit("Fix")
    return Repo(path, first, second, fix)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server.running() as server:
        yield server
