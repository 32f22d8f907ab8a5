"""``ingest --job`` and ``--resume``, ``jobs ...``, Ctrl-C and SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import xarray as xr

import icechunk
from icechunk.dask import Files, Ingest, list_jobs
from icechunk.dask.ingest.jobs import METADATA_KEY
from icechunk.dask.ingest.units import parse_ranges
from icechunk.events import Event, UnitFinished
from tests.cli.conftest import series
from tests.s3_server import BUCKET, KEY, SECRET, S3Server

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Cli

# Chunks of eight values, so that each file is a unit of its own.
TERMS = ("--append-dim", "time", "--chunks", "time=2", "--job", "year")


class StoppedError(Exception):
    """Raised by an observer."""


def files(directory: Path, count: int = 4) -> list[str]:
    for number in range(count):
        series(number * 4, number * 4 + 4).to_netcdf(directory / f"{number}.nc", engine="scipy")
    return [f"{number}.nc" for number in range(count)]


def repository(cli: Cli) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(cli.directory / "repo")))


def check(cli: Cli, count: int = 4) -> None:
    repo = repository(cli)
    found = xr.open_zarr(repo.readonly_session("main").store, consolidated=False)
    xr.testing.assert_equal(found, xr.decode_cf(series(0, 4 * count)))
    named = [info.metadata.get(METADATA_KEY) for info in repo.ancestry(branch="main")]
    held = Counter((n["job"], unit) for n in named if n for unit in parse_ranges(n["units"]))
    assert set(held.values()) == {1}


def test_a_job_is_run_looked_at_and_removed(cli: Cli) -> None:
    names = files(cli.directory)
    done = cli("ingest", *names, "repo", *TERMS, "--commit-every", 2, "--json")
    assert [commit["units"] for commit in done.data["commits"]] == ["0-1", "2-3"]
    assert done.data["proof"]["is_complete"]
    assert done.data["report"]["units"] == 4
    check(cli)
    (listed,) = cli("jobs", "list", "repo", "--json").data
    assert (listed["job_id"], listed["state"], listed["committed"]) == ("year", "finished", 4)
    shown = cli("jobs", "show", "repo", "year")
    assert "4 of 4 committed" in shown.out
    assert "to go on" not in shown.err
    again = cli("ingest", "--resume", "year", "repo", "--json")
    assert again.data["commits"] == done.data["commits"]
    assert "job year removed" in cli("jobs", "remove", "repo", "year").err
    assert cli("jobs", "list", "repo", "--json").data == []
    check(cli)


def test_what_goes_wrong_has_its_exit_code(cli: Cli) -> None:
    names = files(cli.directory)
    assert "SOURCE" in cli("ingest", "repo", code=2).err
    assert "takes neither" in cli("ingest", "a.nc", "repo", "--resume", "year", code=2).err
    assert "goes with --job" in cli("ingest", *names, "repo", "--unit-size", 2, code=2).err
    assert (
        "--mode does not" in cli("ingest", "0.nc", "repo", "--job", "j", "--mode", "a", code=2).err
    )
    assert (
        "commit_every" in cli("ingest", *names, "repo", *TERMS, "--commit-every", "x", code=2).err
    )
    assert "no such file" in cli("ingest", "no.nc", "repo", "--job", "j", code=3).err
    assert not (cli.directory / "repo").exists(), "refused before it was created"
    icechunk.Repository.create(icechunk.local_filesystem_storage(str(cli.directory / "repo")))
    assert "no job year" in cli("ingest", "--resume", "year", "repo", code=3).err
    for terms in (("--job", "a b"), ("--job", "j", "--commit-every", "x")):
        cli("ingest", "0.nc", "new", *terms, code=2)
        assert not (cli.directory / "new").exists(), "refused before it was created"
    cli("ingest", *names, "repo", *TERMS)
    again = cli("ingest", *names, "repo", *TERMS, code=4).err
    assert "already" in again
    assert "icechunk jobs remove repo year" in again
    assert "There are: year" in cli("jobs", "show", "repo", "yeer", code=3).err
    assert "no job" in cli("jobs", "remove", "repo", "yeer", code=3).err


@pytest.mark.parametrize(
    "option",
    [
        ("--plan",), ("--branch", "main"), ("--group", "g"), ("--chunks", "time=1"),
        ("--message", "x"), ("--mode", "w"), ("--append-dim", "time"), ("--metadata", "a=1"),
        ("--commit-every", "1"), ("--decode",), ("--engine", "scipy"), ("--commit-each",),
        ("--region", "time=0:1"), ("--read-back", "all"),
    ],
)  # fmt: skip
def test_what_a_job_has_settled_is_refused_when_it_goes_on(
    cli: Cli, option: tuple[str, ...]
) -> None:
    refused = cli("ingest", "--resume", "year", "repo", *option, code=2).err
    assert f"{option[0]} does not go with --resume" in " ".join(refused.split())


def test_the_plan_of_a_job_says_when_it_commits(cli: Cli) -> None:
    names = files(cli.directory)
    job = ("ingest", *names, "repo", "--append-dim", "time", "--job", "year", "--plan")
    assert "1 commit, as job year" in cli(*job).out
    assert "a commit for each unit, as job year" in cli(*job, "--commit-every", "1").out
    assert "a commit every 2 units, as job year" in cli(*job, "--commit-every", "2").out
    data = cli(*job, "--commit-every", "2GB", "--json").data
    assert (data["job"], data["commit_every"], data["commits"]) == ("year", "2GB", None)
    assert "give a number of units" in cli(*job, "--commit-every", "x", code=2).err
    assert not (cli.directory / "repo").exists()


def test_open_options_that_are_not_recorded_are_given_again(cli: Cli) -> None:
    """A job's record is no place for secrets, so the resuming process is told them."""
    with S3Server.running() as server:
        secrets = {"key": KEY, "secret": SECRET, "endpoint_url": server.url}
        url = f"s3://{BUCKET}/source.zarr"
        series(0, 16).to_zarr(url, zarr_format=2, storage_options=secrets, consolidated=True)
        repo = icechunk.Repository.create(
            icechunk.local_filesystem_storage(str(cli.directory / "repo"))
        )

        def stop(event: Event) -> None:
            if isinstance(event, UnitFinished):
                raise StoppedError

        source = Files(paths=[url], open_options={"storage_options": secrets}, chunks={"time": 2})
        job = Ingest(repo, "main", source, unit_size=4, job_id="year", progress=stop)
        with pytest.raises(StoppedError):
            job.run()
        option = f"storage_options={json.dumps(secrets)}"
        done = cli("ingest", "--resume", "year", "repo", "--open-option", option, "--json")
    assert done.data["proof"]["is_complete"]
    check(cli)


