"""Amendments, anonymous snapshots, shifts, moves, rewriting and settings, under either package.

Both run this file, as `common_history`.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
from typing import Any

import numpy as np
import zarr

import icechunk as ic


def storage(path: str) -> ic.Storage:
    return ic.local_filesystem_storage(path)


def config() -> ic.RepositoryConfig:
    splitting = ic.ManifestSplittingConfig.from_dict(
        {ic.ManifestSplitCondition.AnyArray(): {ic.ManifestSplitDimCondition.Any(): 3}}
    )
    made = ic.RepositoryConfig.default()
    made.manifest = ic.ManifestConfig(splitting=splitting)
    made.num_updates_per_repo_info_file = 4
    return made


def write(path: str) -> None:
    repo = ic.Repository.create(storage(path))
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    root.create_array("a", shape=(20,), chunks=(2,), dtype="i4")[:] = np.arange(20)
    root.create_array("g/sub/b", shape=(6, 6), chunks=(2, 2), dtype="i4")[:] = np.arange(
        36
    ).reshape(6, 6)
    root.create_group("g-x", attributes={"n": 1})
    session.commit("first")
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a")[:2] = -1
    session.commit("second")
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a")[4:6] = -2
    del zarr.open_group(session.store)["g-x"]
    session.amend("second, better", metadata={"k": [1]})
    session = repo.rearrange_session("main")
    session.move("/g", "/h")
    session.move("/h/sub", "/s")
    session.commit("moved")
    session = repo.rearrange_session("main")
    session.move("/s", "/h/t")
    session.amend("moved on")
    session = repo.writable_session("main")
    session.shift_array("/a", (3,))
    session.reindex_array("/h/t/b", lambda c: [c[1], c[0]])
    repo.create_tag("aside", session.flush("shifted aside"))


def go_on(path: str) -> None:
    repo = ic.Repository.open(storage(path), config())
    repo.save_config()
    session = repo.writable_session("main")
    session.shift_array("/a", (-2,))
    session.reindex_array(
        "/h/t/b",
        lambda c: [c[0] + 1, c[1]] if c[0] < 2 else None,
        lambda c: [c[0] - 1, c[1]] if c[0] > 0 else None,
    )
    session.commit("shifted")
    repo.rewrite_manifests("split", branch="main", metadata={"why": "size"})
    repo.rewrite_manifests("split again", branch="main", commit_method="amend")
    # A move is rebased over the edits of others, and takes them along.
    session, other = repo.rearrange_session("main"), repo.writable_session("main")
    session.move("/h", "/moved")
    zarr.open_array(other.store, path="h/t/b")[:2, :2] = 77
    zarr.open_group(other.store, path="h").create_group("new")
    other.commit("theirs")
    session.commit("moved again", rebase_with=ic.BasicConflictSolver())
    repo.set_metadata({"title": "é", "n": {"x": [1, None]}})
    repo.update_metadata({"n": 2})
    repo.set_feature_flag("create_tag", False)
    repo.set_feature_flag("move_node", True)
    repo.set_feature_flag("move_node", None)
    when = dt.datetime(2026, 1, 2, 3, 4, 5, 600000, tzinfo=dt.UTC)
    repo.set_status(ic.RepoStatus(ic.RepoAvailability.read_only, when, "why"))
    repo.set_status(ic.RepoStatus(ic.RepoAvailability.online, when))
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a")[:] = 5
    session.commit("last")


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _version(repo: ic.Repository, **at: str) -> dict[str, Any]:
    session = repo.readonly_session(**at)
    nodes = dict(zarr.open_group(session.store, mode="r").members(max_depth=None))
    return {
        "values": {
            name: np.asarray(node[...]).tolist()
            for name, node in sorted(nodes.items())
            if isinstance(node, zarr.Array)
        },
        "ids": {name: session.get_node_id("/" + name) for name in sorted(nodes)},
    }


def read(path: str) -> dict[str, Any]:
    repo = ic.Repository.open(storage(path))
    history = list(repo.ancestry(branch="main"))
    seen: dict[str, Any] = {
        "history": [[s.id, s.parent_id, s.message, _plain(dict(s.metadata))] for s in history],
        "main": _version(repo, branch="main"),
        "aside": _version(repo, tag="aside"),
        "log": [str(update) for update in repo.ops_log()],
        "metadata": repo.metadata,
        "status": str(repo.status),
        "flags": sorted(str(flag) for flag in repo.feature_flags()),
        "info": repo.inspect_repo_info(),
        "moves": [],
        "files": {},
    }
    for newer, older in itertools.pairwise(history):
        diff = repo.diff(from_snapshot_id=older.id, to_snapshot_id=newer.id)
        chunks = {path: sorted(map(list, c)) for path, c in sorted(diff.updated_chunks.items())}
        sets = [sorted(diff.new_arrays), sorted(diff.deleted_groups), sorted(diff.new_groups)]
        seen["moves"].append([newer.message, _plain(diff.moved_nodes), chunks, sets])
    for record in seen["info"]["snapshots"]:
        snapshot_id = record["id"]
        files = repo.list_manifest_files(snapshot_id)
        seen["files"][snapshot_id] = [
            repo.inspect_snapshot(snapshot_id),
            repo.inspect_transaction_log(snapshot_id),
            [repo.inspect_manifest(file.id) for file in files],
        ]
    return _plain(seen)  # type: ignore[no-any-return]
