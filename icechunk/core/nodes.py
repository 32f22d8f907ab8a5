"""What a node's ``zarr.json`` says, as far as the engine needs to know.

Source: Icechunk specification, section "Metadata document checks". The document's bytes are kept
as they were set; shape, chunk grid and dimension names are read out of them here and nowhere else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.snapshot import DimensionShape, ManifestRefs, NodeKind, NodeSnapshot

if TYPE_CHECKING:
    from icechunk.ids import NodeId
    from icechunk.paths import NodePath

_MAX_LENGTH = 2**64 - 1
_MAX_CHUNKS = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDocument:
    """A checked ``zarr.json``.

    Parameters
    ----------
    kind : NodeKind
        Group or array.
    user_data : bytes
        The document, byte for byte.
    shape : tuple of DimensionShape
        Elements and chunks along each dimension; empty for groups and scalars.
    dimension_names : tuple of (str or None), or None
        None when the document names no dimension.
    """

    kind: NodeKind
    user_data: bytes
    shape: tuple[DimensionShape, ...] = ()
    dimension_names: tuple[str | None, ...] | None = None

    def as_node(self, node_id: NodeId, path: NodePath) -> NodeSnapshot:
        """Return the node with this document, an id and a path, and no chunks yet."""
        return NodeSnapshot(
            id=node_id,
            path=path,
            user_data=self.user_data,
            kind=self.kind,
            shape=self.shape,
            dimension_names=self.dimension_names,
            manifests=ManifestRefs.empty(len(self.shape)),
        )


def document_of(node: NodeSnapshot) -> NodeDocument:
    """Return the document a node was stored with."""
    return NodeDocument(
        kind=node.kind,
        user_data=node.user_data,
        shape=node.shape,
        dimension_names=node.dimension_names,
    )


def parse_document(data: bytes, path: str, *, spec_version: int = 2) -> NodeDocument:
    """Check a ``zarr.json`` and read out what the engine needs.

    Parameters
    ----------
    data : bytes
        The document as JSON text.
    path : str
        Node path, for messages.
    spec_version : int
        Version of the format; version 1 has regular chunk grids only.

    Returns
    -------
    NodeDocument
        The checked document.

    Raises
    ------
    InvalidInputError
        Kind ``bad-metadata``; the message names the path and the field.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as e:
        raise _bad(path, f"the document is not JSON ({e})") from e
    if not isinstance(document, dict):
        raise _bad(path, "the document is not a JSON object")
    if document.get("zarr_format", 3) != 3:
        raise _bad(
            path, f"zarr_format is {document['zarr_format']!r}; only version 3 can be stored"
        )
    match document.get("node_type"):
        case "group":
            return NodeDocument(kind=NodeKind.GROUP, user_data=data)
        case "array":
            lengths = _lengths(document.get("shape"), path)
            counts = _chunk_counts(document.get("chunk_grid"), lengths, path, spec_version)
            return NodeDocument(
                kind=NodeKind.ARRAY,
                user_data=data,
                shape=tuple(
                    DimensionShape(array_length=n, num_chunks=c)
                    for n, c in zip(lengths, counts, strict=True)
                ),
                dimension_names=_names(document.get("dimension_names"), len(lengths), path),
            )
        case other:
            raise _bad(path, f"node_type is {other!r}; expected 'group' or 'array'")


def _lengths(shape: Any, path: str) -> list[int]:
    if not isinstance(shape, list) or not all(_is_count(n) for n in shape):
        raise _bad(path, f"shape is {shape!r}; expected a list of non-negative integers")
    return shape


def _is_count(n: Any) -> bool:
    return isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= _MAX_LENGTH


def _chunk_counts(grid: Any, lengths: list[int], path: str, spec_version: int) -> list[int]:
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    if not isinstance(configuration, dict):
        raise _bad(path, f"chunk_grid is {grid!r}; expected an object with a configuration")
    match grid.get("name"):
        case "regular":
            sizes = configuration.get("chunk_shape")
            if not isinstance(sizes, list) or not all(_is_count(n) for n in sizes):
                raise _bad(path, f"chunk_shape is {sizes!r}; expected a list of integers")
            _same_rank(sizes, lengths, path)
            # A chunk size of zero is accepted only where there is nothing to chunk.
            counts = [-(-n // size) if size else 0 for n, size in zip(lengths, sizes, strict=True)]
        case "rectilinear" if spec_version > 1:
            per_axis = configuration.get("chunk_shapes")
            if not isinstance(per_axis, list):
                raise _bad(path, f"chunk_shapes is {per_axis!r}; expected a list of lists")
            _same_rank(per_axis, lengths, path)
            counts = [_rectilinear_count(sizes, path) for sizes in per_axis]
        case other:
            known = "regular" if spec_version == 1 else "regular or rectilinear"
            raise _bad(
                path,
                f"chunk grid {other!r} is not supported in format version {spec_version}; "
                f"use {known}",
            )
    if any(count > _MAX_CHUNKS for count in counts):
        raise _bad(
            path, f"{max(counts)} chunks along one dimension; at most {_MAX_CHUNKS} fit: use larger"
        )
    return counts


def _same_rank(sizes: list[Any], lengths: list[int], path: str) -> None:
    if len(sizes) != len(lengths):
        raise _bad(
            path, f"the chunk grid has {len(sizes)} dimensions and the shape has {len(lengths)}"
        )


def _rectilinear_count(sizes: Any, path: str) -> int:
    if not isinstance(sizes, list):
        raise _bad(path, f"chunk_shapes has {sizes!r}; expected a list per dimension")
    count = 0
    for item in sizes:
        if _is_count(item):
            count += 1
        elif isinstance(item, list) and len(item) == 2 and all(_is_count(n) for n in item):
            count += item[1]
        else:
            raise _bad(path, f"chunk_shapes has {item!r}; expected a size or [size, repeat]")
    return count


def _names(names: Any, ndim: int, path: str) -> tuple[str | None, ...] | None:
    if names is None:
        return None
    good = isinstance(names, list) and all(n is None or isinstance(n, str) for n in names)
    if not good or len(names) != ndim:
        raise _bad(path, f"dimension_names is {names!r}; expected {ndim} names or nulls")
    return tuple(name or None for name in names)


def _bad(path: str, what: str) -> InvalidInputError:
    return InvalidInputError(f"metadata of {path} refused: {what}.", ErrorKind.BAD_METADATA)
