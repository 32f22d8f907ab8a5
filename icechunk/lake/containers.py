"""Virtual chunk containers for the places that references point to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from icechunk.assets.refs import update_repo
from icechunk.config import RepositoryConfig
from icechunk.container_access import containers_credentials
from icechunk.credentials import (
    azure_credentials,
    gcs_credentials,
    s3_anonymous_credentials,
    s3_static_credentials,
)
from icechunk.format.updates import ConfigChanged
from icechunk.object_store_config import (
    ObjectStoreConfig,
    azure_store,
    gcs_store,
    http_store,
    local_filesystem_store,
    s3_store,
)
from icechunk.persisted_config import to_persisted
from icechunk.virtual_containers import VirtualChunkContainer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from icechunk.core.history import Change
    from icechunk.format.repo_info import RepoInfo
    from icechunk.format.updates import UpdateKind
    from icechunk.object_store_config import AnyObjectStoreConfig
    from icechunk.repository import Repository


_CONTAINERS: Final = "virtual_chunk_containers"


async def reaching(
    repository: Repository, prefixes: Iterable[str], options: Mapping[str, Any]
) -> Repository:
    """Return a repository that may read chunks in some places, for everybody who opens it later.

    Parameters
    ----------
    repository : Repository
        Gets a virtual chunk container for each place that has none; it is stored.
    prefixes : iterable of str
        The places.
    options : mapping
        For fsspec: how to get in. What is secret goes to the returned object only.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; no container can be for such a place.
    """
    config = RepositoryConfig.default().merge(repository.config)
    access = dict(repository.state.virtual.authorized)
    known = tuple(config.virtual_chunk_containers or {})
    wanted = RepositoryConfig.default()
    for prefix in sorted(prefixes):
        if not prefix.startswith(known or ("\0",)):
            container = VirtualChunkContainer(prefix, _store_for(prefix, options))
            config.set_virtual_chunk_container(container)
            wanted.set_virtual_chunk_container(container)
    for prefix in prefixes:
        at = next((start for start in known if prefix.startswith(start)), prefix)
        if access.get(at) is None:
            access[at] = _credential_for(at, options)
    reopened = await repository.reopen_async(config, access)
    if wanted.virtual_chunk_containers and repository.state.assets.spec_version == 1:
        await reopened.save_config_async()
    elif wanted.virtual_chunk_containers:
        await update_repo(repository.state.assets, _with_containers(repository, wanted))
    return reopened


def _with_containers(repository: Repository, wanted: RepositoryConfig) -> Change:
    """Return the change that stores more containers, beside those others stored meanwhile.

    Nothing else of the configuration is stored: it may be this process's own.
    """
    settings = RepositoryConfig(storage=repository.storage.default_settings())
    ours = to_persisted(settings.merge(wanted))

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        stored = info.config or ours
        containers = {**ours[_CONTAINERS], **(stored.get(_CONTAINERS) or {})}
        return replace(info, config={**stored, _CONTAINERS: containers}), ConfigChanged()

    return change


def _store_for(prefix: str, options: Mapping[str, Any]) -> AnyObjectStoreConfig:
    client = options.get("client_kwargs", {})
    endpoint = options.get("endpoint_url") or client.get("endpoint_url")
    match urlsplit(prefix).scheme:
        case "file":
            return local_filesystem_store(url2pathname(urlsplit(prefix).path))
        case "s3":
            return s3_store(
                region=client.get("region_name"),
                endpoint_url=endpoint,
                allow_http=str(endpoint or "").startswith("http://"),
                anonymous=bool(options.get("anon")),
                force_path_style=endpoint is not None,
            )
        case "gs":
            return gcs_store()
        case "http" | "https":
            return http_store()
        case "az" | "abfs" if options.get("account_name"):
            return azure_store(account=options["account_name"])
        case _:
            return ObjectStoreConfig.InMemory()


def _credential_for(prefix: str, options: Mapping[str, Any]) -> Any:
    scheme = urlsplit(prefix).scheme
    credential: Any = None
    if scheme == "s3" and options.get("anon"):
        credential = s3_anonymous_credentials()
    elif scheme == "s3" and options.get("key"):
        credential = s3_static_credentials(
            access_key_id=options["key"],
            secret_access_key=options["secret"],
            session_token=options.get("token"),
        )
    elif scheme == "gs" and options.get("token") == "anon":
        credential = gcs_credentials(anonymous=True)
    elif scheme in {"az", "abfs"} and options.get("account_key"):
        credential = azure_credentials(access_key=options["account_key"])
    return containers_credentials({prefix: credential})[prefix]
