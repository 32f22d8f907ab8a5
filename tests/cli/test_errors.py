"""Exit codes and messages of what goes wrong."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from icechunk.cli.exits import CommandError, ExitCode, failure_of
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    FormatError,
    InvalidInputError,
    NodeNotFoundError,
    ReadOnlyError,
    RebaseFailedError,
    SessionStateError,
    StorageError,
)

if TYPE_CHECKING:
    from tests.cli.conftest import Cli, Repo


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NodeNotFoundError("no node"), ExitCode.NOT_FOUND),
        (ConflictError("A", "B"), ExitCode.CONFLICT),
        (RebaseFailedError("A", ["chunks of /t"]), ExitCode.CONFLICT),
        (AlreadyExistsError("there"), ExitCode.CONFLICT),
        (ReadOnlyError("read-only"), ExitCode.CONFLICT),
        (SessionStateError("no"), ExitCode.CONFLICT),
        (InvalidInputError("bad"), ExitCode.USAGE),
        (FormatError("damaged"), ExitCode.FAILURE),
        (StorageError("unreachable"), ExitCode.FAILURE),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.nc"), ExitCode.NOT_FOUND),
        (PermissionError(errno.EACCES, "Permission denied", "x"), ExitCode.FAILURE),
        (MemoryError(), ExitCode.FAILURE),
        (ImportError("no module"), ExitCode.FAILURE),
        (RuntimeError(), ExitCode.FAILURE),
        (CommandError("wrong", None, ExitCode.MISMATCH), ExitCode.MISMATCH),
    ],
)
def test_every_error_has_a_message_and_a_code(error: Exception, code: ExitCode) -> None:
    failure = failure_of(error)
    assert failure.code is code
    assert failure.message.strip()


def test_a_conflict_says_that_nothing_was_committed() -> None:
    assert "Nothing was committed" in (failure_of(ConflictError("A", "B")).hint or "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE])
def test_the_cause_of_a_storage_error_is_found(number: int) -> None:
    error = StorageError("cannot write chunks/X", ErrorKind.IO)
    error.__cause__ = OSError(number, os.strerror(number))
    failure = failure_of(error)
    assert failure.code is ExitCode.FAILURE
    assert "cannot write chunks/X" in failure.message
    assert failure.hint


def test_a_dead_worker_is_about_memory() -> None:
    killed = type("KilledWorker", (Exception,), {})("tried on 4 workers")
    failure = failure_of(killed)
    assert "worker died: tried on 4 workers" in failure.message
    assert "memory" in (failure.hint or "")


def test_the_root_of_an_unknown_error_is_named() -> None:
    error = RuntimeError("the graph failed")
    error.__cause__ = ValueError("in a worker")
    assert failure_of(error).message == (
        "RuntimeError: the graph failed\ncaused by ValueError: in a worker"
    )


def test_an_unknown_error_asks_for_debug() -> None:
    assert "--debug" in (failure_of(KeyError("x")).hint or "")


def test_debug_shows_the_traceback(cli: Cli) -> None:
    plain = cli.process("log", "nowhere", code=3)
    assert "Traceback" not in plain.err
    for result in (
        cli.process("log", "nowhere", "--debug", code=1),
        cli.process("log", "nowhere", code=1, ICECHUNK_DEBUG="1"),
    ):
        assert "Traceback" in result.err
        assert "RepositoryNotFoundError" in result.err


def test_the_reader_of_the_output_goes_away(cli: Cli, repo: Repo) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        cli.command("log", repo.path),
        stdout=writing,
        stderr=subprocess.PIPE,
        env=cli.environment(),
        text=True,
        check=False,
    )
    os.close(writing)
    assert done.returncode == ExitCode.BROKEN_PIPE
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_to_a_full_disk(cli: Cli, repo: Repo) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            cli.command("log", repo.path, "--json"),
            stdout=full,
            stderr=subprocess.PIPE,
            env=cli.environment(),
            text=True,
            check=False,
        )
    assert done.returncode == ExitCode.FAILURE
    assert "no space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_colours_without_a_terminal(cli: Cli, repo: Repo) -> None:
    for args in (("log", repo.path), ("log", "nowhere"), ("tree", repo.path), ("lgo",)):
        done = subprocess.run(
            cli.command(*args), env=cli.environment(), capture_output=True, text=True, check=False
        )
        assert "\x1b" not in done.stdout + done.stderr


def test_a_terminal_without_unicode(cli: Cli, repo: Repo) -> None:
    session = repo.open().writable_session("main")
    session.commit("dépôt ✓", allow_empty=True)
    plain = cli.process("log", "repo", PYTHONIOENCODING="ascii")
    assert plain.out.startswith("*  ")
    assert "d?p?t" in plain.out
    assert cli.process("log", "repo", "--json", PYTHONIOENCODING="ascii").data[0]["message"] == (
        "dépôt ✓"
    )


def test_no_path_of_this_machine_is_shown(cli: Cli, repo: Repo) -> None:
    done = cli.process("log", "repo")
    assert str(cli.directory) not in done.out + done.err
    assert str(cli.directory) not in cli.process("ls", "repo", "/nothing", code=3).err
    assert repo.path.is_dir()
