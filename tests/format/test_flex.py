"""FlexBuffers: exact bytes, round trips, every type of the format, hostile input."""

from __future__ import annotations

import math
import struct
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError, InvalidInputError
from icechunk.format import flex

SPECIFIED: list[tuple[Any, str]] = [
    (1, "010801"),
    (-5, "fb0401"),
    (2**64 - 1, "ffffffffffffffff0b08"),
    (1.5, "0000c03f0e04"),
    (0.1, "9a9999999999b93f0f08"),
    (None, "000001"),
    (True, "016801"),
    ("", "0000011401"),
    ([], "00002801"),
    ({}, "00000100002401"),
    ([1, 2], "0102024401"),
    ([1, 2, 3], "010203035001"),
    ([1.0, 2.5], "0000803f00002040084a01"),
    (["a", "b"], "0161000162000206041414042801"),
    ([True, False], "020100029001"),
    ({"is_root": True}, "69735f726f6f740001090101010168022401"),
]

# Seen in files of the reference, beyond the table of the specification.
OBSERVED: list[tuple[Any, str]] = [
    ([1, -1], "0201ff0804042801"),
    ([1, 1.5], "02000000010000000000c03f0a0e0a2a01"),
    ([None], "010000022801"),
    ([1], "0101013001"),
    ([-1, -1, -1, -1, -1], "05ffffffffff052c01"),
    ([[1, 2], [3, 4]], "010203040205044444042801"),
    (
        {"a": 1, "b": {"a": 2, "c": [1]}},
        "610062006300010102090602010202080830021312020102010b0824042401",
    ),
    ({"é": 1, "z": 2, "": 3}, "007a00c3a90003070706030103030201080808062401"),
    (-129, "7fff0502"),
    (-(2**63), "00000000000000800708"),
    (2**70, "000080620e04"),
    ([2**40, 1.5], "02000000000000000000000000010000000000000000f83f0b0f122b01"),
]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(-300, 70_000),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.text(max_size=12),
    st.binary(max_size=12),
)
keys = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.lists(st.integers(0, 2**40), max_size=6),
        st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=6),
        st.lists(st.booleans(), max_size=300),
        st.dictionaries(keys, inner, max_size=6),
    ),
    max_leaves=30,
)


