"""Cost per request, and benchmark scenarios, over S3 on loopback: both backends and the official.

Starts the S3 server of the tests in a process of its own. Every figure is taken in a fresh process;
the three take turns.

    python -m benchmarks.over_s3 --official PYTHON                cost per request
    python -m benchmarks.over_s3 --official PYTHON raw commits    scenarios of the suite

The scenarios make their storage with ``icechunk.local_filesystem_storage``; here that function is
replaced by one that gives a storage in S3, and what looks at files by what lists objects. All but
``import`` and those named ``limit`` run, ``dask_cluster`` included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks import scenarios
from benchmarks.children import ROOT, call, figures_in
from benchmarks.measure import Recorder
from benchmarks.registry import chosen, function_of

CHUNK_BYTES: Final = 1024  # above the limit for chunks inside manifests
AT_ONCE: Final = 16


def storage(prefix: str) -> Any:
    """Return a storage on the server of this run."""
    import icechunk  # noqa: PLC0415 (this program also runs where another one is installed)

    options = json.loads(os.environ["OVER_S3"])
    return icechunk.s3_storage(prefix=prefix, **options)


def requests(prefix: str, count: int) -> dict[str, float]:
    """Return milliseconds of processor time, and of time, for each chunk written and read."""
    import zarr  # noqa: PLC0415
    from zarr.core.buffer import cpu, default_buffer_prototype  # noqa: PLC0415

    import icechunk  # noqa: PLC0415

    repo = icechunk.Repository.create(storage(prefix))
    session = repo.writable_session("main")
    zarr.create_array(
        session.store,
        name="a",
        shape=(count * CHUNK_BYTES,),
        chunks=(CHUNK_BYTES,),
        dtype="u1",
        compressors=None,
        filters=None,
    )
    payload = os.urandom(CHUNK_BYTES)

    async def each(work: Any, start: int, stop: int) -> None:
        async def some(first: int) -> None:
            for number in range(first, stop, AT_ONCE):
                await work(number)

        await asyncio.gather(*(some(start + first) for first in range(AT_ONCE)))

    def measured(name: str, work: Any, start: int, stop: int) -> dict[str, float]:
        cpu_time, wall = time.process_time(), time.perf_counter()
        with asyncio.Runner() as runner:
            runner.run(each(work, start, stop))
        made = stop - start
        return {
            f"{name}.cpu_ms": (time.process_time() - cpu_time) / made * 1e3,
            f"{name}.ms": (time.perf_counter() - wall) / made * 1e3,
        }

    async def put(number: int) -> None:
        await session.store.set(f"a/c/{number}", cpu.Buffer.from_bytes(payload))

    warm = min(50, count // 4)
    measured("", put, 0, warm)  # connections and imports
    found = measured("put", put, warm, count)
    session.commit("chunks")
    store = icechunk.Repository.open(storage(prefix)).readonly_session("main").store
    prototype = default_buffer_prototype()

    async def get(number: int) -> None:
        got = await store.get(f"a/c/{number}", prototype)
        assert got is not None
        assert len(got) == CHUNK_BYTES

    measured("", get, 0, warm)
    return found | measured("get", get, warm, count)


def scenario(name: str, scale: float) -> None:
    """Run a scenario of the suite in S3."""
    import icechunk  # noqa: PLC0415

    def manifest_bytes(place: Path) -> int:
        objects = storage(str(place).strip("/")).list_objects()
        return sum(size for key, size in objects if key.startswith("manifests/"))

    vars(icechunk)["local_filesystem_storage"] = lambda path: storage(str(path).strip("/"))
    scenarios.manifest_bytes = manifest_bytes
    [found] = chosen(name)
    with tempfile.TemporaryDirectory() as place:
        function_of(found.work)(Path(place), max(1, round(found.size * scale)), Recorder())


def child(arguments: argparse.Namespace) -> None:
    if arguments.scenarios:
        scenario(arguments.scenarios[0], arguments.scale)
        return
    record = Recorder()
    for name, value in requests(f"requests-{os.getpid()}", arguments.count).items():
        record.add(name, value, "ms")


def measure(python: str, options: dict[str, Any], arguments: list[str]) -> dict[str, float]:
    """Run this program in another process and return its figures; none when it failed."""
    variables = {"OVER_S3": json.dumps(options)}
    try:
        lines = call(python, "over_s3", "--child", *arguments, variables=variables)
    except RuntimeError as error:
        print(str(error)[-600:], file=sys.stderr)
        return {}
    return {name: figure.value for name, figure in figures_in(lines).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--official", help="interpreter with the official package")
    parser.add_argument("--count", type=int, default=1000, help="chunks written and read")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--child", action="store_true")
    parser.add_argument("scenarios", nargs="*")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    sys.path.insert(0, str(ROOT))
    from tests.s3_server import S3Server  # noqa: PLC0415

    with S3Server.running() as server:
        common = server.options()
        del common["backend"]
        kinds = {
            "s3fs": (sys.executable, common | {"backend": "s3fs"}),
            "obstore": (sys.executable, common | {"backend": "obstore"}),
        }
        if arguments.official:
            kinds["official"] = (arguments.official, common)
        print("| figure | " + " | ".join(kinds) + " |\n|---|" + "---|" * len(kinds))
        for name in arguments.scenarios or [None]:
            given = ["--count", str(arguments.count), "--scale", str(arguments.scale)]
            given += [name] if name is not None else []
            rounds: list[dict[str, dict[str, float]]] = [
                {kind: measure(*how, given) for kind, how in kinds.items()}
                for _ in range(arguments.rounds)
            ]
            figures = dict.fromkeys(f for r in rounds for found in r.values() for f in found)
            for figure in figures:
                cells = []
                for kind in kinds:
                    values = [r[kind][figure] for r in rounds if figure in r[kind]]
                    cells.append(f"{statistics.median(values):.3g}" if values else "-")
                print(f"| `{figure}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
