"""One group or array of a snapshot: value, table, and the conversion between the two.

Source: Icechunk specification, sections "Snapshot (file type 1)" and "Paths".
"""

from __future__ import annotations

import re
import struct as _struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

import numpy as np

from icechunk.format.fb.schema import Items, Many, Number, One, Schema, text, unknown_kind
from icechunk.ids import NODE_ID_BYTES, OBJECT_ID_BYTES, NodeId, ObjectId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, I64Array, U8Array, U32Array
    from icechunk.format.fb.reader import TableVector
    from icechunk.format.fb.table import Table


class NodeKind(IntEnum):
    """What a node is; the tag of the union in its table."""

    ARRAY = 1
    GROUP = 2


DIMENSION_NAME: Final = Schema("DimensionName", {0: text("name", shared=True)})
DIMENSION_SHAPE: Final = Schema(
    "DimensionShapeV2", {0: Number("array_length", 8, 8), 1: Number("num_chunks", 4, 4)}
)
MANIFEST_REF: Final = Schema(
    "ManifestRef", {0: Number("object_id", OBJECT_ID_BYTES, 1), 1: Items("extents", 8, 4)}
)
ARRAY_DATA: Final = Schema(
    "ArrayNodeData",
    {
        0: Items("shape", 16, 8),
        1: Many("dimension_names", DIMENSION_NAME),
        2: Many("manifests", MANIFEST_REF),
        3: Many("shape_v2", DIMENSION_SHAPE),
    },
)
GROUP_DATA: Final = Schema("GroupNodeData")
NODE: Final = Schema(
    "NodeSnapshot",
    {
        0: Number("id", NODE_ID_BYTES, 1),
        1: text("path"),
        2: Items("user_data"),
        3: Number("node_data_type", 1, 1),
        4: One("node_data", {NodeKind.ARRAY: ARRAY_DATA, NodeKind.GROUP: GROUP_DATA}, tag_slot=3),
        5: Items("extra"),
    },
)

