"""The zarr codec of a chunk that is one GRIB message."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

GRIB_CODEC: Final = "icechunk.grib"
"""Name of the codec in ``zarr.json``; found through the entry point of this package."""

_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class GribCodec(ArrayBytesCodec):
    """Decodes one GRIB message, edition 1 or 2, with ecCodes; values that are missing are NaN.

    Notes
    -----
    ecCodes is asked in one thread at a time: not every build of it is safe for more.
    """

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec; it has no options."""
        del data
        return cls()

    def to_dict(self) -> dict[str, Any]:
        """Return the codec as ``zarr.json`` has it."""
        return {"name": GRIB_CODEC, "configuration": {}}

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        values = _values(chunk_bytes.to_bytes())
        data = values.astype(chunk_spec.dtype.to_native_dtype()).reshape(chunk_spec.shape)
        return chunk_spec.prototype.nd_buffer.from_ndarray_like(data)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        del chunk_array, chunk_spec
        raise NotImplementedError(
            "GRIB messages are only read: write changed values to an array of their own."
        )

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Refuse: the length of a message depends on its values."""
        raise NotImplementedError


def _values(message: bytes) -> np.ndarray[Any, Any]:
    import eccodes  # noqa: PLC0415 # loaded when there is a message to decode

    with _one_at_a_time:
        handle = eccodes.codes_new_from_message(message)
        try:
            missing = eccodes.codes_get_double(handle, "missingValue")
            values: np.ndarray[Any, Any] = eccodes.codes_get_values(handle)
            has_bitmap = eccodes.codes_get(handle, "bitmapPresent")
        finally:
            eccodes.codes_release(handle)
    if has_bitmap:
        values[values == missing] = np.nan
    return values
