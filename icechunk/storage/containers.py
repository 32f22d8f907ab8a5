"""Storages for the places that virtual chunks are in.

Source: Icechunk specification, section "Locations and containers".
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from icechunk.container_access import Credentials
from icechunk.credentials import s3_anonymous_credentials, s3_from_env_credentials
from icechunk.object_store_config import ObjectStoreConfig
from icechunk.storage._backends import make_storage

if TYPE_CHECKING:
    from icechunk.container_access import AnyCredential
    from icechunk.storage.base import Storage
    from icechunk.virtual_containers import VirtualChunkContainer


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
    """
    url = urlsplit(container.url_prefix)
    store = container.store
    if isinstance(store, ObjectStoreConfig.LocalFileSystem):
        return make_storage("local", unquote(url.path))
    s3_like = (ObjectStoreConfig.S3, ObjectStoreConfig.S3Compatible, ObjectStoreConfig.Tigris)
    if isinstance(store, s3_like):
        options = store._0  # noqa: SLF001 (the official name of the case's content)
        if isinstance(credential, Credentials.S3):
            access = credential._0  # noqa: SLF001
        elif options.anonymous:
            access = s3_anonymous_credentials()
        else:
            access = s3_from_env_credentials()
        prefix = url.path.strip("/") or None
        return make_storage("s3", options, url.netloc, prefix, access, legacy_rooted_keys=False)
    return make_storage("fsspec", container.url_prefix)
