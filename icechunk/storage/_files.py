"""Files that hold objects: blocking calls, each of which leaves the old object or the new one.

Source: specification section 1.2. Keys map to paths. What replaces an object, or may meet another
writer of its key, goes to a temporary name in the same directory and is moved into place, so a
process killed anywhere leaves the old object or the new one. Temporary names
(``<name>#<digits>``) are never listed, here and by the object-store library that the reference
implementation uses.

A plain write of a new object goes straight to its name, which saves a third of the time of a small
chunk. Its key is a random id that nothing leads to before the write has ended: chunks, manifests
and snapshots are named by files written later, and in the end by the conditional write of what
holds the branch. So a process killed on the way leaves a part of an object that no reader asks
for, garbage like whole objects of a commit that never happened.

Nothing is flushed to the disk explicitly: after a power failure the file system decides.
"""

# A pathlib call costs as much as reading a small file.
# ruff: noqa: PTH103, PTH105, PTH108, PTH110, PTH116, PTH120

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage._file_lock import locked
from icechunk.storage._line import Line
from icechunk.storage.base import Version
from icechunk.storage.objects import (
    ByteRange,
    LostRaceError,
    ObjectInfo,
    ReadCondition,
    check_key,
    check_readable,
    is_ordinary_key,
    object_not_found,
    range_beyond_end,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LOCK_NAME: Final = ".icechunk-lock#0"
_LOCK_TIMEOUT_SECONDS: Final = 60.0
_BINARY: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_READ: Final = os.O_RDONLY | _BINARY
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
# Smaller ones are read and written at once, by whoever asks; these in a thread.
LARGE_BYTES: Final = 1 << 20
_pread: Final = getattr(os, "pread", None)  # not on Windows
_EXTEND: Final = os.O_WRONLY | _BINARY
_NO_LINKS: Final = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK)
# On Windows a file that somebody reads at this moment can be neither replaced nor deleted.
_REPLACE_TRIES: Final = 50 if os.name == "nt" else 1
_REPLACE_WAIT_SECONDS: Final = 0.01

_ADVICE: Final = {
    errno.ENOSPC: "the disk is full: free some space, then repeat the operation",
    errno.EDQUOT: "the disk quota is used up: free some space, then repeat the operation",
    errno.EACCES: "permission denied: check who owns the directory and its access rights",
    errno.EPERM: "permission denied: check who owns the directory and its access rights",
    errno.EROFS: "the file system is read-only: keep the repository where it can be written",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.ENAMETOOLONG: "the path is too long for this file system",
    errno.ENOTDIR: "a file is where a directory should be: check the path",
}


