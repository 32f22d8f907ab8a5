"""The commands ``jobs ...``: ingestion jobs that are kept beside a repository."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.table import Table
from rich.text import Text

from icechunk._trees import QUIET
from icechunk._units import count_text, time_text
from icechunk.cli import render
from icechunk.cli.app import command
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import AsJson, Repo, StorageOptions  # noqa: TC001 # typer needs them
from icechunk.cli.repos import open_repository
from icechunk.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

    from icechunk.dask import JobInfo
    from icechunk.repository import Repository

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="Name of the job.", show_default=False)
]

jobs = typer.Typer(no_args_is_help=True, help="List, inspect and remove ingestion jobs.")


@jobs.command("list")
@command
def list_all(repo: Repo, *, as_json: AsJson = False, storage_option: StorageOptions = None) -> None:
    """List the jobs kept beside a repository, oldest first.

    A job whose process was killed still says running: see when it was last heard of.

    For example:
      icechunk jobs list my-repo
      icechunk jobs list my-repo --json
    """
    # Deferred: xarray and dask take a second to load, and --help must not wait for them.
    from icechunk.dask.ingest import list_jobs  # noqa: PLC0415

    data = [job.to_dict() for job in list_jobs(open_repository(repo, storage_option))]
    Output.from_streams(as_json=as_json).show(data, _table(data))


@jobs.command("show")
@command
def show(
    repo: Repo, job: JobArgument, *, as_json: AsJson = False, storage_option: StorageOptions = None
) -> None:
    """Show one job: what it reads, how far it is, what it committed, what stopped it.

    For example:
      icechunk jobs show my-repo year
    """
    # Deferred: as above.
    from icechunk.dask.ingest import recorded_paths  # noqa: PLC0415

    repository = open_repository(repo, storage_option)
    data = found_job(repository, repo, job).to_dict()
    output = Output.from_streams(as_json=as_json)
    output.show(data, _facts(data))
    if not output.as_json and data["state"] in {"running", "failed"}:
        if recorded_paths(repository, job):
            output.say(f"to go on: icechunk ingest --resume {job} {repo}")
        else:
            output.say(f"to go on, in Python: Ingest.resume(repo, {job!r}, source)")


@jobs.command("remove")
@command
def remove(repo: Repo, job: JobArgument, *, storage_option: StorageOptions = None) -> None:
    """Remove what is kept of a job; its commits stay.

    What it wrote and did not commit is garbage afterwards, and it cannot be resumed.

    For example:
      icechunk jobs remove my-repo year
    """
    # Deferred: as above.
    from icechunk.dask.ingest import remove_job  # noqa: PLC0415

    repository = open_repository(repo, storage_option)
    found_job(repository, repo, job)
    info = remove_job(repository, job)
    lost = info.units - info.committed
    left = f"; {count_text(lost, 'unit')} not committed" if info.state != "finished" else ""
    Output.from_streams().done(f"job {job} removed{left}")


def found_job(repository: Repository, repo: str, job: str) -> JobInfo:
    """Return what is known of a job.

    Parameters
    ----------
    repository : Repository
        It is kept beside this.
    repo : str
        Where that is, as the user wrote it.
    job : str
        Its name.

    Raises
    ------
    CommandError
        There is none of that name; the hint lists those there are.
    """
    # Deferred: as above.
    from icechunk.dask.ingest import list_jobs, show_job  # noqa: PLC0415

    try:
        return show_job(repository, job)
    except NotFoundError as error:
        names = [info.job_id for info in list_jobs(repository)]
        hint = f"There are: {', '.join(names[-8:])}" if names else "There are no jobs."
        raise CommandError(f"no job {job} beside {repo}", hint, ExitCode.NOT_FOUND) from error


def _table(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = render.table(
        "job", "state", "branch", "source", ("units", "right"), ("written", "right"),
        ("committed", "right"), "last heard of",
    )  # fmt: skip
    for row in rows:
        table.add_row(
            Text(row["job_id"], style=render.ID),
            Text(row["state"]),
            Text(row["branch"], style=render.BRANCH),
            Text(row["source"]),
            f"{row['units']:,}",
            f"{max(row['kept'], row['committed']):,}",
            f"{row['committed']:,}",
            time_text(datetime.fromisoformat(row["updated_at"])),
        )
    return table


def _facts(data: Mapping[str, Any]) -> RenderableType:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style=QUIET)
    facts.add_column(overflow="fold")
    facts.add_row("job", Text(data["job_id"], style=render.ID))
    facts.add_row("state", Text(data["state"]))
    if data["error"]:
        facts.add_row("stopped by", Text(data["error"]))
    facts.add_row("source", Text(data["source"]))
    facts.add_row("into", Text(f"{data['group']} on branch {data['branch']}"))
    facts.add_row("began", time_text(datetime.fromisoformat(data["created_at"])))
    facts.add_row("last heard of", time_text(datetime.fromisoformat(data["updated_at"])))
    kept = f", {data['kept']:,} kept" if data["kept"] else ""
    facts.add_row("units", f"{data['committed']:,} of {data['units']:,} committed{kept}")
    proof = data["proof"]
    if proof is not None:
        found = f"{proof['present']:,} stored, {proof['fill']:,} all fill value"
        facts.add_row("chunks", f"{found}, {proof['missing']:,} missing")
    commits = [
        Text.assemble((commit["snapshot_id"], render.ID), f"  units {commit['units']}")
        for commit in data["commits"]
    ]
    return Group(facts, *commits)
