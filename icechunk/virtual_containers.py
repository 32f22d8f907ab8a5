"""Virtual chunk containers and references: which outside places chunks may be read from.

A container says which locations it is for (a url prefix, or a name that locations use instead) and
how their store is reached. Credentials are no part of it. Public path: `icechunk.virtual`.

Source: Icechunk specification, section "Locations and containers".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from icechunk._cases import require_text
from icechunk._display import Displayed, Shown, shown_time
from icechunk._earlier.spelling import name_first
from icechunk._settings import Settings, required, text
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.object_store_config import ObjectStoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk.object_store_config import AnyObjectStoreConfig

# Schemes that a case of `ObjectStoreConfig` of their own is for.
_TAKEN: Final = frozenset(
    scheme
    for case in (
        ObjectStoreConfig.LocalFileSystem,
        ObjectStoreConfig.Http,
        ObjectStoreConfig.S3,
        ObjectStoreConfig.Tigris,
        ObjectStoreConfig.Gcs,
        ObjectStoreConfig.Azure,
    )
    for scheme in case._schemes  # noqa: SLF001 (of the cases, which have no instance yet)
) | {"vcc"}

NAMED_SCHEME: Final = "vcc://"
"""Start of a location that names its container: ``vcc://NAME/REST``."""


@name_first
@dataclass(slots=True, repr=False)
class VirtualChunkContainer(Settings):
    """A place that virtual chunks may be read from.

    Parameters
    ----------
    url_prefix : str
        Start of the locations it is for: scheme, host and path, with a ``/`` at the end. With a
        name ``s3://`` will do, for all buckets.
    store : ObjectStoreConfig
        How the store is reached.
    name : str or None
        Name that locations may use instead of the prefix (``vcc://NAME/...``).

    Examples
    --------
    >>> store = icechunk.s3_store(region="us-east-1")
    >>> container = icechunk.VirtualChunkContainer("s3://bucket/", store, name="archive")
    """

    _display_name: ClassVar[str] = "icechunk.virtual.VirtualChunkContainer"
    _display_order: ClassVar[tuple[str, ...] | None] = ("name", "url_prefix", "store")

    url_prefix: str = text(required=True)
    store: AnyObjectStoreConfig = required(ObjectStoreConfig)
    name: str | None = text()

    def place_of(self, location: str) -> str:
        """Return the start of a location that is bucket and prefix.

        That is the url prefix, and where it names no bucket (an earlier form) the location's own.
        """
        prefix = self.url_prefix
        if prefix.endswith("://"):
            return prefix + location[len(prefix) :].partition("/")[0] + "/"
        return prefix


def container_problem(container: VirtualChunkContainer) -> str | None:
    """Say why a container cannot be used; None when it can.

    Parameters
    ----------
    container : VirtualChunkContainer
        As a user or a stored config gave it.

    Returns
    -------
    str or None
        What is wrong and what is expected.
    """
    prefix, name = container.url_prefix, container.name
    if not prefix.endswith("/"):
        return f"url_prefix must end in a / character, got {prefix!r}"
    if name is not None and (not name or "/" in name):
        return f"name must be non-empty and not contain '/', got {name!r}"
    try:
        url = urlsplit(prefix)
        host = url.hostname
    except ValueError as exc:
        return f"url_prefix is no URL: {prefix!r} ({exc})"
    schemes = container.store.schemes
    of_fsspec = isinstance(container.store, ObjectStoreConfig.InMemory)
    if url.scheme not in schemes and not (of_fsspec and url.scheme not in _TAKEN and url.scheme):
        return (
            f"url_prefix {prefix!r} does not fit its store {type(container.store).__name__}, "
            f"which is for {' and '.join(f'{s}://' for s in schemes) or 'no location'}"
        )
    if url.scheme == "file":
        missing = None if url.path.strip("/.") else "path"
    else:
        for_all_buckets = name is not None and url.scheme == "s3"
        missing = None if host or for_all_buckets else "bucket or host"
    return f"url_prefix must include a {missing}, got {prefix!r}" if missing else None


