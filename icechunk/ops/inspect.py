"""What the files of a repository say, as plain documents: for looking, not for programs.

Source: Icechunk specification, sections on the file kinds. Ids are text, times RFC 3339.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from icechunk._display import rfc3339
from icechunk.format import repo_info as stored
from icechunk.format.chunk_table import ChunkKind
from icechunk.format.header import FileType, parse_file
from icechunk.format.manifest import parse_manifest
from icechunk.format.snapshot import NodeKind
from icechunk.ids import ObjectId, id_text
from icechunk.snapshots import ManifestFileInfo, time_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk.format.header import ParsedFile
    from icechunk.format.repo_info import RepoInfo, SnapshotRecord, Update
    from icechunk.format.snapshot import ManifestFiles, NodeSnapshot, Snapshot
    from icechunk.format.transaction_log import TransactionLog

_FILE_TYPES: Final = {
    FileType.SNAPSHOT: "snapshot",
    FileType.MANIFEST: "manifest",
    FileType.TRANSACTION_LOG: "transaction-log",
    FileType.REPO: "repo-info",
}
_COUNTED: Final = {
    "inline": ChunkKind.INLINE,
    "native": ChunkKind.NATIVE,
    "virtual": ChunkKind.VIRTUAL,
}
_ID_SETS: Final = (
    "new_groups",
    "new_arrays",
    "deleted_groups",
    "deleted_arrays",
    "updated_groups",
    "updated_arrays",
)
_AVAILABILITY: Final = {
    stored.RepoAvailability.ONLINE: "Online",
    stored.RepoAvailability.READ_ONLY: "ReadOnly",
    stored.RepoAvailability.OFFLINE: "Offline",
}


def describe_header(data: bytes, file_type: FileType, key: str) -> dict[str, Any]:
    """Return what the envelope of a file says."""
    return _describe_header(parse_file(data, file_type, key=key), file_type)


def _describe_header(file: ParsedFile, file_type: FileType) -> dict[str, Any]:
    name, _, version = file.writer.partition("-")
    return {
        "written_by": file.writer,
        "app_name": name,
        "app_version": version,
        "spec_version": f"{file.spec_version}.0",
        "file_type": _FILE_TYPES[file_type],
        "compression": "zstd",
    }


def _time(microseconds: int) -> str:
    return rfc3339(time_of(microseconds))


# -- snapshots --------------------------------------------------------------------------------


def list_manifests(files: ManifestFiles) -> list[ManifestFileInfo]:
    """Return the manifests of a snapshot, by id."""
    columns = (files.ids, files.size_bytes.tolist(), files.num_chunk_refs.tolist())
    return [
        ManifestFileInfo(id_text(ObjectId(i.tobytes())), size, count)
        for i, size, count in zip(*columns, strict=True)
    ]


def describe_snapshot(snapshot: Snapshot, header: dict[str, Any]) -> dict[str, Any]:
    """Return a snapshot as a document: message, manifests, nodes."""
    return {
        "id": id_text(snapshot.id),
        "header": header,
        "flushed_at": _time(snapshot.flushed_at_us),
        "commit_message": snapshot.message,
        "metadata": dict(snapshot.metadata),
        "manifests": [
            {"id": file.id, "size_bytes": file.size_bytes, "num_chunk_refs": file.num_chunk_refs}
            for file in list_manifests(snapshot.manifest_files)
        ],
        "nodes": [_describe_node(node) for node in snapshot.nodes],
    }


def _describe_node(node: NodeSnapshot) -> dict[str, Any]:
    described: dict[str, Any] = {"id": id_text(node.id), "path": node.path}
    if node.kind is NodeKind.GROUP:
        return {**described, "node_type": "group"}
    names = node.dimension_names or (None,) * len(node.shape)
    refs = node.manifests
    return {
        **described,
        "node_type": "array",
        "shape": [
            {
                **({} if name is None else {"name": name}),
                "array_length": dim.array_length,
                "num_chunks": dim.num_chunks,
            }
            for name, dim in zip(names, node.shape, strict=True)
        ],
        "manifest_refs": [
            {"id": id_text(refs.id_at(row)), "extents": refs.extents[row].tolist()}
            for row in range(len(refs.ids))
        ],
    }


# -- manifests --------------------------------------------------------------------------------


def describe_manifest(data: bytes, key: str) -> dict[str, Any]:
    """Return a manifest as a document: how many references of which kind.

    ``size_bytes`` is that of the decompressed body.
    """
    file = parse_file(data, FileType.MANIFEST, key=key)
    manifest = parse_manifest(data, key=key)
    arrays = [
        {
            "node_id": id_text(node_id),
            "num_chunk_refs": len(table),
            **{
                f"num_{name}": int(np.count_nonzero(table.kind == kind))
                for name, kind in _COUNTED.items()
            },
        }
        for node_id, table in manifest.arrays
    ]
    dictionaries = [t.dictionary for _, t in manifest.arrays if t.dictionary is not None]
    packed = sum(int(np.count_nonzero(table.packed)) for _, table in manifest.arrays)
    compression: dict[str, Any] = {"uses_location_compression": bool(dictionaries)}
    if dictionaries:
        compression["dictionary_size_bytes"] = len(dictionaries[0])
    return {
        "id": id_text(manifest.id),
        "header": _describe_header(file, FileType.MANIFEST),
        "size_bytes": len(file.body),
        "num_arrays": len(arrays),
        "total_chunk_refs": sum(array["num_chunk_refs"] for array in arrays),
        **{f"total_{name}": sum(array[f"num_{name}"] for array in arrays) for name in _COUNTED},
        "arrays": arrays,
        "compression": {**compression, "num_compressed_refs": packed},
    }


# -- transaction logs -------------------------------------------------------------------------


def describe_log(log: TransactionLog, header: dict[str, Any]) -> dict[str, Any]:
    """Return a transaction log as a document."""
    return {
        "header": header,
        **{name: sorted(id_text(node_id) for node_id in getattr(log, name)) for name in _ID_SETS},
        "updated_chunks": [
            {"node_id": id_text(node_id), "chunks": coords.tolist()}
            for node_id, coords in sorted(log.updated_chunks.items())
        ],
        "moved_nodes": [{"from": move.from_path, "to": move.to_path} for move in log.moved_nodes],
    }


def describe_merge(pruned: Iterable[ObjectId], missing: Iterable[ObjectId]) -> dict[str, Any]:
    """Return the note beside a log that stands for those of released snapshots too."""
    return {
        "note": "Not one file: snapshots before this one were released, and what their logs held "
        "is merged in here. The header is that of this snapshot's own log.",
        "merged_pruned_ancestor_tx_logs": [id_text(log_id) for log_id in pruned],
        "missing_tx_logs": [id_text(log_id) for log_id in missing],
    }


# -- the repo object --------------------------------------------------------------------------


def describe_repo(info: RepoInfo, header: dict[str, Any]) -> dict[str, Any]:
    """Return the repo object as a document: refs, snapshots, the newest operations."""
    described = {
        "header": header,
        "spec_version": f"{info.spec_version}.0",
        "branches": {name: id_text(at) for name, at in sorted(info.branches.items())},
        "tags": {name: id_text(at) for name, at in sorted(info.tags.items())},
        "deleted_tags": sorted(info.deleted_tags),
        "snapshots": [_describe_record(record) for record in info.snapshots],
        "metadata": dict(info.metadata),
        "latest_updates": [_describe_update(update) for update in info.updates],
    }
    if info.repo_before_updates is not None:
        described["repo_before_updates"] = info.repo_before_updates
    return described


def _describe_record(record: SnapshotRecord) -> dict[str, Any]:
    parent = record.parent_id
    return {
        "id": id_text(record.id),
        **({} if parent is None else {"parent_id": id_text(parent)}),
        "flushed_at": _time(record.flushed_at_us),
        "message": record.message,
        "metadata": dict(record.metadata),
    }


def _describe_update(update: Update) -> dict[str, Any]:
    path = update.backup_path
    return {
        "update_type": _describe_kind(update.kind),
        "updated_at": _time(update.updated_at_us),
        **({} if path is None else {"backup_path": path}),
    }


def _describe_kind(kind: stored.UpdateKind) -> dict[str, Any]:
    name = type(kind).__name__
    match kind:
        case stored.FeatureFlagChanged():
            value = kind.new_value if kind.is_set else None
            return {"type": name, "id": kind.id, "new_value": value}
        case stored.RepoStatusChanged():
            status = {
                "availability": _AVAILABILITY[kind.status.availability],
                "limited_availability_reason": kind.status.reason,
                "set_at": _time(kind.status.set_at_us),
            }
            return {"type": f"{name}Update", "status": status}
        case stored.RepoMigrated():
            versions = {"from_version": kind.from_version, "to_version": kind.to_version}
            return {"type": f"{name}Update", **{k: f"{v}.0" for k, v in versions.items()}}
        case _:
            values = {slot: getattr(kind, slot) for slot in _slots(kind)}
            return {
                "type": f"{name}Update",
                **{k: id_text(v) if isinstance(v, bytes) else v for k, v in values.items()},
            }


def _slots(kind: stored.UpdateKind) -> Sequence[str]:
    return type(kind).__slots__
