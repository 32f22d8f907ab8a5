"""Services that speak the language of S3: what each needs beside its name."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._backends import make_storage
from icechunk.storage.read_only import FixedView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage.base import Storage

_TIGRIS_URL: Final = "https://t3.storage.dev"
_HF_URL: Final = "https://s3.hf.co"
_HF_REGION: Final = "us-east-1"
_R2_REGION: Final = "auto"


class Tigris:
    """Makes storages in Tigris."""

    @staticmethod
    def create(
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential,
        *,
        use_weak_consistency: bool,
        legacy_rooted_keys: bool | None = None,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in Tigris; see `tigris_storage`.

        Tigris answers from the nearest region, which may lag behind; headers make it ask the region
        that a bucket is written in.

        Raises
        ------
        InvalidInputError
            Kind ``storage-other``; no region, without which there is no consistency.
        """
        options = copy.deepcopy(config)
        options.endpoint_url = options.endpoint_url or _TIGRIS_URL
        common = dict(headers or {})
        if not use_weak_consistency:
            if options.region is None:
                raise InvalidInputError(
                    "Tigris is consistent within a region only: pass the region of the bucket, or "
                    "use_weak_consistency=True for a read-only storage that may lag behind",
                    ErrorKind.STORAGE_OTHER,
                )
            common = {
                "X-Tigris-Regions": options.region,
                "X-Tigris-Consistent": "true",
                "Cache-Control": "no-cache",
            } | common
        storage = make_storage(
            "s3",
            options,
            bucket,
            prefix,
            credentials,
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=common,
        )
        return FixedView(storage) if use_weak_consistency else storage


class R2:
    """Makes storages in Cloudflare R2."""

    @staticmethod
    def create(
        config: S3Options,
        bucket: str | None,
        prefix: str | None,
        account_id: str | None,
        credentials: AnyS3Credential,
        *,
        legacy_rooted_keys: bool | None = None,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in Cloudflare R2; see `r2_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``storage-config``; neither account nor endpoint, or neither bucket nor prefix.
        """
        options = copy.deepcopy(config)
        if options.endpoint_url is None:
            if not account_id:
                raise InvalidInputError(
                    "r2_storage needs an account_id or an endpoint_url", ErrorKind.STORAGE_CONFIG
                )
            options.endpoint_url = f"https://{account_id}.r2.cloudflarestorage.com"
        if bucket is None:  # the documented call for public buckets: the prefix begins with it
            bucket, _, prefix = (prefix or "").strip("/").partition("/")
            if not bucket:
                raise InvalidInputError(
                    "r2_storage needs a bucket, or a prefix that begins with one",
                    ErrorKind.STORAGE_CONFIG,
                )
        options.region = options.region or _R2_REGION
        options.force_path_style = True
        return make_storage(
            "s3",
            options,
            bucket,
            prefix,
            credentials,
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )


class HuggingFace:
    """Makes storages in Hugging Face buckets."""

    @staticmethod
    def create(
        config: S3Options,
        bucket: str,
        prefix: str | None,
        namespace: str,
        credentials: AnyS3Credential,
        *,
        legacy_rooted_keys: bool | None = None,
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Storage:
        """Return a storage in a Hugging Face bucket, by its S3 gateway; see `hf_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``storage-config``; not a namespace.
        """
        if not namespace or "/" in namespace:
            raise InvalidInputError(
                f"not a Hugging Face user or organization: {namespace!r}", ErrorKind.STORAGE_CONFIG
            )
        options = copy.deepcopy(config)
        gateway = (options.endpoint_url or _HF_URL).rstrip("/")
        options.endpoint_url = f"{gateway}/{namespace}"
        options.region = options.region or _HF_REGION
        options.force_path_style = True
        return make_storage(
            "s3",
            options,
            bucket,
            prefix,
            credentials,
            legacy_rooted_keys=legacy_rooted_keys,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )
