"""Manifests: round trips, sizes, golden files, tolerance, limits."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError, InternalError
from icechunk.format import chunk_refs, locations
from icechunk.format.chunk_table import ChunkKind, ChunkTable, VirtualRef, merged, overlay
from icechunk.format.fb import writer
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.manifest import Manifest, encode_manifest, parse_manifest
from icechunk.format.ragged import Ragged
from icechunk.ids import NodeId, ObjectId, id_text, parse_node_id, parse_object_id
from icechunk.resolved_config import LocationCompression
from tests.format.buffers import root_column
from tests.format.golden import REPOSITORIES, chunk_tables, unpack

if TYPE_CHECKING:
    from pathlib import Path

MANIFEST_ID = ObjectId(b"manifest-id!")
NODE_ID = NodeId(b"node-id.")
KEY = f"manifests/{id_text(MANIFEST_ID)}"
ALWAYS = LocationCompression(min_num_chunks=1)


def _encoded(table: ChunkTable, options: LocationCompression | None = None) -> bytes:
    manifest = Manifest(id=MANIFEST_ID, arrays=((NODE_ID, table),))
    return encode_manifest(manifest, location_compression=options)


def _decoded(data: bytes) -> ChunkTable:
    manifest = parse_manifest(data, key=KEY)
    assert manifest.id == MANIFEST_ID
    ((node_id, table),) = manifest.arrays
    assert node_id == NODE_ID
    return table


def _body(data: bytes) -> bytes:
    return parse_file(data, FileType.MANIFEST, key=KEY).body


def _native(n: int, ndim: int) -> ChunkTable:
    coords = np.stack(np.unravel_index(np.arange(n), (n,) + (1,) * (ndim - 1)), 1)
    ids = np.random.default_rng(0).integers(0, 256, (n, 12), np.uint8)
    return ChunkTable.native(coords, ids, np.full(n, 1000))


def _virtual(n: int, prefix: str = "s3://bucket/some/folder/") -> ChunkTable:
    return ChunkTable.virtual(
        np.arange(n)[:, None],
        Ragged.from_list([f"{prefix}year={i % 40}/file-{i}.nc".encode() for i in range(n)]),
        np.arange(n) * 100,
        np.full(n, 100),
    )


@given(chunk_tables(), st.sampled_from([None, LocationCompression(), ALWAYS]))
@settings(deadline=None, max_examples=300)
def test_round_trip(table: ChunkTable, options: LocationCompression | None) -> None:
    found = _decoded(_encoded(table, options))
    if len(table):
        assert found == table
    else:
        assert len(found) == 0
    again = _decoded(_encoded(found, options))
    assert again == found
    assert _encoded(again, None) == _encoded(table, None) or not len(table)


@given(st.lists(chunk_tables(), max_size=4))
@settings(deadline=None, max_examples=50)
def test_several_arrays(tables: list[ChunkTable]) -> None:
    tables = [table for table in tables if len(table)]
    arrays = tuple((NodeId(bytes([9 - i]) * 8), table) for i, table in enumerate(tables))
    manifest = Manifest(id=MANIFEST_ID, arrays=arrays)
    for options in (None, ALWAYS):
        data = encode_manifest(manifest, location_compression=options)
        found = parse_manifest(data, key=KEY)
        assert found.arrays == arrays[::-1]
        for node_id, table in arrays:
            assert found.table(node_id) == table
    assert found.table(NodeId(bytes(8))) is None


@pytest.mark.parametrize(("ndim", "bytes_each"), [(1, 44), (2, 44), (3, 52), (4, 52), (5, 60)])
def test_size_of_native_references(ndim: int, bytes_each: int) -> None:
    body = _body(_encoded(_native(10_000, ndim)))
    assert len(body) / 10_000 == pytest.approx(bytes_each, abs=0.1)


def test_fields_as_the_specification_says() -> None:
    table = merged(
        [
            ChunkTable.inline(np.array([[0]]), [b"abc"]),
            ChunkTable.native(np.array([[1]]), np.full((1, 12), 7, np.uint8), np.array([5])),
            ChunkTable.native(
                np.array([[2]]), np.full((1, 12), 7, np.uint8), np.array([5]), np.array([3])
            ),
            ChunkTable.virtual(
                np.array([[3], [4]]),
                Ragged.from_list([b"s3://b/x", b"s3://b/y"]),
                np.array([0, 9]),
                np.array([1, 1]),
                etag=Ragged.from_list([b"tag", b""]),
                last_modified=np.array([0, 17]),
            ),
        ]
    )
    root = root_column(_body(_encoded(table)), key=KEY, name="Manifest")
    assert root.struct(0, "id", 12).tobytes() == MANIFEST_ID
    assert not root.present(2).any()
    # Plain locations are 0, which is not the default.
    assert root.scalar(3, "compression_algorithm", "u1", default=1).tolist() == [0]
    arrays, _ = root.tables(1, "arrays", "ArrayManifest")
    refs, _ = arrays.tables(1, "refs", "ChunkRef")
    used = [[s for s in range(10) if refs.present(s)[row]] for row in range(5)]
    assert used == [[0, 1], [0, 3, 4], [0, 2, 3, 4], [0, 3, 5, 6], [0, 2, 3, 5, 7]]
    packed = root_column(_body(_encoded(_virtual(1000), ALWAYS)), key=KEY, name="Manifest")
    assert packed.present(2).all()
    assert not packed.present(3).any()
    arrays, _ = packed.tables(1, "arrays", "ArrayManifest")
    refs, _ = arrays.tables(1, "refs", "ChunkRef")
    assert refs.present(8).all()
    assert not refs.present(5).any()


# -- location compression -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "options", "packed"),
    [
        (999, LocationCompression(), False),
        (1000, LocationCompression(), True),
        (1000, None, False),
        (5, LocationCompression(min_num_chunks=0), True),
        (0, LocationCompression(min_num_chunks=0), False),
        (1000, LocationCompression(dictionary_max_training_samples=0), False),
    ],
)
def test_when_locations_are_packed(
    count: int, options: LocationCompression | None, packed: bool
) -> None:
    table = overlay(_native(2000, 1), _virtual(count)) if count else _native(2000, 1)
    found = _decoded(_encoded(table, options))
    assert found == table
    assert int(found.packed.sum()) == (count if packed else 0)
    assert (found.dictionary is not None) == packed


def test_packing_pays() -> None:
    table = _virtual(5000, "s3://bucket/with/a/rather/long/prefix/that/all/locations/share/")
    assert len(_body(_encoded(table, ALWAYS))) < 0.8 * len(_body(_encoded(table)))


def test_long_locations_stay_plain() -> None:
    names = [b"s3://bucket/" + b"n" * size for size in (1012, 1013, 5000)] + [b"s3://b/x"] * 20
    n = len(names)
    table = ChunkTable.virtual(
        np.arange(n)[:, None], Ragged.from_list(names), np.zeros(n), np.ones(n)
    )
    found = _decoded(_encoded(table, ALWAYS))
    assert found == table
    assert found.packed.tolist() == [True, False, False] + [True] * 20


def test_frames_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = _decoded(_encoded(_virtual(1000), ALWAYS))
    edited = overlay(first, _virtual(3, "s3://elsewhere/"))
    assert int(edited.packed.sum()) == 997
    calls: list[int] = []
    original = locations.pack

    def spy(column: Ragged, dictionary: bytes, level: int) -> Any:
        calls.append(len(column))
        return original(column, dictionary, level)

    monkeypatch.setattr(locations, "pack", spy)
    second = _decoded(_encoded(edited, ALWAYS))
    assert calls == [3]
    assert second.dictionary == first.dictionary
    assert second == edited
    assert second.packed.all()


def test_a_dictionary_for_too_few_rows_is_replaced() -> None:
    first = _decoded(_encoded(_virtual(1000), ALWAYS))
    edited = overlay(first, _virtual(600, "gs://quite/another/place/"))
    second = _decoded(_encoded(edited, ALWAYS))
    assert second == edited
    assert second.dictionary != first.dictionary


def test_frames_are_unpacked_when_compression_is_off() -> None:
    first = _decoded(_encoded(_virtual(1000), ALWAYS))
    second = _decoded(_encoded(first, None))
    assert second == first
    assert second.dictionary is None


def test_frames_no_other_reader_has_room_for_are_unpacked() -> None:
    first = _decoded(_encoded(_virtual(1000), ALWAYS))
    assert first.dictionary is not None
    # The official writer packs locations that it cannot read.
    long = Ragged.from_list([b"s3://bucket/" + b"x" * 2000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locations, "MAX_PACKED_BYTES", 10_000)
        frame, _ = locations.pack(long, first.dictionary, 3)
    frames = Ragged.from_list([frame[0], *first.payload.tolist()[1:]])
    table = replace(first, payload=frames)
    found = _decoded(_encoded(table, ALWAYS))
    assert found.packed.tolist() == [False] + [True] * 999
    assert found.payload[0] == long[0]
    assert found.unpacked().payload.tolist()[1:] == _virtual(1000).payload.tolist()[1:]


def test_different_dictionaries() -> None:
    one = _decoded(_encoded(_virtual(1000), ALWAYS))
    two = _decoded(_encoded(_virtual(1500, "http://x.example/"), ALWAYS))
    manifest = Manifest(id=MANIFEST_ID, arrays=((NODE_ID, one), (NodeId(b"zzzzzzzz"), two)))
    found = parse_manifest(encode_manifest(manifest, location_compression=ALWAYS), key=KEY)
    assert found.arrays == manifest.arrays
    assert {table.dictionary for _, table in found.arrays} == {two.dictionary}


# -- tolerance ------------------------------------------------------------------------------------


def _written(refs: list[dict[int, writer.Value | None]], **root: writer.Value | None) -> bytes:
    body = writer.assemble_root(
        {
            0: writer.struct(MANIFEST_ID),
            1: writer.Tables([{0: writer.struct(NODE_ID), 1: writer.Tables(refs)}]),
            2: root.get("dictionary"),
            3: root.get("algorithm"),
        }
    )
    return encode_file(FileType.MANIFEST, body)


def _index(*coord: int) -> writer.Vector:
    return writer.vector(np.array(coord, "<u4").tobytes(), len(coord), 4)


def _inline(*coord: int) -> dict[int, writer.Value | None]:
    return {0: _index(*coord), 1: writer.byte_vector(bytes(c % 256 for c in coord))}


def test_coordinates_of_another_rank_are_dropped() -> None:
    rows = [_inline(0), _inline(1), _inline(1, 1), _inline(), _inline(2)]
    found = _decoded(_written(rows))
    assert found.coords.tolist() == [[0], [1], [2]]
    assert found.payload.tolist() == [b"\0", b"\1", b"\2"]


def test_unsorted_and_repeated_references() -> None:
    rows = [_inline(3, 1), _inline(0, 9), _inline(3, 0), _inline(0, 9) | {1: writer.string("last")}]
    found = _decoded(_written(rows))
    assert found.coords.tolist() == [[0, 9], [3, 0], [3, 1]]
    assert found.payload.tolist() == [b"last", b"\3\0", b"\3\1"]
    assert found.find((3, 0)) == 1


def test_kinds_are_decided_in_the_order_of_the_specification() -> None:
    everything: dict[int, writer.Value | None] = {
        1: writer.byte_vector(b"inline"),
        2: writer.u64(3),
        3: writer.u64(5),
        4: writer.struct(b"chunk-id-123"),
        5: writer.string("s3://plain"),
        8: writer.byte_vector(b"frame"),
    }
    rows = [
        {0: _index(0)} | everything,
        {0: _index(1)} | everything | {4: None},
        {0: _index(2)} | everything | {4: None, 8: None},
        {0: _index(3)} | everything | {4: None, 8: None, 5: None},
    ]
    found = _decoded(_written(rows, dictionary=writer.byte_vector(b"dictionary")))
    kinds = [ChunkKind.NATIVE, ChunkKind.VIRTUAL, ChunkKind.VIRTUAL, ChunkKind.INLINE]
    assert found.kind.tolist() == kinds
    assert found.packed.tolist() == [False, True, False, False]
    assert found.payload.tolist() == [b"", b"frame", b"s3://plain", b"inline"]
    assert found.offset.tolist() == [3, 3, 3, 0]
    assert found.length.tolist() == [5, 5, 5, 6]


@pytest.mark.parametrize(
    ("refs", "root", "match"),
    [
        ([{0: _index(0)}], {}, "neither native, virtual nor inline"),
        ([{1: writer.byte_vector(b"x")}], {}, "ChunkRef.index: required"),
        ([{0: _index(0), 8: writer.byte_vector(b"x")}], {}, "without a dictionary"),
        (
            [{0: _index(0), 8: writer.byte_vector(b"x")}],
            {"dictionary": writer.byte_vector(b"d"), "algorithm": writer.u8(0, default=1)},
            "without a dictionary",
        ),
        (
            [{0: _index(0), 8: writer.byte_vector(b"x")}],
            {"dictionary": writer.byte_vector(b"")},
            "without a dictionary",
        ),
        ([_inline(2**32 - 1, 0) | {1: writer.byte_vector(b"")}], {}, "beyond what any grid"),
        ([{0: _index(0), 5: writer.string(b"\xff")}], {}, "ChunkRef.location: text is not UTF-8"),
    ],
)
def test_refused(refs: Any, root: Any, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_manifest(_written(refs, **root), key=KEY)
    assert caught.value.kind == "invalid-file-format"
    assert caught.value.message.startswith(KEY)


def test_missing_root_fields() -> None:
    for fields in ({}, {0: writer.struct(MANIFEST_ID)}, {1: writer.Tables([])}):
        data = encode_file(FileType.MANIFEST, writer.assemble_root(fields))
        with pytest.raises(FormatError, match="required field is absent"):
            parse_manifest(data, key=KEY)


def test_no_arrays_and_empty_arrays() -> None:
    data = encode_manifest(Manifest(id=MANIFEST_ID, arrays=()))
    assert parse_manifest(data, key=KEY).arrays == ()
    assert len(_decoded(_encoded(ChunkTable.empty(3), ALWAYS))) == 0


def test_unknown_slots_are_ignored() -> None:
    rows = [_inline(4) | {9: writer.byte_vector(b"extra"), 12: writer.u64(1)}]
    assert _decoded(_written(rows)).payload.tolist() == [b"\4"]


# -- limits ---------------------------------------------------------------------------------------


def test_a_manifest_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunk_refs, "MAX_BODY_BYTES", 4000)
    with pytest.raises(FormatError, match="ManifestSplittingConfig") as caught:
        _encoded(_native(100, 1))
    assert caught.value.message.startswith(KEY)


def test_too_many_arrays() -> None:
    arrays = tuple((NODE_ID, ChunkTable.empty(1)) for _ in range(20_000))
    with pytest.raises(FormatError, match="one for each array"):
        encode_manifest(Manifest(id=MANIFEST_ID, arrays=arrays))


def test_deletions_are_refused() -> None:
    with pytest.raises(InternalError):
        _encoded(ChunkTable.deleted(np.array([[1]])))


# -- golden files ---------------------------------------------------------------------------------


def _rows(table: ChunkTable) -> list[list[Any]]:
    table = table.unpacked()
    names = {ChunkKind.INLINE: "inline", ChunkKind.NATIVE: "native", ChunkKind.VIRTUAL: "virtual"}
    rows = []
    for row in range(len(table)):
        kind = ChunkKind(table.kind[row])
        where = {
            ChunkKind.INLINE: lambda row=row: hashlib.sha256(table.payload[row]).hexdigest(),
            ChunkKind.NATIVE: lambda row=row: id_text(table.chunk_id[row].tobytes()),
            ChunkKind.VIRTUAL: lambda row=row: table.payload[row].decode(),
        }[kind]()
        span = [int(table.offset[row]), int(table.length[row])]
        rows.append([table.coords[row].tolist(), names[kind], where, *span])
    return rows


def _all_manifests(folder: Path) -> dict[str, Manifest]:
    return {
        path.name: parse_manifest(path.read_bytes(), key=f"manifests/{path.name}")
        for path in (folder / "manifests").iterdir()
    }


@pytest.mark.parametrize("name", REPOSITORIES)
def test_golden_manifests(name: str, tmp_path: Path) -> None:
    folder, described = unpack(name, tmp_path)
    manifests = _all_manifests(folder)
    assert manifests.keys() >= described["manifests"].keys()
    for text, said in described["manifests"].items():
        manifest = manifests[text]
        assert manifest.id == parse_object_id(text)
        assert len(manifest.arrays) == said["num_arrays"]
        for array, (node_id, table) in zip(said["arrays"], manifest.arrays, strict=True):
            assert parse_node_id(array["node_id"]) == node_id
            counted = np.bincount(table.kind, minlength=4)[1:].tolist()
            assert counted == [array["num_inline"], array["num_native"], array["num_virtual"]]
        packed = sum(int(table.packed.sum()) for _, table in manifest.arrays)
        assert packed == said["compression"]["num_compressed_refs"]
        for options in (None, LocationCompression(), ALWAYS):
            data = encode_manifest(manifest, location_compression=options)
            assert parse_manifest(data, key=text) == manifest


@pytest.mark.parametrize("name", REPOSITORIES)
def test_golden_references(name: str, tmp_path: Path) -> None:
    folder, described = unpack(name, tmp_path)
    manifests = _all_manifests(folder)
    compared = 0
    for snapshot in described["snapshots"].values():
        used = [manifests[info["id"]] for info in snapshot["manifest_files"]]
        for node in snapshot["nodes"].values():
            if "chunk_rows" not in node.get("data", {}):
                continue
            node_id = parse_node_id(node["node_id"])
            tables = [m.table(node_id) for m in used]
            rows = sorted(row for table in tables if table is not None for row in _rows(table))
            said = node["data"]
            by_coordinate = {tuple(row[0]): row for row in rows}
            # Relative locations are described resolved; who resolves them is tested elsewhere.
            relative = any(row[2].startswith("vcc://") for row in rows)
            for row in said["chunk_rows"]:
                found = by_coordinate[tuple(row[0])]
                if not found[2].startswith("vcc://"):
                    assert found == row
            if not relative:
                text = json.dumps(rows, separators=(",", ":"), ensure_ascii=False)
                assert hashlib.sha256(text.encode()).hexdigest() == said["chunk_rows_sha256"]
            compared += len(rows)
    assert compared > 10


def test_golden_checksums(tmp_path: Path) -> None:
    folder, described = unpack("v2-virtual", tmp_path)
    nodes = described["snapshots"][described["branches"]["main"]]["nodes"]
    tables = {
        node_id: table
        for manifest in _all_manifests(folder).values()
        for node_id, table in manifest.arrays
    }
    for key, checksum in described["notes"]["checksums_given"].items():
        array, _, chunk = key.partition("/c/")
        if chunk == "*" or array == "compressed":
            continue
        table = tables[parse_node_id(nodes[f"/{array}"]["node_id"])]
        ref = table.ref(table.find((int(chunk),)))
        assert isinstance(ref, VirtualRef)
        assert (ref.etag, ref.last_modified) == (
            checksum.get("etag"),
            checksum.get("last_modified", 0),
        )
