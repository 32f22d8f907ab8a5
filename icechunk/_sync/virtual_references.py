"""Blocking twins of `icechunk.virtual_references`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from datetime import datetime

    from icechunk._typing import AnyArray
    from icechunk.virtual_containers import VirtualChunkSpec


class VirtualReferencesTwins:
    """Blocking methods of `icechunk.virtual_references.VirtualReferences`."""

    __slots__ = ()

    def set_virtual_ref(
        self,
        key: str,
        location: str,
        *,
        offset: int,
        length: int,
        checksum: str | datetime | None = None,
        validate_container: bool = True,
    ) -> None:
        """Let a chunk be a range of bytes of an object outside the repository.

        Parameters
        ----------
        key : str
            Store key of the chunk, such as ``"array/c/0/1"``.
        location : str
            Absolute URL of the object, or ``vcc://NAME/REST`` relative to a named container.
        offset, length : int
            Range in the object; unit: bytes.
        checksum : str or datetime or None
            Etag the object must have, or the latest time it may have been modified; with a time
            zone.
        validate_container : bool
            Require that a virtual chunk container matches the location.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-key``, ``invalid-virtual-ref``, ``no-container-for-virtual-chunk``,
            ``invalid-chunk-index``, ``not-an-array`` or ``zero-length-chunk``.
        NodeNotFoundError
            Kind ``node-not-found``.
        TypeError, ValueError
            An argument of another type, a time without zone, a number that cannot be stored.

        Examples
        --------
        >>> session.store.set_virtual_ref(
        ...     "t/c/0", "s3://bucket/file", offset=0, length=16, validate_container=False
        ... )
        >>> session.all_virtual_chunk_locations()
        ['s3://bucket/file']
        """
        return run(
            self.set_virtual_ref_async(
                key,
                location,
                offset=offset,
                length=length,
                checksum=checksum,
                validate_container=validate_container,
            )
        )

    def set_virtual_refs(
        self,
        array_path: str,
        chunks: list[VirtualChunkSpec],
        *,
        validate_containers: bool = True,
    ) -> list[tuple[int, ...]] | None:
        """Let many chunks of an array be ranges of objects outside the repository.

        Parameters
        ----------
        array_path : str
            Path of the array.
        chunks : list of VirtualChunkSpec
            Coordinate, location, range and checksum of each.
        validate_containers : bool
            Leave out chunks whose location no container matches.

        Returns
        -------
        list of tuple of int, or None
            Coordinates left out because no container matches; None when there are none.

        Raises
        ------
        NodeNotFoundError, InvalidInputError, TypeError, ValueError
            As `set_virtual_ref`, but for the container.

        Examples
        --------
        >>> spec = icechunk.VirtualChunkSpec([0], "s3://bucket/file", 0, 16)
        >>> session.store.set_virtual_refs("t", [spec], validate_containers=False)
        """
        return run(
            self.set_virtual_refs_async(array_path, chunks, validate_containers=validate_containers)
        )

    def set_virtual_refs_arr(
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
        """Set the virtual references of a whole block of the chunk grid, in C order.

        Parameters
        ----------
        array_path : str
            Path of the array.
        chunk_grid_shape : tuple of int
            Shape of the block; unit: chunks. Its product is the number of references.
        locations : list of str
            Absolute URL of each chunk; an empty string leaves that chunk out.
        offsets, lengths : ndarray of uint64
            Range of each chunk in its object; unit: bytes.
        validate_containers : bool
            Leave out chunks whose location no container matches.
        arr_offset : tuple of int or None
            Where the block starts in the grid; the origin by default. Unit: chunks.
        checksum : str or datetime or None
            One checksum for all; a time with a time zone.

        Returns
        -------
        list of tuple of int, or None
            Coordinates left out because no container matches; None when there are none.

        Raises
        ------
        NodeNotFoundError, InvalidInputError, TypeError, ValueError
            As `set_virtual_ref`, but for the container.

        Examples
        --------
        >>> session.store.set_virtual_refs_arr(
        ...     "t",
        ...     (2,),
        ...     ["s3://bucket/file", "s3://bucket/file"],
        ...     np.array([0, 16]),
        ...     np.array([16, 16]),
        ...     validate_containers=False,
        ... )
        """
        return run(
            self.set_virtual_refs_arr_async(
                array_path,
                chunk_grid_shape,
                locations,
                offsets,
                lengths,
                validate_containers=validate_containers,
                arr_offset=arr_offset,
                checksum=checksum,
            )
        )
