"""A history of operations that runs under either implementation, and what must be seen after it.

Both run this file. It uses the public API alone, so it is at once the test that code written for
one runs on the other; what the last release before version 2 did not have it does without.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
from typing import Any

import numpy as np
import zarr

import icechunk as ic


def storage(path: str) -> ic.Storage:
    return ic.local_filesystem_storage(path)


def write(path: str, spec_version: str = "2") -> None:
    knows_both = hasattr(ic, "SpecVersion")
    version = {"spec_version": int(spec_version)} if knows_both else {}
    repo = ic.Repository.create(storage(path), **version)
    side = "side/line" if spec_version == "2" else "side line"
    session = repo.writable_session("main")
    root = zarr.group(session.store, attributes={"title": "é ☃"})
    group = root.create_group("g", attributes={"n": 1})
    for name, dtype in [("i1", "i1"), ("f4", "f4"), ("c", "c16"), ("t", "M8[s]"), ("b", "?")]:
        array = group.create_array(name, shape=(7, 5), chunks=(3, 2), dtype=dtype)
        array[:] = (np.arange(35).reshape(7, 5) % 120).astype(dtype)
    root.create_array("scalar", shape=(), dtype="f8")[...] = 2.5
    root.create_array("empty", shape=(4, 4), chunks=(2, 2), dtype="i4", fill_value=9)
    root.create_array("zero", shape=(0, 3), chunks=(1, 3), dtype="i4")
    big = root.create_array(
        "big", shape=(4000,), chunks=(1000,), dtype="f8", compressors=None, filters=None
    )
    big[:] = np.arange(4000.0)
    names = root.create_array("names", shape=(3,), chunks=(2,), dtype="str")
    names[:] = np.array(["a", "bé", ""], dtype=object)
    root.create_array("dims", shape=(2, 3), chunks=(1, 3), dtype="u2", dimension_names=["y", None])[
        :
    ] = 5
    first = session.commit("first", metadata={"who": "é", "list": [1, 2.5, None, {"k": True}]})
    repo.create_tag("v1", first)
    repo.create_branch(side, first)
    session = repo.writable_session(side)
    zarr.open_array(session.store, path="big", mode="r+")[:10] = -1.0
    session.commit("on a branch")


def go_on(path: str) -> None:
    repo = ic.Repository.open(storage(path))
    session = repo.writable_session("main")
    array = zarr.open_array(session.store, path="big", mode="r+")
    array.resize((6000,))
    array[4000:5000] = 7.0
    session.commit("append")
    ours, theirs = repo.writable_session("main"), repo.writable_session("main")
    zarr.open_array(theirs.store, path="big", mode="r+")[:1000] = 1.0
    theirs.commit("theirs")
    zarr.open_array(ours.store, path="big", mode="r+")[1000:2000] = 2.0
    ours.commit("ours", rebase_with=ic.ConflictDetector())
    session = repo.writable_session("main")
    del zarr.open_group(session.store, mode="r+")["g/c"]
    zarr.open_group(session.store, path="g", mode="r+").attrs["n"] = 2
    asyncio.run(session.store.delete("big/c/3"))
    session.commit("delete")
    session = repo.writable_session("main")
    forks = [session.fork() for _ in range(2)]
    for i, fork in enumerate(forks):
        zarr.open_array(fork.store, path="big", mode="r+")[i * 1000 : (i + 1) * 1000] = 10.0 + i
    session.merge(*forks)
    last = session.commit("merged forks")
    repo.create_tag("v2", last)
    repo.delete_tag("v1")
    (side,) = set(repo.list_branches()) - {"main"}
    session = repo.writable_session(side)
    zarr.open_array(session.store, path="scalar", mode="r+")[...] = 3.5
    session.commit("scalar")
    repo.reset_branch(side, repo.lookup_branch(side))
    repo.create_branch("gone", last)
    repo.delete_branch("gone")


def _digest(array: zarr.Array) -> dict[str, Any]:
    values = np.asarray(array[...])
    if values.dtype.kind in "OT":
        data = json.dumps(values.astype(object).tolist()).encode()
    else:
        data = np.ascontiguousarray(values).tobytes()
    return {
        "shape": list(array.shape),
        "dtype": str(values.dtype),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _version(repo: ic.Repository, **at: str) -> dict[str, Any]:
    session = repo.readonly_session(**at)
    nodes = dict(zarr.open_group(session.store, mode="r").members(max_depth=None))

    async def keys() -> list[str]:
        return sorted([key async for key in session.store.list()])

    return {
        "keys": asyncio.run(keys()),
        "attributes": {path: dict(node.attrs) for path, node in nodes.items()},
        "arrays": {
            path: _digest(node) for path, node in nodes.items() if isinstance(node, zarr.Array)
        },
        "ids": {path: session.get_node_id("/" + path) for path in nodes}
        if hasattr(session, "get_node_id")
        else None,
    }


def _plain(metadata: Any) -> Any:
    return {key: json.loads(json.dumps(value)) for key, value in dict(metadata).items()}


def _paths(diff: ic.Diff) -> dict[str, Any]:
    names = ["new_groups", "new_arrays", "deleted_groups", "deleted_arrays"]
    names += ["updated_groups", "updated_arrays"]
    found: dict[str, Any] = {name: sorted(getattr(diff, name)) for name in names}
    found["updated_chunks"] = {
        path: [list(c) for c in chunks] for path, chunks in sorted(diff.updated_chunks.items())
    }
    return found


def read(path: str) -> dict[str, Any]:
    repo = ic.Repository.open(storage(path))
    seen: dict[str, Any] = {"branches": {}, "tags": {}, "ancestry": {}, "diffs": []}
    for branch in sorted(repo.list_branches()):
        seen["branches"][branch] = repo.lookup_branch(branch)
        history = list(repo.ancestry(branch=branch))
        seen["ancestry"][branch] = [
            [s.id, s.parent_id, s.message, s.written_at.isoformat(), _plain(s.metadata)]
            for s in history
        ]
        for newer, older in itertools.pairwise(history):
            diff = repo.diff(from_snapshot_id=older.id, to_snapshot_id=newer.id)
            seen["diffs"].append([older.id, newer.id, _paths(diff)])
        seen[f"at {branch}"] = _version(repo, branch=branch)
    for tag in sorted(repo.list_tags()):
        seen["tags"][tag] = repo.lookup_tag(tag)
        seen[f"tagged {tag}"] = _version(repo, tag=tag)
    return seen
