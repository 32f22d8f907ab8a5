"""Metadata items: a name and one schemaless value each.

Source: Icechunk specification, section "Dynamic values". Snapshot files with spec byte 1 hold
MessagePack, everything else FlexBuffers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgpack

from icechunk.errors import ErrorKind, FormatError, InvalidInputError
from icechunk.format import flex
from icechunk.format.fb.schema import Items, Schema, text
from icechunk.format.fb.writer import Tables, byte_vector, string

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk.format.fb.table import Table
    from icechunk.format.fb.writer import Fields

METADATA_ITEM: Final = Schema("MetadataItem", {0: text("name"), 1: Items("value")})

_LARGEST_INTEGER: Final = 2**64 - 1
_SMALLEST_INTEGER: Final = -(2**63)


def utf8(value: str, what: str, kind: ErrorKind = ErrorKind.BAD_METADATA) -> bytes:
    """Return text as bytes.

    Raises
    ------
    InvalidInputError
        Kind ``bad-metadata`` or the given one; half a surrogate pair, which UTF-8 cannot hold.
    """
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} is no valid Unicode text: {value!r}", kind) from error


def plain_value(value: Any, *, depth: int = 0) -> Any:
    """Return what a metadata value is read back as, a deep copy.

    Parameters
    ----------
    value : None, bool, int, float, str, list, tuple or mapping
        Mapping keys are strings.
    depth : int
        Levels of nesting above it.

    Returns
    -------
    None, bool, int, float, str, list or dict
        Tuples turned into lists, NaN and infinities into None, integers beyond 64 bits into floats.

    Raises
    ------
    TypeError
        A value or key of another type.
    InvalidInputError
        Kind ``bad-metadata``; nested more than `flex.MAX_DEPTH` deep.

    Notes
    -----
    Source: Icechunk specification, section "Dynamic values".
    """
    if depth > flex.MAX_DEPTH:
        raise InvalidInputError(
            f"metadata nested more than {flex.MAX_DEPTH} levels deep: flatten it",
            ErrorKind.BAD_METADATA,
        )
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"metadata keys must be strings, not {type(key).__name__}")
        return {key: plain_value(item, depth=depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_value(item, depth=depth + 1) for item in value]
    return _plain_leaf(value)


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        if _SMALLEST_INTEGER <= value <= _LARGEST_INTEGER:
            return int(value)
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, str)):
        return value
    raise TypeError(
        f"metadata cannot hold a {type(value).__name__}: use None, bool, int, float, str, lists, "
        "and dicts with string keys"
    )


def metadata_fields(metadata: Mapping[str, Any], *, spec_version: int = 2) -> Tables:
    """Encode metadata as the value of a field.

    Parameters
    ----------
    metadata : mapping
        Items; written sorted by name.
    spec_version : int
        1 for MessagePack, 2 for FlexBuffers.

    Raises
    ------
    TypeError
        A value or key of a type that the format does not have.
    InvalidInputError
        Kind ``bad-metadata``; see `icechunk.format.flex.encode`.
    """
    encode = _pack if spec_version == 1 else flex.encode
    items: list[Fields] = []
    for name in sorted(metadata):
        if not isinstance(name, str):
            raise TypeError(f"metadata keys must be strings, not {type(name).__name__}")
        items.append(
            {0: string(utf8(name, "a metadata key")), 1: byte_vector(encode(metadata[name]))}
        )
    return Tables(items)


def read_metadata(items: Sequence[Table] | None, *, spec_version: int = 2) -> dict[str, Any]:
    """Decode metadata items, in their order.

    Raises
    ------
    FormatError
        Kind ``deserialization`` for a damaged value, ``invalid-file-format`` for a damaged table.
    """
    metadata = {}
    size = 0
    for item in items or ():
        data = item.required_raw(1, "value")
        size += len(data)
        if size > item.buffer.size:
            raise item.buffer.error("MetadataItem.value", "parts of the file are used too often")
        name = item.required_text(0, "name")
        metadata[name] = _read_value(item.buffer.key, name, data, spec_version)
    return metadata


def _read_value(key: str, name: str, data: bytes, spec_version: int) -> Any:
    try:
        return _unpack(data) if spec_version == 1 else flex.decode(data)
    except FormatError as error:
        raise FormatError(f"{key}: metadata {name!r}: {error.message}", error.kind) from error


def _pack(value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(_sorted_keys(plain_value(value)), use_bin_type=True)
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"metadata text cannot be written as UTF-8: {error.object!r}", ErrorKind.BAD_METADATA
        ) from error
    return packed


def _sorted_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _sorted_keys(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_sorted_keys(item) for item in value]
    return value


def _unpack(data: bytes) -> Any:
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True, ext_hook=_refuse_extension)
        # Extension -1 is a timestamp, which has no place in metadata: refused with its type here.
        return plain_value(value)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise FormatError(
            f"damaged MessagePack value: {error}", ErrorKind.DESERIALIZATION
        ) from error


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"extension type {code} of {len(data)} bytes")
