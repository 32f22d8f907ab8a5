"""What can be wrong with something that is to be written."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from icechunk.errors import ErrorKind, InvalidInputError


class Reason(StrEnum):
    """What kind of problem it is."""

    FAILED = "failed"
    """It cannot be read, or something that reads it is missing."""

    USAGE = "usage"
    """What was asked for makes no sense for it."""

    NOT_FOUND = "not-found"
    """There is nothing."""

    CONFLICT = "conflict"
    """It does not go with the others, or with what is there."""


class InputError(InvalidInputError):
    """Something that is to be written cannot be.

    Parameters
    ----------
    what : str
        What went wrong, naming the source or variable.
    hint : str or None
        What to do next.
    reason : Reason
        What kind of problem it is.
    """

    default_kind = ErrorKind.NOT_ALLOWED

    def __init__(self, what: str, hint: str | None = None, reason: Reason = Reason.FAILED) -> None:
        self.what = what
        self.hint = hint
        self.reason = reason
        super().__init__(what if hint is None else f"{what}. {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.what, self.hint, self.reason), self.__dict__)
