"""Running the official package, which lives in an environment of its own.

It has the same import name, so it is reached by a subprocess: tests exchange JSON and repositories
on disk with it. ``ICECHUNK_PEER_PYTHON`` names its interpreter; a virtual environment ``.peer``
beside ``pyproject.toml`` is found without. The last release that knew format version 1 alone is
reached the same way: ``ICECHUNK_PEER1_PYTHON``, ``.peer1``. Tests of either are marked ``peer``.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PEER_VERSION = "2.3.0"
PEER1_VERSION = "1.1.21"
_TIMEOUT_SECONDS = 120
_ROOT = Path(__file__).resolve().parents[1]


_PLACES = {
    PEER_VERSION: ("ICECHUNK_PEER_PYTHON", ".peer"),
    PEER1_VERSION: ("ICECHUNK_PEER1_PYTHON", ".peer1"),
}


def peer_python(version: str = PEER_VERSION) -> Path:
    """Return the interpreter that has the official package; skip the test without it.

    Continuous integration always has it, so there its absence is a failure, not a skip.
    """
    variable, folder = _PLACES[version]
    for path in _candidates(variable, folder):
        if path.is_file() and _version_of(path) == version:
            return path
    message = (
        f"no environment with the official icechunk {version}: make {folder} as CONTRIBUTING.md "
        f"says, or set {variable} to its interpreter"
    )
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def run_peer(script: str, *args: object, version: str = PEER_VERSION) -> Any:
    """Run a script with the official package and return what it printed as JSON.

    Parameters
    ----------
    script : str
        Python source; its last line of output is the answer, as JSON.
    *args : object
        Its ``sys.argv[1:]``, as text.
    version : str
        Which release.
    """
    command = [str(peer_python(version)), "-c", script, *map(str, args)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
        cwd=_ROOT / "tests",  # not the checkout, whose package would be imported instead
        env=environment(),
    )
    # Its threads sometimes die at the interpreter's exit (a signal, so a negative code), when the
    # answer was given already. What it then has on standard error are its warnings.
    failed = any(word in done.stderr for word in ("Traceback", "panicked"))
    answered = done.stdout.endswith("\n") and not failed
    if done.returncode != 0 and not (done.returncode < 0 and answered):
        pytest.fail(f"the official package failed ({done.returncode}):\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _candidates(variable: str, folder: str) -> list[Path]:
    named = os.environ.get(variable)
    here = [Path(named)] if named else []
    bin_dir, name = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
    return [*here, _ROOT / folder / bin_dir / name]


def environment() -> dict[str, str]:
    dropped = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    return {name: value for name, value in os.environ.items() if name not in dropped}


@functools.cache
def _version_of(python: Path) -> str | None:
    script = "import importlib.metadata as m; print(m.version('icechunk'))"
    done = subprocess.run(
        [str(python), "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_SECONDS,
        cwd=_ROOT / "tests",
        env=environment(),
    )
    return done.stdout.strip() if done.returncode == 0 else None
