"""The commands ``branch ...`` and ``tag ...``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from icechunk.cli import render
from icechunk.cli.app import command
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import REF_HELP, AsJson, Repo, StorageOptions
from icechunk.cli.repos import branch_tip, open_repository, resolve, tag_target
from icechunk.errors import AlreadyExistsError, ErrorKind

if TYPE_CHECKING:
    from icechunk.repository import Repository

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name.", show_default=False)]
At = Annotated[str, typer.Option("--at", metavar="REF", help=REF_HELP)]

branch = typer.Typer(no_args_is_help=True, help="List, create, delete and move branches.")
tag = typer.Typer(no_args_is_help=True, help="List, create and delete tags.")


def _refs_data(repository: Repository, targets: dict[str, str]) -> list[dict[str, Any]]:
    data = []
    for name, snapshot_id in sorted(targets.items()):
        info = repository.lookup_snapshot(snapshot_id)
        row = {"name": name, "snapshot_id": snapshot_id, "written_at": info.written_at}
        data.append({**row, "message": info.message})
    return data


@branch.command("list")
@command
def list_branches(
    repo: Repo, *, as_json: AsJson = False, storage_option: StorageOptions = None
) -> None:
    """List the branches and their newest commits.

    For example:
      icechunk branch list my-repo
      icechunk branch list my-repo --json
    """
    repository = open_repository(repo, storage_option)
    targets = {name: repository.lookup_branch(name) for name in repository.list_branches()}
    data = _refs_data(repository, targets)
    Output.from_streams(as_json=as_json).show(data, render.refs(data, "branch"))


@branch.command("create")
@command
def create_branch(
    repo: Repo,
    name: Name,
    *,
    at: At = "main",
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Create a branch at a branch, tag or snapshot.

    For example:
      icechunk branch create my-repo experiment
      icechunk branch create my-repo fix --at v1.0
    """
    repository = open_repository(repo, storage_option)
    target = resolve(repository, at)
    try:
        repository.create_branch(name, target.snapshot_id)
    except AlreadyExistsError as error:
        raise CommandError(
            f"there is a branch {name} already",
            f"To move it: icechunk branch reset {repo} {name} {at}",
            ExitCode.CONFLICT,
        ) from error
    _created(Output.from_streams(as_json=as_json), "branch", name, target.snapshot_id)


def _created(output: Output, kind: str, name: str, snapshot_id: str) -> None:
    if output.as_json:
        output.show({"name": name, "snapshot_id": snapshot_id}, "")
    output.done(f"{kind} {name} is at {snapshot_id}")


@branch.command("delete")
@command
def delete_branch(repo: Repo, name: Name, *, storage_option: StorageOptions = None) -> None:
    """Delete a branch; its commits stay until they are collected.

    For example:
      icechunk branch delete my-repo experiment
    """
    repository = open_repository(repo, storage_option)
    tip = branch_tip(repository, name)
    repository.delete_branch(name)
    output = Output.from_streams()
    output.done(f"branch {name} deleted; it was at {tip}")
    output.say(f"  to bring it back: icechunk branch create {repo} {name} --at {tip}")


@branch.command("reset")
@command
def reset_branch(
    repo: Repo,
    name: Name,
    ref: Annotated[str, typer.Argument(metavar="REF", help=REF_HELP, show_default=False)],
    *,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Move a branch to another commit, only if nobody else moved it meanwhile.

    For example:
      icechunk branch reset my-repo main main~1
      icechunk branch reset my-repo experiment v1.0
    """
    repository = open_repository(repo, storage_option)
    tip = branch_tip(repository, name)
    target = resolve(repository, ref)
    repository.reset_branch(name, target.snapshot_id, from_snapshot_id=tip)
    output = Output.from_streams(as_json=as_json)
    if as_json:
        output.show({"name": name, "snapshot_id": target.snapshot_id, "previous_id": tip}, "")
    output.done(f"branch {name} is at {target.snapshot_id}; it was at {tip}")
    output.say(f"  to go back: icechunk branch reset {repo} {name} {tip}")


@tag.command("list")
@command
def list_tags(
    repo: Repo, *, as_json: AsJson = False, storage_option: StorageOptions = None
) -> None:
    """List the tags and their commits.

    For example:
      icechunk tag list my-repo
      icechunk tag list my-repo --json
    """
    repository = open_repository(repo, storage_option)
    targets = {name: repository.lookup_tag(name) for name in repository.list_tags()}
    data = _refs_data(repository, targets)
    Output.from_streams(as_json=as_json).show(data, render.refs(data, "tag"))


@tag.command("create")
@command
def create_tag(
    repo: Repo,
    name: Name,
    *,
    at: At = "main",
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Put a tag on a commit; a tag never moves.

    For example:
      icechunk tag create my-repo v1.0
      icechunk tag create my-repo before-fix --at main~1
    """
    repository = open_repository(repo, storage_option)
    target = resolve(repository, at)
    try:
        repository.create_tag(name, target.snapshot_id)
    except AlreadyExistsError as error:
        if error.kind == ErrorKind.TAG_PREVIOUSLY_DELETED:
            message, hint = f"there was a tag {name} once", "A tag's name is used only once."
        else:
            message, hint = (
                f"there is a tag {name} already",
                "Tags never move: choose another name.",
            )
        raise CommandError(message, hint, ExitCode.CONFLICT) from error
    _created(Output.from_streams(as_json=as_json), "tag", name, target.snapshot_id)


@tag.command("delete")
@command
def delete_tag(
    repo: Repo,
    name: Name,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    storage_option: StorageOptions = None,
) -> None:
    """Delete a tag for good: its name can never be used again.

    For example:
      icechunk tag delete my-repo v1.0 --yes
    """
    repository = open_repository(repo, storage_option)
    target = tag_target(repository, name)
    if not yes:
        if not sys.stdin.isatty():
            raise CommandError(
                f"tag {name} was not deleted",
                "A deleted tag's name can never be used again; say --yes if that is meant.",
                ExitCode.USAGE,
            )
        typer.confirm(f"Delete tag {name}? Its name can never be used again.", abort=True, err=True)
    repository.delete_tag(name)
    Output.from_streams().done(f"tag {name} deleted; it was on {target}")
