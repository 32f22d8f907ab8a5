"""A lock on a file: between the threads of this process and the processes of this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import TYPE_CHECKING

from icechunk._io import fork
from icechunk.errors import ErrorKind, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl

    def try_lock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except ImportError:  # pragma: no cover - Windows
    import msvcrt

    def try_lock(fd: int) -> None:
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]


_BUSY = (errno.EAGAIN, errno.EACCES, errno.EDEADLK, errno.EINTR)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
_FIRST_WAIT_SECONDS = 0.0002
_LONGEST_WAIT_SECONDS = 0.01


class _Threads:
    """One lock for all threads: some file systems lock per process only (NFS)."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        fork.reset_in_child(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()


_threads = _Threads()


@contextlib.contextmanager
def locked(path: str, timeout_seconds: float) -> Iterator[None]:
    """Hold the lock on the file at ``path``, which is created and never deleted.

    Parameters
    ----------
    path : str
        Its directory exists.
    timeout_seconds : float
        How long another holder is waited for.

    Raises
    ------
    StorageError
        Kind ``throttled`` when the lock was not free in time; ``storage-config`` when the file
        system has no locks.
    OSError
        The file cannot be opened.

    Notes
    -----
    The operating system drops the lock when the holder dies, however it dies.
    """
    deadline = time.monotonic() + timeout_seconds
    threads = _threads.lock
    if not threads.acquire(timeout=timeout_seconds):
        raise _too_long(path, timeout_seconds)
    try:
        fd = _open_locked(path, deadline, timeout_seconds)
        try:
            yield
        finally:
            os.close(fd)
    finally:
        threads.release()


def _open_locked(path: str, deadline: float, timeout_seconds: float) -> int:
    wait_seconds = _FIRST_WAIT_SECONDS
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            try_lock(fd)
            if os.fstat(fd).st_nlink > 0:
                return fd
        except OSError as error:
            os.close(fd)
            if error.errno in _NO_LOCKS:
                raise StorageError(
                    f"the file system of {path} has no file locks, so commits of several processes "
                    "could overwrite each other. Keep the repository elsewhere, or, if only one "
                    "process writes it, use fsspec_storage('file://...', single_writer=True)",
                    ErrorKind.STORAGE_CONFIG,
                ) from error
            if error.errno not in _BUSY:
                raise
            if time.monotonic() > deadline:
                raise _too_long(path, timeout_seconds) from error
            time.sleep(wait_seconds)
            wait_seconds = min(wait_seconds * 2, _LONGEST_WAIT_SECONDS)
        else:
            os.close(fd)  # locked, but somebody deleted the file: lock its successor


def _too_long(path: str, timeout_seconds: float) -> StorageError:
    return StorageError(
        f"the lock {path} was not free within {timeout_seconds:g} s; another process holds it. "
        "Look for one that hangs, then try again",
        ErrorKind.THROTTLED,
    )
