"""Repositories for the xarray tests."""

from __future__ import annotations

import pytest

import icechunk as ic


@pytest.fixture
def repo():
    """Return an empty repository in memory."""
    return ic.Repository.create(ic.in_memory_storage())
