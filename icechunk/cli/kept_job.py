"""What ``icechunk ingest --job`` and ``--resume`` do: run a job that survives its process."""

from __future__ import annotations

import shlex
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from icechunk._units import count_text, seconds_text
from icechunk.cli import writing
from icechunk.cli.cluster import computing
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.ingest_job import check_places, repository_for
from icechunk.cli.jobs import found_job
from icechunk.cli.repos import branch_tip, open_repository
from icechunk.dask.ingest import (
    CommitEvery,
    Files,
    Ingest,
    JobSummary,
    recorded_paths,
    show_job,
)
from icechunk.errors import IcechunkError, NotFoundError
from icechunk.inputs.sources import open_source
from icechunk.progress import shown
from icechunk.shelf import record_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from icechunk.cli.console import Output
    from icechunk.cli.request import IngestRequest, JobTerms
    from icechunk.repository import Repository


def run_job(request: IngestRequest, terms: JobTerms, output: Output) -> None:
    """Run a job, or go on with one, and show what it came to.

    Parameters
    ----------
    request : IngestRequest
        The options of any ingest.
    terms : JobTerms
        The options of a job.
    output : Output
        Where progress and result go.
    """
    began = time.monotonic()
    check_places(request)
    # What means nothing is refused before a repository is created.
    record_key(str(terms.name))
    CommitEvery.of(terms.commit_every)
    if terms.resume:
        repository = open_repository(request.location, list(request.storage_options))
        known = found_job(repository, request.location, str(terms.name))
        branch = known.branch
        if known.state == "finished":
            output.say(f"job {terms.name} has finished already; nothing is left to write")
    else:
        _require_readable(request)
        repository = repository_for(request, output)
        branch = request.branch
        branch_tip(repository, branch)
        _require_new(repository, request.location, str(terms.name))
    with _saying_how_to_go_on(repository, request, str(terms.name), output):  # noqa: SIM117
        with (
            writing.telling_the_truth(request.location, branch) as watch,
            computing(workers=request.workers, scheduler=request.scheduler),
            shown(True, output.err) as observer,
        ):
            watch.begin(repository)
            summary = _summary(repository, request, terms, observer)
    seconds = round(time.monotonic() - began, 3)
    if output.as_json:
        output.show({"repository": request.location, **summary.to_dict(), "seconds": seconds}, "")
    for commit in summary.commits:
        units = count_text(len(commit.units), "unit")
        output.done(f"committed {commit.snapshot_id} to {branch}: {units}")
    proof = summary.proof
    output.say(
        f"  {request.location}, {count_text(proof.expected, 'chunk')}, none missing, "
        f"{seconds_text(seconds)}"
    )


def _require_readable(request: IngestRequest) -> None:
    """Look at the first source: one that is not there is refused before anything is created."""
    dataset, _ = open_source(
        request.sources[0],
        engine=request.engine,
        options=request.open_options,
        decode=request.decode,
    )
    dataset.close()


def _summary(
    repository: Repository, request: IngestRequest, terms: JobTerms, observer: Any
) -> JobSummary:
    name = str(terms.name)
    if terms.resume:
        again = recorded_paths(repository, name) if request.open_options else None
        more_of_it = Files(paths=again, open_options=request.open_options) if again else None
        return Ingest.resume(repository, name, more_of_it, progress=observer)
    files = Files(
        paths=request.sources,
        engine=request.engine,
        open_options=request.open_options,
        decode=request.decode,
        chunks=request.chunks,
    )
    more: dict[str, Any] = {"verify": terms.verify} if terms.verify else {}
    if request.append_dim is None and request.mode is not None:
        more["mode"] = request.mode
    return Ingest(
        repository,
        request.branch,
        files,
        group=request.group,
        append_dim=request.append_dim,
        unit_size=terms.unit_size,
        commit_every=terms.commit_every,
        message=request.message,
        metadata=request.metadata,
        job_id=name,
        read_back=terms.read_back,  # type: ignore[arg-type] # one of an enumeration
        progress=observer,
        **more,
    ).run()


@contextmanager
def _saying_how_to_go_on(
    repository: Repository, request: IngestRequest, name: str, output: Output
) -> Iterator[None]:
    """Say how to go on with a job that was stopped after it was recorded.

    Raises
    ------
    KeyboardInterrupt
        With that in its message.
    """
    options = " -o ..." if request.storage_options else ""
    options += " --open-option storage_options=..." * ("storage_options" in request.open_options)
    go_on = f"icechunk ingest --resume {shlex.quote(name)} {shlex.quote(request.location)}{options}"
    try:
        yield
    except KeyboardInterrupt as error:
        if _is_unfinished(repository, name):
            raise KeyboardInterrupt(f"{error} To go on: {go_on}") from None
        raise
    except Exception:
        if _is_unfinished(repository, name):
            output.say(f"job {name} stopped; what it wrote is kept. To go on: {go_on}")
        raise


def _require_new(repository: Repository, place: str, name: str) -> None:
    try:
        known = show_job(repository, name)
    except NotFoundError:
        return
    raise CommandError(
        f"there is a job {name} already beside {place}; it is {known.state}",
        f"Choose another name, or remove it: icechunk jobs remove {place} {name}"
        if known.state == "finished"
        else f"To go on with it: icechunk ingest --resume {name} {place}",
        ExitCode.CONFLICT,
    )


def _is_unfinished(repository: Repository, name: str) -> bool:
    """Say whether the command can go on with a job: one that has begun, on files."""
    try:
        unfinished = show_job(repository, name).state in {"running", "failed"}
        return unfinished and bool(recorded_paths(repository, name))
    except IcechunkError:
        return False
