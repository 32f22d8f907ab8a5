"""Small things that sources, chunks and regions are said with."""

from __future__ import annotations

from typing import Literal, TypeAlias

Chunks: TypeAlias = dict[str, int | Literal["auto"]]
"""Elements along each dimension; -1 for all."""

Region: TypeAlias = dict[str, slice | Literal["auto"]]
"""Which part of each dimension."""


def is_url(location: str) -> bool:
    """Return whether a location is a URL rather than a path."""
    return "://" in location
