"""Broken or hostile snapshots and repo objects: declared errors only, in bounded time."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.format import flex
from icechunk.format.fb import writer
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.node import ManifestRefs
from icechunk.format.repo_info import (
    NewCommit,
    RepoInfo,
    RepoStatus,
    RepoStatusChanged,
    SnapshotRecord,
    SnapshotTable,
    TagDeleted,
    Update,
    UpdateKind,
    UpdateLog,
    encode_repo_info,
    parse_repo_info,
)
from icechunk.format.snapshot import (
    ManifestFiles,
    NodeTable,
    Snapshot,
    encode_snapshot,
    parse_snapshot,
)
from icechunk.ids import NodeId, ObjectId
from tests.format.golden import damaged
from tests.format.nodes import array, foreign_node, foreign_snapshot, group

if TYPE_CHECKING:
    from collections.abc import Callable

SNAPSHOT_ID = ObjectId(b"snapshot-id!")
OTHER_ID = ObjectId(b"other-id!!!!")


def _snapshot_body(spec_version: int) -> bytes:
    box = np.array([[0, 5]], np.uint32)
    many = ManifestRefs.of([bytes([i]) * 12 for i in range(20)], [box] * 20, 1)
    nodes = [
        group("/"),
        array("/é"),
        array("/a", manifests=many),
        array("/b", dimension_names=None),
    ]
    value = Snapshot(
        id=SNAPSHOT_ID,
        parent_id=OTHER_ID if spec_version == 1 else None,
        flushed_at_us=7,
        message="message",
        metadata={"a": {"b": [1, "x", None]}},
        nodes=NodeTable.of(nodes, spec_version=spec_version),
        manifest_files=ManifestFiles.of([b"a" * 12, b"b" * 12], [1, 2], [3, 4]),
        spec_version=spec_version,
    )
    return parse_file(encode_snapshot(value), FileType.SNAPSHOT, key="s").body


def _repo_body() -> bytes:
    records = [
        SnapshotRecord(
            id=ObjectId(bytes([n]) * 12),
            parent_id=ObjectId(bytes([n - 1]) * 12) if n else None,
            flushed_at_us=n,
            message=f"message {n}",
            metadata={"é": [1.5]} if n % 2 else {},
            pruned_logs=[OTHER_ID] * (n % 3),
        )
        for n in range(6)
    ]
    tip = records[-1].id
    kinds: list[UpdateKind] = [
        NewCommit(branch="main", new_snap_id=tip),
        TagDeleted(name="t", previous_snap_id=tip),
        RepoStatusChanged(status=RepoStatus(reason="why", set_at_us=3)),
    ]
    info = RepoInfo(
        branches={"main": tip, "é": tip},
        tags={str(n): records[n % 6].id for n in range(40)},
        deleted_tags=frozenset({"x", "y"}),
        snapshots=SnapshotTable.of(records),
        metadata={"a": 1},
        updates=UpdateLog.of(
            [Update(kind=kind, updated_at_us=n, backup_path="p") for n, kind in enumerate(kinds)]
        ),
        repo_before_updates="before",
        config={"a": {"b": None}},
        enabled_flags=(3, 999),
    )
    return parse_file(encode_repo_info(info), FileType.REPO, key="r").body


def _use_snapshot(body: bytes, spec_version: int) -> None:
    """Read everything in a snapshot, change and write it."""
    data = encode_file(FileType.SNAPSHOT, body, spec_version=spec_version)
    read = parse_snapshot(data, key="s")
    for path in read.nodes.paths[:5]:
        with suppress(FormatError):
            read.nodes.get(path)
    with suppress(FormatError):
        read.nodes.by_id(NodeId(b"/a......"))
    with suppress(FormatError):
        read.nodes.manifest_ids()
    edited = replace(read, nodes=read.nodes.edited([array("/a")], ["/b"]))
    with suppress(FormatError):
        again = parse_snapshot(encode_snapshot(edited), key="s")
        # What could be written holds the same as what was read, node by node.
        assert again.nodes.paths == edited.nodes.paths
        assert _nodes(again.nodes) == _nodes(edited.nodes)
    with suppress(FormatError):
        list(read.nodes)


def _nodes(table: NodeTable) -> list[object]:
    found: list[object] = []
    for path in table.paths:
        try:
            found.append(table.get(path))
        except FormatError:
            found.append(None)
    return found


def _use_repo(body: bytes) -> None:
    """Read everything in a repo object, change and write it."""
    read = parse_repo_info(encode_file(FileType.REPO, body), key="r")
    for target in read.branches.values():
        assert len(list(read.snapshots.ancestor_ids(target))) <= len(read.snapshots)
    with suppress(FormatError):
        for record in read.snapshots:
            _ = (record.message, record.metadata, record.pruned_logs)
    with suppress(FormatError):
        list(read.updates)
    new = SnapshotRecord(id=OTHER_ID, parent_id=None, flushed_at_us=1, message="", metadata={})
    with suppress(FormatError):
        changed = replace(
            read,
            snapshots=read.snapshots.inserted(new),
            updates=read.updates.prepended(
                Update(kind=NewCommit(branch="b", new_snap_id=OTHER_ID), updated_at_us=9), "p"
            ),
        )
        again = parse_repo_info(encode_repo_info(changed), key="r")
        assert again.branches == read.branches
        assert again.snapshots.ids.tolist() == changed.snapshots.ids.tolist()
        assert again.snapshots.parents.tolist() == changed.snapshots.parents.tolist()
        assert _entries(again.updates) == _entries(changed.updates)


def _entries(log: UpdateLog) -> list[object]:
    found: list[object] = []
    for row in range(len(log)):
        try:
            found.append(log[row])
        except FormatError:
            found.append(None)
    return found


BODIES: list[tuple[str, bytes, Callable[[bytes], None]]] = [
    ("snapshot", _snapshot_body(2), lambda body: _use_snapshot(body, 2)),
    ("snapshot of version 1", _snapshot_body(1), lambda body: _use_snapshot(body, 1)),
    ("repo", _repo_body(), _use_repo),
]


@st.composite
def damaged_copies(draw: st.DrawFn, body: bytes) -> bytes:
    return damaged(draw, body)


@pytest.mark.parametrize(("name", "body", "use"), BODIES, ids=[name for name, _, _ in BODIES])
@settings(deadline=None, max_examples=150)
@given(damage=st.data())
def test_damaged_files_raise_format_error_or_read(
    name: str, body: bytes, use: Callable[[bytes], None], damage: st.DataObject
) -> None:
    with suppress(FormatError):
        use(damage.draw(damaged_copies(body)))


@pytest.mark.parametrize(("name", "body", "use"), BODIES, ids=[name for name, _, _ in BODIES])
def test_every_cut_raises_format_error_or_reads(
    name: str, body: bytes, use: Callable[[bytes], None]
) -> None:
    for stop in range(0, len(body), 7):
        with suppress(FormatError):
            use(body[:stop])


@pytest.mark.parametrize(("name", "body", "use"), BODIES, ids=[name for name, _, _ in BODIES])
def test_every_word_replaced_raises_format_error_or_reads(
    name: str, body: bytes, use: Callable[[bytes], None]
) -> None:
    for at in range(0, len(body) - 4, 4):
        word = (b"\xff\xff\xff\x7f", b"\4\0\0\0", b"\x40\0\0\0")[at // 4 % 3]
        with suppress(FormatError):
            use(body[:at] + word + body[at + 4 :])


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    for file_type, parse in ((FileType.SNAPSHOT, parse_snapshot), (FileType.REPO, parse_repo_info)):
        for data in (body, encode_file(file_type, body)):
            with suppress(FormatError):
                parse(data, key="k")


# -- small files that stand for huge values -------------------------------------------------------


def _bounded(use: Callable[[], object], *, seconds: float = 5, megabytes: int = 300) -> None:
    tracemalloc.start()
    began = time.process_time()  # others may use the machine
    try:
        with suppress(FormatError):
            use()
        took = time.process_time() - began
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert took < seconds
    assert peak < megabytes * 2**20


def _all_rows_at_the_first(data: bytes, slot: int, rows: int) -> bytes:
    """Let every offset of a vector of tables lead to its first table."""
    body = bytearray(parse_file(data, FileType.SNAPSHOT, key="k").body)
    table = int.from_bytes(body[:4], "little")
    vtable = table - int.from_bytes(body[table : table + 4], "little", signed=True)
    entry = vtable + 4 + 2 * slot
    place = table + int.from_bytes(body[entry : entry + 2], "little")
    first = place + int.from_bytes(body[place : place + 4], "little") + 4
    target = first + int.from_bytes(body[first : first + 4], "little")
    for at in range(first, first + 4 * rows, 4):
        body[at : at + 4] = (target - at).to_bytes(4, "little")
    return encode_file(FileType.SNAPSHOT, bytes(body))


def test_many_nodes_that_share_one_large_document() -> None:
    rows = 20_000
    document = writer.byte_vector(bytes(1_000_000))
    tables = [foreign_node("/a", slot_2=document), *[foreign_node("/a")] * (rows - 1)]
    data = _all_rows_at_the_first(foreign_snapshot(tables), 2, rows)
    _bounded(lambda: list(parse_snapshot(data, key="k").nodes))


def test_many_metadata_items_that_share_one_large_value() -> None:
    rows = 5_000
    value = writer.byte_vector(flex.encode(["x"] * 20_000))
    items = [
        {0: writer.string("a"), 1: value},
        *[{0: writer.string("a"), 1: writer.byte_vector(b"\0\0\1")}] * (rows - 1),
    ]
    data = foreign_snapshot([], slot_5=writer.Tables(items))
    _bounded(lambda: parse_snapshot(_all_rows_at_the_first(data, 5, rows), key="k"))


def test_many_arrays_that_share_one_long_list_of_manifests() -> None:
    rows, manifests = 5_000, 20_000
    ref: writer.Fields = {0: writer.struct(b"manifest-id."), 1: writer.vector(bytes(8), 1, 4)}
    array_data: writer.Fields = {
        0: writer.vector(b"", 0, 8),
        2: writer.Tables([ref] * manifests),
        3: writer.Tables([{}]),
    }
    first = foreign_node("/a", slot_3=writer.u8(1), slot_4=writer.Table(array_data))
    data = foreign_snapshot([first, *[foreign_node("/a")] * (rows - 1)])
    data = _all_rows_at_the_first(data, 2, rows)
    _bounded(lambda: list(parse_snapshot(data, key="k").nodes))
    nodes = parse_snapshot(data, key="k").nodes
    _bounded(nodes.manifest_ids)
    _bounded(lambda: encode_snapshot(parse_snapshot(data, key="k")))


def test_a_vector_that_claims_to_be_endless() -> None:
    body = _repo_body()
    for at in range(0, len(body) - 4, 4):
        changed = body[:at] + b"\xff\xff\xff\x3f" + body[at + 4 :]
        with suppress(FormatError):
            parse_repo_info(encode_file(FileType.REPO, changed), key="r")
