"""Many nodes written at once.

Source: Icechunk specification, section "Snapshot (file type 1)". Nodes of one shape class, say
two-dimensional arrays with dimension names and one manifest, have the same tables at the same
distances; only ids, numbers and the lengths of strings differ. So the fixed part of a class is laid
out once, repeated for all its nodes, and filled in columns; what remains for each node in Python is
to join its path and its document.

The result is in the form that `icechunk.format.fb.splice` makes: vtables in front, then each
node with all its parts in one run, dimension names at the end, each name once.
"""

from __future__ import annotations

import struct as _struct
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

import numpy as np

from icechunk.errors import ErrorKind, FormatError, InvalidInputError
from icechunk.format.fb.splice import Anchors, Cells
from icechunk.format.node import DimensionShape, NodeKind, NodeSnapshot, has_bad_path
from icechunk.format.values import utf8
from icechunk.ids import NODE_ID_BYTES, OBJECT_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import AnyArray, I64Array, U8Array

_U32: Final = _struct.Struct("<I")
_PADDING: Final = tuple(bytes(n) for n in range(9))
_MAX_U32: Final = 2**32 - 1

_VTable: TypeAlias = tuple[int, ...]
# Each vtable: its own size and its table's in bytes, then where each slot is; 0 is absent.
_NODE: Final = (14, 25, 16, 4, 8, 24, 12)
_GROUP: Final = (4, 4)
_ARRAY: Final = {  # by version and whether there are dimension names
    (1, False): (10, 12, 4, 0, 8),
    (1, True): (10, 16, 4, 12, 8),
    (2, False): (12, 16, 4, 0, 8, 12),
    (2, True): (12, 20, 4, 16, 8, 12),
}
_SHAPE: Final = (8, 16, 8, 4)
_NAME: Final = (6, 8, 4)
_NO_NAME: Final = (6, 8, 0)
_REF: Final = (8, 20, 8, 4)
_VTABLES: Final = (_NODE, _GROUP, *_ARRAY.values(), _SHAPE, _NAME, _NO_NAME, _REF)

# Where the fields of the node's own table are, as its vtable says.
_PATH_AT, _DATA_AT, _ARRAY_AT = 4, 8, 28


class _Class(NamedTuple):
    """What nodes with the same layout have in common."""

    kind: NodeKind
    ndim: int
    named: int
    """Number of dimension names, -1 when the array has none at all."""
    manifests: int
    extent_ndim: int


@dataclass(slots=True)
class _Layout:
    """The fixed part of a node of one class."""

    template: bytearray = field(default_factory=bytearray)
    tables: list[tuple[int, _VTable]] = field(default_factory=list)
    shape_at: int = 0
    names_at: int = 0
    refs_at: int = 0

    def reserve(self, size: int, align: int = 4, ahead: int = 0) -> int:
        """Add room whose byte ``ahead`` is aligned; return where it begins."""
        self.template += bytes(-(len(self.template) + ahead) % align)
        at = len(self.template)
        self.template += bytes(size)
        return at

    def put(self, at: int, value: int) -> None:
        _U32.pack_into(self.template, at, value)

    def lead(self, at: int, target: int) -> None:
        """Set the offset at ``at`` to lead to ``target``."""
        self.put(at, target - at)

    def table(self, at: int, vtable: _VTable) -> None:
        self.tables.append((at, vtable))

    def vector(self, count: int, item_bytes: int, align: int = 4) -> int:
        """Add a vector; return where its length is."""
        at = self.reserve(4 + count * item_bytes, max(4, align), 4)
        self.put(at, count)
        return at

    def children(self, count: int, size: int, vtable: _VTable) -> tuple[int, int]:
        """Add a vector of tables of one size; return where it and the first table are."""
        vector = self.vector(count, 4)
        first = self.reserve(count * size, 8)
        for i in range(count):
            self.lead(vector + 4 + 4 * i, first + i * size)
            self.table(first + i * size, vtable)
        return vector, first