def typed(value: Any) -> Any:
    """Return a value in which 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if isinstance(value, list):
        return [typed(v) for v in value]
    if isinstance(value, dict):
        return {k: typed(v) for k, v in value.items()}
    return (type(value).__name__, repr(value))


@pytest.mark.parametrize(("value", "text"), SPECIFIED + OBSERVED, ids=lambda v: repr(v)[:30])
def test_bytes_are_those_of_the_reference(value: Any, text: str) -> None:
    data = bytes.fromhex(text)
    assert flex.encode(value) == data
    back = flex.decode(data)
    assert back == value
    assert typed(back) == typed(float(value) if value == 2**70 else value)


@settings(deadline=None)
@given(values)
def test_round_trip(value: Any) -> None:
    assert typed(flex.decode(flex.encode(value))) == typed(value)


@settings(deadline=None)
@given(st.dictionaries(keys, st.integers(), min_size=2))
def test_equal_maps_are_equal_bytes_with_keys_in_utf8_order(value: dict[str, int]) -> None:
    turned = dict(reversed(value.items()))
    assert flex.encode(value) == flex.encode(turned)
    assert list(flex.decode(flex.encode(value))) == sorted(value, key=lambda k: k.encode())


def test_lossy_values_follow_the_reference() -> None:
    assert flex.decode(flex.encode((1, ("a",)))) == [1, ["a"]]
    assert flex.decode(flex.encode([math.nan, math.inf, -math.inf])) == [None] * 3
    assert flex.decode(flex.encode([2**64, -(2**63) - 1])) == [2.0**64, -(2.0**63)]
    assert flex.decode(flex.encode(10**400)) is None


@pytest.mark.parametrize("value", [{1, 2}, object(), {1: 2}, [{None: 1}], 1j, range(3)])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="metadata"):
        flex.encode(value)


@pytest.mark.parametrize("value", [{"a\0b": 1}, {"a": "\ud800"}, {"\ud800": 1}])
def test_what_the_format_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        flex.encode(value)


def nested(depth: int) -> Any:
    value: Any = 1
    for i in range(depth):
        value = [value] if i % 2 else {"k": value}
    return value


def test_nesting_is_bounded_both_ways() -> None:
    deepest = nested(flex.MAX_DEPTH)
    data = flex.encode(deepest)
    assert flex.decode(data) == deepest
    with pytest.raises(InvalidInputError, match="levels deep"):
        flex.encode(nested(flex.MAX_DEPTH + 1))
    # One more vector of one element around it: size, offset back, type; root.
    deeper = data[:-3] + bytes((1, 1 + data[-3], data[-2], 2, 0x28, 1))
    with pytest.raises(FormatError, match="nested too deep"):
        flex.decode(deeper)


def test_encoding_or_decoding_near_the_recursion_limit_raises_our_errors() -> None:
    value = nested(200)
    data = flex.encode(value)

    def deep(n: int) -> None:
        if n:
            deep(n - 1)
            return
        flex.decode(data)

    def ever_deeper() -> None:
        for n in range(100, 1000, 20):
            deep(n)

    with pytest.raises(FormatError, match="nested too deep"):
        ever_deeper()


# Values only other writers produce, spelled out in bytes.
FOREIGN = [
    ("int instead of uint", "05 04 01", 5),
    ("wide int", "0500 0000 0000 0000 07 08", 5),
    ("half float", "003e 0d 02", 1.5),
    ("key as value", "6162 00 03 10 01", "ab"),
    ("indirect uint", "2a 01 1c 01", 42),
    ("indirect int8", "fb 01 18 01", -5),
    ("indirect double", "000000000000f83f 08 23 01", 1.5),
    ("blob", "03 010203 03 64 01", b"\1\2\3"),
    ("vector of keys", "6100 6200 02 05 04 02 38 01", ["a", "b"]),
    ("vector of strings, deprecated", "01 6100 01 6200 02 06 04 02 3c 01", ["a", "b"]),
    ("untyped vector of ints", "02 01 02 04 04 04 28 01", [1, 2]),
    ("int3", "ff 00 01 03 4c 01", [-1, 0, 1]),
    ("int4", "ff 00 01 02 04 58 01", [-1, 0, 1, 2]),
    ("float3", "0000803f 00000040 00004040 0c 56 01", [1.0, 2.0, 3.0]),
    ("bool in two bytes", "0001 69 02", True),
    ("null in eight bytes", "0000000000000000 03 08", None),
    ("map with a wide index", "6100 0100 0400 02 02 01 07 08 02 24 01", {"a": 7}),
]


@pytest.mark.parametrize(("name", "text", "value"), FOREIGN, ids=[row[0] for row in FOREIGN])
def test_every_type_of_other_writers_is_read(name: str, text: str, value: Any) -> None:
    assert typed(flex.decode(bytes.fromhex(text))) == typed(value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "too few"),
        ("0001", "too few"),
        ("000803", "root width"),
        ("000808", "root width"),
        ("006c01", "unknown type 27"),
        ("009401", "unknown type 37"),
        ("010c01", "FLOAT in 1 byte"),
        ("051401", "before the buffer"),
        ("ff00011401", "too often"),
        ("1000011401", "pass the end"),
        ("01ff00021401", "not UTF-8"),
        ("01002801", "too often|pass the end"),
        ("6162021001", "without end"),
        ("0000002401", "keys|room"),
        ("010202022401", "map|keys|before"),
    ],
)
def test_damage_is_named(text: str, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        flex.decode(bytes.fromhex(text))
    assert caught.value.kind == "deserialization"


def test_a_vector_that_holds_itself() -> None:
    # size 2, two offsets to the vector itself, both of type vector.
    data = bytes((2, 0, 1, 0x28, 0x28, 4, 0x28, 1))
    with pytest.raises(FormatError):
        flex.decode(data)


def test_small_buffers_that_unfold_without_end_are_refused_quickly() -> None:
    # Each vector holds the one before it 100 times: 100**20 values in 4 kB.
    data = bytearray((1, 7, 4))
    data[:] = b"\0"
    previous = 1
    for _ in range(20):
        data += struct.pack("<H", 100) if len(data) % 2 == 0 else b"\0" + struct.pack("<H", 100)
        start = len(data)
        for i in range(100):
            data += struct.pack("<H", start + 2 * i - previous)
        data += bytes((0x29,)) * 100
        previous = start
    if len(data) % 2:
        data += b"\0"
    data += struct.pack("<H", len(data) - previous) + bytes((0x29, 2))
    began = time.perf_counter()
    with pytest.raises(FormatError):
        flex.decode(bytes(data))
    assert time.perf_counter() - began < 1


def test_long_text_used_often_is_refused_or_shared() -> None:
    # 1 MB of text, 50,000 overlapping pieces of it: 50 GB if every piece were made.
    text = b"a" * 1_000_000 + b"\0"
    n = 50_000
    data = bytearray(text + bytes(-len(text) % 4) + struct.pack("<I", n))
    start = len(data)
    for i in range(n):
        data += struct.pack("<I", start + 4 * i - i)
    data += struct.pack("<I", len(data) - start) + bytes((flex.FlexType.VECTOR_KEY << 2 | 2, 4))
    began = time.perf_counter()
    with pytest.raises(FormatError, match="too often"):
        flex.decode(bytes(data))
    assert time.perf_counter() - began < 1


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_decode_or_raise_format_error(data: bytes) -> None:
    with suppress(FormatError):
        flex.decode(data)


@settings(max_examples=300, deadline=None)
@given(values, st.data())
def test_damaged_buffers_decode_or_raise_format_error(value: Any, data: st.DataObject) -> None:
    raw = bytearray(flex.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    for candidate in (bytes(raw), bytes(raw[:cut]), bytes(raw[cut:])):
        with suppress(FormatError):
            flex.decode(candidate)
