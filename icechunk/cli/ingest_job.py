"""What ``icechunk ingest`` does: open, check, plan, write, commit."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from zarr.errors import ContainsArrayError, ContainsGroupError

from icechunk._units import count_text, seconds_text
from icechunk.cli import render, writing
from icechunk.cli.cluster import computing
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.repos import branch_tip, open_repository, storage_at
from icechunk.dask import CommitEvery, WritePlan, plan_write
from icechunk.errors import RepositoryNotFoundError
from icechunk.inputs import joining, prepare, raw
from icechunk.inputs.kinds import is_url
from icechunk.inputs.sources import AS_STORED, open_source
from icechunk.repository import Repository
from icechunk.storage import in_memory_storage
from icechunk.xarray import to_icechunk

if TYPE_CHECKING:
    from icechunk.cli.console import Output
    from icechunk.cli.request import IngestRequest, JobTerms
    from icechunk.inputs.kinds import Region
    from icechunk.session import Session


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One dataset, ready to be written: `raw` into arrays that exist, or instead of `replaced`."""

    dataset: xr.Dataset
    plan: WritePlan
    how: dict[str, Any]
    mode: Any
    replaced: tuple[str, ...]
    raw: bool


def run_ingest(request: IngestRequest, terms: JobTerms, output: Output) -> None:
    """Do what was asked, and show it; of a job only the plan.

    Parameters
    ----------
    request : IngestRequest
        The options.
    terms : JobTerms
        The options of a job, if it is to be one.
    output : Output
        Where plan, progress and result go.
    """
    began = time.monotonic()
    check_places(request)
    with writing.telling_the_truth(request.location, request.branch) as watch:
        if request.plan_only:
            _show_plan(request, terms, output)
            return
        commits = _ingest(request, output, watch)
    seconds = round(time.monotonic() - began, 3)
    data = {
        "repository": request.location,
        "branch": request.branch,
        "commits": commits,
        "seconds": seconds,
    }
    if output.as_json:
        output.show(data, "")
    for commit in commits:
        output.done(f"committed {commit['id']} to {request.branch}: {commit['message']}")
    output.say(f"  {request.location}, {seconds_text(seconds)}")


def _ingest(request: IngestRequest, output: Output, watch: writing.Watch) -> list[dict[str, Any]]:
    """Open, plan and write; return the commits."""
    named = _named(request, output)
    if not request.commit_each:
        named = [(_names(request), joining.combined(named, request.append_dim))]
    with computing(workers=request.workers, scheduler=request.scheduler) as client:
        repository = repository_for(request, output)
        branch_tip(repository, request.branch)
        watch.begin(repository)
        return [
            _ingest_one(request, output, client, repository, name, dataset)
            for name, dataset in named
        ]


def _named(request: IngestRequest, output: Output) -> list[tuple[str, xr.Dataset]]:
    return [(_short(source), _opened(source, request, output)) for source in request.sources]


def check_places(request: IngestRequest) -> None:
    """Refuse places that other processes cannot reach, and sources that cannot be joined."""
    if request.location.startswith("memory:") and (request.workers or request.scheduler):
        raise CommandError(
            "memory: is the memory of one process; other processes cannot write to it",
            "Leave --workers and --scheduler out, or give a directory.",
            ExitCode.USAGE,
        )
    if request.append_dim is None and len(request.sources) > 1:
        joining.combined([(s, xr.Dataset()) for s in request.sources], None)


def _short(source: str) -> str:
    return source if is_url(source) else Path(source).name


def _names(request: IngestRequest) -> str:
    names = [_short(source) for source in request.sources]
    if len(names) <= 3:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]}, {len(names)} sources"


def _opened(source: str, request: IngestRequest, output: Output) -> xr.Dataset:
    remarks: dict[str, list[str]] = {}

    def remark(name: str, text: str) -> None:
        remarks.setdefault(text, []).append(name)

    dataset, zarr_format_3 = open_source(
        source, engine=request.engine, options=request.open_options, decode=request.decode
    )
    cleaned = prepare.cleaned(dataset, zarr_format_3=zarr_format_3, remark=remark)
    for text, names in remarks.items():
        output.say(f"note: {_short(source)}: {', '.join(names)}: {text}")
    if not cleaned.variables:
        raise CommandError(f"{source}: there are no variables in it", None, ExitCode.USAGE)
    return cleaned


def repository_for(request: IngestRequest, output: Output) -> Repository:
    """Open the repository, or create it where that is wanted."""
    if not request.create:
        return open_repository(request.location, list(request.storage_options))
    storage = storage_at(request.location, list(request.storage_options))
    if Repository.exists(storage):
        return Repository.open(storage)
    repository = Repository.create(storage)
    output.say(f"created the repository {request.location}")
    return repository


def _show_plan(request: IngestRequest, terms: JobTerms, output: Output) -> None:
    """Plan against what is there, or against nothing; write nothing either way."""
    CommitEvery.of(terms.commit_every)  # refuses what means nothing
    named = _named(request, output)
    dataset = joining.combined(named, request.append_dim)
    try:
        storage = storage_at(request.location, list(request.storage_options))
        repository = Repository.open(storage)
        exists = True
    except RepositoryNotFoundError:
        if not request.create:
            open_repository(request.location, list(request.storage_options))
        repository = Repository.create(in_memory_storage())
        exists = False
    branch_tip(repository, request.branch)
    session = repository.writable_session(request.branch)
    step = _planned(request, session, _names(request), dataset)
    commits = None if terms.commit_every else len(named) if request.commit_each else 1
    data = {
        "repository": request.location,
        "creates_repository": not exists,
        "branch": request.branch,
        "job": terms.name,
        "commit_every": terms.commit_every,
        "commits": commits,
        **step.plan.to_dict(),
    }
    output.show(data, render.plan(data))