@lru_cache(maxsize=128)
def _layout(cls: _Class, spec_version: int) -> _Layout:
    layout = _Layout()
    layout.table(layout.reserve(_ARRAY_AT, 8), _NODE)
    layout.template[24] = cls.kind
    data = _ARRAY_AT
    layout.lead(12, data)
    if cls.kind is NodeKind.GROUP:
        layout.table(layout.reserve(4), _GROUP)
    else:
        _lay_out_array(layout, cls, spec_version)
    path = layout.reserve(0, 8)
    layout.lead(_PATH_AT, path)
    return layout


def _lay_out_array(layout: _Layout, cls: _Class, spec_version: int) -> None:
    vtable = _ARRAY[spec_version, cls.named >= 0]
    data = layout.reserve(vtable[1])
    layout.table(data, vtable)
    if spec_version == 1:
        shape = layout.vector(cls.ndim, 16, 8)
        layout.shape_at = shape + 4
    else:
        shape = layout.vector(0, 16, 8)
        vector, layout.shape_at = layout.children(cls.ndim, 16, _SHAPE)
        layout.lead(data + 12, vector)
    layout.lead(data + 4, shape)
    if cls.named >= 0:
        vector, layout.names_at = layout.children(cls.named, 8, _NAME)
        layout.lead(data + vtable[3], vector)
    size = 24 + 8 * cls.extent_ndim
    vector, layout.refs_at = layout.children(cls.manifests, size, _REF)
    layout.lead(data + 8, vector)
    for at in range(layout.refs_at, layout.refs_at + cls.manifests * size, size):
        layout.lead(at + 4, at + 20)
        layout.put(at + 20, cls.extent_ndim)


class EncodedNodes(NamedTuple):
    """Nodes in a buffer.

    Attributes
    ----------
    data : bytes
        Buffer, a multiple of 8 bytes long.
    positions : ndarray of int64, shape (n,)
        Where the table of each node is.
    cells : Cells
        How they lie there.
    """

    data: bytes
    positions: I64Array
    cells: Cells


def encode_nodes(nodes: Sequence[NodeSnapshot], spec_version: int) -> EncodedNodes:
    """Encode nodes.

    Parameters
    ----------
    nodes : sequence of NodeSnapshot
        Nodes to write.
    spec_version : int
        1 stores chunk lengths, 2 numbers of chunks.

    Returns
    -------
    EncodedNodes
        In the order given.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-path`` or ``bad-metadata``; a path or dimension name that cannot be stored.
    FormatError
        Kind ``invalid-file-format``: a number beyond its bits;
        ``unsupported-operation-for-version``: a chunk grid that version 1 cannot describe.
    """
    if not nodes:
        nothing = np.empty(0, np.int64)
        return EncodedNodes(b"", nothing, Cells(nothing, nothing))
    _check_paths(nodes)
    head, vtable_at = _vtable_head()
    groups: dict[_Class, list[int]] = {}
    for row, node in enumerate(nodes):
        groups.setdefault(_class_of(node), []).append(row)
    fixed: list[bytes] = [b""] * len(nodes)
    for cls, rows in groups.items():
        members = [nodes[row] for row in rows]
        parts = _fixed_parts(members, cls, spec_version)
        for row, part in zip(rows, parts, strict=True):
            fixed[row] = part
    pieces, sizes = _pieces(nodes, fixed)
    starts = len(head) + np.cumsum(sizes) - sizes
    out = bytearray(b"".join((head, *pieces)))
    names = _Names(len(out))
    words = np.frombuffer(out, "<i4")
    anchored: list[tuple[I64Array, I64Array]] = []
    named: list[tuple[I64Array, I64Array]] = []
    for cls, rows in groups.items():
        layout = _layout(cls, spec_version)
        owner = np.array(rows, np.int64)
        first = starts[owner]
        for at, vtable in layout.tables:
            places = first + at
            words[places >> 2] = places - vtable_at[vtable]
            anchored.append((places, owner))
        if cls.named > 0:
            members = [nodes[row] for row in rows]
            at_names, which = _set_names(words, first + layout.names_at, members, names, vtable_at)
            named.append((at_names, owner[which]))
    del words
    tail = names.data + bytes(-len(names.data) % 8)
    cells = Cells(
        starts,
        starts + sizes,
        len(head),
        (len(out), len(out) + len(tail)),
        Anchors.joined(anchored),
        Anchors.joined(named),
    )
    return EncodedNodes(bytes(out + tail), starts, cells)


