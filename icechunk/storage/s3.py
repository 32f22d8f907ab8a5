"""Objects in S3 and services compatible with it.

Source: specification section 1.1. Requests are made by s3fs's client, or by obstore where it is
installed; retries of single requests are theirs, from the storage settings.
"""

from __future__ import annotations

import copy
import importlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._display import scrubbed
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._bucket import BucketStorage, trimmed_prefix
from icechunk.storage._choice import check_address, check_backend, use_either
from icechunk.storage._s3_place import DeniedError, S3Place, obstacle_to_obstore, unencrypted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from icechunk.credential_values import AnyS3Credential
    from icechunk.object_store_config import S3Options
    from icechunk.storage._object_requests import ObjectRequests
    from icechunk.storage._s3_place import Backend

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_S3FS: Final = "icechunk.storage._s3_fs"  # loaded when it is used: it pulls in a large library


class S3Storage(BucketStorage):
    """Objects in a bucket of S3 or of a compatible service.

    Parameters
    ----------
    place : S3Place
        Where, and how to get at it.

    Notes
    -----
    Conditional writes are the service's own (``If-None-Match``, ``If-Match``). When the reply to
    one is lost, the object's metadata tell whether the write took place. Pickles with fixed
    credentials in it, or with the callback that gets them.
    """

    _place: S3Place

    def __init__(self, place: S3Place) -> None:
        super().__init__(place, place.bucket, place.prefix)
        self._rooted = place.rooted if not place.prefix else False

    @classmethod
    def at(cls, place: S3Place) -> S3Storage:
        """Return the storage at a place."""
        return cls(place)

    @classmethod
    def create(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential,
        *,
        legacy_rooted_keys: bool | None = None,
        backend: Backend = "auto",
        read_headers: Mapping[str, str] | None = None,
        write_headers: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> S3Storage:
        """Return the storage below ``prefix`` in ``bucket``; see `s3_storage`.

        Raises
        ------
        InvalidInputError
            Kind ``bad-prefix`` or ``storage-config``; arguments that cannot be meant.
        """
        if not bucket or "/" in bucket:
            raise InvalidInputError(f"not a bucket name: {bucket!r}", ErrorKind.STORAGE_CONFIG)
        trimmed = trimmed_prefix(prefix)
        if trimmed and legacy_rooted_keys:
            raise InvalidInputError(
                "legacy_rooted_keys=True is only for repositories with an empty prefix",
                ErrorKind.STORAGE_CONFIG,
            )
        if trimmed and (prefix or "").startswith("/"):
            trimmed = f"/{trimmed}"  # another place: keys in S3 may begin with a slash
        if unencrypted(config) and not config.allow_http:
            _logger.warning(
                "endpoint_url %s is not encrypted: pass allow_http=True if that is meant",
                scrubbed(config.endpoint_url or ""),
            )
        if config.endpoint_url is not None:
            check_address("endpoint_url", config.endpoint_url)
        common = dict(headers or {})
        place = S3Place(
            bucket=bucket,
            prefix=trimmed,
            options=copy.deepcopy(config),  # it can be changed from outside
            credentials=credentials,
            rooted=legacy_rooted_keys,
            read_headers=tuple((common | dict(read_headers or {})).items()),
            write_headers=tuple((common | dict(write_headers or {})).items()),
            backend=backend,
        )
        check_backend(backend, "s3fs", obstacle_to_obstore(place))
        return cls(place)

    async def _lend(self, work: Callable[[ObjectRequests], Awaitable[T]]) -> T:
        async def rooted(requests: ObjectRequests) -> T:
            root = await self._rooted_root(requests)
            return await work(replace(requests, root=root, gate=self._gate))

        arguments = (self._place, self.settings, self._client_recipe(), rooted)

        async def using(module: Any) -> T:
            found: T = await module.use(*arguments)
            return found

        return await use_either(
            self._place.backend,
            obstacle_to_obstore(self._place),
            fast="icechunk.storage._s3_obstore",
            by_obstore=using,
            by_other=lambda: using(importlib.import_module(_S3FS)),
        )

    async def _rooted_root(self, requests: ObjectRequests) -> str:
        if self._place.prefix:
            return self._root()
        if self._rooted is None:
            try:
                self._rooted = await _has_rooted_keys(requests)
            except DeniedError:
                self._rooted = False  # who may not list must take the ordinary layout
        return "/" if self._rooted else ""

    @property
    def description(self) -> str:
        """Return ``s3://`` with bucket and prefix."""
        return self._place.description

    def _fields(self) -> Iterator[tuple[str, object]]:
        place, options = self._place, self._place.options
        yield "type", "S3"
        yield "bucket", place.bucket
        if place.prefix:
            yield "prefix", place.prefix
        if options.region is not None:
            yield "region", options.region
        if options.endpoint_url is not None:
            yield "endpoint_url", scrubbed(options.endpoint_url)
        for flag in ("allow_http", "anonymous", "force_path_style", "requester_pays"):
            if getattr(options, flag):
                yield flag, True
        if options.checksum_algorithm is not None:
            yield "checksum_algorithm", options.checksum_algorithm.name


async def _has_rooted_keys(requests: ObjectRequests) -> bool:
    """Tell whether a repository at the root of a bucket has keys that begin with a slash."""
    for start, rooted in (("", False), ("/", True)):
        for prefix in (f"{start}repo", f"{start}refs/"):
            page = await requests.list_page(prefix, None, 1)
            if any(info.key == prefix or prefix[-1] == "/" for info in page.infos):
                return rooted
    return False
