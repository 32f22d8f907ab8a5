"""Operations log, settings and inspection of the golden repositories, as the sidecars have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import icechunk as ic
from tests.format.golden import REPOSITORIES, unpack
from tests.peer import run_peer

if TYPE_CHECKING:
    from pathlib import Path

VERSION_2 = [name for name in REPOSITORIES if name.startswith("v2")]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def golden(name: str, folder: Path) -> tuple[ic.Repository, dict[str, Any]]:
    path, said = unpack(name, folder)
    return ic.Repository.open(ic.local_filesystem_storage(str(path))), said


def microseconds(when: datetime) -> int:
    return (when - EPOCH) // timedelta(microseconds=1)


def status(found: ic.RepoStatus) -> dict[str, Any]:
    return {
        "availability": found.availability.name,
        "set_at_us": microseconds(found.set_at),
        "reason": found.limited_availability_reason,
    }


def entry(update: ic.Update) -> dict[str, Any]:
    kind = update.kind
    values = {name: getattr(kind, name) for name in type(kind).__match_args__}  # type: ignore[attr-defined]
    if "status" in values:
        values["status"] = status(values["status"])
    return {
        "kind": type(kind).__name__,
        "updated_at_us": microseconds(update.updated_at),
        "backup_path": update.backup_path,
        **values,
    }


@pytest.mark.parametrize("name", VERSION_2)
def test_log_and_settings(name: str, tmp_path: Path) -> None:
    repo, said = golden(name, tmp_path)
    assert [entry(update) for update in repo.ops_log()] == said["ops_log"]
    assert repo.metadata == said["repo_metadata"]
    assert status(repo.status) == said["status"]
    flags = [
        {
            "id": flag.id,
            "name": flag.name,
            "default_enabled": flag.default_enabled,
            "setting": flag.setting,
            "enabled": flag.enabled,
        }
        for flag in repo.feature_flags()
    ]
    assert flags == said["feature_flags"]
    assert repo.inspect_repo_info() == said["inspect_repo_info"]


@pytest.mark.parametrize("name", REPOSITORIES)
def test_files(name: str, tmp_path: Path) -> None:
    repo, said = golden(name, tmp_path)
    for snapshot_id, snapshot in said["snapshots"].items():
        assert repo.inspect_snapshot(snapshot_id) == snapshot["inspect"]
        files = repo.list_manifest_files(snapshot_id)
        assert [
            {"id": f.id, "size_bytes": f.size_bytes, "num_chunk_refs": f.num_chunk_refs}
            for f in files
        ] == snapshot["manifest_files"]
    for manifest_id, manifest in said["manifests"].items():
        found = repo.inspect_manifest(manifest_id)
        if manifest["header"]["written_by"] == "ic-0.3.24":
            # The official package says compressed of files that lack the field.
            manifest["compression"]["uses_location_compression"] = False
        assert found == manifest
    for snapshot_id, log in said["transaction_logs"].items():
        if log is None or "new_groups" not in log:
            continue
        described = repo.inspect_transaction_log(snapshot_id)
        for document in (described, log):
            document.get("synthetic_composite", {}).pop("note", None)
            for array in document["updated_chunks"]:  # writers of 1.x did not sort them
                array["chunks"].sort()
        assert described == log


READ_LOG = """
import json, sys
import icechunk as ic
repo = ic.Repository.open(ic.local_filesystem_storage(sys.argv[1]))
print(json.dumps([type(update.kind).__name__ for update in repo.ops_log()]))
"""


@pytest.mark.peer
@pytest.mark.parametrize("name", ["v2-upgraded", "v2-rich"])
@pytest.mark.parametrize("page", [1, 3])
def test_the_log_continued_in_small_pages_is_whole_for_both(
    name: str, page: int, tmp_path: Path
) -> None:
    path, said = unpack(name, tmp_path)
    config = ic.RepositoryConfig(num_updates_per_repo_info_file=page)
    repo = ic.Repository.open(ic.local_filesystem_storage(str(path)), config)
    for n in range(1, 6):
        repo.set_metadata({"n": n})
        log = [entry(update) for update in repo.ops_log()]
        kinds = [found["kind"] for found in log]
        assert kinds == ["MetadataChanged"] * n + [old["kind"] for old in said["ops_log"]]
        # What was the newest until now has a backup from here on, all others are as they were.
        assert log[n]["backup_path"]
        assert log[n + 1 :] == said["ops_log"][1:]
    assert len(repo.inspect_repo_info()["latest_updates"]) == page
    assert run_peer(READ_LOG, path) == kinds
