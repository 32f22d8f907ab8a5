"""Merging the change sets of many forks: time, and memory beside what they weigh on the wire.

Run as ``python benchmarks/merge.py [--forks 64] [--chunks 1000000]``; prints one line of JSON for
each way to merge. Chunks are native, with random ids and lengths as compressed chunks have them;
forks hold rows of a two-dimensional chunk grid, in one of the runs interleaved.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

import icechunk as ic
from icechunk.distributed import ArrayChanges, ChunkChanges
from icechunk.format.chunk_table import ChunkTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from icechunk.ids import NodeId

COLUMNS = 1000


def tables(forks: int, chunks: int, *, interleaved: bool) -> list[ChunkTable]:
    """Return the references that each fork wrote."""
    rng = np.random.default_rng(1)
    rows = np.arange(chunks)
    parts = [rows[n::forks] for n in range(forks)] if interleaved else np.array_split(rows, forks)
    return [
        ChunkTable.native(
            np.stack([part // COLUMNS, part % COLUMNS], axis=1),
            rng.integers(0, 256, (len(part), 12), np.uint8),
            rng.integers(40_000, 60_000, len(part)),
        )
        for part in parts
    ]


def fork_with(repo: ic.Repository, node_id: NodeId, table: ChunkTable) -> bytes:
    """Return the bytes of a fork that wrote some chunks."""
    fork = repo.writable_session("main").fork()
    fork.checkout.changes.edits(node_id, table.ndim).extend(table)
    return pickle.dumps(fork)


def measured(work: Callable[[], Any]) -> tuple[float, int]:
    """Return the best time of three in seconds, and the highest memory above the start in bytes."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--forks", type=int, default=64)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    given = parser.parse_args()
    repo = ic.Repository.create(ic.in_memory_storage())
    with repo.transaction("main", message="an array to fill") as store:
        shape = (-(-given.chunks // COLUMNS), COLUMNS)
        zarr.create_array(store, name="a", shape=shape, chunks=(1, 1), dtype="f8")
    base = repo.writable_session("main").checkout.base
    node = base.nodes.get("/a")
    assert node is not None
    for interleaved in (False, True):
        parts = tables(given.forks, given.chunks, interleaved=interleaved)
        changes = [
            ChunkChanges((ArrayChanges(node_id=node.id, path="/a", tables=(t,)),)) for t in parts
        ]
        wire = [pickle.dumps(one) for one in changes]
        wire_bytes = sum(map(len, wire))

        def union(changes: list[ChunkChanges] = changes) -> int:
            return ChunkChanges.union(changes).chunk_count()

        def arrive(wire: list[bytes] = wire) -> int:
            parts = [pickle.loads(one) for one in wire]  # noqa: S301 # our own
            return ChunkChanges.union(parts).chunk_count()

        forks = [fork_with(repo, node.id, table) for table in parts]

        def merge(policy: str, forks: list[bytes] = forks) -> ic.Session:
            session = repo.writable_session("main")
            arrived = [pickle.loads(one) for one in forks]  # noqa: S301 # our own
            session.merge(*arrived, on_chunk_conflict=policy)
            return session

        def merge_and_look() -> int:
            # What the commit, or the first look for a chunk, does once.
            return merge("error").checkout.changes.chunk_count()

        runs: dict[str, Callable[[], Any]] = {
            "ChunkChanges.union": union,
            "unpickle and union": arrive,
            "unpickle and session.merge, last": lambda: merge("last"),
            "unpickle and session.merge, error": lambda: merge("error"),
            "the same, and join all": merge_and_look,
        }
        for name, work in runs.items():
            seconds, peak_bytes = measured(work)
            print(
                json.dumps(
                    {
                        "run": name,
                        "interleaved": interleaved,
                        "forks": given.forks,
                        "chunks": given.chunks,
                        "seconds": round(seconds, 3),
                        "wire_mb": round(wire_bytes / 1e6, 1),
                        "peak_mb": round(peak_bytes / 1e6, 1),
                        "peak_over_wire": round(peak_bytes / wire_bytes, 1),
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
