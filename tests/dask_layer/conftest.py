"""Repositories and clusters for the dask tests."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import dask
import pytest

import icechunk as ic


@pytest.fixture
def repo(tmp_path):
    """Return an empty repository on local files, which other processes can open."""
    return ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))


@pytest.fixture(scope="session")
def pool():
    """Return two processes for dask's processes scheduler, which else starts new ones each time."""
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def scheduler(request):
    """Use the scheduler given as an indirect parameter."""
    options = {"scheduler": request.param}
    if request.param == "processes":
        options["pool"] = request.getfixturevalue("pool")
    with dask.config.set(options):
        yield request.param
