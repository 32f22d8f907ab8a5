"""Storages for the places that virtual chunks are in.

Source: Icechunk specification, section "Locations and containers".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from icechunk.container_access import Credentials
from icechunk.credential_values import AzureCredentials, GcsCredentials, S3Credentials
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.object_store_config import ObjectStoreConfig
from icechunk.storage._backends import make_storage

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from icechunk.container_access import AnyCredential
    from icechunk.storage.base import Storage
    from icechunk.virtual_containers import VirtualChunkContainer

_ACCOUNT: Final = ("account", "account_name", "azure_storage_account_name")


def storage_for_container(
    container: VirtualChunkContainer, credential: AnyCredential | None
) -> Storage:
    """Return the storage below the URL prefix of a container.

    Parameters
    ----------
    container : VirtualChunkContainer
        Prefix, and how the store is reached.
    credential : credential or None
        How to get in; None for the ambient credentials or none at all.

    Returns
    -------
    Storage
        Keys are what follows the prefix.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; credentials of another family. Kind ``storage-config``; an
        Azure store without account, or options that cannot be meant.
    """
    url = urlsplit(container.url_prefix)
    bucket, prefix = url.netloc, unquote(url.path).strip("/") or None
    match container.store:
        case ObjectStoreConfig.LocalFileSystem():
            made = make_storage("local", unquote(url.path))
        case ObjectStoreConfig.S3(options) | ObjectStoreConfig.S3Compatible(options):
            access = _access(container, credential, Credentials.S3) or (
                S3Credentials.Anonymous() if options.anonymous else S3Credentials.FromEnv()
            )
            made = make_storage("s3", options, bucket, prefix, access, legacy_rooted_keys=False)
        case ObjectStoreConfig.Tigris(options):
            access = _access(container, credential, Credentials.S3) or (
                S3Credentials.Anonymous() if options.anonymous else S3Credentials.FromEnv()
            )
            # Without a region it may lag behind, which what is referenced does not.
            weak = options.region is None
            made = make_storage(
                "tigris", options, bucket, prefix, access, use_weak_consistency=weak
            )
        case ObjectStoreConfig.Gcs(config):
            access = _access(container, credential, Credentials.Gcs) or GcsCredentials.FromEnv()
            made = make_storage("gcs", bucket, prefix, access, config=config)
        case ObjectStoreConfig.Azure(config):
            access = _access(container, credential, Credentials.Azure) or AzureCredentials.FromEnv()
            account = _account(container, config or {})
            made = make_storage("azure", account, bucket, prefix, access, config=config)
        case ObjectStoreConfig.Http(opts, headers):
            made = make_storage("http", container.url_prefix, opts=opts, headers=headers)
        case _:
            made = _of_this_process(container.url_prefix, url)
    return made


def _access(
    container: VirtualChunkContainer, credential: AnyCredential | None, family: type[Any]
) -> Any:
    """Return the credentials of a family, None when none were given."""
    if credential is None:
        return None
    if not isinstance(credential, family):
        raise InvalidInputError(
            f"credentials for the virtual chunk container {container.url_prefix} must be of "
            f"{family.__qualname__}, not {type(credential).__qualname__}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    return credential[0]


def _account(container: VirtualChunkContainer, config: dict[str, str]) -> str:
    for name in _ACCOUNT:
        if config.get(name):
            return config[name]
    raise InvalidInputError(
        f"the virtual chunk container {container.url_prefix} does not say which Azure account it "
        "is in: make its store with azure_store(account=...)",
        ErrorKind.STORAGE_CONFIG,
    )


def _of_this_process(url_prefix: str, url: SplitResult) -> Storage:
    if url.scheme != "memory":
        return make_storage("fsspec", url_prefix)
    return make_storage("memory", name=f"{url.netloc}{unquote(url.path)}".strip("/"))
