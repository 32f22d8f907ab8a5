"""Version 1 repositories: refs as files, commits as one conditional write of one of them."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import in_thread
from icechunk.errors import ErrorKind, IcechunkError, StorageError
from icechunk.format.header import HEADER_BYTES
from tests.faults import Died, FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Callable

NOWHERE = "000000000000000000G0"
ROOT = "1CECHNKREP0F1RSTCMT0"


def made() -> tuple[FaultyStorage, ic.Repository]:
    storage = FaultyStorage(ic.in_memory_storage())
    repo = ic.Repository.create(storage, spec_version=1)
    with repo.transaction("main", message="first") as store:
        for name in ("a", "b"):
            zarr.create_array(
                store, name=name, shape=(4000,), chunks=(1000,), dtype="f8", compressors=None
            )[:] = 1.0
    storage.writes.clear()
    return storage, repo


def changed(repo: ic.Repository, branch: str = "main", value: float = 2.0) -> ic.Session:
    session = repo.writable_session(branch)
    zarr.open_array(session.store, path="a", mode="r+")[:1000] = value
    return session


def tip_file(storage: ic.Storage, branch: str = "main") -> str:
    return get(storage, f"refs/branch.{branch}/ref.json").decode()


def get(storage: ic.Storage, key: str) -> bytes:
    return asyncio.run(storage.get(key))


def keys(storage: ic.Storage, prefix: str = "") -> list[str]:
    return sorted(key for key, _ in storage.list_objects(prefix=prefix))


def raised(action: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(IcechunkError) as caught:
        action()
    return type(caught.value).__name__, str(caught.value.kind)


def test_a_new_repository_is_two_objects() -> None:
    storage = ic.in_memory_storage()
    repo = ic.Repository.create(storage, spec_version=ic.SpecVersion.v1)
    assert keys(storage) == ["refs/branch.main/ref.json", f"snapshots/{ROOT}"]
    assert tip_file(storage) == f'{{"snapshot":"{ROOT}"}}'
    assert ic.Repository.exists(storage)
    assert ic.Repository.fetch_spec_version(storage) == ic.SpecVersion.v1
    assert ic.Repository.fetch_config(storage) is None
    assert "(v1)" in repr(repo)
    assert raised(lambda: ic.Repository.create(storage, spec_version=1)) == (
        "InvalidInputError",
        "parent-directory-not-clean",
    )
    assert raised(
        lambda: ic.Repository.create(storage, spec_version=1, check_clean_root=False)
    ) == ("ConflictError", "branch-update-conflict")


def test_every_file_is_of_version_1() -> None:
    storage, repo = made()
    changed(repo).commit("second")
    for key in keys(storage.inner):
        if key.startswith(("snapshots/", "manifests/", "transactions/")):
            assert get(storage, key)[HEADER_BYTES - 3] == 1, key
    assert not any(key.startswith(("repo", "overwritten")) for key in keys(storage.inner))


def test_a_commit_ends_with_the_write_of_its_branch() -> None:
    storage, repo = made()
    new = changed(repo).commit("second", metadata={"who": "é"})
    assert storage.writes[-1] == "refs/branch.main/ref.json"
    assert sum(key.startswith("refs/") for key in storage.writes) == 1
    assert json.loads(tip_file(storage)) == {"snapshot": new}
    assert [s.message for s in repo.ancestry(branch="main")] == [
        "second",
        "first",
        "Repository initialized",
    ]
    assert repo.lookup_snapshot(new).metadata == {"who": "é"}


@pytest.mark.parametrize("how", ["die before", "die after", "error"])
def test_stopping_at_any_write_leaves_the_old_state_or_the_new(how: str) -> None:
    storage, repo = made()
    changed(repo).commit("second")
    steps = len(storage.writes)
    for step in range(steps):
        storage, repo = made()
        storage.fail_at, storage.how = step, how
        with pytest.raises((Died, StorageError)):
            changed(repo).commit("second")
        storage.fail_at = -1
        messages = [s.message for s in ic.Repository.open(storage).ancestry(branch="main")]
        assert (messages[0] == "second") == (how == "die after" and step == steps - 1)
        changed(ic.Repository.open(storage), value=3.0).commit("again")


@pytest.mark.parametrize("how", ["lost race", "lost reply"])
def test_losing_the_reply_or_the_race_neither_loses_nor_doubles_the_commit(how: str) -> None:
    storage, repo = made()
    changed(repo).commit("second")
    last = len(storage.writes) - 1
    storage, repo = made()
    storage.fail_at, storage.how = last, how
    changed(repo).commit("second")
    messages = [s.message for s in repo.ancestry(branch="main")]
    assert messages == ["second", "first", "Repository initialized"]


def test_a_commit_whose_reply_was_lost_is_found_below_the_next_one() -> None:
    storage, repo = made()
    session = changed(repo)
    real, done = storage.put_if_unchanged, []

    def commit_other() -> None:
        changed(ic.Repository.open(storage.inner), value=5.0).commit("other")

    async def lose_reply(key: str, *args: Any, **kwargs: Any) -> Any:
        if done:
            return await real(key, *args, **kwargs)
        done.append(True)
        storage.fail_at, storage.how = len(storage.writes), "lost reply"
        try:
            return await real(key, *args, **kwargs)
        finally:
            await in_thread(commit_other)

    storage.put_if_unchanged = lose_reply
    session.commit("second")
    assert [s.message for s in repo.ancestry(branch="main")][:3] == ["other", "second", "first"]


def test_a_branch_that_moved() -> None:
    _, repo = made()
    ours, theirs = changed(repo), repo.writable_session("main")
    zarr.open_array(theirs.store, path="b", mode="r+")[:] = 7.0
    tip = theirs.commit("theirs")
    base = ours.snapshot_id
    with pytest.raises(ic.ConflictError) as caught:
        ours.commit("ours")
    assert (caught.value.expected_parent, caught.value.actual_parent) == (base, tip)
    ours.commit("ours", rebase_with=ic.ConflictDetector())
    info = repo.lookup_snapshot(repo.lookup_branch("main"))
    assert (info.parent_id, info.metadata) == (tip, {"__icechunk": {"rebase_attempts": 1}})
    conflicting, other = changed(repo, value=8.0), changed(repo, value=9.0)
    other.commit("first of two")
    with pytest.raises(ic.RebaseFailedError):
        conflicting.commit("second of two", rebase_with=ic.ConflictDetector())


def test_a_branch_that_was_deleted() -> None:
    _, repo = made()
    repo.create_branch("side", repo.lookup_branch("main"))
    session = changed(repo, "side")
    repo.delete_branch("side")
    with pytest.raises(ic.ConflictError, match="deleted") as caught:
        session.commit("late", rebase_with=ic.ConflictDetector())
    assert caught.value.actual_parent is None


def test_refs() -> None:
    storage, repo = made()
    tip = repo.lookup_branch("main")
    repo.create_branch("side", ROOT)
    repo.create_branch("..", ROOT)
    assert repo.list_branches() == {"main", "side", ".."}
    repo.reset_branch("side", tip, from_snapshot_id=ROOT)
    assert repo.lookup_branch("side") == tip
    repo.delete_branch("side")
    repo.create_tag("t", tip)
    assert (repo.list_tags(), repo.lookup_tag("t")) == ({"t"}, tip)
    repo.delete_tag("t")
    assert repo.list_tags() == set()
    assert get(storage, "refs/tag.t/ref.json.deleted") == b""
    conflict = ("ConflictError", "branch-update-conflict")
    missing = ("RefNotFoundError", "ref-not-found")
    gone, name = ("StorageError", "object-not-found"), ("InvalidInputError", "invalid-ref-name")
    used = ("AlreadyExistsError", "tag-already-exists")
    for expected, action in [
        (conflict, lambda: repo.create_branch("main", tip)),
        (conflict, lambda: repo.reset_branch("main", tip, from_snapshot_id=ROOT)),
        (missing, lambda: repo.reset_branch("nope", tip)),
        (missing, lambda: repo.delete_branch("nope")),
        (missing, lambda: repo.lookup_branch("nope")),
        (missing, lambda: repo.lookup_tag("t")),
        (missing, lambda: repo.delete_tag("t")),
        (missing, lambda: repo.writable_session("nope")),
        (("SessionStateError", "cannot-delete-main"), lambda: repo.delete_branch("main")),
        (used, lambda: repo.create_tag("t", tip)),
        (gone, lambda: repo.create_branch("x", NOWHERE)),
        (gone, lambda: repo.create_tag("x", NOWHERE)),
        (gone, lambda: repo.reset_branch("main", NOWHERE)),
        (gone, lambda: repo.readonly_session(snapshot_id=NOWHERE)),
        (gone, lambda: list(repo.ancestry(snapshot_id=NOWHERE))),
        (gone, lambda: repo.lookup_snapshot(NOWHERE)),
        (name, lambda: repo.create_branch("a/b", tip)),
        (name, lambda: repo.create_tag("a/b", tip)),
        (name, lambda: repo.create_tag("", tip)),
        (name, lambda: repo.lookup_branch("a/b")),
    ]:
        assert raised(action) == expected


def test_what_version_1_does_not_have() -> None:
    _, repo = made()
    unsupported = ("FormatError", "unsupported-spec-version")
    assert raised(lambda: changed(repo).amend("x")) == unsupported
    assert raised(lambda: repo.rearrange_session("main")) == unsupported
    session = repo.writable_session("main")
    with zarr.config.set({"array.rectilinear_chunks": True}):
        grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[3]]}}
        document = {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [3],
            "chunk_grid": grid,
            "data_type": "int8",
        }
        buffer = zarr.core.buffer.default_buffer_prototype().buffer
        data = buffer.from_bytes(json.dumps(document).encode())
        assert raised(lambda: asyncio.run(session.store.set("r/zarr.json", data))) == (
            "InvalidInputError",
            "bad-metadata",
        )


def test_flush_makes_a_snapshot_that_no_branch_points_at() -> None:
    _, repo = made()
    anonymous = changed(repo).flush("by itself")
    assert [s.message for s in repo.ancestry(snapshot_id=anonymous)][:2] == ["by itself", "first"]
    repo.create_tag("found", anonymous)
    assert next(repo.ancestry(branch="main")).message == "first"


def test_sessions_by_time() -> None:
    _, repo = made()
    when = repo.lookup_snapshot(repo.lookup_branch("main")).written_at
    changed(repo).commit("second")
    assert repo.readonly_session("main", as_of=when).snapshot_id != repo.lookup_branch("main")


def test_forks_and_pickles_know_the_version() -> None:
    storage = ic.in_memory_storage()
    repo = ic.Repository.create(storage, spec_version=1)
    with repo.transaction("main", message="first") as store:
        zarr.create_array(store, name="a", shape=(4,), chunks=(1,), dtype="f8")
    repo = pickle.loads(pickle.dumps(repo))
    assert repo.spec_version == ic.SpecVersion.v1
    session = repo.writable_session("main")
    fork = pickle.loads(pickle.dumps(session.fork()))
    zarr.open_array(fork.store, path="a", mode="r+")[1] = 5.0
    with repo.transaction("main", message="meanwhile") as store:
        zarr.open_array(store, path="a", mode="r+")[3] = 7.0
    session.rebase(ic.ConflictDetector())
    session.merge(pickle.loads(pickle.dumps(fork)))
    session.commit("merged")
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert np.asarray(array[:]).tolist() == [0.0, 5.0, 0.0, 7.0]


def test_the_stored_configuration() -> None:
    storage = ic.in_memory_storage()
    config = ic.RepositoryConfig(inline_chunk_threshold_bytes=7)
    repo = ic.Repository.create(storage, config, spec_version=1)
    assert ic.Repository.open(storage).config.inline_chunk_threshold_bytes == 7
    first = get(storage, "config.yaml")
    one = ic.Repository.open(storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=8))
    two = ic.Repository.open(storage, ic.RepositoryConfig(inline_chunk_threshold_bytes=9))
    one.save_config()
    (backup,) = keys(storage, "overwritten/")
    assert backup.rpartition("/")[2].startswith("config.yaml.")
    assert raised(two.save_config) == ("ConflictError", ErrorKind.CONFIG_UPDATED)
    assert raised(repo.save_config) == ("ConflictError", ErrorKind.CONFIG_UPDATED)
    one.save_config()
    assert ic.Repository.open(storage).config.inline_chunk_threshold_bytes == 8
    backups = keys(storage, "overwritten/")
    assert len(backups) == 2
    assert first in [get(storage, f"overwritten/{key}") for key in backups]


def test_names_that_other_writers_escape() -> None:
    storage, repo = made()
    tip = tip_file(storage)
    asyncio.run(storage.inner.put("refs/branch.%C3%A9t%C3%A9/ref.json", tip.encode()))
    asyncio.run(storage.inner.put("refs/branch.100%25/ref.json", tip.encode()))
    assert repo.list_branches() == {"main", "été", "100%25"}
    changed(repo, "été").commit("there")
    assert json.loads(tip_file(storage, "%C3%A9t%C3%A9"))["snapshot"] == repo.lookup_branch("été")
    assert repo.lookup_branch("100%25") == json.loads(tip)["snapshot"]


@pytest.mark.parametrize(
    "data", [b"", b"[]", b'{"snapshot": 3}', b'{"snapshot": "x"}', b"\xff", b"[" * 9999]
)
def test_a_damaged_ref_is_a_format_error(data: bytes) -> None:
    storage, repo = made()
    asyncio.run(storage.inner.put("refs/branch.main/ref.json", data))
    with pytest.raises(ic.FormatError, match=r"refs/branch\.main/ref\.json"):
        repo.lookup_branch("main")


def test_a_history_that_goes_in_circles_ends() -> None:
    storage, repo = made()
    first = repo.lookup_branch("main")
    second = changed(repo).commit("second")
    asyncio.run(storage.inner.put(f"snapshots/{first}", get(storage, f"snapshots/{second}")))
    with pytest.raises(ic.FormatError, match="own ancestor"):
        list(ic.Repository.open(storage.inner).ancestry(branch="main"))
