"""Arguments and options that several commands share, and how their text is parsed."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TypeAlias

import typer

from icechunk._units import parse_bytes

if TYPE_CHECKING:
    from icechunk.inputs.kinds import Chunks, Region

REPO_HELP: Final = (
    "The repository: a directory, s3://bucket/prefix, memory://name, or any fsspec URL."
)
REF_HELP: Final = (
    "A branch, a tag, or a snapshot id (its first characters suffice). "
    "NAME~2 is two commits before NAME. "
    "Write branch:NAME or tag:NAME when both exist."
)

Repo: TypeAlias = Annotated[str, typer.Argument(metavar="REPO", help=REPO_HELP, show_default=False)]
StorageOptions: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        "-o",
        metavar="KEY=VALUE",
        show_default=False,
        help="How to reach the repository, such as endpoint_url=http://localhost:9000. Repeatable.",
    ),
]
AsJson: TypeAlias = Annotated[bool, typer.Option("--json", help="Print plain JSON data.")]

_RANGE: Final = re.compile(r"([0-9]*):([0-9]*)\Z")


def parse_pairs(values: list[str] | None, option: str) -> dict[str, Any]:
    """Return ``KEY=VALUE`` options as a dictionary.

    A value that is a JSON object, list, quoted text, true, false or null is decoded; anything else,
    numbers included, stays text: account names and keys may look like numbers.

    Raises
    ------
    typer.BadParameter
        When there is no ``=``, or JSON that does not parse.
    """
    pairs: dict[str, Any] = {}
    for item in values or []:
        key, found, value = item.partition("=")
        if not found or not key.strip():
            raise typer.BadParameter(f"{option} takes KEY=VALUE, not {item!r}")
        pairs[key.strip()] = _decoded(value, option)
    return pairs


def _decoded(value: str, option: str) -> Any:
    if value in {"true", "false", "null"} or value[:1] in {"{", "[", '"'}:
        try:
            return json.loads(value)
        except ValueError as error:
            raise typer.BadParameter(f"{option}: {value!r} is no JSON ({error})") from None
    return value


def _items(values: list[str] | None) -> list[str]:
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def parse_chunks(values: list[str] | None) -> Chunks | Literal["auto"] | None:
    """Return ``--chunks time=24,lat=-1`` or ``--chunks auto``.

    Returns
    -------
    dict, "auto" or None
        Elements along each dimension, -1 for all, "auto" for dask's choice; None when not given.

    Raises
    ------
    typer.BadParameter
        When an item is neither.
    """
    items = _items(values)
    if not items:
        return None
    if items == ["auto"]:
        return "auto"
    chunks: Chunks = {}
    for item in items:
        name, found, text = item.partition("=")
        if not found or not name:
            raise typer.BadParameter(f"--chunks takes DIM=ELEMENTS, such as time=24, not {item!r}")
        if text == "auto":
            chunks[name] = "auto"
            continue
        try:
            elements = int(text)
        except ValueError:
            elements = 0
        if elements < 1 and elements != -1:
            raise typer.BadParameter(
                f"--chunks {name}: {text!r} is no number of elements; "
                "give a positive number, -1 for the whole dimension, or auto"
            )
        chunks[name] = elements
    return chunks


def parse_region(values: list[str] | None) -> Region | Literal["auto"] | None:
    """Return ``--region time=0:24,lat=auto`` or ``--region auto``.

    Returns
    -------
    dict, "auto" or None
        Half-open slices of element positions by dimension, "auto" to look the coordinate's values
        up in the repository; None when not given.

    Raises
    ------
    typer.BadParameter
        When an item is neither.
    """
    items = _items(values)
    if not items:
        return None
    if items == ["auto"]:
        return "auto"
    region: Region = {}
    for item in items:
        name, found, text = item.partition("=")
        if not found or not name:
            raise typer.BadParameter(
                f"--region takes DIM=START:STOP, such as time=0:24, not {item!r}"
            )
        region[name] = "auto" if text == "auto" else _parse_slice(name, text)
    return region


def _parse_slice(name: str, text: str) -> slice:
    match = _RANGE.match(text)
    start, stop = (match[1], match[2]) if match else ("", "0")
    bounds = slice(int(start or 0), int(stop) if stop else None)
    if bounds.stop is not None and bounds.stop <= bounds.start:
        raise typer.BadParameter(
            f"--region {name}: {text!r} is no range; "
            "give START:STOP with 0 <= START < STOP, or auto"
        )
    return bounds


def parse_size(text: str) -> int:
    """Return the bytes of a size option.

    Raises
    ------
    typer.BadParameter
        When it is no size.
    """
    try:
        return parse_bytes(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
