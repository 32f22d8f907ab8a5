"""A repository as plain dictionaries, and reading a real one into the same form."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import zarr

if TYPE_CHECKING:
    import icechunk as ic

LENGTH, CHUNK = 8, 2  # elements; so four chunks of eight bytes
CHUNKS = LENGTH // CHUNK

# What a path has: attributes, and the values of an array or None for a group.
Node: TypeAlias = tuple[dict[str, Any], tuple[int, ...] | None]
Version: TypeAlias = dict[str, Node]


def arrays_of(version: Version) -> list[str]:
    return sorted(path for path, (_, values) in version.items() if values is not None)


def groups_of(version: Version) -> list[str]:
    return sorted(path for path, (_, values) in version.items() if values is None)


def below(path: str, name: str) -> str:
    return f"{path}/{name}".lstrip("/")


def is_within(path: str, ancestor: str) -> bool:
    return path == ancestor or path.startswith(f"{ancestor}/") or ancestor == ""


def with_chunk(version: Version, path: str, chunk: int, values: list[int]) -> Version:
    attributes, old = version[path]
    assert old is not None
    new = [*old[: chunk * CHUNK], *values, *old[(chunk + 1) * CHUNK :]]
    return {**version, path: (attributes, tuple(new))}


def with_chunks_moved(version: Version, path: str, sources: dict[int, int | None]) -> Version:
    """Return a version where each chunk named has the values of another, or none."""
    attributes, old = version[path]
    assert old is not None
    new = list(old)
    for target, source in sources.items():
        part = [0] * CHUNK if source is None else list(old[source * CHUNK : (source + 1) * CHUNK])
        new[target * CHUNK : (target + 1) * CHUNK] = part
    return {**version, path: (attributes, tuple(new))}


def without(version: Version, path: str) -> Version:
    return {p: node for p, node in version.items() if not is_within(p, path)}


def moved(version: Version, source: str, target: str) -> Version:
    return {
        target + path[len(source) :] if is_within(path, source) else path: node
        for path, node in version.items()
    }


def read(session: ic.Session) -> Version:
    """Return all that a session shows."""
    try:
        root = zarr.open_group(session.store, mode="r")
    except FileNotFoundError:
        return {}
    nodes: dict[str, Any] = {"": root, **dict(root.members(max_depth=None))}
    return {
        path: (
            dict(node.attrs),
            tuple(np.asarray(node[...]).tolist()) if isinstance(node, zarr.Array) else None,
        )
        for path, node in nodes.items()
    }


@dataclass
class Model:
    """What the repository must be: snapshots by id, and where names point."""

    initial: str
    parents: dict[str, str | None] = field(default_factory=dict)
    versions: dict[str, Version] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    deleted_tags: set[str] = field(default_factory=set)

    def add(self, snapshot_id: str, parent: str | None, version: Version) -> None:
        assert snapshot_id not in self.parents
        self.parents[snapshot_id] = parent
        self.versions[snapshot_id] = version

    def ancestry(self, snapshot_id: str) -> list[str]:
        found: list[str] = []
        at: str | None = snapshot_id
        while at is not None:
            found.append(at)
            at = self.parents[at]
        return found

    def reachable(self) -> set[str]:
        tips = [*self.branches.values(), *self.tags.values()]
        return {ancestor for tip in tips for ancestor in self.ancestry(tip)}

    def keep(self, snapshots: set[str]) -> None:
        """Forget all other snapshots."""
        self.parents = {s: p for s, p in self.parents.items() if s in snapshots}
        self.versions = {s: v for s, v in self.versions.items() if s in snapshots}
