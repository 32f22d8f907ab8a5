"""Sorting arrays into those written now and those written by tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask.base import is_dask_collection

from icechunk.dask.store import BlockWrite
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    import zarr


class BlockCollector:
    """Takes arrays one by one: stores data in memory at once, keeps dask arrays for later.

    This is the part of ``xarray.backends.common.ArrayWriter`` that a zarr store calls.

    Parameters
    ----------
    align : bool
        Join blocks that share a zarr chunk.
    """

    def __init__(self, *, align: bool) -> None:
        self.writes: list[BlockWrite] = []
        self._align = align

    def add(
        self, source: Any, target: zarr.Array[Any], region: tuple[slice, ...] | None = None
    ) -> None:
        """Store an array, or keep it for later.

        Parameters
        ----------
        source : array
            The data.
        target : zarr.Array
            Where to.
        region : tuple of slice, optional
            Which part of the target; all of it when omitted.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; a chunked array that is not dask's.
        """
        if is_dask_collection(source):
            spans = region or (slice(None),) * len(target.shape)
            start = tuple(
                span.indices(length)[0] for span, length in zip(spans, target.shape, strict=True)
            )
            write = BlockWrite(name=target.basename, source=source, target=target, start=start)
            self.writes.append(write.aligned() if self._align else write)
        elif hasattr(source, "chunks") and hasattr(source, "compute"):
            raise InvalidInputError(
                f"variable {target.basename!r} is a {type(source).__name__}; only dask arrays and "
                "arrays in memory can be written.",
                ErrorKind.NOT_ALLOWED,
            )
        else:
            target[region or ...] = source
