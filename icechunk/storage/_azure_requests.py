"""The requests of one operation on Azure Blob Storage, made on the I/O thread."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.storage._azure_client import (
    AzureClient,
    AzurePlace,
    Failure,
    sdk_errors,
    storage_error,
    translated,
)
from icechunk.storage._object_requests import (
    WRITE_ID,
    Head,
    ObjectRequests,
    Page,
    listed_info,
    microseconds,
    version_of,
)
from icechunk.storage.objects import ByteRange, range_beyond_end
from icechunk.storage.retry import AmbiguousError, backoff_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from icechunk.storage.base import Version
    from icechunk.storage.objects import ReadCondition

T = TypeVar("T")

_DELETES_IN_PARALLEL: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureRequests(ObjectRequests):
    """What can be asked of a place in Azure Blob Storage.

    Parameters
    ----------
    client : AzureClient
        Makes single requests.
    place : AzurePlace
        Container and options.
    """

    client: AzureClient
    place: AzurePlace

    # ---------------------------------------------------------------- reading

    async def download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> tuple[bytes, Version]:
        """Return an object or one range of it, in one request, and its version."""
        span: dict[str, int] = {}
        if byte_range is not None:
            span = {"offset": byte_range.start, "length": byte_range.stop - byte_range.start}

        async def work(container: Any) -> tuple[bytes, Any]:
            replies: list[Any] = []
            try:
                reply = await container.download_blob(
                    self.root + key,
                    max_concurrency=1,
                    decompress=False,
                    raw_response_hook=replies.append,
                    **span,
                )
                return await reply.readall(), reply.properties
            finally:
                # The SDK forgets one that stalls or is cancelled, and its connection with it.
                for each in replies:
                    each.http_response.internal_response.close()

        try:
            data, about = await self._patiently(work)
        except sdk_errors() as error:
            if byte_range is not None and Failure.of(error).status == 416:
                size_bytes = (await self.head(key)).size_bytes
                raise range_beyond_end(
                    key, self.place.description, byte_range, size_bytes
                ) from error
            raise storage_error(self.place, "read", self.root + key, error) from error
        if condition is not None:
            modified_us = microseconds(about.last_modified)
            condition.check(
                key, self.place.description, etag=about.etag, last_modified_us=modified_us
            )
        if byte_range is not None and len(data) != byte_range.stop - byte_range.start:
            total = byte_range.start + len(data)  # it ended there
            raise range_beyond_end(key, self.place.description, byte_range, total)
        return data, version_of(about.etag)

    async def head(self, key: str) -> Head:
        """Return what the store says about an object."""

        async def work(container: Any) -> Any:
            return await container.get_blob_client(self.root + key).get_blob_properties()

        with translated(self.place, "read", self.root + key):
            about = await self._patiently(work)
        return Head(
            size_bytes=about.size,
            last_modified_us=microseconds(about.last_modified),
            version=version_of(about.etag),
            write_id=(about.metadata or {}).get(WRITE_ID),
        )

    async def list_page(self, prefix: str, token: str | None, most: int) -> Page:
        """Return one page of a listing."""

        async def work(container: Any) -> tuple[list[Any], str | None]:
            pages = container.list_blobs(
                name_starts_with=self.root + prefix, results_per_page=most
            ).by_page(token)
            page = await anext(pages, None)
            found = [] if page is None else [blob async for blob in page]
            return found, pages.continuation_token or None

        with translated(self.place, "list", self.root + prefix):
            blobs, following = await self._patiently(work)
        infos = (listed_info(self.root, b.name, b.size, b.last_modified) for b in blobs)
        return Page(infos=tuple(info for info in infos if info is not None), token=following)

    # ---------------------------------------------------------------- writing

    async def upload(
        self,
        key: str,
        data: bytes | memoryview,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> None:
        """Write an object whole, in parts if it is large."""
        body = bytes(data)
        kept = metadata if self.settings.unsafe_use_metadata else None
        arguments = self._new_object(key, kept, content_type)
        parts = self._goes_in_parts(len(body))

        async def work(container: Any) -> Any:
            with self.gate.as_free(self._concurrency()[0] if parts else 1) as most:
                return await container.upload_blob(
                    self.root + key, body, overwrite=True, max_concurrency=most, **arguments
                )

        with translated(self.place, "write", self.root + key):
            await self._patiently(work)

    async def attempt(
        self,
        key: str,
        body: bytes,
        expected: Version | None,
        metadata: Mapping[str, str],
        content_type: str | None,
    ) -> Version:
        """Make one conditional write."""
        arguments = self._new_object(key, metadata, content_type)
        is_conditional = self._is_conditional(expected)
        if is_conditional and expected is not None:
            arguments |= _if_unmodified(expected)

        async def work(container: Any) -> Mapping[str, Any]:
            blob = container.get_blob_client(self.root + key)
            reply: Mapping[str, Any] = await blob.upload_blob(
                body,
                overwrite=expected is not None or not is_conditional,
                **arguments,
            )
            return reply

        try:
            reply = await self._once(work)
        except sdk_errors() as error:
            raise self._judged(key, expected, error) from error
        return version_of(reply["etag"])

    def _judged(self, key: str, expected: Version | None, error: Exception) -> Exception:
        """Return what a failed conditional write means."""
        failure = Failure.of(error)
        cause = storage_error(self.place, "write", self.root + key, error)
        lost = failure.status in {409, 412} or (expected is not None and failure.is_missing)
        if lost or cause.kind == ErrorKind.THROTTLED:
            return AmbiguousError(cause, refused=True)
        return AmbiguousError(cause) if failure.is_passing else cause

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, one request each."""

        async def one(key: str) -> None:
            async def work(container: Any) -> None:
                await container.delete_blob(self.root + key)

            try:
                await self._patiently(work)
            except sdk_errors() as error:
                if not Failure.of(error).is_missing:
                    raise storage_error(self.place, "delete", self.root + key, error) from error

        with self.gate.as_free(min(_DELETES_IN_PARALLEL, len(keys))) as most:
            await gather_limited(most, (one(key) for key in keys))

    # ---------------------------------------------------------------- requests

    async def _patiently(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Make requests that may be made twice; errors come as the SDK makes them."""
        backoff = backoff_of(self.settings)
        delays = backoff.delays()
        while True:
            delay = next(delays, None)
            try:
                return await self._once(work)
            except sdk_errors() as error:
                if delay is None or not Failure.of(error).is_passing:
                    raise
            await backoff.sleep(delay)

    async def _once(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Make requests once; with other credentials, if the first have ended."""
        limit_seconds = self._attempt_seconds()
        container = await self.client.container()
        try:
            async with asyncio.timeout(limit_seconds):
                return await work(container)
        except sdk_errors() as error:
            if not Failure.of(error).is_expired or not await self.client.renew(container):
                raise
        async with asyncio.timeout(limit_seconds):
            return await work(await self.client.container())

    def _attempt_seconds(self) -> float | None:
        timeouts = self.settings.timeouts
        limit_ms = timeouts.operation_attempt_timeout_ms if timeouts else None
        return self.place.web.whole_seconds if limit_ms is None else limit_ms / 1000

    # ---------------------------------------------------------------- arguments

    def _new_object(
        self, key: str, metadata: Mapping[str, str] | None, content_type: str | None
    ) -> dict[str, Any]:
        from azure.storage.blob import ContentSettings, StandardBlobTier  # noqa: PLC0415

        arguments: dict[str, Any] = {}
        if metadata:
            arguments["metadata"] = dict(metadata)
        if content_type is not None:
            arguments["content_settings"] = ContentSettings(content_type=content_type)
        if (tier := self._storage_class(key)) is not None:
            if tier not in {known.value for known in StandardBlobTier}:
                known = ", ".join(known.value for known in StandardBlobTier)
                raise InvalidInputError(
                    f"no storage class of Azure: {tier!r}; expected {known}",
                    ErrorKind.STORAGE_CONFIG,
                )
            arguments["standard_blob_tier"] = StandardBlobTier(tier)
        return arguments


def _if_unmodified(expected: Version) -> dict[str, Any]:
    from azure.core import MatchConditions  # noqa: PLC0415

    return {"etag": expected, "match_condition": MatchConditions.IfNotModified}
