"""The items that the joiners of a session put on its shelf: how they are named, and read together.

An item holds what its joiner changed since the last one (``more``), or everything it changed, which
stands for its items before that (``all``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from icechunk.core.changes import ChangeSet
from icechunk.core.merge import merge_changes
from icechunk.errors import ErrorKind, FormatError, SessionStateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk.ids import ObjectId
    from icechunk.shelf import Shelf, ShelfItem

_ITEM: Final = re.compile(r"(?P<joiner>[0-9a-f]+)-(?P<number>[0-9]{10})-(?P<what>all|more)")
_READ_TRIES: Final = 20


def item_name(joiner: str, number: int, *, everything: bool) -> str:
    """Return the name of a joiner's item; names of one joiner sort by number."""
    return f"{joiner}-{number:010}-{'all' if everything else 'more'}"


@dataclass(frozen=True, slots=True)
class Part:
    """What one joiner did, and the snapshot it lies on."""

    joiner: str
    base: ObjectId
    changes: ChangeSet


async def load_parts(shelf: Shelf, session_id: str) -> list[Part]:
    """Read what every joiner saved, in the order in which their names sort."""
    for _ in range(_READ_TRIES):
        parts = await _load_listed(shelf, session_id, await shelf.names(session_id))
        if parts is not None:
            return parts
        # An item gave way to one that stands for it; that one is listed now.
    raise SessionStateError(
        f"session {session_id} is changed so fast that it could not be read; try again.",
        ErrorKind.NOT_ALLOWED,
    )


async def _load_listed(shelf: Shelf, session_id: str, names: Iterable[str]) -> list[Part] | None:
    wanted: dict[str, list[str]] = {}
    for name in sorted(names):
        found = _ITEM.fullmatch(name)
        if found is None:
            raise FormatError(
                f"session {session_id} has an item {name} that this version does not know.",
                ErrorKind.DESERIALIZATION,
            )
        if found["what"] == "all":
            wanted[found["joiner"]] = []
        wanted.setdefault(found["joiner"], []).append(name)
    found_items = await shelf.items(session_id, [n for names in wanted.values() for n in names])
    items = {item.name: item for item in found_items if item is not None}
    if len(items) < len(found_items):
        return None
    return [_part(joiner, [items[name] for name in names]) for joiner, names in wanted.items()]


def _part(joiner: str, items: Sequence[ShelfItem]) -> Part:
    changes = ChangeSet()
    base = None
    for item in items:
        if item.base is None or item.changes is None:
            raise FormatError(f"item {item.name} holds no changes.", ErrorKind.DESERIALIZATION)
        base = base or item.base  # conflicts are looked for since the oldest
        merge_changes(changes, item.changes)
    assert base is not None, "each joiner was found by an item"
    return Part(joiner, base, changes)
