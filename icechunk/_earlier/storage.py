"""Earlier names of the functions that make storages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.credential_values import AnyS3Credential, S3Credentials, S3StaticCredentials
from icechunk.credentials import s3_anonymous_credentials, s3_from_env_credentials
from icechunk.object_store_config import S3Options
from icechunk.storage.base import Storage
from icechunk.storage.makers import in_memory_storage, local_filesystem_storage
from icechunk.storage.url import storage_for_url

if TYPE_CHECKING:
    import os


class StorageConfig:
    """Makes storages: earlier name of the functions ``icechunk.*_storage``.

    Examples
    --------
    >>> from icechunk import Repository, StorageConfig
    >>> repo = Repository.create(StorageConfig.memory("example"))
    """

    def __init__(self) -> None:
        raise TypeError("StorageConfig makes storages: use StorageConfig.memory() or another maker")

    @classmethod
    def memory(cls, prefix: str | None = None) -> Storage:  # noqa: ARG003 # memories are apart
        """Return `icechunk.in_memory_storage`; each is a place of its own, whatever the prefix."""
        return in_memory_storage()

    @classmethod
    def filesystem(cls, root: str | os.PathLike[str]) -> Storage:
        """Return `icechunk.local_filesystem_storage` of a directory."""
        return local_filesystem_storage(root)

    @classmethod
    def object_store(cls, url: str, options: dict[str, str] | None = None) -> Storage:
        """Return `icechunk.storage.storage_for_url` of a URL, with options of its client."""
        return storage_for_url(url, **(options or {}))

    @classmethod
    def s3_from_env(
        cls,
        bucket: str,
        prefix: str | None = None,
        endpoint_url: str | None = None,
        allow_http: bool = False,
        region: str | None = None,
    ) -> Storage:
        """Return `icechunk.s3_storage` with ``from_env=True``."""
        where = S3Options(region=region, endpoint_url=endpoint_url, allow_http=allow_http)
        return _s3_storage(bucket, prefix, where, s3_from_env_credentials())

    @classmethod
    def s3_from_config(
        cls,
        bucket: str,
        prefix: str | None = None,
        credentials: S3StaticCredentials | AnyS3Credential | None = None,
        endpoint_url: str | None = None,
        allow_http: bool = False,
        region: str | None = None,
    ) -> Storage:
        """Return `icechunk.s3_storage` with these credentials."""
        if isinstance(credentials, S3StaticCredentials):
            credentials = S3Credentials.Static(credentials)
        where = S3Options(region=region, endpoint_url=endpoint_url, allow_http=allow_http)
        return _s3_storage(bucket, prefix, where, credentials or s3_from_env_credentials())

    @classmethod
    def s3_anonymous(
        cls,
        bucket: str,
        prefix: str | None = None,
        endpoint_url: str | None = None,
        allow_http: bool = False,
        region: str | None = None,
    ) -> Storage:
        """Return `icechunk.s3_storage` with ``anonymous=True``."""
        where = S3Options(
            region=region, endpoint_url=endpoint_url, allow_http=allow_http, anonymous=True
        )
        return _s3_storage(bucket, prefix, where, s3_anonymous_credentials())


def _s3_storage(
    bucket: str, prefix: str | None, where: S3Options, credentials: AnyS3Credential
) -> Storage:
    where.network_stream_timeout_seconds = 60  # as `s3_storage` has it
    return Storage.new_s3(where, bucket, prefix, credentials)
