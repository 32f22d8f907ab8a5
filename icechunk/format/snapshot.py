"""Snapshots: the complete node list of a repository at one commit.

Source: Icechunk specification, section "Snapshot (file type 1)". Both versions of the format are
read and written: version 1 keeps parent, chunk lengths and MessagePack metadata in the file.
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icechunk.format.fb import writer
from icechunk.format.fb.table import Table, root
from icechunk.format.header import DEFAULT_LEVEL, FileType, encode_file, parse_file
from icechunk.format.node import DimensionShape, ManifestRefs, NodeKind, NodeSnapshot
from icechunk.format.node_table import NodeTable
from icechunk.format.values import METADATA_ITEM, metadata_fields, read_metadata, utf8
from icechunk.ids import OBJECT_ID_BYTES, ObjectId

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from icechunk._typing import AnyArray, I64Array, U8Array, U32Array, U64Array

__all__ = [
    "DimensionShape",
    "ManifestFiles",
    "ManifestRefs",
    "NodeKind",
    "NodeSnapshot",
    "NodeTable",
    "Snapshot",
    "encode_snapshot",
    "parse_snapshot",
]

_U64: Final = _struct.Struct("<Q")
_ID_KEY: Final = f"S{OBJECT_ID_BYTES}"
_FILE_INFO_V1: Final = np.dtype(
    [
        ("id", "u1", OBJECT_ID_BYTES),
        ("padding", "<u4"),
        ("size_bytes", "<u8"),
        ("num_chunk_refs", "<u4"),
        ("end_padding", "<u4"),
    ]
)
_FILE_INFO_V2: Final = np.dtype(
    [
        ("vtable", "<i4"),
        ("num_chunk_refs", "<u4"),
        ("size_bytes", "<u8"),
        ("id", "u1", OBJECT_ID_BYTES),
        ("padding", "<u4"),
    ]
)
_FILE_INFO_V2_VTABLE: Final = (10, 28, 16, 8, 4)


@dataclass(frozen=True, slots=True, eq=False)
class ManifestFiles:
    """What a snapshot records of each manifest it uses, as columns sorted by id.

    Parameters
    ----------
    ids : ndarray of uint8, shape (m, 12)
        Manifest ids, ascending.
    size_bytes : ndarray of uint64, shape (m,)
        Size of the stored object.
    num_chunk_refs : ndarray of uint32, shape (m,)
        References in it.
    """

    ids: U8Array
    size_bytes: U64Array
    num_chunk_refs: U32Array

    @classmethod
    def empty(cls) -> ManifestFiles:
        """Return no records."""
        return cls.of((), (), ())

    @classmethod
    def of(
        cls, ids: Sequence[bytes], size_bytes: Sequence[int], num_chunk_refs: Sequence[int]
    ) -> ManifestFiles:
        """Return records given one by one, in any order."""
        joined = np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), OBJECT_ID_BYTES)
        return cls._sorted(
            joined, np.array(size_bytes, np.uint64), np.array(num_chunk_refs, np.uint32)
        )

    @classmethod
    def concat(cls, parts: Iterable[ManifestFiles]) -> ManifestFiles:
        """Return the records of all; of equal ids the last counts."""
        every = list(parts)
        if not every:
            return cls.empty()
        return cls._sorted(
            np.concatenate([part.ids for part in every]),
            np.concatenate([part.size_bytes for part in every]),
            np.concatenate([part.num_chunk_refs for part in every]),
        )

    @classmethod
    def _sorted(cls, ids: U8Array, size_bytes: AnyArray, num_chunk_refs: AnyArray) -> ManifestFiles:
        keys = _id_keys(ids)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        last = np.ones(len(keys), np.bool_)
        last[:-1] = keys[1:] != keys[:-1]
        rows = order[last]
        return cls(
            ids[rows],
            size_bytes[rows].astype(np.uint64, copy=False),
            num_chunk_refs[rows].astype(np.uint32, copy=False),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ManifestFiles):
            return NotImplemented
        return (
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.size_bytes, other.size_bytes)
            and np.array_equal(self.num_chunk_refs, other.num_chunk_refs)
        )

    __hash__ = None  # type: ignore[assignment]

    def find(self, manifest_id: bytes) -> int:
        """Return the row of a manifest, -1 when it is not here."""
        keys = _id_keys(self.ids)
        row = int(np.searchsorted(keys, np.array(manifest_id, _ID_KEY)))
        found = row < len(self) and self.ids[row].tobytes() == manifest_id
        return row if found else -1

    def take(self, rows: I64Array) -> ManifestFiles:
        """Return the selected records; ``rows`` ascends."""
        return ManifestFiles(self.ids[rows], self.size_bytes[rows], self.num_chunk_refs[rows])

    def restricted_to(self, ids: U8Array) -> ManifestFiles:
        """Return the records of the given manifests, shape ``(k, 12)``."""
        return self.take(np.flatnonzero(np.isin(_id_keys(self.ids), _id_keys(ids))))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a repository at one commit.

    Parameters
    ----------
    id : ObjectId
        Own id, and name of the file.
    parent_id : ObjectId, optional
        Parent; only version 1 keeps it here, in version 2 the graph is in the repo object.
    flushed_at_us : int
        Commit time; microseconds since the Unix epoch.
    message : str
        Commit message.
    metadata : dict
        Commit metadata.
    nodes : NodeTable
        Every node.
    manifest_files : ManifestFiles
        Every manifest the nodes use.
    spec_version : int
        Version of the format of the file, 1 or 2.
    """

    id: ObjectId
    parent_id: ObjectId | None
    flushed_at_us: int
    message: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    nodes: NodeTable
    manifest_files: ManifestFiles
    spec_version: int = 2


