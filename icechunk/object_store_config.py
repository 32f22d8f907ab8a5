"""Stores that virtual chunk containers are in, and how each is reached.

Public paths: `icechunk.config` for the values, `icechunk.storage` for the makers.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from icechunk._cases import CaseUnion, TupleCase, closed, require_text
from icechunk._display import Displayed, Plain, Shown, quoted, shown_mapping
from icechunk._settings import Settings, flag, instance, text, unsigned
from icechunk.types import ChecksumAlgorithm

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True, repr=False)
class S3Options(Settings):
    """How an S3 or compatible store is reached.

    Parameters
    ----------
    region : str or None
        Region; None to find it out.
    endpoint_url : str or None
        Server, instead of the one of the region.
    allow_http : bool
        Accept an endpoint without TLS.
    anonymous : bool
        Send unsigned requests.
    force_path_style : bool
        Put the bucket in the path instead of the host name.
    network_stream_timeout_seconds : int or None
        Give up when no byte came for so many seconds; 0 for never, None for the client's choice.
    requester_pays : bool
        Accept the charges of a bucket that makes readers pay.
    checksum_algorithm : ChecksumAlgorithm or None
        Checksum sent with uploads.
    """

    _display_name: ClassVar[str] = "icechunk.storage.S3Options"

    region: str | None = text()
    endpoint_url: str | None = text()
    allow_http: bool = flag(default=False)
    anonymous: bool = flag(default=False)
    force_path_style: bool = flag(default=False)
    network_stream_timeout_seconds: int | None = unsigned(32)
    requester_pays: bool = flag(default=False)
    checksum_algorithm: ChecksumAlgorithm | None = instance(ChecksumAlgorithm)


def _options(given: Mapping[str, str] | None, name: str) -> dict[str, str] | None:
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(given).__name__}")
    for key, value in given.items():
        require_text(key, f"a key of {name}")
        require_text(value, f"{name}[{key!r}]")
    return dict(given)


class _StoreCase(TupleCase, Displayed):
    """Mixin of a case of `ObjectStoreConfig`: shown as the call that makes it."""

    __slots__ = ()
    _schemes: ClassVar[tuple[str, ...]]

    @property
    def schemes(self) -> tuple[str, ...]:
        """Schemes of the locations such a store is for."""
        return self._schemes

    def _arguments(self) -> str:
        return ", ".join(str(shown.value) for shown in self._display_fields())

    def __repr__(self) -> str:
        return f"{self._display_name}({self._arguments()})"


class _S3Case(_StoreCase):
    """Mixin of the cases that hold `S3Options`."""

    __slots__ = ()

    def __post_init__(self) -> None:
        if not isinstance(self[0], S3Options):
            raise TypeError(f"expected S3Options, not {type(self[0]).__name__}")

    def _display_fields(self) -> Iterable[Shown]:
        return [Shown(name=n, value=getattr(self[0], n)) for n in S3Options.__slots__]

    def _arguments(self) -> str:
        return repr(self[0])


@closed
class ObjectStoreConfig(CaseUnion):
    """How the store of a virtual chunk container is reached: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class InMemory(_StoreCase):
        """Of this process only: its memory, or a file system that fsspec knows.

        For locations below ``memory://NAME/``, and for those of any scheme that no other case is
        for, such as ``sftp://``. Other implementations cannot read from such a container.
        """

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.InMemory"
        _schemes: ClassVar[tuple[str, ...]] = ("memory",)

    @dataclass(frozen=True, slots=True, repr=False)
    class LocalFileSystem(_StoreCase):
        """Files of this machine.

        Parameters
        ----------
        _0 : path
            Directory.
        """

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.LocalFileSystem"
        _schemes: ClassVar[tuple[str, ...]] = ("file",)

        _0: str

        # Text, not a Path, which would drop the slash at the end that is stored.
        def __init__(self, _0: str | os.PathLike[str]) -> None:
            object.__setattr__(self, "_0", os.fspath(_0))
            require_text(self._0, "path")

        def _display_fields(self) -> Iterable[Shown]:
            return [Shown(name="path", value=Plain(quoted(self._0)))]

    @dataclass(frozen=True, slots=True, repr=False)
    class Http(_StoreCase):
        """A web server.

        Parameters
        ----------
        _0 : dict of str to str, or None
            Options of the client.
        _1 : dict of str to str, or None
            Headers sent with every request.
        """

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.Http"
        _schemes: ClassVar[tuple[str, ...]] = ("http", "https")

        _0: dict[str, str] | None = None
        _1: dict[str, str] | None = None

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", _options(self._0, "opts"))
            object.__setattr__(self, "_1", _options(self._1, "headers"))

        def _display_fields(self) -> Iterable[Shown]:
            return [
                Shown(name="opts", value=shown_mapping(self._0)),
                Shown(name="headers", value=shown_mapping(self._1)),
            ]

    @dataclass(frozen=True, slots=True, repr=False)
    class S3(_S3Case):
        """Amazon S3."""

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.S3"
        _schemes: ClassVar[tuple[str, ...]] = ("s3",)

        _0: S3Options

    @dataclass(frozen=True, slots=True, repr=False)
    class S3Compatible(_S3Case):
        """A store that speaks the language of S3."""

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.S3Compatible"
        _schemes: ClassVar[tuple[str, ...]] = ("s3",)

        _0: S3Options

    @dataclass(frozen=True, slots=True, repr=False)
    class Tigris(_S3Case):
        """Tigris."""

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.Tigris"
        _schemes: ClassVar[tuple[str, ...]] = ("tigris", "s3")

        _0: S3Options

    @dataclass(frozen=True, slots=True, repr=False)
    class Gcs(_StoreCase):
        """Google Cloud Storage, with options of the client."""

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.Gcs"
        _schemes: ClassVar[tuple[str, ...]] = ("gs", "gcs")

        _0: dict[str, str] | None = None

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", _options(self._0, "opts"))

        def _display_fields(self) -> Iterable[Shown]:
            return [Shown(name="config", value=shown_mapping(self._0))]

    @dataclass(frozen=True, slots=True, repr=False)
    class Azure(_StoreCase):
        """Azure Blob Storage, with options of the client, ``account`` among them."""

        _display_name: ClassVar[str] = "icechunk.config.ObjectStoreConfig.Azure"
        _schemes: ClassVar[tuple[str, ...]] = ("az", "azure", "abfs")

        _0: dict[str, str] | None = None

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", _options(self._0, "config"))

        def _display_fields(self) -> Iterable[Shown]:
            return [Shown(name="config", value=shown_mapping(self._0))]


