"""What it costs to append one step to an archive, from the first to the ten thousandth.

    python benchmarks/appends.py --steps 10000

Each append is a session, an xarray dataset of one step, and a commit, as a forecast archive grows.
The script runs with the official package too, since it uses nothing but the common API. It prints
one row for each window of appends: median seconds of the whole append and of its parts, the
median of its processor time (which a busy machine changes less), and the bytes of the files that
one commit writes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

import icechunk as ic
from icechunk.xarray import to_icechunk

_FOLDERS = ("chunks", "manifests", "snapshots", "transactions", "overwritten")


def step(number: int) -> xr.Dataset:
    """Return one step: two variables of four chunks each, and its time."""
    rng = np.random.default_rng(number)
    values = {
        name: (("time", "y", "x"), rng.random((1, 32, 32), dtype="f4")) for name in ("t", "p")
    }
    return xr.Dataset(values, coords={"time": [number]})


def create(path: str, time_chunk: int) -> ic.Repository:
    repo = ic.Repository.create(ic.local_filesystem_storage(path))
    session = repo.writable_session("main")
    chunks = {name: {"chunks": (1, 16, 16)} for name in ("t", "p")}
    to_icechunk(step(0), session, encoding={**chunks, "time": {"chunks": (time_chunk,)}})
    session.commit("step 0")
    return repo


def append(repo: ic.Repository, number: int) -> tuple[float, float, float, float]:
    """Append one step; return seconds to open the session, write and commit, and processor time."""
    ds = step(number)
    began, worked = time.perf_counter(), time.process_time()
    session = repo.writable_session("main")
    opened = time.perf_counter()
    to_icechunk(ds, session, append_dim="time")
    written = time.perf_counter()
    session.commit(f"step {number}")
    committed = time.perf_counter()
    return opened - began, written - opened, committed - written, time.process_time() - worked


def bytes_since(path: str, since_ns: int) -> dict[str, int]:
    """Return what the files written since a time take, by folder."""
    sizes = {"repo": (Path(path) / "repo").stat().st_size}
    for folder in _FOLDERS:
        sizes[folder] = 0
        with contextlib.suppress(FileNotFoundError):
            stats = [entry.stat() for entry in (Path(path) / folder).iterdir()]
            sizes[folder] = sum(s.st_size for s in stats if s.st_mtime_ns >= since_ns)
    return sizes


def windows(steps: int) -> list[int]:
    """Return where windows end: 100, 200, 500, 1000, ... up to the number of steps."""
    ends = [m * 10**e for e in range(2, 8) for m in (1, 2, 5)]
    return [end for end in ends if end < steps] + [steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--window", type=int, default=50, help="appends in each median")
    parser.add_argument("--time-chunk", type=int, default=1024, help="chunk of the coordinate")
    parser.add_argument("--reopen", action="store_true", help="open the repository each time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    path = tempfile.mkdtemp()
    try:
        repo = create(path, args.time_chunk)
        ends, rows = windows(args.steps), []
        recent: list[tuple[float, float, float, float]] = []
        for number in range(1, args.steps):
            if args.reopen:
                repo = ic.Repository.open(ic.local_filesystem_storage(path))
            since_ns = time.time_ns()
            recent = [*recent[1 - args.window :], append(repo, number)]
            if number + 1 in ends:
                opened, wrote, committed, cpu = map(statistics.median, zip(*recent, strict=True))
                whole = statistics.median(sum(times[:3]) for times in recent)
                row = {"steps": number + 1, "append_s": whole, "open_s": opened, "write_s": wrote,
                       "commit_s": committed, "cpu_s": cpu,
                       **bytes_since(path, since_ns)}  # fmt: skip
                rows.append(row)
                if not args.json:
                    times = " ".join(f"{k}={v:.4f}" for k, v in row.items() if k[-2:] == "_s")
                    print(f"{row['steps']:>7} {times}",
                          {k: v for k, v in row.items() if k[-2:] != "_s"}, flush=True)  # fmt: skip
        if args.json:
            print(json.dumps(rows, indent=1))
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
