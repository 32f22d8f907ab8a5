"""Blocking twins of `icechunk.session_look`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from icechunk.types import ChunkType


class SessionLookTwins:
    """Blocking methods of `icechunk.session_look.SessionLook`."""

    __slots__ = ()

    def chunk_type(self, array_path: str, chunk_coordinates: list[int]) -> ChunkType:
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
        return run(self.chunk_type_async(array_path, chunk_coordinates))

    def get_node_id(self, path: str) -> str:
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
        return run(self.get_node_id_async(path))

    def all_virtual_chunk_locations(self) -> list[str]:
        """Return the location of every virtual chunk, array by array.

        Examples
        --------
        >>> session.all_virtual_chunk_locations()
        []
        """
        return run(self.all_virtual_chunk_locations_async())
