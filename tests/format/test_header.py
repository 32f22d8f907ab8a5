"""The envelope: exact header bytes, round trips, everything that must be refused."""

from __future__ import annotations

import time
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk._version import __version__
from icechunk.errors import FormatError
from icechunk.format import header
from icechunk.format.header import FileType, encode_file, parse_file
from tests.format.golden import REPOSITORIES, damaged, unpack

HEADER_OF_A_REPO = "494345f09fa78a4348554e4b69632d322e332e3020202020202020202020202020202020020601"


def _file(frame: bytes, spec: int = 2, kind: int = 6, compression: int = 1) -> bytes:
    head = bytearray.fromhex(HEADER_OF_A_REPO)
    head[36:39] = spec, kind, compression
    return bytes(head) + frame


def _frame(body: bytes, *, sized: bool = True) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=sized).compress(body)


def _refused(data: bytes, match: str, kind: str = "invalid-file-format", **options: int) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_file(data, FileType.REPO, key="repo", **options)
    assert caught.value.kind == kind
    assert caught.value.message.startswith("repo: ")


def test_header_bytes() -> None:
    data = encode_file(FileType.REPO, b"body")
    assert data[:12] == "ICE🧊CHUNK".encode()
    assert data[12:36] == f"ic-py-{__version__}".encode().ljust(24)
    assert data[36:39] == bytes([2, 6, 1])
    parameters = zstandard.get_frame_parameters(data[39:])
    assert parameters.content_size == 4
    assert parameters.has_checksum
    assert encode_file(FileType.SNAPSHOT, b"", spec_version=1)[36:38] == bytes([1, 1])


def test_specified_header_is_read() -> None:
    parsed = parse_file(_file(_frame(b"x")), FileType.REPO, key="repo")
    assert (parsed.spec_version, parsed.writer, parsed.body) == (2, "ic-2.3.0", b"x")


@given(st.binary(max_size=3000), st.sampled_from(FileType), st.sampled_from([1, 2]))
@settings(deadline=None)
def test_round_trip(body: bytes, kind: FileType, spec: int) -> None:
    parsed = parse_file(encode_file(kind, body, spec_version=spec), kind, key="k")
    assert (parsed.body, parsed.spec_version, parsed.writer) == (body, spec, header.WRITER)


@pytest.mark.parametrize("size", [0, 1, 5000, 3_000_000])
def test_frames_of_unknown_size_are_read(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    frame = _frame(body, sized=False)
    assert parse_file(_file(frame), FileType.REPO, key="repo").body == body
    _refused(_file(frame[:-1]), "ends early|damaged")
    _refused(_file(frame + b"x"), "after the end")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "shorter than the 39-byte header"),
        (_file(b"")[:38], "shorter"),
        (b"X" + _file(_frame(b"x"))[1:], "magic"),
        (_file(_frame(b"x"), kind=1), "file type is 1, expected 6"),
        (_file(_frame(b"x"), compression=0), "compression is 0"),
        (_file(_frame(b"x"), compression=2), "compression is 2"),
        (_file(b""), "zstd"),
        (_file(b"no frame at all"), "zstd"),
        (_file(_frame(b"x" * 99)[:-1]), "zstd"),
        (_file(_frame(b"x") + b"tail"), "zstd"),
        (_file(_frame(b"x") + _frame(b"y")), "zstd"),
    ],
)
def test_refused(data: bytes, match: str) -> None:
    _refused(data, match)


@pytest.mark.parametrize("spec", [0, 3, 255])
def test_other_versions_are_refused(spec: int) -> None:
    _refused(_file(_frame(b"x"), spec=spec), f"version {spec}", "unsupported-spec-version")


def test_a_checksum_that_does_not_fit() -> None:
    data = bytearray(encode_file(FileType.REPO, b"some body to check"))
    data[-1] ^= 1
    _refused(bytes(data), "zstd")


def test_declared_size_over_the_limit() -> None:
    _refused(_file(_frame(b"x" * 1000)), "over the limit of 999", max_body_bytes=999)
    _refused(_file(_frame(b"x" * 1000, sized=False)), "limit of 999", max_body_bytes=999)
    assert parse_file(_file(_frame(bytes(1000))), FileType.REPO, key="k", max_body_bytes=1000)


def test_declared_size_is_not_believed() -> None:
    # A single-segment frame of an 8-byte size: 1 GiB declared, one raw block of 3 bytes inside.
    lie = b"\x28\xb5\x2f\xfd\xe0" + (1 << 30).to_bytes(8, "little") + b"\x19\x00\x00abc"
    tracemalloc.start()
    _refused(_file(lie), "zstd")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize("sized", [True, False])
def test_bombs_stop_at_the_limit(sized: bool) -> None:
    bomb = _file(_frame(bytes(1 << 29), sized=sized))
    assert len(bomb) < 50_000
    began = time.perf_counter()
    tracemalloc.start()
    _refused(bomb, "limit", max_body_bytes=1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 << 20
    assert time.perf_counter() - began < 5


def test_body_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MAX_BODY_BYTES", 10)
    with pytest.raises(FormatError, match="Split it"):
        encode_file(FileType.MANIFEST, b"x" * 11)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_damaged_files_raise_only_format_errors(data: st.DataObject) -> None:
    valid = encode_file(FileType.REPO, bytes(range(200)) * 3)
    broken = data.draw(st.composite(lambda draw: damaged(draw, valid))())
    try:
        body = parse_file(broken, FileType.REPO, key="repo", max_body_bytes=1 << 20).body
    except FormatError:
        return
    assert body == bytes(range(200)) * 3


@pytest.mark.parametrize("name", REPOSITORIES)
def test_golden_files(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder, described = unpack(name, tmp_path_factory.mktemp("golden"))
    kinds = {
        "snapshots": FileType.SNAPSHOT,
        "manifests": FileType.MANIFEST,
        "transactions": FileType.TRANSACTION_LOG,
    }
    for part, kind in kinds.items():
        for path in (folder / part).iterdir():
            parsed = parse_file(path.read_bytes(), kind, key=path.name)
            assert parsed.body[4:8] == b"Ichk"
            if part == "manifests":
                said = described["manifests"].get(path.name, {}).get("header")
                if said:
                    assert parsed.writer == said["written_by"]
                    assert parsed.spec_version == float(said["spec_version"])
