"""Where output goes: data to standard output, everything else to standard error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import RenderableType

    from icechunk.cli.exits import Failure

# Wide enough that nothing is wrapped or cut when the output goes to a file or another program.
_WIDTH_OF_A_PIPE: Final = 1000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the command decide: rich would end the process with code 1."""
        raise BrokenPipeError


def _console(*, to_stderr: bool) -> Console:
    console = _Console(stderr=to_stderr, highlight=False)
    if not console.is_terminal:
        console = _Console(stderr=to_stderr, highlight=False, width=_WIDTH_OF_A_PIPE)
    return console


@dataclass(frozen=True, slots=True)
class Output:
    """The two streams of a command.

    Parameters
    ----------
    out : Console
        Standard output: what the command was asked for.
    err : Console
        Standard error: progress, remarks and errors.
    as_json : bool
        Print data as JSON instead of rendering it.
    """

    out: Console
    err: Console
    as_json: bool

    @classmethod
    def from_streams(cls, *, as_json: bool = False) -> Output:
        """Look at the streams as they are now."""
        return cls(_console(to_stderr=False), _console(to_stderr=True), as_json)

    def show(self, data: Any, rendered: RenderableType) -> None:
        """Print the data as JSON, or rendered for people."""
        if self.as_json:
            self.out.file.write(to_json(data, ascii_only=self.out.options.ascii_only) + "\n")
        else:
            self.out.print(rendered)

    def say(self, text: RenderableType) -> None:
        """Print a remark for people."""
        self.err.print(text, soft_wrap=not self.err.is_terminal)

    def done(self, text: str) -> None:
        """Print that something was done."""
        mark = "ok" if self.err.options.ascii_only else "✓"
        self.say(Text.assemble((f"{mark} ", "green"), text))

    def fail(self, failure: Failure) -> None:
        """Print an error and its hint."""
        self.say(Text.assemble(("error: ", "bold red"), failure.message))
        if failure.hint:
            self.say(Text.assemble(("hint: ", "cyan"), failure.hint))


def to_json(data: Any, *, ascii_only: bool = False) -> str:
    """Return strict JSON; what JSON cannot hold becomes text."""
    return json.dumps(_plain(data), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def _plain(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            result: Any = str(value)
        case None | bool() | int() | float() | str():
            result = value
        case Mapping():
            result = {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            result = [_plain(v) for v in value]
        case set() | frozenset():
            result = sorted(_plain(v) for v in value)
        case datetime():
            result = value.isoformat()
        case _ if hasattr(value, "tolist"):
            result = _plain(value.tolist())
        case _:
            result = str(value)
    return result
