"""Make credentials for storages and virtual chunk containers.

The functions choose the case from what is given: nothing means the environment, and contradictory
arguments are refused. The values themselves are described in `icechunk.credential_values`.
"""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

from icechunk.container_access import (
    AnyCredential,
    Credentials,
    HttpAccess,
    LocalFileSystemAccess,
    containers_credentials,
)
from icechunk.credential_values import (
    AnyAzureCredential,
    AnyAzureRefreshableCredential,
    AnyAzureStaticCredential,
    AnyGcsCredential,
    AnyGcsStaticCredential,
    AnyS3Credential,
    AzureCredentials,
    AzureRefreshableCredential,
    AzureStaticCredentials,
    GcsBearerCredential,
    GcsCredentials,
    GcsStaticCredentials,
    S3Credentials,
    S3StaticCredentials,
)
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

__all__ = [
    "AnyAzureCredential",
    "AnyAzureRefreshableCredential",
    "AnyAzureStaticCredential",
    "AnyCredential",
    "AnyGcsCredential",
    "AnyGcsStaticCredential",
    "AnyS3Credential",
    "AzureCredentials",
    "AzureRefreshableCredential",
    "AzureStaticCredentials",
    "Credentials",
    "GcsBearerCredential",
    "GcsCredentials",
    "GcsStaticCredentials",
    "HttpAccess",
    "LocalFileSystemAccess",
    "S3Credentials",
    "S3StaticCredentials",
    "azure_anonymous_credentials",
    "azure_credentials",
    "azure_from_env_credentials",
    "azure_refreshable_credentials",
    "azure_static_credentials",
    "containers_credentials",
    "gcs_anonymous_credentials",
    "gcs_credentials",
    "gcs_from_env_credentials",
    "gcs_refreshable_credentials",
    "gcs_static_credentials",
    "s3_anonymous_credentials",
    "s3_credentials",
    "s3_from_env_credentials",
    "s3_refreshable_credentials",
    "s3_static_credentials",
]


