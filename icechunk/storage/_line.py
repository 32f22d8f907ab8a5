"""A line in which the writers of a directory wait for their turn: processes and threads alike.

A place in it is an empty file, hidden from listings, with the time in its name and a lock on it
for as long as its owner lives. Whoever has the oldest one is first. The line is courtesy and not
safety: what makes commits safe is the conditional write, so whoever is held up for too long by one
who does nothing goes ahead, and a file system without locks has no line.
"""

# A pathlib call costs as much as reading a small file.
# ruff: noqa: PTH108, PTH208

from __future__ import annotations

import os
import time
import zlib
from typing import TYPE_CHECKING, Final, Self

from icechunk._io.loop import sleep
from icechunk.storage._file_lock import try_lock

if TYPE_CHECKING:
    from types import TracebackType

# How long a first one who gets nowhere holds up the second; the third waits twice as long.
_PATIENCE_SECONDS: Final = 1.0
_POLL_SECONDS: Final = 0.002
_LONGEST_POLL_SECONDS: Final = 0.02
_TICKET: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
_LOOK: Final = os.O_RDWR | getattr(os, "O_CLOEXEC", 0)
_DIGITS: Final = 4


class Line:
    """One place in a line; leaves it at the end of its ``with`` block.

    Parameters
    ----------
    root : str or None
        The directory, with a separator at its end; None where there can be no line.
    name : str
        What is waited for, such as a branch: each has its own line.
    """

    __slots__ = ("_fd", "_prefix", "_root", "_ticket")

    def __init__(self, root: str | None, name: str) -> None:
        self._root = root or ""
        self._prefix = f".icechunk-line-{zlib.crc32(name.encode()):08x}#"
        self._ticket: str | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ticket is not None:
            os.close(self._fd)
            self._remove(self._ticket)
            self._ticket = None

    async def turn(self, *, lost: bool) -> bool:
        """Wait in line, if there is one.

        Parameters
        ----------
        lost : bool
            Whether a race was lost before. Then a place is taken; else only behind others.

        Returns
        -------
        bool
            True when it is our turn. False when nobody waits, or there can be no line here.
        """
        if self._ticket is None and (lost or self._waiting()):
            self._take_place()
        if self._ticket is None:
            return False
        first, since = "", time.monotonic()
        while True:
            tickets = self._waiting()
            if self._ticket not in tickets:  # somebody tidied up too well
                return True
            before = tickets.index(self._ticket)
            if before and self._is_abandoned(tickets[0]):
                self._remove(tickets[0])
                continue
            now = time.monotonic()
            if tickets[0] != first:
                first, since = tickets[0], now
            if not before or now - since > before * _PATIENCE_SECONDS:
                return True
            await sleep(min(before * _POLL_SECONDS, _LONGEST_POLL_SECONDS))

    def _waiting(self) -> list[str]:
        """Return the tickets, oldest first."""
        if not self._root:
            return []
        try:
            names = os.listdir(self._root)
        except OSError:
            return []
        return sorted(name for name in names if name.startswith(self._prefix))

    def _take_place(self) -> None:
        if not self._root:
            return
        draw = int.from_bytes(os.urandom(2)) % 10**_DIGITS
        ticket = f"{self._prefix}{time.time_ns():020d}{draw:0{_DIGITS}d}"
        try:
            fd = os.open(self._root + ticket, _TICKET, 0o666)
        except OSError:
            return
        try:
            try_lock(fd)
        except OSError:
            os.close(fd)
            self._remove(ticket)
        else:
            self._ticket, self._fd = ticket, fd

    def _is_abandoned(self, ticket: str) -> bool:
        """Tell whether the owner of a place died: the operating system then drops its lock."""
        try:
            fd = os.open(self._root + ticket, _LOOK)
        except OSError:
            return False
        try:
            try_lock(fd)
        except OSError:
            return False
        else:
            return True
        finally:
            os.close(fd)

    def _remove(self, ticket: str) -> None:
        try:
            os.unlink(self._root + ticket)
        except OSError:
            return
