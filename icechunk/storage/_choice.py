"""Which library makes the requests to a service that two can reach."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from icechunk._display import scrubbed
from icechunk._io import fork
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

OBSTORE: Final = "obstore"


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


def check_address(option: str, url: str) -> None:
    """Refuse the URL of a server that neither library could make sense of.

    Parameters
    ----------
    option : str
        Where the user gave it.
    url : str
        What was given.

    Raises
    ------
    InvalidInputError
        Kind ``storage-config``; it does not begin with ``http://`` or ``https://`` and a host.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme.lower() in {"http", "https"} and bool(parts.hostname)
        good = good and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is no number
        good = False
    if not good:
        raise InvalidInputError(
            f"{option} is not the URL of a server: {scrubbed(url)!r}; expected "
            "https://host or http://host:port",
            ErrorKind.STORAGE_CONFIG,
        )


class UnspeakableError(Exception):
    """obstore has no words for this; nothing was done yet, so the other library can."""


async def use_either(
    backend: str,
    obstacle: str | None,
    *,
    fast: str,
    by_obstore: Callable[[Any], Awaitable[T]],
    by_other: Callable[[], Awaitable[T]],
) -> T:
    """Do something by obstore wherever it can, else by the other library of the service.

    Parameters
    ----------
    backend : str
        What the user asked for.
    obstacle : str or None
        What is wanted that obstore cannot do.
    fast : str
        Module that sees obstore, imported when it is needed.
    by_obstore : callable
        Given the module; may raise `UnspeakableError`.
    by_other : callable
        The same by the other library.
    """
    can = _is_installed() and not _forks.lost and obstacle is None
    if can and backend in {"auto", OBSTORE}:
        try:
            return await by_obstore(importlib.import_module(fast))
        except UnspeakableError:
            pass
    return await by_other()
