"""The credentials an object store is reached with, as values.

Three families (S3, Google Cloud Storage, Azure), each with the same four cases: taken from the
environment, anonymous, fixed, and refreshed by a callback. They hold no connection, pickle by
value, and never show a secret. Public path: `icechunk.credentials`.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from icechunk._cases import CaseUnion, TupleCase, closed, require_text
from icechunk._display import SECRET, Displayed, Plain, Shown, shown_time
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_Fetched = TypeVar("_Fetched")


class Redacted:
    """Mixin: the constructor call, with the fields marked ``repr=False`` hidden."""

    __slots__ = ()

    def __repr__(self) -> str:
        parts = [
            repr(getattr(self, f.name)) if f.repr else f'"{SECRET}"'
            for f in fields(self)  # type: ignore[arg-type] # subclasses are dataclasses
        ]
        return f"icechunk.credentials.{type(self).__qualname__}({', '.join(parts)})"


def _utc(when: datetime | None, name: str) -> datetime | None:
    if when is None:
        return None
    if not isinstance(when, datetime):
        raise TypeError(f"{name} must be a datetime or None, not {type(when).__name__}")
    if when.tzinfo is None:
        raise TypeError(f"{name} must have a time zone: use datetime.now(datetime.UTC)")
    return when.astimezone(UTC)


def _fetch(pickled_function: bytes, expected: type[_Fetched]) -> _Fetched:
    get_credentials: Callable[[], object] = pickle.loads(pickled_function)  # noqa: S301 # made by this package from the user's own function
    found = get_credentials()
    if not isinstance(found, expected):
        raise InvalidInputError(
            f"get_credentials must return {expected.__qualname__}, not {type(found).__name__}",
            ErrorKind.INVALID_CREDENTIALS,
        )
    return found


@dataclass(slots=True, repr=False)
class S3StaticCredentials(Displayed):
    """Fixed S3 credentials.

    Parameters
    ----------
    access_key_id : str
        Access key id.
    secret_access_key : str
        Secret, never shown.
    session_token : str or None
        Token of temporary credentials, never shown.
    expires_after : datetime.datetime or None
        When they end, with a time zone; kept in UTC. A refreshing callback is asked again then;
        None for never.

    Raises
    ------
    TypeError
        An argument of another type, or a time without zone.
    """

    _display_name: ClassVar[str] = "icechunk.credentials.S3StaticCredentials"

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None
    expires_after: datetime | None = None

    def __post_init__(self) -> None:
        require_text(self.access_key_id, "access_key_id")
        require_text(self.secret_access_key, "secret_access_key")
        if self.session_token is not None:
            require_text(self.session_token, "session_token")
        self.expires_after = _utc(self.expires_after, "expires_after")

    def _display_fields(self) -> Iterable[Shown]:
        expires = self.expires_after
        token = None if self.session_token is None else Plain(SECRET)
        return [
            Shown(name="access_key_id", value=Plain(self.access_key_id[:4] + SECRET)),
            Shown(name="secret_access_key", value=Plain(SECRET)),
            Shown(name="session_token", value=token),
            Shown(name="expires_after", value=None if expires is None else shown_time(expires)),
        ]

    # The constructor call could not be copied anyway, without its secrets.
    def __repr__(self) -> str:
        return str(self)


@closed
class S3Credentials(CaseUnion):
    """How to prove who one is to S3 and compatible stores: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class FromEnv(Redacted, TupleCase):
        """Take what the environment offers: variables, profile files, instance metadata."""

    @dataclass(frozen=True, slots=True, repr=False)
    class Anonymous(Redacted, TupleCase):
        """Send unsigned requests."""

    @dataclass(frozen=True, slots=True, repr=False)
    class Static(Redacted, TupleCase):
        """Use these credentials.

        Parameters
        ----------
        _0 : S3StaticCredentials
            The credentials.
        """

        _0: S3StaticCredentials

        def __post_init__(self) -> None:
            if not isinstance(self._0, S3StaticCredentials):
                raise TypeError(f"expected S3StaticCredentials, not {type(self._0).__name__}")

    @dataclass(frozen=True, slots=True, repr=False)
    class Refreshable(Redacted):
        """Ask a callback when there are none yet or they have expired.

        Parameters
        ----------
        pickled_function : bytes
            A pickled callable without parameters that returns `S3StaticCredentials`.
        current : S3StaticCredentials or None
            Credentials to start from, sent along to other processes.
        """

        pickled_function: bytes = field(repr=False)
        current: S3StaticCredentials | None = None

        def fetch(self) -> S3StaticCredentials:
            """Call the callback, in this thread.

            Returns
            -------
            S3StaticCredentials
                What it returned.

            Raises
            ------
            InvalidInputError
                Kind ``invalid-credentials``; the callback returned something else.
            """
            return _fetch(self.pickled_function, S3StaticCredentials)


