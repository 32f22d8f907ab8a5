"""FlatBuffers: the specification's example, the stock library, alignment, hostile bytes."""

from __future__ import annotations

import contextlib
import struct
import time
from typing import Any

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError, InternalError
from icechunk.format.fb import reader, writer
from tests.format.buffers import blobs, root_column
from tests.format.golden import damaged

# Section "Worked example: the initial snapshot of a v2 repository" of the specification.
INITIAL_SNAPSHOT = bytes.fromhex(
    "1c0000004963686b14002c000400000010002400140018001c00200014000000"
    "0b1cc8d6787580f0e33a65341c0000001c000000340000007400000078000000"
    "fafe3015b760060000000000160000005265706f7369746f727920696e697469"
    "616c697a65640000010000000c00000008000c00040008000800000020000000"
    "040000001200000069735f726f6f74000109010101016802240100000a000000"
    "5f5f6963656368756e6b0000000000000000000000000000"
)


def _root(data: bytes) -> reader.TableVector:
    return root_column(data, key="snapshots/X", name="Snapshot")


def test_worked_example() -> None:
    assert len(INITIAL_SNAPSHOT) == 184
    root = _root(INITIAL_SNAPSHOT)
    assert root.struct(0, "id", 12).tobytes().hex() == "0b1cc8d6787580f0e33a6534"
    assert root.present(1).tolist() == [False]
    assert root.scalar(3, "flushed_at", "<u8").tolist() == [0x0660B71530FEFA]
    assert root.texts(4, "message") == ["Repository initialized"]
    nodes, bounds = root.tables(2, "nodes", "NodeSnapshot")
    assert (len(nodes), bounds.tolist()) == (0, [0, 0])
    items, _ = root.tables(5, "metadata", "MetadataItem")
    assert items.texts(0, "name") == ["__icechunk"]
    value = items.bytes(1, "value")[0]
    assert value.hex() == "69735f726f6f740001090101010168022401"
    assert root.vector(6, "manifest_files", 32).counts.tolist() == [0]
    assert root.present(8).tolist() == [False]
    assert not root.has_slot_from(8).any()
    assert root.has_slot_from(7).all()
    with pytest.raises(FormatError, match=r"^snapshots/X: Snapshot.parent_id: required"):
        root.struct(1, "parent_id", 12)


# -- written here, read by the stock library ------------------------------------------------------

ITEM = {0: writer.string("näme"), 1: writer.byte_vector(b"\x01\x02\x03")}


def _everything() -> dict[int, writer.Value | None]:
    return {
        0: writer.struct(b"abcdefghijkl"),
        1: writer.u8(7),
        2: writer.u16(700),
        3: writer.u32(70000),
        4: writer.i32(-1),
        5: writer.u64(2**63),
        6: writer.string("hello"),
        7: writer.Table(ITEM),
        8: writer.Tables([ITEM, {}, ITEM]),
        9: writer.Strings([b"a", b"", b"ccc"]),
        10: writer.vector(struct.pack("<3Q", 1, 2, 3), 3, 8),
        11: blobs([writer.encode_table(ITEM), writer.encode_table({5: writer.u64(5)})]),
        12: None,
        13: writer.u8(1, default=1),
    }


def _stock_texts(body: bytes) -> tuple[Table, dict[str, Any]]:
    position = int.from_bytes(body[:4], "little")
    table = Table(bytearray(body), position)

    def at(slot: int) -> int:
        return int(table.Offset(4 + 2 * slot))

    def child(start: int, row: int) -> Table:
        return Table(table.Bytes, table.Indirect(start + 4 * row))

    def name(item: Table) -> str | None:
        offset = item.Offset(4)
        return None if not offset else item.String(item.Pos + offset).decode()

    flags = number_types
    read = {
        "u8": table.Get(flags.Uint8Flags, position + at(1)),
        "u16": table.Get(flags.Uint16Flags, position + at(2)),
        "u32": table.Get(flags.Uint32Flags, position + at(3)),
        "i32": table.Get(flags.Int32Flags, position + at(4)),
        "u64": table.Get(flags.Uint64Flags, position + at(5)),
        "struct": bytes(body[position + at(0) :][:12]),
        "string": table.String(position + at(6)).decode(),
        "child": name(Table(table.Bytes, table.Indirect(position + at(7)))),
        "children": [name(child(table.Vector(at(8)), row)) for row in range(3)],
        "strings": [table.String(table.Vector(at(9)) + 4 * row) for row in range(3)],
        "numbers": [
            table.Get(flags.Uint64Flags, table.Vector(at(10)) + 8 * row) for row in range(3)
        ],
        "blobs": [name(child(table.Vector(at(11)), row)) for row in range(2)],
        "absent": (at(12), at(13)),
    }
    return table, read


EXPECTED = {
    "u8": 7,
    "u16": 700,
    "u32": 70000,
    "i32": -1,
    "u64": 2**63,
    "struct": b"abcdefghijkl",
    "string": "hello",
    "child": "näme",
    "children": ["näme", None, "näme"],
    "strings": [b"a", b"", b"ccc"],
    "numbers": [1, 2, 3],
    "blobs": ["näme", None],
    "absent": (0, 0),
}


