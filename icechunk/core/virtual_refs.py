"""Locations of virtual chunks as they are stored.

Source: Icechunk specification, section "Locations and containers". Locations on local files follow
the WHATWG rules for URLs; all others are kept as given, but for a lower-case scheme.
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.format.ragged import Ragged

if TYPE_CHECKING:
    from collections.abc import Sequence

    from icechunk._typing import I64Array

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//)?", re.ASCII)
# What the path of a file URL keeps unescaped: everything ASCII but the WHATWG path percent-encode
# set (controls, space, " # < > ? ` { }). A percent sign stays, so that escapes stay what they are.
_KEPT_IN_PATH: Final = "%!$&'()*+,-./:;=@[\\]^_|~"
_FILE: Final = b"file:///"
# Looked at together, so that what comes of it stays in the processor's cache.
_BLOCK_ROWS: Final = 1 << 13
# A buffer so many times as large as its locations, which others share, is not decoded for them.
_MOST_SHARED: Final = 4
_ESCAPED_DOT = re.compile(b"%2[eE]")
# Characters of a location in which nothing needs a second look: none to escape, and no backslash.
_PLAIN: Final = (string.ascii_letters + string.digits + _KEPT_IN_PATH).replace("\\", "").encode()


def normalise_location(location: str) -> str:
    """Return a location in the form it is stored in.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; not an absolute URL, or a key with an empty, ``.`` or ``..``
        segment where the store has no such keys.
    """
    match = _SCHEME.match(location)
    if match is None or not location[match.end() :]:
        raise _bad(location, "expected an absolute URL such as s3://bucket/key or file:///path")
    scheme = match[1].lower()
    rest = location[len(match[1]) :]
    if scheme == "file":
        return "file:" + _normal_file_path(rest, location)
    if scheme not in {"s3", "tigris", "vcc"}:
        path = rest[match.end() - len(match[1]) :].partition("?")[0].partition("#")[0]
        segments = path.split("/")[1:]
        if any(segment in {"", ".", ".."} for segment in segments):
            raise _bad(location, "its key has an empty, '.' or '..' segment")
    return scheme + rest


def _normal_file_path(rest: str, location: str) -> str:
    if not rest.startswith(":///"):
        raise _bad(location, "a file URL has three slashes and an absolute path: file:///data/x.nc")
    path, mark, tail = rest[3:], "", ""
    cut = min((i for i in (path.find("?"), path.find("#")) if i >= 0), default=-1)
    if cut >= 0:
        path, mark, tail = path[:cut], path[cut], path[cut + 1 :]
    segments: list[str] = []
    parts = path.replace("\\", "/").split("/")[1:]
    for i, part in enumerate(parts):
        plain = re.sub("%2e", ".", part, flags=re.IGNORECASE)
        last = i == len(parts) - 1
        if plain == "..":
            del segments[-1:]
        elif plain != ".":
            segments.append(quote(part, safe=_KEPT_IN_PATH))
            continue
        if last:
            segments.append("")
    if any(segment == "" for segment in segments):
        raise _bad(location, "its path has an empty segment")
    return "///" + "/".join(segments) + mark + tail


def _bad(location: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        f"not a location of a virtual chunk: {location!r}; {why}.", ErrorKind.INVALID_VIRTUAL_REF
    )


def normalise_locations(locations: Sequence[str]) -> Ragged:
    """Return many locations as stored, in one column.

    Notes
    -----
    Cost: the usual case, plain file URLs or other schemes without anything to normalise, is
    recognised over the joined text, without looking at each location.

    Raises
    ------
    InvalidInputError
        As `normalise_location`.
    """
    blocks = [
        _normalised(locations[first : first + _BLOCK_ROWS])
        for first in range(0, len(locations), _BLOCK_ROWS)
    ]
    if not blocks:
        return Ragged.empty()
    stops = np.cumsum([len(block.data) for block in blocks])
    return Ragged(
        b"".join([block.data for block in blocks]),
        np.concatenate(
            [
                block.start + (stop - len(block.data))
                for block, stop in zip(blocks, stops, strict=True)
            ]
        ),
        np.concatenate([block.size for block in blocks]),
    )


def _normalised(locations: Sequence[str]) -> Ragged:
    # Each on a line of its own, so that where they begin and end is seen in one text.
    text = "\n".join(locations)
    lines = text.encode() if text.isascii() else b""
    data = np.frombuffer(lines, np.uint8)
    ends = np.append(np.flatnonzero(data == ord("\n")), len(data))
    starts = np.concatenate(([0], ends[:-1] + 1))
    if len(ends) != len(locations) or not _all_plain_files(lines, starts):
        return Ragged.from_list([normalise_location(location).encode() for location in locations])
    return Ragged(lines, starts, ends - starts)


def _all_plain_files(lines: bytes, starts: I64Array) -> bool:
    """Say whether the careful way would change none of these locations, one on each line.

    Each begins with ``file:///`` and has no other ``//``, no dot or escaped dot that begins a
    segment, no final slash, and only characters that stay as they are.
    """
    column = Ragged(lines, starts, np.append(starts[1:] - 1, len(lines)) - starts)
    if not bool(column.starts_with(_FILE).all()) or lines.translate(None, _PLAIN + b"\n"):
        return False
    data = np.frombuffer(lines, np.uint8)
    behind = data[np.flatnonzero(data[:-1] == ord("/")) + 1]
    return (
        # Two in each beginning: the first and the second of its slashes have one behind them.
        int((behind == ord("/")).sum()) == 2 * len(starts)
        and not bool(((behind == ord(".")) | (behind == ord("\n"))).any())
        and not lines.endswith(b"/")
        and not _ESCAPED_DOT.search(lines)
    )


def location_texts(column: Ragged) -> list[str]:
    """Return stored locations as text.

    Notes
    -----
    Plain ASCII, the usual case, is decoded as a whole and cut.
    """
    starts, stops = column.start.tolist(), (column.start + column.size).tolist()
    data = column.data if isinstance(column.data, bytes) else bytes(column.data)
    if len(data) <= _MOST_SHARED * int(column.size.sum()) and data.isascii():
        text = data.decode("ascii")
        return [text[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return [data[a:b].decode("utf-8", "replace") for a, b in zip(starts, stops, strict=True)]
