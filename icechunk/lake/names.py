"""Names in a lake: ``org/name``, authors, and refs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final, Self

from icechunk.errors import ErrorKind, InvalidInputError

_PART: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NAME_VARIABLE: Final = "ICECHUNK_AUTHOR_NAME"
_EMAIL_VARIABLE: Final = "ICECHUNK_AUTHOR_EMAIL"


@dataclass(frozen=True, slots=True, order=True)
class RepoName:
    """The name of a repository in a lake.

    Parameters
    ----------
    org, repo : str
        Its two parts.
    """

    org: str
    repo: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return a name from ``"org/name"``.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-path``; not two parts of letters, digits, ``.``, ``_`` and ``-``, each
            starting with a letter or digit.

        Examples
        --------
        >>> RepoName.parse("ocean/sst").repo
        'sst'
        """
        org, slash, repo = text.partition("/") if isinstance(text, str) else ("", "", "")
        if not (slash and _PART.fullmatch(org) and _PART.fullmatch(repo)):
            raise InvalidInputError(
                f"not the name of a repository in a lake: {text!r}; expected 'org/name', each of "
                "letters, digits, '.', '_' and '-', at most 100 of them",
                ErrorKind.INVALID_PATH,
            )
        return cls(org, repo)

    def __str__(self) -> str:
        return f"{self.org}/{self.repo}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who commits; kept in the metadata of every commit made through a lake.

    Parameters
    ----------
    name : str or None
        Name.
    email : str or None
        E-mail address.
    """

    name: str | None = None
    email: str | None = None

    @classmethod
    def from_env(cls) -> Self:
        """Return who ``ICECHUNK_AUTHOR_NAME`` and ``ICECHUNK_AUTHOR_EMAIL`` name."""
        return cls(name=os.environ.get(_NAME_VARIABLE), email=os.environ.get(_EMAIL_VARIABLE))

    def __str__(self) -> str:
        return f"{self.name or 'unknown'}{f' <{self.email}>' if self.email else ''}"
