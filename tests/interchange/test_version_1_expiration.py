"""Expiration in version 1: the same history is left as the official package leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.interchange import version_1_expiration
from tests.peer import run_peer

SCRIPT = Path(version_1_expiration.__file__)


def test_only_what_nothing_leads_to_is_released(tmp_path: Path) -> None:
    for case, left in version_1_expiration.all_cases(str(tmp_path)).items():
        lines = [*left["branches"].values(), *left["tags"].values()]
        reachable = {name for line in lines for name in line}
        assert reachable.isdisjoint(left["released"]), case
        assert all(line[-1] == "root" for line in lines), case


@pytest.mark.peer
def test_both_leave_the_same_history(tmp_path: Path) -> None:
    ours = version_1_expiration.all_cases(str(tmp_path / "ours"))
    code = (
        "import json, runpy, sys; "
        f"print(json.dumps(runpy.run_path({str(SCRIPT)!r})['all_cases'](sys.argv[1])))"
    )
    official = run_peer(code, tmp_path / "official")
    for case, left in json.loads(json.dumps(ours)).items():
        assert left["branches"] == official[case]["branches"], case
        assert left["tags"] == official[case]["tags"], case
        # The official list also has expired snapshots that a ref still leads to.
        assert set(left["released"]) <= set(official[case]["released"]), case
