"""Help, version, typos, and how little is loaded for them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from icechunk._version import __version__
from icechunk.cli.exits import ExitCode
from icechunk.cli.main import app
from tests.cli.conftest import ROOT

if TYPE_CHECKING:
    from tests.cli.conftest import Cli

REFERENCE = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")


def commands() -> dict[str, Any]:
    """Return every command by what is typed to run it."""
    found: dict[str, Any] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        else:
            found |= {f"{name} {sub}": each for sub, each in inner.items()}
    return found


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example(cli: Cli, name: str) -> None:
    result = cli(*name.split(), "--help")
    assert f"icechunk {name}" in result.out
    assert "For example:" in result.out
    for option in ("--debug", "--help", "--storage-option"):
        assert option in result.out


def test_every_command_and_option_is_in_the_reference() -> None:
    for name, command in commands().items():
        assert f"icechunk {name}" in REFERENCE
        for parameter in command.params:
            for text in [*parameter.opts, *parameter.secondary_opts]:
                if text.startswith("-"):
                    assert f"`{text}" in REFERENCE or f"{text} " in REFERENCE, (name, text)


def test_the_reference_has_no_option_that_does_not_exist() -> None:
    known = {t for c in commands().values() for p in c.params for t in [*p.opts, *p.secondary_opts]}
    known |= {"--version", "--install-completion", "--show-completion", "--help"}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", REFERENCE)) <= known


def test_the_reference_has_every_exit_code() -> None:
    assert {int(n) for n in re.findall(r"^\| (\d+) \|", REFERENCE, re.MULTILINE)} == set(ExitCode)


def test_one_letter_is_one_option_everywhere() -> None:
    letters: dict[str, set[str]] = {}
    names: dict[str, set[str]] = {}
    for command in commands().values():
        for parameter in command.params:
            long = [text for text in parameter.opts if text.startswith("--")]
            short = [text for text in parameter.opts if re.fullmatch("-[a-z]", text)]
            for text in short:
                letters.setdefault(text, set()).add(long[0])
            if long and long[0] != "--help":
                names.setdefault(long[0], set()).add("".join(short))
    assert [each for each in letters.items() if len(each[1]) > 1] == []
    assert [each for each in names.items() if len(each[1]) > 1] == []


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"icechunk {__version__}\n"


def test_without_arguments_there_is_help(cli: Cli) -> None:
    shown = cli(code=2)
    assert "icechunk demo" in shown.out + shown.err


@pytest.mark.parametrize(
    ("typed", "meant"), [(["lgo"], "log"), (["log", "--limt", "3", "x"], "--limit")]
)
def test_typos_are_usage_errors_that_name_what_was_meant(
    cli: Cli, typed: list[str], meant: str
) -> None:
    assert meant in cli(*typed, code=2).err


def test_help_loads_neither_dask_nor_xarray() -> None:
    program = (
        "import json, sys\n"
        "from typer.testing import CliRunner\n"
        "from icechunk.cli.main import app\n"
        "codes = [CliRunner().invoke(app, a).exit_code for a in (['--help'], ['ingest', '--help'],"
        " ['demo', '--help'], ['log', '/nowhere'])]\n"
        "loaded = {m.partition('.')[0] for m in sys.modules}\n"
        "print(json.dumps([codes, sorted(loaded & {'dask', 'distributed', 'xarray', 'pandas'})]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[0, 0, 0, 3], []]