def test_stock_library_reads_what_we_write() -> None:
    body = writer.assemble_root(_everything())
    assert body[4:8] == b"Ichk"
    assert _stock_texts(body)[1] == EXPECTED


def test_stock_library_reads_a_spliced_blob() -> None:
    first = writer.encode_table(_everything() | {11: None})
    assert len(first.data) % 8 == 0
    body = writer.assemble_root({0: writer.u8(1), 1: blobs([first, first])})
    root = _root(body)
    rows, _ = root.tables(1, "blobs", "Blob")
    for position in rows.positions.tolist():
        moved = position.to_bytes(4, "little") + body[4:]
        # Without its blobs the table has one slot less.
        stock = Table(bytearray(moved), position)
        assert stock.String(position + stock.Offset(4 + 12)).decode() == "hello"
    assert rows.texts(6, "string") == ["hello", "hello"]
    # A blob begins with the vtable of its table, on a multiple of 8.
    assert (rows.vtables % 8 == 0).all()


def test_reader_reads_what_the_stock_library_writes() -> None:
    builder = flatbuffers.Builder(0)
    names = [builder.CreateString(text) for text in ("one", "two")]
    tables = []
    for name, number in zip(names, (5, 0), strict=True):
        builder.StartObject(3)
        builder.PrependUOffsetTRelativeSlot(0, name, 0)
        builder.PrependUint64Slot(2, number, 0)
        tables.append(builder.EndObject())
    builder.StartVector(4, 2, 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"Ichk")
    root = _root(bytes(builder.Output()))
    children, _ = root.tables(0, "children", "Child")
    assert children.texts(0, "name") == ["one", "two"]
    assert children.scalar(2, "number", "<u8").tolist() == [5, 0]


def test_everything_is_aligned() -> None:
    body = writer.assemble_root(_everything())
    root = _root(body)

    def check(tables: reader.TableVector, u64_slots: tuple[int, ...]) -> None:
        assert (tables.positions % 4 == 0).all()
        assert (tables.vtables % 2 == 0).all()
        for slot in u64_slots:
            for position, vtable in zip(tables.positions, tables.vtables, strict=True):
                size = int.from_bytes(body[vtable : vtable + 2], "little")
                if size >= 6 + 2 * slot:
                    entry = int.from_bytes(body[vtable + 4 + 2 * slot :][:2], "little")
                    assert entry == 0 or (position + entry) % 8 == 0

    check(root, (5,))
    check(root.tables(8, "children", "Item")[0], ())
    check(root.tables(11, "blobs", "Blob")[0], (5,))
    assert root.vector(10, "numbers", 8).starts[0] % 8 == 0
    assert (root.vector(6, "string", 1).starts % 4 == 0).all()


scalars = st.one_of(
    st.integers(0, 255).map(writer.u8),
    st.integers(0, 2**64 - 1).map(writer.u64),
    st.binary(min_size=8, max_size=12).map(writer.struct),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(writer.string),
    st.binary(max_size=20).map(writer.byte_vector),
    st.none(),
)


@given(st.lists(st.dictionaries(st.integers(0, 12), scalars), max_size=6))
@settings(deadline=None)
def test_blobs_and_tables_are_read_alike(rows: list[dict[int, writer.Value | None]]) -> None:
    plain = writer.assemble_root({0: writer.Tables(rows)})
    spliced = writer.assemble_root({0: blobs([writer.encode_table(fields) for fields in rows])})
    for body in (plain, spliced):
        tables, _ = _root(body).tables(0, "rows", "Row")
        for slot in range(13):
            present = tables.present(slot)
            for row, fields in enumerate(rows):
                value = fields.get(slot)
                assert present[row] == (value is not None)
                one = tables.take(slice(row, row + 1))
                if isinstance(value, writer.Inline):
                    assert one.struct(slot, "x", len(value.data)).tobytes() == value.data
                elif isinstance(value, writer.Vector):
                    assert one.bytes(slot, "x")[0] == value.data


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(FormatError, match="32 bits"):
        writer.u32(2**32)
    with pytest.raises(FormatError, match="64 bits"):
        writer.u64(-1)


def test_pieces_must_keep_alignment() -> None:
    odd = writer.Blobs([b"1234567"], np.zeros(1, np.int64))
    with pytest.raises(InternalError):
        writer.assemble_root({0: odd})


def test_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "MAX_BYTES", 100)
    with pytest.raises(FormatError, match="Split it"):
        writer.assemble_root({0: writer.byte_vector(bytes(100))})
    with pytest.raises(FormatError, match="Split it"):
        writer.assemble_root({0: blobs([writer.encode_table({0: writer.u64(1)})] * 9)})


