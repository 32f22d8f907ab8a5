"""Transaction logs: round trips, golden files, tolerance, limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError
from icechunk.format import transaction_log
from icechunk.format.fb import writer
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.node import NodeKind
from icechunk.format.transaction_log import (
    MoveOperation,
    TransactionLog,
    encode_transaction_log,
    parse_transaction_log,
)
from icechunk.ids import NodeId, ObjectId, id_text, parse_node_id, parse_object_id
from tests.format.buffers import root_column
from tests.format.golden import REPOSITORIES, unpack

if TYPE_CHECKING:
    from pathlib import Path

    from icechunk._typing import U32Array

LOG_ID = ObjectId(b"snapshot-id!")
KEY = f"transactions/{id_text(LOG_ID)}"
SETS = (
    "new_groups",
    "new_arrays",
    "deleted_groups",
    "deleted_arrays",
    "updated_arrays",
    "updated_groups",
)

node_ids = st.binary(min_size=8, max_size=8).map(NodeId)
id_sets = st.frozensets(node_ids, max_size=5)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1)
paths = st.lists(names, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@st.composite
def coordinates(draw: st.DrawFn) -> U32Array:
    ndim = draw(st.integers(0, 4))
    number = st.integers(0, 2**32 - 2)
    rows = draw(st.sets(st.tuples(*[number] * ndim), min_size=1, max_size=8))
    return np.array(sorted(rows), np.uint32).reshape(len(rows), ndim)


@st.composite
def logs(draw: st.DrawFn) -> TransactionLog:
    moved = draw(st.dictionaries(paths, st.tuples(paths, node_ids, st.sampled_from(NodeKind))))
    moves = [
        MoveOperation(from_path=before, to_path=after, node_id=node_id, node_kind=kind)
        for after, (before, node_id, kind) in moved.items()
    ]
    return TransactionLog(
        id=LOG_ID,
        **{name: draw(id_sets) for name in SETS},
        updated_chunks=draw(st.dictionaries(node_ids, coordinates(), max_size=4)),
        moved_nodes=tuple(sorted(moves, key=lambda m: m.to_path.encode().split(b"/"))),
    )


@given(logs())
@settings(deadline=None, max_examples=200)
def test_round_trip(log: TransactionLog) -> None:
    data = encode_transaction_log(log)
    found = parse_transaction_log(data, key=KEY)
    assert found == log
    assert encode_transaction_log(found) == data


def test_equality() -> None:
    coords = np.array([[1, 2]], np.uint32)
    log = TransactionLog(id=LOG_ID, updated_chunks={NodeId(b"a" * 8): coords})
    assert log == TransactionLog(id=LOG_ID, updated_chunks={NodeId(b"a" * 8): coords.copy()})
    assert log != TransactionLog(id=LOG_ID, updated_chunks={NodeId(b"a" * 8): coords + 1})
    assert log != TransactionLog(id=LOG_ID)
    assert log != 1


def test_everything_is_sorted_and_every_vector_written() -> None:
    ids = [NodeId(bytes([i]) * 8) for i in (3, 1, 2)]
    log = TransactionLog(
        id=LOG_ID,
        new_arrays=frozenset(ids),
        updated_chunks={
            ids[0]: np.array([[2, 0], [1, 5], [1, 5], [0, 9]], np.uint32),
            ids[1]: np.zeros((0, 1), np.uint32),
        },
        moved_nodes=tuple(
            MoveOperation(from_path="/x", to_path=to, node_id=ids[0], node_kind=NodeKind.GROUP)
            for to in ("/b", "/a-b", "/a/c", "/a")
        ),
    )
    body = parse_file(encode_transaction_log(log), FileType.TRANSACTION_LOG, key=KEY).body
    root = root_column(body, key=KEY, name="TransactionLog")
    assert all(root.present(slot).all() for slot in range(9))
    assert root.items(2, "new_arrays", "V8")[0].tobytes() == b"".join(sorted(ids))
    found = parse_transaction_log(encode_transaction_log(log), key=KEY)
    assert list(found.updated_chunks) == [ids[1], ids[0]]
    assert found.updated_chunks[ids[0]].tolist() == [[0, 9], [1, 5], [2, 0]]
    assert len(found.updated_chunks[ids[1]]) == 0
    assert [move.to_path for move in found.moved_nodes] == ["/a", "/a/c", "/a-b", "/b"]
    moves, _ = root.tables(8, "moved_nodes", "MoveOperation")
    # Groups are 0 here, and a default is not written.
    assert not moves.present(3).any()


def _indices(*coord: int) -> dict[int, writer.Value | None]:
    return {0: writer.vector(np.array(coord, "<u4").tobytes(), len(coord), 4)}


def _written(**fields: Any) -> bytes:
    empty = writer.vector(b"", 0, 1)
    root: dict[int, writer.Value | None] = dict.fromkeys(range(1, 7), empty)
    root |= {0: writer.struct(LOG_ID), 7: writer.Tables([])}
    root |= {int(name[1:]): value for name, value in fields.items()}
    return encode_file(FileType.TRANSACTION_LOG, writer.assemble_root(root), spec_version=1)


def _array(node: bytes, *coords: tuple[int, ...]) -> dict[int, writer.Value | None]:
    return {0: writer.struct(node), 1: writer.Tables([_indices(*coord) for coord in coords])}


def test_logs_of_old_writers() -> None:
    # No slot 8, coordinates unsorted, one of another rank.
    data = _written(_7=writer.Tables([_array(b"a" * 8, (3,), (1,), (1, 2), (2,), (1,))]))
    log = parse_transaction_log(data, key=KEY)
    assert log.moved_nodes == ()
    assert log.updated_chunks[NodeId(b"a" * 8)].tolist() == [[1], [2], [3]]


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"_0": None}, "TransactionLog.id: required"),
        ({"_3": None}, "deleted_groups: required"),
        ({"_7": None}, "updated_chunks: required"),
        ({"_7": writer.Tables([_array(b"a" * 8), _array(b"a" * 8)])}, "listed twice"),
        ({"_7": writer.Tables([{0: writer.struct(b"a" * 8)}])}, "chunks: required"),
        ({"_8": writer.Tables([{0: writer.string("/a")}])}, "required"),
        (
            {
                "_8": writer.Tables(
                    [{0: writer.string("/a"), 1: writer.string("/b"), 3: writer.u8(2)}]
                )
            },
            "node_type: unknown kind",
        ),
        (
            {"_8": writer.Tables([{0: writer.string("/a"), 1: writer.string("/b")}])},
            "node_id: required",
        ),
        (
            {
                "_8": writer.Tables(
                    [
                        {
                            0: writer.string(b"\xff"),
                            1: writer.string("/b"),
                            2: writer.struct(b"a" * 8),
                        }
                    ]
                )
            },
            "UTF-8",
        ),
    ],
)
def test_refused(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        parse_transaction_log(_written(**fields), key=KEY)
    assert caught.value.message.startswith(KEY)


def test_too_many_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    coords = np.arange(10, dtype=np.uint32)[:, None]
    log = TransactionLog(id=LOG_ID, updated_chunks={NodeId(b"a" * 8): coords})
    data = encode_transaction_log(log)
    monkeypatch.setattr(transaction_log, "_MOST_TABLES", 5)
    with pytest.raises(FormatError, match="Split it into several commits"):
        encode_transaction_log(log)
    with pytest.raises(FormatError, match="more than 5 changes"):
        parse_transaction_log(data, key=KEY)
    monkeypatch.setattr(transaction_log, "_MOST_TABLES", 50)
    monkeypatch.setattr(transaction_log, "MAX_BODY_BYTES", 100)
    with pytest.raises(FormatError, match="Split the change"):
        encode_transaction_log(log)


@pytest.mark.parametrize("name", REPOSITORIES)
def test_golden_logs(name: str, tmp_path: Path) -> None:
    folder, described = unpack(name, tmp_path)
    compared = 0
    for text, said in described["transaction_logs"].items():
        path = folder / "transactions" / text
        if said.get("synthetic_composite") or "header" not in said or not path.exists():
            continue
        log = parse_transaction_log(path.read_bytes(), key=f"transactions/{text}")
        assert log.id == parse_object_id(text)
        for field in SETS:
            assert getattr(log, field) == frozenset(map(parse_node_id, said[field]))
        chunks = {
            parse_node_id(array["node_id"]): sorted(array["chunks"])
            for array in said["updated_chunks"]
        }
        found = {node_id: coords.tolist() for node_id, coords in log.updated_chunks.items()}
        assert found == chunks
        assert len(log.moved_nodes) == len(said["moved_nodes"])
        for move, told in zip(log.moved_nodes, said["moved_nodes"], strict=True):
            assert [move.from_path, move.to_path] == [told["from"], told["to"]]
        assert parse_transaction_log(encode_transaction_log(log), key=text) == log
        compared += 1
    assert compared > 0
