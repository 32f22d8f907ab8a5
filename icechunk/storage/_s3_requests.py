"""The requests of one operation on S3 through s3fs's client, made on the I/O thread."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import botocore.exceptions  # type: ignore[import-untyped,unused-ignore]

from icechunk._io.limits import gather_limited
from icechunk.errors import ErrorKind, StorageError
from icechunk.storage._object_requests import (
    AFTER,
    WRITE_ID,
    Head,
    ObjectRequests,
    Page,
    listed_info,
    microseconds,
    version_of,
)
from icechunk.storage._s3_client import (
    CLIENT_ERRORS,
    NETWORK_ERRORS,
    error_code,
    request_error,
    storage_error,
    translated,
)
from icechunk.storage._s3_place import CONFLICT_CODES, LOST_RACE_CODES, S3Place
from icechunk.storage.objects import ByteRange, ReadCondition, range_beyond_end
from icechunk.storage.retry import AmbiguousError, repeated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from icechunk.storage.base import Version

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Requests(ObjectRequests):
    """What can be asked of a place in S3, with a client and settings.

    Parameters
    ----------
    api : aiobotocore client
        Its own retries apply to every request.
    place : S3Place
        Bucket and options.
    """

    api: Any
    place: S3Place

    # ---------------------------------------------------------------- reading

    async def download(
        self, key: str, byte_range: ByteRange | None, condition: ReadCondition | None
    ) -> tuple[bytes, Version]:
        """Return an object or one range of it, in one request, and its version."""
        arguments: dict[str, Any] = self._object(key)
        if byte_range is not None:
            arguments["Range"] = f"bytes={byte_range.start}-{byte_range.stop - 1}"

        async def ask() -> tuple[Mapping[str, Any], bytes]:
            reply = await self.api.get_object(**arguments)
            async with reply["Body"] as body:
                self._check(key, reply, condition)
                return reply, await body.read()

        reply, data = await self._patiently("read", key, ask)
        if byte_range is not None and len(data) != byte_range.stop - byte_range.start:
            total = int(str(reply.get("ContentRange", "")).rpartition("/")[2] or len(data))
            raise range_beyond_end(key, self.place.description, byte_range, total)
        return data, version_of(reply.get("ETag"))

    def _check(self, key: str, reply: Mapping[str, Any], condition: ReadCondition | None) -> None:
        # By the reply to the very request, so it is as good as a condition in the request; and
        # services differ in the precision of If-Unmodified-Since and the quoting of If-Match.
        if condition is not None:
            modified_us = microseconds(reply["LastModified"])
            tag = reply.get("ETag")
            condition.check(key, self.place.description, etag=tag, last_modified_us=modified_us)

    async def head(self, key: str) -> Head:
        """Return what the service says about an object."""
        arguments = self._object(key)
        reply = await self._patiently("read", key, lambda: self.api.head_object(**arguments))
        return Head(
            size_bytes=reply["ContentLength"],
            last_modified_us=microseconds(reply["LastModified"]),
            version=version_of(reply.get("ETag")),
            write_id=reply["Metadata"].get(WRITE_ID),
        )

    async def list_page(self, prefix: str, token: str | None, most: int) -> Page:
        """Return one page of a listing."""
        arguments: dict[str, Any] = {
            "Bucket": self.place.bucket,
            "Prefix": self.root + prefix,
            "MaxKeys": most,
            **self._payer(),
        }
        if token is not None and token.startswith(AFTER):
            arguments["StartAfter"] = token.removeprefix(AFTER)
        elif token is not None:
            arguments["ContinuationToken"] = token
        page = await self._patiently("list", prefix, lambda: self.api.list_objects_v2(**arguments))
        infos = (
            listed_info(self.root, found["Key"], found["Size"], found["LastModified"])
            for found in page.get("Contents", ())
        )
        return Page(
            infos=tuple(info for info in infos if info is not None),
            token=page.get("NextContinuationToken"),
        )

    # ---------------------------------------------------------------- writing

    async def upload(
        self,
        key: str,
        data: bytes | memoryview,
        metadata: Mapping[str, str] | None,
        content_type: str | None,
    ) -> None:
        """Write an object whole, in parts if it is large."""
        arguments = self._new_object(key, metadata, content_type)
        if self._goes_in_parts(len(data)):
            await self._upload_parts(key, arguments, memoryview(data))
        else:
            body = bytes(data)
            await self._patiently("write", key, lambda: self.api.put_object(Body=body, **arguments))

    async def _upload_parts(self, key: str, arguments: dict[str, Any], data: memoryview) -> None:
        upload = await self._patiently(
            "write", key, lambda: self.api.create_multipart_upload(**arguments)
        )
        target = self._object(key) | {"UploadId": upload["UploadId"]}
        most, step = self._concurrency()[0], self._part_bytes(len(data))

        async def send(number: int, start: int) -> dict[str, Any]:
            body = bytes(data[start : start + step])
            part = await self._patiently(
                "write",
                key,
                lambda: self.api.upload_part(
                    Body=body, PartNumber=number, **target, **self._checksum()
                ),
            )
            kept = {name: part[name] for name in part if name.startswith("Checksum")}
            return {"PartNumber": number, "ETag": part["ETag"], **kept}

        try:
            starts = range(0, len(data), step)
            with self.gate.as_free(min(most, len(starts))) as most:
                parts = await gather_limited(most, (send(n, at) for n, at in enumerate(starts, 1)))
            whole = {"Parts": parts}
            await self._patiently(
                "write",
                key,
                lambda: self.api.complete_multipart_upload(MultipartUpload=whole, **target),
            )
        except BaseException as error:
            missing = isinstance(error, StorageError) and error.kind == ErrorKind.OBJECT_NOT_FOUND
            if missing and await self._is_there(key, len(data)):
                return
            # Parts of an upload that is neither completed nor aborted are charged for, unseen.
            await asyncio.shield(self._abort(target))
            raise

    async def _abort(self, target: Mapping[str, Any]) -> None:
        with contextlib.suppress(*CLIENT_ERRORS, *NETWORK_ERRORS):  # reported is what led here
            await self.api.abort_multipart_upload(**target)

    async def attempt(
        self,
        key: str,
        body: bytes,
        expected: Version | None,
        metadata: Mapping[str, str],
        content_type: str | None,
    ) -> Version:
        """Make one conditional write."""
        arguments = self._new_object(key, metadata, content_type) | self._condition(expected)
        try:
            reply = await self.api.put_object(Body=body, **arguments)
        except (*CLIENT_ERRORS, *NETWORK_ERRORS) as error:
            raise self._judged(key, expected, error) from error
        return version_of(reply.get("ETag"))

    def _judged(self, key: str, expected: Version | None, error: Exception) -> Exception:
        """Return what a failed conditional write means."""
        found = request_error(self.place, "write", self.root + key, error)
        if not isinstance(error, botocore.exceptions.ClientError):
            return found
        code = error_code(error)
        gone = isinstance(found, StorageError) and found.kind == ErrorKind.OBJECT_NOT_FOUND
        if code in LOST_RACE_CODES | CONFLICT_CODES or (gone and expected is not None):
            # Something on the way may have repeated the request; then the condition fails because
            # of ourselves. So the object is always looked at.
            cause = storage_error(self.place, "write", self.root + key, error)
            return AmbiguousError(cause, refused=True)
        return found

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects in one request."""
        arguments = {
            "Bucket": self.place.bucket,
            "Delete": {"Objects": [{"Key": self.root + key} for key in keys], "Quiet": True},
            **self._checksum(),
            **self._payer(),
        }
        reply = await self._patiently(
            "delete", keys[0], lambda: self.api.delete_objects(**arguments)
        )
        failed = [e for e in reply.get("Errors", ()) if e.get("Code") != "NoSuchKey"]
        if failed:
            raise StorageError(
                f"could not delete {len(failed)} of {len(keys)} objects in "
                f"{self.place.description}; the first was {failed[0].get('Key')!r}: "
                f"{failed[0].get('Code')}: {failed[0].get('Message')}"
            )

    # ---------------------------------------------------------------- arguments

    async def _patiently(self, verb: str, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        async def once() -> T:
            with translated(self.place, verb, self.root + key):
                return await ask()

        return await repeated(once, self._backoff())

    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self.place.options.requester_pays else {}

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.place.bucket, "Key": self.root + key, **self._payer()}

    def _checksum(self) -> dict[str, str]:
        algorithm = self.place.options.checksum_algorithm
        return {} if algorithm is None else {"ChecksumAlgorithm": algorithm.name.upper()}

    def _new_object(
        self, key: str, metadata: Mapping[str, str] | None, content_type: str | None
    ) -> dict[str, Any]:
        arguments: dict[str, Any] = {**self._object(key), **self._checksum()}
        if self.settings.unsafe_use_metadata and metadata:
            arguments["Metadata"] = dict(metadata)
        if content_type is not None:
            arguments["ContentType"] = content_type
        storage_class = self._storage_class(key)
        if storage_class is not None:
            arguments["StorageClass"] = storage_class
        return arguments

    def _condition(self, expected: Version | None) -> dict[str, str]:
        if not self._is_conditional(expected):
            return {}
        return {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
