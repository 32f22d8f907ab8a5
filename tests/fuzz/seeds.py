"""Valid inputs for each fuzzed kind: what is in the golden repositories, and made change sets."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from icechunk.core.changes import ChangeSet, DeletedNode
from icechunk.core.moves import Move
from icechunk.core.nodes import NodeDocument
from icechunk.format import flex
from icechunk.format.chunk_table import ChunkTable, merged
from icechunk.format.header import HEADER_BYTES, FileType, encode_file, parse_file
from icechunk.format.node import DimensionShape, NodeKind
from icechunk.format.ragged import Ragged
from icechunk.ids import NodeId
from icechunk.paths import NodePath
from tests.format.golden import REPOSITORIES, unpack
from tests.fuzz.targets import session_document

if TYPE_CHECKING:
    from collections.abc import Iterator

_KINDS = {
    FileType.SNAPSHOT: "snapshot",
    FileType.MANIFEST: "manifest",
    FileType.TRANSACTION_LOG: "transaction_log",
    FileType.REPO: "repo",
}
_MOST_BYTES = 16_384


def write(folder: Path) -> None:
    """Write every seed to ``folder/<kind>/<digest>``."""
    for kind, data in _seeds():
        if len(data) <= _MOST_BYTES:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def _seeds() -> Iterator[tuple[str, bytes]]:
    with tempfile.TemporaryDirectory() as folder:
        for name in REPOSITORIES:
            root, _ = unpack(name, Path(folder))
            for path in sorted(p for p in root.rglob("*") if p.is_file()):
                yield from _file_seeds(path.read_bytes())
    yield "header", encode_file(FileType.REPO, b"body", spec_version=1)
    for value in (None, True, -1, 2**64 - 1, 1.5, "é", b"x", [1, "a", None], {"a": {"é": [1.5]}}):
        yield "flexbuffers", flex.encode(value)
    yield "session", session_document(ChangeSet())
    yield "session", session_document(_changes())


def _file_seeds(data: bytes) -> Iterator[tuple[str, bytes]]:
    if data[:3] != b"ICE" or len(data) < HEADER_BYTES:
        return
    version, kind, _ = data[HEADER_BYTES - 3 : HEADER_BYTES]
    file_type = FileType(kind)
    yield "header", data
    suffix = f"_v{version}" if file_type is FileType.SNAPSHOT else ""
    yield _KINDS[file_type] + suffix, parse_file(data, file_type, key="seed").body


def _changes() -> ChangeSet:
    changes = ChangeSet()
    shape = (DimensionShape(array_length=9, num_chunks=5),)
    document = NodeDocument(
        kind=NodeKind.ARRAY, user_data=b"{}", shape=shape, dimension_names=("x",)
    )
    ids = [NodeId(bytes([n]) * 8) for n in range(4)]
    changes.create(document.as_node(ids[0], NodePath("/a")))
    changes.create(
        NodeDocument(kind=NodeKind.GROUP, user_data=b"{}").as_node(ids[1], NodePath("/"))
    )
    changes.updated[ids[2]] = document
    changes.deleted[ids[3]] = DeletedNode(NodePath("/é"), NodeKind.ARRAY)
    table = merged(
        [
            ChunkTable.inline(np.array([[0]]), [b"abc"]),
            ChunkTable.native(
                np.array([[1]]), np.ones((1, 12), np.uint8), np.array([5]), np.array([7])
            ),
            ChunkTable.virtual(
                np.array([[2], [4]]),
                Ragged.from_list([b"s3://b/a", b"s3://b/c"]),
                np.arange(2),
                np.array([3, 4]),
                etag=Ragged.from_list([b"e", b""]),
                last_modified=np.array([0, 9]),
            ),
        ]
    )
    changes.edits(ids[0], 1).extend(table)
    changes.edits(ids[2], 1).set((3,), None)
    changes.moves = (Move(node_id=ids[2], from_path=NodePath("/b"), to_path=NodePath("/c")),)
    return changes
