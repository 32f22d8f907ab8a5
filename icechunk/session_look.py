"""Sessions: looking at nodes and chunks, and at what the session changed.

Source: Icechunk specification, sections "Diff" and "Reading a chunk".
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np

from icechunk._cases import check_limit
from icechunk._sync.session_look import SessionLookTwins
from icechunk.core.commit import effective_changes, transaction_log_of
from icechunk.core.diff import Diff, diff_of
from icechunk.core.virtual_refs import location_texts
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.chunk_table import ChunkKind, InlineRef, NativeRef
from icechunk.format.snapshot import NodeKind
from icechunk.ids import id_text
from icechunk.paths import user_path
from icechunk.types import ChunkType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from icechunk.session_state import SessionState


class SessionLook(SessionLookTwins):
    """The part of a session that tells what is there."""

    _state: SessionState

    def status(self) -> Diff:
        """Return what the session changed, by path.

        Examples
        --------
        >>> zarr.open_array(session.store, path="t", mode="r+")[0] = 1
        >>> session.status().updated_chunks
        {'/t': [[0]]}
        """
        nodes = self._state.checkout.base.nodes
        changes = effective_changes(nodes, self._state.checkout.changes)
        log = transaction_log_of(self._state.checkout.snapshot_id, nodes, changes)
        return diff_of([log], nodes.edited(changes.new_nodes.values(), ()), nodes)

    async def chunk_coordinates(
        self, array_path: str, batch_size: int = 1000
    ) -> AsyncIterator[tuple[int, ...]]:
        """Yield the coordinate of every chunk of an array.

        Parameters
        ----------
        array_path : str
            Path of the array.
        batch_size : int
            How many are looked up at one time.

        Raises
        ------
        NodeNotFoundError, InvalidInputError
            No array at the path.
        TypeError, ValueError
            ``batch_size`` is no number of 1 or more.

        Examples
        --------
        >>> import asyncio
        >>> async def coordinates():
        ...     return [chunk async for chunk in session.chunk_coordinates("/t")]
        >>> asyncio.run(coordinates())
        [(0,), (1,)]
        """
        check_limit("batch_size", batch_size)
        await self._state.checkout.ready()
        node = self._state.checkout.require_array(user_path(array_path))
        async for table in self._state.checkout.chunk_tables(node, batch_size):
            for coord in table.coords.tolist():
                yield tuple(coord)

    async def chunk_type_async(self, array_path: str, chunk_coordinates: list[int]) -> ChunkType:
        """Return how a chunk is stored: uninitialized, native, inline or virtual.

        Raises
        ------
        NodeNotFoundError, InvalidInputError
            No array at the path, or a coordinate of another rank.

        Examples
        --------
        >>> session.chunk_type("/t", [0])
        ChunkType.inline
        """
        await self._state.checkout.ready()
        node = self._state.checkout.require_array(user_path(array_path))
        if len(chunk_coordinates) != len(node.shape):
            raise InvalidInputError(
                f"{array_path} has {len(node.shape)} dimensions, so it has no chunk "
                f"{chunk_coordinates}.",
                ErrorKind.INVALID_CHUNK_INDEX,
            )
        coord = tuple(map(operator.index, chunk_coordinates))
        ref = await self._state.checkout.chunk_ref(node, coord)
        if ref is None:
            return ChunkType.uninitialized
        if isinstance(ref, NativeRef):
            return ChunkType.native
        return ChunkType.inline if isinstance(ref, InlineRef) else ChunkType.virtual

    async def get_node_id_async(self, path: str) -> str:
        """Return the id of a group or array, which it keeps for its life.

        Raises
        ------
        NodeNotFoundError
            Kind ``node-not-found``.

        Examples
        --------
        >>> len(session.get_node_id("/t"))
        13
        """
        await self._state.checkout.ready()
        return id_text(self._state.checkout.require_node(user_path(path)).id)

    async def all_virtual_chunk_locations_async(self) -> list[str]:
        """Return the location of every virtual chunk, array by array.

        Examples
        --------
        >>> session.all_virtual_chunk_locations()
        []
        """
        await self._state.checkout.ready()
        full = self._state.checkout.virtual.full_location
        found: list[str] = []
        for node in self._state.checkout.nodes():
            if node.kind is not NodeKind.ARRAY:
                continue
            async for table in self._state.checkout.chunk_tables(node):
                rows = table.kind == ChunkKind.VIRTUAL
                virtual = (table if bool(rows.all()) else table.take(rows)).unpacked()
                texts = location_texts(virtual.payload)
                for row in np.flatnonzero(virtual.payload.starts_with(b"vcc:")).tolist():
                    texts[row] = full(texts[row])
                found += texts
        return found