def parse_snapshot(data: bytes, *, key: str) -> Snapshot:
    """Decode a snapshot file.

    Parameters
    ----------
    data : bytes
        Whole file; need not come from a trusted place.
    key : str
        Its key, for messages.

    Returns
    -------
    Snapshot
        Nodes are decoded when they are asked for, and a damaged one is reported then.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``, ``unsupported-spec-version`` or ``deserialization``.

    Notes
    -----
    Source: Icechunk specification, section "Snapshot (file type 1)". Cost: some 50 numpy
    operations, and a Python string for each path.
    """
    file = parse_file(data, FileType.SNAPSHOT, key=key)
    table = root(file.body, key=key, name="Snapshot")
    # In version 2 the graph is in the repo object, and what stands here means nothing.
    parent = table.struct(1, "parent_id", OBJECT_ID_BYTES) if file.spec_version == 1 else None
    nodes = table.required_column(2, "nodes", "NodeSnapshot")
    items = table.required_tables(5, "metadata", METADATA_ITEM.name)
    return Snapshot(
        id=ObjectId(table.required_struct(0, "id", OBJECT_ID_BYTES)),
        parent_id=None if parent is None else ObjectId(parent),
        flushed_at_us=table.number(3, "flushed_at", _U64),
        message=table.required_text(4, "message"),
        metadata=read_metadata(items, spec_version=file.spec_version),
        nodes=NodeTable.from_column(nodes, file.spec_version),
        manifest_files=_read_manifest_files(table),
        spec_version=file.spec_version,
    )


def encode_snapshot(snapshot: Snapshot, *, level: int = DEFAULT_LEVEL) -> bytes:
    """Encode a snapshot file.

    Parameters
    ----------
    snapshot : Snapshot
        Its ``spec_version`` says which version of the format is written.
    level : int
        zstd compression level.

    Returns
    -------
    bytes
        Whole file. Nodes that came from a file of the same version are copied as bytes.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``: more nodes or bytes than the format holds, or a damaged node
        in the file this snapshot came from; ``unsupported-operation-for-version``: a chunk grid
        that version 1 cannot describe.
    InvalidInputError, TypeError
        Message or metadata that the format cannot hold.

    Notes
    -----
    Source: Icechunk specification, sections "Snapshot (file type 1)" and "Limits a writer must
    respect".
    """
    version = snapshot.spec_version
    files = snapshot.manifest_files
    fields: dict[int, writer.Value | None] = {
        0: writer.struct(snapshot.id),
        2: snapshot.nodes.converted(version).blobs(),
        3: writer.u64(snapshot.flushed_at_us),
        4: writer.string(utf8(snapshot.message, "the commit message")),
        5: metadata_fields(snapshot.metadata, spec_version=version),
    }
    if version == 1:
        if snapshot.parent_id is not None:
            fields[1] = writer.struct(snapshot.parent_id)
        fields[6] = _manifest_files_v1(files)
    else:
        fields[6] = writer.vector(b"", 0, 8)
        fields[7] = _manifest_files_v2(files)
    body = writer.assemble_root(fields)
    return encode_file(FileType.SNAPSHOT, body, level=level, spec_version=version)


# --------------------------------------------------------------------------------------------------
# Manifest records


def _id_keys(ids: U8Array) -> AnyArray:
    """Return ids as fixed strings, which numpy compares byte by byte."""
    keys: AnyArray = np.ascontiguousarray(ids).reshape(-1).view(_ID_KEY)
    return keys


def _read_manifest_files(table: Table) -> ManifestFiles:
    files = table.column(7, "manifest_files_v2", "ManifestFileInfoV2")
    if files is not None:
        return ManifestFiles._sorted(  # noqa: SLF001
            files.struct(0, "id", OBJECT_ID_BYTES),
            files.scalar(1, "size_bytes", "<u8"),
            files.scalar(2, "num_chunk_refs", "<u4"),
        )
    part = table.vector(6, "manifest_files", _FILE_INFO_V1.itemsize)
    if part is None:
        raise table.buffer.error("Snapshot.manifest_files", "required field is absent")
    rows = np.frombuffer(table.buffer.data, _FILE_INFO_V1, part.length, part.first)
    return ManifestFiles._sorted(  # noqa: SLF001
        rows["id"], rows["size_bytes"], rows["num_chunk_refs"]
    )


def _manifest_files_v1(files: ManifestFiles) -> writer.Vector:
    rows = np.zeros(len(files), _FILE_INFO_V1)
    rows["id"] = files.ids
    rows["size_bytes"] = files.size_bytes
    rows["num_chunk_refs"] = files.num_chunk_refs
    return writer.vector(rows.tobytes(), len(files), 8)


def _manifest_files_v2(files: ManifestFiles) -> writer.Vector:
    rows = np.zeros(len(files), _FILE_INFO_V2)
    rows["id"] = files.ids
    rows["size_bytes"] = files.size_bytes
    rows["num_chunk_refs"] = files.num_chunk_refs
    return writer.uniform_tables(rows, _FILE_INFO_V2_VTABLE)
