"""Storages by URL."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._backends import make_storage
from icechunk.storage.makers import fsspec_storage, s3_storage

if TYPE_CHECKING:
    from icechunk.storage.base import Storage

# Two letters at least, because C:\data is a path.
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+(?=://|::)")


def storage_for_url(url: str, **storage_options: Any) -> Storage:
    """Return the storage that a path or URL names.

    Parameters
    ----------
    url : str
        A plain path or ``file://`` URL for local files; ``memory://name`` for a storage in this
        process's memory, the same for the same name; ``s3://bucket/prefix``; anything else that
        fsspec knows, chains included.
    **storage_options
        For S3 those of `s3_storage`, with credentials from the environment unless given; for fsspec
        those of `fsspec_storage`; none for local files and memory.

    Returns
    -------
    Storage
        Not yet connected.

    Raises
    ------
    InvalidInputError
        Kind ``cannot-parse-url``; not a URL, or options that its kind of storage does not have.
    """
    if not isinstance(url, str) or not url.strip() or "\0" in url:
        raise InvalidInputError(
            f"not a storage URL: {url!r}; expected a path, file://, memory://, s3:// or another "
            "URL that fsspec knows",
            ErrorKind.CANNOT_PARSE_URL,
        )
    found = _SCHEME.match(url)
    scheme = found.group().lower() if found else ""
    rest = url[len(scheme) + 3 :]
    if scheme in {"", "file", "local", "memory"} and storage_options:
        raise InvalidInputError(
            f"{url} takes no storage options, but got {', '.join(sorted(storage_options))}",
            ErrorKind.CANNOT_PARSE_URL,
        )
    if "::" in url:  # a chain of file systems
        return fsspec_storage(url, **storage_options)
    match scheme:
        case "":
            return make_storage("local", url)
        case "file" | "local":
            return make_storage("local", _file_path(url))
        case "memory":
            return make_storage("memory", name=rest.strip("/"))
        case "s3" | "s3a":
            return _s3(url, rest, storage_options)
        case _:
            return fsspec_storage(url, **storage_options)


def _file_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"} or not parts.path.strip("/"):
        raise InvalidInputError(
            f"not a local file URL: {url!r}; it needs three slashes and an absolute path, as in "
            "file:///data/repo",
            ErrorKind.CANNOT_PARSE_URL,
        )
    return url2pathname(parts.path)


def _s3(url: str, rest: str, options: dict[str, Any]) -> Storage:
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise InvalidInputError(
            f"no bucket in {url!r}; expected s3://bucket/prefix", ErrorKind.CANNOT_PARSE_URL
        )
    try:
        return s3_storage(bucket=bucket, prefix=prefix, **options)
    except TypeError as error:
        raise InvalidInputError(
            f"cannot use these options for {url}: {error}", ErrorKind.CANNOT_PARSE_URL
        ) from error
