"""What the public API tells about a repository, in the words of the golden sidecars."""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from icechunk import IcechunkError, Repository, Session
from icechunk.core.virtual_refs import location_texts
from icechunk.format.chunk_table import ChunkKind, ChunkTable
from icechunk.format.snapshot import NodeKind, NodeSnapshot
from icechunk.ids import ObjectId, id_text

if TYPE_CHECKING:
    from collections.abc import Mapping

_FEW_CHUNKS = 50


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plain(value: Any) -> Any:
    """Return a value as it comes back from JSON."""
    return json.loads(json.dumps(value))


def error_of(error: IcechunkError) -> dict[str, str]:
    return {"error_class": type(error).__name__, "kind": str(error.kind)}


def ancestry(repo: Repository, **at: str) -> list[dict[str, Any]]:
    return [
        {
            "id": info.id,
            "parent_id": info.parent_id,
            "message": info.message,
            "written_at_us": round(info.written_at.timestamp() * 1_000_000),
            "metadata": plain(info.metadata),
        }
        for info in repo.ancestry(**at)
    ]


def keys(session: Session) -> list[str]:
    async def collect() -> list[str]:
        return sorted([key async for key in session.store.list()])

    return asyncio.run(collect())


def get(session: Session, key: str) -> bytes | None:
    buffer = asyncio.run(session.store.get(key, zarr.core.buffer.default_buffer_prototype()))
    return None if buffer is None else buffer.to_bytes()


_FACTS_OF_VALUES = ("dtype", "sha256", "sha256_of", "sum")


