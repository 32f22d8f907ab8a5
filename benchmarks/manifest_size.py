"""What the number of references per manifest costs: the curve behind the default.

usage: python benchmarks/manifest_size.py [--most 10000000] [--split 16384 65536 262144 0]

For arrays of 10^4 to ``--most`` native references it prints, for each split size (0 is unsplit):
the time of the first commit, of a cold lookup of one chunk, and of a commit that changes one chunk,
with the bytes of manifests that this commit wrote.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

import icechunk as ic
from icechunk.format.chunk_table import ChunkTable
from icechunk.manifest_config import UNSPLIT
from icechunk.paths import NodePath

_REPEATS = 3


def _config(split: int) -> ic.RepositoryConfig:
    every = ic.ManifestSplitCondition.AnyArray()
    size = split or UNSPLIT
    splitting = ic.ManifestSplittingConfig.from_dict(
        {every: {ic.ManifestSplitDimCondition.Any(): size}}
    )
    return ic.RepositoryConfig(manifest=ic.ManifestConfig(splitting=splitting))


def _manifest_bytes(place: str) -> int:
    return sum(file.stat().st_size for file in Path(place, "manifests").glob("*"))


def _measure(references: int, split: int) -> tuple[float, float, float, float]:
    place = tempfile.mkdtemp()
    try:
        repo = ic.Repository.create(ic.local_filesystem_storage(place), _config(split))
        session = repo.writable_session("main")
        shape = (references,)
        zarr.create_array(session.store, name="a", shape=shape, chunks=(1,), dtype="f8")
        ids = np.frombuffer(os.urandom(12 * references), np.uint8).reshape(references, 12)
        coords = np.arange(references, dtype=np.uint32).reshape(references, 1)
        table = ChunkTable.native(coords, ids, np.full(references, 1000, np.uint64))
        session.checkout.set_refs(NodePath("/a"), table)
        started = time.perf_counter()
        session.commit("all")
        first = time.perf_counter() - started
        del table, ids, coords, session, repo
        gc.collect()
        lookups, updates, written = [], [], 0
        for i in range(_REPEATS):
            started = time.perf_counter()
            repo = ic.Repository.open(ic.local_filesystem_storage(place), _config(split))
            repo.readonly_session("main").chunk_type("/a", [references // 2])
            lookups.append(time.perf_counter() - started)
            session = repo.writable_session("main")
            before = _manifest_bytes(place)
            one = ChunkTable.native(
                np.array([[references // 3 + i]], np.uint32),
                np.zeros((1, 12), np.uint8),
                np.array([5], np.uint64),
            )
            session.checkout.set_refs(NodePath("/a"), one)
            started = time.perf_counter()
            session.commit("one")
            updates.append(time.perf_counter() - started)
            written = _manifest_bytes(place) - before
        return first, statistics.median(lookups), statistics.median(updates), written / 1e6
    finally:
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--most", type=int, default=1_000_000)
    parser.add_argument("--split", type=int, nargs="*", default=[16_384, 65_536, 262_144, 0])
    args = parser.parse_args()
    print("references   split | first commit  cold lookup  change one | MB written")
    references = 10_000
    while references <= args.most:
        for split in args.split:
            first, lookup, update, written = _measure(references, split)
            name = str(split) if split else "none"
            print(
                f"{references:10d} {name:>7} | {first:10.3f} s {lookup:10.4f} s {update:9.4f} s | "
                f"{written:8.3f}",
                flush=True,
            )
        references *= 10


if __name__ == "__main__":
    main()
