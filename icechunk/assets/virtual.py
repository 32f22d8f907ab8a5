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
from icechunk.errors import ErrorKind, InvalidInputError, StorageError
from icechunk.storage.containers import storage_for_container

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk._typing import I64Array
    from icechunk.config import ResolvedConfig
    from icechunk.container_access import AnyCredential
    from icechunk.format.chunk_table import VirtualRef
    from icechunk.format.ragged import Ragged
    from icechunk.storage.base import ByteRange, Storage
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
    Concurrency: may be used from any thread and loop. There is one storage per container.
    """

    def __init__(
        self, config: ResolvedConfig, authorized: Mapping[str, AnyCredential | None]
    ) -> None:
        self.authorized = dict(authorized)
        self._containers: ContainerSet = config.virtual_chunk_containers
        self._storages: dict[str, Storage] = {}
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
        reading = _read_checked(storage, key, ref, byte_range, location)
        if loop.driving_now() and not storage.immediate:
            # The repository answers at once and this container does not: wait on the I/O thread.
            return loop.run(reading)
        return await reading

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


async def _read_checked(
    storage: Storage, key: str, ref: VirtualRef, byte_range: ByteRange, location: str
) -> bytes:
    try:
        if ref.last_modified:
            info = await storage.head(key)
            if info.last_modified_us > ref.last_modified * 1_000_000:
                raise _modified(location, "it was modified after the reference was made")
        if ref.etag is not None:
            # The storage contract has no conditional read yet, and a checksum that cannot be
            # checked must not pass.
            raise _modified(location, "its etag cannot be checked by this version of icechunk")
        return await storage.get(key, byte_range)
    except StorageError as e:
        if e.kind in {ErrorKind.VIRTUAL_CHUNK_MODIFIED, ErrorKind.INVALID_OBJECT_SIZE}:
            raise
        raise StorageError(
            f"cannot read virtual chunk {location}: {e.message}", ErrorKind.VIRTUAL_CHUNK_FETCH
        ) from e


def _modified(location: str, why: str) -> StorageError:
    return StorageError(
        f"the object of a virtual chunk has changed: {location}: {why}. Make the reference again.",
        ErrorKind.VIRTUAL_CHUNK_MODIFIED,
    )