def snapshot(session: Session, said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a snapshot, as far as ``said`` asks for them."""
    listed = keys(session)
    seen: dict[str, Any] = {
        "num_keys": len(listed),
        "keys_sha256": sha256("\n".join(listed).encode()),
        "nodes": {},
    }
    if "keys" in said:
        seen["keys"] = listed
    located = sorted(set(session.all_virtual_chunk_locations()))
    seen["virtual_locations"] = _cut(located, said["virtual_locations"])
    files = session.checkout.base.snapshot.manifest_files
    seen["manifest_files"] = [
        {"id": id_text(ObjectId(i.tobytes())), "size_bytes": int(s), "num_chunk_refs": int(n)}
        for i, s, n in zip(files.ids, files.size_bytes, files.num_chunk_refs, strict=True)
    ]
    for path, node in said["nodes"].items():
        seen["nodes"][path] = _node(session, path, node)
    seen["paths"] = sorted(str(node.path) for node in session.checkout.nodes())
    return seen


def _cut(values: list[str], said: Any) -> Any:
    """Return a list as the sidecars hold it: long ones by their ends and a digest."""
    if isinstance(said, list):
        return values
    return {
        "count": len(values),
        "sha256": sha256("\n".join(values).encode()),
        "first": values[: len(said["first"])],
        "last": values[-len(said["last"]) :],
    }


def _node(session: Session, path: str, said: Mapping[str, Any]) -> dict[str, Any]:
    document = get(session, f"{path}/zarr.json".lstrip("/"))
    assert document is not None
    parsed = json.loads(document)
    seen: dict[str, Any] = {
        "type": parsed["node_type"],
        "node_id": session.get_node_id(path),
        "zarr_json_sha256": sha256(document),
        "attributes": parsed.get("attributes", {}),
    }
    node = session.checkout.require_node(path)
    assert seen["type"] == ("array" if node.kind is NodeKind.ARRAY else "group")
    if node.kind is NodeKind.ARRAY:
        seen["chunk_grid"] = parsed["chunk_grid"]
        seen["fill_value"] = parsed["fill_value"]
        names = node.dimension_names
        seen["dimension_names"] = None if names is None else list(names)
        if "data" in said:
            seen["data"] = _array(session, node, said["data"])
    return seen


def _array(session: Session, node: NodeSnapshot, said: Mapping[str, Any]) -> dict[str, Any]:
    array = _opened(session, node)
    rows = chunk_rows(session, node)
    kinds = [kind for _, kind, *_ in rows]
    seen: dict[str, Any] = {
        "shape": [dim.array_length for dim in node.shape],
        "num_chunks_initialized": len(rows),
        "chunk_rows_sha256": sha256(json.dumps(rows, separators=(",", ":")).encode()),
        "chunk_kind_counts": {k: kinds.count(k) for k in ("native", "virtual", "inline")},
        # Long lists are cut in the sidecars; the digest covers all.
        "chunk_rows": [row for row in said["chunk_rows"] if row in rows],
        "chunk_rows_complete": len(rows) == len(said["chunk_rows"]),
    }
    if array is None:
        return seen | {name: said[name] for name in _FACTS_OF_VALUES if name in said}
    assert list(array.shape) == seen["shape"]
    try:
        # One chunk that cannot be read is enough; zarr complains of each other one on its own.
        few = array.ndim == 0 or "read_error" not in said or len(rows) < _FEW_CHUNKS
        values = np.asarray(array[... if few else (slice(0, 2),) * array.ndim])
        seen |= _values(values, said)
    except IcechunkError as error:
        seen |= {"dtype": str(array.dtype), "sha256": None, "read_error": error_of(error)}
    if "chunks_read_one_by_one" in said:
        seen["chunks_read_one_by_one"] = {
            key: _read(session, key) for key in said["chunks_read_one_by_one"]
        }
    return seen


def _opened(session: Session, node: NodeSnapshot) -> zarr.Array[Any] | None:
    """Return the array, None where the installed zarr does not know its chunk grid."""
    try:
        return zarr.open_array(session.store, path=node.path.lstrip("/"), mode="r")
    except ValueError as error:
        # The zarr of Python 3.11; references, documents and shapes are compared all the same.
        if "rectilinear" not in str(error):
            raise
        return None


def _values(values: np.ndarray[Any, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    seen: dict[str, Any] = {"dtype": str(values.dtype), "sha256_of": said["sha256_of"]}
    if "JSON" in said["sha256_of"] or values.dtype.kind in "OT":
        text = json.dumps(values.astype(object).tolist(), ensure_ascii=False)
        seen["sha256"] = sha256(text.encode())
    else:
        little = values.astype(values.dtype.newbyteorder("<"))
        seen["sha256"] = sha256(np.ascontiguousarray(little).tobytes())
    if "sum" in said:
        seen["sum"] = said["sum"]  # the digest says more
    return seen


def _read(session: Session, key: str) -> Any:
    try:
        data = get(session, key)
    except IcechunkError as error:
        return error_of(error)
    return None if data is None else sha256(data)


def chunk_rows(session: Session, node: NodeSnapshot) -> list[list[Any]]:
    """Return every chunk reference of an array: coordinates, kind, where, offset, length."""

    async def collect() -> list[ChunkTable]:
        return [table async for table in session.checkout.chunk_tables(node)]

    rows = []
    full = session.checkout.virtual.full_location
    for compressed in asyncio.run(collect()):
        table = compressed.unpacked()
        for row, coord in enumerate(table.coords.tolist()):
            match ChunkKind(int(table.kind[row])):
                case ChunkKind.NATIVE:
                    kind, where = "native", id_text(ObjectId(table.chunk_id[row].tobytes()))
                case ChunkKind.INLINE:
                    kind, where = "inline", sha256(table.payload[row])
                case _:
                    (text,) = location_texts(table.take(np.array([row])).payload)
                    kind, where = "virtual", full(text) if text.startswith("vcc:") else text
            length = len(table.payload[row]) if kind == "inline" else int(table.length[row])
            rows.append([coord, kind, where, int(table.offset[row]), length])
    return sorted(rows)


def diff(repo: Repository, older: str, newer: str) -> dict[str, Any]:
    try:
        found = repo.diff(from_snapshot_id=older, to_snapshot_id=newer)
    except IcechunkError as error:
        return error_of(error)
    names = ["new_groups", "new_arrays", "deleted_groups", "deleted_arrays"]
    names += ["updated_groups", "updated_arrays"]
    result: dict[str, Any] = {name: sorted(getattr(found, name)) for name in names}
    result["updated_chunks"] = found.updated_chunks
    result["moved_nodes"] = [list(move) for move in found.moved_nodes]
    return result
