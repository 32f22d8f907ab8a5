"""Which library makes the requests to a service that two can reach."""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Final, Literal, TypeAlias

from icechunk._io import fork
from icechunk.errors import ErrorKind, InvalidInputError

OBSTORE: Final = "obstore"

Library: TypeAlias = Literal["fsspec", "obstore"]
"""What makes requests: the fsspec file system of the service (s3fs, gcsfs, adlfs), or obstore."""


class _Forks:
    """Knows whether obstore works in this process.

    Its threads do not survive a fork, and what it starts in a child then waits for ever; so a child
    forked from a process that had loaded it makes its requests in the other way.
    """

    def __init__(self) -> None:
        self.lost = False
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        self.lost = self.lost or OBSTORE in sys.modules


_forks: Final = _Forks()


@functools.cache
def _is_installed() -> bool:
    return importlib.util.find_spec(OBSTORE) is not None


def check_backend(backend: str, other: str, obstacle: str | None) -> None:
    """Refuse a choice of library that cannot be kept.

    Parameters
    ----------
    backend : str
        What the user asked for.
    other : str
        The library of this service beside obstore.
    obstacle : str or None
        What of the other arguments obstore cannot do.

    Raises
    ------
    InvalidInputError
        Kind ``storage-config``; no such library, not installed, or it cannot do what is asked.
    """
    if backend not in {"auto", other, OBSTORE}:
        raise InvalidInputError(
            f"backend must be 'auto', {other!r} or 'obstore', not {backend!r}",
            ErrorKind.STORAGE_CONFIG,
        )
    if backend != OBSTORE:
        return
    if not _is_installed():
        raise InvalidInputError(
            "backend='obstore' needs the obstore package: pip install 'icechunk[obstore]'",
            ErrorKind.STORAGE_CONFIG,
        )
    if obstacle is not None:
        raise InvalidInputError(
            f"obstore cannot do {obstacle}; pass backend={other!r} or leave backend out",
            ErrorKind.STORAGE_CONFIG,
        )


def chosen_library(backend: str, obstacle: str | None) -> Library:
    """Return which library to use in this process: obstore wherever it can do the work."""
    can = _is_installed() and not _forks.lost and obstacle is None
    return "obstore" if can and backend in {"auto", OBSTORE} else "fsspec"


class UnspeakableError(Exception):
    """obstore has no words for this key; nothing was requested yet, so the other library can."""
