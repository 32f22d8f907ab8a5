"""Writing manifests again after the splitting was configured anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk.ids import parse_object_id

SPLIT_IN_TWOS = ic.ManifestSplittingConfig.from_dict(
    {ic.ManifestSplitCondition.AnyArray(): {ic.ManifestSplitDimCondition.Any(): 2}}
)


def made(storage: ic.Storage) -> ic.Repository:
    repo = ic.Repository.create(storage)
    with repo.transaction("main", message="first") as store:
        root = zarr.create_group(store)
        root.create_array("a", shape=(16,), chunks=(2,), dtype="i4")[:] = np.arange(16)
        root.create_array("empty", shape=(16,), chunks=(2,), dtype="i4")
        root.create_array("b", shape=(2, 2), chunks=(1, 1), dtype="i4")[:] = 5
    return repo


def manifests(repo: ic.Repository, snapshot_id: str) -> dict[str, int]:
    base = repo.readonly_session(snapshot_id=snapshot_id).checkout.base
    return {node.path: len(node.manifests.ids) for node in base.nodes}


def values(repo: ic.Repository) -> list[Any]:
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    return [np.asarray(root[name][...]).tolist() for name in ("a", "b", "empty")]


def test_every_array_is_split_anew_and_nothing_else_changes() -> None:
    storage = ic.in_memory_storage()
    repo = made(storage)
    before, tip = values(repo), repo.lookup_branch("main")
    assert manifests(repo, tip) == {"/": 0, "/a": 1, "/b": 1, "/empty": 0}
    config = ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=SPLIT_IN_TWOS))
    repo = ic.Repository.open(storage, config)
    repo.set_default_commit_metadata({"by": "me"})
    new = repo.rewrite_manifests("split", branch="main", metadata={"k": 1})
    assert manifests(repo, new) == {"/": 0, "/a": 4, "/b": 1, "/empty": 0}
    assert values(repo) == before
    info = repo.lookup_snapshot(new)
    assert info.parent_id == tip
    sizes = [["any_array", [{"condition": "Any", "num_chunks": 2}]]]
    assert info.metadata == {
        "by": "me",
        "k": 1,
        "__icechunk": {"splitting_config": {"split_sizes": sizes}},
    }
    diff = repo.diff(from_snapshot_id=tip, to_snapshot_id=new)
    assert diff.is_empty()
    files = repo.readonly_session("main").checkout.base.snapshot.manifest_files
    assert len(files.ids) == 5
    assert int(files.num_chunk_refs.sum()) == 12


def test_amending_puts_it_in_the_place_of_the_last_commit() -> None:
    repo = made(ic.in_memory_storage())
    tip = repo.lookup_branch("main")
    new = repo.rewrite_manifests("again", branch="main", commit_method="amend")
    history = list(repo.ancestry(branch="main"))
    assert [info.message for info in history] == ["again", "Repository initialized"]
    assert history[0].metadata == {"__icechunk": {"splitting_config": None}}
    diff = repo.diff(from_snapshot_id=history[1].id, to_branch="main")
    assert diff.new_arrays == {"/a", "/b", "/empty"}
    old, now = (
        repo.readonly_session(snapshot_id=at).checkout.base.snapshot.manifest_files.ids.tobytes()
        for at in (tip, new)
    )
    assert old != now
    assert parse_object_id(new) != parse_object_id(tip)


def test_what_is_refused() -> None:
    repo = made(ic.in_memory_storage())
    with pytest.raises(ValueError, match="new_commit"):
        repo.rewrite_manifests("x", branch="main", commit_method="other")  # type: ignore[arg-type]
    with pytest.raises(ic.RefNotFoundError):
        repo.rewrite_manifests("x", branch="nowhere")
    empty = ic.Repository.create(ic.in_memory_storage())
    with pytest.raises(ic.SessionStateError) as caught:
        empty.rewrite_manifests("x", branch="main", commit_method="amend")
    assert caught.value.kind == "no-amend-for-initial-commit"
    assert empty.rewrite_manifests("x", branch="main") == empty.lookup_branch("main")
