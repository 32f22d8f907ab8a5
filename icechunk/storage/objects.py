"""Objects of a storage: what is said of them, ranges, conditions, keys, and how requests end."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from icechunk.errors import ErrorKind, InvalidInputError, StorageError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectInfo:
    """What a listing says about one object.

    Parameters
    ----------
    key : str
        Relative to the root of the repository.
    size_bytes : int
        Length of the content.
    last_modified_us : int
        Microseconds since the Unix epoch, by the storage's clock; some have whole seconds only.
    """

    key: str
    size_bytes: int
    last_modified_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteRange:
    """A half-open range of an object's bytes.

    Parameters
    ----------
    start, stop : int
        In bytes, ``0 <= start <= stop``; the object must reach to ``stop``.
    """

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.stop:
            raise InvalidInputError(
                f"not a byte range: {self.start} to {self.stop}", ErrorKind.INVALID_BYTE_RANGE
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCondition:
    """What an object must still be for reading it to count.

    Parameters
    ----------
    etag : str or None
        Entity tag of the object, with or without its quotes.
    unmodified_since_us : int or None
        Latest time of its last write, in microseconds since the Unix epoch.
    """

    etag: str | None = None
    unmodified_since_us: int | None = None

    def check(
        self, key: str, place: str, *, etag: str | None, last_modified_us: int | None
    ) -> None:
        """Refuse an object that is not the one meant.

        Parameters
        ----------
        key, place : str
            For the message.
        etag : str or None
            What it has; None where the storage knows of none, which matches nothing.
        last_modified_us : int or None
            When it was last written; None where that is not known, which is too late.

        Raises
        ------
        ObjectChangedError
            It has another tag, or was written later.
        """
        if self.etag is not None and (etag is None or _bare(etag) != _bare(self.etag)):
            has = "the storage gives no etag to compare" if etag is None else f"its etag is {etag}"
            raise ObjectChangedError(key, f"{key!r} in {place} is not {self.etag}: {has}")
        limit = self.unmodified_since_us
        if limit is not None and (last_modified_us is None or last_modified_us > limit):
            when = "at an unknown time" if last_modified_us is None else _shown(last_modified_us)
            raise ObjectChangedError(
                key, f"{key!r} in {place} was modified {when}, after {_shown(limit)}"
            )


def _bare(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _shown(when_us: int) -> str:
    return moment_of(when_us).isoformat()


def moment_of(microseconds: int) -> datetime:
    """Return a time since the Unix epoch as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=microseconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageObjectInfo:
    """An object of a storage, as `Storage.list_objects_metadata` reports it.

    Parameters
    ----------
    key : str
        Relative to the prefix that was listed.
    size_bytes : int
        Length of the content.
    created_at : datetime
        When it was last written, in UTC.
    """

    key: str
    size_bytes: int
    created_at: datetime


class LostRaceError(StorageError):
    """A conditional write found another version than the one it relied on.

    Parameters
    ----------
    key : str
        The object that was not written.
    message : str or None
        Text; made from the key when omitted.
    """

    def __init__(self, key: str, message: str | None = None) -> None:
        self.key = key
        super().__init__(
            message or f"somebody else wrote {key!r} first; read it again and repeat the change"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.key, self.message), self.__dict__)


class ObjectChangedError(StorageError):
    """An object is not the one that a `ReadCondition` describes.

    Parameters
    ----------
    key : str
        The object.
    message : str or None
        Text; made from the key when omitted.
    """

    default_kind = ErrorKind.VIRTUAL_CHUNK_MODIFIED

    def __init__(self, key: str, message: str | None = None) -> None:
        self.key = key
        super().__init__(message or f"{key!r} is not the object that was meant: it has changed")

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.key, self.message), self.__dict__)


class UnknownOutcomeError(StorageError):
    """A conditional write whose reply was lost, and reading back did not settle what happened.

    Parameters
    ----------
    key : str
        The object that may or may not have been written.
    message : str or None
        Text; made from the key when omitted.
    """

    def __init__(self, key: str, message: str | None = None) -> None:
        self.key = key
        super().__init__(
            message
            or f"the reply to writing {key!r} was lost, and it is not known whether the write took "
            "place; check the state of the repository before repeating the operation"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.key, self.message), self.__dict__)


def object_not_found(key: str, place: str) -> StorageError:
    """Return the error for a missing object."""
    return StorageError(f"no object {key!r} in {place}", ErrorKind.OBJECT_NOT_FOUND)


def range_beyond_end(key: str, place: str, byte_range: ByteRange, size_bytes: int) -> StorageError:
    """Return the error for a range that an object is too short for."""
    return StorageError(
        f"object {key!r} in {place} has {size_bytes} bytes; bytes {byte_range.start} to "
        f"{byte_range.stop} were asked for. It was cut short or replaced from outside",
        ErrorKind.INVALID_OBJECT_SIZE,
    )


# Nearly every key; anything else is looked at more closely.
is_ordinary_key: Final = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*").fullmatch


def check_key(key: str) -> None:
    """Refuse a key that would not stay below the root or does not name one object.

    Raises
    ------
    InvalidInputError
        Kind ``bad-prefix``; an empty part, ``.`` or ``..``, a NUL, or a leading slash.
    """
    if is_ordinary_key(key):
        return
    if "\0" in key or any(part in {"", ".", ".."} for part in key.split("/")):
        raise InvalidInputError(f"not a storage key: {key!r}", ErrorKind.BAD_PREFIX)


def check_readable(key: str) -> None:
    """Refuse a key that would not stay below the root.

    Reading is allowed what writing is not, because virtual chunks are in files of others.

    Raises
    ------
    InvalidInputError
        Kind ``bad-prefix``; an empty key, a part ``..``, or a NUL.
    """
    if not key or "\0" in key or ".." in key.split("/"):
        raise InvalidInputError(f"not a storage key: {key!r}", ErrorKind.BAD_PREFIX)
