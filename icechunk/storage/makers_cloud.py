"""The functions that make storages in Google's and Microsoft's clouds and on web servers.

Public path: `icechunk.storage`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from icechunk._earlier.spelling import takes_earlier
from icechunk.credentials import azure_credentials, gcs_credentials
from icechunk.storage._backends import make_storage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icechunk.credential_values import (
        AnyAzureRefreshableCredential,
        GcsBearerCredential,
    )
    from icechunk.storage.base import Storage


def gcs_storage(
    *,
    bucket: str,
    prefix: str | None,
    service_account_file: str | None = None,
    service_account_key: str | Mapping[str, str] | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    config: dict[str, str] | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    backend: Literal["auto", "aiohttp", "obstore"] = "auto",
) -> Storage:
    """Return a storage in Google Cloud Storage.

    Parameters
    ----------
    bucket : str
        Name of the bucket.
    prefix : str or None
        Where in the bucket; repositories cannot be created without.
    service_account_file : str or None
        Path of a service account file.
    service_account_key : str or mapping or None
        Content of such a file, as JSON text or parsed.
    application_credentials : str or None
        Path of an application credentials file.
    bearer_token : str or None
        Fixed token. It travels with the storage when it is pickled.
    anonymous : bool or None
        Send requests without a token.
    from_env : bool or None
        Take the application default credentials, which is also what no credentials mean.
    config : dict of str to str, or None
        Options of the client: ``google_base_url``, ``google_skip_signature``,
        ``google_service_account``, ``google_service_account_key``,
        ``google_application_credentials``, ``connect_timeout``, ``read_timeout``, ``timeout``,
        ``proxy_url``, ``user_agent``, ``allow_http``.
    get_credentials : callable or None
        Returns `GcsBearerCredential`; called in a thread when there is no token or it has ended.
        It travels with the storage, so it must be picklable.
    scatter_initial_credentials : bool
        Call ``get_credentials`` once now and send the result along.
    read_headers, write_headers : dict of str to str, optional
        Sent with every request that reads, or writes.
    headers : dict of str to str, optional
        Sent with every request; the more specific ones win.
    backend : {"auto", "aiohttp", "obstore"}
        Library that makes the requests. ``"auto"`` is obstore where it is installed and can do what
        the other arguments ask for, else aiohttp; both do the same.

    Returns
    -------
    Storage
        Not yet connected. Conditional writes compare generations.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``, ``bad-prefix`` or ``storage-config``; arguments that
        contradict each other or cannot be meant.

    Examples
    --------
    >>> from icechunk import gcs_storage
    >>> gcs_storage(bucket="data", prefix="repo", anonymous=True).description
    'gs://data/repo'
    """
    return make_storage(
        "gcs",
        bucket,
        prefix,
        gcs_credentials(
            service_account_file=service_account_file,
            service_account_key=service_account_key,
            application_credentials=application_credentials,
            bearer_token=bearer_token,
            anonymous=anonymous,
            from_env=from_env,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        config=config,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
        backend=backend,
    )


@takes_earlier(
    account_name="account",
    account_key="access_key",
    access_token="bearer_token",  # noqa: S106 (a parameter)
)
def azure_storage(
    *,
    account: str,
    container: str,
    prefix: str,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    config: dict[str, str] | None = None,
    get_credentials: Callable[[], AnyAzureRefreshableCredential] | None = None,
    scatter_initial_credentials: bool = False,
    backend: Literal["auto", "azure", "obstore"] = "auto",
) -> Storage:
    """Return a storage in Azure Blob Storage.

    Parameters
    ----------
    account : str
        Storage account.
    container : str
        Name of the container.
    prefix : str
        Where in the container; repositories cannot be created without.
    access_key : str or None
        Key of the account. It, as the two that follow, travels with the storage when it is pickled.
    sas_token : str or None
        Shared access signature.
    bearer_token : str or None
        Fixed token.
    from_env : bool or None
        Take ``AZURE_STORAGE_ACCOUNT_KEY``, ``AZURE_STORAGE_SAS_TOKEN`` or ``AZURE_STORAGE_TOKEN``,
        or else what `azure.identity` finds; also what no credentials mean.
    anonymous : bool or None
        Send unsigned requests.
    config : dict of str to str, or None
        Options of the client: ``azure_storage_endpoint``, ``azure_storage_use_emulator``,
        ``azure_skip_signature``, ``azure_storage_account_key``, ``azure_storage_sas_token``,
        ``azure_storage_token``, ``connect_timeout``, ``read_timeout``, ``timeout``, ``proxy_url``,
        ``user_agent``, ``allow_http``.
    get_credentials : callable or None
        Returns a case of `AzureRefreshableCredential`; called in a thread when there is none or it
        has ended. It travels with the storage, so it must be picklable.
    scatter_initial_credentials : bool
        Call ``get_credentials`` once now and send the result along.
    backend : {"auto", "azure", "obstore"}
        Library that makes the requests. ``"auto"`` is obstore where it is installed and can do what
        the other arguments ask for, else azure-storage-blob; both do the same.

    Returns
    -------
    Storage
        Not yet connected. Conditional writes compare entity tags.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``, ``bad-prefix`` or ``storage-config``; arguments that
        contradict each other or cannot be meant.

    Examples
    --------
    >>> from icechunk import azure_storage
    >>> azure_storage(account="me", container="data", prefix="repo", anonymous=True).description
    'az://data/repo (account me)'
    """
    return make_storage(
        "azure",
        account,
        container,
        prefix,
        azure_credentials(
            access_key=access_key,
            sas_token=sas_token,
            bearer_token=bearer_token,
            from_env=from_env,
            anonymous=anonymous,
            get_credentials=get_credentials,
            scatter_initial_credentials=scatter_initial_credentials,
        ),
        config=config,
        backend=backend,
    )


def http_storage(
    base_url: str,
    opts: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
    *,
    backend: Literal["auto", "aiohttp", "obstore"] = "auto",
) -> Storage:
    """Return a storage on a web server, for reading.

    Parameters
    ----------
    base_url : str
        Of the root of the repository.
    opts : dict of str to str, or None
        Options of the client: ``connect_timeout``, ``read_timeout``, ``timeout``, ``proxy_url``,
        ``user_agent``, ``allow_http``.
    headers : dict of str to str, or None
        Sent with every request. They travel with the storage when it is pickled.
    backend : {"auto", "aiohttp", "obstore"}
        Library that makes the requests. ``"auto"`` is obstore where it is installed and can do what
        the other arguments ask for, else aiohttp; both do the same.

    Returns
    -------
    Storage
        Not yet connected. Writing raises `ReadOnlyError`. There is no listing, which repositories
        of format version 2 do not need for reading.

    Raises
    ------
    InvalidInputError
        Kind ``cannot-parse-url`` or ``storage-config``; not the URL of a web server, or an unknown
        option.

    Examples
    --------
    >>> from icechunk import http_storage
    >>> http_storage("https://example.org/repo").description
    'https://example.org/repo'
    """
    return make_storage("http", base_url, opts=opts, headers=headers, backend=backend)


def redirect_storage(base_url: str) -> Storage:
    """Return the storage that a web server redirects to, for reading.

    Parameters
    ----------
    base_url : str
        Answered with an HTTP redirect, perhaps after others, to ``s3://BUCKET/PREFIX?region=R``,
        ``tigris://BUCKET/PREFIX?region=R``, ``r2://BUCKET/PREFIX?account_id=A``,
        ``gs://BUCKET/PREFIX``, ``http+icechunk://HOST/PATH`` or ``https+icechunk://HOST/PATH``.

    Returns
    -------
    Storage
        Asked for when the first object is read. It is read without credentials; writing raises
        `ReadOnlyError`.

    Raises
    ------
    InvalidInputError
        Kind ``cannot-parse-url``; not the URL of a web server.

    Examples
    --------
    >>> from icechunk import redirect_storage
    >>> redirect_storage("https://example.org/datasets/wind").description
    'https://example.org/datasets/wind'
    """
    return make_storage("redirect", base_url)
