"""Where the specification's golden repositories and real input files are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def shared_dir() -> Path:
    """Return the folder with ``golden/``, ``data/`` and ``tools/``; skip the test without it.

    Continuous integration always has it, so there its absence is a failure, not a skip.
    """
    candidates = [
        Path(os.environ["ICECHUNK_SHARED"]) if "ICECHUNK_SHARED" in os.environ else None,
        Path(__file__).resolve().parents[2] / "shared",
    ]
    for path in candidates:
        if path is not None and (path / "golden").is_dir():
            return path
    message = "no shared data folder; set ICECHUNK_SHARED to the folder that has golden/ and data/"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
