"""Object and node ids: raw bytes, and their Crockford base32 text.

Source: Icechunk specification, section "Identifiers".
"""

from __future__ import annotations

import base64
import os
from typing import Final, NewType

from icechunk.errors import ErrorKind, InvalidInputError

ObjectId = NewType("ObjectId", bytes)
"""12 random bytes: the id of a snapshot, manifest, chunk or backup."""

NodeId = NewType("NodeId", bytes)
"""8 random bytes: the id of a group or array, kept for its life."""

OBJECT_ID_BYTES: Final = 12
NODE_ID_BYTES: Final = 8
INITIAL_SNAPSHOT_ID: Final = ObjectId(bytes.fromhex("0b1cc8d6787580f0e33a6534"))

_RFC4648 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CROCKFORD = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_TO_TEXT = bytes.maketrans(_RFC4648, _CROCKFORD)
_PAIRS = [chr(a) + chr(b) for a in _CROCKFORD for b in _CROCKFORD]
# Characters outside the alphabet become "=", which the strict base32 decoder refuses inside.
_FROM_TEXT = bytearray(b"=" * 256)
for _rfc, _crock in zip(_RFC4648, _CROCKFORD, strict=True):
    _FROM_TEXT[_crock] = _rfc
    _FROM_TEXT[ord(chr(_crock).lower())] = _rfc
for _alias, _meant in zip(b"ILOilo", b"110110", strict=True):
    _FROM_TEXT[_alias] = _FROM_TEXT[_meant]


def new_object_id() -> ObjectId:
    """Draw a fresh 12-byte id."""
    return ObjectId(os.urandom(OBJECT_ID_BYTES))


def new_node_id() -> NodeId:
    """Draw a fresh 8-byte id."""
    return NodeId(os.urandom(NODE_ID_BYTES))


def id_text(raw: bytes) -> str:
    """Return the text form of an id: 20 characters for 12 bytes, 13 for 8."""
    if len(raw) != OBJECT_ID_BYTES:
        return base64.b32encode(raw).rstrip(b"=").translate(_TO_TEXT).decode("ascii")
    # Names of chunks are made by the thousand: ten digits of ten bits are four times as fast.
    n = int.from_bytes(raw) << 4
    return (
        f"{_PAIRS[n >> 90]}{_PAIRS[n >> 80 & 1023]}{_PAIRS[n >> 70 & 1023]}{_PAIRS[n >> 60 & 1023]}"
        f"{_PAIRS[n >> 50 & 1023]}{_PAIRS[n >> 40 & 1023]}{_PAIRS[n >> 30 & 1023]}"
        f"{_PAIRS[n >> 20 & 1023]}{_PAIRS[n >> 10 & 1023]}{_PAIRS[n & 1023]}"
    )


def _decode(text: str, length: int, what: str) -> bytes:
    if not isinstance(text, str):
        raise TypeError(f"a {what} is a str, not {type(text).__name__}")
    chars = -(-length * 8 // 5)
    encoded = text.encode("utf-8", "replace")
    if len(encoded) == chars:
        padded = encoded.translate(bytes(_FROM_TEXT))
        if b"=" not in padded:
            return base64.b32decode(padded + b"=" * (-chars % 8))[:length]
    raise InvalidInputError(
        f"not a {what}: {text!r}. Expected {chars} characters of Crockford base32 "
        "(digits and upper-case letters without I, L, O, U).",
        ErrorKind.INVALID_SNAPSHOT_ID,
    )


def parse_object_id(text: str, what: str = "snapshot id") -> ObjectId:
    """Return the raw form of a 20-character id.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-snapshot-id``; wrong length or a character outside the alphabet.
    """
    return ObjectId(_decode(text, OBJECT_ID_BYTES, what))


def parse_node_id(text: str) -> NodeId:
    """Return the raw form of a 13-character node id.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-snapshot-id``; wrong length or a character outside the alphabet.
    """
    return NodeId(_decode(text, NODE_ID_BYTES, "node id"))
