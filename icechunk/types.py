"""Small public values that several layers share: enumerations, status, flags, attribution."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import EnumType, IntEnum
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias

from icechunk._display import Displayed, Plain, Shown, shown_time
from icechunk._earlier.spelling import with_other_spellings
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FEATURE_NAMES: Final[Mapping[int, str]] = {3: "move_node", 4: "create_tag", 5: "delete_tag"}
"""Feature flag ids and names; all are enabled unless a repository says otherwise."""

ATTRIBUTION_MAX_BYTES: Final = 128
CommitMethod: TypeAlias = Literal["new_commit", "amend"]
"""Whether a snapshot comes after the last one of a branch, or takes its place."""

_CLIENT: Final = re.compile(r"[!#-'*+\-.0-9A-Z^-z|~]+(/[!#-'*+\-.0-9A-Z^-z|~]+)?")
_FREE_TEXT_REFUSED: Final = re.compile(r'[^ -~]|["();=\\]')


class _NamedEnumType(EnumType):
    """Lists class methods beside the members, so that completion offers them."""

    def __dir__(cls) -> list[str]:
        methods = (n for n, v in vars(cls).items() if isinstance(v, classmethod) and n[0] != "_")
        return sorted({*super().__dir__(), *methods})


class _NamedEnum(IntEnum, metaclass=_NamedEnumType):
    """An enumeration that shows itself as ``Class.member``, as the official ones do."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    __str__ = __repr__


@with_other_spellings()
class ChunkType(_NamedEnum):
    """Where the bytes of a chunk are."""

    uninitialized = 0
    """Nowhere: it was never written."""
    native = 1
    """In an object of the repository."""
    virtual = 2
    """In a file outside the repository."""
    inline = 3
    """In the manifest itself."""


@with_other_spellings()
class SpecVersion(_NamedEnum):
    """Version of the on-disk format."""

    v1 = 1
    v2 = 2

    @classmethod
    def current(cls) -> SpecVersion:
        """Return the version new repositories get."""
        return cls.v2

    def __repr__(self) -> str:
        mark = " (current)" if self is SpecVersion.current() else ""
        return f"SpecVersion.{self.name}{mark}"

    __str__ = __repr__


def spec_version() -> SpecVersion:
    """Return the version of the format that new repositories get.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.spec_version()
    SpecVersion.v2 (current)
    """
    return SpecVersion.current()


def supported_spec_versions() -> list[SpecVersion]:
    """Return the versions of the format that are read and written, the newest first.

    Examples
    --------
    >>> import icechunk
    >>> icechunk.supported_spec_versions()
    [SpecVersion.v2 (current), SpecVersion.v1]
    """
    return sorted(SpecVersion, reverse=True)


@with_other_spellings()
class RepoAvailability(_NamedEnum):
    """Whether a repository takes writes."""

    online = 0
    read_only = 1


@with_other_spellings()
class CompressionAlgorithm(_NamedEnum):
    """How metadata files are compressed."""

    Zstd = 0

    @classmethod
    def default(cls) -> CompressionAlgorithm:
        """Return the algorithm used when none is set."""
        return cls.Zstd


@with_other_spellings()
class ChecksumAlgorithm(_NamedEnum):
    """Checksum sent with uploads to S3."""

    Crc32 = 0
    Crc32c = 1
    Crc64Nvme = 2
    Sha1 = 3
    Sha256 = 4

    @property
    def shown_name(self) -> str:
        """How options show it."""
        return f"icechunk.{self!r}"


@dataclass(frozen=True, slots=True, repr=False)
class RepoStatus(Displayed):
    """Whether a repository takes writes, since when and why.

    Parameters
    ----------
    availability : RepoAvailability
        Whether it takes writes.
    set_at : datetime.datetime or None
        When that was decided, with a time zone; now when None.
    limited_availability_reason : str or None
        Why it does not.

    Raises
    ------
    TypeError
        A time without zone.
    """

    _display_name: ClassVar[str] = "icechunk.repository.RepoStatus"

    availability: RepoAvailability
    set_at: datetime = None  # type: ignore[assignment] # filled in below
    limited_availability_reason: str | None = None

    def __post_init__(self) -> None:
        when: datetime | None = self.set_at
        if when is None:
            when = datetime.now(UTC)
        if when.tzinfo is None:
            raise TypeError("set_at must have a time zone: use datetime.now(datetime.UTC)")
        object.__setattr__(self, "availability", RepoAvailability(self.availability))
        object.__setattr__(self, "set_at", when.astimezone(UTC))

    def _display_fields(self) -> Iterable[Shown]:
        reason = self.limited_availability_reason
        names = {RepoAvailability.online: "Online", RepoAvailability.read_only: "ReadOnly"}
        return [
            Shown(name="availability", value=Plain(names[self.availability])),
            Shown(name="set_at", value=shown_time(self.set_at)),
            Shown(
                name="limited_availability_reason", value=None if reason is None else Plain(reason)
            ),
        ]

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class FeatureFlag(Displayed):
    """One operation that a repository can switch off.

    Parameters
    ----------
    id : int
        Number in the repository.
    name : str
        Name.
    default_enabled : bool
        Whether it is on when nothing is set.
    setting : bool or None
        What is set; None for nothing.
    """

    _display_name: ClassVar[str] = "icechunk.config.FeatureFlag"

    id: int
    name: str
    default_enabled: bool = True
    setting: bool | None = None

    @property
    def enabled(self) -> bool:
        """Whether the operation is allowed."""
        return self.default_enabled if self.setting is None else self.setting

    def _display_fields(self) -> Iterable[Shown]:
        return [
            Shown(name="id", value=self.id),
            Shown(name="name", value=Plain(self.name)),
            Shown(name="default_enabled", value=self.default_enabled),
            Shown(name="setting", value=self.setting),
            Shown(name="enabled", value=self.enabled),
        ]

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class Attribution(Displayed):
    """Who makes requests, for the logs of the object store.

    Parameters
    ----------
    client : str or None
        Program, ``name`` or ``name/version``, in the characters of an HTTP token.
    workload : str or None
        What the program is doing.
    principal : str or None
        For whom.

    Raises
    ------
    InvalidInputError
        Text longer than 128 bytes, or with a character that a user agent cannot carry.
    """

    _display_name: ClassVar[str] = "icechunk.Attribution"

    client: str | None = field(default=None)
    workload: str | None = None
    principal: str | None = None

    def __post_init__(self) -> None:
        for name in ("client", "workload", "principal"):
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise TypeError(f"attribution {name} must be a str, not {type(value).__name__}")
            _check_attribution(name, value)


def _check_attribution(name: str, value: str) -> None:
    if len(value.encode("utf-8", "replace")) > ATTRIBUTION_MAX_BYTES:
        problem = f"is longer than {ATTRIBUTION_MAX_BYTES} bytes"
    elif name == "client" and not _CLIENT.fullmatch(value):
        problem = f"must be name or name/version in HTTP token characters, got {value!r}"
    elif name != "client" and (found := _FREE_TEXT_REFUSED.search(value)):
        problem = f"contains the character {found.group()!r}, which a user agent cannot carry"
    else:
        return
    raise InvalidInputError(f"attribution {name} {problem}", ErrorKind.INVALID_KEY)
