"""Files to refer to: where they are, and how to read them while they are looked at."""

from __future__ import annotations

import json
import os
import posixpath
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import fsspec
from fsspec.core import url_to_fs
from obspec_utils.registry import ObjectStoreRegistry

from icechunk.errors import ErrorKind, InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fsspec import AbstractFileSystem

_SCHEMES: Final = {"gcs": "gs", "s3a": "s3", "local": "file"}


@dataclass(frozen=True, slots=True)
class Source:
    """One file, or one directory of a Zarr store.

    Parameters
    ----------
    url : str
        Absolute, with a scheme.
    options : mapping
        For fsspec: how to get in.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def at(cls, where: str | os.PathLike[str], options: Mapping[str, Any] | None = None) -> Source:
        """Return the source at a local path, an ``s3://``, ``gs://`` or any fsspec URL.

        Raises
        ------
        InvalidInputError
            Kind ``cannot-parse-url``.
        """
        text = os.fspath(where)
        scheme, mark, rest = text.partition("://")
        if not mark:
            return cls(Path(text).absolute().as_uri(), options or {})
        if not rest or "::" in text:
            raise InvalidInputError(
                f"cannot refer to chunks in {text!r}: give a path, or a URL such as "
                "s3://bucket/file.nc; a chain of file systems is no place for chunks.",
                ErrorKind.CANNOT_PARSE_URL,
            )
        if scheme == "memory":
            raise InvalidInputError(
                f"cannot refer to {text!r}: whoever reads the references could not find what is in "
                "this process's memory. Write the file to a disk or a bucket first.",
                ErrorKind.CANNOT_PARSE_URL,
            )
        return cls(f"{_SCHEMES.get(scheme, scheme)}://{rest}", options or {})

    @property
    def scheme(self) -> str:
        """Scheme of the URL."""
        return self.url.partition("://")[0]

    @property
    def folder(self) -> str:
        """The URL of the directory it is in, with a ``/`` at the end."""
        return posixpath.dirname(self.url.rstrip("/")) + "/"

    @property
    def bucket(self) -> str:
        """Scheme and host, with a ``/`` at the end; for a local file the directory it is in."""
        if self.scheme == "file":
            return self.folder
        scheme, _, rest = self.url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}/"

    @property
    def key(self) -> str:
        """What follows the bucket; of a local file its path, both without a ``/`` at the start."""
        path = self.filesystem_path() if self.scheme == "file" else self.url[len(self.bucket) :]
        return path.strip("/")

    def filesystem_path(self) -> str:
        """Return the path of a local file."""
        return url2pathname(urlsplit(self.url).path)

    def is_directory(self) -> bool:
        """Say whether it is a directory, as a Zarr store is; raises as `first_bytes`."""
        filesystem, path = self._filesystem()
        try:
            return bool(filesystem.isdir(path))
        except Exception as e:  # each file system of fsspec has errors of its own
            raise self.unread(e) from e

    def zarr_arrays(self, group: str | None = None) -> list[str]:
        """Return the names of the arrays directly in a group of a Zarr store."""
        filesystem, path = self._filesystem()
        base = "/".join([path.rstrip("/"), *([group.strip("/")] if group else [])])
        names = []
        for entry in filesystem.ls(base, detail=True):
            if entry["type"] != "directory":
                continue
            where = entry["name"].rstrip("/")
            if filesystem.exists(f"{where}/.zarray") or self._is_array(f"{where}/zarr.json"):
                names.append(where.rpartition("/")[2])
        return names

    def _is_array(self, document: str) -> bool:
        filesystem, _ = self._filesystem()
        try:
            found = json.loads(filesystem.cat_file(document))
        except (FileNotFoundError, ValueError):
            return False
        return isinstance(found, dict) and found.get("node_type") == "array"

    def download(self, target: Path) -> None:
        """Copy the file to a local one."""
        filesystem, path = self._filesystem()
        filesystem.get_file(path, str(target))

    def obstore_options(self) -> dict[str, Any]:
        """Return the options in the words of obstore, for S3 and its like.

        Raises
        ------
        InvalidInputError
            Kind ``cannot-parse-url``; a place that cannot be listed through obstore.
        """
        if self.scheme not in {"s3", "gs", "az", "abfs", "abfss"}:
            raise InvalidInputError(
                f"cannot list the chunks of a Zarr store at {self.url}; it must be local or on "
                "s3://, gs:// or az://.",
                ErrorKind.CANNOT_PARSE_URL,
            )
        return {name: value for name, value in self._obstore_words().items() if value is not None}

    def _obstore_words(self) -> dict[str, Any]:
        client = self.options.get("client_kwargs", {})
        endpoint = self.options.get("endpoint_url") or client.get("endpoint_url")
        return {
            "endpoint": endpoint,
            "access_key_id": self.options.get("key"),
            "secret_access_key": self.options.get("secret"),
            "session_token": self.options.get("token"),
            "region": client.get("region_name"),
            "skip_signature": self.options.get("anon") or None,
            "client_options": {"allow_http": True}
            if str(endpoint or "").startswith("http://")
            else None,
        }

    def opened(self) -> Any:
        """Return the open file, to be read; closed by whoever gets it."""
        filesystem, path = self._filesystem()
        return filesystem.open(path, "rb")

    def first_bytes(self, count: int) -> bytes:
        """Return how the file begins.

        Raises
        ------
        StorageError
            It cannot be read.
        """
        filesystem, path = self._filesystem()
        try:
            data: bytes = filesystem.cat_file(path, start=0, end=count)
        except Exception as e:  # each file system of fsspec has errors of its own
            raise self.unread(e) from e
        return data

    def unread(self, error: Exception) -> StorageError:
        """Return what to raise for an error of a library that reads the file."""
        missing = isinstance(error, FileNotFoundError)
        what = str(error).strip().partition("\n")[0]
        return StorageError(
            f"cannot read {self.url}: {what}. Check the location, and storage_options if it needs "
            "credentials.",
            ErrorKind.OBJECT_NOT_FOUND if missing else ErrorKind.OBJECT_STORE,
        )

    def modified_at(self) -> datetime | None:
        """Return when the file was last written, UTC; None where its place does not tell."""
        filesystem, path = self._filesystem()
        try:
            # Of a Zarr store it is its newest file that counts.
            paths = filesystem.find(path) if self.is_directory() else [path]
            when = [filesystem.modified(path) for path in paths]
        except (NotImplementedError, OSError, KeyError, AttributeError, StorageError):
            return None
        return max(map(_as_utc, when), default=None)

    def _filesystem(self) -> tuple[AbstractFileSystem, str]:
        if self.scheme == "file":  # fsspec takes these URLs as they are, with their %20
            return fsspec.filesystem("file", **self.options), self.filesystem_path()
        try:
            return url_to_fs(self.url, **self.options)  # type: ignore[no-any-return]
        except (ValueError, ImportError) as e:  # no such protocol, or its package is missing
            raise InvalidInputError(
                f"cannot reach {self.url} through fsspec: {e}.", ErrorKind.CANNOT_PARSE_URL
            ) from e

    def registry(self) -> ObjectStoreRegistry[Any]:
        """Return how VirtualiZarr's parsers read the source."""
        filesystem, path = self._filesystem()
        if self.scheme == "file":
            return ObjectStoreRegistry({"file://": _FsspecStore(filesystem, url2pathname)})
        root = path[: len(path) - len(self.url.removeprefix(self.bucket))].rstrip("/")
        store = _FsspecStore(filesystem, lambda key: f"{root}{key}")
        return ObjectStoreRegistry({self.bucket.rstrip("/"): store})


