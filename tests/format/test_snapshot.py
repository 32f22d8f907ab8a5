"""Snapshots: round trips, edits, golden files, foreign files, limits."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError, InvalidInputError
from icechunk.format import flex
from icechunk.format.fb import splice, writer
from icechunk.format.fb.table import root
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.node import DimensionShape, ManifestRefs, NodeKind, NodeSnapshot
from icechunk.format.snapshot import (
    ManifestFiles,
    NodeTable,
    Snapshot,
    encode_snapshot,
    parse_snapshot,
)
from icechunk.ids import INITIAL_SNAPSHOT_ID, NodeId, ObjectId, id_text
from tests.format import nodes as draw_nodes
from tests.format.golden import REPOSITORIES, unpack
from tests.format.nodes import array, foreign_node, foreign_snapshot, group, packed_shape

if TYPE_CHECKING:
    from pathlib import Path

KEY = "snapshots/0"
SNAPSHOT_ID = ObjectId(b"snapshot-id!")


def snapshot(*nodes: NodeSnapshot, **fields: Any) -> Snapshot:
    values: dict[str, Any] = {
        "id": SNAPSHOT_ID,
        "parent_id": None,
        "flushed_at_us": 7,
        "message": "message",
        "metadata": {},
        "nodes": NodeTable.of(nodes, spec_version=fields.get("spec_version", 2)),
        "manifest_files": ManifestFiles.empty(),
        "spec_version": 2,
    }
    return Snapshot(**{**values, **fields})


def again(value: Snapshot) -> Snapshot:
    return parse_snapshot(encode_snapshot(value), key=KEY)


# -- round trips ----------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([1, 2]))
def test_round_trip(data: st.DataObject, spec_version: int) -> None:
    nodes = draw_nodes.nodes(regular=spec_version == 1)
    unique = st.lists(nodes, max_size=6, unique_by=lambda node: node.path)
    value = snapshot(
        id=data.draw(draw_nodes.object_ids),
        parent_id=data.draw(st.none() | draw_nodes.object_ids) if spec_version == 1 else None,
        flushed_at_us=data.draw(draw_nodes.u64),
        message=data.draw(draw_nodes.text),
        metadata=data.draw(draw_nodes.metadata),
        nodes=NodeTable.of(data.draw(unique), spec_version=spec_version),
        manifest_files=data.draw(draw_nodes.manifest_files()),
        spec_version=spec_version,
    )
    first = again(value)
    assert first == value
    assert first.metadata == value.metadata
    # The second time the nodes are copied as bytes.
    second = again(first)
    assert second == value
    assert encode_snapshot(second) == encode_snapshot(again(second))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_edit_chains_agree_with_a_dictionary(data: st.DataObject) -> None:
    table = NodeTable.of()
    model: dict[str, NodeSnapshot] = {}
    for _ in range(data.draw(st.integers(1, 5))):
        known = st.sampled_from(sorted(model) or ["/"])
        upserts = data.draw(st.lists(draw_nodes.nodes(), max_size=4))
        touched = data.draw(st.lists(known, max_size=2))
        upserts += [replace(model[path], user_data=b"touched") for path in touched if path in model]
        removed = data.draw(st.lists(known | draw_nodes.paths, max_size=2))
        table = table.edited(upserts, removed)
        for path in removed:
            model.pop(path, None)
        model |= {node.path: node for node in upserts}
        if data.draw(st.booleans()):
            table = again(snapshot(nodes=table)).nodes
        assert table.paths == sorted(model, key=lambda path: path.encode())
        assert list(table) == [model[path] for path in table.paths]
        assert all(table.get(path) == node for path, node in model.items())
        ids = {
            node.manifests.id_at(i) for node in model.values() for i in range(len(node.manifests))
        }
        assert [row.tobytes() for row in table.manifest_ids()] == sorted(ids)


def test_the_same_snapshot_gives_the_same_bytes() -> None:
    first = snapshot(array("/a"), group("/"), metadata={"b": 1, "a": {"y": 1, "x": 2}})
    second = snapshot(group("/"), array("/a"), metadata={"a": {"x": 2, "y": 1}, "b": 1})
    assert encode_snapshot(first) == encode_snapshot(second)


def test_unchanged_nodes_are_copied_and_nothing_is_left_behind() -> None:
    many = [array(f"/{i:04d}", user_data=b"x" * 100) for i in range(200)]
    base = again(snapshot(*many))
    size = len(parse_file(encode_snapshot(base), FileType.SNAPSHOT, key=KEY).body)
    for i in range(50):
        node = base.nodes.get(f"/{i:04d}")
        assert node is not None
        base = again(replace(base, nodes=base.nodes.edited([node], [])))
    grown = len(parse_file(encode_snapshot(base), FileType.SNAPSHOT, key=KEY).body)
    assert grown < size + 50 * 16
    few = again(replace(base, nodes=base.nodes.edited([], base.nodes.paths[2:])))
    assert len(parse_file(encode_snapshot(few), FileType.SNAPSHOT, key=KEY).body) < 1000


def test_many_dimension_names_and_many_edits_between_two_writes() -> None:
    nodes = {f"/{i:02d}": array(f"/{i:02d}", dimension_names=(f"name {i}",)) for i in range(30)}
    table = again(snapshot(*nodes.values())).nodes
    for i in range(20):
        node = array(f"/{i:02d}", dimension_names=(f"other {i % 3}",), shape=(_dimension(i),))
        nodes[node.path] = node
        table = table.edited([node], [])
    table = again(snapshot(nodes=table)).nodes
    assert list(table) == list(nodes.values())
    assert list(again(snapshot(nodes=table)).nodes) == list(nodes.values())


def _dimension(chunks: int) -> DimensionShape:
    return DimensionShape(array_length=10, num_chunks=chunks)


# -- lookups --------------------------------------------------------------------------------------


def test_lookups() -> None:
    nodes = [group("/"), array("/a"), array("/a-b"), array("/a/x")]
    for table in (NodeTable.of(reversed(nodes)), again(snapshot(*nodes)).nodes):
        assert table.paths == ["/", "/a", "/a-b", "/a/x"]
        assert len(table) == 4
        assert list(table) == nodes
        assert table.get("/a-b") == nodes[2]
        assert table.get("/b") is None
        assert "/a" in table
        assert "/b" not in table
        assert table.by_id(nodes[3].id) == nodes[3]
        assert table.by_id(NodeId(b"unknown.")) is None


def test_two_nodes_at_one_path() -> None:
    first, second = array("/a"), array("/a", id=NodeId(b"other..."))
    table = again(snapshot(first, group("/"), second)).nodes
    assert table.paths == ["/", "/a", "/a"]
    assert list(table)[1:] == [first, second]
    assert table.get("/a") == first
    assert table.by_id(second.id) == second
    assert list(table.edited([second], [])) == [group("/"), second]
    assert table.edited([], ["/a"]).paths == ["/"]


def test_nodes_without_parents_and_below_arrays_are_accepted() -> None:
    table = again(snapshot(array("/a"), array("/a/b"), array("/x/y/z"))).nodes
    assert table.paths == ["/a", "/a/b", "/x/y/z"]


def test_an_empty_edit_is_the_same_table() -> None:
    table = NodeTable.of([array("/a")])
    assert table.edited([], []) is table
    assert table.edited([], ["/nothing"]) == table


@pytest.mark.parametrize("path", ["", "a", "/a/", "//", "/a//b", "/.", "/a/..", "/./b"])
def test_paths_that_are_none_are_refused_both_ways(path: str) -> None:
    with pytest.raises(InvalidInputError, match="not a node path") as caught:
        NodeTable.of([array(path)])
    assert caught.value.kind == "invalid-path"
    with pytest.raises(FormatError, match=r"snapshots/0: NodeSnapshot\.path"):
        parse_snapshot(foreign_snapshot([foreign_node(path)]), key=KEY)


@pytest.mark.parametrize("path", ["/...", "/.zarr", "/a\0/b", "/a\0b", "/a\nb", "/..a/b.."])
def test_odd_paths_are_paths(path: str) -> None:
    assert again(snapshot(array(path), group("/"))).nodes.get(path) == array(path)


@settings(deadline=None)
@given(draw_nodes.manifest_refs(2), st.tuples(draw_nodes.u32, draw_nodes.u32))
def test_finding_a_manifest(refs: ManifestRefs, coord: tuple[int, int]) -> None:
    boxes = refs.extents.tolist()
    inside = [
        which
        for which, box in enumerate(boxes)
        if all(start <= at < stop for at, (start, stop) in zip(coord, box, strict=True))
    ]
    assert refs.find(coord) == (inside[0] if inside else -1)


def test_manifest_refs_without_dimensions() -> None:
    scalar = ManifestRefs.of([b"manifest-id."], [np.empty((0, 2), np.uint32)], 0)
    assert scalar.find(()) == 0
    assert ManifestRefs.empty(0).find(()) == -1
    both = scalar.joined(scalar)
    assert len(both) == 2
    assert both.take(np.array([1])) == scalar
    assert both != scalar


def test_manifest_files() -> None:
    files = ManifestFiles.of([b"b" * 12, b"a" * 12], [2, 1], [20, 10])
    assert files.ids.tobytes() == b"a" * 12 + b"b" * 12
    assert files.find(b"b" * 12) == 1
    assert files.find(b"c" * 12) == -1
    newer = ManifestFiles.of([b"b" * 12, b"\0" * 12], [3, 4], [30, 40])
    joined = ManifestFiles.concat([files, newer])
    assert joined.size_bytes.tolist() == [4, 1, 3]
    kept = joined.restricted_to(np.frombuffer(b"\0" * 12 + b"x" * 12, np.uint8).reshape(2, 12))
    assert kept == ManifestFiles.of([b"\0" * 12], [4], [40])
    assert ManifestFiles.concat([]) == ManifestFiles.empty()
    assert ManifestFiles.empty().find(b"a" * 12) == -1


# -- what the specification shows -----------------------------------------------------------------


def test_the_worked_example_of_the_specification() -> None:
    body = (
        bytes.fromhex(
            "1c000000 4963686b 1400 2c00 0400 0000 1000 2400 1400 1800 1c00 2000 14000000"
            "0b1cc8d6787580f0e33a6534 1c000000 1c000000 34000000 74000000 78000000"
            "fafe3015b7600600 00000000 16000000"
        )
        + b"Repository initialized\0\0"
        + bytes.fromhex(
            "01000000 0c000000 0800 0c00 0400 0800 08000000 20000000 04000000"
            "12000000 69735f726f6f7400 01 09 01 01 01 01 68 02 24 01 0000 0a000000"
        )
        + b"__icechunk\0\0"
        + bytes(12)
    )
    assert len(body) == 184
    parsed = parse_snapshot(encode_file(FileType.SNAPSHOT, body), key=KEY)
    assert parsed == Snapshot(
        id=INITIAL_SNAPSHOT_ID,
        parent_id=None,
        flushed_at_us=0x000660B71530FEFA,
        message="Repository initialized",
        metadata={"__icechunk": {"is_root": True}},
        nodes=NodeTable.of(),
        manifest_files=ManifestFiles.empty(),
        spec_version=2,
    )
    assert again(parsed) == parsed


def test_version_1_shapes() -> None:
    node = array("/a", shape=(DimensionShape(array_length=10, num_chunks=2),))
    body = parse_file(
        encode_snapshot(snapshot(node, spec_version=1)), FileType.SNAPSHOT, key=KEY
    ).body
    assert packed_shape((10, 5)).data in body
    foreign: writer.Fields = {
        0: packed_shape((10, 7), (0, 3), (0, 0)),
        2: writer.Tables([]),
    }
    fields = foreign_node("/a", slot_3=writer.u8(1), slot_4=writer.Table(foreign))
    read = parse_snapshot(foreign_snapshot([fields], spec_version=1), key=KEY).nodes.get("/a")
    assert read is not None
    assert [(d.array_length, d.num_chunks) for d in read.shape] == [(10, 2), (0, 0), (0, 0)]


@settings(max_examples=40, deadline=None)
@given(st.lists(draw_nodes.nodes(regular=True), max_size=4, unique_by=lambda node: node.path))
def test_nodes_move_between_versions(nodes: list[NodeSnapshot]) -> None:
    old = again(snapshot(*nodes, spec_version=1, parent_id=SNAPSHOT_ID, metadata={"a": [1]}))
    new = again(replace(old, spec_version=2, parent_id=None))
    assert list(new.nodes) == list(old.nodes)
    assert new.metadata == old.metadata
    assert again(replace(new, spec_version=1, parent_id=SNAPSHOT_ID)) == old


def test_version_1_cannot_hold_irregular_grids() -> None:
    node = array("/a", shape=(DimensionShape(array_length=10, num_chunks=7),))
    with pytest.raises(FormatError, match="/a has 7 chunks") as caught:
        encode_snapshot(replace(snapshot(node), spec_version=1))
    assert caught.value.kind == "unsupported-operation-for-version"


def test_version_2_does_not_keep_the_parent() -> None:
    assert again(snapshot(parent_id=SNAPSHOT_ID)).parent_id is None
    assert again(snapshot(parent_id=SNAPSHOT_ID, spec_version=1)).parent_id == SNAPSHOT_ID


def test_an_empty_dimension_name_is_none() -> None:
    node = again(snapshot(array("/a", dimension_names=("",)))).nodes.get("/a")
    assert node is not None
    assert node.dimension_names == (None,)


# -- foreign files --------------------------------------------------------------------------------


def test_unsorted_nodes_are_sorted() -> None:
    tables = [foreign_node("/b"), foreign_node("/"), foreign_node("/a")]
    table = parse_snapshot(foreign_snapshot(tables), key=KEY).nodes
    assert table.paths == ["/", "/a", "/b"]
    assert [node.path for node in table] == table.paths


def test_extra_is_kept_and_unknown_fields_are_dropped() -> None:
    extra = writer.byte_vector(b"extra bytes")
    tables = [
        foreign_node("/a", slot_5=extra),
        foreign_node("/b", slot_5=extra, slot_6=writer.string("of the future")),
    ]
    read = parse_snapshot(foreign_snapshot(tables), key=KEY)
    assert read.nodes.paths == ["/a", "/b"]
    data = encode_snapshot(read)
    body = parse_file(data, FileType.SNAPSHOT, key=KEY).body
    assert body.count(b"extra bytes") == 2
    assert b"of the future" not in body
    assert parse_snapshot(data, key=KEY) == read


def test_shared_parts_are_written_apart() -> None:
    # All nodes point at one table and its parts: copied once for each.
    data = foreign_snapshot([foreign_node("/a")] * 3)
    body = bytearray(parse_file(data, FileType.SNAPSHOT, key=KEY).body)
    vector = root(bytes(body), key=KEY, name="Snapshot").vector(2, "nodes", 4)
    assert vector is not None
    places = [vector.first + 4 * row for row in range(3)]
    table = places[0] + int.from_bytes(body[places[0] : places[0] + 4], "little")
    for place in places:
        body[place : place + 4] = (table - place).to_bytes(4, "little")
    read = parse_snapshot(encode_file(FileType.SNAPSHOT, bytes(body)), key=KEY)
    assert read.nodes.paths == ["/a"] * 3
    assert list(again(read).nodes) == list(read.nodes)


def test_tables_that_are_not_aligned_are_written_again() -> None:
    data = foreign_snapshot([foreign_node("/a"), foreign_node("/b")])
    body = parse_file(data, FileType.SNAPSHOT, key=KEY).body
    # Two bytes behind the root offset: everything is read as before, two bytes further on.
    shifted = (int.from_bytes(body[:4], "little") + 2).to_bytes(4, "little") + b"\0\0" + body[4:]
    read = parse_snapshot(encode_file(FileType.SNAPSHOT, shifted), key=KEY)
    assert read == parse_snapshot(data, key=KEY)
    assert (read.nodes._rows.positions & 3).all()
    assert again(read) == read
    assert not (again(read).nodes._rows.positions & 3).any()


def test_references_of_another_rank_lose_no_chunk() -> None:
    boxes = [np.array([[1, 2], [5, 6]], "<u4"), np.empty((0, 2), "<u4")]
    refs: list[writer.Fields] = [
        {0: writer.struct(b"manifest-id."), 1: writer.vector(box.tobytes(), len(box), 4)}
        for box in boxes
    ]
    for count in (1, 20):
        data: writer.Fields = {
            0: writer.vector(b"", 0, 8),
            2: writer.Tables(refs * count),
            3: writer.Tables([{0: writer.u64(10), 1: writer.u32(10)}]),
        }
        fields = foreign_node("/a", slot_3=writer.u8(1), slot_4=writer.Table(data))
        node = parse_snapshot(foreign_snapshot([fields]), key=KEY).nodes.get("/a")
        assert node is not None
        assert node.manifests.extents[:2].tolist() == [[[1, 2]], [[0, 2**32 - 1]]]


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"slot_0": None}, r"Snapshot\.id: required field is absent"),
        ({"slot_2": None}, r"Snapshot\.nodes: required"),
        ({"slot_4": None}, r"Snapshot\.message: required"),
        ({"slot_4": writer.byte_vector(b"\xff")}, r"Snapshot\.message: text is not UTF-8"),
        ({"slot_5": None}, r"Snapshot\.metadata: required"),
        ({"slot_5": writer.Tables([{0: writer.string("a")}])}, r"MetadataItem\.value: required"),
        (
            {"slot_5": writer.Tables([{0: writer.string("a"), 1: writer.byte_vector(b"\1\2")}])},
            "metadata 'a': damaged FlexBuffers value",
        ),
        ({"slot_6": None, "slot_7": None}, r"Snapshot\.manifest_files: required"),
        ({"slot_7": writer.Tables([{1: writer.u64(5)}])}, r"ManifestFileInfoV2\.id: required"),
    ],
)
def test_damage_is_named(slots: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match="snapshots/0: " + message):
        parse_snapshot(foreign_snapshot([], **slots), key=KEY)


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"slot_3": None}, r"NodeSnapshot\.node_data: kind 0 is unknown"),
        ({"slot_3": writer.u8(3)}, r"NodeSnapshot\.node_data: kind 3 is unknown"),
        ({"slot_4": None, "slot_3": writer.u8(1)}, r"NodeSnapshot\.node_data: required"),
        ({"slot_3": writer.u8(1)}, r"ArrayNodeData\.shape: required"),
        (
            {
                "slot_3": writer.u8(1),
                "slot_4": writer.Table({0: packed_shape((5, 0)), 2: writer.Tables([])}),
            },
            r"ArrayNodeData\.shape: chunks of length 0",
        ),
        (
            {"slot_3": writer.u8(1), "slot_4": writer.Table({0: packed_shape()})},
            r"ArrayNodeData\.manifests: required",
        ),
        (
            {
                "slot_3": writer.u8(1),
                "slot_4": writer.Table(
                    {
                        0: packed_shape(),
                        2: writer.Tables([{0: writer.struct(b"manifest-id.")}]),
                    }
                ),
            },
            r"ManifestRef\.extents: required",
        ),
    ],
)
def test_damage_of_one_node_is_reported_when_it_is_read(
    slots: dict[str, Any], message: str
) -> None:
    read = parse_snapshot(
        foreign_snapshot([foreign_node("/a"), foreign_node("/b", **slots)]), key=KEY
    )
    assert read.nodes.get("/a") is not None
    with pytest.raises(FormatError, match="snapshots/0: " + message):
        read.nodes.get("/b")


def test_metadata_of_version_1_is_messagepack() -> None:
    item = {0: writer.string("a"), 1: writer.byte_vector(bytes.fromhex("82a161c0a16293010203"))}
    data = foreign_snapshot([], spec_version=1, slot_5=writer.Tables([item]))
    assert parse_snapshot(data, key=KEY).metadata == {"a": {"a": None, "b": [1, 2, 3]}}
    for damage in ("c1", "", "a5", "0101", "81c001", "d4ff00", "c403616263", "dfffffffff"):
        item[1] = writer.byte_vector(bytes.fromhex(damage))
        with pytest.raises(FormatError, match="metadata 'a': damaged MessagePack") as caught:
            parse_snapshot(
                foreign_snapshot([], spec_version=1, slot_5=writer.Tables([item])), key=KEY
            )
        assert caught.value.kind == "deserialization"


# -- what cannot be written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"metadata": {"a": {1, 2}}}, TypeError, "cannot hold a set"),
        ({"metadata": {"a": {1: 2}}}, TypeError, "keys must be strings"),
        ({"metadata": {1: 2}}, TypeError, "keys must be strings"),
        ({"metadata": {"a": "\ud800"}}, InvalidInputError, "UTF-8|Unicode"),
        ({"message": "\ud800"}, InvalidInputError, "commit message"),
        ({"flushed_at_us": -1}, FormatError, "does not fit"),
        ({"flushed_at_us": 2**64}, FormatError, "does not fit"),
    ],
)
@pytest.mark.parametrize("spec_version", [1, 2])
def test_what_the_format_cannot_hold(
    fields: dict[str, Any], error: type[Exception], match: str, spec_version: int
) -> None:
    with pytest.raises(error, match=match):
        encode_snapshot(snapshot(**fields, spec_version=spec_version))


@pytest.mark.parametrize(
    ("fields", "error", "match"),
    [
        ({"shape": (DimensionShape(array_length=2**64, num_chunks=1),)}, FormatError, "64 bits"),
        ({"shape": (DimensionShape(array_length=1, num_chunks=2**32),)}, FormatError, "32 bits"),
        ({"shape": (DimensionShape(array_length=-1, num_chunks=0),)}, FormatError, "64 bits"),
        ({"dimension_names": ("\ud800",)}, InvalidInputError, "dimension name"),
        ({"path": "/\ud800"}, InvalidInputError, "node path"),
    ],
)
def test_nodes_the_format_cannot_hold(
    fields: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        NodeTable.of([array(**{"path": "/a", **fields})])


@pytest.mark.parametrize("from_file", [False, True])
def test_tables_written_once_are_written_on_without_being_read(*, from_file: bool) -> None:
    """Nodes are copied by what is known of them, shared names and vtables included."""
    nodes = {f"/{i:03}": array(f"/{i:03}", dimension_names=("x", None, f"d{i}")) for i in range(40)}
    nodes |= {f"/g{i:03}": group(f"/g{i:03}") for i in range(10)}
    table = NodeTable.of(nodes.values())
    if from_file:
        table = again(snapshot(nodes=table)).nodes
    for step in range(12):
        fresh = [
            array(f"/{step:03}", dimension_names=("x", f"new{step}", None)),
            array(f"/new{step}", dimension_names=None),
        ][: 1 + step % 2]
        removed = [f"/{20 + step:03}", f"/g{step:03}"] if step % 3 else []
        table = table.edited(fresh, removed)
        nodes = {path: node for path, node in nodes.items() if path not in removed}
        nodes |= {node.path: node for node in fresh}
        read = again(snapshot(nodes=table)).nodes
        assert list(read) == [nodes[path] for path in sorted(nodes)]


def test_too_many_tables_are_refused_before_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = again(snapshot(*[array(f"/{i}") for i in range(10)]))
    monkeypatch.setattr(splice, "MAX_TABLES", 20)
    with pytest.raises(FormatError, match="more than the 20 that readers accept"):
        encode_snapshot(base)


# -- golden repositories --------------------------------------------------------------------------


@pytest.mark.parametrize("name", REPOSITORIES)
def test_golden_snapshots_agree_with_the_official_reading(name: str, tmp_path: Path) -> None:
    folder, said = unpack(name, tmp_path)
    files = sorted((folder / "snapshots").iterdir())
    assert files
    for file in files:
        read = parse_snapshot(file.read_bytes(), key=f"snapshots/{file.name}")
        assert id_text(read.id) == file.name
        official = said["snapshots"].get(file.name)
        if official is not None:
            _compare(read, official)
        assert again(read) == read
        assert again(again(read)) == read
        other = replace(read, spec_version=3 - read.spec_version)
        if not _irregular(read):
            assert list(again(other).nodes) == list(read.nodes)


def _irregular(read: Snapshot) -> bool:
    return any(b"rectilinear" in node.user_data for node in read.nodes)


def _compare(read: Snapshot, official: dict[str, Any]) -> None:
    inspected = official["inspect"]
    assert read.message == inspected["commit_message"]
    assert read.metadata == inspected["metadata"]
    assert _time(read.flushed_at_us) == inspected["flushed_at"]
    files = read.manifest_files
    assert [
        {"id": id_text(raw.tobytes()), "size_bytes": size, "num_chunk_refs": refs}
        for raw, size, refs in zip(
            files.ids, files.size_bytes.tolist(), files.num_chunk_refs.tolist(), strict=True
        )
    ] == sorted(official["manifest_files"], key=lambda info: info["id"])
    assert sorted(official["nodes"]) == sorted(read.nodes.paths)
    for path, told in official["nodes"].items():
        node = read.nodes.get(path)
        assert node is not None
        assert node.kind is NodeKind[told["type"].upper()]
        assert id_text(node.id) == told["node_id"]
        assert hashlib.sha256(node.user_data).hexdigest() == told["zarr_json_sha256"]
        if node.kind is NodeKind.ARRAY:
            names = node.dimension_names
            assert (None if names is None else list(names)) == told["dimension_names"]
            assert [dim.array_length for dim in node.shape] == told["data"]["shape"]
            known = {raw.tobytes() for raw in files.ids}
            assert {node.manifests.id_at(i) for i in range(len(node.manifests))} <= known


def _time(microseconds: int) -> str:
    when = dt.datetime.fromtimestamp(microseconds // 10**6, dt.UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{microseconds % 10**6:06d}Z"


def test_metadata_of_version_1_is_written_as_the_reference_does(tmp_path: Path) -> None:
    folder, _ = unpack("v1-by-2.3.0", tmp_path)
    for file in (folder / "snapshots").iterdir():
        body = parse_file(file.read_bytes(), FileType.SNAPSHOT, key=KEY).body
        read = parse_snapshot(file.read_bytes(), key=KEY)
        for value in read.metadata.values():
            item = encode_snapshot(snapshot(metadata={"a": value}, spec_version=1))
            packed = parse_file(item, FileType.SNAPSHOT, key=KEY).body
            assert flex.encode(value) not in packed or not value
            assert _packed(value) in body
            assert _packed(value) in packed


def _packed(value: Any) -> bytes:
    import msgpack

    data: bytes = msgpack.packb(value)
    return data
