"""Packed locations: round trips, what stays plain, hostile frames."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.format import locations
from icechunk.format.locations import MAX_PACKED_BYTES, pack, train, unpack
from icechunk.format.ragged import Ragged
from icechunk.resolved_config import LocationCompression
from tests.format.golden import damaged, long_texts, texts

LOCATIONS = [f"s3://bucket/year={i % 40}/month={i % 12}/file-{i}.nc".encode() for i in range(2000)]


@pytest.fixture(scope="module")
def dictionary() -> bytes:
    found = train(Ragged.from_list(LOCATIONS), LocationCompression())
    assert found is not None
    return found


def test_dictionary(dictionary: bytes) -> None:
    assert len(dictionary) <= 2048
    assert dictionary[:4] == bytes.fromhex("37a430ec")
    assert train(Ragged.from_list(LOCATIONS), LocationCompression()) == dictionary


@pytest.mark.parametrize(
    "values",
    [[], [b"short"] * 500, [b""] * 10, [b"short", b"this one is long enough"] * 500],
)
def test_no_dictionary(values: list[bytes]) -> None:
    assert train(Ragged.from_list(values), LocationCompression()) is None


def test_no_samples() -> None:
    options = LocationCompression(dictionary_max_training_samples=0)
    assert train(Ragged.from_list(LOCATIONS), options) is None
    options = LocationCompression(dictionary_max_size_bytes=1)
    assert train(Ragged.from_list(LOCATIONS), options) is None


def test_frames(dictionary: bytes) -> None:
    frames, packed = pack(Ragged.from_list(LOCATIONS), dictionary, 3)
    assert packed.all()
    parameters = zstandard.get_frame_parameters(frames[0])
    assert parameters.content_size == len(LOCATIONS[0])
    assert parameters.dict_id == zstandard.ZstdCompressionDict(dictionary).dict_id()
    assert not parameters.has_checksum
    assert frames.size.sum() < sum(map(len, LOCATIONS))
    assert unpack(frames, dictionary).tolist() == LOCATIONS


@given(st.lists(st.one_of(texts, long_texts, st.just(b"")), max_size=20))
@settings(deadline=None)
def test_round_trip(dictionary: bytes, values: list[bytes]) -> None:
    column = Ragged.from_list(values)
    for backend in ({"multi_compress_to_buffer"}, set()):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(zstandard, "backend_features", backend)
            stored, packed = pack(column, dictionary, 3)
        assert packed.tolist() == [len(value) <= MAX_PACKED_BYTES for value in values]
        assert stored.take(~packed).tolist() == column.take(~packed).tolist()
        assert unpack(stored.take(packed), dictionary).tolist() == column.take(packed).tolist()


def test_frames_without_content_size(dictionary: bytes) -> None:
    compressor = zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(dictionary), write_content_size=False
    )
    frames = Ragged.from_list([compressor.compress(value) for value in LOCATIONS[:50]])
    assert unpack(frames, dictionary).tolist() == LOCATIONS[:50]
    assert not locations.readable_by_all(frames).any()


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1024, 1025, 65535, 65536])
def test_sizes(dictionary: bytes, size: int) -> None:
    compressor = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(dictionary))
    frames = Ragged.from_list([compressor.compress(b"x" * size), compressor.compress(b"y")])
    assert unpack(frames, dictionary).tolist() == [b"x" * size, b"y"]
    assert locations.readable_by_all(frames).tolist() == [size <= 1024, True]


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize(("size", "count"), [(65537, 1), (1 << 30, 1), (60_000, 200)])
def test_bombs(dictionary: bytes, size: int, count: int, sized: bool) -> None:
    compressor = zstandard.ZstdCompressor(
        dict_data=zstandard.ZstdCompressionDict(dictionary), write_content_size=sized
    )
    frames = Ragged.from_list([compressor.compress(bytes(size))] * count)
    with pytest.raises(FormatError, match="damaged packed chunk locations"):
        unpack(frames, dictionary)


def test_frames_that_belong_together(dictionary: bytes) -> None:
    frames = pack(Ragged.from_list(LOCATIONS[:3]), dictionary, 3)[0].tolist()
    for broken in (
        [frames[0] + frames[1], frames[2]],
        [frames[0][:-1], frames[0][-1:] + frames[1]],
        [b"", frames[0]],
        [b"plain location"],
        [frames[0][:7]],
    ):
        with pytest.raises(FormatError, match="damaged"):
            unpack(Ragged.from_list(broken), dictionary)


def test_wrong_or_missing_dictionary(dictionary: bytes) -> None:
    frames, _ = pack(Ragged.from_list(LOCATIONS[:3]), dictionary, 3)
    other = train(Ragged.from_list([value[::-1] for value in LOCATIONS]), LocationCompression())
    for wrong in (None, b"", b"not a dictionary", other):
        with pytest.raises(FormatError):
            unpack(frames, wrong)


def test_frames_that_are_not_text(dictionary: bytes) -> None:
    for values in ([b"\xff\xfe"], [b"a\xc3", b"\xa9"]):
        frames, _ = pack(Ragged.from_list(values), dictionary, 3)
        with pytest.raises(FormatError, match="UTF-8"):
            unpack(frames, dictionary)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_damaged_frames_raise_only_format_errors(dictionary: bytes, data: st.DataObject) -> None:
    frames = pack(Ragged.from_list(LOCATIONS[:4]), dictionary, 3)[0].tolist()
    frames[1] = data.draw(st.composite(lambda draw: damaged(draw, frames[1]))())
    try:
        found = unpack(Ragged.from_list(frames), dictionary)
    except FormatError:
        return
    assert len(found) == 4
    assert np.all(found.size <= locations.MAX_LOCATION_BYTES)
