"""Concurrent changes, merges: every outcome the official package was measured to have."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk
from icechunk import (
    BasicConflictSolver,
    ConflictDetector,
    IcechunkError,
    RebaseFailedError,
    Repository,
    Session,
    VersionSelection,
    in_memory_storage,
)
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from collections.abc import Callable

_numbers = itertools.count()


def _set_attribute(path: str) -> Callable[[Session], None]:
    def op(session: Session) -> None:
        zarr.open(session.store, path=path, mode="r+").attrs["x"] = next(_numbers)

    return op


def _write(path: str, start: int, stop: int, value: int) -> Callable[[Session], None]:
    def op(session: Session) -> None:
        zarr.open_array(session.store, path=path, mode="r+")[start:stop] = value

    return op


def _delete_dir(path: str) -> Callable[[Session], None]:
    return lambda session: zarr.core.sync.sync(session.store.delete_dir(path))


def _resize(n: int) -> Callable[[Session], None]:
    return lambda s: zarr.open_array(s.store, path="arr", mode="r+").resize((n,))


def _create(path: str, n: int) -> Callable[[Session], None]:
    def op(session: Session) -> None:
        zarr.create_array(session.store, name=path, shape=(n,), chunks=(2,), dtype="i1")

    return op


def _in_order(*ops: Callable[[Session], None]) -> Callable[[Session], None]:
    def op(session: Session) -> None:
        for each in ops:
            each(session)

    return op


def _new_inner(session: Session) -> None:
    document = json.dumps({"zarr_format": 3, "node_type": "group"}).encode()
    buffer = zarr.core.buffer.cpu.Buffer.from_bytes(document)
    zarr.core.sync.sync(session.store.set("new/inner/zarr.json", buffer))


OPS: dict[str, Callable[[Session], Any]] = {
    "chunk0": _write("arr", 0, 2, 7),
    "chunk1": _write("arr", 2, 4, 8),
    "chunk3": _write("arr", 6, 8, 4),
    "write5": _write("arr", 0, 2, 5),
    "write6two": _write("arr", 0, 4, 6),
    "gbchunk": _write("g/b", 0, 2, 7),
    "delchunk0": lambda s: zarr.core.sync.sync(s.store.delete("arr/c/0")),
    "attrs": _set_attribute("arr"),
    "gattrs": _set_attribute("g"),
    "gbattrs": _set_attribute("g/b"),
    "rootattrs": _set_attribute(""),
    "attrs_chunk": _in_order(_set_attribute("arr"), _write("arr", 6, 8, 9)),
    "resize": _resize(10),
    "shrink": _resize(4),
    "delarr": _delete_dir("arr"),
    "delg": _delete_dir("g"),
    "delgb": _delete_dir("g/b"),
    "newarr": _create("new", 2),
    "newgrp": lambda s: zarr.create_group(s.store, path="new"),
    "newunder": _create("g/new", 2),
    "newinner": _new_inner,
    "recreate": _in_order(_delete_dir("arr"), _create("arr", 4)),
}


def _base() -> Repository:
    repo = Repository.create(in_memory_storage())
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    root.create_group("g")
    root.create_group("h")
    for path in ("arr", "g/b"):
        array = root.create_array(
            path, shape=(8,), chunks=(2,), dtype="i1", compressors=None, filters=None
        )
        array[:] = 1
    session.commit("base")
    return repo


def _state(session: Session) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node in session.checkout.nodes():
        assert node.path not in found, "two nodes at one path"
        if node.shape:
            values = zarr.open_array(session.store, path=node.path, mode="r")[:]
            found[node.path] = np.asarray(values).tolist()
        else:
            found[node.path] = "group"
    return found


SOLVERS = {
    "detector": ConflictDetector(),
    "basic_default": BasicConflictSolver(),
    "basic_use_theirs": BasicConflictSolver(on_chunk_conflict=VersionSelection.UseTheirs),
    "basic_strict": BasicConflictSolver(
        on_chunk_conflict=VersionSelection.Fail,
        fail_on_delete_of_updated_array=True,
        fail_on_delete_of_updated_group=True,
    ),
}


def _outcome(theirs: str, ours: str, solver: icechunk.ConflictSolver) -> dict[str, Any]:
    repo = _base()
    first, second = repo.writable_session("main"), repo.writable_session("main")
    OPS[theirs](first)
    first.commit("theirs")
    OPS[ours](second)
    try:
        second.rebase(solver)
    except RebaseFailedError as e:
        conflicts = [
            [c.conflict_type.name, c.path]
            + ([] if c.conflicted_chunks is None else [c.conflicted_chunks])
            for c in e.conflicts
        ]
        return {"outcome": "RebaseFailedError", "conflicts": conflicts}
    second.commit("ours", allow_empty=True)
    return {"outcome": "ok", "state": _state(repo.readonly_session("main"))}


def test_every_pair_of_concurrent_changes() -> None:
    matrix = json.loads((shared_dir() / "golden" / "conflict-matrix.json").read_text())
    assert set(matrix["ops"]) <= set(OPS)
    differences = []
    for row in matrix["rows"]:
        for name, solver in SOLVERS.items():
            expected = row.get(name)
            if expected is None:
                continue
            got = _outcome(row["theirs"], row["ours"], solver)
            if "__duplicate_keys__" in json.dumps(expected):
                # Two nodes at one path are a defect of the reference: here it must be a conflict.
                if got["outcome"] != "RebaseFailedError":
                    differences.append((row["theirs"], row["ours"], name, expected, got))
            elif not _same(expected, got):
                differences.append((row["theirs"], row["ours"], name, expected, got))
    assert differences == [], "\n".join(map(str, differences))


def _same(expected: dict[str, Any], got: dict[str, Any]) -> bool:
    if expected["outcome"] != got["outcome"]:
        return False
    if "conflicts" in expected:
        return sorted(map(str, expected["conflicts"])) == sorted(map(str, got["conflicts"]))
    return bool(expected.get("state", got["state"]) == got["state"])


def _merge_rows() -> list[dict[str, Any]]:
    try:
        return json.loads((shared_dir() / "golden" / "merge-matrix.json").read_text())["rows"]
    except pytest.skip.Exception:
        return []


@pytest.mark.parametrize("row", _merge_rows(), ids=lambda row: row["case"])
def test_every_merge_of_two_forks(row: dict[str, Any]) -> None:
    repo = _base()
    session = repo.writable_session("main")
    forks = [session.fork(), session.fork()]
    OPS[row["first"]](forks[0])
    OPS[row["second"]](forks[1])
    session.merge(forks[0])
    assert row["merge_first"] == "ok"
    try:
        session.merge(forks[1])
        outcome: Any = "ok"
    except IcechunkError as e:
        outcome = {"error_class": type(e).__name__, "kind": e.kind}
        forks[1].mark_carried()
    assert outcome == row["merge_second"]
    if "state_after_commit" in row:
        session.commit("merged")
        assert _state(repo.readonly_session("main")) == row["state_after_commit"]
