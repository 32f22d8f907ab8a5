"""What every command gets: errors as one message and an exit code, and ``--debug``."""

from __future__ import annotations

import functools
import inspect
import io
import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias, get_type_hints

import typer

from icechunk.cli.console import Output
from icechunk.cli.exits import ExitCode, Failure, failure_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

# Usage errors and clean exits are typer's own business: it shows them with the usage line. Their
# base class has no public name of its own.
_TYPERS_OWN: Final[tuple[Any, ...]] = (typer.Exit, typer.Abort, *typer.BadParameter.__bases__)

_Debug: TypeAlias = Annotated[
    bool,
    typer.Option("--debug", envvar="ICECHUNK_DEBUG", help="Show the traceback of an error."),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command: it gets ``--debug``, and every end of it an exit code.

    Parameters
    ----------
    function : callable
        The command; its parameters are typer's.

    Returns
    -------
    callable
        To be registered with typer.
    """

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except _TYPERS_OWN:
            raise
        except BrokenPipeError:
            _give_up_stdout()
            raise typer.Exit(ExitCode.BROKEN_PIPE) from None
        except KeyboardInterrupt as error:
            raise typer.Exit(_report_interrupt(error)) from None
        except Exception as error:
            if debug:
                raise
            failure = failure_of(error)
            _report(failure)
            raise typer.Exit(failure.code) from None

    # Resolved here, where the function's own module is at hand; typer would look into this one.
    hints = get_type_hints(function, include_extras=True) | {"debug": _Debug}
    parameters = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
    ]
    debug_parameter = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=_Debug
    )
    run.__signature__ = inspect.Signature([*parameters, debug_parameter])  # type: ignore[attr-defined]
    run.__annotations__ = hints
    run.__doc__ = help_text(function.__doc__)
    return run


def help_text(docstring: str | None) -> str:
    """Return a docstring as typer's help, where lists under a heading keep their lines."""
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(f"\b\n{p}" if p.partition("\n")[0].endswith(":") else p for p in paragraphs)


def _report(failure: Failure) -> None:
    try:
        Output.from_streams().fail(failure)
    except BrokenPipeError:
        _give_up_stdout()


def _report_interrupt(error: KeyboardInterrupt) -> ExitCode:
    # A second Ctrl-C while the message is written must not bring a traceback after all.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    message = f"interrupted. {error}" if error.args else "interrupted"
    _report(Failure(message=message, hint=None, code=ExitCode.INTERRUPTED))
    signal.signal(signal.SIGINT, before)
    return ExitCode.INTERRUPTED


def _give_up_stdout() -> None:
    """Point standard output at nothing, so that the interpreter's last flush stays quiet."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = io.StringIO()


def interrupt_on_terminate() -> None:
    """Treat a request to terminate like Ctrl-C, so that workers are stopped with us."""

    def raise_interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, raise_interrupt)
