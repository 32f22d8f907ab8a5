"""Metadata, status, feature flags, attribution; the operations log over many pages."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import zarr

import icechunk as ic
from icechunk.assets.refs import with_update
from icechunk.format.repo_info import (
    MetadataChanged,
    NewCommit,
    RepoInfo,
    RepoMigrated,
    SnapshotRecord,
    Update,
    UpdateLog,
)
from icechunk.ids import INITIAL_SNAPSHOT_ID
from tests.faults import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLAGS = ["move_node", "create_tag", "delete_tag"]


@pytest.fixture
def repo() -> ic.Repository:
    return ic.Repository.create(ic.in_memory_storage())


def kinds(repo: ic.Repository) -> list[str]:
    return [type(update.kind).__name__ for update in repo.ops_log()]


# -- settings ---------------------------------------------------------------------------------


def test_metadata_is_replaced_or_updated_key_by_key(repo: ic.Repository) -> None:
    assert repo.metadata == {}
    repo.set_metadata({"a": {"x": [1, None, 1.5]}, "b": "é"})
    assert repo.get_metadata() == {"a": {"x": [1, None, 1.5]}, "b": "é"}
    assert repo.update_metadata({"a": None, "c": 2}) == {"a": None, "b": "é", "c": 2}
    assert ic.Repository.open(repo.storage).metadata == {"a": None, "b": "é", "c": 2}
    repo.set_metadata({})
    assert repo.metadata == {}
    assert kinds(repo) == ["MetadataChanged"] * 3 + ["RepoInitialized"]
    for bad in ("x", {1: 2}, {"a": object()}):
        with pytest.raises(TypeError):
            repo.set_metadata(bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            repo.update_metadata(bad)  # type: ignore[arg-type]
    assert len(kinds(repo)) == 4


WRITES: dict[str, Callable[[ic.Repository], Any]] = {
    "session": lambda r: r.writable_session("main"),
    "moves": lambda r: r.rearrange_session("main"),
    "rewrite": lambda r: r.rewrite_manifests("x", branch="main"),
    "metadata": lambda r: r.set_metadata({"a": 1}),
    "flag": lambda r: r.set_feature_flag("delete_tag", setting=False),
    "config": lambda r: r.save_config(),
    "tag": lambda r: r.create_tag("t", r.lookup_branch("main")),
    "flush": lambda r: r.readonly_session("main").flush("x"),
}


def test_a_read_only_repository_takes_only_another_status(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    zarr.create_group(session.store)
    when = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
    closed = ic.RepoStatus(ic.RepoAvailability.read_only, when, "moving house")
    repo.set_status(closed)
    assert repo.status == ic.Repository.open(repo.storage).get_status() == closed
    before = kinds(repo)
    for write in (*WRITES.values(), lambda _: session.commit("x")):
        with pytest.raises(ic.ReadOnlyError, match="moving house") as caught:
            write(repo)
        assert caught.value.kind == "read-only-repository"
    assert kinds(repo) == before
    assert next(iter(repo.ops_log())).kind == ic.UpdateType.RepoStatusChanged(closed)
    repo.set_status(ic.RepoStatus(ic.RepoAvailability.online))
    session.commit("now")
    for write in WRITES.values():
        write(repo)
    with pytest.raises(TypeError):
        repo.set_status("online")  # type: ignore[arg-type]


def test_feature_flags(repo: ic.Repository) -> None:
    assert [flag.name for flag in repo.feature_flags()] == FLAGS
    assert [flag.name for flag in repo.enabled_feature_flags()] == FLAGS
    repo.set_feature_flag("create_tag", setting=False)
    repo.set_feature_flag("delete_tag", setting=True)
    assert [(f.name, f.setting, f.enabled) for f in repo.feature_flags()] == [
        ("move_node", None, True),
        ("create_tag", False, False),
        ("delete_tag", True, True),
    ]
    assert [flag.name for flag in repo.disabled_feature_flags()] == ["create_tag"]
    tip = repo.lookup_branch("main")
    with pytest.raises(ic.SessionStateError) as caught:
        repo.create_tag("t", tip)
    assert caught.value.kind == "feature-flag-disabled"
    repo.set_feature_flag("create_tag", setting=None)
    repo.create_tag("t", tip)
    repo.set_feature_flag("delete_tag", setting=False)
    with pytest.raises(ic.SessionStateError, match="delete_tag"):
        repo.delete_tag("t")
    assert next(repo.ops_log()).kind == ic.UpdateType.FeatureFlagChanged(5, new_value=False)
    with pytest.raises(ic.InvalidInputError, match="move_node") as unknown:
        repo.set_feature_flag("other", setting=True)
    assert unknown.value.kind == "invalid-feature-flag"
    with pytest.raises(TypeError):
        repo.set_feature_flag("create_tag", setting=1)  # type: ignore[arg-type]


def test_moves_can_be_switched_off_even_under_an_open_session(repo: ic.Repository) -> None:
    with repo.transaction("main", message="x") as store:
        zarr.create_group(store).create_group("a")
    session = repo.rearrange_session("main")
    session.move("/a", "/b")
    repo.set_feature_flag("move_node", setting=False)
    with pytest.raises(ic.SessionStateError, match="move_node"):
        session.commit("moved")
    with pytest.raises(ic.SessionStateError) as caught:
        repo.rearrange_session("main")
    assert caught.value.kind == "feature-flag-disabled"


class _SwitchesOff(FaultyStorage):
    """Switches moves off just before a commit replaces the repo object, after it was read."""

    def __init__(self, inner: ic.Storage, owner: ic.Repository) -> None:
        super().__init__(inner)
        self.owner: ic.Repository | None = owner

    async def put_if_unchanged(self, key: str, data: Any, version: Any, **kwargs: Any) -> Any:
        owner, self.owner = self.owner, None
        if owner is not None:
            await owner.set_feature_flag_async("move_node", setting=False)
        return await super().put_if_unchanged(key, data, version, **kwargs)


@pytest.mark.parametrize("how", ["commit", "amend", "flush"])
def test_moves_switched_off_in_the_middle_of_a_commit_do_not_land(tmp_path: Path, how: str) -> None:
    place = ic.local_filesystem_storage(tmp_path / "repo")
    owner = ic.Repository.create(place)
    with owner.transaction("main", message="x") as store:
        zarr.create_group(store).create_group("a")
    tip = owner.lookup_branch("main")
    session = ic.Repository.open(_SwitchesOff(place, owner)).rearrange_session("main")
    session.move("/a", "/b")
    with pytest.raises(ic.SessionStateError, match="move_node"):
        getattr(session, how)("moved")
    assert owner.lookup_branch("main") == tip
    assert len(list(owner.ancestry(branch="main"))) == 2


def test_reopening_changes_the_configuration_of_the_copy_alone(repo: ic.Repository) -> None:
    other = repo.reopen(ic.RepositoryConfig(inline_chunk_threshold_bytes=3))
    assert other.config.inline_chunk_threshold_bytes == 3
    assert other.reopen().config == other.config
    assert repo.config.inline_chunk_threshold_bytes is None
    repo.set_metadata({"a": 1})
    assert other.metadata == {"a": 1}


def test_a_configuration_is_copied_in_and_out(repo: ic.Repository) -> None:
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=3)
    made = ic.Repository.create(ic.in_memory_storage(), config)
    config.inline_chunk_threshold_bytes = 9
    made.config.inline_chunk_threshold_bytes = 10
    made.config.storage = ic.StorageSettings(storage_class="IA")
    made.save_config()
    stored = ic.Repository.fetch_config(made.storage)
    assert stored is not None
    assert stored.inline_chunk_threshold_bytes == 3
    assert made.config.inline_chunk_threshold_bytes == 3
    assert made.config.storage is None


def test_attribution_travels_with_the_repository(repo: ic.Repository) -> None:
    me = ic.Attribution(client="me/1", workload="w", principal="p")
    assert repo.attribution == ic.Attribution()
    opened = ic.Repository.open(repo.storage, attribution=me)
    assert opened.attribution == opened.reopen().attribution == me
    assert ic.Repository.open_or_create(repo.storage, attribution=me).attribution == me
    made = ic.Repository.create(ic.in_memory_storage(), attribution=me)
    assert made.attribution == me


def test_version_1_has_none_of_it() -> None:
    repo = ic.Repository.create(ic.in_memory_storage(), spec_version=1)
    acts: list[Callable[[], Any]] = [
        repo.get_metadata,
        lambda: repo.metadata,
        lambda: repo.set_metadata({}),
        lambda: repo.update_metadata({}),
        repo.get_status,
        lambda: repo.set_status(ic.RepoStatus(ic.RepoAvailability.online)),
        repo.feature_flags,
        repo.enabled_feature_flags,
        lambda: repo.set_feature_flag("create_tag", setting=True),
        lambda: next(repo.ops_log()),
        repo.inspect_repo_info,
        lambda: repo.rearrange_session("main"),
    ]
    for act in acts:
        with pytest.raises(ic.FormatError) as caught:
            act()
        assert caught.value.kind == "unsupported-spec-version"


# -- the operations log -----------------------------------------------------------------------


@pytest.mark.parametrize("page", [0, 1, 2, 5, 100])
def test_the_log_is_whole_whatever_the_page(page: int) -> None:
    config = ic.RepositoryConfig(num_updates_per_repo_info_file=page)
    repo = ic.Repository.create(ic.in_memory_storage(), config)
    for n in range(12):
        repo.set_metadata({"n": n})
        log = list(repo.ops_log())
        assert [type(u.kind).__name__ for u in log] == ["MetadataChanged"] * (n + 1) + [
            "RepoInitialized"
        ]
        assert len(repo.inspect_repo_info()["latest_updates"]) == min(n + 2, max(1, page))
        paths = [u.backup_path for u in log]
        assert paths[0] is None
        assert all(paths[1:])
        assert len(set(paths)) == len(paths)
        times = [u.updated_at for u in log]
        assert times == sorted(times, reverse=True)


def synthetic(count: int) -> RepoInfo:
    record = SnapshotRecord(
        id=INITIAL_SNAPSHOT_ID, parent_id=None, flushed_at_us=1, message="", metadata={}
    )
    made_up = [
        Update(kind=NewCommit(branch="main", new_snap_id=INITIAL_SNAPSHOT_ID), updated_at_us=n)
        for n in range(count, 0, -1)
    ]
    migrated = Update(kind=RepoMigrated(from_version=1, to_version=2), updated_at_us=count + 1)
    info = RepoInfo.initial(record, MetadataChanged(), updated_at_us=1)
    return replace(info, updates=UpdateLog.of([migrated, *made_up]))


def test_entries_made_up_by_an_upgrade_stay_until_the_entry_before_them_goes() -> None:
    info = synthetic(4)
    seen = []
    for n in range(5):
        info = with_update(info, MetadataChanged(), f"repo.{n}", 3)
        seen.append((len(info.updates), info.repo_before_updates))
    assert seen == [(6, None), (7, None), (3, "repo.0"), (3, "repo.1"), (3, "repo.2")]


# -- how entries look -------------------------------------------------------------------------


def test_entries_are_values_that_show_and_match(repo: ic.Repository) -> None:
    tip = repo.lookup_branch("main")
    repo.create_branch("b", tip)
    first, last = repo.ops_log()
    assert first.kind == ic.UpdateType.BranchCreated("b")
    assert isinstance(first.kind, ic.UpdateType)
    assert isinstance(last.kind, ic.UpdateType.RepoInitialized)
    assert str(first).startswith(
        '<icechunk.ops.Update>\nkind: icechunk.ops.UpdateType.BranchCreated(name="b")\n'
        "updated_at: datetime.datetime("
    )
    assert str(first).endswith("backup_path: None\n")
    assert pickle.loads(pickle.dumps(first)) == first
    match first.kind:
        case ic.UpdateType.BranchCreated(name):
            assert name == "b"
        case _:
            pytest.fail("did not match")
    with pytest.raises(TypeError):
        ic.UpdateType()
    status = ic.RepoStatus(ic.RepoAvailability.online, datetime(2020, 1, 1, tzinfo=UTC))
    assert str(ic.UpdateType.RepoStatusChanged(status)) == (
        "icechunk.ops.UpdateType.RepoStatusChanged(status=RepoStatus(availability=Online, "
        "set_at=2020-01-01T00:00:00Z, limited_availability_reason=None))"
    )


def test_the_log_can_be_read_asynchronously() -> None:
    async def read() -> list[str]:
        repo = await ic.Repository.create_async(ic.in_memory_storage())
        await repo.set_metadata_async({"a": 1})
        return [type(update.kind).__name__ async for update in repo.ops_log_async()]

    assert asyncio.run(read()) == ["MetadataChanged", "RepoInitialized"]
