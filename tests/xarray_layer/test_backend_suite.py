"""xarray's own tests of its zarr backend, over stores of sessions.

They come with the installed xarray, and all run but those in `NOT_APPLICABLE`, with their reasons.
What xarray's own marks skip for every store with Zarr version 3 is skipped here too.
"""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING, Any

import pytest
import xarray as xr
import zarr
from xarray.tests.conftest import time_unit, use_dask
from xarray.tests.test_backends import TestZarrRegionAuto as RegionAuto
from xarray.tests.test_backends import ZarrBase

import icechunk as ic

# Loading xarray's tests makes it warn about every file that is not closed, in other tests too.
xr.set_options(warn_for_unclosed_files=False)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["time_unit", "use_dask"]  # fixtures that their tests ask for

# Warnings of what their tests write; xarray's own run lets all warnings pass.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3"),
    pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part"),
]

NOT_APPLICABLE = {
    (ZarrBase, "test_hidden_zarr_keys"): "asks for the attribute that dimensions have in Zarr 2",
}


@pytest.fixture
def default_zarr_format() -> Iterator[None]:
    """Stores of sessions have Zarr version 3 only."""
    with zarr.config.set(default_zarr_format=3):
        yield


@pytest.fixture
def tmp_store() -> None:
    """Asked for by a test that uses its target instead."""


def applicable(tests: type[Any]) -> type[Any]:
    """Return xarray's tests without those that do not apply; each named is really there."""
    left_out = [name for of, name in NOT_APPLICABLE if of is tests]
    assert all(hasattr(tests, name) for name in left_out)
    return type(tests.__name__, (tests,), dict.fromkeys(left_out))


class InMemory:
    @contextlib.contextmanager
    def create_zarr_target(self) -> Iterator[ic.IcechunkStore]:
        yield ic.Repository.create(ic.in_memory_storage()).writable_session("main").store


class Local:
    @contextlib.contextmanager
    def create_zarr_target(self) -> Iterator[ic.IcechunkStore]:
        with tempfile.TemporaryDirectory() as folder:
            repo = ic.Repository.create(ic.local_filesystem_storage(folder + "/repo"))
            yield repo.writable_session("main").store


class TestInMemory(InMemory, applicable(ZarrBase)):
    pass


@pytest.mark.slow
class TestLocal(Local, applicable(ZarrBase)):
    pass


class TestRegionInMemory(InMemory, applicable(RegionAuto)):
    pass


@pytest.mark.slow
class TestRegionLocal(Local, applicable(RegionAuto)):
    pass