_U8: Final = _struct.Struct("<B")
_U32: Final = _struct.Struct("<I")
_U64: Final = _struct.Struct("<Q")
# Up to this many manifests of one array are looked at one at a time; more as columns.
_FEW_MANIFESTS: Final = 16
_NO_LIMIT: Final = 2**32 - 1
_BAD_PATH: Final = re.compile(r"(?!/)|.*//|.*/\.{1,2}(?:/|\Z)|.+/\Z", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionShape:
    """One dimension of an array.

    Parameters
    ----------
    array_length : int
        Unit: elements.
    num_chunks : int
        Chunks along the dimension.
    """

    array_length: int
    num_chunks: int


class ManifestRefs:
    """The manifests that hold an array's chunks, as columns.

    Parameters
    ----------
    ids : ndarray of uint8, shape (m, 12)
        Manifest ids.
    extents : ndarray of uint32, shape (m, ndim, 2)
        For each dimension first and last-plus-one chunk coordinate that is in the manifest.
    """

    __slots__ = ("_boxes", "extents", "ids")

    def __init__(self, ids: U8Array, extents: U32Array) -> None:
        self.ids = ids
        self.extents = extents
        self._boxes: list[list[list[int]]] | None = None

    @classmethod
    def empty(cls, ndim: int) -> ManifestRefs:
        """Return the references of an array without chunks."""
        return cls(np.empty((0, OBJECT_ID_BYTES), np.uint8), np.empty((0, ndim, 2), np.uint32))

    @classmethod
    def of(cls, ids: Sequence[bytes], extents: Sequence[AnyArray], ndim: int) -> ManifestRefs:
        """Return references from one id and one extent, shape ``(ndim, 2)``, for each manifest."""
        if not ids:
            return cls.empty(ndim)
        joined = np.frombuffer(b"".join(ids), np.uint8).reshape(len(ids), OBJECT_ID_BYTES)
        boxes = np.array(extents, np.uint32).reshape(len(ids), ndim, 2)
        return cls(joined, boxes)

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ManifestRefs):
            return NotImplemented
        return np.array_equal(self.ids, other.ids) and np.array_equal(self.extents, other.extents)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<ManifestRefs of {len(self)} manifests>"

    def id_at(self, which: int) -> ObjectId:
        """Return the id of one manifest."""
        return ObjectId(self.ids[which].tobytes())

    def find(self, coord: Sequence[int]) -> int:
        """Return the row of the first manifest that may hold a chunk, -1 when none does.

        A coordinate of another rank is in none.
        """
        if len(coord) != self.extents.shape[1]:
            return -1
        if len(self.ids) > _FEW_MANIFESTS:
            at = np.array(coord, np.int64)
            inside = (self.extents[:, :, 0] <= at) & (at < self.extents[:, :, 1])
            rows = np.flatnonzero(inside.all(axis=1))
            return int(rows[0]) if len(rows) else -1
        boxes = self._boxes
        if boxes is None:
            boxes = self._boxes = self.extents.tolist()
        for which, box in enumerate(boxes):
            for index, (start, stop) in zip(coord, box, strict=True):
                if not start <= index < stop:
                    break
            else:
                return which
        return -1

    def take(self, rows: I64Array) -> ManifestRefs:
        """Return the selected manifests."""
        return ManifestRefs(self.ids[rows], self.extents[rows])

    def joined(self, other: ManifestRefs) -> ManifestRefs:
        """Return these manifests and, behind them, others of the same array."""
        return ManifestRefs(
            np.concatenate((self.ids, other.ids)), np.concatenate((self.extents, other.extents))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSnapshot:
    """A group or array as a snapshot has it.

    Parameters
    ----------
    id : NodeId
        Kept for the node's life.
    path : str
        Absolute.
    user_data : bytes
        The ``zarr.json`` document, as it was set.
    kind : NodeKind
        Array or group.
    shape : tuple of DimensionShape
        One for each dimension; empty for groups.
    dimension_names : tuple of (str or None), optional
        One for each dimension; None when the array names none.
    manifests : ManifestRefs
        Where the chunks are; empty for groups.
    """

    id: NodeId
    path: str
    user_data: bytes
    kind: NodeKind
    shape: tuple[DimensionShape, ...]
    dimension_names: tuple[str | None, ...] | None
    manifests: ManifestRefs


# --------------------------------------------------------------------------------------------------
# Reading


def read_node(table: Table) -> NodeSnapshot:
    """Decode one node.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; names file and field.
    """
    tag = table.number(3, "node_data_type", _U8)
    if tag not in (NodeKind.ARRAY, NodeKind.GROUP):
        raise unknown_kind(table.buffer, f"{table.name}.node_data", tag)
    shape: tuple[DimensionShape, ...] = ()
    names: tuple[str | None, ...] | None = None
    manifests = ManifestRefs.empty(0)
    if tag == NodeKind.ARRAY:
        data = table.table(4, "node_data", ARRAY_DATA.name)
        shape = _read_shape(data)
        names_given = data.tables(1, "dimension_names", DIMENSION_NAME.name)
        if names_given is not None:
            # The reference stores an empty name as none.
            names = tuple(name.text(0, "name") or None for name in names_given)
        manifests = _read_manifests(data, len(shape))
    else:
        table.table(4, "node_data", GROUP_DATA.name)  # nothing in it, but it is copied
    return NodeSnapshot(
        id=NodeId(table.required_struct(0, "id", NODE_ID_BYTES)),
        path=table.required_text(1, "path"),
        user_data=table.required_raw(2, "user_data"),
        kind=NodeKind(tag),
        shape=shape,
        dimension_names=names,
        manifests=manifests,
    )


def has_bad_path(paths: list[str]) -> str | None:
    """Return one of the paths that cannot be a node's, None when all can.

    Source: Icechunk specification, section "Paths".
    """
    # A few searches in all paths at once: what they find may be a path with a NUL in it, no more.
    joined = "\0" + "\0".join(paths) + "\0"
    if (
        joined.count("\0/") == len(paths)
        and joined.count("/\0") == joined.count("\0/\0")
        and "//" not in joined
        and "/." not in joined
    ):
        return None
    return next((path for path in paths if path != "/" and _BAD_PATH.match(path)), None)


def _read_shape(data: Table) -> tuple[DimensionShape, ...]:
    dimensions = data.tables(3, "shape_v2", DIMENSION_SHAPE.name)
    if dimensions is not None:
        return tuple(
            DimensionShape(
                array_length=d.number(0, "array_length", _U64),
                num_chunks=d.number(1, "num_chunks", _U32),
            )
            for d in dimensions
        )
    part = data.vector(0, "shape", 16)
    if part is None:
        raise data.buffer.error("ArrayNodeData.shape", "required field is absent")
    numbers = _struct.unpack_from(f"<{2 * part.length}Q", data.buffer.data, part.first)
    return tuple(
        DimensionShape(array_length=n, num_chunks=_chunks_of(data, n, chunk))
        for n, chunk in zip(numbers[::2], numbers[1::2], strict=True)
    )


def _chunks_of(data: Table, length: int, chunk_length: int) -> int:
    if length and not chunk_length:
        raise data.buffer.error("ArrayNodeData.shape", f"chunks of length 0 along {length}")
    return -(-length // chunk_length) if length else 0


def _read_manifests(data: Table, ndim: int) -> ManifestRefs:
    part = data.vector(2, "manifests", 4)
    if part is None:
        raise data.buffer.error("ArrayNodeData.manifests", "required field is absent")
    if part.length > _FEW_MANIFESTS:
        return _read_many_manifests(data.required_column(2, "manifests", MANIFEST_REF.name), ndim)
    ids: list[bytes] = []
    boxes: list[AnyArray] = []
    for ref in data.required_tables(2, "manifests", MANIFEST_REF.name):
        ids.append(ref.required_struct(0, "object_id", OBJECT_ID_BYTES))
        extents = ref.vector(1, "extents", 8)
        if extents is None:
            raise data.buffer.error("ManifestRef.extents", "required field is absent")
        box = np.frombuffer(ref.buffer.data, "<u4", 2 * extents.length, extents.first)
        boxes.append(_of_rank(box.reshape(-1, 2), ndim))
    return ManifestRefs.of(ids, boxes, ndim)


def _read_many_manifests(refs: TableVector, ndim: int) -> ManifestRefs:
    ids = refs.struct(0, "object_id", OBJECT_ID_BYTES)
    boxes, bounds = refs.items(1, "extents", np.dtype(("<u4", 2)))
    if bool((np.diff(bounds) == ndim).all()):
        return ManifestRefs(ids, boxes.reshape(len(refs), ndim, 2))
    own = [
        _of_rank(boxes[start:stop], ndim)
        for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    return ManifestRefs(ids, np.array(own, np.uint32).reshape(len(refs), ndim, 2))


def _of_rank(box: AnyArray, ndim: int) -> AnyArray:
    """Return a box with as many dimensions as the array.

    The reference lets chunks of another rank in; what is not said is then without limit, so that
    no chunk is missed.
    """
    if len(box) == ndim:
        return box
    fitted = np.empty((ndim, 2), np.uint32)
    fitted[:] = (0, _NO_LIMIT)
    common = min(ndim, len(box))
    fitted[:common] = box[:common]
    return fitted
