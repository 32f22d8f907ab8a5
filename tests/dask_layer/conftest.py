"""Repositories and clusters for the dask tests."""

from __future__ import annotations

import pytest

import icechunk as ic


@pytest.fixture
def repo(tmp_path):
    """Return an empty repository on local files, which other processes can open."""
    return ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))
