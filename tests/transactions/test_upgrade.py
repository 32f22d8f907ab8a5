"""Upgrading version 1 repositories: what comes out, and what a death on the way leaves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.assets.refs import read_state
from icechunk.errors import ErrorKind, StorageError
from icechunk.ids import id_text
from tests.faults import Died, FaultyStorage
from tests.format.golden import unpack
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path


def log_of(repo: ic.Repository) -> list[dict[str, Any]]:
    """Return the newest page of the operations log in the words of the sidecars."""
    info = run(read_state(repo.state.assets)).info
    entries = []
    for update in info.updates:
        kind = update.kind
        entry: dict[str, Any] = {
            "kind": type(kind).__name__,
            "updated_at_us": update.updated_at_us,
            "backup_path": update.backup_path,
        }
        for name in type(kind).__dataclass_fields__:
            value = getattr(kind, name)
            entry[name] = id_text(value) if isinstance(value, bytes) else value
        entries.append(entry)
    return entries


def keys_of(storage: ic.Storage, prefix: str = "") -> list[str]:
    return sorted(key for key, _ in storage.list_objects(prefix=prefix))


def test_the_golden_repository_comes_out_as_the_official_upgrade_left_it(tmp_path: Path) -> None:
    folder, said = unpack("v1-rich", tmp_path)
    after = json.loads((shared_dir() / "golden" / "v2-upgraded.json").read_text())
    storage = ic.local_filesystem_storage(str(folder))
    old = ic.Repository.open(storage)
    config = old.config
    new = ic.upgrade_icechunk_repository(old, dry_run=False)
    assert new.spec_version == ic.SpecVersion.v2
    assert {name: new.lookup_branch(name) for name in new.list_branches()} == said["branches"]
    assert {name: new.lookup_tag(name) for name in new.list_tags()} == said["tags"]
    assert new.config == config == ic.Repository.fetch_config(storage)
    migrated, *earlier = log_of(new)
    assert (migrated["kind"], migrated["from_version"], migrated["to_version"]) == (
        "RepoMigrated",
        1,
        2,
    )
    expected = after["ops_log"]
    assert earlier == expected[[u["kind"] for u in expected].index("RepoMigrated") + 1 :]
    for start, history in said["ancestry"].items():
        kind, _, name = start.partition(":")
        seen = list(new.ancestry(**{{"snapshot": "snapshot_id"}.get(kind, kind): name}))
        assert [(s.id, s.parent_id, s.message) for s in seen] == [
            (s["id"], s["parent_id"], s["message"]) for s in history
        ]
    assert not (folder / "refs" / "branch.main" / "ref.json").exists()
    assert not (folder / "config.yaml").exists()
    with pytest.raises(ic.AlreadyExistsError):
        new.create_tag("gone", said["branches"]["main"])
    with pytest.raises(ic.SessionStateError) as caught:
        ic.upgrade_icechunk_repository(new, dry_run=False)
    assert caught.value.kind == ErrorKind.INVALID_REPOSITORY_MIGRATION


def test_a_dry_run_writes_nothing() -> None:
    storage, repo = prepared()
    assert ic.upgrade_icechunk_repository(repo, dry_run=True).spec_version == ic.SpecVersion.v1
    assert storage.writes == []


def test_old_files_may_stay_and_are_not_read() -> None:
    storage, repo = prepared()
    before = seen(storage.inner)
    new = ic.upgrade_icechunk_repository(repo, dry_run=False, delete_unused_v1_files=False)
    assert storage.writes == ["repo"]
    assert seen(storage.inner) == ("v2", *before[1:])
    # Whoever still has it open as version 1 must not write where nobody reads.
    for write in (
        lambda: commit(repo, 9.0),
        lambda: repo.create_tag("late", repo.lookup_branch("main")),
        lambda: repo.delete_branch("side"),
        repo.save_config,
    ):
        with pytest.raises(ic.SessionStateError):
            write()
    commit(new, 3.0)
    assert seen(storage.inner)[1][0] == "3.0"


def test_who_has_it_open_as_version_1_is_told_to_open_it_again() -> None:
    _, repo = prepared()
    ic.upgrade_icechunk_repository(repo, dry_run=False)
    for look in (
        lambda: repo.writable_session("main"),
        lambda: repo.lookup_branch("main"),
        lambda: repo.readonly_session(tag="v1"),
    ):
        with pytest.raises(ic.SessionStateError, match=r"upgraded to format version 2.*Open it"):
            look()


def commit(repo: ic.Repository, value: float, branch: str = "main") -> None:
    session = repo.writable_session(branch)
    zarr.open_array(session.store, path="a", mode="r+")[:] = value
    session.commit(f"{value}")


def prepared() -> tuple[FaultyStorage, ic.Repository]:
    storage = FaultyStorage(ic.in_memory_storage())
    repo = ic.Repository.create(
        storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=7), spec_version=1
    )
    with repo.transaction("main", message="first") as store:
        zarr.create_array(
            store, name="a", shape=(4000,), chunks=(1000,), dtype="f8", compressors=None
        )
    commit(repo, 1.0)
    repo.create_branch("side", repo.lookup_branch("main"))
    commit(repo, 2.0, "side")
    repo.create_tag("kept", repo.lookup_branch("side"))
    repo.create_tag("gone", repo.lookup_branch("main"))
    repo.delete_tag("gone")
    storage.writes.clear()
    return storage, repo


def seen(storage: ic.Storage) -> tuple[Any, ...]:
    repo = ic.Repository.open(storage)
    values = [
        np.asarray(zarr.open_array(repo.readonly_session(b).store, path="a", mode="r")[:]).tolist()
        for b in sorted(repo.list_branches())
    ]
    return (
        repo.spec_version.name,
        [s.message for s in repo.ancestry(branch="main")],
        [s.message for s in repo.ancestry(branch="side")],
        {name: repo.lookup_tag(name) for name in repo.list_tags()},
        repo.config.inline_chunk_threshold_bytes,
        values,
    )


@pytest.mark.parametrize("how", ["die before", "die after", "error"])
def test_stopping_at_any_write_leaves_the_old_version_or_the_new(how: str) -> None:
    storage, repo = prepared()
    old = seen(storage.inner)
    ic.upgrade_icechunk_repository(repo, dry_run=False)
    steps = len(storage.writes)
    assert storage.writes[:2] == ["repo", "refs/branch.main/ref.json"]
    assert not keys_of(storage.inner, "refs/")
    assert steps == 7
    versions = []
    for step in range(steps):
        storage, repo = prepared()
        tags = seen(storage.inner)[3]
        storage.fail_at, storage.how = step, how
        if how == "error" and step > 0:
            # Old files that cannot be deleted do no harm.
            ic.upgrade_icechunk_repository(repo, dry_run=False)
        else:
            with pytest.raises((Died, StorageError)):
                ic.upgrade_icechunk_repository(repo, dry_run=False)
        storage.fail_at = -1
        state = seen(storage.inner)
        versions.append(state[0])
        assert state[1:3] == old[1:3]
        assert state[3] == tags
        assert state[4:] == old[4:]
        if state[0] == "v1":
            ic.upgrade_icechunk_repository(ic.Repository.open(storage.inner), dry_run=False)
        commit(ic.Repository.open(storage.inner), 5.0)
        assert seen(storage.inner)[1][0] == "5.0"
    first = "v2" if how == "die after" else "v1"
    assert versions == [first] + ["v2"] * (steps - 1)


@pytest.mark.parametrize("how", ["lost race", "lost reply"])
def test_a_race_for_the_new_object(how: str) -> None:
    storage, repo = prepared()
    storage.fail_at, storage.how = 0, how
    if how == "lost race":
        with pytest.raises(ic.ConflictError) as caught:
            ic.upgrade_icechunk_repository(repo, dry_run=False)
        assert caught.value.kind == ErrorKind.REPO_INFO_UPDATED
    else:
        assert ic.upgrade_icechunk_repository(repo, dry_run=False).spec_version == 2
