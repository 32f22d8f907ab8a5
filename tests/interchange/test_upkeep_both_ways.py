"""Expiration and collection by one implementation, checked against and continued by the other.

The same repository is copied, both implementations expire and collect their copy, and the states
and files that are left must be equal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from icechunk.assets.refs import read_state
from icechunk.format.repo_info import parse_repo_info
from icechunk.ids import id_text
from tests.interchange import upkeep_history
from tests.peer import run_peer

SCRIPT = Path(upkeep_history.__file__)

pytestmark = pytest.mark.peer


def by_peer(step: str, path: Path, *args: Any) -> Any:
    code = (
        "import json, runpy, sys; "
        f"step = runpy.run_path({str(SCRIPT)!r})[{step!r}]; "
        "print(json.dumps(step(sys.argv[1], *json.loads(sys.argv[2]))))"
    )
    return run_peer(code, path, json.dumps(args))


def by_us(step: str, path: Path, *args: Any) -> Any:
    return json.loads(json.dumps(getattr(upkeep_history, step)(str(path), *args)))


SIDES = {"ours": by_us, "official": by_peer}


def state(path: Path) -> dict[str, Any]:
    """Return what a repo object says, but for times and names of the last operations."""
    info = parse_repo_info((path / "repo").read_bytes(), key="repo")
    return {
        "branches": {name: id_text(tip) for name, tip in info.branches.items()},
        "tags": {name: id_text(tip) for name, tip in info.tags.items()},
        "deleted_tags": sorted(info.deleted_tags),
        "snapshots": {
            id_text(r.id): [
                r.parent_id and id_text(r.parent_id),
                r.message,
                r.flushed_at_us,
                [id_text(log) for log in r.pruned_logs],
            ]
            for r in info.snapshots
        },
        "operations": [type(update.kind).__name__ for update in info.updates],
    }


def files(path: Path) -> set[str]:
    found = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    folders = ("snapshots/", "transactions/", "manifests/", "chunks/")
    return {name for name in found if name.startswith(folders)}


@pytest.mark.parametrize("writer", SIDES)
@pytest.mark.parametrize("delete_refs", [False, True])
def test_both_expire_and_collect_alike(tmp_path: Path, writer: str, delete_refs: bool) -> None:
    origin = tmp_path / "origin"
    cuts = SIDES[writer]("write", origin)
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for copy in (ours, theirs):
        shutil.copytree(origin, copy)
    assert by_us("stats", ours) == by_peer("stats", theirs)
    for cut in cuts:
        released = by_us("expire", ours, cut, delete_refs)
        assert released == by_peer("expire", theirs, cut, delete_refs)
        assert released
        assert state(ours) == state(theirs)
        dry = by_us("collect", ours, True)
        assert dry == by_peer("collect", theirs, True)
        assert by_us("collect", ours, False) == dry == by_peer("collect", theirs, False)
        assert state(ours) == state(theirs)
        assert files(ours) == files(theirs)
        assert by_us("stats", ours) == by_peer("stats", theirs)
    for copy in (ours, theirs):
        seen = by_us("read", copy)
        assert seen == by_peer("read", copy)
        for name, side in SIDES.items():
            side("go_on", copy, name)
    final = by_us("read", ours)
    assert final == by_peer("read", ours)
    assert final["messages"][:2] == ["rebased by official", "rebased by ours"]


def test_golden_v2_rich_was_expired_and_collected(tmp_path: Path) -> None:
    from icechunk import Repository, local_filesystem_storage
    from icechunk._io.loop import run
    from tests.format.golden import unpack

    folder, said = unpack("v2-rich", tmp_path)
    # The state before the expiration is in a backup; expiring it again gives what is said.
    kinds = [op["kind"] for op in said["ops_log"]]
    before = said["ops_log"][kinds.index("ExpirationRan") + 1]["backup_path"]
    after = said["ops_log"][kinds.index("ExpirationRan")]["backup_path"]
    repo_before = parse_repo_info((folder / "overwritten" / before).read_bytes(), key=before)
    repo_after = parse_repo_info((folder / "overwritten" / after).read_bytes(), key=after)
    from icechunk.core.expiry import expired

    state_after, released = expired(
        repo_before, said["notes"]["expired_cutoff_us"], delete_branches=False, delete_tags=False
    )
    assert {id_text(i) for i in released} == set(said["notes"]["released"])
    assert state_after.snapshots == repo_after.snapshots
    # Nothing is left to collect but what was made since and reset away.
    repo = Repository.open(local_filesystem_storage(str(folder)))
    from datetime import UTC, datetime

    summary = repo.garbage_collect(datetime(2100, 1, 1, tzinfo=UTC))
    assert (summary.snapshots_deleted, summary.manifests_deleted) == (1, 0)
    info = run(read_state(repo._state.assets)).info
    assert len(info.snapshots) == len(said["inspect_repo_info"]["snapshots"]) - 1
