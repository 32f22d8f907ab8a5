"""What the tests of the lake share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from icechunk.lake import Author, Client, Repo

if TYPE_CHECKING:
    import zarr

ROOT = Path(__file__).resolve().parents[2]
AUTHOR = Author(name="Ada", email="ada@example.org")


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(str(tmp_path / "lake"), author=AUTHOR)


@pytest.fixture
def repo(client: Client) -> Repo:
    return client.create_repo("ocean/sst", metadata={"level": 3})


def make_array(repo: Repo, name: str = "t", **options: Any) -> zarr.Array[Any]:
    """Create a 4 x 4 array of 2 x 2 chunks, in the current session."""
    given = {"shape": (4, 4), "chunks": (2, 2), "dtype": "f4", "fill_value": -1, **options}
    return repo.root_group.create_array(name, **given)


def committed_array(repo: Repo, name: str = "t") -> str:
    """Commit an array with all its chunks; return the commit."""
    make_array(repo, name)[:] = np.arange(16, dtype="f4").reshape(4, 4)
    commit = repo.commit(f"array {name}")
    assert commit is not None
    return commit


def elsewhere(code: str, *arguments: str, expect: int = 0) -> str:
    """Run Python code in a process of its own, with ``sys.argv[1:]``; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == expect, done.stderr
    return done.stdout
