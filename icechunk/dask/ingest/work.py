"""Doing what is left of a job: write units, keep them, commit them, and prove it."""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from icechunk._io.loop import run
from icechunk._units import bytes_text, count_text, seconds_text
from icechunk.core.changes import ChangeSet
from icechunk.dask.checksums import BlockChecksum
from icechunk.dask.ingest.committing import CommitPlan, Committer
from icechunk.dask.ingest.jobs import JobCommit, JobState
from icechunk.dask.ingest.layout import boxes_of, open_group, unit_writes
from icechunk.dask.ingest.proof import ArrayPart, Proof, lost_chunks, part_of, prove, read_back
from icechunk.dask.ingest.sources import FileSource
from icechunk.dask.ingest.summary import JobSummary, report_of
from icechunk.dask.ingest.units import CommitEvery
from icechunk.dask.store import pending_write
from icechunk.distributed import fork_at, twin_of
from icechunk.errors import (
    ErrorKind,
    InternalError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from icechunk.events import (
    NOTHING,
    Advanced,
    Amount,
    Committed,
    Failed,
    Finished,
    Started,
    UnitFailed,
    UnitFinished,
    UnitStarted,
    ignored,
)
from icechunk.ids import id_text
from icechunk.ops import UpdateType
from icechunk.shelf import Shelf, ShelfItem, ShelfRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from icechunk.dask.ingest.running import Job, Running
    from icechunk.dask.ingest.units import Unit
    from icechunk.events import Event, Observer
    from icechunk.repository import Repository

_logger = logging.getLogger(__name__)

# How far the clocks of two machines may be apart; unit: microseconds.
_CLOCKS_APART_US: Final = 3_600_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Work:
    """One process's work on a job.

    Parameters
    ----------
    repo : Repository
        Where.
    job : Job
        What.
    running : Running
        How.

    Notes
    -----
    Concurrency: two processes that work on the same job do some of it twice, but each unit is kept
    once and committed once.
    """

    def __init__(self, repo: Repository, job: Job, running: Running) -> None:
        self._repo = repo
        self._job = job
        self._running = running
        self._shelf = Shelf(repo.storage)
        facts = job.record.facts
        base, setup = job.setup.base, job.setup.changes
        assert base is not None, "it was recorded"
        assert setup is not None, "it was recorded"
        self._committer = Committer(
            repo,
            CommitPlan(
                job_id=self.job_id,
                branch=facts["branch"],
                message=facts["message"],
                metadata=facts["metadata"],
                base=id_text(base),
                setup=setup,
                units=len(job.layout.units),
                paths=frozenset(job.layout.paths()),
            ),
            [JobCommit.from_facts(commit) for commit in facts["commits"]],
            facts.get("lies_on"),
        )
        self._commit_every = CommitEvery(**facts["commit_every"])
        session = repo.writable_session(facts["branch"])
        self._origin = fork_at(session, base, inherited=setup)
        self._there = open_group(self._origin, job.layout.group, job.source)
        self._items: dict[int, ShelfItem] = {}
        self._telling = threading.Lock()
        # What is written by now: of finished units, and of those under way.
        self._done = Amount()
        self._under_way: dict[int, Amount] = {}
        # After that, units that are still under way end unheard.
        self._stopped = False
        self._retries = 0
        # Up to where the operations log was read, and whether it had a garbage collection.
        self._log_read_to = job.record.created_at_us - _CLOCKS_APART_US
        self._collected = False
        self._began = time.monotonic()

    @property
    def job_id(self) -> str:
        """Name of the job."""
        return self._job.record.shelf_id

    # -- all of it ----------------------------------------------------------------------------

    def finish(self) -> JobSummary:
        """Do what is left.

        Returns
        -------
        JobSummary
            What the whole job came to.
        """
        try:
            self._committer.look()
            self._start()
            self._write_and_commit()
            return self._conclude()
        except BaseException as e:
            self._note_failure(e)
            raise

    def _start(self) -> None:
        units = self._job.layout.units
        names = run(self._shelf.names(self.job_id))
        kept = [unit for unit in units if unit.unit_id in names]
        items = run(self._shelf.items(self.job_id, [unit.unit_id for unit in kept]))
        for unit, item in zip(kept, items, strict=True):
            if item is None:
                raise NotFoundError(
                    f"{unit.unit_id} of job {self.job_id} is gone: another process finished or "
                    "removed the job meanwhile.",
                    ErrorKind.KEY_NOT_FOUND,
                )
            self._items[unit.index] = item
        _logger.info(
            "job %s: %d of %d units are written, %d are committed",
            self.job_id, len(kept), len(units), len(self._committer.done),
        )  # fmt: skip
        self._done = self._amount(self._items)
        run(self._shelf.update(self.job_id, _running_again))
        total = Amount(units=len(units), size_bytes=self._job.layout.size_bytes)
        self._tell(Started(job_id=self.job_id, label="ingesting", total=total, done=self._done))

    def _write_and_commit(self) -> None:
        units = self._job.layout.units
        while True:
            done = self._committer.done
            left = [u for u in units if u.index not in self._items and u.index not in done]
            last_commit = time.monotonic()
            waiting = self._amount(self._waiting())
            for unit in self._written(left):
                waiting += _amount(self._items[unit.index])
                if self._commit_every.is_due(
                    units=waiting.units,
                    size_bytes=waiting.size_bytes,
                    seconds=time.monotonic() - last_commit,
                ):
                    self._commit(self._with_all_chunks(self._waiting()))
                    last_commit, waiting = time.monotonic(), Amount()
            whole = self._with_all_chunks(self._waiting())
            if len(self._committer.done) + len(whole) == len(units):
                self._commit(whole)
                return

    def _amount(self, indices: Iterable[int]) -> Amount:
        return sum((_amount(self._items[index]) for index in indices), Amount())

    def _waiting(self) -> list[int]:
        return sorted(self._items.keys() - self._committer.done)

    # -- writing ------------------------------------------------------------------------------

    def _written(self, units: Sequence[Unit]) -> Iterator[Unit]:
        """Write units, yield each one when it is kept."""
        threads = self._running.threads()
        if threads == 1:
            for unit in units:
                self._items[unit.index] = self._write(unit)
                yield unit
            return
        with _pool(threads) as pool:
            left = iter(units)
            under_way: dict[Future[ShelfItem], Unit] = {}
            while True:
                while len(under_way) < threads and (ready := next(left, None)) is not None:
                    under_way[pool.submit(self._write, ready)] = ready
                if not under_way:
                    return
                done, _ = wait(under_way, return_when=FIRST_COMPLETED)
                for future in done:
                    unit = under_way.pop(future)
                    self._items[unit.index] = future.result()
                    yield unit

    def _write(self, unit: Unit) -> ShelfItem:
        attempt = 1
        while True:
            began = time.monotonic()
            label = self._job.layout.label(unit, self._job.source)
            self._tell(
                UnitStarted(job_id=self.job_id, unit_id=unit.unit_id, label=label, attempt=attempt)
            )
            try:
                item = self._write_once(unit)
            except Exception as e:
                if self._stopped:
                    raise
                again = attempt <= self._running.retries and _may_pass(e)
                _logger.warning("job %s %s (%s): %s", self.job_id, unit.unit_id, label, e)
                self._advance(unit, None)
                self._tell(
                    UnitFailed(
                        job_id=self.job_id,
                        unit_id=unit.unit_id,
                        error=str(e),
                        attempt=attempt,
                        will_retry=again,
                    )
                )
                if not again:
                    e.add_note(f"while writing {unit.unit_id} ({label}) of job {self.job_id}")
                    raise
                attempt += 1
                self._retries += 1
                continue
            amount, seconds = _amount(item), time.monotonic() - began
            _logger.info(
                "job %s %s (%s): kept, %s, %s in %s", self.job_id, unit.unit_id, label,
                count_text(amount.chunks, "chunk"), bytes_text(amount.size_bytes),
                seconds_text(seconds),
            )  # fmt: skip
            self._tell(
                UnitFinished(
                    job_id=self.job_id, unit_id=unit.unit_id, amount=amount, seconds=seconds
                )
            )
            self._advance(unit, None, finished=amount)
            return item

    def _write_once(self, unit: Unit) -> ShelfItem:
        fork = twin_of(self._origin)
        try:
            writes = unit_writes(fork, self._job.source, self._job.layout, unit, self._there)
            receipt = pending_write(
                writes,
                fork,
                compute_kwargs=self._running.compute_kwargs,
                checksums=self._job.record.facts["read_back"] is not None,
            ).compute(progress=self._watched(unit))
            changes = fork.checkout.changes
            if changes.new_nodes or changes.updated or changes.deleted:
                raise InternalError(
                    f"{unit.unit_id} changed the metadata of arrays; please report this."
                )
            parts = [part_of(fork, write, boxes_of(write), unit.unit_id) for write in writes]
            item = ShelfItem(
                name=unit.unit_id,
                base=self._job.setup.base,
                changes=changes,
                facts={
                    "tasks": receipt.blocks,
                    "arrays": [asdict(part) for part in parts],
                    "checksums": [asdict(block) for block in receipt.result.checksums],
                },
            )
            if not run(self._shelf.put(self.job_id, item)):
                # Somebody else works on the job too, and was faster; what we wrote is garbage.
                item = run(self._shelf.item(self.job_id, unit.unit_id))
        finally:
            fork.mark_carried()
        return item

    # -- committing ---------------------------------------------------------------------------

    def _commit(self, waiting: Sequence[int]) -> None:
        began = time.monotonic()
        changes = {i: _changes(self._items[i]) for i in waiting}
        made = self._committer.commit(changes)
        self._record_commits()
        if made is not None:
            units = self._job.layout.units
            self._tell(
                Committed(
                    job_id=self.job_id,
                    snapshot_id=made.snapshot_id,
                    branch=self._job.record.facts["branch"],
                    unit_ids=tuple(units[i].unit_id for i in sorted(made.units)),
                    seconds=time.monotonic() - began,
                )
            )

    def _with_all_chunks(self, waiting: Sequence[int]) -> list[int]:
        """Return the units whose chunks are all there; the others are to be written again.

        Another implementation's garbage collection does not know the shelf, and deletes what is
        older than its cut-off.
        """
        if not self._garbage_was_collected():
            return list(waiting)
        if not self._committer.commits:
            _, gone = lost_chunks(self._repo, [_changes(self._job.setup)])
            if gone:
                raise StorageError(
                    f"{len(gone)} chunks that job {self.job_id} wrote when it began, such as "
                    f"{gone[0]}, were deleted by a garbage collection that does not know of jobs. "
                    "Remove the job and start a new one; keep the cut-off of collections older "
                    "than the oldest unfinished job.",
                    ErrorKind.CHUNK_NOT_FOUND,
                )
        whole = []
        for index in waiting:
            _, gone = lost_chunks(self._repo, [_changes(self._items[index])])
            if not gone:
                whole.append(index)
                continue
            name = self._items.pop(index).name
            _logger.warning(
                "job %s %s: %d of its chunks were deleted by a garbage collection that does not "
                "know of jobs; it is written again", self.job_id, name, len(gone),
            )  # fmt: skip
            run(self._shelf.discard(self.job_id, [name]))
        return whole

    def _garbage_was_collected(self) -> bool:
        """Say whether a garbage collection may have run since the job began."""
        if self._repo.spec_version == 1:
            return True  # nothing is recorded about it
        latest = self._log_read_to
        for update in () if self._collected else self._repo.ops_log():
            at_us = (update.updated_at - _EPOCH) // _MICROSECOND
            latest = max(latest, at_us)
            if at_us < self._log_read_to:  # an entry is never older than the one before it
                break
            if isinstance(update.kind, UpdateType.GCRan):
                self._collected = True
                break
        self._log_read_to = latest
        return self._collected

    def _record_commits(self) -> None:
        commits = self._committer.commits

        def change(record: ShelfRecord) -> ShelfRecord:
            known = record.facts["commits"]
            if len(known) > len(commits):
                return record  # written by somebody who has seen more
            new = [commit.facts() for commit in commits[len(known) :]]
            seen = {"commits": [*known, *new], "lies_on": self._committer.lies_on}
            return replace(record, facts={**record.facts, **seen})

        run(self._shelf.update(self.job_id, change))

    # -- the end ------------------------------------------------------------------------------

    def _conclude(self) -> JobSummary:
        proof = self._proof()
        if not proof.is_complete:
            raise StorageError(
                f"job {self.job_id} is committed, but {proof.missing} of {proof.expected} chunks "
                f"are not in snapshot {proof.snapshot_id}.",
                ErrorKind.CHUNK_NOT_FOUND,
            )
        commits = tuple(self._committer.commits)
        report = report_of(
            self.job_id,
            self._parts(),
            tasks=sum(item.facts["tasks"] for item in self._items.values()),
            units=len(self._items),
            commits=commits,
            seconds=time.monotonic() - self._began,
            retries=self._retries,
        )
        summary = JobSummary(
            job_id=self.job_id,
            branch=self._job.record.facts["branch"],
            report=report,
            proof=proof,
            commits=commits,
        )

        def change(record: ShelfRecord) -> ShelfRecord:
            done = {"state": JobState.FINISHED.value, "error": None, **summary.facts()}
            return replace(record, facts={**record.facts, **done})

        run(self._shelf.update(self.job_id, change))
        run(self._shelf.discard(self.job_id, list(run(self._shelf.names(self.job_id)))))
        _logger.info("job %s: finished, %d chunks are there", self.job_id, proof.expected)
        done = self._amount(self._items)
        self._tell(Finished(job_id=self.job_id, done=done, seconds=report.seconds))
        return summary

    def _parts(self) -> list[ArrayPart]:
        return [
            ArrayPart.from_facts(facts)
            for item in self._items.values()
            for facts in item.facts["arrays"]
        ]

    def _proof(self) -> Proof:
        facts = self._job.record.facts
        commits = self._committer.commits
        snapshot_id = commits[-1].snapshot_id if commits else facts["base"]
        session = self._repo.readonly_session(snapshot_id=snapshot_id)
        changes = list(map(_changes, self._items.values()))
        proof = prove(session, self._parts(), changes, self._job.layout.chunks_in(session))
        if facts["verify"] == "objects" or self._garbage_was_collected():
            checked, gone = lost_chunks(self._repo, changes)
            with_arrays, gone_too = lost_chunks(self._repo, [_changes(self._job.setup)])
            proof = replace(
                proof,
                objects_checked=checked + with_arrays,
                present=proof.present - len(gone),
                missing=proof.missing + len(gone) + len(gone_too),
            )
        if facts["read_back"] is None or not proof.is_complete:
            return proof
        checksums = [
            BlockChecksum(**{**facts, "start": tuple(facts["start"]), "stop": tuple(facts["stop"])})
            for item in self._items.values()
            for facts in item.facts["checksums"]
        ]
        sample = facts["read_back"] == "sample"
        kwargs = self._running.compute_kwargs
        count = read_back(session, checksums, kwargs, sample=sample)
        return replace(proof, blocks_read_back=count)

    def _note_failure(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {error}".rstrip(": ")
        with self._telling:
            self._stopped = True
        _logger.error("job %s: %s", self.job_id, text)

        def change(record: ShelfRecord) -> ShelfRecord:
            failed = {"state": JobState.FAILED.value, "error": text}
            return replace(record, facts={**record.facts, **failed})

        try:
            run(self._shelf.update(self.job_id, change))
        except Exception as e:  # noqa: BLE001 # the first error is the one to be told
            _logger.warning("job %s: its record could not be changed: %s", self.job_id, e)
        done = self._amount(self._items)
        seconds = time.monotonic() - self._began
        failed = Failed(job_id=self.job_id, error=text, done=done, seconds=seconds)
        with self._telling:
            self._running.observer(failed)
        again = "" if isinstance(self._job.source, FileSource) else ", source"
        error.add_note(f"Its units are kept: Ingest.resume(repo, {self.job_id!r}{again}) goes on.")

    def _watched(self, unit: Unit) -> Observer | None:
        """Return what follows the tasks of a unit; nothing, when nobody looks."""
        if self._running.observer is ignored:
            return None

        def observe(event: Event) -> None:
            if isinstance(event, Advanced):
                self._advance(unit, event.done)

        return observe

    def _advance(self, unit: Unit, so_far: Amount | None, finished: Amount = NOTHING) -> None:
        """Tell how far all of it is, now that a unit got further or is no longer under way."""
        with self._telling:
            if self._stopped:
                return
            self._done += finished
            if so_far is None:
                self._under_way.pop(unit.index, None)
            else:
                self._under_way[unit.index] = so_far
            done = sum(self._under_way.values(), self._done)
            self._running.observer(Advanced(job_id=self.job_id, done=done))

    def _tell(self, event: Event) -> None:
        with self._telling:
            if not self._stopped:
                self._running.observer(event)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Make a pool that is not waited for when something goes wrong."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="icechunk-ingest")
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def _running_again(record: ShelfRecord) -> ShelfRecord:
    return replace(record, facts={**record.facts, "state": JobState.RUNNING.value, "error": None})


def _may_pass(error: Exception) -> bool:
    """Say whether it makes sense to try again after an error."""
    return not isinstance(error, InvalidInputError | InternalError)


def _changes(item: ShelfItem) -> ChangeSet:
    return ChangeSet() if item.changes is None else item.changes


def _amount(item: ShelfItem) -> Amount:
    parts = [ArrayPart.from_facts(facts) for facts in item.facts["arrays"]]
    return Amount(
        units=1,
        tasks=item.facts["tasks"],
        chunks=sum(part.chunks for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        stored_bytes=sum(part.stored_bytes for part in parts),
    )
