"""The functions that make storages in services compatible with S3.

Public path: `icechunk.storage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.credentials import s3_credentials
from icechunk.object_store_config import S3Options
from icechunk.storage._backends import make_storage
from icechunk.storage.makers import s3_storage

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from icechunk.credential_values import S3StaticCredentials
    from icechunk.storage.base import Storage
    from icechunk.types import ChecksumAlgorithm


def tigris_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    use_weak_consistency: bool = False,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Return a storage in Tigris.

    Parameters
    ----------
    bucket : str
        Name of the bucket.
    prefix : str or None
        Where in the bucket; repositories cannot be created without.
    region : str or None
        Where the bucket is written; needed, unless ``use_weak_consistency``.
    endpoint_url : str or None
        Server, instead of the public one.
    use_weak_consistency : bool
        Read from the nearest region, which may lag behind; the storage is read-only then.
    allow_http : bool
        An ``endpoint_url`` without TLS is meant; else it is used with a warning in the log.
    access_key_id, secret_access_key, session_token, expires_after, anonymous, from_env
        Credentials, as for `s3_storage`.
    get_credentials, scatter_initial_credentials
        Credentials by a callback, as for `s3_storage`.
    network_stream_timeout_seconds : int
        Give a request up when no byte came for so many seconds; 0 for never.
    checksum_algorithm : ChecksumAlgorithm or None
        Checksum sent with uploads.
    legacy_rooted_keys, read_headers, write_headers, headers
        As for `s3_storage`.

    Returns
    -------
    Storage
        Not yet connected.

    Raises
    ------
    InvalidInputError
        Kind ``storage-other`` without a region; else as `s3_storage`.

    Examples
    --------
    >>> from icechunk import tigris_storage
    >>> storage = tigris_storage(bucket="data", prefix="repo", region="iad", anonymous=True)
    >>> storage.description
    's3://data/repo'
    """
    return make_storage(
        "tigris",
        S3Options(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=anonymous or False,
            network_stream_timeout_seconds=network_stream_timeout_seconds,
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
        use_weak_consistency=use_weak_consistency,
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def r2_storage(
    *,
    bucket: str | None = None,
    prefix: str | None = None,
    account_id: str | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Return a storage in Cloudflare R2.

    Parameters
    ----------
    bucket : str or None
        Name of the bucket; when omitted, the first part of ``prefix``.
    prefix : str or None
        Where in the bucket; repositories cannot be created without.
    account_id : str or None
        Cloudflare account, which the address of the server is made of.
    endpoint_url : str or None
        Server, instead of the account's: a public one, for instance.
    region : str or None
        ``"auto"`` when omitted.
    allow_http : bool
        An ``endpoint_url`` without TLS is meant; else it is used with a warning in the log.
    access_key_id, secret_access_key, session_token, expires_after, anonymous, from_env
        Credentials, as for `s3_storage`.
    get_credentials, scatter_initial_credentials
        Credentials by a callback, as for `s3_storage`.
    network_stream_timeout_seconds : int
        Give a request up when no byte came for so many seconds; 0 for never.
    checksum_algorithm : ChecksumAlgorithm or None
        Checksum sent with uploads.
    legacy_rooted_keys, read_headers, write_headers, headers
        As for `s3_storage`.

    Returns
    -------
    Storage
        Not yet connected.

    Raises
    ------
    InvalidInputError
        Kind ``storage-config``; neither account nor endpoint, or neither bucket nor prefix; else
        as `s3_storage`.

    Examples
    --------
    >>> from icechunk import r2_storage
    >>> r2_storage(bucket="data", prefix="repo", account_id="abc", anonymous=True).description
    's3://data/repo'
    """
    return make_storage(
        "r2",
        S3Options(
            region=region,
            endpoint_url=endpoint_url,
            allow_http=allow_http,
            anonymous=anonymous or False,
            network_stream_timeout_seconds=network_stream_timeout_seconds,
            checksum_algorithm=checksum_algorithm,
        ),
        bucket,
        prefix,
        account_id,
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
    )


def hf_storage(
    *,
    bucket: str,
    prefix: str | None,
    namespace: str,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Return a storage in a Hugging Face bucket, by its gateway for S3.

    Parameters
    ----------
    bucket : str
        Name of the bucket, without the namespace.
    prefix : str or None
        Where in the bucket; repositories cannot be created without.
    namespace : str
        User or organization that owns the bucket.
    access_key_id, secret_access_key, session_token, expires_after, from_env
        Credentials for the gateway, which are made from a token of the Hub and are not that token.
    get_credentials, scatter_initial_credentials
        Credentials by a callback, as for `s3_storage`.
    network_stream_timeout_seconds : int
        Give a request up when no byte came for so many seconds; 0 for never.
    legacy_rooted_keys, read_headers, write_headers, headers
        As for `s3_storage`.

    Returns
    -------
    Storage
        Not yet connected.

    Raises
    ------
    InvalidInputError
        Kind ``storage-config``; not a namespace; else as `s3_storage`.

    Notes
    -----
    The gateway keeps no user metadata, by which a conditional write whose reply was lost is
    recognised; there the outcome is reported as unknown.

    Examples
    --------
    >>> from icechunk import hf_storage
    >>> hf_storage(bucket="data", prefix="repo", namespace="me", from_env=True).description
    's3://data/repo'
    """
    return make_storage(
        "hf",
        S3Options(network_stream_timeout_seconds=network_stream_timeout_seconds),
        bucket,
        prefix,
        namespace,
        s3_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def s3_object_store_storage(
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
    force_path_style: bool = False,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Return a storage in S3; another name of `s3_storage`.

    In the official package it takes the same objects by another library; here the library is
    chosen by ``backend`` of `s3_storage`.

    Parameters
    ----------
    bucket, prefix, region, endpoint_url, allow_http, force_path_style
        As for `s3_storage`.
    access_key_id, secret_access_key, session_token, expires_after, anonymous, from_env
        As for `s3_storage`.
    read_headers, write_headers, headers
        As for `s3_storage`.

    Returns
    -------
    Storage
        Not yet connected.
    """
    return s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        force_path_style=force_path_style,
        legacy_rooted_keys=False,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )
