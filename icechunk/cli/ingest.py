"""The command ``ingest``: parse what was asked for, and hand it to the job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from icechunk.cli.console import Output
from icechunk.cli.options import (
    AsJson,
    Repo,
    StorageOptions,
    parse_chunks,
    parse_pairs,
    parse_region,
)
from icechunk.cli.request import IngestRequest, JobTerms

_READ: Final = "Reading"
_WRITE: Final = "Writing"
_COMMIT: Final = "Committing"
_RUN: Final = "Running"
_JOB: Final = "As a job that can be resumed"


# What belongs to this process; everything else was recorded with the job.
_WITH_RESUME: Final = (
    "resume", "repo", "sources", "create", "workers", "scheduler", "open_option",
    "storage_option", "as_json", "debug",
)  # fmt: skip


class Verify(StrEnum):
    """What is looked up when a job is done."""

    REFERENCES = "references"
    OBJECTS = "objects"


class ReadBack(StrEnum):
    """How much a job reads again."""

    SAMPLE = "sample"
    ALL = "all"


class Mode(StrEnum):
    """What may happen to what is there."""

    NEW = "w-"
    REPLACE = "w"
    ADD = "a"
    VALUES = "r+"


Sources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SOURCE...",
        help="netCDF, HDF5 or GRIB files, Zarr stores (also by URL), or repositories.",
        show_default=False,
    ),
]
ChunksOption = Annotated[
    list[str] | None,
    typer.Option(
        "--chunks",
        metavar="DIM=N,...",
        help="Chunk shape of new arrays, such as time=24,lat=-1 (-1: whole), or auto. "
        "Else as the source has it, within reason.",
        rich_help_panel=_WRITE,
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group", "-g", metavar="PATH", help="Group to write to.", rich_help_panel=_WRITE
    ),
]
ModeOption = Annotated[
    Mode | None,
    typer.Option(
        "--mode",
        help="w-: the group must be new. a: add or replace variables. w: replace the group. "
        "r+: change values only. Default: a with --append-dim, r+ with --region, else w-.",
        show_default=False,
        rich_help_panel=_WRITE,
    ),
]
AppendDim = Annotated[
    str | None,
    typer.Option(
        "--append-dim",
        metavar="DIM",
        help="Append along DIM, sources in the order given; creates what is not there yet.",
        rich_help_panel=_WRITE,
    ),
]
RegionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="DIM=A:B,...",
        help="Write into existing arrays, such as time=0:24, or by coordinate values: time=auto.",
        rich_help_panel=_WRITE,
    ),
]
Engine = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="NAME",
        help="xarray engine; else by the file's content.",
        rich_help_panel=_READ,
    ),
]
OpenOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--open-option",
        metavar="KEY=VALUE",
        help="Passed to the engine; values may be JSON.",
        rich_help_panel=_READ,
    ),
]
JobName = Annotated[
    str | None,
    typer.Option(
        "--job",
        metavar="NAME",
        help="Write in units that are kept as they are finished, under this name.",
        rich_help_panel=_JOB,
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="NAME",
        help="Go on with a job: ingest --resume NAME REPO.",
        rich_help_panel=_JOB,
    ),
]
CommitEveryOption = Annotated[
    str | None,
    typer.Option(
        "--commit-every",
        metavar="N",
        help="Commit each so many units (10), bytes (2GB) or as often (10min); else at the end.",
        rich_help_panel=_JOB,
    ),
]
UnitSize = Annotated[
    int | None,
    typer.Option(
        "--unit-size",
        min=1,
        metavar="N",
        help="Elements per unit along the dimension it is cut along; else one unit per source, "
        "or 256 MB of a single one.",
        rich_help_panel=_JOB,
    ),
]
VerifyOption = Annotated[
    Verify | None,
    typer.Option(
        "--verify",
        help="At the end look up the references of all chunks, or also each object.",
        rich_help_panel=_JOB,
    ),
]
ReadBackOption = Annotated[
    ReadBack | None,
    typer.Option(
        "--read-back",
        help="At the end read blocks again, some or all, and compare checksums.",
        rich_help_panel=_JOB,
    ),
]


def ingest(
    ctx: typer.Context,
    *,
    sources: Sources = None,
    repo: Repo,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what would be written.", rich_help_panel=_RUN)
    ] = False,
    chunks: ChunksOption = None,
    group: Group = None,
    mode: ModeOption = None,
    append_dim: AppendDim = None,
    region: RegionOption = None,
    branch: Annotated[
        str, typer.Option("--branch", "-b", help="Branch to commit to.", rich_help_panel=_COMMIT)
    ] = "main",
    message: Annotated[
        str | None,
        typer.Option(
            "--message",
            "-m",
            help="Commit message; else the names of the sources.",
            rich_help_panel=_COMMIT,
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(
            "--metadata",
            metavar="KEY=VALUE",
            help="Commit metadata. Repeatable.",
            rich_help_panel=_COMMIT,
        ),
    ] = None,
    commit_each: Annotated[
        bool,
        typer.Option(
            "--commit-each",
            help="One commit for each source, not one for all.",
            rich_help_panel=_COMMIT,
        ),
    ] = False,
    create: Annotated[
        bool,
        typer.Option(
            "--create/--no-create",
            help="Create the repository when there is none.",
            rich_help_panel=_WRITE,
        ),
    ] = True,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            "-w",
            min=0,
            metavar="N",
            help="Use N local processes; else threads of this one.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="ADDRESS",
            help="Use a running dask scheduler, such as tcp://host:8786.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    engine: Engine = None,
    open_option: OpenOptions = None,
    decode: Annotated[
        bool,
        typer.Option(
            "--decode",
            help="Store decoded values and times, not the packed ones.",
            rich_help_panel=_READ,
        ),
    ] = False,
    job: JobName = None,
    resume: Resume = None,
    commit_every: CommitEveryOption = None,
    unit_size: UnitSize = None,
    verify: VerifyOption = None,
    read_back: ReadBackOption = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Store files or Zarr stores in a repository, as one commit.

    Values and attributes are stored as the source has them, packed integers too.
    Chunks are written in parallel, and nothing shows until the commit at the end.

    With --job the sources are written in units that survive whatever happens to this process:
    --resume writes only what is left, and each unit is committed exactly once.

    For example:
      icechunk ingest data.nc my-repo
      icechunk ingest data.nc my-repo --plan
      icechunk ingest jan.nc feb.nc mar.nc my-repo --append-dim time --workers 4
      icechunk ingest fix.nc my-repo --region time=auto
      icechunk ingest model.grib s3://bucket/repo -g /forecast --chunks time=24
      icechunk ingest year/*.nc my-repo --append-dim time --job year --commit-every 10
      icechunk ingest --resume year my-repo
    """
    if resume is None and not sources:
        raise typer.BadParameter("Missing argument 'SOURCE...'.")
    if resume is not None and (sources or job is not None):
        raise typer.BadParameter(
            "--resume takes neither sources nor --job: the job knows what it reads"
        )
    if resume is not None:
        _check_resume(ctx)
    if workers is not None and scheduler is not None:
        raise typer.BadParameter("--workers and --scheduler exclude each other")
    if append_dim is not None and region:
        raise typer.BadParameter("--append-dim and --region exclude each other")
    if append_dim is not None and mode not in {None, Mode.ADD}:
        raise typer.BadParameter("--append-dim goes with --mode a only")
    if region and mode not in {None, Mode.VALUES}:
        raise typer.BadParameter("--region goes with --mode r+ only")
    if region and len(sources or ()) > 1:
        raise typer.BadParameter("--region takes one source at a time")
    terms = JobTerms(
        name=resume or job,
        resume=resume is not None,
        commit_every=commit_every,
        unit_size=unit_size,
        verify=verify.value if verify else None,
        read_back=read_back.value if read_back else None,
    )
    _check_job(terms, region=bool(region), mode=mode, commit_each=commit_each)
    request = IngestRequest(
        sources=tuple(sources or ()),
        location=repo,
        storage_options=tuple(storage_option or ()),
        plan_only=plan,
        chunks=parse_chunks(chunks),
        group=group,
        mode=mode.value if mode else None,
        append_dim=append_dim,
        region=parse_region(region),
        branch=branch,
        message=message,
        metadata=parse_pairs(metadata, "--metadata"),
        commit_each=commit_each,
        create=create,
        workers=workers,
        scheduler=scheduler,
        engine=engine,
        open_options=parse_pairs(open_option, "--open-option"),
        decode=decode,
    )
    output = Output.from_streams(as_json=as_json)
    # Deferred: xarray and dask take a second to load, and --help must not wait for them.
    if terms.name is not None and not plan:
        from icechunk.cli.kept_job import run_job  # noqa: PLC0415

        run_job(request, terms, output)
        return
    from icechunk.cli.ingest_job import run_ingest  # noqa: PLC0415

    run_ingest(request, terms, output)


