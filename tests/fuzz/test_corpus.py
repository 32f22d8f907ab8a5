"""Every input that fuzzing found worth keeping, and every valid file, keeps the rule."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from icechunk.core.changes import ChangeSet
from icechunk.core.wire import decode_document, pack_changes, unpack_changes
from icechunk.errors import FormatError
from tests.fuzz import seeds
from tests.fuzz.targets import TARGETS, session_document

CORPUS = Path(__file__).with_name("corpus")
MOST_SECONDS = 5
MOST_MEGABYTES = 300


@pytest.mark.parametrize("kind", TARGETS)
def test_kept_inputs(kind: str) -> None:
    paths = sorted((CORPUS / kind).iterdir())
    assert paths
    for path in paths:
        began = time.perf_counter()
        try:
            TARGETS[kind](path.read_bytes())
        except BaseException as e:
            e.add_note(f"input {kind}/{path.name}")
            raise
        assert time.perf_counter() - began < MOST_SECONDS, path.name


@pytest.mark.parametrize("kind", TARGETS)
def test_valid_files(kind: str, tmp_path: Path) -> None:
    seeds.write(tmp_path)
    for path in sorted((tmp_path / kind).iterdir()):
        TARGETS[kind](path.read_bytes())


def test_the_corpus_is_small() -> None:
    assert sum(p.stat().st_size for p in CORPUS.rglob("*") if p.is_file()) < 1_000_000


def _table(**columns: object) -> dict[str, object]:
    table: dict[str, object] = {
        "n": 1,
        "ndim": 1,
        "coords": bytes(4),
        "kind": b"\4",
        "chunk_id": b"",
        "offset": b"",
        "length": bytes(8),
        "payload": b"",
        "payload_size": b"",
        "packed": b"",
        "dictionary": None,
        "etag": None,
        "etag_size": None,
        "last_modified": b"",
    }
    return table | columns


@pytest.mark.parametrize(
    "table",
    [
        _table(n=2**40),
        _table(n=0, coords=b"", kind=b"", length=b"", ndim=2**40),
        _table(ndim=2**40, coords=b""),
        _table(kind=b"\x09"),
        _table(n=2, kind=b"\4\4", coords=b"\1\0\0\0" + bytes(4), length=bytes(16)),
    ],
)
def test_session_bytes_that_stand_for_huge_or_wrong_tables(table: dict[str, object]) -> None:
    packed = pack_changes(ChangeSet()) | {"chunks": [(bytes(8), table)]}
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="damaged session bytes"):
            unpack_changes(packed)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEGABYTES * 2**20


def test_a_session_frame_that_claims_to_be_huge() -> None:
    packed = zstandard.ZstdCompressor().compress(session_document(ChangeSet()))
    # A frame header with a content size of 8 bytes in place of its own.
    size = (7 * 2**30).to_bytes(8, "little")
    for frame in (b"\x28\xb5\x2f\xfd\xe0" + size, b"\x28\xb5\x2f\xfd\xe0" + size + packed[6:]):
        with pytest.raises(FormatError, match="not the bytes of a session"):
            decode_document(frame)
    assert decode_document(packed)["mode"] == 1
