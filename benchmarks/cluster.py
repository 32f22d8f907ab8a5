"""Writing on a dask cluster, appending and filling regions: this package beside the official one.

    python -m benchmarks.cluster --other OTHER_PYTHON [--rounds 3] [--s3 URL]

Each scenario runs in a fresh process, by this interpreter and by the other one in turn (A B A B),
so that a drift of the machine's speed touches both. With ``--s3`` it is done on the S3 server at
that URL (bucket ``test-bucket``, keys in ``BENCH_KEY`` and ``BENCH_SECRET``), for instance that of
``tests/s3_server.py``, else on local files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.children import call

_SCENARIOS = ("write", "append", "region")


def _repository(url: str, name: str) -> Any:
    import icechunk as ic  # noqa: PLC0415 # the children's library, whichever it is

    if not url:
        return ic.Repository.create(
            ic.local_filesystem_storage(str(Path(tempfile.mkdtemp(), name)))
        )
    storage = ic.s3_storage(
        bucket="test-bucket",
        prefix=f"{name}-{os.urandom(6).hex()}",
        region="us-east-1",
        endpoint_url=url,
        allow_http=True,
        force_path_style=True,
        access_key_id=os.environ["BENCH_KEY"],
        secret_access_key=os.environ["BENCH_SECRET"],
    )
    return ic.Repository.create(storage)


def measure(scenario: str, url: str, tasks: int) -> dict[str, float]:
    """Run one scenario in this process; return seconds by name."""
    import dask.array as da  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import xarray as xr  # noqa: PLC0415
    from distributed import Client, LocalCluster  # noqa: PLC0415

    from icechunk.xarray import to_icechunk  # noqa: PLC0415

    def data(steps: int, first: int = 0) -> Any:
        values = da.zeros((steps, 10_000), chunks=(1, 10_000), dtype="f4") + np.float32(1)
        return xr.Dataset(
            {"t": (("time", "x"), values)}, coords={"time": np.arange(first, first + steps)}
        )

    encoding = {"t": {"compressors": None}, "time": {"chunks": (1024,)}}
    seconds = {}

    def timed(name: str, work: Any) -> None:
        began = time.perf_counter()
        work()
        seconds[name] = time.perf_counter() - began

    repo = _repository(url, scenario)
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        session = repo.writable_session("main")
        if scenario == "write":
            timed("write", lambda: to_icechunk(data(tasks), session, encoding=encoding))
            timed("write, commit", lambda: session.commit("written"))
            return seconds
        if scenario == "append":
            to_icechunk(data(tasks // 4), session, encoding=encoding)
            session.commit("first")

            def append() -> None:
                for part in range(1, 4):
                    session = repo.writable_session("main")
                    more = data(tasks // 4, part * (tasks // 4))
                    to_icechunk(more, session, append_dim="time")
                    session.commit("appended")

            timed("three appends", append)
            return seconds
        template = data(tasks)
        template.to_zarr(
            session.store, compute=False, encoding=encoding, zarr_format=3, consolidated=False
        )
        session.commit("template")

        def fill() -> None:
            for start in range(0, tasks, tasks // 4):
                session = repo.writable_session("main")
                part = slice(start, start + tasks // 4)
                piece = template.isel(time=part).drop_vars("time")
                to_icechunk(piece, session, region={"time": part})
                session.commit("filled")

        timed("four regions", fill)
    return seconds


def _child(python: str, scenario: str, args: argparse.Namespace) -> dict[str, float]:
    given = ("--run", scenario, "--tasks", str(args.tasks), "--s3", args.s3)
    seconds: dict[str, float] = json.loads(call(python, "cluster", *given)[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--other", default=sys.executable, help="python with the other package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--s3", default="", help="URL of an S3 server")
    parser.add_argument("--run", choices=_SCENARIOS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(measure(args.run, args.s3, args.tasks)))
        return
    for scenario in _SCENARIOS:
        ours, theirs = [], []
        for _ in range(args.rounds):
            ours.append(_child(sys.executable, scenario, args))
            theirs.append(_child(args.other, scenario, args))
        for name in ours[0]:
            a, b = ([run[name] for run in runs] for runs in (ours, theirs))
            ratio = statistics.median(x / y for x, y in zip(a, b, strict=True))
            print(
                f"{name:16} here {statistics.median(a):8.3f} s  other {statistics.median(b):8.3f} s"
                f"  ratio {ratio:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
