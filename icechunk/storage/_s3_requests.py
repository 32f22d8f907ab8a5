"""The requests of one operation on S3 through s3fs's client, made on the I/O thread."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    NETWORK_ERRORS,
    error_code,
    is_server_fault,
    response_metadata,
    storage_error,
    translated,
)
from icechunk.storage._s3_place import CONFLICT_CODES, LOST_RACE_CODES, S3Place
from icechunk.storage.base import ByteRange, ReadCondition, Version, range_beyond_end
from icechunk.storage.retry import AmbiguousError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager


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
        backoff = self._backoff()
        delays = backoff.delays()
        while True:
            with self._translated("read", key):
                reply = await self.api.get_object(**arguments)
                try:
                    async with reply["Body"] as body:
                        self._check(key, reply, condition)
                        data: bytes = await body.read()
                    break
                except NETWORK_ERRORS:  # in the middle: botocore retries only up to the headers
                    delay = next(delays, None)
                    if delay is None:
                        raise
            await backoff.sleep(delay)
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
        with self._translated("read", key):
            reply = await self.api.head_object(**self._object(key))
        return Head(
            size_bytes=reply["ContentLength"],
            last_modified_us=microseconds(reply["LastModified"]),
            version=version_of(reply.get("ETag")),
            write_id=reply["Metadata"].get(WRITE_ID),
        )

    async def list_page(self, prefix: str, token: str | None, most: int) -> Page:
        """Return one page of a listing."""
        arguments = {}
        if token is not None and token.startswith(AFTER):
            arguments["StartAfter"] = token.removeprefix(AFTER)
        elif token is not None:
            arguments["ContinuationToken"] = token
        with self._translated("list", prefix):
            page = await self.api.list_objects_v2(
                Bucket=self.place.bucket,
                Prefix=self.root + prefix,
                MaxKeys=most,
                **arguments,
                **self._payer(),
            )
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
        with self._translated("write", key):
            if self._goes_in_parts(len(data)):
                await self._upload_parts(arguments, memoryview(data))
            else:
                await self.api.put_object(Body=bytes(data), **arguments)

    async def _upload_parts(self, arguments: dict[str, Any], data: memoryview) -> None:
        upload = await self.api.create_multipart_upload(**arguments)
        target = self._target(arguments) | {"UploadId": upload["UploadId"]}
        most, step = self._concurrency()[0], self._part_bytes(len(data))

        async def send(number: int, start: int) -> dict[str, Any]:
            part = await self.api.upload_part(
                Body=bytes(data[start : start + step]),
                PartNumber=number,
                **target,
                **self._checksum(),
            )
            kept = {name: part[name] for name in part if name.startswith("Checksum")}
            return {"PartNumber": number, "ETag": part["ETag"], **kept}

        try:
            starts = range(0, len(data), step)
            parts = await gather_limited(most, (send(n, at) for n, at in enumerate(starts, 1)))
            await self.api.complete_multipart_upload(MultipartUpload={"Parts": parts}, **target)
        except BaseException:
            # Parts of an upload that is neither completed nor aborted are charged for, unseen.
            await asyncio.shield(self._abort(target))
            raise

    async def _abort(self, target: Mapping[str, Any]) -> None:
        try:
            await self.api.abort_multipart_upload(**target)
        except (
            botocore.exceptions.BotoCoreError,
            botocore.exceptions.ClientError,
            *NETWORK_ERRORS,
        ):
            return  # the error that led here is the one to report

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
        except botocore.exceptions.ClientError as error:
            raise self._judged(key, expected, error) from error
        except NETWORK_ERRORS as error:
            raise AmbiguousError(self._error("write", key, error)) from error
        except botocore.exceptions.BotoCoreError as error:
            raise self._error("write", key, error) from error
        return version_of(reply.get("ETag"))

    def _judged(
        self, key: str, expected: Version | None, error: botocore.exceptions.ClientError
    ) -> Exception:
        """Return what an error reply to a conditional write means for it."""
        cause = self._error("write", key, error)
        lost = error_code(error) in LOST_RACE_CODES or (
            expected is not None and cause.kind == ErrorKind.OBJECT_NOT_FOUND
        )
        # An earlier attempt may have stored our object and its reply been lost: then the condition
        # fails because of ourselves. botocore counts its retries, but below it aiohttp repeats a
        # request whose connection was closed, and tells nobody; so the object is always looked at.
        once = not response_metadata(error.response).get("RetryAttempts", 0)
        if lost or error_code(error) in CONFLICT_CODES or cause.kind == ErrorKind.THROTTLED:
            return AmbiguousError(cause, refused=once)
        return AmbiguousError(cause) if is_server_fault(error) else cause

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects in one request."""
        with self._translated("delete", keys[0]):
            reply = await self.api.delete_objects(
                Bucket=self.place.bucket,
                Delete={"Objects": [{"Key": self.root + key} for key in keys], "Quiet": True},
                **self._checksum(),
                **self._payer(),
            )
        failed = [e for e in reply.get("Errors", ()) if e.get("Code") != "NoSuchKey"]
        if failed:
            raise StorageError(
                f"could not delete {len(failed)} of {len(keys)} objects in "
                f"{self.place.description}; the first was {failed[0].get('Key')!r}: "
                f"{failed[0].get('Code')}: {failed[0].get('Message')}"
            )

    # ---------------------------------------------------------------- arguments

    def _translated(self, verb: str, key: str) -> AbstractContextManager[None]:
        return translated(self.place, verb, self.root + key)

    def _error(self, verb: str, key: str, error: Exception) -> StorageError:
        return storage_error(self.place, verb, self.root + key, error)

    def _payer(self) -> dict[str, str]:
        return {"RequestPayer": "requester"} if self.place.options.requester_pays else {}

    def _object(self, key: str) -> dict[str, str]:
        return {"Bucket": self.place.bucket, "Key": self.root + key, **self._payer()}

    def _target(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {name: arguments[name] for name in ("Bucket", "Key")} | self._payer()

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