@dataclass(frozen=True, slots=True, repr=False)
class GcsBearerCredential(Redacted):
    """A bearer token for Google Cloud Storage.

    Parameters
    ----------
    bearer : str
        The token, never shown.
    expires_after : datetime.datetime or None
        When it ends, with a time zone; None for never.
    """

    bearer: str = field(repr=False)
    expires_after: datetime | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        require_text(self.bearer, "bearer")
        object.__setattr__(self, "expires_after", _utc(self.expires_after, "expires_after"))


class _OneText(Redacted, TupleCase):
    """Mixin of a case that holds one string."""

    __slots__ = ()

    def __post_init__(self) -> None:
        require_text(self[0], type(self).__qualname__)


@closed
class GcsStaticCredentials(CaseUnion):
    """Fixed Google Cloud Storage credentials: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class ServiceAccount(_OneText):
        """Path of a service account file."""

        _0: str

    @dataclass(frozen=True, slots=True, repr=False)
    class ServiceAccountKey(_OneText):
        """Content of a service account file, as JSON text."""

        _0: str = field(repr=False)

    @dataclass(frozen=True, slots=True, repr=False)
    class ApplicationCredentials(_OneText):
        """Path of an application credentials file."""

        _0: str

    @dataclass(frozen=True, slots=True, repr=False)
    class BearerToken(_OneText):
        """A bearer token."""

        _0: str = field(repr=False)


@closed
class GcsCredentials(CaseUnion):
    """How to prove who one is to Google Cloud Storage: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class FromEnv(Redacted, TupleCase):
        """Take the application default credentials."""

    @dataclass(frozen=True, slots=True, repr=False)
    class Anonymous(Redacted, TupleCase):
        """Send requests without a token."""

    @dataclass(frozen=True, slots=True, repr=False)
    class Static(Redacted, TupleCase):
        """Use these credentials.

        Parameters
        ----------
        _0 : GcsStaticCredentials
            One of its cases.
        """

        _0: AnyGcsStaticCredential

        def __post_init__(self) -> None:
            if not isinstance(self._0, GcsStaticCredentials):
                raise TypeError(f"expected GcsStaticCredentials, not {type(self._0).__name__}")

    @dataclass(frozen=True, slots=True, repr=False)
    class Refreshable(Redacted):
        """Ask a callback when there is no token yet or it has expired.

        Parameters
        ----------
        pickled_function : bytes
            A pickled callable without parameters that returns `GcsBearerCredential`.
        current : GcsBearerCredential or None
            Token to start from, sent along to other processes.
        """

        pickled_function: bytes = field(repr=False)
        current: GcsBearerCredential | None = None

        def fetch(self) -> GcsBearerCredential:
            """Call the callback, in this thread.

            Returns
            -------
            GcsBearerCredential
                What it returned.

            Raises
            ------
            InvalidInputError
                Kind ``invalid-credentials``; the callback returned something else.
            """
            return _fetch(self.pickled_function, GcsBearerCredential)


