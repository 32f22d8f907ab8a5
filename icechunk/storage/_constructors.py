"""The official constructors of the public class `Storage`; each is a function elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk.credential_values import AzureCredentials, GcsCredentials, S3Credentials
from icechunk.storage._backends import make_storage

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from icechunk.credential_values import AnyAzureCredential, AnyGcsCredential, AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage.base import Storage


class StorageConstructors:
    """Base of `Storage` with its static constructors."""

    @staticmethod
    def new_in_memory() -> Storage:
        """Return an empty storage in this process's memory; see `in_memory_storage`."""
        return make_storage("memory")

    @staticmethod
    def new_local_filesystem(path: str | os.PathLike[str]) -> Storage:
        """Return a storage below a directory; see `local_filesystem_storage`."""
        return make_storage("local", path)

    @staticmethod
    def new_s3(
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in S3 or a compatible service; see `s3_storage`.

        ``config`` says how the service is reached; credentials are those of the environment when
        omitted.
        """
        return make_storage(
            "s3",
            config,
            bucket,
            prefix,
            _s3_or_env(credentials),
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @staticmethod
    def new_s3_object_store(
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential | None = None,
        *,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in S3, as `new_s3` without keys that begin with a slash."""
        return make_storage(
            "s3",
            config,
            bucket,
            prefix,
            _s3_or_env(credentials),
            legacy_rooted_keys=False,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @staticmethod
    def new_tigris(
        config: S3Options,
        bucket: str,
        prefix: str | None,
        use_weak_consistency: bool,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in Tigris; see `tigris_storage`.

        ``config`` says how the service is reached; credentials are those of the environment when
        omitted.
        """
        return make_storage(
            "tigris",
            config,
            bucket,
            prefix,
            _s3_or_env(credentials),
            use_weak_consistency=use_weak_consistency,
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @staticmethod
    def new_r2(
        config: S3Options,
        bucket: str | None = None,
        prefix: str | None = None,
        account_id: str | None = None,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in Cloudflare R2; see `r2_storage`.

        ``config`` says how the service is reached; credentials are those of the environment when
        omitted.
        """
        return make_storage(
            "r2",
            config,
            bucket,
            prefix,
            account_id,
            _s3_or_env(credentials),
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @staticmethod
    def new_hf(
        config: S3Options,
        bucket: str,
        prefix: str | None,
        namespace: str,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in a Hugging Face bucket; see `hf_storage`.

        ``config`` says how the service is reached; credentials are those of the environment when
        omitted.
        """
        return make_storage(
            "hf",
            config,
            bucket,
            prefix,
            namespace,
            _s3_or_env(credentials),
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @staticmethod
    def new_gcs(
        bucket: str,
        prefix: str | None,
        credentials: AnyGcsCredential | None = None,
        *,
        config: Mapping[str, str] | None = None,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in Google Cloud Storage; see `gcs_storage`."""
        return make_storage(
            "gcs",
            bucket,
            prefix,
            GcsCredentials.FromEnv() if credentials is None else credentials,
            config=config,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @staticmethod
    def new_azure_blob(
        account: str,
        container: str,
        prefix: str,
        credentials: AnyAzureCredential | None = None,
        *,
        config: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in Azure Blob Storage; see `azure_storage`."""
        return make_storage(
            "azure",
            account,
            container,
            prefix,
            AzureCredentials.FromEnv() if credentials is None else credentials,
            config=config,
        )

    @staticmethod
    def new_http(
        base_url: str,
        config: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage on a web server, for reading; see `http_storage`."""
        return make_storage("http", base_url, opts=config, headers=headers)

    @staticmethod
    def new_redirect(base_url: str) -> Storage:
        """Return the storage that a web server redirects to; see `redirect_storage`."""
        return make_storage("redirect", base_url)


def _s3_or_env(credentials: AnyS3Credential | None) -> AnyS3Credential:
    return S3Credentials.FromEnv() if credentials is None else credentials
