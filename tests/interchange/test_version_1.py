"""Version 1 repositories, exchanged with the last release that knew no other and with today's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import icechunk as ic
from tests.interchange import common_history
from tests.peer import PEER1_VERSION, PEER_VERSION, run_peer

SCRIPT = Path(common_history.__file__)
OURS = "ours"
SIDES = (OURS, PEER_VERSION, PEER1_VERSION)

pytestmark = pytest.mark.peer


def run(side: str, step: str, path: Path, *args: str) -> Any:
    """Run a step of the common history with one implementation."""
    if side == OURS:
        return json.loads(json.dumps(getattr(common_history, step)(str(path), *args)))
    code = (
        "import json, runpy, sys; "
        f"step = runpy.run_path({str(SCRIPT)!r})[{step!r}]; "
        "print(json.dumps(step(*sys.argv[1:])))"
    )
    return run_peer(code, path, *args, version=side)


def read_by_all(path: Path) -> dict[str, Any]:
    """Return what every implementation reads, which must be the same."""
    seen = [without_ids(run(side, "read", path)) for side in SIDES]
    assert seen[0] == seen[1] == seen[2]
    return seen[0]


def without_ids(seen: dict[str, Any]) -> dict[str, Any]:
    for version in seen.values():
        if isinstance(version, dict):
            version.pop("ids", None)
    return seen


@pytest.mark.parametrize(
    ("writer", "continuer"),
    [
        (OURS, OURS),
        (OURS, PEER_VERSION),
        (OURS, PEER1_VERSION),
        (PEER_VERSION, OURS),
        (PEER1_VERSION, OURS),
    ],
)
def test_one_writes_the_other_goes_on_all_read_the_same(
    tmp_path: Path, writer: str, continuer: str
) -> None:
    run(writer, "write", tmp_path, "1")
    assert not (tmp_path / "repo").exists()
    read_by_all(tmp_path)
    run(continuer, "go_on", tmp_path)
    seen = read_by_all(tmp_path)
    assert not (tmp_path / "repo").exists()
    assert [message for _, _, message, *_ in seen["ancestry"]["main"]] == [
        "merged forks",
        "delete",
        "ours",
        "theirs",
        "append",
        "first",
        "Repository initialized",
    ]
    assert seen["at main"]["arrays"]["big"]["shape"] == [6000]
    assert set(seen["tags"]) == {"v2"}


def test_all_make_the_same_of_the_same_operations(tmp_path: Path) -> None:
    for side in SIDES:
        run(side, "write", tmp_path / side, "1")
        run(side, "go_on", tmp_path / side)
    ours, *others = (without_ids(run(OURS, "read", tmp_path / side)) for side in SIDES)
    for theirs in others:
        assert ours["at main"] == theirs["at main"]
        assert ours["at side line"] == theirs["at side line"]
        assert [d[2] for d in ours["diffs"]] == [d[2] for d in theirs["diffs"]]


@pytest.mark.parametrize(
    ("writer", "continuer"), [(OURS, PEER_VERSION), (PEER1_VERSION, PEER_VERSION), (OURS, OURS)]
)
def test_what_we_upgraded_goes_on(tmp_path: Path, writer: str, continuer: str) -> None:
    run(writer, "write", tmp_path, "1")
    before = without_ids(run(OURS, "read", tmp_path))
    repo = ic.Repository.open(ic.local_filesystem_storage(str(tmp_path)))
    ic.upgrade_icechunk_repository(repo, dry_run=False)
    for side in (OURS, PEER_VERSION):
        assert without_ids(run(side, "read", tmp_path)) == before
    run(continuer, "go_on", tmp_path)
    assert run(OURS, "read", tmp_path) == run(PEER_VERSION, "read", tmp_path)


def test_a_configuration_we_saved_is_read_and_written_again(tmp_path: Path) -> None:
    script = """
import json, sys
import icechunk as ic
storage = ic.local_filesystem_storage(sys.argv[1])
repo = ic.Repository.open(storage)
seen = [repo.config.inline_chunk_threshold_bytes, repo.config.compression.level]
config = repo.config
config.inline_chunk_threshold_bytes = seen[0] + 1
ic.Repository.open(storage, config).save_config()
print(json.dumps(seen))
"""
    storage = ic.local_filesystem_storage(str(tmp_path))
    config = ic.RepositoryConfig(
        inline_chunk_threshold_bytes=7,
        compression=ic.CompressionConfig(level=5),
        manifest=ic.ManifestConfig(
            splitting=ic.ManifestSplittingConfig.from_dict(
                {
                    ic.ManifestSplitCondition.name_matches("^no|yes$"): {
                        ic.ManifestSplitDimCondition.Axis(0): 3,
                        ic.ManifestSplitDimCondition.Any(): 9,
                    }
                }
            )
        ),
        virtual_chunk_containers={
            "s3://b/": ic.VirtualChunkContainer("s3://b/", ic.s3_store(region="no")),
            "file:///x/": ic.VirtualChunkContainer("file:///x/", ic.local_filesystem_store("/x")),
        },
    )
    ic.Repository.create(storage, config, spec_version=1)
    stored = ic.Repository.fetch_config(storage)
    assert stored is not None
    for number, version in enumerate((PEER_VERSION, PEER1_VERSION)):
        assert run_peer(script, tmp_path, version=version) == [7 + number, 5]
        now = ic.Repository.fetch_config(storage)
        assert now is not None
        assert now.inline_chunk_threshold_bytes == 8 + number
        assert now.manifest is not None
        assert now.manifest.splitting == config.manifest.splitting  # type: ignore[union-attr]
        assert now.virtual_chunk_containers == stored.virtual_chunk_containers
        ic.Repository.open(storage).save_config()