@pytest.mark.parametrize("count", [0, 1, 3])
def test_rows(count: int) -> None:
    layout = writer.row_layout(
        ((0, 4, 4), (3, 8, 8), (4, 12, 1)), (("n", "<u4", 1), ("c", "<u4", 1))
    )
    assert layout.dtype.itemsize == 40
    out = np.zeros(writer.rows_bytes(layout, count), np.uint8)
    rows, positions = writer.write_rows(out, 0, layout, count)
    fields = layout.dtype.fields
    assert fields is not None
    rows["s0"] = fields["n"][1] - fields["s0"][1]
    rows["n"], rows["c"] = 1, np.arange(count)[:, None]
    rows["s3"] = np.arange(count) + 10
    rows["s4"] = np.frombuffer(b"abcdefghijkl" * count, "V12")
    root = _root(writer.assemble_root({0: writer.Blobs([out.data], positions)}))
    refs, _ = root.tables(0, "refs", "Ref")
    assert refs.scalar(3, "length", "<u8").tolist() == list(range(10, 10 + count))
    assert refs.struct(4, "id", 12).tobytes() == b"abcdefghijkl" * count
    items, bounds = refs.items(0, "index", "<u4")
    assert items.tolist() == list(range(count))
    assert bounds.tolist() == list(range(count + 1))


# -- hostile input --------------------------------------------------------------------------------


def _read_all(body: bytes) -> None:
    root = _root(body)
    for slot, size in ((0, 12), (1, 1), (5, 8)):
        root.struct(slot, "x", size, required=False)
    root.string(6, "x", required=False)
    root.items(10, "x", "<u8", required=False)
    for slot in (8, 11):
        items, _ = root.tables(slot, "x", "Item", required=False)
        items.string(0, "x", required=False)
        items.bytes(1, "x", required=False)
        items.scalar(5, "x", "<u8")
        items.has_slot_from(3)
    if root.present(7).all():
        root.table(7, "x", "Item").string(0, "x", required=False)
    root.texts(6, "x")


@given(st.data())
@settings(deadline=None, max_examples=400)
def test_damaged_buffers_raise_only_format_errors(data: st.DataObject) -> None:
    valid = writer.assemble_root(_everything())
    _read_all(valid)
    broken = data.draw(st.composite(lambda draw: damaged(draw, valid))())
    with contextlib.suppress(FormatError):
        _read_all(broken)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_random_buffers_raise_only_format_errors(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        _read_all(data)


def test_every_truncation_and_every_byte() -> None:
    valid = writer.assemble_root(_everything())
    for cut in range(len(valid)):
        with pytest.raises(FormatError):
            _read_all(valid[:cut])
    for at in range(len(valid)):
        for value in (0, 0x7F, 0xFF):
            broken = valid[:at] + bytes([value]) + valid[at + 1 :]
            with contextlib.suppress(FormatError):
                _read_all(broken)


def test_shared_and_overlapping_parts() -> None:
    # 1000 tables, each with the same vector of nearly the whole buffer.
    payload = writer.encode_table({0: writer.byte_vector(bytes(20_000))})
    shared = writer.Blobs([payload.data], np.full(1000, payload.table, np.int64))
    root = _root(writer.assemble_root({0: shared}))
    tables, _ = root.tables(0, "t", "T")
    with pytest.raises(FormatError, match="used too often"):
        tables.bytes(0, "data")
    with pytest.raises(FormatError, match="used too often"):
        tables.items(0, "data", "u1")
    few = writer.assemble_root(
        {0: writer.Blobs([payload.data], np.zeros(3, np.int64) + payload.table)}
    )
    assert _root(few).tables(0, "t", "T")[0].bytes(0, "data").size.tolist() == [20_000] * 3
    # Two vectors, one inside the other.
    size = 600
    table = writer.encode_table({0: writer.byte_vector(bytes(size)), 1: writer.u64(1)})
    body = bytearray(writer.assemble_root({0: blobs([table] * 2)}))
    tables, _ = _root(bytes(body)).tables(0, "t", "T")
    starts = tables.vector(0, "data", 1).starts.tolist()
    body[starts[0] - 4 : starts[0]] = (len(body) - starts[0]).to_bytes(4, "little")
    with pytest.raises(FormatError, match=r"overlap|too often"):
        _root(bytes(body)).tables(0, "t", "T")[0].bytes(0, "data")


def test_many_offsets_to_one_table() -> None:
    n = 100_000
    one = writer.encode_table({0: writer.u64(1)})
    body = writer.assemble_root({0: writer.Blobs([one.data], np.full(n, one.table, np.int64))})
    began = time.perf_counter()
    with pytest.raises(FormatError, match="do not fit"):
        _root(body).tables(0, "t", "T")
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize("text", [b"\xff", b"ab\xc3", b"\xed\xa0\x80"])
def test_text_that_is_not_utf8(text: bytes) -> None:
    root = _root(writer.assemble_root({0: writer.string(text)}))
    with pytest.raises(FormatError, match="UTF-8"):
        root.texts(0, "name")
    with pytest.raises(FormatError, match="UTF-8"):
        root.string(0, "name")


def test_text_split_inside_a_character() -> None:
    rows: list[writer.Fields] = [{0: writer.string(b"a\xc3")}, {0: writer.string(b"\xa9b")}]
    tables, _ = _root(writer.assemble_root({0: writer.Tables(rows)})).tables(0, "t", "T")
    with pytest.raises(FormatError, match="inside a character"):
        tables.string(0, "name")
