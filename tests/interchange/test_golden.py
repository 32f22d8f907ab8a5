"""Every golden repository opens, and every fact of its sidecar holds."""

from __future__ import annotations

import os
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zarr

import icechunk as ic
from tests.format.golden import REPOSITORIES, unpack
from tests.interchange import golden_facts as facts
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

# Virtual references are absolute; the data they point at must be here.
VIRTUAL_ROOT = Path("/tmp/icechunk-golden")
VIRTUAL_DATA = f"file://{VIRTUAL_ROOT}/vdata/"


@pytest.fixture(scope="module", autouse=True)
def _virtual_data() -> None:
    """Put the data files of virtual references at their place, once for all processes."""
    if (VIRTUAL_ROOT / "vdata").exists():
        return
    VIRTUAL_ROOT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=VIRTUAL_ROOT) as folder:
        with tarfile.open(shared_dir() / "golden" / "v2-virtual.tar.gz") as archive:
            members = [m for m in archive.getmembers() if m.name.startswith("vdata")]
            archive.extractall(folder, members, filter="data")
        try:
            os.rename(Path(folder) / "vdata", VIRTUAL_ROOT / "vdata")
        except OSError:
            if not (VIRTUAL_ROOT / "vdata").exists():
                raise


UPGRADED = [f"{name} upgraded" for name in REPOSITORIES if name.startswith("v1")]


@pytest.fixture(scope="module", params=[*REPOSITORIES, *UPGRADED])
def golden(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ic.Repository, dict[str, Any]]]:
    name, _, upgrade = request.param.partition(" ")
    folder, said = unpack(name, tmp_path_factory.mktemp("golden"))
    repo = ic.Repository.open(
        ic.local_filesystem_storage(str(folder)),
        authorize_virtual_chunk_access={VIRTUAL_DATA: None},
    )
    if upgrade:
        repo = ic.upgrade_icechunk_repository(repo, dry_run=False)
        said["spec_version"] = 2
    with zarr.config.set({"array.rectilinear_chunks": True}):
        yield repo, said


def test_refs(golden: tuple[ic.Repository, dict[str, Any]]) -> None:
    repo, said = golden
    assert int(repo.spec_version) == said["spec_version"]
    assert {name: repo.lookup_branch(name) for name in repo.list_branches()} == said["branches"]
    assert {name: repo.lookup_tag(name) for name in repo.list_tags()} == said["tags"]


def test_ancestry(golden: tuple[ic.Repository, dict[str, Any]]) -> None:
    repo, said = golden
    names = {"branch": "branch", "tag": "tag", "snapshot": "snapshot_id"}
    for start, expected in said["ancestry"].items():
        kind, _, name = start.partition(":")
        assert facts.ancestry(repo, **{names[kind]: name}) == expected, start


def test_snapshots(golden: tuple[ic.Repository, dict[str, Any]]) -> None:
    repo, said = golden
    for snapshot_id, expected in said["snapshots"].items():
        seen = facts.snapshot(repo.readonly_session(snapshot_id=snapshot_id), expected)
        assert seen.pop("paths") == sorted(expected["nodes"])
        nodes = seen.pop("nodes")
        for name, value in seen.items():
            assert value == expected[name], name
        for path, node in expected["nodes"].items():
            assert nodes[path].keys() == node.keys(), path
            for name, value in node.get("data", {}).items():
                assert nodes[path]["data"][name] == value, (path, name)
            assert nodes[path] == node, path


def test_diffs(golden: tuple[ic.Repository, dict[str, Any]]) -> None:
    repo, said = golden
    for expected in said["diffs"]:
        seen = facts.diff(repo, expected["from"], expected["to"])
        assert seen == expected["result"], (expected["from"], expected["to"])


def test_the_stored_configuration_is_the_same_in_both_versions(tmp_path: Path) -> None:
    configs = []
    for name in ("v1-config", "v2-config"):
        with tarfile.open(shared_dir() / "golden" / f"{name}.tar.gz") as archive:
            archive.extractall(tmp_path, filter="data")
        storage = ic.local_filesystem_storage(str(tmp_path / name))
        configs.append(ic.Repository.fetch_config(storage))
        # What is saved again says the same.
        ic.Repository.open(storage).save_config()
        configs.append(ic.Repository.fetch_config(storage))
    assert configs[0] is not None
    assert configs[0].inline_chunk_threshold_bytes == 10
    assert all(config == configs[0] for config in configs)
