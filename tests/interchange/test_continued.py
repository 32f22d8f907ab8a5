"""Golden repositories continued by us: the official package sees the old and the new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zarr

import icechunk as ic
from tests.format.golden import REPOSITORIES, unpack
from tests.interchange.test_rewritten_metadata import DESCRIBE
from tests.peer import PEER1_VERSION, PEER_VERSION, run_peer

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.peer


# The script that describes a repository for the official package reads no virtual array.
NAMES = [name for name in REPOSITORIES if name != "v2-virtual"]


@pytest.mark.parametrize("name", NAMES)
def test_the_official_package_sees_the_old_and_the_new(name: str, tmp_path: Path) -> None:
    folder, said = unpack(name, tmp_path)
    version = said["spec_version"]
    releases = [PEER_VERSION, PEER1_VERSION] if version == 1 else [PEER_VERSION]
    told = {release: run_peer(DESCRIBE, folder, version, version=release) for release in releases}
    repo = ic.Repository.open(ic.local_filesystem_storage(str(folder)))
    session = repo.writable_session("main")
    root = zarr.open_group(session.store, mode="r+")
    root.attrs["continued"] = "é"
    array = root.create_array("added", shape=(5,), chunks=(2,), dtype="i4")
    array[1:] = 7
    new = session.commit("continued", metadata={"by": ["us", 1, 2.5, None]})
    repo.create_branch("another", new)
    for release, before in told.items():
        after = run_peer(DESCRIBE, folder, version, version=release)
        assert after["refs"]["branch"] == {
            **before["refs"]["branch"],
            "main": new,
            "another": new,
        }
        newest, *older = after["ancestry"]["branchmain"]
        assert older == before["ancestry"]["branchmain"]
        assert (newest[0], newest[2], newest[4]) == (
            new,
            "continued",
            {"by": ["us", 1, 2.5, None]},
        )
        nodes = dict(after["nodes"].pop(new))
        assert after["nodes"] == before["nodes"]
        nodes.pop("added")
        assert nodes == before["nodes"][older[0][0]]
