"""The zarr store of a durable session: a write returns when it is safe beside the repository."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from icechunk._io.loop import run
from icechunk.lake.durable import DurableSession
from icechunk.paths import ChunkKey, parse_key
from icechunk.store import IcechunkStore

if TYPE_CHECKING:
    from datetime import datetime

    from zarr.core.buffer import Buffer

    from icechunk._typing import AnyArray
    from icechunk.repository import Repository
    from icechunk.virtual import VirtualChunkSpec


class LakeStore(IcechunkStore):
    """A zarr store over a durable session.

    Parameters
    ----------
    durable : DurableSession
        The session.
    read_only : bool
        Refuse writes.

    Notes
    -----
    Concurrency: as `IcechunkStore`; writes that are under way at the same time are saved together.
    In another process it joins the session under its id, so tasks of a cluster can write through
    it, and what they wrote is in the session when they return.
    """

    def __init__(self, durable: DurableSession, read_only: bool | None = None) -> None:
        super().__init__(durable.fork, read_only)
        self._durable = durable

    @property
    def session_id(self) -> str:
        """Id of the session, by which others join it."""
        return self._durable.info.session_id

    @property
    def _supports_sync_io(self) -> bool:
        """False: saving waits for storage, also where that answers at once."""
        return False

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store over the same session with another read-only flag."""
        return type(self)(self._durable, read_only)

    def __reduce__(self) -> tuple[Any, ...]:
        durable = self._durable
        return _joined, (durable.repository, run(durable.store()), self._read_only)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("icechunk.LakeStore", self._durable.fork.__dask_tokenize__(), self._read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LakeStore) and self._durable is other._durable

    __hash__ = None

    # -- writing: as the store does it, and then saved ----------------------------------------

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Set the value of a key; it is part of the session when this returns.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the session expired, or was committed or abandoned.
        """
        self._durable.require_usable()
        await super().set(key, value, byte_range)
        await self._saved(key)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Set the value of a key that has none; it is part of the session when this returns."""
        self._durable.require_usable()
        if await self.exists(key):
            return  # nothing to save
        await super().set_if_not_exists(key, value)
        await self._saved(key)

    async def delete(self, key: str) -> None:
        """Delete a chunk, or a node with everything below it."""
        self._durable.require_usable()
        await super().delete(key)
        await self._saved(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a node with everything below it, or the chunks below a chunk prefix."""
        self._durable.require_usable()
        await super().delete_dir(prefix)
        await self._saved()

    async def clear(self) -> None:
        """Delete all nodes."""
        self._durable.require_usable()
        await super().clear()
        await self._saved()

    async def set_virtual_ref_async(
        self,
        key: str,
        location: str,
        *,
        offset: int,
        length: int,
        checksum: str | datetime | None = None,
        validate_container: bool = True,
    ) -> None:
        """Let a chunk be a range of bytes elsewhere; as `IcechunkStore.set_virtual_ref_async`."""
        self._durable.require_usable()
        await super().set_virtual_ref_async(
            key,
            location,
            offset=offset,
            length=length,
            checksum=checksum,
            validate_container=validate_container,
        )
        await self._saved(key)

    async def set_virtual_refs_async(
        self,
        array_path: str,
        chunks: list[VirtualChunkSpec],
        *,
        validate_containers: bool = True,
    ) -> list[tuple[int, ...]] | None:
        """Let many chunks be ranges elsewhere; as `IcechunkStore.set_virtual_refs_async`."""
        self._durable.require_usable()
        left_out = await super().set_virtual_refs_async(
            array_path, chunks, validate_containers=validate_containers
        )
        await self._saved()
        return left_out

    async def set_virtual_refs_arr_async(
        self,
        array_path: str,
        chunk_grid_shape: tuple[int, ...],
        locations: list[str],
        offsets: AnyArray,
        lengths: AnyArray,
        *,
        validate_containers: bool = True,
        arr_offset: tuple[int, ...] | None = None,
        checksum: str | datetime | None = None,
    ) -> list[tuple[int, ...]] | None:
        """Set a block of references; as `IcechunkStore.set_virtual_refs_arr_async`."""
        self._durable.require_usable()
        left_out = await super().set_virtual_refs_arr_async(
            array_path,
            chunk_grid_shape,
            locations,
            offsets,
            lengths,
            validate_containers=validate_containers,
            arr_offset=arr_offset,
            checksum=checksum,
        )
        await self._saved()
        return left_out

    async def _saved(self, key: str | None = None) -> None:
        """Return when what was done last is part of the session."""
        parsed = None if key is None else parse_key(key)
        node = self._checkout.node(parsed.path) if isinstance(parsed, ChunkKey) else None
        if isinstance(parsed, ChunkKey) and node and len(parsed.coord) == len(node.shape):
            self._durable.note_chunk(parsed.path, parsed.coord)
        else:
            self._durable.note_all()
        await self._durable.saved()


def _joined(repository: Repository, session_id: str, read_only: bool) -> LakeStore:
    return LakeStore(run(DurableSession.join(repository, session_id)), read_only)