def test_a_job_on_datasets_goes_on_in_python(cli: Cli) -> None:
    repo = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(cli.directory / "repo"))
    )

    def stop(event: Event) -> None:
        if isinstance(event, UnitFinished):
            raise StoppedError

    source = series(0, 16).chunk(time=2)
    with pytest.raises(StoppedError) as caught:
        Ingest(repo, "main", source, unit_size=4, job_id="year", progress=stop).run()
    go_on = "Ingest.resume(repo, 'year', source)"
    assert go_on in "".join(caught.value.__notes__)
    shown = cli("jobs", "show", "repo", "year").err
    assert go_on in shown
    assert "--resume" not in shown
    refused = cli("ingest", "--resume", "year", "repo", code=2).err
    assert go_on in refused
    assert "--resume" not in refused
    assert Ingest.resume(repo, "year", source).proof.is_complete


def test_a_file_that_is_gone_stops_the_job_and_the_message_says_how_to_go_on(cli: Cli) -> None:
    names = files(cli.directory)
    repo = icechunk.Repository.create(
        icechunk.local_filesystem_storage(str(cli.directory / "repo"))
    )
    cli("ingest", *names[:2], "repo", *TERMS, "--job", "first")

    # The second unit fails: its file is gone by the time it is read.
    def lose_a_file(event: Event) -> None:
        if isinstance(event, UnitFinished) and event.unit_id == "unit-000000":
            (cli.directory / "3.nc").rename(cli.directory / "moved.nc")

    paths = [str(cli.directory / name) for name in names[2:]]
    job = Ingest(
        repo, "main", Files(paths=paths), append_dim="time", job_id="late", progress=lose_a_file
    )
    with pytest.raises(icechunk.InvalidInputError, match="no such file") as caught:
        job.run()
    assert "Ingest.resume(repo, 'late')" in "".join(caught.value.__notes__)
    failed = cli("ingest", "--resume", "late", "repo", code=3)
    assert "To go on: icechunk ingest --resume late repo" in failed.err
    shown = cli("jobs", "show", "repo", "late")
    assert "failed" in shown.out
    assert "no such file" in shown.out
    assert "icechunk ingest --resume late repo" in shown.err
    (cli.directory / "moved.nc").rename(cli.directory / "3.nc")
    cli("ingest", "--resume", "late", "repo")
    check(cli)


def wait_for_units(cli: Cli, process: subprocess.Popen[str]) -> None:
    """Wait until a job has kept at least one unit."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        try:
            jobs = list_jobs(repository(cli))
        except icechunk.RepositoryNotFoundError:
            jobs = []
        if jobs and jobs[0].kept:
            return
        time.sleep(0.02)
    raise AssertionError("the job does not begin")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_is_resumed(cli: Cli, how: signal.Signals) -> None:
    count = 60
    names = files(cli.directory, count)
    process = subprocess.Popen(
        cli.command("ingest", *names, "repo", *TERMS, "--commit-every", 7),
        cwd=cli.directory,
        env=cli.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_units(cli, process)
    process.send_signal(how)
    _, err = process.communicate(timeout=120)
    if how == signal.SIGINT:
        assert process.returncode == 130, err
        assert "To go on: icechunk ingest --resume year repo" in err
        assert "Traceback" not in err
    else:
        assert process.returncode == -signal.SIGKILL
    (job,) = list_jobs(repository(cli))
    assert job.state == ("failed" if how == signal.SIGINT else "running")
    assert 0 < job.kept < count
    resumed = cli.process("ingest", "--resume", "year", "repo", "--json")
    assert json.loads(resumed.out)["proof"]["missing"] == 0
    check(cli, count)
    values = xr.open_zarr(repository(cli).readonly_session("main").store, consolidated=False)
    assert np.isfinite(values["t"].values).all()
