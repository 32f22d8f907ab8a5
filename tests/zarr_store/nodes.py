"""Documents of nodes, and arrays to have chunks in, for tests of the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from zarr.core.buffer import cpu

from icechunk.paths import ChunkKey, parse_key

if TYPE_CHECKING:
    import icechunk as ic

CHUNKS_PER_AXIS = 1_000


def group_document(attributes: dict[str, object] | None = None) -> bytes:
    return json.dumps(
        {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}
    ).encode()


def array_document(ndim: int, attributes: dict[str, object] | None = None) -> bytes:
    """Return the document of an array of bytes with so many chunks along each axis."""
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [4 * CHUNKS_PER_AXIS] * ndim,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4] * ndim}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "attributes": attributes or {},
        }
    ).encode()


def buffer(data: bytes) -> cpu.Buffer:
    return cpu.Buffer.from_bytes(data)


def with_array_for(store: ic.IcechunkStore, key: str) -> ChunkKey:
    """Make the array that a chunk key needs, where there is none, and return the parsed key."""
    parsed = parse_key(key)
    assert isinstance(parsed, ChunkKey), key
    checkout = store.session.checkout
    if checkout.node(parsed.path) is None:
        checkout.set_document(parsed.path, array_document(len(parsed.coord)))
    return parsed
