"""The application: every command, and what is common to all."""

from __future__ import annotations

import io
import logging
import sys
from typing import Annotated, Final

import typer

from icechunk._version import __version__
from icechunk.cli import contents, demo, history, ingest, jobs, lake, refs, virtualize
from icechunk.cli.app import command, help_text, interrupt_on_terminate
from icechunk.cli.exits import EXIT_CODE_HELP

app = typer.Typer(
    name="icechunk",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EXIT_CODE_HELP,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"icechunk {__version__}")
        raise typer.Exit


_HELP: Final = """Transactional, version-controlled storage for Zarr arrays.

Start here:
  icechunk demo                          see the whole thing work
  icechunk ingest data.nc my-repo        store a file's variables
  icechunk log my-repo                   see what was committed
  icechunk COMMAND --help                every command has examples
"""


@app.callback(help=help_text(_HELP))
def icechunk(
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Do what is common to all commands: nothing but the options above."""


_START = "Start"
_LOOK = "Look"
_MANAGE = "Manage"

app.command("demo", rich_help_panel=_START)(command(demo.demo))
app.command("ingest", rich_help_panel=_START)(command(ingest.ingest))
app.command("virtualize", rich_help_panel=_START)(command(virtualize.virtualize))
app.command("log", rich_help_panel=_LOOK)(command(history.log))
app.command("show", rich_help_panel=_LOOK)(command(history.show))
app.command("diff", rich_help_panel=_LOOK)(command(history.diff))
app.command("ls", rich_help_panel=_LOOK)(command(contents.ls))
app.command("tree", rich_help_panel=_LOOK)(command(contents.tree))
app.add_typer(jobs.jobs, name="jobs", rich_help_panel=_MANAGE)
app.add_typer(refs.branch, name="branch", rich_help_panel=_MANAGE)
app.add_typer(refs.tag, name="tag", rich_help_panel=_MANAGE)
app.add_typer(lake.lake, name="lake", rich_help_panel=_MANAGE)


def main() -> None:
    """Run the command line; never returns."""
    interrupt_on_terminate()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character the terminal does not have is no reason to fail.
            stream.reconfigure(errors="replace")
    if "--debug" not in sys.argv:
        # When a computation is interrupted they log what they drop, with tracebacks.
        for name in ("asyncio", "distributed", "tornado"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    app()
