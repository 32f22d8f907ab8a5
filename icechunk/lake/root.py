"""The root of a lake: its catalog, changed by compare-and-swap, and where repositories go."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from icechunk.assets.refs import pauses
from icechunk.errors import ConflictError, ErrorKind, InvalidInputError, StorageError
from icechunk.lake.catalog import CATALOG_KEY, Catalog, encode_catalog, parse_catalog
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError
from icechunk.storage.url import storage_for_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from icechunk.storage.base import Storage, Version

# How often, and after which waits, a change of the catalog is tried again; unit: seconds.
_TRIES: Final = 60
_TRIES_WITHOUT_WAIT: Final = 2
_FIRST_WAIT_SECONDS: Final = 0.02
_LONGEST_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class LakeRoot:
    """Where a lake is.

    Parameters
    ----------
    url : str
        A directory, or any storage URL.
    options : mapping
        As `icechunk.storage.storage_for_url` takes them; they go to the catalog and every
        repository.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def storage(self, location: str = "") -> Storage:
        """Return the storage at a location below the root; the root itself by default."""
        if not isinstance(self.url, str) or not self.url.strip():
            raise InvalidInputError(
                f"not the root of a lake: {self.url!r}; expected a directory or a storage URL.",
                ErrorKind.CANNOT_PARSE_URL,
            )
        root = self.url.rstrip("/") or "/"
        return storage_for_url(f"{root}/{location}" if location else root, **self.options)

    async def read(self) -> Catalog:
        """Return the catalog; an empty one where no lake is yet.

        Raises
        ------
        FormatError
            What is there is no catalog.
        StorageError
            The place cannot be read.
        """
        return (await self._versioned())[0]

    async def exists(self) -> bool:
        """Say whether there is a lake; raises as `read`."""
        return (await self._versioned())[1] is not None

    async def change(self, edit: Callable[[Catalog], Catalog]) -> Catalog:
        """Change the catalog: read, edit, and write it if nobody else did meanwhile.

        Parameters
        ----------
        edit : callable
            Makes the new catalog of the present one; may be called several times, and its errors
            go to the caller.

        Raises
        ------
        ConflictError
            Kind ``update-attempts-exhausted``; others kept changing it.
        """
        storage = self.storage()
        waits = pauses(_TRIES, _TRIES_WITHOUT_WAIT, _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)
        for pause in waits:
            await asyncio.sleep(pause)
            present, version = await self._versioned()
            wanted = edit(present)
            if wanted == present:
                return present
            data = encode_catalog(wanted)
            try:
                if version is None:
                    await storage.put_if_absent(CATALOG_KEY, data)
                else:
                    await storage.put_if_unchanged(CATALOG_KEY, data, version)
            except LostRaceError:
                continue
            except UnknownOutcomeError:
                if await storage.get(CATALOG_KEY) != data:
                    continue
            return wanted
        raise ConflictError(
            message=f"the catalog of the lake at {storage.description} was changed by others "
            f"{_TRIES} times in a row; try again.",
            kind=ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
        )

    async def _versioned(self) -> tuple[Catalog, Version | None]:
        storage = self.storage()
        try:
            data, version = await storage.get_versioned(CATALOG_KEY)
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
            return Catalog(), None
        return parse_catalog(data, storage.description), version
