"""The commands that look: log, show, diff, ls, tree."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
import zarr

from tests.cli.conftest import series
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Cli, Repo


def test_log(cli: Cli, repo: Repo) -> None:
    data = cli("log", "repo", "--json").data
    assert [c["id"] for c in data[:2]] == [repo.second, repo.first]
    assert [c["message"] for c in data] == [
        "Second", "First\n\nwith details", "Repository initialized",
    ]  # fmt: skip
    assert data[0]["branches"] == ["main"]
    assert data[1]["tags"] == ["v1"]
    assert data[1]["metadata"] == {"author": "Ada"}
    assert data[0]["parent_id"] == repo.first
    assert data[-1]["parent_id"] is None
    shown = cli("log", "repo").out
    for text in (repo.second, "main", "tag v1", "with details", "author: Ada", "UTC"):
        assert text in shown
    assert "\x1b" not in shown


def test_log_of_refs_and_ancestors(cli: Cli, repo: Repo) -> None:
    def ids(*args: str) -> list[str]:
        return [c["id"] for c in cli("log", "repo", *args, "--json").data]

    assert ids("v1")[0] == repo.first
    assert ids("fix")[0] == repo.fix
    assert ids("fix", "-n", "1") == [repo.fix]
    assert ids("fix~1")[0] == repo.second
    assert ids("main~1") == ids("v1")
    assert ids(repo.first) == ids("v1")
    assert ids(repo.fix[:8].lower())[0] == repo.fix
    assert ids("tag:v1") == ids("v1")
    assert ids("branch:fix")[0] == repo.fix


def test_names_that_are_not_there(cli: Cli, repo: Repo) -> None:
    assert "Did you mean main?" in cli("log", "repo", "mian", code=3).err
    assert "There are: fix, main, v1" in cli("log", "repo", "zzzz", code=3).err
    assert "fewer than 9 ancestors" in cli("log", "repo", "main~9", code=3).err
    cli("log", "repo", "0" * 20, code=3)
    cli("log", "repo", "branch:v1", code=3)
    repo.open().create_branch("v1", repo.second)
    assert "both a branch and a tag" in cli("log", "repo", "v1", code=2).err


def test_show(cli: Cli, repo: Repo) -> None:
    data = cli("show", "repo", "--json").data
    assert data["id"] == repo.second
    assert data["changes"]["updated_arrays"] == ["/t", "/time"]
    assert data["changes"]["updated_chunks"]["/t"] == {"count": 1, "ranges": [[[2, 3], [0, 1]]]}
    assert data["manifests"]["chunk_references"] == 6
    shown = cli("show", "repo", "v1").out
    for text in (repo.first, "Ada", "with details", "+  /t", "array, 2 chunks [0:2, 0]"):
        assert text in shown
    assert "none: the first" in cli("show", "repo", "main~2").out


def test_diff(cli: Cli, repo: Repo) -> None:
    data = cli("diff", "repo", "v1", "fix", "--json").data
    assert data["from"] == repo.first
    assert data["to"] == repo.fix
    assert data["new_groups"] == ["/forecast"]
    assert data["new_arrays"] == ["/forecast/u"]
    assert data["updated_chunks"]["/t"]["count"] == 2
    assert "coordinates" not in data["updated_chunks"]["/t"]
    full = cli("diff", "repo", "v1", "fix", "--json", "--chunks").data
    assert full["updated_chunks"]["/t"]["coordinates"] == [[0, 0], [2, 0]]
    shown = cli("diff", "repo", "v1", "fix").out
    assert "2 chunks [0, 0] [2, 0]" in shown
    assert "/forecast/u" in shown


def test_diff_over_an_array_that_took_the_place_of_another(cli: Cli, repo: Repo) -> None:
    with repo.open().transaction("main", message="other dimensions") as store:
        zarr.create_array(store, name="t", shape=4, chunks=2, dtype="i4", overwrite=True)[:] = 1
    data = cli("diff", "repo", "v1", "main", "--json").data
    assert data["updated_chunks"]["/t"] == {"count": 3, "ranges": [[[0, 2]], [[2, 3], [0, 1]]]}
    assert "[0:2] [2, 0]" in cli("diff", "repo", "v1", "main").out


def test_diff_of_a_commit_with_itself_is_empty(cli: Cli, repo: Repo) -> None:
    data = cli("diff", "repo", "main", "main", "--json").data
    assert data["updated_chunks"] == {}
    assert "no difference" in cli("diff", "repo", "main", "main").out
    assert repo.second == data["from"]


def test_diff_the_wrong_way_round(cli: Cli, repo: Repo) -> None:
    assert "swap the two" in cli("diff", "repo", "fix", "v1", code=2).err
    assert repo.path.is_dir()


def test_ls(cli: Cli, repo: Repo) -> None:
    data = cli("ls", "repo", "--json").data
    assert [node["name"] for node in data] == ["t", "time", "x"]
    assert data[0]["shape"] == [9, 4]
    assert data[0]["chunks"] == [3, 4]
    assert data[0]["dtype"] == "float32"
    assert data[0]["dimension_names"] == ["time", "x"]
    assert data[0]["size_bytes"] == 9 * 4 * 4
    assert data[0]["attributes"]["units"] == "K"
    assert cli("ls", "repo", "--ref", "v1", "--json").data[0]["shape"] == [6, 4]
    shown = cli("ls", "repo", "-r", "fix").out
    assert "forecast/" in shown
    assert "time 9, x 4" in shown
    assert [n["path"] for n in cli("ls", "repo", "t", "--json").data] == ["/t"]
    assert [n["path"] for n in cli("ls", "repo", "/forecast/", "-r", "fix", "--json").data] == [
        "/forecast/u"
    ]
    assert repo.path.is_dir()


def test_ls_of_nothing(cli: Cli, repo: Repo) -> None:
    assert cli("ls", "repo", "-r", "main~2", "--json").data == []
    assert "empty" in cli("ls", "repo", "-r", "main~2").out
    assert "Did you mean /forecast?" in cli("ls", "repo", "/forcast", "-r", "fix", code=3).err
    assert repo.path.is_dir()


def test_tree(cli: Cli, repo: Repo) -> None:
    data = cli("tree", "repo", "-r", "fix", "--json").data
    assert [child["name"] for child in data["children"]] == ["forecast", "t", "time", "x"]
    assert data["children"][0]["children"][0]["path"] == "/forecast/u"
    shallow = cli("tree", "repo", "-r", "fix", "--depth", "1", "--json").data
    assert shallow["children"][0]["children"] == []
    shown = cli("tree", "repo", "-r", "fix").out
    assert "── u" in shown
    assert "(2x2)" in shown
    assert cli("tree", "repo", "-r", "main~2", "--json").data["children"] == []
    assert repo.path.is_dir()


@pytest.mark.parametrize(
    "name",
    ["v1-basic", "v1-rich", "v1-by-2.3.0", "v2-basic", "v2-rich", "v2-virtual", "v2-upgraded"],
)
def test_repositories_of_the_official_package(cli: Cli, name: str) -> None:
    """Every branch of every golden repository: irregular chunks, unknown types, pruned history."""
    golden = shared_dir() / "golden"
    expected = json.loads((golden / f"{name}.json").read_text("utf-8"))
    with tarfile.open(golden / f"{name}.tar.gz") as archive:
        archive.extractall(cli.directory, filter="data")
    for branch, tip in expected["branches"].items():
        log = cli("log", name, f"branch:{branch}", "--json").data
        assert [c["id"] for c in log] == [c["id"] for c in expected["ancestry"][f"branch:{branch}"]]
        tree = cli("tree", name, "-r", tip, "--json").data
        nodes = {node["path"]: node for node in walk(tree) if node["path"] != "/"}
        stored = expected["snapshots"][tip]["nodes"]
        assert nodes.keys() >= stored.keys() - {"/"}
        for path, node in nodes.items():
            if path in stored:
                assert node["kind"] == stored[path]["type"]
                assert node["attributes"] == stored[path]["attributes"]
        for command in (["log", name, tip], ["show", name, tip], ["ls", name, "-r", tip]):
            assert cli(*command).out
    tags = {t["name"]: t["snapshot_id"] for t in cli("tag", "list", name, "--json").data}
    assert tags == expected["tags"]


def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("children", ()):
        yield from walk(child)


@pytest.mark.parametrize("command", ["log", "show", "ls", "tree"])
def test_no_repository(cli: Cli, repo: Repo, command: str) -> None:
    assert "Did you mean repo?" in cli(command, "rep", code=3).err
    assert "holds no repository" in cli(command, "/", code=3).err
    (cli.directory / "file").write_text("x")
    assert "It is a file" in cli(command, "file", code=3).err
    series(0, 2).to_zarr(cli.directory / "plain.zarr", consolidated=False)
    assert "plain Zarr store" in cli(command, "plain.zarr", code=3).err
    assert "There is one inside: " in cli(command, ".", code=3).err
    assert "storage options" in cli(command, "memory://nothing-here", code=3).err
    assert repo.path.is_dir()


def test_a_damaged_repository_is_one_message(cli: Cli, repo: Repo) -> None:
    data = (repo.path / "repo").read_bytes()
    (repo.path / "repo").write_bytes(data[: len(data) // 2])
    result = cli("log", "repo", code=1)
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err
    assert result.out == ""


def test_bad_storage_options(cli: Cli) -> None:
    cli("log", "repo", "-o", "nothing", code=2)
    assert "storage option" in cli("log", "repo", "-o", "a=b", code=2).err
