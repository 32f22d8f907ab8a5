"""The commands that change branches and tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Repo


def test_branches(cli: Cli, repo: Repo) -> None:
    assert [b["name"] for b in cli("branch", "list", "repo", "--json").data] == ["fix", "main"]
    made = cli("branch", "create", "repo", "new", "--at", "v1", "--json")
    assert made.data == {"name": "new", "snapshot_id": repo.first}
    assert repo.open().lookup_branch("new") == repo.first
    shown = cli("branch", "list", "repo").out
    assert "new" in shown
    assert "First" in shown
    assert "with details" not in shown
    deleted = cli("branch", "delete", "repo", "new")
    assert f"branch create repo new --at {repo.first}" in deleted.err
    assert repo.open().list_branches() == {"main", "fix"}


def test_a_branch_that_exists_is_a_conflict(cli: Cli, repo: Repo) -> None:
    assert "icechunk branch reset" in cli("branch", "create", "repo", "fix", code=4).err
    assert repo.open().lookup_branch("fix") == repo.fix


def test_main_stays(cli: Cli, repo: Repo) -> None:
    cli("branch", "delete", "repo", "main", code=4)
    assert repo.open().lookup_branch("main") == repo.second


def test_reset(cli: Cli, repo: Repo) -> None:
    data = cli("branch", "reset", "repo", "main", "fix", "--json").data
    assert data == {"name": "main", "snapshot_id": repo.fix, "previous_id": repo.second}
    back = cli("branch", "reset", "repo", "main", repo.second)
    assert f"to go back: icechunk branch reset repo main {repo.fix}" in back.err
    assert repo.open().lookup_branch("main") == repo.second
    assert "Did you mean main?" in cli("branch", "reset", "repo", "mian", "fix", code=3).err


def test_tags(cli: Cli, repo: Repo) -> None:
    cli("tag", "create", "repo", "v2")
    data = cli("tag", "list", "repo", "--json").data
    assert [(t["name"], t["snapshot_id"]) for t in data] == [
        ("v1", repo.first),
        ("v2", repo.second),
    ]
    assert "Tags never move" in cli("tag", "create", "repo", "v1", "--at", "fix", code=4).err
    assert repo.open().lookup_tag("v1") == repo.first


def test_deleting_a_tag_must_be_meant(cli: Cli, repo: Repo) -> None:
    assert "--yes" in cli("tag", "delete", "repo", "v1", code=2).err
    assert repo.open().list_tags() == {"v1"}
    cli("tag", "delete", "repo", "v1", "--yes")
    assert repo.open().list_tags() == set()
    assert "there was a tag v1 once" in cli("tag", "create", "repo", "v1", code=4).err
    assert "no tags" in cli("tag", "delete", "repo", "v1", "-y", code=3).err
    assert cli("tag", "list", "repo", "--json").data == []
    assert "no tags" in cli("tag", "list", "repo").out
