"""Broken or hostile manifests and logs: declared errors only, in bounded time and memory."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.format.chunk_table import ChunkTable, merged
from icechunk.format.fb import writer
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.manifest import Manifest, encode_manifest, parse_manifest
from icechunk.format.node import NodeKind
from icechunk.format.ragged import Ragged
from icechunk.format.transaction_log import (
    MoveOperation,
    TransactionLog,
    encode_transaction_log,
    parse_transaction_log,
)
from icechunk.ids import NodeId, ObjectId
from icechunk.resolved_config import LocationCompression
from tests.format.buffers import blobs
from tests.format.golden import damaged

if TYPE_CHECKING:
    from collections.abc import Callable

OBJECT_ID = ObjectId(b"object-id-12")
NODE_ID = NodeId(b"node-id.")


def _manifest_body() -> bytes:
    names = [f"s3://bucket/folder/file-{i}".encode() for i in range(12)]
    table = merged(
        [
            ChunkTable.native(
                np.array([[0, 1], [0, 2]]),
                np.arange(24, dtype=np.uint8).reshape(2, 12),
                np.array([5, 6]),
                np.array([0, 7]),
            ),
            ChunkTable.inline(np.array([[1, 0], [1, 1]]), [b"abc", b""]),
            ChunkTable.virtual(
                np.stack([np.full(12, 2), np.arange(12)], 1),
                Ragged.from_list(names),
                np.arange(12),
                np.full(12, 9),
                etag=Ragged.from_list([b"etag"] * 6 + [b""] * 6),
                last_modified=np.array([0] * 6 + [7] * 6),
            ),
        ]
    )
    manifest = Manifest(id=OBJECT_ID, arrays=((NODE_ID, table),))
    options = LocationCompression(min_num_chunks=1)
    data = encode_manifest(manifest, location_compression=options)
    return parse_file(data, FileType.MANIFEST, key="m").body


def _log_body() -> bytes:
    move = MoveOperation(from_path="/a", to_path="/é", node_id=NODE_ID, node_kind=NodeKind.ARRAY)
    log = TransactionLog(
        id=OBJECT_ID,
        new_groups=frozenset([NODE_ID]),
        updated_arrays=frozenset([NODE_ID, NodeId(bytes(8))]),
        updated_chunks={
            NODE_ID: np.array([[0, 1], [5, 2]], np.uint32),
            NodeId(bytes(8)): np.zeros((1, 0), np.uint32),
        },
        moved_nodes=(move,),
    )
    return parse_file(encode_transaction_log(log), FileType.TRANSACTION_LOG, key="t").body


def _use_manifest(body: bytes) -> None:
    manifest = parse_manifest(encode_file(FileType.MANIFEST, body), key="m")
    for _, table in manifest.arrays:
        coords = table.coords.tolist()
        assert coords == sorted(coords)
        table.unpacked().payload.tolist()
    encode_manifest(manifest)
    encode_manifest(manifest, location_compression=LocationCompression(min_num_chunks=1))


def _use_log(body: bytes) -> None:
    log = parse_transaction_log(encode_file(FileType.TRANSACTION_LOG, body), key="t")
    assert parse_transaction_log(encode_transaction_log(log), key="t").id == log.id


CASES = pytest.mark.parametrize(
    ("body", "use"), [(_manifest_body(), _use_manifest), (_log_body(), _use_log)]
)


@CASES
@given(data=st.data())
@settings(deadline=None, max_examples=400)
def test_damaged_bodies(body: bytes, use: Callable[[bytes], None], data: st.DataObject) -> None:
    broken = data.draw(st.composite(lambda draw: damaged(draw, body))())
    with contextlib.suppress(FormatError):
        use(broken)


@CASES
def test_every_word_replaced(body: bytes, use: Callable[[bytes], None]) -> None:
    use(body)
    for at in range(0, len(body), 4):
        for value in (0, 0x7FFFFFFC, 0xFFFFFFFF, len(body)):
            with contextlib.suppress(FormatError):
                use(body[:at] + value.to_bytes(4, "little") + body[at + 4 :])


@CASES
def test_every_truncation(body: bytes, use: Callable[[bytes], None]) -> None:
    for cut in range(0, len(body), 3):
        with contextlib.suppress(FormatError):
            use(body[:cut])


@given(st.binary(max_size=300))
@settings(deadline=None, max_examples=100)
def test_random_bodies(body: bytes) -> None:
    for use in (_use_manifest, _use_log):
        with contextlib.suppress(FormatError):
            use(body)


# -- small files that stand for much --------------------------------------------------------------


def _refuse(fields: writer.Fields, match: str) -> None:
    data = encode_file(FileType.MANIFEST, writer.assemble_root(fields))
    began = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(FormatError, match=match):
        parse_manifest(data, key="m")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300 << 20
    assert time.perf_counter() - began < 5


def _same(table: writer.Fields, count: int) -> writer.Blobs:
    blob = writer.encode_table(table)
    return writer.Blobs([blob.data], np.full(count, blob.table, np.int64))


def test_one_reference_a_million_times() -> None:
    ref: writer.Fields = {0: writer.vector(bytes(4), 1, 4), 1: writer.byte_vector(b"x")}
    array: writer.Fields = {0: writer.struct(NODE_ID), 1: _same(ref, 1_000_000)}
    _refuse({0: writer.struct(OBJECT_ID), 1: writer.Tables([array])}, "do not fit")


def test_one_array_a_million_times() -> None:
    array: writer.Fields = {0: writer.struct(NODE_ID), 1: writer.Tables([])}
    _refuse({0: writer.struct(OBJECT_ID), 1: _same(array, 1_000_000)}, "1000000 arrays")


def test_references_shared_by_many_arrays() -> None:
    ref: writer.Fields = {0: writer.vector(bytes(4), 1, 4), 1: writer.byte_vector(b"x")}
    array: writer.Fields = {0: writer.struct(NODE_ID), 1: writer.Tables([ref] * 1000)}
    _refuse({0: writer.struct(OBJECT_ID), 1: _same(array, 1000)}, "too often|overlap|do not fit")


def test_huge_ranks() -> None:
    index = writer.vector(bytes(400_000), 100_000, 4)
    ref: writer.Fields = {0: index, 1: writer.byte_vector(b"x")}
    array: writer.Fields = {0: writer.struct(NODE_ID), 1: _same(ref, 1000)}
    _refuse({0: writer.struct(OBJECT_ID), 1: writer.Tables([array])}, "too often")


def test_inline_bytes_shared_without_end() -> None:
    ref: writer.Fields = {0: writer.vector(bytes(4), 1, 4), 1: writer.byte_vector(bytes(1 << 20))}
    array: writer.Fields = {0: writer.struct(NODE_ID), 1: _same(ref, 1000)}
    _refuse({0: writer.struct(OBJECT_ID), 1: writer.Tables([array])}, "too often")


def test_many_distinct_vtables_are_read() -> None:
    # Every reference as its own blob with its own vtable: slower, but right.
    refs = [
        writer.encode_table(
            {0: writer.vector(i.to_bytes(4, "little"), 1, 4), 1: writer.byte_vector(b"%d" % i)}
        )
        for i in range(500)
    ]
    body = writer.assemble_root(
        {
            0: writer.struct(OBJECT_ID),
            1: writer.Tables([{0: writer.struct(NODE_ID), 1: blobs(refs)}]),
        }
    )
    manifest = parse_manifest(encode_file(FileType.MANIFEST, body), key="m")
    assert manifest.arrays[0][1].payload.tolist() == [b"%d" % i for i in range(500)]


def test_logs_that_stand_for_much() -> None:
    empty = writer.vector(b"", 0, 1)
    base: dict[int, writer.Value | None] = dict.fromkeys(range(1, 7), empty)
    base |= {0: writer.struct(OBJECT_ID), 7: writer.Tables([])}
    index = writer.encode_table({0: writer.vector(bytes(4), 1, 4)})
    indices = writer.Blobs([index.data], np.full(100_000, index.table, np.int64))
    array: writer.Fields = {0: writer.struct(NODE_ID), 1: writer.Tables([])}
    move: writer.Fields = {0: writer.string("/a"), 1: writer.string("/b")}
    for slot, value in (
        (7, _same(array, 100_000)),
        (7, writer.Tables([{0: writer.struct(NODE_ID), 1: indices}])),
        (8, _same(move, 100_000)),
    ):
        data = encode_file(FileType.TRANSACTION_LOG, writer.assemble_root(base | {slot: value}))
        began = time.perf_counter()
        with pytest.raises(FormatError, match="do not fit"):
            parse_transaction_log(data, key="t")
        assert time.perf_counter() - began < 2
