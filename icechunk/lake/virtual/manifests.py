"""Arrays of references in columns, as VirtualiZarr's values."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import xarray as xr
import zarr
from virtualizarr.manifests import ChunkManifest, ManifestArray
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zarr.core.metadata.v3 import ArrayV3Metadata

    from icechunk._typing import AnyArray

_INLINED: Final = "__inlined__"
_KNOWS_INLINED: Final = "inlined" in inspect.signature(ChunkManifest.from_arrays).parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """Where the chunks of one array are.

    Parameters
    ----------
    coords : ndarray of int64, shape (references, dimensions)
        Coordinate of each chunk in the chunk grid.
    paths : list of str
        URL of the object each is in.
    offsets, lengths : ndarray of uint64, shape (references,)
        Range in that object; unit: bytes.
    inlined : mapping of tuple of int to bytes
        Chunks that are given themselves.
    """

    coords: AnyArray
    paths: list[str]
    offsets: AnyArray
    lengths: AnyArray
    inlined: Mapping[tuple[int, ...], bytes] = field(default_factory=dict)


def variable_of(metadata: ArrayV3Metadata, references: References) -> xr.Variable:
    """Return an array as a variable of a virtual dataset.

    Parameters
    ----------
    metadata : ArrayV3Metadata
        Of the array; its dimension names become the variable's.
    references : References
        Where its chunks are; chunks without a reference hold the fill value.

    Returns
    -------
    xarray.Variable
        Of references, or of values where all chunks were given themselves.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; a coordinate outside the chunk grid.
    """
    names = metadata.dimension_names or (None,) * len(metadata.shape)
    dims = [name or f"dim_{axis}" for axis, name in enumerate(names)]
    if references.inlined and not len(references.paths):
        return xr.Variable(dims, _values(metadata, references.inlined), metadata.attributes)
    grid = _grid_shape(metadata)
    flat = _flat(references.coords, grid)
    count = math.prod(grid)
    paths = np.full(count, "", np.dtypes.StringDType())
    offsets, lengths = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    paths[flat] = np.array(references.paths, np.dtypes.StringDType())
    offsets[flat], lengths[flat] = references.offsets, references.lengths
    more: dict[str, Any] = {}
    if references.inlined:
        if not _KNOWS_INLINED:
            raise InvalidInputError(
                "these references hold some chunks themselves and refer to others; that needs "
                "virtualizarr 2.8 or later.",
                ErrorKind.INVALID_VIRTUAL_REF,
            )
        paths[_flat(np.array(list(references.inlined)), grid)] = _INLINED
        more["inlined"] = dict(references.inlined)
    manifest = ChunkManifest.from_arrays(
        paths=paths.reshape(grid),
        offsets=offsets.reshape(grid),
        lengths=lengths.reshape(grid),
        validate_paths=False,
        **more,
    )
    array = ManifestArray(metadata=metadata, chunkmanifest=manifest)
    return xr.Variable(dims, array, metadata.attributes)


def _grid_shape(metadata: ArrayV3Metadata) -> tuple[int, ...]:
    chunks: tuple[int, ...] = metadata.chunk_grid.chunk_shape  # type: ignore[union-attr] # regular
    pairs = zip(metadata.shape, chunks, strict=True)
    return tuple(-(-length // chunk) for length, chunk in pairs)


def _flat(coords: AnyArray, grid: tuple[int, ...]) -> AnyArray:
    if not grid:
        return np.zeros(len(coords), np.int64)
    if len(coords) and (coords.min() < 0 or np.any(coords.max(axis=0) >= grid)):
        raise InvalidInputError(
            f"a reference is outside of the chunk grid, whose shape is {grid}.",
            ErrorKind.INVALID_VIRTUAL_REF,
        )
    flat: AnyArray = np.ravel_multi_index(tuple(coords.T), grid)
    return flat


def _values(metadata: ArrayV3Metadata, chunks: Mapping[tuple[int, ...], bytes]) -> AnyArray:
    """Decode an array whose chunks are all at hand."""
    store, prototype = MemoryStore(), default_buffer_prototype()

    async def fill() -> None:
        document = metadata.to_buffer_dict(prototype)["zarr.json"]
        await store.set("zarr.json", document)
        for coord, data in chunks.items():
            key = metadata.encode_chunk_key(coord)
            await store.set(key, prototype.buffer.from_bytes(data))

    sync(fill())
    values: AnyArray = np.asarray(zarr.open_array(store, mode="r")[...])
    return values
