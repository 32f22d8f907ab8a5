"""Access to virtual chunk containers: a credential of any family for each container.

Credentials are given when a repository is opened and never stored in it. Public path:
`icechunk.credentials`.

Source: Icechunk specification, section "Locations and containers".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from icechunk._cases import CaseUnion, TupleCase, closed
from icechunk.credential_values import (
    AzureCredentials,
    GcsCredentials,
    Redacted,
    S3Credentials,
)
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.credential_values import AnyAzureCredential, AnyGcsCredential, AnyS3Credential


@closed
class Credentials(CaseUnion):
    """Access to one virtual chunk container: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class S3(Redacted, TupleCase):
        """Credentials for S3 and compatible stores."""

        _0: AnyS3Credential

        def __post_init__(self) -> None:
            if not isinstance(self._0, S3Credentials):
                raise TypeError(f"expected S3Credentials, not {type(self._0).__name__}")

    @dataclass(frozen=True, slots=True, repr=False)
    class Gcs(Redacted, TupleCase):
        """Credentials for Google Cloud Storage."""

        _0: AnyGcsCredential

        def __post_init__(self) -> None:
            if not isinstance(self._0, GcsCredentials):
                raise TypeError(f"expected GcsCredentials, not {type(self._0).__name__}")

    @dataclass(frozen=True, slots=True, repr=False)
    class Azure(Redacted, TupleCase):
        """Credentials for Azure Blob Storage."""

        _0: AnyAzureCredential

        def __post_init__(self) -> None:
            if not isinstance(self._0, AzureCredentials):
                raise TypeError(f"expected AzureCredentials, not {type(self._0).__name__}")

    @dataclass(frozen=True, slots=True, repr=False)
    class LocalFileSystemAccess(Redacted, TupleCase):
        """Permission to read files of this machine."""

    @dataclass(frozen=True, slots=True, repr=False)
    class HttpAccess(Redacted, TupleCase):
        """Permission to read over HTTP."""


AnyCredential: TypeAlias = (
    Credentials.S3
    | Credentials.Gcs
    | Credentials.Azure
    | Credentials.LocalFileSystemAccess
    | Credentials.HttpAccess
)

LocalFileSystemAccess: Final = Credentials.LocalFileSystemAccess()
HttpAccess: Final = Credentials.HttpAccess()


def containers_credentials(
    m: Mapping[str, AnyS3Credential | AnyGcsCredential | AnyAzureCredential | AnyCredential | None]
    | None = None,
    **more: AnyS3Credential | AnyGcsCredential | AnyAzureCredential | AnyCredential | None,
) -> dict[str, AnyCredential | None]:
    """Make the map that authorises access to virtual chunk containers.

    Parameters
    ----------
    m : mapping of str to credentials
        Credentials by url prefix (or container name); None allows access with whatever the
        environment offers.
    **more
        The same, by name (the spelling of early releases).

    Returns
    -------
    dict of str to AnyCredential or None
        To give as ``authorize_virtual_chunk_access`` when opening a repository.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-credentials``; a value is no credential.

    Examples
    --------
    >>> access = icechunk.containers_credentials(
    ...     {"s3://bucket/": icechunk.s3_credentials(anonymous=True)}
    ... )
    >>> repo = icechunk.Repository.create(
    ...     icechunk.in_memory_storage(), authorize_virtual_chunk_access=access
    ... )
    """
    return {
        name: _container_credential(name, given) for name, given in {**(m or {}), **more}.items()
    }


def _container_credential(name: str, given: object) -> AnyCredential | None:
    made: AnyCredential
    match given:
        case None:
            return None
        case (
            S3Credentials.FromEnv()
            | S3Credentials.Anonymous()
            | S3Credentials.Static()
            | S3Credentials.Refreshable()
        ):
            made = Credentials.S3(given)
        case (
            GcsCredentials.FromEnv()
            | GcsCredentials.Anonymous()
            | GcsCredentials.Static()
            | GcsCredentials.Refreshable()
        ):
            made = Credentials.Gcs(given)
        case (
            AzureCredentials.FromEnv()
            | AzureCredentials.Anonymous()
            | AzureCredentials.Static()
            | AzureCredentials.Refreshable()
        ):
            made = Credentials.Azure(given)
        case (
            Credentials.S3()
            | Credentials.Gcs()
            | Credentials.Azure()
            | Credentials.LocalFileSystemAccess()
            | Credentials.HttpAccess()
        ):
            made = given
        case _:
            raise InvalidInputError(
                f"no credential for container {name!r}: {type(given).__name__}. Make one with "
                "s3_credentials, gcs_credentials or azure_credentials, or give "
                "LocalFileSystemAccess or HttpAccess",
                ErrorKind.INVALID_CREDENTIALS,
            )
    return made