def require_usable(container: VirtualChunkContainer) -> None:
    """Refuse a container that cannot be used.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; `container_problem` found something.
    """
    problem = container_problem(container)
    if problem is not None:
        raise InvalidInputError(f"VirtualChunkContainer {problem}", ErrorKind.INVALID_VIRTUAL_REF)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSet:
    """The containers of a repository, for looking up locations.

    Parameters
    ----------
    by_length : tuple of VirtualChunkContainer
        Usable containers, longest prefix first.
    """

    by_length: tuple[VirtualChunkContainer, ...]
    _by_name: dict[str, VirtualChunkContainer] = field(repr=False, compare=False)

    @classmethod
    def of(cls, containers: Iterable[VirtualChunkContainer]) -> ContainerSet:
        """Make a set of usable containers."""
        ordered = sorted(containers, key=lambda c: (-len(c.url_prefix), c.url_prefix))
        named = {c.name: c for c in ordered if c.name is not None}
        return cls(by_length=tuple(ordered), _by_name=named)

    def __len__(self) -> int:
        return len(self.by_length)

    def prefixes(self) -> list[str]:
        """Return the URL prefix of each container, longest first."""
        return [container.url_prefix for container in self.by_length]

    def find(self, location: str) -> VirtualChunkContainer | None:
        """Return the container a location belongs to.

        Parameters
        ----------
        location : str
            As stored in a manifest: absolute, or ``vcc://NAME/REST``.

        Returns
        -------
        VirtualChunkContainer or None
            By name for ``vcc://``; else the one with the longest prefix that the location starts
            with; None when there is none.
        """
        if location.startswith(NAMED_SCHEME):
            name = location[len(NAMED_SCHEME) :].partition("/")[0]
            return self._by_name.get(name)
        for container in self.by_length:
            if location.startswith(container.url_prefix):
                return container
        return None

    def absolute(self, location: str) -> str:
        """Return the full location behind a ``vcc://`` one; an absolute one as it is.

        Raises
        ------
        InvalidInputError
            Kind ``no-container-for-virtual-chunk``; no container of that name.
        """
        if not location.startswith(NAMED_SCHEME):
            return location
        name, _, rest = location[len(NAMED_SCHEME) :].partition("/")
        container = self._by_name.get(name)
        if container is None:
            raise self.missing(location)
        return container.url_prefix + rest

    def require(self, location: str) -> VirtualChunkContainer:
        """Return the container a location belongs to.

        Raises
        ------
        InvalidInputError
            Kind ``no-container-for-virtual-chunk``; there is none.
        """
        container = self.find(location)
        if container is None:
            raise self.missing(location)
        return container

    def missing(self, location: str) -> InvalidInputError:
        """Return the error for a location that belongs to no container."""
        known = ", ".join(c.url_prefix for c in self.by_length) or "none"
        return InvalidInputError(
            f"no virtual chunk container for {location!r}; the repository has: {known}. Add one "
            "with config.set_virtual_chunk_container and open the repository with that config.",
            ErrorKind.NO_CONTAINER_FOR_VIRTUAL_CHUNK,
        )


@dataclass(frozen=True, slots=True, repr=False)
class VirtualChunkSpec(Displayed):
    """One virtual reference to set.

    Parameters
    ----------
    index : sequence of int
        Chunk coordinates, one for each axis; unit: chunks.
    location : str
        Absolute URL, or ``vcc://NAME/REST``.
    offset : int
        First byte; unit: bytes.
    length : int
        Number of bytes.
    etag_checksum : str or None
        Entity tag the object must have when it is read.
    last_updated_at_checksum : datetime.datetime or None
        With a time zone; reading fails when the object was changed later.

    Raises
    ------
    TypeError
        An argument of another type, or a time without zone.
    ValueError
        A number out of the range that can be stored.

    Examples
    --------
    >>> spec = icechunk.VirtualChunkSpec([0, 1], "s3://bucket/file", offset=100, length=50)
    """

    _display_name: ClassVar[str] = "icechunk.virtual.VirtualChunkSpec"

    index: Sequence[int]
    location: str
    offset: int
    length: int
    etag_checksum: str | None = None
    last_updated_at_checksum: datetime | None = None

    def __post_init__(self) -> None:
        require_text(self.location, "location")
        if self.etag_checksum is not None:
            require_text(self.etag_checksum, "etag_checksum")
        when = self.last_updated_at_checksum
        if when is not None:
            if not isinstance(when, datetime):
                raise TypeError(
                    f"last_updated_at_checksum must be a datetime, not {type(when).__name__}"
                )
            if when.tzinfo is None:
                raise TypeError(
                    "last_updated_at_checksum must have a time zone: use datetime.now(datetime.UTC)"
                )
            object.__setattr__(self, "last_updated_at_checksum", when.astimezone(UTC))
        object.__setattr__(self, "index", [_below(i, 32, "index") for i in self.index])
        object.__setattr__(self, "offset", _below(self.offset, 64, "offset"))
        object.__setattr__(self, "length", _below(self.length, 64, "length"))

    def _display_fields(self) -> Iterable[Shown]:
        when = self.last_updated_at_checksum
        values: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__}
        values["last_updated_at_checksum"] = None if when is None else shown_time(when)
        return [Shown(name=name, value=value) for name, value in values.items()]


def _below(value: int, bits: int, name: str) -> int:
    number = operator.index(value)
    if not 0 <= number < 2**bits:
        raise ValueError(f"{name} must be at least 0 and below 2**{bits}, got {number}")
    return number
