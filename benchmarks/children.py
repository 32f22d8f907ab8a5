"""Running a module of this folder with either package: each time in a fresh process.

Both packages have the same import name, so each lives in an interpreter of its own. The checkout
comes last on the path of a child: the package that its interpreter has installed is found first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.measure import FIGURE_MARK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ROOT: Final = Path(__file__).resolve().parents[1]
_BOOT = (
    "import runpy, sys; sys.path.append({root!r}); sys.argv[0] = {module!r}; "
    "runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
)
_OURS = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured value."""

    value: float
    unit: str
    cpu: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The figures of one process by name, and what went wrong."""

    figures: dict[str, Figure] = field(default_factory=dict)
    error: str | None = None


def command(python: str, module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module of this folder."""
    boot = _BOOT.format(root=str(ROOT), module=f"benchmarks.{module}")
    return [python, "-c", boot, *arguments]


def environment(python: str) -> dict[str, str]:
    """Return the environment for an interpreter: what leads to our package is for ours alone."""
    if python == sys.executable:
        return dict(os.environ)
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def call(
    python: str,
    module: str,
    *arguments: str,
    timeout: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> list[str]:
    """Run a module of this folder; return the lines it printed.

    Raises
    ------
    RuntimeError
        It printed nothing, or did not end in time; the message has the end of its errors.
    """
    try:
        done = subprocess.run(  # noqa: S603 # the interpreter that the user gave
            command(python, module, *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            cwd=tempfile.gettempdir(),
            env=environment(python) | dict(variables or {}),
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{module} {' '.join(arguments)}: not done in {timeout} s") from None
    # The official package's threads may crash when the interpreter ends, with all figures printed.
    if done.returncode > 0 or not done.stdout:
        raise RuntimeError((done.stderr or f"exit code {done.returncode}")[-2000:])
    return done.stdout.splitlines()


def figures_in(lines: Iterable[str]) -> dict[str, Figure]:
    """Return the figures among the lines that a child printed, by name."""
    figures = {}
    for line in lines:
        if line.startswith(FIGURE_MARK):
            row = json.loads(line)
            name = row.pop("figure")
            figures[name] = Figure(**row)
    return figures


def measure(
    python: str, work: str, size: int, *, folder: Path | None = None, timeout: float = 900
) -> Run:
    """Run one scenario in a fresh process and, unless a folder is given, a fresh folder.

    Parameters
    ----------
    python : str
        The interpreter.
    work : str
        ``module:function`` of this folder.
    size : int
        How much it is to do.
    folder : Path or None
        Where it works, when that must outlive it.
    timeout : float
        Seconds after which it is given up.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as fresh:
            return measure(python, work, size, folder=Path(fresh), timeout=timeout)
    try:
        lines = call(python, "child", work, str(size), str(folder), timeout=timeout)
    except RuntimeError as error:
        last = str(error).strip().splitlines() or ["nothing was printed"]
        return Run(error=last[-1][:300])
    figures = figures_in(lines)
    missing = None if "peak_rss" in figures else "the process ended early"
    return Run(figures=figures, error=missing)
