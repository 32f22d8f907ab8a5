"""The command ``virtualize``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from icechunk._units import count_text
from icechunk.cli.console import Output
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.options import AsJson, StorageOptions, parse_pairs
from icechunk.errors import ErrorKind, StorageError
from icechunk.lake.virtual.requests import VirtualRequest, add_files
from icechunk.storage.url import storage_for_url

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORMATS: Final = ("hdf", "netcdf", "grib", "zarr", "tiff")

_Files: TypeAlias = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES... REPO", help="Files, and the repository last.", show_default=False
    ),
]
_Group: TypeAlias = Annotated[
    str,
    typer.Option("--group", "-g", metavar="PATH", help="Group to add to; the root when omitted."),
]
_FromGroup: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--from-group",
        metavar="PATH",
        show_default=False,
        help="Group in the files (HDF5, netCDF-4, Zarr); the root when omitted.",
    ),
]
_Format: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="|".join(_FORMATS),
        show_default=False,
        help="Their format; by how they begin unless given.",
    ),
]
_ConcatDim: TypeAlias = Annotated[
    str | None,
    typer.Option("--concat-dim", metavar="DIM", help="Along which several files follow."),
]
_AppendDim: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--append-dim",
        metavar="DIM",
        help="Follow what is there along a dimension; creates what is not there yet.",
    ),
]
_Replace: TypeAlias = Annotated[
    bool, typer.Option("--replace", help="Put them in the place of arrays that are there.")
]
_Name: TypeAlias = Annotated[
    str | None, typer.Option("--name", metavar="NAME", help="Of the array of a TIFF file.")
]
_Branch: TypeAlias = Annotated[
    str, typer.Option("--branch", "-b", metavar="NAME", help="Branch to commit to.")
]
_Message: TypeAlias = Annotated[
    str | None, typer.Option("--message", "-m", metavar="TEXT", help="Commit message.")
]
_SourceOptions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--source-option",
        metavar="KEY=VALUE",
        show_default=False,
        help="How to reach the files. Repeatable.",
    ),
]


def virtualize(
    files: _Files,
    *,
    group: _Group = "",
    from_group: _FromGroup = None,
    file_format: _Format = None,
    concat_dim: _ConcatDim = None,
    append_dim: _AppendDim = None,
    replace: _Replace = False,
    name: _Name = None,
    branch: _Branch = "main",
    message: _Message = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
    source_option: _SourceOptions = None,
) -> None:
    """Refer to the chunks of files in other formats, without copying them, and commit.

    For example:
      icechunk virtualize data.nc my-repo
      icechunk virtualize day1.nc day2.nc my-repo --concat-dim time --group sst
      icechunk virtualize day3.nc my-repo --append-dim time --group sst
      icechunk virtualize s3://bucket/scene.tif my-repo --name image --source-option anon=true
    """
    *sources, repo = files
    _check(sources, repo, file_format)
    request = VirtualRequest(
        files=tuple(sources),
        format_name=file_format,
        path=group,
        concat_dim=concat_dim,
        append_dim=append_dim,
        replace=replace,
        array_name=name,
        parser_options={} if from_group is None else {"group": from_group},
        source_options=parse_pairs(source_option, "--source-option"),
    )
    storage = storage_for_url(repo, **parse_pairs(storage_option, "--storage-option"))
    try:
        done = add_files(storage, request, branch=branch, message=message)
    except StorageError as error:
        if error.kind != ErrorKind.OBJECT_NOT_FOUND:
            raise
        raise CommandError(error.message, code=ExitCode.NOT_FOUND) from error
    output = Output.from_streams(as_json=as_json)
    if as_json:
        output.show(done.to_dict(), "")
    output.done(
        f"{count_text(len(sources), 'file')}, {count_text(done.references, 'reference')} in "
        f"/{group.strip('/')} of {repo}: commit {done.commit}"
    )
    for prefix in done.prefixes:
        output.say(f"  chunks are read from {prefix}")


def _check(sources: Sequence[str], repo: str, file_format: str | None) -> None:
    """Refuse what cannot be meant."""
    if not sources:
        raise CommandError(
            "which files, and into which repository?",
            "Say icechunk virtualize FILES... REPO",
            ExitCode.USAGE,
        )
    if file_format is not None and file_format not in _FORMATS:
        raise CommandError(
            f"no format {file_format!r}", f"There are: {', '.join(_FORMATS)}", ExitCode.USAGE
        )
    if Path(repo).is_file():
        raise CommandError(
            f"{repo} is a file, and no repository",
            "The repository comes last: icechunk virtualize FILES... REPO",
            ExitCode.USAGE,
        )