def _check_paths(nodes: Sequence[NodeSnapshot]) -> None:
    bad = has_bad_path([node.path for node in nodes])
    if bad is not None:
        raise InvalidInputError(
            f"not a node path: {bad!r}. Write it absolute, like '/group/array', without empty, "
            "'.' or '..' components.",
            ErrorKind.INVALID_PATH,
        )


@lru_cache(maxsize=1)
def _vtable_head() -> tuple[bytes, dict[_VTable, int]]:
    """Return all vtables one after the other, and where each is."""
    head = bytearray()
    places = {}
    for vtable in _VTABLES:
        places[vtable] = len(head)
        head += _struct.pack(f"<{len(vtable)}H", *vtable)
    head += bytes(-len(head) % 8)
    return bytes(head), places


def _class_of(node: NodeSnapshot) -> _Class:
    names, manifests = node.dimension_names, node.manifests
    if node.kind is NodeKind.GROUP:
        return _Class(NodeKind.GROUP, 0, -1, 0, 0)
    return _Class(
        NodeKind.ARRAY,
        len(node.shape),
        -1 if names is None else len(names),
        len(manifests.ids),
        manifests.extents.shape[1],
    )


def _fixed_parts(members: list[NodeSnapshot], cls: _Class, spec_version: int) -> list[bytes]:
    """Return the fixed part of each node, ids and numbers filled in."""
    layout = _layout(cls, spec_version)
    n, width = len(members), len(layout.template)
    rows = np.empty((n, width), np.uint8)
    rows[:] = np.frombuffer(layout.template, np.uint8)
    ids = b"".join([node.id for node in members])
    rows[:, 16 : 16 + NODE_ID_BYTES] = np.frombuffer(ids, np.uint8).reshape(n, NODE_ID_BYTES)
    path_bytes = np.array([len(node.path.encode("utf-8", "replace")) for node in members])
    _column(rows, _DATA_AT, "<u4")[:] = width + ((path_bytes + 8) & -4) - _DATA_AT
    if cls.ndim:
        _fill_shapes(rows, layout.shape_at, members, spec_version)
    if cls.manifests:
        stop = layout.refs_at + cls.manifests * (24 + 8 * cls.extent_ndim)
        refs = rows[:, layout.refs_at : stop].reshape(n, cls.manifests, -1)
        refs[:, :, 8 : 8 + OBJECT_ID_BYTES] = np.stack([node.manifests.ids for node in members])
        extents = np.stack([node.manifests.extents for node in members]).astype("<u4", copy=False)
        refs[:, :, 24:] = extents.reshape(n, cls.manifests, -1).view(np.uint8)
        rows[:, layout.refs_at : stop] = refs.reshape(n, -1)
    data = rows.tobytes()
    return [data[i : i + width] for i in range(0, n * width, width)]


def _column(rows: U8Array, at: int, dtype: str) -> AnyArray:
    """Return one number of every row, to be set."""
    item = np.dtype(dtype)
    return np.ndarray((len(rows),), item, rows.data, at, (rows.shape[1],))


