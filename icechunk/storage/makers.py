"""The functions that make storages. Public path: `icechunk.storage`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal

from icechunk._display import scrubbed
from icechunk.credentials import s3_credentials
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.object_store_config import S3Options
from icechunk.storage._backends import make_storage

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from datetime import datetime

    from icechunk.credential_values import S3StaticCredentials
    from icechunk.storage.base import Storage
    from icechunk.types import ChecksumAlgorithm

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def in_memory_storage() -> Storage:
    """Return a new, empty storage in this process's memory.

    Returns
    -------
    Storage
        Gone when the process ends. It pickles as a reference: the same place in this process, an
        error in any other.

    Examples
    --------
    >>> repo = icechunk.Repository.create(icechunk.in_memory_storage())
    """
    return make_storage("memory")


def local_filesystem_storage(
    path: str | os.PathLike[str], *, pack_small_chunks: bool = True
) -> Storage:
    """Return a storage below a directory.

    Parameters
    ----------
    path : str or path-like
        The directory; made when the first object is written. Relative paths are resolved now.
    pack_small_chunks : bool
        Write chunks of at most 128 KiB of one session one after the other into files of up to
        1 MiB, instead of a file for each. Such a file stays as long as one of its chunks is wanted.

    Returns
    -------
    Storage
        Safe for concurrent commits of threads and processes of one machine that all use this
        package.

    Raises
    ------
    InvalidInputError
        Kind ``bad-prefix``; not a path, but a URL.

    Examples
    --------
    >>> storage = icechunk.local_filesystem_storage("path/to/repository")
    """
    if _URL.match(str(path)):
        raise InvalidInputError(
            f"{scrubbed(str(path))} is a URL, not a path; "
            "icechunk.storage.storage_for_url opens URLs",
            ErrorKind.BAD_PREFIX,
        )
    return make_storage("local", path, pack_small_chunks=pack_small_chunks)


def s3_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int = 60,
    requester_pays: bool = False,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    backend: Literal["auto", "s3fs", "obstore"] = "auto",
) -> Storage:
    """Return a storage in S3 or a compatible service.

    Parameters
    ----------
    bucket : str
        The bucket; it must exist.
    prefix : str or None
        Where in the bucket. Needed to create a repository. A slash at its beginning is part of
        the keys.
    region : str or None
        Region of the bucket; without it and without ``endpoint_url`` it is found out.
    endpoint_url : str or None
        Server, instead of the one of the region.
    allow_http : bool
        An ``endpoint_url`` without TLS is meant; else it is used with a warning in the log.
    access_key_id, secret_access_key, session_token : str or None
        Fixed credentials. They travel with the storage when it is pickled.
    expires_after : datetime.datetime or None
        When the fixed credentials end, with a time zone.
    anonymous : bool or None
        Send unsigned requests.
    from_env : bool or None
        Take credentials from the environment, which is also what no credentials mean.
    get_credentials : callable or None
        Returns `S3StaticCredentials`; called in a thread when there are none or they have ended.
        It travels with the storage, so it must be picklable.
    scatter_initial_credentials : bool
        Call ``get_credentials`` once now and send the result along.
    force_path_style : bool
        Put the bucket in the path instead of the host name.
    network_stream_timeout_seconds : int
        Give a request up when no byte came for so many seconds; 0 for never.
    requester_pays : bool
        Accept the charges of a bucket that makes readers pay.
    checksum_algorithm : ChecksumAlgorithm or None
        Checksum sent with uploads; the client's choice when omitted.
    legacy_rooted_keys : bool or None
        Whether keys begin with a slash, as in some very old repositories without prefix; found
        out when omitted.
    read_headers, write_headers : dict of str to str, optional
        Sent with every request that reads, or writes.
    headers : dict of str to str, optional
        Sent with every request; the more specific ones win.
    backend : {"auto", "s3fs", "obstore"}
        Library that makes the requests. ``"auto"`` is obstore where it is installed and can do what
        the other arguments ask for, else s3fs; both do the same.

    Returns
    -------
    Storage
        Not yet connected.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``, ``bad-prefix`` or ``storage-config``; arguments that
        contradict each other or cannot be meant.

    Examples
    --------
    >>> storage = icechunk.s3_storage(bucket="bucket", prefix="repository", from_env=True)
    >>> local = icechunk.s3_storage(
    ...     bucket="bucket",
    ...     prefix="repository",
    ...     endpoint_url="http://localhost:9000",
    ...     allow_http=True,
    ...     force_path_style=True,
    ...     access_key_id="minio",
    ...     secret_access_key="minio123",
    ... )
    """
    return make_storage(
        "s3",
        S3Options(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=anonymous or False,
            force_path_style=force_path_style,
            network_stream_timeout_seconds=network_stream_timeout_seconds,
            requester_pays=requester_pays,
            checksum_algorithm=checksum_algorithm,
        ),
        bucket,
        prefix,
        s3_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
            anonymous=anonymous,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
        backend=backend,
    )


def fsspec_storage(url: str, *, single_writer: bool = False, **storage_options: Any) -> Storage:
    """Return a storage in a file system that fsspec knows.

    Parameters
    ----------
    url : str
        Of the root, such as ``gs://bucket/prefix`` or ``sftp://host/path``.
    single_writer : bool
        Promise that no other process writes the repository at the same time. Needed for commits,
        because fsspec has no conditional update; reading works without it.
    **storage_options
        For the file system's constructor.

    Returns
    -------
    Storage
        Its text form says which conditional writes it can do.

    Raises
    ------
    InvalidInputError
        Kind ``cannot-parse-url``; no such protocol, or its library is not installed;
        ``storage-config`` for an option that is ``single_writer`` misspelt.

    Examples
    --------
    >>> storage = icechunk.fsspec_storage("memory://repository", single_writer=True)
    """
    for name in storage_options:  # most file systems ignore what they do not know
        if get_close_matches(name, ["single_writer"]):
            raise InvalidInputError(
                f"fsspec_storage has no option {name!r}; did you mean 'single_writer'?",
                ErrorKind.STORAGE_CONFIG,
            )
    return make_storage("fsspec", url, single_writer=single_writer, options=storage_options)
