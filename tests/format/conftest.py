"""Tables of both sizes: few ones are written again, many are looked at in columns and copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from icechunk.format.fb import splice

if TYPE_CHECKING:
    from collections.abc import Iterator

_BOTH_WAYS = ("test_snapshot", "test_repo_info", "test_hostile_metadata")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of files with tables once in each way."""
    if metafunc.module.__name__.rpartition(".")[2] in _BOTH_WAYS:
        metafunc.fixturenames.append("few_tables")
        sizes = [pytest.param(0, id="columns"), pytest.param(splice._FEW_TABLES, id="few")]
        metafunc.parametrize("few_tables", sizes, scope="module", indirect=True)


@pytest.fixture(scope="module")
def few_tables(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set up to how many tables are written again without looking."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splice, "_FEW_TABLES", request.param)
        yield request.param
