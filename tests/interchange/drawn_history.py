"""Histories of drawn operations, made and read under either implementation.

Both run this file with the public API alone: the tests import it, the official package serves it
from one process (``serve``), one JSON request and answer a line.

An operation is a JSON object without paths, ids or names of branches: it has numbers that pick
among what is there when it runs, in sorted order. So every sublist of a history is a history, which
makes shrinking trivial, and two implementations that agree so far pick the same. What happened
(done, nothing to pick, or which error) is an outcome, and outcomes are compared as well.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import os
import random
import sys
import traceback
from datetime import timedelta
from typing import Any

import numpy as np
import zarr

import icechunk as ic

Operation = dict[str, Any]

NAMES = ["a", "b", "a-b", "é", "☃ x", "zz", "A", "0"]
REFS = ["dev", "side/line", "é", "x y", "r-1"]
REFS_V1 = ["dev", "side line", "x.y", "r-1"]  # section 23: others are stored escaped
TAGS = ["v1", "v1.0", "rel", "last", "t u", "w", "x", "y", "z"]
DTYPES = ["i1", "i4", "f8", "c16", "?", "M8[s]", "u2"]
VALUES = [None, True, 0, -7, 2**53, 1.5, "", "é ☃", [1, [2, {"k": None}]], {"n": {"m": ["é", {}]}}]
MOST_NODES = 24


# -- drawing ---------------------------------------------------------------------------------------


def draw(seed: int, length: int, spec_version: int) -> list[Operation]:
    """Return a history; the same for the same arguments."""
    rng = random.Random(seed)
    weights = {
        "commit": 24,
        "rebase": 4,
        "forks": 4,
        "create_branch": 5,
        "delete_branch": 2,
        "reset_branch": 2,
        "create_tag": 5,
        "delete_tag": 2,
        "flush": 3,
        "rewrite": 2,
        "empty": 2,
    }
    if spec_version == 2:
        weights |= {"amend": 4, "move": 5, "expire": 2, "metadata": 2}
    kinds = list(weights)
    first: list[Operation] = [
        _operation(rng, "commit", edits=[_edit(rng, kind) for kind in ("group", "array", "array")])
    ]
    drawn = rng.choices(kinds, [weights[k] for k in kinds], k=length - 1)
    return first + [_operation(rng, kind) for kind in drawn]


def _operation(rng: random.Random, kind: str, **parts: Any) -> Operation:
    operation: Operation = {
        "kind": kind,
        "pick": [rng.randrange(1000) for _ in range(4)],
        "message": rng.choice(["", "é ☃", "two\nlines", "plain"]) + f" {rng.randrange(1000)}",
        "metadata": _document(rng),
        "flag": rng.random() < 0.5,
    }
    if kind in ("commit", "amend", "flush"):
        operation["edits"] = [_edit(rng) for _ in range(rng.randint(1, 5))]
    return operation | parts


def _edit(rng: random.Random, kind: str | None = None) -> Operation:
    kinds = ["group", "array", "write", "write", "write", "attributes", "resize", "shift"]
    kinds += ["delete_node", "delete_chunk"]
    edit: Operation = {
        "kind": kind or rng.choice(kinds),
        "pick": [rng.randrange(1000) for _ in range(8)],
    }
    if edit["kind"] in ("group", "attributes"):
        edit["attributes"] = _document(rng)
    if edit["kind"] == "array":
        shape = [rng.choice([0, 1, 3, 7, 20]) for _ in range(rng.choice([0, 1, 1, 2, 2, 3]))]
        edit["shape"] = shape
        edit["chunks"] = [rng.randint(1, max(1, n)) for n in shape]
        edit["dtype"] = rng.choice(DTYPES)
        edit["plain"] = rng.random() < 0.5
    return edit


def _document(rng: random.Random) -> dict[str, Any]:
    keys = rng.sample(["who", "é", "list", "x.y"], rng.choice([0, 0, 1, 2]))
    return {key: rng.choice(VALUES) for key in keys}


# -- making ----------------------------------------------------------------------------------------


class NothingToPick(Exception):  # noqa: N818 -- not an error of the history
    """There is nothing of the wanted kind now."""


def create(path: str, spec_version: int) -> None:
    ic.Repository.create(ic.local_filesystem_storage(path), spec_version=spec_version)


def play(path: str, operations: list[Operation]) -> list[Any]:
    """Do the operations in order and return what became of each."""
    repo = ic.Repository.open(ic.local_filesystem_storage(path))
    outcomes: list[Any] = []
    for operation in operations:
        try:
            outcomes.append(_OPERATIONS[operation["kind"]](repo, operation))
        except NothingToPick:
            outcomes.append("nothing")
        except ic.IcechunkError as e:
            outcomes.append([type(e).__name__, getattr(e, "kind", None)])
    return outcomes


def _pick(found: list[Any], number: int) -> Any:
    if not found:
        raise NothingToPick
    return found[number % len(found)]


def _branch(repo: ic.Repository, operation: Operation) -> str:
    branches = sorted(repo.list_branches())
    # Half of the work is done on main, so that some history is long.
    number = operation["pick"][0]
    return "main" if number % 2 else str(_pick(branches, number // 2))


def _nodes(session: ic.Session) -> dict[str, Any]:
    """Return the nodes below the root by path, sorted."""
    try:
        root = zarr.open_group(session.store, mode="r+" if not session.read_only else "r")
    except FileNotFoundError:
        return {}
    return dict(sorted(root.members(max_depth=None)))


def _groups(nodes: dict[str, Any]) -> list[str]:
    return ["", *(path for path, node in nodes.items() if isinstance(node, zarr.Group))]


def _arrays(nodes: dict[str, Any]) -> list[str]:
    return [path for path, node in nodes.items() if isinstance(node, zarr.Array)]


def _below(parent: str, name: str) -> str:
    return f"{parent}/{name}" if parent else name


def _apply(session: ic.Session, edits: list[Operation]) -> None:
    zarr.open_group(session.store, mode="a")
    made: set[str] = set()
    for edit in edits:
        nodes = _nodes(session)
        try:
            _EDITS[edit["kind"]](session, nodes, edit, made)
        except NothingToPick:
            continue


def _new_path(nodes: dict[str, Any], edit: Operation) -> str:
    path = _below(_pick(_groups(nodes), edit["pick"][0]), _pick(NAMES, edit["pick"][1]))
    if path in nodes or len(nodes) >= MOST_NODES:
        raise NothingToPick
    return path


def _group(session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]) -> None:
    path = _new_path(nodes, edit)
    made.add(path)
    zarr.create_group(session.store, path=path, attributes=edit["attributes"])


def _array(session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]) -> None:
    path = _new_path(nodes, edit)
    made |= {path, f"edited {path}"}
    plain: dict[str, Any] = {"compressors": None, "filters": None} if edit["plain"] else {}
    array = zarr.create_array(
        session.store,
        name=path,
        shape=tuple(edit["shape"]),
        chunks=tuple(edit["chunks"]),
        dtype=edit["dtype"],
        **plain,
    )
    if edit["pick"][2] % 2:
        _fill(array, tuple(slice(None) for _ in array.shape), edit["pick"][3])


def _fill(array: Any, region: tuple[slice, ...], number: int) -> None:
    shape = tuple(len(range(*s.indices(n))) for s, n in zip(region, array.shape, strict=True))
    values = (np.arange(int(np.prod(shape))).reshape(shape) + number) % 100
    array[region or ...] = values.astype(array.dtype)


def _write(session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]) -> None:
    path = _pick(_arrays(nodes), edit["pick"][0])
    array = nodes[path]
    made.add(f"edited {path}")
    ends = [
        sorted((edit["pick"][1 + 2 * i] % (n + 1), edit["pick"][2 + 2 * i] % (n + 1)))
        for i, n in enumerate(array.shape)
    ]
    _fill(array, tuple(slice(*pair) for pair in ends), edit["pick"][7])


def _attributes(
    session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]
) -> None:
    # As below for sizes: what is set and set back is a change to the reference and none to us.
    path = _pick([p for p in ["", *nodes] if f"attributes {p}" not in made], edit["pick"][0])
    made.add(f"attributes {path}")
    node: Any = nodes[path] if path else zarr.open_group(session.store, mode="r+")
    node.attrs.update(edit["attributes"])


def _resize(session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]) -> None:
    # Section 23, has_uncommitted_changes: the reference commits an update of a document that was
    # changed and changed back, so no array is resized twice.
    paths = [p for p in _arrays(nodes) if nodes[p].shape and f"resized {p}" not in made]
    path = _pick(paths, edit["pick"][0])
    array = nodes[path]
    made |= {f"edited {path}", f"resized {path}"}
    array.resize(tuple(edit["pick"][1 + i] % 25 for i in range(array.ndim)))


def _shift(session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]) -> None:
    # The reference moves marks of deleted chunks as if they were chunks: the same values, but its
    # log then names chunks that never were. So arrays are shifted before other edits.
    paths = [p for p in _arrays(nodes) if nodes[p].shape and f"edited {p}" not in made]
    path = _pick(paths, edit["pick"][0])
    made.add(f"edited {path}")
    offset = [edit["pick"][1 + i] % 5 - 2 for i in range(nodes[path].ndim)]
    session.shift_array("/" + path, offset)


def _delete_node(
    session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]
) -> None:
    # Section 23, has_uncommitted_changes: a node made and deleted in one session leaves an empty
    # commit, so only nodes without new parts are deleted.
    old = [p for p in nodes if not any(m == p or m.startswith(p + "/") for m in made)]
    path = _pick(old, edit["pick"][0])
    if edit["pick"][1] % 3 == 0:
        asyncio.run(session.store.delete_dir(path))
    else:
        del zarr.open_group(session.store, mode="r+")[path]


def _delete_chunk(
    session: ic.Session, nodes: dict[str, Any], edit: Operation, made: set[str]
) -> None:
    path = _pick(_arrays(nodes), edit["pick"][0])
    made.add(f"edited {path}")
    grid = [-(-n // c) for n, c in zip(nodes[path].shape, nodes[path].chunks, strict=True)]
    if 0 in grid:
        raise NothingToPick
    at = [str(edit["pick"][1 + i] % n) for i, n in enumerate(grid)]
    asyncio.run(session.store.delete("/".join([path, "c", *at])))


_EDITS = {
    "group": _group,
    "array": _array,
    "write": _write,
    "attributes": _attributes,
    "resize": _resize,
    "shift": _shift,
    "delete_node": _delete_node,
    "delete_chunk": _delete_chunk,
}


def _commit(repo: ic.Repository, operation: Operation) -> Any:
    session = repo.writable_session(_branch(repo, operation))
    _apply(session, operation["edits"])
    session.commit(operation["message"], metadata=operation["metadata"])
    return "done"


def _amend(repo: ic.Repository, operation: Operation) -> Any:
    session = repo.writable_session(_branch(repo, operation))
    if operation["pick"][1] % 4:
        _apply(session, operation["edits"])
    session.amend(
        operation["message"], metadata=operation["metadata"], allow_empty=operation["flag"]
    )
    return "done"


def _empty(repo: ic.Repository, operation: Operation) -> Any:
    session = repo.writable_session(_branch(repo, operation))
    session.commit(
        operation["message"], metadata=operation["metadata"], allow_empty=operation["flag"]
    )
    return "done"


def _flush(repo: ic.Repository, operation: Operation) -> Any:
    session = repo.writable_session(_branch(repo, operation))
    _apply(session, operation["edits"])
    new = session.flush(operation["message"], metadata=operation["metadata"])
    if operation["pick"][2] % 4:
        repo.create_tag(_pick(TAGS, operation["pick"][1]), new)
    return "done"


def _many_chunks(session: ic.Session, number: int) -> tuple[str, list[tuple[slice, ...]]]:
    """Pick an array with several chunks, and return it and the regions of its chunks."""
    nodes = _nodes(session)
    path = _pick([p for p in _arrays(nodes) if nodes[p].nchunks > 1], number)
    array = nodes[path]
    steps = [
        [slice(at, min(at + c, n)) for at in range(0, n, c)]
        for n, c in zip(array.shape, array.chunks, strict=True)
    ]
    return path, list(itertools.product(*steps))


def _rebase(repo: ic.Repository, operation: Operation) -> Any:
    branch = _branch(repo, operation)
    ours, theirs = repo.writable_session(branch), repo.writable_session(branch)
    path, regions = _many_chunks(ours, operation["pick"][1])
    first = operation["pick"][2] % len(regions)
    # Sometimes both write one chunk: then the same error must come out.
    second = first if operation["pick"][3] % 5 == 0 else (first + 1) % len(regions)
    _fill(zarr.open_array(theirs.store, path=path, mode="r+"), regions[first], 11)
    theirs.commit("theirs " + operation["message"], metadata=operation["metadata"])
    _fill(zarr.open_array(ours.store, path=path, mode="r+"), regions[second], 22)
    if operation["flag"]:
        zarr.open_group(ours.store, mode="r+").attrs["rebased"] = operation["pick"][1]
    ours.commit("ours " + operation["message"], rebase_with=ic.ConflictDetector())
    return "done"


def _forks(repo: ic.Repository, operation: Operation) -> Any:
    session = repo.writable_session(_branch(repo, operation))
    path, regions = _many_chunks(session, operation["pick"][1])
    forks = [session.fork() for _ in range(2)]
    for i, fork in enumerate(forks):
        array = zarr.open_array(fork.store, path=path, mode="r+")
        _fill(array, regions[(operation["pick"][2] + i) % len(regions)], 33 + i)
    if operation["flag"]:
        zarr.open_group(forks[1].store, mode="r+").attrs["forked"] = operation["pick"][3]
    session.merge(*forks)
    session.commit(operation["message"], metadata=operation["metadata"])
    return "done"


def _move(repo: ic.Repository, operation: Operation) -> Any:
    session = repo.rearrange_session(_branch(repo, operation))
    nodes = _nodes_of(repo, session)
    source = _pick(list(nodes), operation["pick"][1])
    parent = _pick(_groups(nodes), operation["pick"][2])
    session.move(f"/{source}", "/" + _below(parent, _pick(NAMES, operation["pick"][3])))
    session.commit(operation["message"], metadata=operation["metadata"])
    return "done"


def _nodes_of(repo: ic.Repository, session: ic.Session) -> dict[str, Any]:
    return _nodes(repo.readonly_session(snapshot_id=session.snapshot_id))


def _create_branch(repo: ic.Repository, operation: Operation) -> Any:
    names = REFS if repo.spec_version == 2 else REFS_V1
    history = list(repo.ancestry(branch=_branch(repo, operation)))
    at = _pick(history, operation["pick"][1] % 4)
    repo.create_branch(_pick(names, operation["pick"][2]), at.id)
    return "done"


def _delete_branch(repo: ic.Repository, operation: Operation) -> Any:
    repo.delete_branch(_pick(sorted(repo.list_branches()), operation["pick"][1]))
    return "done"


def _reset_branch(repo: ic.Repository, operation: Operation) -> Any:
    branch = _branch(repo, operation)
    history = list(repo.ancestry(branch=branch))
    target = _pick(history, operation["pick"][1] % 4).id
    if operation["flag"] and operation["pick"][2] % 3 == 0:
        tips = sorted(repo.list_branches())
        target = repo.lookup_branch(_pick(tips, operation["pick"][2]))
    expected = {"from_snapshot_id": history[0].id} if operation["pick"][3] % 2 else {}
    repo.reset_branch(branch, target, **expected)
    return "done"


def _create_tag(repo: ic.Repository, operation: Operation) -> Any:
    history = list(repo.ancestry(branch=_branch(repo, operation)))
    at = _pick(history, operation["pick"][1] % 3)
    repo.create_tag(_pick(TAGS, operation["pick"][2]), at.id)
    return "done"


def _delete_tag(repo: ic.Repository, operation: Operation) -> Any:
    repo.delete_tag(_pick(sorted(repo.list_tags()), operation["pick"][1]))
    return "done"


def _expire(repo: ic.Repository, operation: Operation) -> Any:
    history = list(repo.ancestry(branch=_branch(repo, operation)))
    if len(history) < 3:
        raise NothingToPick
    at = operation["pick"][1] % (len(history) - 1)
    gone = repo.expire_snapshots(
        # Just after it: halfway to the next, a snapshot of another branch could be on either side.
        history[at + 1].written_at + timedelta(microseconds=1),
        delete_expired_branches=operation["flag"],
        delete_expired_tags=operation["pick"][2] % 2 == 0,
    )
    return ["expired", len(gone)]


def _rewrite(repo: ic.Repository, operation: Operation) -> Any:
    amend = repo.spec_version == 2 and operation["flag"]
    repo.rewrite_manifests(
        operation["message"],
        branch=_branch(repo, operation),
        metadata=operation["metadata"],
        commit_method="amend" if amend else "new_commit",
    )
    return "done"


def _metadata(repo: ic.Repository, operation: Operation) -> Any:
    (repo.set_metadata if operation["flag"] else repo.update_metadata)(operation["metadata"])
    return "done"


_OPERATIONS = {
    "commit": _commit,
    "amend": _amend,
    "empty": _empty,
    "flush": _flush,
    "rebase": _rebase,
    "forks": _forks,
    "move": _move,
    "create_branch": _create_branch,
    "delete_branch": _delete_branch,
    "reset_branch": _reset_branch,
    "create_tag": _create_tag,
    "delete_tag": _delete_tag,
    "expire": _expire,
    "rewrite": _rewrite,
    "metadata": _metadata,
}


# -- reading ---------------------------------------------------------------------------------------


def read(path: str) -> dict[str, Any]:
    """Return all there is to see, in JSON."""
    repo = ic.Repository.open(ic.local_filesystem_storage(path))
    branches = {name: repo.lookup_branch(name) for name in sorted(repo.list_branches())}
    tags = {name: repo.lookup_tag(name) for name in sorted(repo.list_tags())}
    seen: dict[str, Any] = {"branches": branches, "tags": tags, "ancestry": {}, "diffs": {}}
    for tip in dict.fromkeys([*branches.values(), *tags.values()]):
        history = list(repo.ancestry(snapshot_id=tip))
        seen["ancestry"][tip] = [
            [s.id, s.parent_id, s.message, s.written_at.isoformat(), _plain(s.metadata)]
            for s in history
        ]
        for newer, older in itertools.pairwise(history):
            if (pair := f"{older.id}..{newer.id}") not in seen["diffs"]:
                diff = repo.diff(from_snapshot_id=older.id, to_snapshot_id=newer.id)
                seen["diffs"][pair] = _changes(diff)
        seen[f"at {tip}"] = _version(repo, tip)
    if repo.spec_version == 2:
        seen["metadata"] = _plain(repo.metadata)
        seen["log"] = [
            [type(update.kind).__name__, update.updated_at.isoformat()] for update in repo.ops_log()
        ]
    return seen


def _plain(metadata: Any) -> Any:
    return {key: json.loads(json.dumps(value)) for key, value in dict(metadata).items()}


def _changes(diff: ic.Diff) -> dict[str, Any]:
    names = ["new_groups", "new_arrays", "deleted_groups", "deleted_arrays"]
    names += ["updated_groups", "updated_arrays"]
    found: dict[str, Any] = {name: sorted(getattr(diff, name)) for name in names}
    found["updated_chunks"] = {
        path: [list(at) for at in chunks] for path, chunks in sorted(diff.updated_chunks.items())
    }
    found["moved_nodes"] = sorted(list(pair) for pair in diff.moved_nodes)
    return found


def _version(repo: ic.Repository, snapshot_id: str) -> dict[str, Any]:
    session = repo.readonly_session(snapshot_id=snapshot_id)

    async def keys() -> list[str]:
        return sorted([key async for key in session.store.list()])

    nodes = _nodes(session)
    found: dict[str, Any] = {"keys": asyncio.run(keys())}
    if "zarr.json" in found["keys"]:
        root = zarr.open_group(session.store, mode="r")
        found["root"] = dict(root.attrs)
    found["nodes"] = {path: _node(node) for path, node in nodes.items()}
    found["ids"] = {path: session.get_node_id("/" + path) for path in nodes}
    return found


def _node(node: Any) -> dict[str, Any]:
    about: dict[str, Any] = {"attributes": dict(node.attrs)}
    if isinstance(node, zarr.Array):
        data = np.ascontiguousarray(np.asarray(node[...])).tobytes()
        about |= {
            "shape": list(node.shape),
            "chunks": list(node.chunks),
            "dtype": str(node.dtype),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    return about


def neutral(seen: dict[str, Any]) -> Any:
    """Return a reading without ids and times: snapshots are numbered in order of appearance."""
    numbers: dict[str, str] = {}
    for history in seen["ancestry"].values():
        for record in reversed(history):
            numbers.setdefault(record[0], f"snapshot {len(numbers)}")
    text = json.dumps(
        {
            **{key: value for key, value in seen.items() if not key.startswith("at ")},
            "ancestry": {
                tip: [[r[0], r[1], r[2], _without_configuration(r[4])] for r in history]
                for tip, history in seen["ancestry"].items()
            },
            "log": [kind for kind, _ in seen.get("log", [])],
            "at": {
                key.removeprefix("at "): {k: v for k, v in value.items() if k != "ids"}
                for key, value in seen.items()
                if key.startswith("at ")
            },
        }
    )
    for snapshot_id, number in numbers.items():
        text = text.replace(snapshot_id, number)
    return json.loads(text)


def _without_configuration(metadata: dict[str, Any]) -> dict[str, Any]:
    """Drop the splitting that a rewrite records: each implementation has its own default."""
    own = dict(metadata.get("__icechunk", {}))
    own.pop("splitting_config", None)
    return {**metadata, "__icechunk": own} if own else _dropped(metadata)


def _dropped(metadata: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if key != "__icechunk"}


# -- serving ---------------------------------------------------------------------------------------


COMMANDS: dict[str, Any] = {"create": create, "play": play, "read": read}


def serve() -> None:
    """Answer requests, ``[command, arguments...]`` in JSON a line, until the input ends."""
    # What the implementation itself prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer = {"value": COMMANDS[command](*arguments)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
