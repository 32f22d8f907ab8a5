"""Exit codes, and how an exception becomes one clear message.

Every failure of a command ends here: the code tells scripts what kind it was, the message tells
people what went wrong, the hint what to do next. Tracebacks are for ``--debug``.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    ErrorKind,
    IcechunkError,
    InvalidInputError,
    NotFoundError,
    ReadOnlyError,
    SessionStateError,
)
from icechunk.inputs.problems import InputError, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator


class ExitCode(IntEnum):
    """What a finished command tells its caller."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    MISMATCH = 5
    INTERRUPTED = 130
    BROKEN_PIPE = 141


EXIT_CODE_HELP: Final = (
    "Exit codes: 0 done; 1 failed (storage, damaged file, disk full); 2 wrong usage; "
    "3 not found (repository, branch, tag, snapshot, array, source); 4 conflict (somebody else "
    "changed it, the name is taken, the state forbids it); 5 values read back differ; "
    "130 interrupted; 141 the reader of the output went away."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure, ready to be shown.

    Parameters
    ----------
    message : str
        What went wrong, naming what it happened to.
    hint : str or None
        What to do next.
    code : ExitCode
        Exit code of the process.
    """

    message: str
    hint: str | None
    code: ExitCode


class CommandError(Exception):
    """A failure that a command itself found.

    Parameters
    ----------
    message : str
        What went wrong.
    hint : str or None
        What to do next.
    code : ExitCode
        Exit code of the process.
    """

    def __init__(
        self, message: str, hint: str | None = None, code: ExitCode = ExitCode.FAILURE
    ) -> None:
        super().__init__(message, hint, code)
        self.failure = Failure(message=message, hint=hint, code=code)

    def __str__(self) -> str:
        return self.failure.message


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what caused it, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


_DISK_FULL: Final = "Free some space, or give another place. What was committed before is intact."
_OS_HINTS: Final[dict[int, tuple[str, str]]] = {
    errno.ENOSPC: ("no space left on the device", _DISK_FULL),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or give another place."),
    errno.EROFS: ("the file system is read-only", "Give a place that can be written."),
    errno.EMFILE: (
        "too many open files",
        "Raise the limit with `ulimit -n`, or use fewer workers.",
    ),
}

_RUN_AGAIN: Final = (
    "Nothing was committed. Run the command again on top of the new state of the branch."
)
_HINTS: Final[dict[str, str]] = {
    ErrorKind.REBASE_FAILED: _RUN_AGAIN,
    ErrorKind.COMMIT_CONFLICT: _RUN_AGAIN,
    ErrorKind.NO_CHANGES_TO_COMMIT: "There was nothing to write.",
    ErrorKind.TAG_PREVIOUSLY_DELETED: "A tag's name is used only once: choose another.",
    ErrorKind.BAD_SNAPSHOT_CHAIN_FOR_DIFF: (
        "A diff goes from a snapshot to one of its descendants: "
        "swap the two, or compare each with a common ancestor."
    ),
    ErrorKind.PARENT_DIRECTORY_NOT_CLEAN: "Give an empty or new place.",
}


_INPUT_CODES: Final = {
    Reason.FAILED: ExitCode.FAILURE,
    Reason.USAGE: ExitCode.USAGE,
    Reason.NOT_FOUND: ExitCode.NOT_FOUND,
    Reason.CONFLICT: ExitCode.CONFLICT,
}


def _code_of(error: IcechunkError) -> ExitCode:
    match error:
        case NotFoundError():
            return ExitCode.NOT_FOUND
        case ConflictError() | AlreadyExistsError() | ReadOnlyError() | SessionStateError():
            return ExitCode.CONFLICT
        case InvalidInputError():
            return ExitCode.USAGE
        case _:
            return ExitCode.FAILURE


def _of_operating_system(error: OSError) -> Failure:
    # A bare OSError of the interpreter names the file; its number alone would not help anybody.
    where = f": {error.filename}" if error.filename else ""
    text = (error.strerror or str(error) or type(error).__name__).lower()
    if isinstance(error, FileNotFoundError):
        return Failure(message=f"{text}{where}", hint=None, code=ExitCode.NOT_FOUND)
    return Failure(message=f"{text}{where}", hint=None, code=ExitCode.FAILURE)


def failure_of(error: BaseException) -> Failure:
    """Return what to show and which code to exit with for an exception.

    Parameters
    ----------
    error : BaseException
        Whatever a command raised.

    Returns
    -------
    Failure
        The message is never empty.
    """
    for link in _chain(error):
        if isinstance(link, CommandError):
            return link.failure
        if isinstance(link, OSError) and link.errno in _OS_HINTS:
            what, hint = _OS_HINTS[link.errno]
            where = f": {error}" if isinstance(error, IcechunkError) else ""
            if (link.strerror or what).lower() in where.lower():
                what, where = where.removeprefix(": "), ""  # the error has said it
            return Failure(message=f"{what}{where}", hint=hint, code=ExitCode.FAILURE)
    for link in _chain(error):
        if isinstance(link, InputError):
            return Failure(message=link.what, hint=link.hint, code=_INPUT_CODES[link.reason])
        if isinstance(link, IcechunkError):
            advice = _HINTS.get(link.kind)
            return Failure(message=link.message, hint=advice, code=_code_of(link))
    return _of_others(error)


def _with_type(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of_others(error: BaseException) -> Failure:
    code = ExitCode.FAILURE
    match error:
        case OSError():
            return _of_operating_system(error)
        case MemoryError():
            hint = "Use smaller chunks (--chunks), or fewer workers."
            return Failure(message="out of memory", hint=hint, code=code)
        case _ if type(error).__name__ == "KilledWorker":  # dask's; not imported for its name
            hint = "Workers that die mostly lack memory: smaller --chunks, or fewer --workers."
            return Failure(message=f"a dask worker died: {error}", hint=hint, code=code)
        case ImportError():
            return Failure(message=str(error), hint=None, code=code)
        case _:
            *_, root = _chain(error)
            message = _with_type(error)
            if root is not error:
                message += f"\ncaused by {_with_type(root)}"
            hint = "Run the command again with --debug to see where it came from."
            return Failure(message=message, hint=hint, code=code)