def _ingest_one(
    request: IngestRequest,
    output: Output,
    client: Any,
    repository: Repository,
    name: str,
    dataset: xr.Dataset,
) -> dict[str, Any]:
    session = repository.writable_session(request.branch)
    step = _planned(request, session, name, dataset)
    output.say(f"{name}: {writing.plan_line(step.plan)}")
    with writing.showing(output, client, step.plan):
        if step.raw:
            raw.write_values(step.dataset, session, **step.how)
        else:
            raw.delete_arrays(session, request.group, step.replaced)
            to_icechunk(step.dataset, session, **step.how, mode=step.mode, align_chunks=True)
    verb = "Append" if step.how["append_dim"] else "Update" if step.how["region"] else "Ingest"
    message = request.message or f"{verb} {name}"
    snapshot_id = writing.commit(session, message, request.metadata)
    return {"id": snapshot_id, "message": message, **_totals(step.plan)}


def _totals(plan: WritePlan) -> dict[str, Any]:
    names = ("size_bytes", "zarr_chunks", "write_tasks")
    return {
        "variables": [row.name for row in plan.variables],
        **{name: getattr(plan, name) for name in names},
    }


def _planned(request: IngestRequest, session: Session, name: str, dataset: xr.Dataset) -> _Step:
    there = xr.Dataset() if request.mode == "w" else _existing(request, session)
    grows = request.append_dim is not None and any(
        request.append_dim in variable.dims for variable in there.variables.values()
    )
    known = set(map(str, there.variables))
    region: dict[str, slice] | None = None
    replaced: tuple[str, ...] = ()
    mode = request.mode or ("a" if request.append_dim else "w-")
    if grows:
        dim = str(request.append_dim)
        dataset = joining.with_times_of(there, dataset)
        joining.check_joinable(dataset, name, there, request.location, dim)
        joining.check_no_overlap(dataset, there, dim, request.location)
        dataset = joining.without_static(dataset, {dim}, known)
    elif request.region is not None or mode == "r+":
        mode = "r+"
        region, dataset = _for_region(request, name, dataset, there)
    elif mode == "w-" and (there.variables or there.attrs):
        raise _occupied(request, there)
    else:
        dataset = joining.beside(dataset, name, there, request.location)
        replaced = tuple(known & set(map(str, dataset.variables)))
    exists = grows or region is not None
    dataset = prepare.chunked(dataset, request.chunks, explicit_only=exists)
    how: dict[str, Any] = {
        "group": request.group,
        "append_dim": request.append_dim if grows else None,
        "region": region,
    }
    # What is replaced is not there any more when it is written.
    plan = plan_write(dataset, session, **how, mode="w" if replaced else mode, align_chunks=True)
    return _Step(
        dataset=dataset, plan=plan, how=how, mode=mode, replaced=replaced,
        raw=exists and not request.decode,
    )  # fmt: skip


def _existing(request: IngestRequest, session: Session) -> xr.Dataset:
    """Open the group that is written to, decoded as the sources are; empty when it is not there."""
    how: dict[str, Any] = {} if request.decode else dict(AS_STORED)
    try:
        there: xr.Dataset = xr.open_zarr(
            session.store, group=request.group, consolidated=False, chunks={}, **how
        )
    except FileNotFoundError:
        return xr.Dataset()
    except (ContainsArrayError, ContainsGroupError) as error:
        raise CommandError(
            f"{request.group or '/'} of {request.location} is an array, not a group",
            "Choose another --group.",
            ExitCode.CONFLICT,
        ) from error
    return there


def _for_region(
    request: IngestRequest, name: str, dataset: xr.Dataset, there: xr.Dataset
) -> tuple[dict[str, slice], xr.Dataset]:
    """Find the region and check that it means the same on both sides; drop what is no part."""
    place = request.location
    if not there.variables:
        raise CommandError(
            f"{request.group or '/'} of {place} holds no arrays to write a region of",
            "Leave --region out to create them.",
            ExitCode.NOT_FOUND,
        )
    missing = sorted(set(map(str, dataset.variables)) - set(map(str, there.variables)))
    if missing:
        raise CommandError(
            f"{', '.join(missing)}: in {name}, but not in {place}",
            "A region is a part of arrays that exist; --mode a adds new ones.",
            ExitCode.NOT_FOUND,
        )
    everything: Region = {str(dim): slice(0, None) for dim in dataset.dims}
    dataset = joining.with_times_of(there, dataset)
    region = raw.find_region(dataset, there, request.region or everything, place)
    joining.check_region(dataset, name, there, place, region)
    return region, joining.without_static(
        dataset.drop_vars(list(dataset.xindexes)), set(region), set(map(str, there.variables))
    )


def _occupied(request: IngestRequest, there: xr.Dataset) -> CommandError:
    names = ", ".join(map(str, list(there.variables)[:6]))
    more = (
        f" and {count_text(len(there.variables) - 6, 'other')}" if len(there.variables) > 6 else ""
    )
    return CommandError(
        f"{request.group or '/'} of {request.location} is not empty: {names}{more}",
        "--append-dim DIM appends, --mode a adds or replaces variables, --mode w replaces all, "
        "--group PATH puts it elsewhere.",
        ExitCode.CONFLICT,
    )
