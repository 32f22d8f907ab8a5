"""What a commit of a job costs does not grow with the job; histories that were cut meanwhile."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

import icechunk as ic
from icechunk.dask import Ingest
from icechunk.dask.ingest import work
from icechunk.errors import RebaseFailedError, SessionStateError
from icechunk.events import Committed, UnitFinished
from tests.faults import FaultyStorage

SYNC = {"scheduler": "synchronous"}
UNITS = 12


class WatchedStorage(FaultyStorage):
    """Counts what is read, by the first part of the key."""

    def __init__(self):
        super().__init__(ic.in_memory_storage())
        self.reads = Counter()

    async def get(self, key, byte_range=None, *, condition=None):
        self.reads[key.split("/")[0]] += 1
        return await super().get(key, byte_range, condition=condition)


class StoppedError(Exception):
    """Raised by an observer."""


def steps(units=UNITS):
    values = np.arange(1.0, 1 + units * 3).reshape(units, 3)
    return xr.Dataset(
        {"t": (("time", "x"), da.from_array(values, chunks=(1, 3)))},
        coords={"time": np.arange(units)},
    )


def commit_beside(repo, path, index, value=9.0):
    session = repo.writable_session("main")
    zarr.open_array(session.store, path=path, mode="r+")[index] = value
    session.commit(f"{path} {index}", rebase_with=ic.ConflictDetector())


def new_repo():
    storage = WatchedStorage()
    config = ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 0
    return ic.Repository.create(storage, config=config), storage


def ingest(repo, observer, **kwargs):
    return Ingest(
        repo, "main", steps(), group="g", unit_size=1, commit_every=1, job_id="job",
        progress=observer, compute_kwargs=SYNC, **kwargs,
    )  # fmt: skip


def at_commit(number, act):
    """Return an observer that acts after so many commits."""
    seen = []

    def observe(event):
        if isinstance(event, Committed):
            seen.append(event)
            if len(seen) == number:
                act()

    return observe


def stop():
    raise StoppedError


def stored(repo):
    store = repo.readonly_session("main").store
    return zarr.open_array(store, path="g/t", mode="r")[:]


def test_a_job_does_not_compare_its_units_with_its_own_commits():
    repo, storage = new_repo()
    summary = ingest(repo, lambda event: None).run()
    assert len(summary.commits) == UNITS
    assert storage.reads["transactions"] == 0


def test_a_commit_elsewhere_is_looked_at_once():
    repo, storage = new_repo()
    with repo.transaction("main", message="x") as store:
        zarr.create_array(store, name="other", shape=(3,), chunks=(1,), dtype="i8")
    summary = ingest(repo, at_commit(3, lambda: commit_beside(repo, "other", 0))).run()
    assert len(summary.commits) == UNITS
    assert storage.reads["transactions"] == 1


@pytest.mark.parametrize("resumed", [False, True])
def test_a_commit_to_the_same_chunk_is_met_when_its_unit_comes(resumed):
    repo, _ = new_repo()

    def meddle():
        commit_beside(repo, "g/t", 7)
        if resumed:
            stop()

    job = ingest(repo, at_commit(3, meddle))
    if resumed:
        with pytest.raises(StoppedError):
            job.run()
    if resumed:
        with pytest.raises(RebaseFailedError, match=r"/g/t"):
            Ingest.resume(repo, "job", steps(), compute_kwargs=SYNC)
    else:
        with pytest.raises(RebaseFailedError, match=r"/g/t"):
            job.run()
    assert stored(repo)[7].tolist() == [9.0] * 3, "of the other one"
    assert (stored(repo)[6] == steps().t.values[6]).all(), "what comes before it is there"


def test_a_job_goes_on_after_its_first_commits_expired():
    repo, storage = new_repo()
    with pytest.raises(StoppedError):
        ingest(repo, at_commit(3, stop)).run()
    assert len(repo.expire_snapshots(datetime.now(UTC))) == 2
    storage.reads.clear()
    summary = Ingest.resume(repo, "job", steps(), compute_kwargs=SYNC)
    assert summary.proof.is_complete
    assert storage.reads["transactions"] == 0
    assert (stored(repo) == steps().t.values).all()


def test_a_job_stops_when_what_its_units_lie_on_expired():
    """It said so only after a thousand tries."""
    repo, _ = new_repo()

    def meddle():
        commit_beside(repo, "g/t", 0)
        repo.expire_snapshots(datetime.now(UTC))

    with pytest.raises(SessionStateError, match="does not lead back to snapshot"):
        ingest(repo, at_commit(3, meddle)).run()


def test_finished_units_are_added_up_once(monkeypatch):
    added = []
    amount = work._amount
    monkeypatch.setattr(work, "_amount", lambda item: added.append(item) or amount(item))
    repo, _ = new_repo()
    Ingest(repo, "main", steps(), unit_size=1, compute_kwargs=SYNC).run()
    assert len(added) <= 4 * UNITS


def test_the_operations_log_is_read_once(monkeypatch):
    repo, _ = new_repo()
    seen = []
    whole = type(repo).ops_log

    def watched(self):
        for update in whole(self):
            seen.append(update)
            yield update

    monkeypatch.setattr(type(repo), "ops_log", watched)
    ingest(repo, lambda event: None).run()
    assert len(list(whole(repo))) == UNITS + 1
    assert len(seen) <= 4 * UNITS


def test_a_collection_is_noticed_whenever_it_runs():
    repo, _ = new_repo()
    assert ingest(repo, lambda event: None).run().proof.objects_checked == 0
    repo, _ = new_repo()
    written = []

    def meddle(event):
        if isinstance(event, UnitFinished):
            written.append(event.unit_id)
            if len(written) == 6:
                repo.garbage_collect(datetime(2020, 1, 1, tzinfo=UTC))

    assert ingest(repo, meddle).run().proof.objects_checked == UNITS + 1, "and the coordinate"
