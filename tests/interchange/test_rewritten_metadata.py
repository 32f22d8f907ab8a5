"""The official package reads snapshots and repo objects that this package wrote again."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest

from icechunk.format import updates
from icechunk.format.repo_info import (
    RepoInfo,
    RepoStatus,
    SnapshotTable,
    Update,
    UpdateLog,
    encode_repo_info,
    parse_repo_info,
)
from icechunk.format.snapshot import NodeTable, encode_snapshot, parse_snapshot
from icechunk.ids import id_text
from tests.format.golden import unpack
from tests.peer import run_peer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.peer

DESCRIBE = """
import hashlib, json, sys
import icechunk as ic, numpy as np, zarr

zarr.config.set({"array.rectilinear_chunks": True})
repo = ic.Repository.open(ic.local_filesystem_storage(sys.argv[1]))
refs = {"branch": {b: repo.lookup_branch(b) for b in repo.list_branches()},
        "tag": {t: repo.lookup_tag(t) for t in repo.list_tags()}}
told = {"refs": refs, "ancestry": {}, "nodes": {}}
ids = set()
for kind, named in refs.items():
    for name in named:
        history = list(repo.ancestry(**{kind: name}))
        told["ancestry"][kind + name] = [
            [i.id, i.parent_id, i.message, str(i.written_at), i.metadata] for i in history]
        ids.update(info.id for info in history)
if sys.argv[2] == "2":
    told["log"] = [repr(entry) for entry in repo.ops_log()]
    told["metadata"] = repo.metadata
    told["info"] = repo.inspect_repo_info()
    told["info"]["header"] = None
for snapshot_id in sorted(ids):
    store = repo.readonly_session(snapshot_id=snapshot_id).store
    root = zarr.open_group(store, mode="r") if snapshot_id != "1CECHNKREP0F1RSTCMT0" else None
    nodes = {}
    for path, node in root.members(max_depth=None) if root is not None else ():
        nodes[path] = json.dumps(node.metadata.to_dict(), default=str, sort_keys=True)
        if isinstance(node, zarr.Array) and "virtual" not in path:
            try:
                data = np.ascontiguousarray(node[...])
            except Exception as error:  # virtual references: containers are not authorized here
                data = np.array(type(error).__name__)
            nodes[path] += hashlib.sha256(repr(data.tolist()).encode()).hexdigest()
    told["nodes"][snapshot_id] = nodes
print(json.dumps(told, default=str))
"""


def _rewrite(folder: Path, *, afresh: bool) -> None:
    """Write every snapshot and repo object again: its tables copied as bytes, or each encoded."""
    for file in (folder / "snapshots").iterdir():
        snapshot = parse_snapshot(file.read_bytes(), key=file.name)
        if afresh:
            nodes = NodeTable.of(list(snapshot.nodes), spec_version=snapshot.spec_version)
            snapshot = replace(snapshot, nodes=nodes)
        file.write_bytes(encode_snapshot(snapshot))
    backups = folder / "overwritten"
    for file in [folder / "repo", *(backups.glob("repo.*") if backups.exists() else ())]:
        if file.exists():
            info = parse_repo_info(file.read_bytes(), key=file.name)
            file.write_bytes(encode_repo_info(_afresh(info) if afresh else info))


def _afresh(info: RepoInfo) -> RepoInfo:
    return replace(
        info,
        snapshots=SnapshotTable.of(list(info.snapshots)),
        updates=UpdateLog.of(list(info.updates)),
    )


@pytest.mark.parametrize("name", ["v1-by-2.3.0", "v1-rich", "v2-basic", "v2-rich", "v2-upgraded"])
def test_the_official_package_sees_no_difference(name: str, tmp_path: Path) -> None:
    folder, said = unpack(name, tmp_path)
    version = said["spec_version"]
    before = run_peer(DESCRIBE, folder, version)
    assert any(before["nodes"].values())
    for afresh in (False, True):
        _rewrite(folder, afresh=afresh)
        _rewrite(folder, afresh=False)
        assert run_peer(DESCRIBE, folder, version) == before


def test_the_official_package_reads_every_kind_of_operation(tmp_path: Path) -> None:
    folder, _ = unpack("v2-basic", tmp_path)
    info = parse_repo_info((folder / "repo").read_bytes(), key="repo")
    tip = info.branches["main"]
    values: dict[str, Any] = {
        "str": "a name",
        "ObjectId": tip,
        "bool": True,
        "int": 1,
        "RepoStatus": RepoStatus(reason="why", set_at_us=10**15),
    }
    log = info.updates
    made = []
    for step, cls in enumerate(updates.UpdateKind.__args__):
        kind = cls(**{f.name: values[str(f.type)] for f in fields(cls)})
        when = info.updates.latest.updated_at_us + 1 + step
        log = log.prepended(Update(kind=kind, updated_at_us=when), f"repo.{step}")
        made.append(cls.__name__)
    state = replace(info, updates=log, enabled_flags=(3,), disabled_flags=(4, 5))
    (folder / "repo").write_bytes(encode_repo_info(state))
    script = """
import json, sys
import icechunk as ic
repo = ic.Repository.open(ic.local_filesystem_storage(sys.argv[1]))
print(json.dumps([repr(entry) for entry in repo.ops_log()]))
"""
    told = run_peer(script, folder)
    assert len(told) == len(log)
    for name, text in zip(reversed(made), told, strict=False):
        assert name.removesuffix("Changed").lower() in text.replace("_", "").lower(), text
    assert id_text(tip) in told[made[::-1].index("NewCommit")]
