"""What cannot be done is refused with an error that names what and where; nothing changes."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.core.buffer import cpu
from zarr.core.sync import sync

import icechunk as ic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "repo"
    repo = ic.Repository.create(ic.local_filesystem_storage(place))
    with repo.transaction("main", message="data") as store:
        array = zarr.create_array(
            store, name="a", shape=(4, 4000), chunks=(2, 2000), dtype="f8", compressors=None
        )
        array[:] = 1.0
    return place


def open_repo(path: Path) -> ic.Repository:
    return ic.Repository.open(ic.local_filesystem_storage(path))


def contents(path: Path) -> dict[str, bytes]:
    files = (p for p in path.rglob("*") if p.is_file())
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


def test_opening_a_place_without_a_repository(tmp_path: Path) -> None:
    with pytest.raises(ic.RepositoryNotFoundError) as caught:
        open_repo(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in str(caught.value)
    assert "Repository.create" in str(caught.value)
    assert not (tmp_path / "nothing").exists()
    assert not ic.Repository.exists(ic.local_filesystem_storage(tmp_path / "nothing"))


def test_creating_where_something_is(path: Path) -> None:
    before = contents(path)
    with pytest.raises(ic.InvalidInputError) as caught:
        ic.Repository.create(ic.local_filesystem_storage(path))
    assert caught.value.kind == "parent-directory-not-clean"
    assert contents(path) == before


@pytest.mark.parametrize("cut", [0, 5, 38, 39, 60, -1])
def test_a_truncated_repo_object(path: Path, cut: int) -> None:
    data = (path / "repo").read_bytes()
    (path / "repo").write_bytes(data[:cut])
    with pytest.raises(ic.FormatError) as caught:
        open_repo(path)
    assert "repo" in str(caught.value)


@pytest.mark.parametrize("folder", ["snapshots", "manifests"])
def test_a_damaged_file_is_named(path: Path, folder: str) -> None:
    for file in (path / folder).iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 0x10
        file.write_bytes(bytes(data))

    def read() -> None:
        store = open_repo(path).readonly_session("main").store
        zarr.open_array(store, path="a", mode="r")[:]

    with pytest.raises(ic.FormatError) as caught:
        read()
    assert folder in str(caught.value)


def test_a_foreign_file(path: Path) -> None:
    (path / "repo").write_bytes(b"PNG\r\n" + bytes(200))
    with pytest.raises(ic.FormatError, match="repo"):
        open_repo(path)


def test_a_chunk_that_is_gone_is_named(path: Path) -> None:
    for file in (path / "chunks").iterdir():
        file.unlink()
    with pytest.raises(ic.StorageError) as caught:
        zarr.open_array(open_repo(path).readonly_session("main").store, path="a", mode="r")[:]
    assert caught.value.kind == "object-not-found"
    assert any("/a" in note for note in caught.value.__notes__)


def _set(session: ic.Session, key: str, data: bytes = b"x" * 8) -> None:
    sync(session.store.set(key, cpu.Buffer.from_bytes(data)))


CASES: dict[str, tuple[Callable[[ic.Repository], Any], type[Exception], str, str]] = {
    "unknown branch": (
        lambda r: r.writable_session("mian"),
        ic.RefNotFoundError,
        "ref-not-found",
        "mian",
    ),
    "unknown tag": (
        lambda r: r.readonly_session(tag="v9"),
        ic.RefNotFoundError,
        "ref-not-found",
        "v9",
    ),
    "unknown snapshot": (
        lambda r: r.readonly_session(snapshot_id="VY76P925PRY57WFEK410"),
        ic.SnapshotNotFoundError,
        "snapshot-not-found",
        "VY76P925PRY57WFEK410",
    ),
    "no snapshot id at all": (
        lambda r: r.readonly_session(snapshot_id="hello"),
        ic.InvalidInputError,
        "invalid-snapshot-id",
        "hello",
    ),
    "commit without changes": (
        lambda r: r.writable_session("main").commit("nothing"),
        ic.SessionStateError,
        "no-changes-to-commit",
        "allow_empty",
    ),
    "write through a read-only session": (
        lambda r: _set(r.readonly_session("main"), "a/c/0/0"),
        ic.ReadOnlyError,
        "read-only-store",
        "writable_session",
    ),
    "delete through a read-only session": (
        lambda r: sync(r.readonly_session("main").store.delete("a/zarr.json")),
        ic.ReadOnlyError,
        "read-only-session",
        "writable_session",
    ),
    "commit through a read-only session": (
        lambda r: r.readonly_session("main").commit("x"),
        ic.SessionStateError,
        "commit-not-allowed",
        "writable_session",
    ),
    "message that is no Unicode": (
        lambda r: r.writable_session("main").commit("\ud800", allow_empty=True),
        ic.InvalidInputError,
        "invalid-commit-configuration",
        "UTF-8",
    ),
    "chunk outside the grid": (
        lambda r: _set(r.writable_session("main"), "a/c/2/0"),
        ic.InvalidInputError,
        "invalid-chunk-index",
        "(2, 2) of /a",
    ),
    "chunk of the wrong rank": (
        lambda r: _set(r.writable_session("main"), "a/c/0"),
        ic.InvalidInputError,
        "invalid-chunk-index",
        "/a",
    ),
    "chunk of no array": (
        lambda r: _set(r.writable_session("main"), "b/c/0"),
        ic.NodeNotFoundError,
        "node-not-found",
        "/b",
    ),
    "document that is no JSON": (
        lambda r: _set(r.writable_session("main"), "b/zarr.json"),
        ic.InvalidInputError,
        "bad-metadata",
        "/b",
    ),
    "branch that exists": (
        lambda r: r.create_branch("main", r.lookup_branch("main")),
        ic.AlreadyExistsError,
        "branch-already-exists",
        "main",
    ),
    "deleting main": (
        lambda r: r.delete_branch("main"),
        ic.SessionStateError,
        "cannot-delete-main",
        "main",
    ),
    "branch at an unknown snapshot": (
        lambda r: r.create_branch("b", "VY76P925PRY57WFEK410"),
        ic.SnapshotNotFoundError,
        "snapshot-not-found",
        "VY76P925PRY57WFEK410",
    ),
    "reset from where the branch is not": (
        lambda r: r.reset_branch(
            "main", "1CECHNKREP0F1RSTCMT0", from_snapshot_id="1CECHNKREP0F1RSTCMT0"
        ),
        ic.ConflictError,
        "branch-update-conflict",
        "main",
    ),
    "forking a read-only session": (
        lambda r: r.readonly_session("main").fork(),
        ic.SessionStateError,
        "cannot-fork-read-only-session",
        "read-only",
    ),
    "committing a fork": (
        lambda r: r.writable_session("main").fork().commit("x"),
        ic.SessionStateError,
        "commit-not-allowed",
        "merge",
    ),
    "merging what is no fork": (
        lambda r: r.writable_session("main").merge(r.readonly_session("main")),
        ic.SessionStateError,
        "merge-not-allowed",
        "fork()",
    ),
    "a diff the wrong way round": (
        lambda r: r.diff(from_branch="main", to_snapshot_id="1CECHNKREP0F1RSTCMT0"),
        ic.InvalidInputError,
        "bad-snapshot-chain-for-diff",
        "ancestor",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refusals(path: Path, case: str) -> None:
    act, error, kind, named = CASES[case]
    before = contents(path)
    with pytest.raises(error) as caught:
        act(open_repo(path))
    assert caught.value.kind == kind
    assert named in str(caught.value)
    assert contents(path) == before
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), str(again), again.kind) == (error, str(caught.value), kind)


def test_wrong_types_and_contradictions(path: Path) -> None:
    repo = open_repo(path)
    with pytest.raises(TypeError, match="text"):
        repo.writable_session("main").commit(3, allow_empty=True)
    with pytest.raises(TypeError):
        repo.writable_session("main").commit("x", {1: 2}, allow_empty=True)
    with pytest.raises(TypeError, match="bytes"):
        repo.writable_session("main").commit("x", {"a": b"raw"}, allow_empty=True)
    with pytest.raises(ValueError, match="branch, tag, or snapshot_id"):
        repo.readonly_session()
    with pytest.raises(ValueError, match="branch, tag, or snapshot_id"):
        repo.readonly_session("main", tag="v1")
    assert len(list(repo.ancestry(branch="main"))) == 2


WRONG_ARGUMENTS: dict[str, tuple[Callable[[ic.Repository, ic.Session], Any], type[Exception]]] = {
    "solver": (lambda _, session: session.rebase("UseTheirs"), TypeError),
    "rebase_with": (lambda _, session: session.commit("x", rebase_with="UseTheirs"), TypeError),
    "rebase_tries": (lambda _, session: session.commit("x", rebase_tries=-1), ValueError),
    "no number": (lambda _, session: session.commit("x", rebase_tries="3"), TypeError),
    "chunk": (lambda _, session: session.chunk_type("/a", [0.5, 0]), TypeError),
    "batch_size": (lambda _, session: sync(chunks_of(session, -1)), ValueError),
    "snapshot id": (lambda repo, _: repo.lookup_snapshot(5), TypeError),
    "time": (lambda repo, _: repo.readonly_session("main", as_of="2026-01-01"), TypeError),
    "config": (lambda repo, _: repo.reopen({"a": 1}), TypeError),
    "config of a new one": (
        lambda *_: ic.Repository.create(ic.in_memory_storage(), {"a": 1}),
        TypeError,
    ),
}


async def chunks_of(session: ic.Session, batch_size: int) -> list[tuple[int, ...]]:
    return [chunk async for chunk in session.chunk_coordinates("/a", batch_size)]


@pytest.mark.parametrize("name", WRONG_ARGUMENTS)
def test_arguments_are_refused_whether_they_would_have_been_needed_or_not(
    path: Path, name: str
) -> None:
    before = contents(path)
    repo = open_repo(path)
    session = repo.writable_session("main")
    session.store.set_virtual_ref(
        "a/c/0/0", "s3://b/x", offset=0, length=1, validate_container=False
    )
    call, error = WRONG_ARGUMENTS[name]
    with pytest.raises(error) as caught:
        call(repo, session)
    assert "has no attribute" not in str(caught.value)
    assert contents(path) == before
    assert session.has_uncommitted_changes


@pytest.mark.parametrize(
    "options",
    [
        {"on_chunk_conflict": "UseTheirs"},
        {"on_chunk_conflict": 2},
        {"on_user_attributes_conflict": None},
        {"fail_on_delete_of_updated_array": "no"},
        {"fail_on_delete_of_updated_group": 0},
    ],
)
def test_a_solver_is_not_made_of_what_it_would_take_for_something_else(options: Any) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        ic.BasicConflictSolver(**options)


def test_a_committed_session_takes_no_more_writes(path: Path) -> None:
    repo = open_repo(path)
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="a", mode="r+")
    array[:2] = 2.0
    session.commit("second")
    with pytest.raises(ic.ReadOnlyError):
        array[:2] = 3.0
    with pytest.raises(ic.SessionStateError) as caught:
        session.commit("third", allow_empty=True)
    assert caught.value.kind == "commit-not-allowed"
    assert np.asarray(array[0, 0]) == 2.0


def test_a_deleted_branch_is_noticed_at_commit(path: Path) -> None:
    repo = open_repo(path)
    repo.create_branch("b", repo.lookup_branch("main"))
    session = repo.writable_session("b")
    zarr.open_array(session.store, path="a", mode="r+")[:2] = 2.0
    repo.delete_branch("b")
    with pytest.raises(ic.RefNotFoundError) as caught:
        session.commit("x")
    assert caught.value.kind == "branch-not-found"
    assert session.has_uncommitted_changes


def test_a_reset_branch_is_no_silent_loss(path: Path) -> None:
    repo = open_repo(path)
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[:2] = 2.0
    repo.reset_branch("main", "1CECHNKREP0F1RSTCMT0")
    with pytest.raises(ic.ConflictError, match="reset or amended"):
        session.commit("x", rebase_with=ic.BasicConflictSolver())


@pytest.mark.parametrize("name", ["create", "open", "open_or_create", "exists", "fetch_config"])
def test_a_path_in_place_of_a_storage_is_told_what_makes_one(name: str) -> None:
    with pytest.raises(TypeError, match=r"not str.*local_filesystem_storage.*storage_for_url"):
        getattr(ic.Repository, name)("somewhere")
