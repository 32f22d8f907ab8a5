"""Node paths and zarr store keys.

Source: Icechunk specification, sections "Paths" and "Keys". A node path is absolute and has no
trailing slash; a store key is relative. Every rule about what a key means is in this module.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, Final, NamedTuple, NewType, TypeAlias

from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

NodePath = NewType("NodePath", str)
"""Absolute path of a group or array: ``/`` or ``/a/b``."""

ROOT: Final = NodePath("/")
METADATA_NAME: Final = "zarr.json"
ZARR2_NAMES: Final = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})

_MAX_COORDINATE: Final = 2**32
_NUMBERS = re.compile(r"(?:0|[1-9][0-9]{0,9})(?:/(?:0|[1-9][0-9]{0,9}))*", re.ASCII)
_PATHS_KEPT: Final = 1024


# Tuples, because one is made for every chunk that is read or written.


class MetadataKey(NamedTuple):
    """The key of a node's ``zarr.json``."""

    path: NodePath


class ChunkKey(NamedTuple):
    """The key of a chunk: the array's path and the chunk's coordinate."""

    path: NodePath
    coord: tuple[int, ...]


class Zarr2Key(NamedTuple):
    """The key of a Zarr version 2 metadata document, which this store never holds."""

    name: str


Key: TypeAlias = MetadataKey | ChunkKey | Zarr2Key


def parse_path(text: str) -> NodePath:
    """Return a node path from a user's text; one trailing slash is ignored.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-path``; not absolute, or with an empty, ``.`` or ``..`` component.
    """
    path = text[:-1] if len(text) > 1 and text.endswith("/") else text
    if path == "/":
        return ROOT
    if not path.startswith("/") or not _good_components(path[1:]):
        raise InvalidInputError(
            f"not a node path: {text!r}. Write it absolute, like '/group/array', without empty, "
            "'.' or '..' components.",
            ErrorKind.INVALID_PATH,
        )
    return NodePath(path)


def user_path(text: str) -> NodePath:
    """Return a node path from a user's text that may leave out the leading slash."""
    return parse_path("/" + text.strip("/"))


def _good_components(relative: str) -> bool:
    return all(part not in {"", ".", ".."} for part in relative.split("/"))


def parse_key(key: str) -> Key:
    """Return what a store key stands for.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-key``; neither a metadata nor a chunk key.
    """
    relative = key.removeprefix("/")
    head, _, name = relative.rpartition("/")
    if name == METADATA_NAME:
        return MetadataKey(_path_of(head, key))
    if name in ZARR2_NAMES:
        return Zarr2Key(name)
    if name == "c":
        return ChunkKey(_path_of(head, key), ())
    parent, mark, numbers = relative.rpartition("/c/")
    if not mark and relative.startswith("c/"):
        parent, mark, numbers = "", "/c/", relative[2:]
    if mark:
        coord = _coordinate(numbers)
        if coord is not None:
            return ChunkKey(_path_of(parent, key), coord)
    raise _bad_key(key)


def parse_chunk_prefix(text: str) -> ChunkKey | None:
    """Return array and leading coordinate of a prefix like ``a/c`` or ``a/c/0``."""
    try:
        parsed = parse_key(text)
    except InvalidInputError:
        return None
    return parsed if isinstance(parsed, ChunkKey) else None


def _coordinate(numbers: str) -> tuple[int, ...] | None:
    if not _NUMBERS.fullmatch(numbers):
        return None
    coord = tuple(map(int, numbers.split("/")))
    return coord if max(coord) < _MAX_COORDINATE else None


def _path_of(relative: str, key: str) -> NodePath:
    path = _path_or_none(relative)
    if path is None:
        raise _bad_key(key)
    return path


@lru_cache(_PATHS_KEPT)  # most keys are chunks of few arrays
def _path_or_none(relative: str) -> NodePath | None:
    if relative == "":
        return ROOT
    return NodePath("/" + relative) if _good_components(relative) else None


def _bad_key(key: str) -> InvalidInputError:
    return InvalidInputError(
        f"not a key of a Zarr version 3 store: {key!r}. Expected '<path>/zarr.json', or "
        "'<array>/c/<i>/<j>/...' with one non-negative number per dimension.",
        ErrorKind.INVALID_KEY,
    )


def metadata_key(path: NodePath) -> str:
    """Return the store key of a node's ``zarr.json``."""
    return METADATA_NAME if path == ROOT else f"{path[1:]}/{METADATA_NAME}"


def chunk_key_prefix(path: NodePath) -> str:
    """Return what all chunk keys of an array start with, without a trailing slash."""
    return "c" if path == ROOT else f"{path[1:]}/c"


def is_within(path: str, ancestor: str) -> bool:
    """Say whether a node path is the ancestor itself or below it."""
    return ancestor in {"/", path} or path.startswith(ancestor + "/")


def sorted_within(paths: Sequence[str], ancestor: str) -> list[str]:
    """Return a path and everything below it out of a sorted list of paths.

    Notes
    -----
    The order is that of UTF-8 bytes, which for Python strings is the order of code points. All
    paths below ``/a`` lie between ``/a/`` and ``/a0``, since ``0`` follows ``/``; ``/a`` itself
    need not be beside them (``/a-b`` sorts in between).
    """
    if ancestor == "/":
        return list(paths)
    found = []
    at = bisect_left(paths, ancestor)
    if at < len(paths) and paths[at] == ancestor:
        found.append(ancestor)
    found += paths[bisect_left(paths, ancestor + "/") : bisect_left(paths, ancestor + "0")]
    return found


def parent_of(path: NodePath) -> NodePath | None:
    """Return the path one level up, None for the root."""
    if path == ROOT:
        return None
    return NodePath(path.rpartition("/")[0] or "/")
