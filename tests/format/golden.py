"""The golden repositories, unpacked, and hypothesis strategies for chunk references."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from icechunk.format.chunk_table import ChunkTable, merged
from icechunk.format.ragged import Ragged
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path

REPOSITORIES = (
    "v1-basic",
    "v1-by-2.3.0",
    "v1-rich",
    "v2-basic",
    "v2-rich",
    "v2-upgraded",
    "v2-virtual",
)


def unpack(name: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Unpack one repository; return where it is, and what the official package said of it."""
    golden = shared_dir() / "golden"
    with tarfile.open(golden / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name, json.loads((golden / f"{name}.json").read_text())


u64 = st.integers(0, 2**64 - 1)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).map(str.encode)
long_texts = st.integers(1000, 1100).map(lambda n: b"s3://bucket/" + b"x" * n)


def _coords(draw: st.DrawFn, ndim: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    number = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 2))
    one = st.lists(number, min_size=ndim, max_size=ndim)
    rows = draw(st.lists(one, max_size=8))
    return np.array(rows, np.uint32).reshape(len(rows), ndim)


@st.composite
def chunk_tables(draw: st.DrawFn) -> ChunkTable:
    """Draw references of every kind."""
    ndim = draw(st.integers(0, 4))
    native, inline, virtual = (_coords(draw, ndim) for _ in range(3))
    n, v = len(native), len(virtual)

    def column(values: st.SearchStrategy[Any], count: int) -> list[Any]:
        return draw(st.lists(values, min_size=count, max_size=count))

    ids = np.frombuffer(draw(st.binary(min_size=12 * n, max_size=12 * n)), np.uint8)
    maybe_etag = st.one_of(st.just(b""), texts)
    return merged(
        [
            ChunkTable.native(
                native,
                ids.reshape(n, 12),
                np.array(column(u64, n), np.uint64),
                np.array(column(st.one_of(st.just(0), u64), n), np.uint64),
            ),
            ChunkTable.inline(inline, column(st.binary(max_size=40), len(inline))),
            ChunkTable.virtual(
                virtual,
                Ragged.from_list(column(st.one_of(texts, long_texts), v)),
                np.array(column(u64, v), np.uint64),
                np.array(column(u64, v), np.uint64),
                etag=Ragged.from_list(column(maybe_etag, v)) if draw(st.booleans()) else None,
                last_modified=np.array(column(st.integers(0, 2**32 - 1), v), np.uint32),
            ),
        ]
    )


def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Return a copy of valid bytes with a few of the faults that hostile or broken files have."""
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.sampled_from(["flip", "cut", "number", "splice", "zero"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
            case "number":
                number = draw(st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
                at &= ~3
                data[at : at + 4] = number.to_bytes(4, "little")
            case "splice":
                size = draw(st.integers(0, 64))
                there = draw(st.integers(0, max(0, len(data) - 1)))
                data[at : at + size] = data[there : there + size]
            case "zero":
                size = draw(st.integers(0, 16))
                data[at : at + size] = bytes(len(data[at : at + size]))
    return bytes(data)