def _check_resume(ctx: typer.Context) -> None:
    """Refuse what a job knows since it was started, instead of ignoring it."""
    options = {parameter.name: parameter.opts[0] for parameter in ctx.command.params}
    for name, value in ctx.params.items():
        source = ctx.get_parameter_source(name)
        given = source is not None and source.name == "COMMANDLINE" and value is not None
        if given and name not in _WITH_RESUME:
            raise typer.BadParameter(
                f"{options[name]} does not go with --resume: what the job reads and writes was "
                "settled when it was started. `icechunk jobs show REPO NAME` shows how far it is"
            )


def _check_job(terms: JobTerms, *, region: bool, mode: Mode | None, commit_each: bool) -> None:
    """Refuse options that go only with a job, or never with one."""
    given = {
        "--commit-every": terms.commit_every,
        "--unit-size": terms.unit_size,
        "--verify": terms.verify,
        "--read-back": terms.read_back,
    }
    named = [option for option, value in given.items() if value is not None]
    if named and terms.name is None:
        raise typer.BadParameter(f"{named[0]} goes with --job, when a job is started")
    if terms.name is None:
        return
    others = {"--region": region, "--commit-each": commit_each}
    others["--mode"] = mode not in {None, Mode.NEW, Mode.REPLACE}
    refused = [option for option, value in others.items() if value]
    if refused:
        raise typer.BadParameter(
            f"{refused[0]} does not go with a job, which makes new arrays or appends to them"
        )