def _fill_shapes(rows: U8Array, at: int, members: list[NodeSnapshot], spec_version: int) -> None:
    try:
        numbers = np.array(
            [[(d.array_length, d.num_chunks) for d in node.shape] for node in members], np.uint64
        )
    except OverflowError as error:
        raise FormatError(f"an array length beyond 64 bits: {error}") from error
    lengths, chunks = numbers[:, :, 0], numbers[:, :, 1]
    if int(chunks.max()) > _MAX_U32:
        raise FormatError(f"{int(chunks.max())} chunks along a dimension; the format has 32 bits")
    for dim in range(numbers.shape[1]):
        place = at + 16 * dim
        if spec_version == 1:
            _column(rows, place, "<u8")[:] = lengths[:, dim]
            _column(rows, place + 8, "<u8")[:] = [
                _chunk_length(node, node.shape[dim]) for node in members
            ]
        else:
            _column(rows, place + 4, "<u4")[:] = chunks[:, dim]
            _column(rows, place + 8, "<u8")[:] = lengths[:, dim]


def _chunk_length(node: NodeSnapshot, dim: DimensionShape) -> int:
    """Return a chunk length that gives the right number of chunks back."""
    if not dim.array_length:
        return 1
    length = -(-dim.array_length // max(1, dim.num_chunks))
    if -(-dim.array_length // length) != dim.num_chunks:
        raise FormatError(
            f"array {node.path} has {dim.num_chunks} chunks along a dimension of "
            f"{dim.array_length} elements; format version 1 holds regular chunk grids only. "
            "Upgrade the repository.",
            ErrorKind.UNSUPPORTED_OPERATION_FOR_VERSION,
        )
    return length


def _pieces(nodes: Sequence[NodeSnapshot], fixed: list[bytes]) -> tuple[list[bytes], I64Array]:
    """Return fixed part, path and document of each node, padded, and their sizes together."""
    pieces: list[bytes] = []
    sizes = np.empty(len(nodes), np.int64)
    pack = _U32.pack
    for row, (node, part) in enumerate(zip(nodes, fixed, strict=True)):
        path = utf8(node.path, "a node path", ErrorKind.INVALID_PATH)
        data = node.user_data
        path_padding = 4 - len(path) % 4  # the NUL included
        size = len(part) + 8 + len(path) + path_padding + len(data)
        padding = -size % 8
        sizes[row] = size + padding
        pieces += (
            part,
            pack(len(path)),
            path,
            _PADDING[path_padding],
            pack(len(data)),
            data,
            _PADDING[padding],
        )
    return pieces, sizes


class _Names:
    """Dimension names, each once, behind everything else."""

    def __init__(self, start: int) -> None:
        self.data = bytearray()
        self._start = start
        self._at: dict[str, int] = {}

    def place(self, name: str) -> int:
        """Return where a name is in the buffer."""
        at = self._at.get(name)
        if at is None:
            text = utf8(name, "a dimension name")
            at = self._at[name] = self._start + len(self.data)
            self.data += _U32.pack(len(text)) + text + bytes(4 - len(text) % 4)
        return at


def _set_names(
    words: AnyArray,
    first: I64Array,
    members: list[NodeSnapshot],
    names: _Names,
    vtable_at: dict[_VTable, int],
) -> tuple[I64Array, I64Array]:
    """Let the dimension names of all members lead to their texts.

    Returns
    -------
    at : ndarray of int64, shape (k,)
        Where the offsets are that lead to texts; unit: bytes.
    which : ndarray of int64, shape (k,)
        The member that each belongs to.
    """
    # Tables of 8 bytes: vtable, name. The reference stores an empty name as none.
    texts = [
        names.place(name) if name else 0 for node in members for name in node.dimension_names or ()
    ]
    targets = np.array(texts, np.int64).reshape(len(members), -1)
    tables = first[:, np.newaxis] + 8 * np.arange(targets.shape[1])
    named = targets > 0
    words[(tables + 4)[named] >> 2] = (targets - tables - 4)[named]
    words[tables[~named] >> 2] = tables[~named] - vtable_at[_NO_NAME]
    return (tables + 4)[named], np.nonzero(named)[0]
