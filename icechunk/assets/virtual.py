"""Reading chunks that live outside the repository.

Source: Icechunk specification, section "Virtual chunks". A location is readable when a container
of the repository's configuration matches it and the user authorised that container.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote

import numpy as np

from icechunk._io import loop
from icechunk.assets.range_batches import RangeBatches
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage.containers import storage_for_container
from icechunk.storage.objects import ObjectChangedError, ReadCondition

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk._typing import I64Array
    from icechunk.config import ResolvedConfig
    from icechunk.container_access import AnyCredential
    from icechunk.format.chunk_table import VirtualRef
    from icechunk.format.ragged import Ragged
    from icechunk.storage.base import Storage
    from icechunk.storage.objects import ByteRange
    from icechunk.virtual_containers import ContainerSet, VirtualChunkContainer


class VirtualReader:
    """Reads virtual chunks through the containers a user authorised.

    Parameters
    ----------
    config : ResolvedConfig
        Its virtual chunk containers.
    authorized : mapping of str to credential or None
        URL prefix of each authorised container, and how to get in; None for no credentials.

    Notes
    -----
    Concurrency: may be used from any thread and loop. There is one storage per container, and near
    ranges of one object that are wanted at the same moment share a request.
    """

    def __init__(
        self, config: ResolvedConfig, authorized: Mapping[str, AnyCredential | None]
    ) -> None:
        self.authorized = dict(authorized)
        self._containers: ContainerSet = config.virtual_chunk_containers
        self._storages: dict[str, Storage] = {}
        self._batches = RangeBatches()
        self._lock = threading.Lock()

    def full_location(self, location: str) -> str:
        """Return an absolute location; a ``vcc://`` one is resolved against its container."""
        return self._containers.absolute(location)

    def require_container(self, location: str) -> None:
        """Refuse a location that no container matches.

        Raises
        ------
        InvalidInputError
            Kind ``no-container-for-virtual-chunk``.
        """
        self._containers.require(location)

    def rows_with_container(self, where: Ragged) -> I64Array:
        """Return the rows of a column of locations that some container matches.

        A location under the prefix of any container has one; the few that are left (none, or
        ``vcc://`` ones) are looked up one by one.
        """
        good = np.zeros(len(where), np.bool_)
        for prefix in self._containers.prefixes():
            good |= where.starts_with(prefix.encode())
        for row in np.flatnonzero(~good).tolist():
            location = where[row].decode("utf-8", "replace")
            good[row] = self._containers.find(location) is not None
        return np.flatnonzero(good)

    async def read(self, ref: VirtualRef, byte_range: ByteRange) -> bytes:
        """Return a range of the object a reference points at.

        Raises
        ------
        InvalidInputError
            Kind ``no-container-for-virtual-chunk`` or ``unauthorized-virtual-chunk-container``.
        StorageError
            Kind ``virtual-chunk-modified``; the object is not the one that was referenced. Kind
            ``invalid-object-size``; it is shorter. Kind ``virtual-chunk-fetch``; else.
        """
        location = self.full_location(ref.location)
        container = self._containers.require(location)
        place = container.place_of(location)
        storage = self._storage_of(container, place)
        key = unquote(location[len(place) :].partition("?")[0].partition("#")[0])
        condition = _condition(ref)

        async def read(wanted: ByteRange) -> bytes:
            return await storage.get(key, wanted, condition=condition)

        async def reading() -> bytes:
            try:
                if storage.immediate:
                    return await read(byte_range)
                return await self._batches.read((place, key, condition), byte_range, read)
            except InvalidInputError as error:
                if error.kind != ErrorKind.INVALID_CREDENTIALS:
                    raise
                raise InvalidInputError(
                    f"cannot read virtual chunk {location}: {error.message}."
                    + _advice(container.url_prefix),
                    error.kind,
                ) from error
            except StorageError as error:
                raise _explained(error, location, container.url_prefix) from error

        if loop.driving_now() and not storage.immediate:
            # The repository answers at once and this container does not: wait on the I/O thread.
            return loop.run(reading())
        return await reading()

    def _storage_of(self, container: VirtualChunkContainer, place: str) -> Storage:
        prefix = container.url_prefix
        if prefix not in self.authorized:
            raise InvalidInputError(
                f"no authorisation to read virtual chunks under {prefix}. Open the repository with "
                f"authorize_virtual_chunk_access={{{prefix!r}: credentials}}, or None for places "
                "that need none.",
                ErrorKind.UNAUTHORIZED_VIRTUAL_CHUNK_CONTAINER,
            )
        with self._lock:
            found = self._storages.get(place)
            if found is None:
                credential = self.authorized[prefix]
                there = replace(container, url_prefix=place)
                found = self._storages[place] = storage_for_container(there, credential)
            return found


def _condition(ref: VirtualRef) -> ReadCondition | None:
    """Return what the object must still be; no condition when the reference has no checksum."""
    if ref.etag is None and not ref.last_modified:
        return None
    return ReadCondition(
        etag=ref.etag,
        unmodified_since_us=ref.last_modified * 1_000_000 if ref.last_modified else None,
    )


def _advice(prefix: str) -> str:
    return (
        f" It was read with what authorize_virtual_chunk_access has for {prefix!r}: pass other "
        "credentials there if access was denied."
    )


def _explained(error: StorageError, location: str, prefix: str) -> StorageError:
    """Return an error that names the location and says what to do about it."""
    if error.kind == ErrorKind.INVALID_OBJECT_SIZE:
        return StorageError(f"virtual chunk {location}: {error.message}", error.kind)
    if isinstance(error, ObjectChangedError):
        return StorageError(
            f"the object of a virtual chunk has changed: {location}: {error.message}. Make the "
            "reference again, or put the object back.",
            ErrorKind.VIRTUAL_CHUNK_MODIFIED,
        )
    if error.kind == ErrorKind.OBJECT_NOT_FOUND:
        advice = (
            f" If the files under {prefix} were moved, set references to where they are now with "
            "set_virtual_refs_arr; those of a container with a name (vcc://) follow its new "
            "url_prefix, see config.set_virtual_chunk_container."
        )
    else:
        advice = _advice(prefix)
    return StorageError(
        f"cannot read virtual chunk {location}: {error.message}.{advice}",
        ErrorKind.VIRTUAL_CHUNK_FETCH,
    )
