"""What ``icechunk demo`` does: plan, write, commit, append, commit, read anew, check."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from rich.padding import Padding
from rich.text import Text

from icechunk._units import bytes_text, seconds_text, shape_text
from icechunk.cli import render, writing
from icechunk.cli.cluster import computing
from icechunk.cli.exits import CommandError, ExitCode
from icechunk.cli.progress import progress
from icechunk.cli.repos import names_by_snapshot, snapshot_data, storage_at
from icechunk.cli.weather import VARIABLES, Archive, plan_archive, weather
from icechunk.dask import plan_write
from icechunk.events import NOTHING, Amount
from icechunk.inputs.kinds import is_url
from icechunk.repository import Repository
from icechunk.xarray import to_icechunk

if TYPE_CHECKING:
    from icechunk._typing import AnyArray
    from icechunk.cli.console import Output
    from icechunk.cli.request import DemoRequest


def run_demo(request: DemoRequest, output: Output) -> None:
    """Run the whole demonstration.

    Parameters
    ----------
    request : DemoRequest
        The options.
    output : Output
        Where it is shown.

    Raises
    ------
    CommandError
        The place is taken, or what was read back is not what was written.
    """
    began = time.monotonic()
    storage = storage_at(request.location, list(request.storage_options))
    _check_free(request, storage)
    archive = plan_archive(request.size_bytes)
    narrator = _Narrator(output)
    narrator.introduce(archive)
    with (
        writing.telling_the_truth(request.location, "main") as watch,
        computing(workers=request.workers, scheduler=request.scheduler) as client,
    ):
        repository = Repository.create(storage)
        watch.begin(repository)
        halves = ((0, archive.first), (archive.first, archive.steps))
        commits = [
            _write_period(narrator, client, repository, archive, start, stop)
            for start, stop in halves
        ]
        narrator.history(repository)
        # Nothing of the writing session is left: a new process would read the same way.
        values = _verify(narrator, client, Repository.open(storage), archive)
    data = {
        "repository": request.location,
        "commits": commits,
        "size_bytes": archive.size_bytes,
        "verified_values": values,
        "seconds": round(time.monotonic() - began, 3),
    }
    narrator.finish(data)


def _check_free(request: DemoRequest, storage: Any) -> None:
    if request.location.startswith("memory:") and (request.workers or request.scheduler):
        raise CommandError(
            "memory: is the memory of one process; other processes cannot write to it",
            f"icechunk demo {request.location} --workers 0, or give a directory.",
            ExitCode.USAGE,
        )
    if Repository.exists(storage):
        raise CommandError(
            f"there is a repository at {request.location} already; it was left as it is",
            f"Look at it: icechunk log {request.location}. "
            "Or run the demo elsewhere: icechunk demo ANOTHER-PATH",
            ExitCode.CONFLICT,
        )
    if is_url(request.location):
        return
    path = Path(request.location).expanduser()
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        what = "is a file" if path.is_file() else "is a directory with something else in it"
        raise CommandError(
            f"{request.location} {what}",
            "Give a new directory: icechunk demo ANOTHER-PATH",
            ExitCode.CONFLICT,
        )


class _Narrator:
    """Tells what happens, step by step, on standard error; the summary is the output."""

    def __init__(self, output: Output) -> None:
        self.output = output
        self._step = 0

    def step(self, title: str, detail: str = "") -> None:
        """Begin a step."""
        self._step += 1
        head = Text.assemble((f"{self._step}  ", "cyan"), (title, "bold"))
        if detail:
            head.append(f"  {detail}", "dim")
        self.output.say(Text())
        self.output.say(head)

    def introduce(self, archive: Archive) -> None:
        """Say what data there will be."""
        shape = shape_text((archive.steps, archive.lat, archive.lon))
        self.step("A synthetic weather archive, computed while it is written")
        names = ", ".join(VARIABLES)
        self.say(f"{names}, time x lat x lon = {shape}, {bytes_text(archive.size_bytes)}")

    def say(self, text: str) -> None:
        """Print one line of a step."""
        self.output.say(Padding(Text(text), (0, 0, 0, 3), expand=False))

    def history(self, repository: Repository) -> None:
        """Show the history."""
        self.step("The history")
        names = names_by_snapshot(repository)
        data = [snapshot_data(info, names) for info in repository.ancestry(branch="main")]
        self.output.say(Padding(render.history(data), (0, 0, 0, 3), expand=False))

    def finish(self, data: dict[str, Any]) -> None:
        """Print the summary."""
        place = data["repository"]
        if self.output.as_json:
            self.output.show(data, "")
            return
        self.output.say(Text())
        self.output.done(
            f"{data['verified_values']:,} values written, read back and equal, "
            f"in {seconds_text(data['seconds'])}"
        )
        self.output.say("  Look around:")
        for command in (f"tree {place}", f"log {place}", f"diff {place} main~1"):
            self.output.say(Text.assemble("    icechunk ", (command, "bold")))


def _write_period(
    narrator: _Narrator,
    client: Any,
    repository: Repository,
    archive: Archive,
    start: int,
    stop: int,
) -> dict[str, Any]:
    dataset = weather(archive, start, stop)
    period = f"{_day(dataset, 0)} to {_day(dataset, -1)}"
    session = repository.writable_session("main")
    how: dict[str, Any] = {}
    if start:
        # What does not grow is there already.
        dataset = dataset.drop_vars(["orography", "lat", "lon"])
        how["append_dim"] = "time"
    plan = plan_write(dataset, session, **how)
    if not start:
        narrator.step("The plan for the first period", period)
        narrator.output.say(Padding(render.plan(plan.to_dict()), (0, 0, 0, 3), expand=False))
    narrator.step("Append the second period" if start else "Write the first period", period)
    with writing.showing(narrator.output, client, plan, "   "):
        to_icechunk(dataset, session, **how)
    message = f"{'Append' if start else 'Write'} {period}"
    snapshot_id = writing.commit(session, message, {"steps": [start, stop]})
    narrator.say(f"committed {snapshot_id}")
    return {"id": snapshot_id, "message": message, "size_bytes": plan.size_bytes}


def _day(dataset: xr.Dataset, index: int) -> str:
    return str(np.datetime_as_string(dataset.time.values[index], unit="D"))


def _verify(narrator: _Narrator, client: Any, repository: Repository, archive: Archive) -> int:
    """Compare every value and attribute with what the generator says; return how many values."""
    narrator.step("Open it anew and compare every value with a second computation")
    session = repository.readonly_session("main")
    stored = xr.open_zarr(session.store, consolidated=False)
    expected = weather(archive, 0, archive.steps)
    wrong = [n for n in expected.variables if stored[n].attrs != expected[n].attrs]
    token = uuid.uuid4().hex
    counts = {}
    for name, variable in expected.data_vars.items():
        ours, theirs = da.asarray(variable.data), da.asarray(stored[name].data)
        # Not summed there: dask would fuse these tasks into the sums, and hide their names.
        differing = da.map_blocks(
            _count_differences,
            theirs.rechunk(ours.chunks),
            ours,
            name=f"icechunk-verify-{name}-{token}",
            chunks=tuple((1,) * n for n in ours.numblocks),
            dtype=np.int64,
            meta=np.empty((0,) * ours.ndim, np.int64),
        )
        counts[str(name)] = differing
    layers = {
        f"icechunk-verify-{name}": Amount(
            tasks=expected[name].data.npartitions, size_bytes=expected[name].nbytes
        )
        for name in VARIABLES
    }
    total = sum(layers.values(), NOTHING)
    with progress(narrator.output, client, "   comparing", layers, total):
        (found,) = dask.compute(counts)
    wrong += [name for name, count in found.items() if count.any()]
    wrong += [n for n in expected.coords if not np.array_equal(expected[n], stored[n])]
    if wrong:
        raise CommandError(
            f"read back differently: {', '.join(sorted(set(map(str, wrong))))}",
            "This is a bug, or the storage is damaged. Please report it.",
            ExitCode.MISMATCH,
        )
    return sum(variable.size for variable in expected.variables.values())


def _count_differences(stored: AnyArray, expected: AnyArray) -> AnyArray:
    """Count elements whose bits differ, as an array of one element."""
    same_kind = stored.dtype == expected.dtype and stored.shape == expected.shape
    count = (
        np.count_nonzero(stored.view(f"u{stored.itemsize}") != expected.view(f"u{stored.itemsize}"))
        if same_kind
        else expected.size
    )
    return np.full((1,) * expected.ndim, count, np.int64)
