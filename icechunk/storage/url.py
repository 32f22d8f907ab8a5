"""Storages by URL."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from icechunk._display import scrubbed
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._backends import make_storage
from icechunk.storage.makers import fsspec_storage, s3_storage
from icechunk.storage.makers_cloud import azure_storage, gcs_storage, http_storage
from icechunk.storage.makers_s3 import hf_storage, r2_storage, tigris_storage

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
        process's memory, the same for the same name; ``s3://bucket/prefix``, and likewise
        ``gs://``, ``tigris://`` and ``r2://``; ``az://container/prefix`` or
        ``abfs://container@account.dfs.core.windows.net/prefix``; ``hf://namespace/bucket/prefix``;
        ``http://`` and ``https://`` for reading; anything else that fsspec knows, chains included.
    **storage_options
        Those of the function that makes such a storage (`s3_storage`, `gcs_storage`,
        `azure_storage`, `tigris_storage`, `r2_storage`, `hf_storage`, `http_storage`,
        `fsspec_storage`), with credentials from the environment unless given; none for local files
        and memory. The Azure account may come from ``AZURE_STORAGE_ACCOUNT_NAME``.

    Returns
    -------
    Storage
        Not yet connected.

    Raises
    ------
    InvalidInputError
        Kind ``cannot-parse-url``; not a URL, or options that its kind of storage does not have.

    Examples
    --------
    >>> from icechunk.storage import storage_for_url
    >>> storage_for_url("gs://data/repo", anonymous=True).description
    'gs://data/repo'
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
        case _ if scheme in _MAKERS:
            return _made(url, scheme, rest, storage_options)
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


def _made(url: str, scheme: str, rest: str, options: dict[str, Any]) -> Storage:
    """Return a storage made of the parts of a URL and options."""
    maker, place = _MAKERS[scheme]
    try:
        storage: Storage = maker(**place(url, rest, options), **options)
    except TypeError as error:
        raise InvalidInputError(
            f"cannot use these options for {scrubbed(url)}: {error}", ErrorKind.CANNOT_PARSE_URL
        ) from error
    return storage


def _bucket(url: str, rest: str, _options: dict[str, Any]) -> dict[str, Any]:
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        scheme = url.partition(":")[0]
        raise InvalidInputError(
            f"no bucket in {url!r}; expected {scheme}://bucket/prefix", ErrorKind.CANNOT_PARSE_URL
        )
    return {"bucket": bucket, "prefix": prefix}


def _namespace(url: str, rest: str, _options: dict[str, Any]) -> dict[str, Any]:
    namespace, _, inside = rest.partition("/")
    bucket, _, prefix = inside.partition("/")
    if not namespace or not bucket:
        raise InvalidInputError(
            f"no namespace and bucket in {url!r}; expected hf://namespace/bucket/prefix",
            ErrorKind.CANNOT_PARSE_URL,
        )
    return {"namespace": namespace, "bucket": bucket, "prefix": prefix}


def _container(url: str, rest: str, options: dict[str, Any]) -> dict[str, Any]:
    container, _, prefix = rest.partition("/")
    container, _, host = container.partition("@")
    given = options.pop("account", None) or host.partition(".")[0]
    account = given or next((os.environ[name] for name in _ACCOUNTS if os.environ.get(name)), None)
    if not container or not account:
        missing = "container" if not container else "account"
        raise InvalidInputError(
            f"no {missing} in {url!r}; expected az://container/prefix and account=, or "
            "abfs://container@account.dfs.core.windows.net/prefix",
            ErrorKind.CANNOT_PARSE_URL,
        )
    return {"account": account, "container": container, "prefix": prefix}


def _web(url: str, rest: str, _options: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": f"{url.partition(':')[0].partition('+')[0]}://{rest}"}


_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_Place: TypeAlias = Callable[[str, str, dict[str, Any]], dict[str, Any]]
_MAKERS: Final[dict[str, tuple[Callable[..., Any], _Place]]] = {
    "s3": (s3_storage, _bucket),
    "s3a": (s3_storage, _bucket),
    "gs": (gcs_storage, _bucket),
    "gcs": (gcs_storage, _bucket),
    "tigris": (tigris_storage, _bucket),
    "r2": (r2_storage, _bucket),
    "hf": (hf_storage, _namespace),
    "az": (azure_storage, _container),
    "azure": (azure_storage, _container),
    "abfs": (azure_storage, _container),
    "abfss": (azure_storage, _container),
    "http": (http_storage, _web),
    "https": (http_storage, _web),
    "http+icechunk": (http_storage, _web),
    "https+icechunk": (http_storage, _web),
}
