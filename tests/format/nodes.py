"""Hypothesis strategies for nodes, metadata and snapshots, and ways to write foreign files."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from hypothesis import strategies as st

from icechunk.format.fb import writer
from icechunk.format.header import FileType, encode_file
from icechunk.format.node import DimensionShape, ManifestRefs, NodeKind, NodeSnapshot
from icechunk.format.snapshot import ManifestFiles
from icechunk.ids import NodeId, ObjectId

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
object_ids = st.binary(min_size=12, max_size=12).map(ObjectId)
node_ids = st.binary(min_size=8, max_size=8).map(NodeId)
u32 = st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))
u64 = st.one_of(st.integers(0, 5), st.integers(0, 2**64 - 1))
components = st.one_of(
    st.sampled_from(["a", "b", "a-b", ".zarr", "...", "é", "a\0", "\n"]),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"), min_size=1).filter(
        lambda name: name not in (".", "..")
    ),
)
paths = st.lists(components, max_size=3).map(lambda parts: "/" + "/".join(parts))

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
)
keys = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
plain = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)
metadata = st.dictionaries(text, plain, max_size=3)


@st.composite
def manifest_refs(draw: st.DrawFn, ndim: int) -> ManifestRefs:
    count = draw(st.one_of(st.integers(0, 3), st.integers(14, 20)))
    ids = draw(st.lists(object_ids, min_size=count, max_size=count))
    numbers = draw(st.lists(u32, min_size=8, max_size=8))
    total = count * ndim * 2
    extents = np.resize(np.array(numbers, np.uint32), total).reshape(count, ndim, 2)
    return ManifestRefs.of(ids, list(extents), ndim)


@st.composite
def dimensions(draw: st.DrawFn, *, regular: bool) -> DimensionShape:
    """Draw a dimension; a regular one has a number of chunks that version 1 can hold."""
    length = draw(u64)
    if not regular:
        return DimensionShape(array_length=length, num_chunks=draw(u32))
    if length == 0:
        return DimensionShape(array_length=0, num_chunks=0)
    chunk = draw(st.integers(max(1, length >> 31), max(1, length)))
    return DimensionShape(array_length=length, num_chunks=-(-length // chunk))


@st.composite
def nodes(draw: st.DrawFn, *, regular: bool = False) -> NodeSnapshot:
    common: dict[str, Any] = {
        "id": draw(node_ids),
        "path": draw(paths),
        "user_data": draw(st.binary(max_size=30)),
    }
    if draw(st.booleans()):
        return NodeSnapshot(
            **common,
            kind=NodeKind.GROUP,
            shape=(),
            dimension_names=None,
            manifests=ManifestRefs.empty(0),
        )
    ndim = draw(st.integers(0, 3))
    names = st.one_of(st.none(), st.sampled_from(["x", "time"]), text.map(lambda t: t or None))
    shape = [draw(dimensions(regular=regular)) for _ in range(ndim)]
    return NodeSnapshot(
        **common,
        kind=NodeKind.ARRAY,
        shape=tuple(shape),
        dimension_names=draw(st.none() | st.lists(names, min_size=ndim, max_size=ndim).map(tuple)),
        manifests=draw(manifest_refs(ndim)),
    )


@st.composite
def manifest_files(draw: st.DrawFn) -> ManifestFiles:
    rows = draw(st.dictionaries(object_ids, st.tuples(u64, u32), max_size=4))
    return ManifestFiles.of(
        list(rows), [size for size, _ in rows.values()], [refs for _, refs in rows.values()]
    )


def array(path: str, **fields: Any) -> NodeSnapshot:
    """Return a small array node."""
    values: dict[str, Any] = {
        "id": NodeId(path.encode(errors="replace").ljust(8, b".")[:8]),
        "path": path,
        "user_data": b"{}",
        "kind": NodeKind.ARRAY,
        "shape": (DimensionShape(array_length=10, num_chunks=5),),
        "dimension_names": ("x",),
        "manifests": ManifestRefs.of([b"manifest-id."], [np.array([[0, 5]], np.uint32)], 1),
    }
    return NodeSnapshot(**{**values, **fields})


def group(path: str, **fields: Any) -> NodeSnapshot:
    """Return a group node."""
    values: dict[str, Any] = {
        "kind": NodeKind.GROUP,
        "shape": (),
        "dimension_names": None,
        "manifests": ManifestRefs.empty(0),
    }
    return array(path, **{**values, **fields})


def foreign_node(path: str, **slots: writer.Value | None) -> writer.Fields:
    """Return the fields of a group's table as another writer might store them."""
    fields: dict[int, writer.Value | None] = {
        0: writer.struct(b"node-id."),
        1: writer.string(path),
        2: writer.byte_vector(b"{}"),
        3: writer.u8(2),
        4: writer.Table({}),
    }
    return {**fields, **{int(name.removeprefix("slot_")): value for name, value in slots.items()}}


def foreign_snapshot(
    node_tables: list[writer.Fields], *, spec_version: int = 2, **slots: writer.Value | None
) -> bytes:
    """Return a snapshot file with the given node tables, and other slots set anew."""
    fields: dict[int, writer.Value | None] = {
        0: writer.struct(b"snapshot-id!"),
        2: writer.Tables(node_tables),
        3: writer.u64(7),
        4: writer.string("message"),
        5: writer.Tables([]),
        6: writer.vector(b"", 0, 8),
        7: writer.Tables([]),
    }
    fields |= {int(name.removeprefix("slot_")): value for name, value in slots.items()}
    body = writer.assemble_root(fields)
    return encode_file(FileType.SNAPSHOT, body, spec_version=spec_version)


def packed_shape(*dims: tuple[int, int]) -> writer.Vector:
    """Return a version 1 shape of (array length, chunk length) pairs."""
    return writer.vector(b"".join(struct.pack("<QQ", *dim) for dim in dims), len(dims), 8)