def _choose(maker: str, ways: Mapping[str, object]) -> str:
    """Return the one way that was given; ``from_env`` when none was."""
    given = [name for name, value in ways.items() if value is not None and value is not False]
    if len(given) > 1:
        raise InvalidInputError(
            f"contradictory arguments to {maker}: give only one of {' / '.join(given)}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    return given[0] if given else "from_env"


def _pickled(get_credentials: Callable[[], object]) -> bytes:
    if not callable(get_credentials):
        raise InvalidInputError(
            f"get_credentials must be a function, not {type(get_credentials).__name__}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    try:
        return pickle.dumps(get_credentials)
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        raise InvalidInputError(
            f"get_credentials cannot be pickled ({exc}); it travels to other processes, so define "
            "it with def at the top level of a module, not as a lambda or inside a function",
            ErrorKind.INVALID_CREDENTIALS,
        ) from exc


# --- S3 ---------------------------------------------------------------------------------------


def s3_from_env_credentials() -> S3Credentials.FromEnv:
    """Take S3 credentials from the environment."""
    return S3Credentials.FromEnv()


def s3_anonymous_credentials() -> S3Credentials.Anonymous:
    """Send unsigned requests to S3."""
    return S3Credentials.Anonymous()


def s3_static_credentials(
    *,
    access_key_id: str,
    secret_access_key: str,
    session_token: str | None = None,
    expires_after: datetime | None = None,
) -> S3Credentials.Static:
    """Use fixed S3 credentials.

    Parameters
    ----------
    access_key_id : str
        Access key id.
    secret_access_key : str
        Secret.
    session_token : str or None
        Token of temporary credentials.
    expires_after : datetime.datetime or None
        When they end, with a time zone; None for never.

    Returns
    -------
    S3Credentials.Static
        The credentials.

    Examples
    --------
    >>> credentials = icechunk.s3_static_credentials(access_key_id="key", secret_access_key="hush")
    >>> "hush" in repr(credentials)
    False
    """
    return S3Credentials.Static(
        S3StaticCredentials(access_key_id, secret_access_key, session_token, expires_after)
    )


def s3_refreshable_credentials(
    get_credentials: Callable[[], S3StaticCredentials],
    scatter_initial_credentials: bool = False,
) -> S3Credentials.Refreshable:
    """Use S3 credentials that a callback renews.

    Parameters
    ----------
    get_credentials : callable
        Called without arguments, in a thread, when there are no credentials yet or they have
        expired. It is pickled, so it must be importable.
    scatter_initial_credentials : bool
        Call it once now, and send the result along wherever the credentials are pickled to.

    Returns
    -------
    S3Credentials.Refreshable
        The credentials.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; the callback cannot be pickled, or returns another type.

    Examples
    --------
    >>> from os import getlogin as ask_for_them  # your own function, at the top level of a module
    >>> credentials = icechunk.s3_refreshable_credentials(ask_for_them)
    """
    made = S3Credentials.Refreshable(_pickled(get_credentials))
    if scatter_initial_credentials:
        return S3Credentials.Refreshable(made.pickled_function, made.fetch())
    return made


def s3_credentials(
    *,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyS3Credential:
    """Make S3 credentials; from the environment when nothing is given.

    Parameters
    ----------
    access_key_id, secret_access_key : str or None
        Fixed credentials; both or neither.
    session_token : str or None
        With fixed credentials.
    expires_after : datetime.datetime or None
        With fixed credentials: when they end, with a time zone.
    anonymous : bool or None
        Send unsigned requests.
    from_env : bool or None
        Take what the environment offers.
    get_credentials : callable or None
        Returns `S3StaticCredentials`, whenever they are missing or expired.
    scatter_initial_credentials : bool
        Call ``get_credentials`` once now and send the result along.

    Returns
    -------
    AnyS3Credential
        One of the cases of `S3Credentials`.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; contradictory or incomplete arguments.

    Examples
    --------
    >>> icechunk.s3_credentials(anonymous=True)
    icechunk.credentials.S3Credentials.Anonymous()
    """
    fixed = (access_key_id, secret_access_key, session_token, expires_after)
    is_fixed = any(part is not None for part in fixed)
    way = _choose(
        "s3_credentials",
        {
            "access_key_id, secret_access_key": is_fixed,
            "anonymous": anonymous,
            "from_env": from_env,
            "get_credentials": get_credentials,
        },
    )
    if get_credentials is not None:
        return s3_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if is_fixed:
        if access_key_id is None or secret_access_key is None:
            raise InvalidInputError(
                "s3_credentials needs both access_key_id and secret_access_key",
                ErrorKind.INVALID_CREDENTIALS,
            )
        return s3_static_credentials(
            access_key_id=access_key_id,
            secret_access_key=secret_access_key,
            session_token=session_token,
            expires_after=expires_after,
        )
    return s3_anonymous_credentials() if way == "anonymous" else s3_from_env_credentials()


# --- Google Cloud Storage ---------------------------------------------------------------------


def gcs_from_env_credentials() -> GcsCredentials.FromEnv:
    """Take the application default credentials of Google Cloud."""
    return GcsCredentials.FromEnv()


def gcs_anonymous_credentials() -> GcsCredentials.Anonymous:
    """Send requests to Google Cloud Storage without a token."""
    return GcsCredentials.Anonymous()


def gcs_static_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | Mapping[str, str] | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
) -> AnyGcsStaticCredential:
    """Use fixed Google Cloud Storage credentials; give exactly one argument.

    Parameters
    ----------
    service_account_file : str or None
        Path of a service account file.
    service_account_key : str or mapping or None
        Content of a service account file, as JSON text or parsed.
    application_credentials : str or None
        Path of an application credentials file.
    bearer_token : str or None
        Bearer token.

    Returns
    -------
    AnyGcsStaticCredential
        One of the cases of `GcsStaticCredentials`.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; none or several given.

    Examples
    --------
    >>> credentials = icechunk.gcs_static_credentials(bearer_token="token")
    """
    _choose(
        "gcs_static_credentials",
        {
            "service_account_file": service_account_file,
            "service_account_key": service_account_key,
            "application_credentials": application_credentials,
            "bearer_token": bearer_token,
        },
    )
    if service_account_file is not None:
        return GcsStaticCredentials.ServiceAccount(service_account_file)
    if service_account_key is not None:
        if not isinstance(service_account_key, str):
            service_account_key = json.dumps(dict(service_account_key))
        return GcsStaticCredentials.ServiceAccountKey(service_account_key)
    if application_credentials is not None:
        return GcsStaticCredentials.ApplicationCredentials(application_credentials)
    if bearer_token is not None:
        return GcsStaticCredentials.BearerToken(bearer_token)
    raise _nothing_given("gcs_static_credentials")


def _nothing_given(maker: str) -> InvalidInputError:
    return InvalidInputError(
        f"{maker} needs one credential, none was given", ErrorKind.INVALID_CREDENTIALS
    )


def gcs_refreshable_credentials(
    get_credentials: Callable[[], GcsBearerCredential],
    scatter_initial_credentials: bool = False,
) -> GcsCredentials.Refreshable:
    """Use a Google Cloud Storage token that a callback renews.

    Parameters
    ----------
    get_credentials : callable
        Called without arguments, in a thread, when there is no token yet or it has expired. It is
        pickled, so it must be importable.
    scatter_initial_credentials : bool
        Call it once now, and send the result along wherever the credentials are pickled to.

    Returns
    -------
    GcsCredentials.Refreshable
        The credentials.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; the callback cannot be pickled, or returns another type.

    Examples
    --------
    >>> from os import getlogin as ask_for_them  # your own function, at the top level of a module
    >>> credentials = icechunk.gcs_refreshable_credentials(ask_for_them)
    """
    made = GcsCredentials.Refreshable(_pickled(get_credentials))
    if scatter_initial_credentials:
        return GcsCredentials.Refreshable(made.pickled_function, made.fetch())
    return made


def gcs_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | Mapping[str, str] | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyGcsCredential:
    """Make Google Cloud Storage credentials; from the environment when nothing is given.

    Parameters
    ----------
    service_account_file : str or None
        Path of a service account file.
    service_account_key : str or mapping or None
        Content of a service account file, as JSON text or parsed.
    application_credentials : str or None
        Path of an application credentials file.
    bearer_token : str or None
        Bearer token.
    from_env : bool or None
        Take the application default credentials.
    anonymous : bool or None
        Send requests without a token.
    get_credentials : callable or None
        Returns a `GcsBearerCredential`, whenever it is missing or expired.
    scatter_initial_credentials : bool
        Call ``get_credentials`` once now and send the result along.

    Returns
    -------
    AnyGcsCredential
        One of the cases of `GcsCredentials`.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; contradictory arguments.

    Examples
    --------
    >>> credentials = icechunk.gcs_credentials(service_account_file="account.json")
    """
    way = _choose(
        "gcs_credentials",
        {
            "service_account_file": service_account_file,
            "service_account_key": service_account_key,
            "application_credentials": application_credentials,
            "bearer_token": bearer_token,
            "from_env": from_env,
            "anonymous": anonymous,
            "get_credentials": get_credentials,
        },
    )
    if get_credentials is not None:
        return gcs_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if way == "from_env":
        return gcs_from_env_credentials()
    if way == "anonymous":
        return gcs_anonymous_credentials()
    return GcsCredentials.Static(
        gcs_static_credentials(
            service_account_file=service_account_file,
            service_account_key=service_account_key,
            application_credentials=application_credentials,
            bearer_token=bearer_token,
        )
    )


# --- Azure ------------------------------------------------------------------------------------


def azure_from_env_credentials() -> AzureCredentials.FromEnv:
    """Take Azure credentials from the environment."""
    return AzureCredentials.FromEnv()


def azure_anonymous_credentials() -> AzureCredentials.Anonymous:
    """Send unsigned requests to Azure Blob Storage."""
    return AzureCredentials.Anonymous()


def azure_static_credentials(
    *,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
) -> AnyAzureStaticCredential:
    """Use fixed Azure credentials; give exactly one argument.

    Parameters
    ----------
    access_key : str or None
        Account key.
    sas_token : str or None
        Shared access signature.
    bearer_token : str or None
        Bearer token.

    Returns
    -------
    AnyAzureStaticCredential
        One of the cases of `AzureStaticCredentials`.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; none or several given.

    Examples
    --------
    >>> credentials = icechunk.azure_static_credentials(sas_token="token")
    """
    _choose(
        "azure_static_credentials",
        {"access_key": access_key, "sas_token": sas_token, "bearer_token": bearer_token},
    )
    if access_key is not None:
        return AzureStaticCredentials.AccessKey(access_key)
    if sas_token is not None:
        return AzureStaticCredentials.SasToken(sas_token)
    if bearer_token is not None:
        return AzureStaticCredentials.BearerToken(bearer_token)
    raise _nothing_given("azure_static_credentials")


def azure_refreshable_credentials(
    get_credentials: Callable[[], AnyAzureRefreshableCredential],
    scatter_initial_credentials: bool = False,
) -> AzureCredentials.Refreshable:
    """Use an Azure credential that a callback renews.

    Parameters
    ----------
    get_credentials : callable
        Called without arguments, in a thread, when there is no credential yet or it has expired;
        returns a case of `AzureRefreshableCredential`. It is pickled, so it must be importable.
    scatter_initial_credentials : bool
        Call it once now, and send the result along wherever the credentials are pickled to.

    Returns
    -------
    AzureCredentials.Refreshable
        The credentials.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; the callback cannot be pickled, or returns another type.

    Examples
    --------
    >>> from os import getlogin as ask_for_them  # your own function, at the top level of a module
    >>> credentials = icechunk.azure_refreshable_credentials(ask_for_them)
    """
    made = AzureCredentials.Refreshable(_pickled(get_credentials))
    if scatter_initial_credentials:
        return AzureCredentials.Refreshable(made.pickled_function, made.fetch())
    return made


def azure_credentials(
    *,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], AnyAzureRefreshableCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyAzureCredential:
    """Make Azure credentials; from the environment when nothing is given.

    Parameters
    ----------
    access_key : str or None
        Account key.
    sas_token : str or None
        Shared access signature.
    bearer_token : str or None
        Bearer token.
    from_env : bool or None
        Take what the environment offers.
    anonymous : bool or None
        Send unsigned requests.
    get_credentials : callable or None
        Returns a case of `AzureRefreshableCredential`, whenever it is missing or expired.
    scatter_initial_credentials : bool
        Call ``get_credentials`` once now and send the result along.

    Returns
    -------
    AnyAzureCredential
        One of the cases of `AzureCredentials`.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; contradictory arguments.

    Examples
    --------
    >>> credentials = icechunk.azure_credentials(access_key="key")
    """
    way = _choose(
        "azure_credentials",
        {
            "access_key": access_key,
            "sas_token": sas_token,
            "bearer_token": bearer_token,
            "from_env": from_env,
            "anonymous": anonymous,
            "get_credentials": get_credentials,
        },
    )
    if get_credentials is not None:
        return azure_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if way == "from_env":
        return azure_from_env_credentials()
    if way == "anonymous":
        return azure_anonymous_credentials()
    return AzureCredentials.Static(
        azure_static_credentials(
            access_key=access_key, sas_token=sas_token, bearer_token=bearer_token
        )
    )
