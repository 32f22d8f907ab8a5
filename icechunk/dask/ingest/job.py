"""The ingestion job as its user sees it: start, run, resume."""

from __future__ import annotations

import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from icechunk._io.loop import run
from icechunk.dask.ingest.jobs import JOB_KIND, JobState, job_record
from icechunk.dask.ingest.layout import Layout, Placing, lay_out
from icechunk.dask.ingest.running import Job, Running
from icechunk.dask.ingest.sources import FileSource, source_again, source_of
from icechunk.dask.ingest.summary import JobSummary
from icechunk.dask.ingest.units import CommitEvery
from icechunk.dask.ingest.work import Work
from icechunk.dask.store import checked_store_kwargs
from icechunk.errors import AlreadyExistsError, ErrorKind, InvalidInputError, NotFoundError
from icechunk.format.values import plain_value
from icechunk.ids import id_text, new_object_id, parse_object_id
from icechunk.progress import shown
from icechunk.session_state import checked_message
from icechunk.shelf import Shelf, ShelfItem, ShelfRecord

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.progress import ProgressOption
    from icechunk.repository import Repository

Mode = Literal["w-", "w"]
Verify = Literal["references", "objects"]
ReadBack = Literal["sample", "all"]


class Ingest:
    """A job that writes a large source in units, each committed exactly once.

    The source is cut into units: regions of one dataset, or files. Each unit is written by dask,
    and its change set is put on a shelf beside the repository. When this process, the scheduler or
    the machine dies, `resume` writes only the units that are not there yet. Commits name the units
    they hold, so none is committed twice, wherever it died.

    Parameters
    ----------
    repo : Repository
        Where to.
    branch : str
        Branch to commit to.
    source : xarray.Dataset, path, `Files`, or a sequence of datasets or paths
        What to ingest. Files are stored as they are, packed values too; `Files` has more options.
    group : str, optional
        Path of the group; the root when omitted.
    append_dim : str, optional
        Join several sources along this dimension, in the order given, and append them to what is
        there; creates what is not there yet.
    unit_dim : str, optional
        Dimension along which a single source is cut; else the first one of its largest variable.
    unit_size : int, optional
        Elements along the dimension per unit, rounded up to whole chunks. Else one unit per
        source, or about 256 MB where there is only one.
    mode : {"w-", "w"}, default: "w-"
        ``w`` replaces what is in the group, ``w-`` refuses.
    encoding : mapping, optional
        Encoding by variable name for new arrays, as in `icechunk.xarray.to_icechunk`.
    commit_every : int, str or CommitEvery, optional
        Commit as soon as so many units (``10``), bytes (``"2GB"``) or seconds (``"10min"``) are
        waiting. All in one commit at the end when omitted, so that nothing shows before.
    message : str, optional
        Commit message; made from the source when omitted.
    metadata : mapping, optional
        Commit metadata; the names of job and units are added under ``icechunk_ingest``.
    job_id : str, optional
        Name of the job: letters, digits, ``_`` and ``-``; random when omitted.
    verify : {"references", "objects"}, default: "references"
        What is looked up at the end: the references of all chunks in the committed snapshot, or
        also each chunk's object, which is one request each.
    read_back : {"sample", "all"}, optional
        Also read blocks again, a hundred drawn at random or all, and compare their checksums with
        those taken when they were written.
    units_at_once : int, optional
        Units written at the same time; 4 on a distributed cluster, else 1. The blocks of one unit
        are written in parallel in any case.
    retries : int, default: 1
        How often a unit that failed is tried again.
    progress : bool or Observer, default: False
        True shows a bar; a function of one event (see `icechunk.events`) is told what happens.
    compute_kwargs : mapping, optional
        Passed to ``dask.compute``, for example ``{"scheduler": "threads"}``.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; an argument makes no sense.

    Examples
    --------
    >>> import icechunk, numpy, xarray
    >>> from icechunk.dask import Ingest
    >>> repo = icechunk.Repository.create(icechunk.in_memory_storage())
    >>> ds = xarray.Dataset({"t": (("time", "x"), numpy.ones((60, 4)))}).chunk(time=10)
    >>> summary = Ingest(repo, "main", ds, unit_size=20).run()
    >>> summary.report.units, summary.proof.present, summary.proof.is_complete
    (3, 6, True)
    """

    def __init__(
        self,
        repo: Repository,
        branch: str,
        source: Any,
        *,
        group: str | None = None,
        append_dim: str | None = None,
        unit_dim: str | None = None,
        unit_size: int | None = None,
        mode: Mode = "w-",
        encoding: Mapping[Any, Mapping[str, Any]] | None = None,
        commit_every: CommitEvery | int | str | None = None,
        message: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        job_id: str | None = None,
        verify: Verify = "references",
        read_back: ReadBack | None = None,
        units_at_once: int | None = None,
        retries: int = 1,
        progress: ProgressOption = False,
        compute_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._repo = repo
        self._source = source_of(source)
        _check_choice("mode", mode, Mode)
        _check_choice("verify", verify, Verify)
        if read_back is not None:
            _check_choice("read_back", read_back, ReadBack)
        if append_dim is not None and (unit_dim not in {None, append_dim} or mode != "w-"):
            raise InvalidInputError(
                "append_dim goes with neither unit_dim nor mode: units are cut along it, and what "
                "is there stays.",
                ErrorKind.NOT_ALLOWED,
            )
        _check_counts(unit_size=unit_size, units_at_once=units_at_once)
        self.job_id = job_id or id_text(new_object_id()).lower()
        self._placing = Placing(
            group=group,
            append_dim=append_dim,
            unit_dim=unit_dim,
            unit_size=unit_size,
            mode=mode,
            encoding=encoding,
        )
        self._terms: dict[str, Any] = {
            "branch": branch,
            "group": group,
            "source": self._source.describe(),
            "message": checked_message(message or f"Ingest {self._source.describe()}"),
            "metadata": plain_value(dict(metadata or {})),
            "commit_every": asdict(CommitEvery.of(commit_every)),
            "verify": verify,
            "read_back": read_back,
        }
        self._running = Running(
            units_at_once=units_at_once,
            retries=retries,
            compute_kwargs=checked_store_kwargs(compute_kwargs),
        )
        self._progress = progress

    def run(self) -> JobSummary:
        """Do the whole job.

        Returns
        -------
        JobSummary
            What it came to, with the proof that it is complete.

        Raises
        ------
        AlreadyExistsError
            Kind ``not-allowed``; there is a job of that name, or the group is not empty.
        InvalidInputError
            Kind ``not-allowed``; the sources do not go together, or not with what is there.
        RebaseFailedError
            Kind ``rebase-failed``; what others committed meanwhile conflicts with the job.
        StorageError
            Writing or reading back failed, or a chunk is missing in the end.

        Notes
        -----
        Whatever it raises once units are written: they are kept, and `resume` goes on.
        """
        with shown(self._progress) as observer:
            running = replace(self._running, observer=observer)
            return Work(self._repo, self._record(), running).finish()

    def _record(self) -> Job:
        """Make the arrays and put everything on the shelf that a resume needs."""
        shelf = Shelf(self._repo.storage)
        try:
            run(shelf.record(self.job_id))
        except NotFoundError:
            pass
        else:
            again = "" if isinstance(self._source, FileSource) else ", source"
            raise AlreadyExistsError(
                f"there is a job {self.job_id} already: "
                f"Ingest.resume(repo, {self.job_id!r}{again}) goes on with it. Or choose another "
                "job_id.",
                ErrorKind.NOT_ALLOWED,
            )
        session = self._repo.writable_session(self._terms["branch"])
        base = session.snapshot_id
        layout = lay_out(session, self._source, self._placing)
        # Only the record makes it a job; so these may lie about, and have names of their own.
        token = uuid.uuid4().hex
        plan = ShelfItem(
            name=f"plan-{token}",
            facts={"source": self._source.facts(), "layout": layout.facts()},
        )
        setup = ShelfItem(
            name=f"setup-{token}", base=parse_object_id(base), changes=session.checkout.changes
        )
        for item in (plan, setup):
            run(shelf.put(self.job_id, item))
        record = ShelfRecord(
            shelf_id=self.job_id,
            kind=JOB_KIND,
            facts={
                **self._terms,
                "state": JobState.RUNNING.value,
                "base": base,
                "plan": plan.name,
                "setup": setup.name,
                "units": len(layout.units),
                "commits": [],
                "error": None,
                "proof": None,
                "report": None,
            },
        )
        run(shelf.create(record))
        return Job(record=record, layout=layout, setup=setup, source=self._source)

    @classmethod
    def resume(
        cls,
        repo: Repository,
        job_id: str,
        source: Any = None,
        *,
        units_at_once: int | None = None,
        retries: int = 1,
        progress: ProgressOption = False,
        compute_kwargs: Mapping[str, Any] | None = None,
    ) -> JobSummary:
        """Go on with a job that was stopped, whatever stopped it, and finish it.

        Parameters
        ----------
        repo : Repository
            Beside which the job is kept.
        job_id : str
            Its name.
        source : object, optional
            The datasets the job was started on, which are compared with what was recorded. Not
            needed for files, unless their open options hold what is not recorded.
        units_at_once, retries, progress, compute_kwargs
            As for the class.

        Returns
        -------
        JobSummary
            Of the whole job. A job that is finished already is only looked up.

        Raises
        ------
        NotFoundError
            Kind ``key-not-found``; there is no such job: it was removed, or died before it was
            recorded, and then nothing of it is in the repository.
        InvalidInputError
            Kind ``not-allowed``; the source is missing or is another one.
        SessionStateError
            Kind ``not-allowed``; the branch does not lead back to where the job began.
        RebaseFailedError, StorageError
            As for `run`.
        """
        _check_counts(units_at_once=units_at_once)
        shelf = Shelf(repo.storage)
        record = job_record(repo, job_id)
        if record.facts["state"] == JobState.FINISHED:
            run(shelf.discard(job_id, list(run(shelf.names(job_id)))))
            return JobSummary.from_facts(job_id, record.facts)
        plan = run(shelf.item(job_id, record.facts["plan"]))
        job = Job(
            record=record,
            layout=Layout.from_facts(plan.facts["layout"]),
            setup=run(shelf.item(job_id, record.facts["setup"])),
            source=source_again(plan.facts["source"], source, job_id),
        )
        with shown(progress) as observer:
            running = Running(
                units_at_once=units_at_once,
                retries=retries,
                observer=observer,
                compute_kwargs=checked_store_kwargs(compute_kwargs),
            )
            return Work(repo, job, running).finish()


def _check_choice(name: str, value: Any, choices: Any) -> None:
    if value not in get_args(choices):
        allowed = ", ".join(map(repr, get_args(choices)))
        raise InvalidInputError(f"{name}={value!r}: expected {allowed}.", ErrorKind.NOT_ALLOWED)


def _check_counts(**counts: int | None) -> None:
    for name, value in counts.items():
        if value is not None and value < 1:
            raise InvalidInputError(f"{name}={value}: it is at least 1.", ErrorKind.NOT_ALLOWED)
