"""Every row of the golden tables that is treated otherwise is named on the page of differences."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.shared_data import shared_dir
from tests.zarr_store import test_golden_semantics as store_rows

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "differences.md"
TEXT = PAGE.read_text("utf-8")


@pytest.mark.parametrize(
    "row",
    [
        *(key for key, _ in store_rows.DIFFERENT_KEYS),
        *(f'list_dir("{prefix}")' for prefix in store_rows.DIFFERENT_PREFIXES),
        *store_rows.DIFFERENT_DOCUMENTS,
    ],
)
def test_rows_of_the_store_are_named(row: str) -> None:
    assert f"`{row}`" in TEXT


def test_rows_of_the_conflict_matrix_are_named() -> None:
    matrix = json.loads((shared_dir() / "golden" / "conflict-matrix.json").read_text())
    defects = {
        f"`{row['theirs']}` / `{row['ours']}`"
        for row in matrix["rows"]
        if "__duplicate_keys__" in json.dumps(row)
    }
    assert defects
    assert not [defect for defect in defects if defect not in TEXT]


def test_every_row_says_what_is_where() -> None:
    for line in TEXT.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 4, line
            assert all(cells[:3]), line