class Files:
    """The objects below a directory.

    Parameters
    ----------
    root : str
        Absolute path; made when the first object is written.
    """

    __slots__ = ("_base", "root", "versions")

    def __init__(self, root: str) -> None:
        self.root = root
        self.versions = Versions()
        self._base = root if root.endswith(os.sep) else root + os.sep

    @property
    def description(self) -> str:
        """Return ``local:`` and the path."""
        return f"local:{self.root}"

    # ---------------------------------------------------------------- reading

    def open(self, key: str) -> tuple[int, int]:
        """Open an object; return its descriptor and its size in bytes."""
        try:
            fd = os.open(self._readable_path(key), _READ)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise object_not_found(key, self.description) from error
        except OSError as error:
            raise self._error("read", key, error) from error
        return fd, os.fstat(fd).st_size

    def read_small(self, key: str, byte_range: ByteRange) -> bytes | None:
        """Return a small range of an object; None for what must be looked at more closely."""
        wanted = byte_range.stop - byte_range.start
        if _pread is None or not 0 < wanted < LARGE_BYTES:
            return None
        try:
            fd = os.open(self._readable_path(key), _READ)
        except OSError:
            return None
        try:
            data = _pread(fd, wanted, byte_range.start)
        except OSError:
            return None
        finally:
            os.close(fd)
        return data if len(data) == wanted else None

    def read(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> bytes:
        """Return an object, or exactly one range of it, if it is what ``condition`` says."""
        fd, size = self.open(key)
        return self.read_and_close(key, fd, size, byte_range, condition)

    def read_and_close(
        self,
        key: str,
        fd: int,
        size: int,
        byte_range: ByteRange | None,
        condition: ReadCondition | None,
    ) -> bytes:
        """Return an open object of ``size`` bytes, or one range of it, and close it."""
        try:
            if condition is not None:
                self._check(key, os.fstat(fd), condition)
            if byte_range is None:
                return _read(fd, size)
            if byte_range.stop > size:
                raise range_beyond_end(key, self.description, byte_range, size)
            if byte_range.start:
                os.lseek(fd, byte_range.start, os.SEEK_SET)
            return _read(fd, byte_range.stop - byte_range.start)
        except IsADirectoryError as error:
            raise object_not_found(key, self.description) from error
        except OSError as error:
            raise self._error("read", key, error) from error
        finally:
            os.close(fd)

    def _check(self, key: str, status: os.stat_result, condition: ReadCondition) -> None:
        modified_us = status.st_mtime_ns // 1000
        # Which file, when written, how long: what web servers make entity tags of files from.
        etag = f"{status.st_ino:x}-{modified_us:x}-{status.st_size:x}"
        condition.check(key, self.description, etag=etag, last_modified_us=modified_us)

    def head(self, key: str) -> ObjectInfo:
        """Return size and time of an object."""
        try:
            status = os.stat(self._readable_path(key))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise object_not_found(key, self.description) from error
        except OSError as error:
            raise self._error("read", key, error) from error
        if stat.S_ISDIR(status.st_mode):
            raise object_not_found(key, self.description)
        return ObjectInfo(
            key=key, size_bytes=status.st_size, last_modified_us=status.st_mtime_ns // 1000
        )

    def walk(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key starts with ``prefix``."""
        folder, _, start = prefix.rpartition("/")
        if ".." in folder.split("/"):
            raise InvalidInputError(f"not a storage prefix: {prefix!r}", ErrorKind.BAD_PREFIX)
        pending = [(self._base + folder, f"{folder}/" if folder else "", start)]
        while pending:
            directory, parent, start = pending.pop()
            try:
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if not entry.name.startswith(start):
                            continue
                        if entry.is_dir():
                            pending.append((entry.path, f"{parent}{entry.name}/", ""))
                            continue
                        if _is_hidden(entry.name):
                            continue
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            status = entry.stat()
                            yield ObjectInfo(
                                key=parent + entry.name,
                                size_bytes=status.st_size,
                                last_modified_us=status.st_mtime_ns // 1000,
                            )
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._error("list", parent, error) from error

    # ---------------------------------------------------------------- writing

    def put(self, key: str, data: bytes | memoryview) -> None:
        """Write an object, there or not."""
        path = self._path(key)
        if self._write_new(key, path, data):
            return
        temporary = self._write_temporary(key, path, data)
        try:
            _replace(temporary, path)
        except OSError as error:
            _remove_quietly(temporary)
            raise self._error("write", key, error) from error

    def link(self, key: str, of: str, size: int) -> bool:
        """Give an object of a known size a second key; False, and nothing done, where that fails.

        Objects are replaced by moving a file into place, so the old content keeps the new key.
        """
        path = self._path(key)
        try:
            os.link(self._path(of), path)
            if os.stat(path).st_size == size:
                return True
        except OSError:
            return False
        _remove_quietly(path)
        return False

    def extend(self, key: str, offset: int, data: bytes | memoryview) -> None:
        """Write bytes into an object that is there, from an offset that nobody wrote yet."""
        try:
            fd = os.open(self._path(key), _EXTEND)
            try:
                os.lseek(fd, offset, os.SEEK_SET)
            except BaseException:
                os.close(fd)
                raise
            _write_and_close(fd, data)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise object_not_found(key, self.description) from error
        except OSError as error:
            raise self._error("write", key, error) from error

    def create(self, key: str, data: bytes | memoryview) -> None:
        """Write an object that is not there yet."""
        path = self._path(key)
        if os.path.lexists(path):
            raise LostRaceError(key)
        temporary = self._write_temporary(key, path, data)
        try:
            os.link(temporary, path)
        except FileExistsError as error:
            raise LostRaceError(key) from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise self._error("write", key, error) from error
            self._create_without_links(key, path, temporary)
        finally:
            _remove_quietly(temporary)

    def _create_without_links(self, key: str, path: str, temporary: str) -> None:
        """Create the object where there are no hard links (FAT, some network mounts).

        The lock makes looking and moving one step for all who use this package.
        """
        try:
            with self._locked():
                if os.path.lexists(path):
                    raise LostRaceError(key)
                _replace(temporary, path)
        except OSError as error:
            raise self._error("write", key, error) from error

    def update(self, key: str, data: bytes | memoryview, version: Version) -> None:
        """Replace an object that is still the version that was read."""
        path = self._path(key)
        if not os.path.exists(path):  # the root may be missing, and with it the lock's place
            raise LostRaceError(key)
        # Written before the lock is taken, so that it is held for a read and a rename only.
        temporary = self._write_temporary(key, path, data)
        try:
            with self._locked():
                self._require_version(key, path, version)
                _replace(temporary, path)
        except BaseException as error:
            _remove_quietly(temporary)
            if isinstance(error, OSError):
                raise self._error("write", key, error) from error
            raise

    def _require_version(self, key: str, path: str, version: Version) -> None:
        try:
            fd = os.open(path, _READ)
        except FileNotFoundError as error:
            raise LostRaceError(key) from error
        try:
            current = _read(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        if self.versions.find(current) != version:
            raise LostRaceError(key)

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, those that are there."""
        for key in keys:
            try:
                os.unlink(self._path(key))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise self._error("delete", key, error) from error

    def _write_temporary(self, key: str, path: str, data: bytes | memoryview) -> str:
        while True:
            temporary = f"{path}#{int.from_bytes(os.urandom(8))}"
            if self._write_new(key, temporary, data):
                return temporary

    def _write_new(self, key: str, path: str, data: bytes | memoryview) -> bool:
        """Write a file that is not there yet; False, and nothing written, when it is."""
        try:
            try:
                fd = os.open(path, _WRITE, 0o666)
            except FileNotFoundError:
                with contextlib.suppress(FileExistsError):
                    os.makedirs(os.path.dirname(path))
                fd = os.open(path, _WRITE, 0o666)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._error("write", key, error) from error
        try:
            _write_and_close(fd, data)
        except BaseException as error:
            _remove_quietly(path)
            if isinstance(error, OSError):
                raise self._error("write", key, error) from error
            raise
        return True

    # ---------------------------------------------------------------- helpers

    def _readable_path(self, key: str) -> str:
        if not is_ordinary_key(key):
            check_readable(key)
        return self._base + key

    def _path(self, key: str) -> str:
        if not is_ordinary_key(key):
            check_key(key)
            if _is_hidden(key.rpartition("/")[2]):
                raise InvalidInputError(
                    f"not a storage key: {key!r} is the form of a temporary file's name",
                    ErrorKind.BAD_PREFIX,
                )
        return self._base + key

    def line(self, name: str) -> Line:
        """Return a place in the line in which writers wait for ``name``."""
        return Line(self._base, name)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with locked(self._base + _LOCK_NAME, _LOCK_TIMEOUT_SECONDS):
            yield

    def _error(self, verb: str, key: str, error: OSError) -> StorageError:
        advice = _ADVICE.get(error.errno or 0, "see the cause above")
        return StorageError(
            f"cannot {verb} {self._base + key}: {error.strerror or error}; {advice}", ErrorKind.IO
        )


def version_of(data: bytes | memoryview) -> Version:
    """Return the version of a content: its hash."""
    return Version(hashlib.blake2b(data, digest_size=16).hexdigest())


class Versions:
    """Finds the version of a content, without hashing what was just hashed.

    One object is asked for at a time, and mostly it is what it was: a commit reads the same
    content three times.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: tuple[bytes, Version] | None = None

    def find(self, data: bytes | memoryview) -> Version:
        """Return the version of a content: its hash."""
        known = self._known
        if known is not None and known[0] == data:
            return known[1]
        version = version_of(data)
        if isinstance(data, bytes):
            self._known = (data, version)
        return version


def _is_hidden(name: str) -> bool:
    """Tell whether a file name is a temporary's: digits, and only those, after the first ``#``."""
    _, mark, suffix = name.partition("#")
    return mark == "#" and suffix.isascii() and suffix.isdigit()


def _read(fd: int, size: int) -> bytes:
    data = os.read(fd, size)
    if len(data) == size:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and parts[-1]:
        parts.append(os.read(fd, missing))
        missing -= len(parts[-1])
    if missing:
        raise OSError(errno.EIO, "the file became shorter while it was read")
    return b"".join(parts)


def _write_and_close(fd: int, data: bytes | memoryview) -> None:
    try:
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        written = os.write(fd, data)
        while written < size:
            written += os.write(fd, memoryview(data).cast("B")[written:])
    finally:
        os.close(fd)


def _replace(temporary: str, path: str) -> None:
    for attempt in range(1, _REPLACE_TRIES + 1):
        try:
            os.replace(temporary, path)
        except PermissionError:
            if attempt == _REPLACE_TRIES:
                raise
            time.sleep(_REPLACE_WAIT_SECONDS)
        else:
            return


def _remove_quietly(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