@closed
class AzureStaticCredentials(CaseUnion):
    """Fixed Azure Blob Storage credentials: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class AccessKey(_OneText):
        """An account key."""

        _0: str = field(repr=False)

    @dataclass(frozen=True, slots=True, repr=False)
    class SasToken(_OneText):
        """A shared access signature."""

        _0: str = field(repr=False)

    @dataclass(frozen=True, slots=True, repr=False)
    class BearerToken(_OneText):
        """A bearer token."""

        _0: str = field(repr=False)


@closed
class AzureRefreshableCredential(CaseUnion):
    """What an Azure refresh callback returns: one of the nested cases, each with its end."""

    @dataclass(frozen=True, slots=True, repr=False)
    class AccessKey(Redacted):
        """An account key."""

        key: str = field(repr=False)
        expires_after: datetime | None = None

        def __post_init__(self) -> None:
            require_text(self.key, "key")
            object.__setattr__(self, "expires_after", _utc(self.expires_after, "expires_after"))

    @dataclass(frozen=True, slots=True, repr=False)
    class SasToken(Redacted):
        """A shared access signature."""

        token: str = field(repr=False)
        expires_after: datetime | None = None

        def __post_init__(self) -> None:
            require_text(self.token, "token")
            object.__setattr__(self, "expires_after", _utc(self.expires_after, "expires_after"))

    @dataclass(frozen=True, slots=True, repr=False)
    class BearerToken(Redacted):
        """A bearer token."""

        bearer: str = field(repr=False)
        expires_after: datetime | None = None

        def __post_init__(self) -> None:
            require_text(self.bearer, "bearer")
            object.__setattr__(self, "expires_after", _utc(self.expires_after, "expires_after"))


@closed
class AzureCredentials(CaseUnion):
    """How to prove who one is to Azure Blob Storage: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class FromEnv(Redacted, TupleCase):
        """Take what the environment offers."""

    @dataclass(frozen=True, slots=True, repr=False)
    class Anonymous(Redacted, TupleCase):
        """Send unsigned requests."""

    @dataclass(frozen=True, slots=True, repr=False)
    class Static(Redacted, TupleCase):
        """Use these credentials.

        Parameters
        ----------
        _0 : AzureStaticCredentials
            One of its cases.
        """

        _0: AnyAzureStaticCredential

        def __post_init__(self) -> None:
            if not isinstance(self._0, AzureStaticCredentials):
                raise TypeError(f"expected AzureStaticCredentials, not {type(self._0).__name__}")

    @dataclass(frozen=True, slots=True, repr=False)
    class Refreshable(Redacted):
        """Ask a callback when there is no credential yet or it has expired.

        Parameters
        ----------
        pickled_function : bytes
            A pickled callable without parameters that returns a case of
            `AzureRefreshableCredential`.
        current : AzureRefreshableCredential or None
            Credential to start from, sent along to other processes.
        """

        pickled_function: bytes = field(repr=False)
        current: AnyAzureRefreshableCredential | None = None

        def fetch(self) -> AnyAzureRefreshableCredential:
            """Call the callback, in this thread.

            Returns
            -------
            AzureRefreshableCredential
                What it returned.

            Raises
            ------
            InvalidInputError
                Kind ``invalid-credentials``; the callback returned something else.
            """
            found: Any = _fetch(self.pickled_function, AzureRefreshableCredential)
            case: AnyAzureRefreshableCredential = found
            return case


AnyS3Credential: TypeAlias = (
    S3Credentials.Static
    | S3Credentials.Anonymous
    | S3Credentials.FromEnv
    | S3Credentials.Refreshable
)
AnyGcsStaticCredential: TypeAlias = (
    GcsStaticCredentials.ServiceAccount
    | GcsStaticCredentials.ServiceAccountKey
    | GcsStaticCredentials.ApplicationCredentials
    | GcsStaticCredentials.BearerToken
)
AnyGcsCredential: TypeAlias = (
    GcsCredentials.Anonymous
    | GcsCredentials.FromEnv
    | GcsCredentials.Static
    | GcsCredentials.Refreshable
)
AnyAzureStaticCredential: TypeAlias = (
    AzureStaticCredentials.AccessKey
    | AzureStaticCredentials.SasToken
    | AzureStaticCredentials.BearerToken
)
AnyAzureRefreshableCredential: TypeAlias = (
    AzureRefreshableCredential.AccessKey
    | AzureRefreshableCredential.SasToken
    | AzureRefreshableCredential.BearerToken
)
AnyAzureCredential: TypeAlias = (
    AzureCredentials.FromEnv
    | AzureCredentials.Anonymous
    | AzureCredentials.Static
    | AzureCredentials.Refreshable
)
