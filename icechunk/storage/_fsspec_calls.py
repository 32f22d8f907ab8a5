"""Calling file systems of fsspec: where, how many at once, and again after a lost connection."""

from __future__ import annotations

import asyncio
import contextlib
import ftplib
import functools
import os
import threading
from typing import TYPE_CHECKING, Any, Final

import fsspec
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from icechunk._display import scrubbed
from icechunk._io import loop
from icechunk._io.limits import Limiter
from icechunk._io.registry import Registry
from icechunk.errors import ErrorKind, InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.storage.retry import Backoff

# Of those without asynchronous methods, the ones that several threads may use at once. The others
# have one connection, or one position in one open file, and would mix up whose bytes are whose.
_FOR_MANY_THREADS: Final = frozenset({"file", "local", "memory", "zip"})
_LOST: Final = (ConnectionError, TimeoutError, EOFError, ftplib.error_temp)
_TURNS_KEPT: Final = 16


class _Turn:
    """Lets one call at a time through to a file system."""

    def __init__(self) -> None:
        self.limiter = Limiter(1)  # waits without holding a thread up
        self._lock = threading.Lock()  # a call whose caller has gone still runs

    def call(self, method: Any, *arguments: Any, **options: Any) -> Any:
        """Call a method when no other is under way."""
        with self._lock:
            return method(*arguments, **options)


_turns: Final[Registry[object, _Turn]] = Registry(_TURNS_KEPT)


class FileSystem:
    """A file system of fsspec, for tasks of any loops and threads.

    Parameters
    ----------
    url : str
        Of the root; may be chained.
    options : mapping
        For the file system's constructor.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self._url = url
        self._options = options
        self.root = self._open()

    def _open(self) -> str:
        where = f"{scrubbed(self._url)} with fsspec {fsspec.__version__}"
        try:
            opened, root = url_to_fs(self._url, **self._options)
        except (ValueError, ImportError, TypeError) as error:
            raise InvalidInputError(
                f"cannot open {where}: {error}", ErrorKind.CANNOT_PARSE_URL
            ) from error
        except Exception as error:  # some connect at once, and their errors have no common base
            raise StorageError(
                f"cannot connect to {where}: {type(error).__name__}: {error}; check the address, "
                "the options and the network"
            ) from error
        self._process = os.getpid()
        self._inner = opened
        innermost = _innermost(opened)
        self.protocols = _protocols(opened)
        self.is_async = _is_async(opened)
        self._turn: _Turn | None = None
        if not self.is_async and not _protocols(innermost) & _FOR_MANY_THREADS:
            # fsspec hands the same object to everybody who asks for the same place
            self._turn = _turns.get((type(innermost), hash(innermost)), _Turn)
        return str(root)

    def forget(self) -> None:
        """Have the file system look anew, whatever it remembers of listings."""
        self._inner.invalidate_cache()

    async def call(self, backoff: Backoff, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method where it may block or wait; errors come as they are.

        Parameters
        ----------
        backoff : Backoff
            How often to call again when the connection was lost, unless it is for creating.
        method : str
            Name without an underscore.
        *arguments, **options
            For the method.
        """
        delays = backoff.delays()
        while True:
            if self._process != os.getpid():  # forked: its connections are the parent's
                self._open()
            used = self._inner
            try:
                return await self._called(used, method, *arguments, **options)
            except Exception as error:
                delay = next(delays, None)
                if not _is_lost(error) or delay is None or options.get("mode") == "create":
                    raise
            await backoff.sleep(delay)
            if not self.is_async and self._inner is used:
                with contextlib.suppress(StorageError):  # the next call tells
                    await loop.in_thread(self._reconnect, used)

    def _reconnect(self, used: Any) -> None:
        type(_innermost(used)).clear_instance_cache()
        self._open()

    async def _called(self, used: Any, method: str, *arguments: Any, **options: Any) -> Any:
        if self.is_async:
            # On fsspec's own loop, because that is the one whose end its file systems know of: each
            # closes its connections in its own way.
            waiting = getattr(used, f"_{method}")(*arguments, **options)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(waiting, used.loop))
        call = functools.partial(getattr(used, method), *arguments, **options)
        turn = self._turn
        if turn is None:
            return await loop.in_thread(call)
        async with turn.limiter:
            return await loop.in_thread(turn.call, call)


def _is_lost(error: Exception) -> bool:
    """Tell whether a connection broke, so that another may do."""
    if isinstance(error, _LOST):
        return True
    return type(error).__name__ == "SSHException" or str(error) == "Socket is closed"  # paramiko


def _protocols(filesystem: Any) -> frozenset[str]:
    protocol = filesystem.protocol
    return frozenset({protocol} if isinstance(protocol, str) else protocol)


def _innermost(filesystem: Any) -> Any:
    """Return the last file system of a chain."""
    while isinstance(getattr(filesystem, "fs", None), AbstractFileSystem):
        filesystem = filesystem.fs
    return filesystem


def _is_async(filesystem: Any) -> bool:
    """Tell whether all the file systems of a chain have asynchronous methods."""
    while filesystem.async_impl and hasattr(filesystem, "fs"):
        filesystem = filesystem.fs
    return bool(filesystem.async_impl)
