"""Every method of the document's `Repo`, used for its purpose."""

from __future__ import annotations

import inspect
import io
import pickle
from datetime import timedelta

import numpy as np
import pytest
import xarray as xr
import zarr
from rich.console import Console
from zarr.core.buffer import default_buffer_prototype

from icechunk._io.loop import run
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    NodeNotFoundError,
    ReadOnlyError,
    RebaseFailedError,
    RefNotFoundError,
    SessionStateError,
)
from icechunk.lake import AsyncRepo, LocalReadSession, LocalWriteSession, Repo
from tests.lake.conftest import AUTHOR, committed_array, make_array

EMPTY = inspect.Parameter.empty


# Of each method in the document, its parameters with their defaults.
LIFE = timedelta(hours=24)
CHECKOUT = {"ref": "main", "session_token": None, "for_writing": True, "expires_in": LIFE}
SESSION = {"ref": "main", "for_writing": True, "expires_in": LIFE, "message": None}
METHODS: dict[str, dict[str, object]] = {
    "ping": {},
    "checkout": CHECKOUT,
    "commit": {"message": EMPTY, "auto_ff": True, "checkout_for_writing": True},
    "fast_forward": {},
    "tag": {"tag_name": EMPTY, "commit_id": None, "message": None},
    "delete_tag": {"tag_name": EMPTY},
    "new_branch": {"branch": EMPTY},
    "delete_branch": {"branch": EMPTY},
    "list_active_sessions": {},
    "create_session": SESSION,
    "join_session": {"session_id": EMPTY},
    "status": {"limit": 1000},
    "commit_data": {"refresh": False},
    "tree": {"prefix": "", "depth": 10, "filter": None},
    "filter_metadata": {"filter": EMPTY},
    "add_kerchunk_references": {"refs": EMPTY, "path": EMPTY, "kwargs": EMPTY},
    "add_virtual_grib": {"grib_uri": EMPTY, "path": EMPTY, "kwargs": EMPTY},
    "add_virtual_hdf": {"hdf_uri": EMPTY, "path": EMPTY, "kwargs": EMPTY},
    "add_virtual_netcdf": {"netcdf_uri": EMPTY, "path": EMPTY, "kwargs": EMPTY},
    "add_virtual_zarr": {"zarr_uri": EMPTY, "path": EMPTY, "kwargs": EMPTY},
    "add_virtual_tiff": {"tiff_uri": EMPTY, "path": EMPTY, "name": EMPTY, "kwargs": EMPTY},
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", [Repo, AsyncRepo])
def test_parameters_are_those_of_the_document(kind, name):
    given = inspect.signature(getattr(kind, name)).parameters
    found = {key: parameter.default for key, parameter in given.items() if key != "self"}
    found.pop("on_chunk_conflict", None)  # ours
    assert found == METHODS[name]
    assert list(found) == list(METHODS[name])
    assert inspect.iscoroutinefunction(getattr(kind, name)) is (kind is AsyncRepo)


def test_ping_and_what_it_is(client, repo):
    repo.ping()
    assert (repo.name, repo.author) == ("ocean/sst", AUTHOR)
    assert isinstance(Repo(repo._async), Repo)
    assert isinstance(repo._async, AsyncRepo)
    assert "ocean/sst" in repr(repo)
    client.delete_repo("ocean/sst", confirm="ocean/sst")
    with pytest.raises(KeyError):
        repo.ping()


def test_checkout_of_branch_tag_and_commit(repo):
    first = committed_array(repo)
    repo.tag("v1")
    repo.root_group["t"][:] = 0
    second = repo.commit("zeros")
    assert repo.checkout() == second
    assert repo.checkout("v1") == first
    assert repo.root_group["t"][3, 3] == 15
    assert repo.checkout(first, for_writing=False) == first
    assert repo.checkout("main", for_writing=False) == second
    assert repo.root_group["t"][3, 3] == 0
    with pytest.raises(ReadOnlyError):
        repo.root_group["t"][:] = 1
    with pytest.raises(RefNotFoundError, match="its branches: main"):
        repo.checkout("nothing")


def test_commit_says_who_and_opens_a_new_session(repo):
    make_array(repo)
    before = repo.current
    commit = repo.commit("an array")
    assert repo.commit_log[0].id == commit
    assert repo.commit_log[0].author == AUTHOR
    assert repo.commit_log[0].message == "an array"
    assert repo.commit_log[1].author.name is None
    assert repo.current.session_id != before.session_id
    assert repo.current.base_commit == commit
    assert repo.commit("nothing changed") is None
    repo.root_group["t"][:] = 1
    repo.commit("read from here on", checkout_for_writing=False)
    assert isinstance(repo.current, LocalReadSession)
    with pytest.raises(SessionStateError, match="only reads"):
        repo.commit("no")


def test_a_commit_after_its_branch_was_deleted_can_go_elsewhere(repo):
    committed_array(repo)
    repo.new_branch("trial")
    repo.root_group["t"][:] = 5
    repo.delete_branch("trial")
    with pytest.raises(RefNotFoundError, match="trial"):
        repo.commit("nowhere")
    repo.new_branch("again")
    repo.commit("somewhere")
    assert repo.root_group["t"][0, 0] == 5


def test_what_to_do_with_conflicts_is_one_of_two(repo):
    with pytest.raises(InvalidInputError, match="none of last, error"):
        repo.commit("no", on_chunk_conflict="lst")


def test_repositories_and_sessions_travel(repo):
    """What arrives has joined the session, and what it writes is in it."""
    committed_array(repo)
    assert pickle.loads(pickle.dumps(repo)).current.base_commit == repo.current.base_commit
    repo.root_group["t"][0, 0] = 50
    there = pickle.loads(pickle.dumps(repo))
    assert there.root_group["t"][0, 0] == 50
    assert there.current.session_id == repo.current.session_id
    there.root_group["t"][3, 3] = 60
    session = pickle.loads(pickle.dumps(repo.current))
    assert zarr.open_group(session.store)["t"][3, 3] == 60
    repo.commit("both")
    assert repo.root_group["t"][3, 3] == 60
    repo.checkout("main", for_writing=False)
    assert pickle.loads(pickle.dumps(repo)).root_group["t"][3, 3] == 60


def test_commits_of_others_are_gone_past_unless_told(client, repo):
    committed_array(repo)
    other = client.get_repo("ocean/sst")
    other.checkout()
    repo.root_group["t"][:2, :2] = 100
    repo.commit("one corner")
    other.root_group["t"][2:, 2:] = 200
    with pytest.raises(ConflictError):
        other.commit("another corner", auto_ff=False)
    assert other.commit("another corner") is not None
    assert other.root_group["t"][0, 0] == 100
    assert other.root_group["t"][3, 3] == 200


def test_fast_forward(client, repo):
    committed_array(repo)
    other = client.get_repo("ocean/sst")
    other.checkout()
    other.root_group["t"][0, 0] = -5
    repo.root_group["t"][2:, 2:] = 7
    tip = repo.commit("a corner")
    other.fast_forward()
    assert other.current.base_commit == tip
    assert other.root_group["t"][3, 3] == 7
    assert other.root_group["t"][0, 0] == -5
    assert other.commit("on top", auto_ff=False) is not None


def test_fast_forward_names_what_both_changed(client, repo):
    committed_array(repo)
    other = client.get_repo("ocean/sst")
    other.checkout()
    other.root_group["t"][0, 0] = -5
    repo.root_group["t"][0, 0] = 7
    repo.commit("the same corner")
    for attempt in (other.fast_forward, lambda: other.commit("no")):
        with pytest.raises(RebaseFailedError, match="/t") as caught:
            attempt()
        assert "0" in str(caught.value)
    assert other.root_group["t"][0, 0] == -5


def test_tags(repo):
    first = committed_array(repo)
    tag = repo.tag("v1", message="the first")
    assert (tag.name, tag.commit_id, tag.message) == ("v1", first, "the first")
    repo.root_group["t"][:] = 0
    repo.commit("zeros")
    assert repo.tag("first", first).commit_id == first
    assert repo.tag("now", "main").commit_id == repo.commit_log[0].id
    with pytest.raises(RefNotFoundError, match="no branch, tag or commit 'nothing'"):
        repo.tag("later", "nothing")
    repo.delete_tag("now")
    assert repo.tags == ["first", "v1"]
    with pytest.raises(AlreadyExistsError):
        repo.tag("v1")
    repo.delete_tag("v1")
    assert repo.tags == ["first"]


def test_branches(repo):
    committed_array(repo)
    repo.new_branch("trial")
    assert repo.branches == ["main", "trial"]
    repo.root_group["t"][:] = 5
    repo.commit("on trial")
    assert repo.current.branch == "trial"
    repo.checkout("main")
    assert repo.root_group["t"][3, 3] == 15
    with pytest.raises(AlreadyExistsError):
        repo.new_branch("trial")
    repo.delete_branch("trial")
    assert repo.branches == ["main"]


def test_a_tag_or_commit_can_be_worked_on_once_it_has_a_branch(repo):
    committed_array(repo)
    repo.tag("v1")
    repo.checkout("v1")
    repo.root_group["t"][:] = 5
    with pytest.raises(SessionStateError, match="new_branch"):
        repo.commit("to nowhere")
    repo.new_branch("fix")
    assert repo.commit("a fix") is not None
    assert repo.root_group["t"][0, 0] == 5


def test_commit_data_and_log(repo):
    first = committed_array(repo)
    repo.tag("v1")
    data = repo.commit_data(refresh=True)
    assert dict(data.branches) == {"main": first}
    assert dict(data.tags) == {"v1": first}
    assert [commit.id for commit in data.commits] == [commit.id for commit in repo.commit_log]
    assert len(repo.commit_log) == 2
    assert repo.commit_log[0].parent_id == repo.commit_log[1].id
    assert first in repr(repo.commit_log)
    assert "<table" in repo.commit_log._repr_html_()


def test_status_lists_keys_and_whether_they_were_deleted(repo):
    committed_array(repo)
    make_array(repo, "new")
    repo.root_group["t"][:2, :2] = 3
    repo.root_group["t"].attrs["units"] = "K"
    status = repo.status()
    assert sorted(status.modified_paths) == [
        ("new/zarr.json", False),
        ("t/c/0/0", False),
        ("t/zarr.json", False),
    ]
    assert (status.repo_name, status.session.session_id) == (
        "ocean/sst",
        repo.current.session_id,
    )
    assert isinstance(status.session, LocalWriteSession)
    del repo.root_group["t"]
    assert ("t/zarr.json", True) in repo.status().modified_paths
    assert len(repo.status(limit=1).modified_paths) == 1
    assert "and 1 more" in str(repo.status(limit=1))
    assert repo.status(limit=0).modified_count == 2
    repo.checkout("main", for_writing=False)
    assert repo.status().modified_paths == []


def test_tree(repo):
    make_array(repo, "deep/er/t", attributes={"units": "K"}, dimension_names=("y", "x"))
    make_array(repo, "u")

    def shown(*args: object, **kwargs: object) -> str:
        console = Console(file=io.StringIO(), width=100)
        console.print(repo.tree(*args, **kwargs))
        return console.file.getvalue()

    assert "float32" in shown()
    assert "y 4, x 4" in shown()
    assert "er" in shown("deep")
    assert "float32" not in shown("deep", depth=1)
    assert "1 not shown" in shown("deep", depth=1)
    filtered = shown(filter="units == 'K'")
    assert "t  float32" in filtered
    assert "u  " not in filtered
    assert "text/html" in repo.tree()._repr_mimebundle_(["text/html"], [])
    with pytest.raises(NodeNotFoundError):
        repo.tree("nothing")


def test_xarray_and_root_group(repo):
    data = xr.Dataset({"v": (("y", "x"), np.arange(6.0).reshape(2, 3))}, {"x": [1, 2, 3]})
    data.to_zarr(repo.store, group="a/b", zarr_format=3, consolidated=False)
    xr.testing.assert_identical(repo.to_xarray("a/b"), data)
    repo.commit("a dataset")
    repo.checkout("main", for_writing=False)
    xr.testing.assert_identical(repo.to_xarray("a/b", chunks={}).compute(), data)
    assert sorted(repo.root_group.group_keys()) == ["a"]


def test_the_store_as_a_mapping(repo):
    committed_array(repo)
    store = repo.mapping
    assert sorted(store.listdir("t")) == ["c", "zarr.json"]
    assert len(store) == 6
    assert set(store) == set(store.keys())
    assert "t/c/0/0" in store
    assert "t/c/9/9" not in store
    assert 7 not in store
    chunk = store["t/c/0/0"]
    assert store.getitems(["t/c/0/0", "t/c/9/9"]) == {"t/c/0/0": chunk}
    with pytest.raises(KeyError):
        store["t/c/9/9"]
    with pytest.raises(KeyError):
        store.getitems(["t/c/9/9"], on_error="raise")
    store.setitems({"t/c/1/1": chunk, "g/zarr.json": b'{"zarr_format": 3, "node_type": "group"}'})
    store["t/c/0/1"] = chunk
    assert store["t/c/1/1"] == store["t/c/0/1"] == chunk
    del store["t/c/0/1"]
    store.delitems(["t/c/1/1"])
    assert sorted(store.list_prefix("t/c")) == ["t/c/0/0", "t/c/1/0"]
    store.erase_prefix("t")
    assert sorted(store) == ["g/zarr.json", "zarr.json"]


@pytest.mark.parametrize("life", [timedelta(), timedelta(days=8), -timedelta(hours=1), 3600])
def test_lives_that_are_none(repo, life):
    with pytest.raises(InvalidInputError, match="7 days"):
        repo.checkout(expires_in=life)


async def _asynchronous(arepo: AsyncRepo) -> None:
    session = await arepo.create_session("main", message="by coroutines")
    assert [info.session_id for info in await arepo.list_active_sessions()] == [session.session_id]
    await session.update_expiration(timedelta(days=2))
    await arepo.checkout(session_token=session.session_id)
    with_group = b'{"zarr_format": 3, "node_type": "group", "attributes": {"a": 1}}'
    await arepo.store.set("zarr.json", default_buffer_prototype().buffer.from_bytes(with_group))
    assert (await arepo.status()).modified_paths == [("zarr.json", False)]
    assert await arepo.commit("by coroutines") is not None
    assert await arepo.filter_metadata("a == `1`") == ["/"]
    await arepo.tag("t")
    await arepo.new_branch("b")
    assert await arepo.tags() == ["t"]
    assert await arepo.branches() == ["b", "main"]
    await arepo.delete_tag("t")
    await arepo.checkout("main")
    await arepo.delete_branch("b")


def test_the_asynchronous_repository(repo):
    run(_asynchronous(repo._async))
