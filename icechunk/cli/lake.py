"""The commands ``lake ...``."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.text import Text

from icechunk._trees import NAME, QUIET, clean, node_tree
from icechunk._units import time_text
from icechunk.cli import render
from icechunk.cli.app import command
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import AsJson, StorageOptions, parse_pairs
from icechunk.errors import ErrorKind, RepositoryNotFoundError
from icechunk.lake.client import Client
from icechunk.lake.names import RepoName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from icechunk.lake.catalog import RepoEntry
    from icechunk.lake.record import SessionInfo
    from icechunk.lake.repo import Repo

Lake: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="LAKE", help="Root of the lake: a directory, or any storage URL.",
        show_default=False,
    ),
]  # fmt: skip
Name: TypeAlias = Annotated[
    str, typer.Argument(metavar="ORG/NAME", help="The repository.", show_default=False)
]
Filter: TypeAlias = Annotated[
    str | None,
    typer.Option("--filter", "-f", metavar="JMESPATH", show_default=False,
                 help='Only what passes this expression, such as "level == `3`".'),
]  # fmt: skip

lake = typer.Typer(no_args_is_help=True, help="Many repositories under one root.")


@lake.command("ls")
@command
def ls(
    root: Lake,
    org: Annotated[
        str | None, typer.Argument(metavar="[ORG]", help="Only of one organisation.")
    ] = None,
    *,
    filter_metadata: Filter = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """List the repositories of a lake.

    For example:
      icechunk lake ls my-lake
      icechunk lake ls s3://bucket/lake ocean --filter "level == `3`"
    """
    entries = _existing(root, storage_option).list_repos(org, filter_metadata=filter_metadata)
    data = [entry.to_dict() for entry in entries]
    Output.from_streams(as_json=as_json).show(data, _entries(entries))


def _entries(entries: Sequence[RepoEntry]) -> RenderableType:
    if not entries:
        return Text("no repositories", style=QUIET)
    table = render.table("repository", "created", "metadata", "location")
    for entry in entries:
        facts = ", ".join(f"{key}={value}" for key, value in entry.metadata.items())
        table.add_row(
            Text(str(entry.name), style=NAME),
            time_text(entry.created_at),
            Text(clean(facts)),
            Text(clean(entry.location), style=QUIET),
        )
    return table


@lake.command("create")
@command
def create(
    root: Lake,
    name: Name,
    *,
    description: Annotated[
        str | None, typer.Option("--description", metavar="TEXT", help="For people.")
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option("--metadata", metavar="KEY=VALUE", help="To filter by. Repeatable."),
    ] = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Make a repository in a lake; the first one makes the lake.

    For example:
      icechunk lake create my-lake ocean/sst
      icechunk lake create my-lake ocean/sst --description "sea surface" --metadata level=3
    """
    client = _client(root, storage_option)
    facts = {key: _decoded(value) for key, value in parse_pairs(metadata, "--metadata").items()}
    client.create_repo(name, description=description, metadata=facts)
    (entry,) = [found for found in client.list_repos() if str(found.name) == name]
    output = Output.from_streams(as_json=as_json)
    if as_json:
        output.show(entry.to_dict(), "")
    output.done(f"repository {name} made, at {root.rstrip('/')}/{entry.location}")


def _decoded(value: Any) -> Any:
    """Return a number where the text is one, so that filters can compare it."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value


@lake.command("delete")
@command
def delete(
    root: Lake,
    name: Name,
    *,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="ORG/NAME", help="Its name once more; else asked for."),
    ] = None,
    storage_option: StorageOptions = None,
) -> None:
    """Delete a repository with everything in it; there is no way back.

    For example:
      icechunk lake delete my-lake ocean/sst --confirm ocean/sst
    """
    client = _existing(root, storage_option)
    if confirm is None:
        if not sys.stdin.isatty():
            raise CommandError(
                f"{name} was not deleted",
                f"To delete it with all its data: --confirm {name}",
                ExitCode.USAGE,
            )
        confirm = typer.prompt(f"Type {name} to delete it with all its data", err=True)
    client.delete_repo(name, confirm=confirm)
    Output.from_streams().done(f"repository {name} deleted")


@lake.command("tree")
@command
def tree(
    root: Lake,
    name: Name,
    prefix: Annotated[str, typer.Argument(metavar="PATH", help="Group to start at.")] = "",
    *,
    ref: Annotated[
        str, typer.Option("--ref", "-r", metavar="REF", help="Branch, tag or commit.")
    ] = "main",
    depth: Annotated[int, typer.Option("--depth", "-d", min=1, metavar="N")] = 10,
    filter_attributes: Filter = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Show the groups and arrays of a repository as a tree.

    For example:
      icechunk lake tree my-lake ocean/sst
      icechunk lake tree my-lake ocean/sst surface --filter "units == 'K'"
    """
    repo = _repo(root, name, storage_option)
    repo.checkout(ref, for_writing=False)
    data = repo.tree_data(prefix, depth=depth, filter=filter_attributes)
    Output.from_streams(as_json=as_json).show(data, node_tree(data))


@lake.command("sessions")
@command
def sessions(
    root: Lake,
    name: Name,
    *,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """List the sessions that are open: not committed, not abandoned, not expired.

    For example:
      icechunk lake sessions my-lake ocean/sst
    """
    found = _repo(root, name, storage_option).list_active_sessions()
    data = [_session_data(info) for info in found]
    Output.from_streams(as_json=as_json).show(data, _sessions(found))


def _session_data(info: SessionInfo) -> dict[str, Any]:
    return {
        "session_id": info.session_id,
        "branch": info.branch,
        "base": info.base,
        "state": str(info.state),
        "author": str(info.author),
        "message": info.message,
        "created_at": info.created_at,
        "expires_at": info.expires_at,
    }


def _sessions(found: Sequence[SessionInfo]) -> RenderableType:
    if not found:
        return Text("no open sessions", style=QUIET)
    table = render.table("session", "on", "state", "opened", "expires", "by", "message")
    for info in found:
        table.add_row(
            Text(info.session_id, style=render.ID),
            Text(clean(info.branch or info.base), style=render.BRANCH),
            str(info.state),
            time_text(info.created_at),
            time_text(info.expires_at),
            Text(clean(str(info.author))),
            Text(clean(info.message or "")),
        )
    return table


def _client(root: str, storage_option: list[str] | None) -> Client:
    return Client(root, **parse_pairs(storage_option, "--storage-option"))


def _existing(root: str, storage_option: list[str] | None) -> Client:
    client = _client(root, storage_option)
    if not client.exists():
        raise CommandError(
            f"there is no lake at {root}",
            f"Check the place. The first repository makes a lake: icechunk lake create {root} "
            "ORG/NAME",
            ExitCode.NOT_FOUND,
        )
    return client


def _repo(root: str, name: str, storage_option: list[str] | None) -> Repo:
    client = _existing(root, storage_option)
    try:
        return client.get_repo(name)
    except RepositoryNotFoundError as error:
        if error.kind != ErrorKind.REPOSITORY_NOT_FOUND:
            raise
        known = ", ".join(str(e.name) for e in client.list_repos()) or "none"
        RepoName.parse(name)
        raise CommandError(
            f"no repository {name} in {root}", f"There are: {known}", ExitCode.NOT_FOUND
        ) from error
