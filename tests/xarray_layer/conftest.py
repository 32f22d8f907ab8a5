"""Repositories for the xarray tests, and the marks of xarray's own."""

from __future__ import annotations

import pytest

import icechunk as ic


def pytest_configure(config: pytest.Config) -> None:
    marks = ["flaky", "mypy", "network", "skip_if_param", "skip_with_dask_array"]
    for mark in marks:
        config.addinivalue_line("markers", f"{mark}: of xarray's own tests, without effect here")


@pytest.fixture
def repo():
    """Return an empty repository in memory."""
    return ic.Repository.create(ic.in_memory_storage())
