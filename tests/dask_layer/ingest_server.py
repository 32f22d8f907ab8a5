"""A process that runs ingestion jobs in forks of itself, which kill themselves on cue.

Forking a process that has everything imported takes milliseconds, so that a job can be killed at
many points. Run as a program it reads one JSON command from each line of its standard input, and
answers each with one line: the signal or exit code of the fork, and what it printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import xarray as xr

import icechunk as ic
from icechunk.dask.ingest import Ingest
from tests.faults import FaultyStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
UNITS = 6


def source() -> xr.Dataset:
    """Return what the jobs ingest: six units, with chunks of the fill value among them."""
    t = np.arange(12 * 40).reshape(12, 40)
    t[4:6] = 0
    return xr.Dataset(
        {
            "t": (("time", "x"), da.from_array(t, chunks=(2, 40))),
            "flag": ("time", da.arange(12, chunks=1, dtype="i2")),
        },
        coords={"time": np.arange(12), "x": np.arange(40.0)},
    )


class KillingStorage(FaultyStorage):
    """Kills its process before or after one of its writes."""

    def __init__(self, inner: ic.Storage, fail_at: int, how: str) -> None:
        super().__init__(inner, fail_at, how)
        self.immediate = inner.immediate

    async def _write(self, key: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        number = len(self.writes)
        self.writes.append(key)
        if number == self.fail_at and self.how == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await method(key, *args, **kwargs)
        if number == self.fail_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def storage_at(place: str | dict[str, Any]) -> ic.Storage:
    if isinstance(place, str):
        return ic.local_filesystem_storage(place)
    return ic.s3_storage(**place)


def obey(command: dict[str, Any]) -> None:
    storage = KillingStorage(
        storage_at(command["place"]), command.get("kill_at", -1), command.get("how", "before")
    )
    repo = ic.Repository.open(storage)
    options: dict[str, Any] = {"compute_kwargs": {"scheduler": "synchronous"}}
    if command["do"] == "start":
        options |= {"unit_size": 2, "commit_every": 2, "metadata": {"by": "test"}}
        Ingest(repo, "main", source(), group="g", job_id="job", **options).run()
    else:
        Ingest.resume(repo, "job", source(), **options)
    print(len(storage.writes))


@dataclass
class Outcome:
    """How a fork ended: 0, an exit code, or a negative signal number."""

    code: int
    out: str


class IngestServer:
    """Runs commands in forks of a process that has everything imported."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[IngestServer]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.dask_layer.ingest_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield cls(process)
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(20)

    def __call__(self, **command: Any) -> Outcome:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))


def serve() -> None:
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(reading)
            os.dup2(writing, 1)
            sys.stdout = os.fdopen(1, "w")
            code = 1
            try:
                obey(json.loads(line))
                code = 0
            except BaseException as e:
                print(f"{type(e).__name__}: {e}")
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            out = pipe.read()
        _, status = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status), "out": out.strip()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