def _as_utc(when: datetime) -> datetime:
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


class _FsspecStore:
    """The reading half of an object store, as obspec describes it, over fsspec.

    Parsers resolve a URL to a store and a path; here the store is a whole bucket or host.
    """

    def __init__(self, filesystem: AbstractFileSystem, path_of: Callable[[str], str]) -> None:
        self._filesystem = filesystem
        self._path_of = path_of

    def _path(self, key: str) -> str:
        return self._path_of(f"/{key.lstrip('/')}")

    def head(self, path: str) -> dict[str, Any]:
        """Return what is known of an object."""
        info = self._filesystem.info(self._path(path))
        when = info.get("LastModified") or datetime.now(UTC)
        return {"path": path, "size": info["size"], "last_modified": when, "e_tag": None,
                "version": None}  # fmt: skip

    def get_range(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> bytes:
        """Return a range of bytes."""
        stop = end if length is None else start + length
        data: bytes = self._filesystem.cat_file(self._path(path), start=start, end=stop)
        return data

    def get_ranges(
        self,
        path: str,
        *,
        starts: Sequence[int],
        ends: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[bytes]:
        """Return several ranges of bytes."""
        if ends is None:
            assert lengths is not None, "one of the two is given"
            ends = [start + length for start, length in zip(starts, lengths, strict=True)]
        pairs = zip(starts, ends, strict=True)
        return [self.get_range(path, start=start, end=end) for start, end in pairs]

    def get(self, path: str, *, options: Any = None) -> _Whole:
        """Return a whole object."""
        del options
        return _Whole(self._filesystem.cat_file(self._path(path)), self.head(path))

    async def head_async(self, path: str) -> dict[str, Any]:
        """Return what `head` returns."""
        return self.head(path)

    async def get_async(self, path: str, *, options: Any = None) -> _Whole:
        """Return what `get` returns."""
        return self.get(path, options=options)

    async def get_range_async(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> bytes:
        """Return what `get_range` returns."""
        return self.get_range(path, start=start, end=end, length=length)

    async def get_ranges_async(
        self,
        path: str,
        *,
        starts: Sequence[int],
        ends: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> list[bytes]:
        """Return what `get_ranges` returns."""
        return self.get_ranges(path, starts=starts, ends=ends, lengths=lengths)


class _Whole:
    """The answer to a request for a whole object."""

    def __init__(self, data: bytes, meta: dict[str, Any]) -> None:
        self._data = data
        self.meta = meta

    def buffer(self) -> bytes:
        """Return its content."""
        return self._data

    async def buffer_async(self) -> bytes:
        """Return its content."""
        return self._data
