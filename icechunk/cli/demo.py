"""The command ``demo``: parse what was asked for, and hand it to the job."""

from __future__ import annotations

from typing import Annotated

import typer

from icechunk.cli.console import Output
from icechunk.cli.options import AsJson, StorageOptions, parse_size
from icechunk.cli.request import DemoRequest


def demo(
    path: Annotated[
        str, typer.Argument(metavar="[PATH]", help="Where to: a new directory, or a URL.")
    ] = "./icechunk-demo",
    *,
    size: Annotated[
        str, typer.Option("--size", "-s", help="Uncompressed size, such as 100MB.")
    ] = "1GB",
    workers: Annotated[
        int,
        typer.Option(
            "--workers",
            "-w",
            min=0,
            metavar="N",
            help="Local processes that write; 0 for threads of this one.",
        ),
    ] = 2,
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="Use a running dask scheduler."),
    ] = None,
    as_json: AsJson = False,
    storage_option: StorageOptions = None,
) -> None:
    """Write, append and check a synthetic weather archive on a local dask cluster.

    The data are made while they are written, so neither memory nor disk ever holds all of them
    uncompressed. Two commits, then the archive is opened anew and every value is checked.

    For example:
      icechunk demo
      icechunk demo my-archive --size 100MB
      icechunk demo s3://bucket/archive -o endpoint_url=http://localhost:9000
    """
    request = DemoRequest(
        location=path,
        storage_options=tuple(storage_option or ()),
        size_bytes=parse_size(size),
        workers=workers,
        scheduler=scheduler,
    )
    # Deferred: xarray and dask take a second to load, and --help must not wait for them.
    from icechunk.cli.demo_job import run_demo  # noqa: PLC0415

    run_demo(request, Output.from_streams(as_json=as_json))