AnyObjectStoreConfig: TypeAlias = (
    ObjectStoreConfig.InMemory
    | ObjectStoreConfig.LocalFileSystem
    | ObjectStoreConfig.Http
    | ObjectStoreConfig.S3
    | ObjectStoreConfig.S3Compatible
    | ObjectStoreConfig.Gcs
    | ObjectStoreConfig.Azure
    | ObjectStoreConfig.Tigris
)


def s3_store(
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    anonymous: bool = False,
    s3_compatible: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int | None = 60,
    requester_pays: bool = False,
    checksum_algorithm: ChecksumAlgorithm | None = None,
) -> ObjectStoreConfig.S3Compatible | ObjectStoreConfig.S3:
    """Describe an S3 store for a virtual chunk container.

    Parameters
    ----------
    region, endpoint_url, allow_http, anonymous, force_path_style
        As in `S3Options`.
    s3_compatible : bool
        Whether it is another product than Amazon's.
    network_stream_timeout_seconds : int or None
        Give up when no byte came for so many seconds.
    requester_pays, checksum_algorithm
        As in `S3Options`.

    Returns
    -------
    ObjectStoreConfig.S3 or ObjectStoreConfig.S3Compatible
        The store.

    Examples
    --------
    >>> store = icechunk.s3_store(region="us-east-1", anonymous=True)
    """
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        anonymous=anonymous,
        force_path_style=force_path_style,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        requester_pays=requester_pays,
        checksum_algorithm=checksum_algorithm,
    )
    return (
        ObjectStoreConfig.S3Compatible(options) if s3_compatible else ObjectStoreConfig.S3(options)
    )


def local_filesystem_store(path: str | os.PathLike[str]) -> ObjectStoreConfig.LocalFileSystem:
    """Describe files of this machine for a virtual chunk container.

    Examples
    --------
    >>> store = icechunk.local_filesystem_store("/data")
    """
    return ObjectStoreConfig.LocalFileSystem(path)


def http_store(
    opts: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> ObjectStoreConfig.Http:
    """Describe a web server for a virtual chunk container.

    Parameters
    ----------
    opts : dict of str to str, or None
        Options of the client.
    headers : dict of str to str, or None
        Headers sent with every request. They are stored in the repository with its config, for
        all readers: put no secret in them.

    Returns
    -------
    ObjectStoreConfig.Http
        The store.

    Examples
    --------
    >>> store = icechunk.http_store()
    """
    return ObjectStoreConfig.Http(opts, headers)


def gcs_store(opts: dict[str, str] | None = None) -> ObjectStoreConfig.Gcs:
    """Describe Google Cloud Storage for a virtual chunk container, with options of the client.

    Examples
    --------
    >>> store = icechunk.gcs_store()
    """
    return ObjectStoreConfig.Gcs(opts)


def azure_store(*, account: str, config: dict[str, str] | None = None) -> ObjectStoreConfig.Azure:
    """Describe Azure Blob Storage for a virtual chunk container.

    Parameters
    ----------
    account : str
        Storage account.
    config : dict of str to str, or None
        Further options of the client.

    Returns
    -------
    ObjectStoreConfig.Azure
        The store.

    Examples
    --------
    >>> store = icechunk.azure_store(account="account")
    """
    return ObjectStoreConfig.Azure({"account": account, **(config or {})})
