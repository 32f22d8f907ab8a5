"""Committing units exactly once.

A commit's own metadata names its job and the units it holds, so commit and bookkeeping are one
atomic step: the branch moves, and with it what the history says about the units. Before each
attempt the history between the tip and the job's beginning is read, and units found there are left
out. The job's record, which is written after each commit, only says how far back to look.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from icechunk._io.loop import run
from icechunk.assets.refs import pauses
from icechunk.core.changes import ChangeSet
from icechunk.core.merge import ChunkPolicy, merge_changes
from icechunk.dask.ingest.jobs import METADATA_KEY, JobCommit, units_of
from icechunk.dask.ingest.units import parse_ranges, ranges_text
from icechunk.distributed import fork_at
from icechunk.errors import ConflictError, ErrorKind, SessionStateError
from icechunk.ids import parse_object_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.repository import Repository
    from icechunk.session import Session
    from icechunk.snapshots import SnapshotInfo

_logger = logging.getLogger(__name__)

_TRIES: Final = 1000
_TRIES_WITHOUT_WAIT: Final = 3
_FIRST_WAIT_SECONDS: Final = 0.01
_LONGEST_WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPlan:
    """What all commits of a job have in common.

    Parameters
    ----------
    job_id, branch, message : str
        Of the job.
    metadata : mapping
        The user's own.
    base : str
        Id of the snapshot the job began on.
    setup : ChangeSet
        The arrays that the job makes; part of its first commit.
    units : int
        How many units it has altogether.
    paths : frozenset of str
        Arrays that units write.
    """

    job_id: str
    branch: str
    message: str
    metadata: Mapping[str, Any]
    base: str
    setup: ChangeSet
    units: int
    paths: frozenset[str]


class Committer:
    """Commits the units of one job.

    Parameters
    ----------
    repo : Repository
        Where.
    plan : CommitPlan
        What the commits have in common.
    recorded : list of JobCommit
        What the job's record has; used where the history before them is not there any more.
    lies_on : str or None
        What the record has of `lies_on`.
    """

    def __init__(
        self,
        repo: Repository,
        plan: CommitPlan,
        recorded: list[JobCommit],
        lies_on: str | None = None,
    ) -> None:
        self._repo = repo
        self._plan = plan
        self._recorded = recorded
        self.commits: list[JobCommit] = []
        self.lies_on = plan.base
        self._recorded_lies_on = lies_on
        # Whether nothing that others committed up to the last look can conflict with a unit.
        self._is_clear = True
        # How many commits of the job there are at a snapshot, where that is known.
        self._known = {plan.base: 0} | {c.snapshot_id: n for n, c in enumerate(recorded, 1)}

    @property
    def done(self) -> set[int]:
        """Units that are committed, as of the last look."""
        return set(units_of(self.commits))

    def look(self) -> None:
        """Find out what is committed.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the history does not lead back to where the job began.
        """
        self._read_history(self._repo.lookup_branch(self._plan.branch))

    def commit(self, units: Mapping[int, ChangeSet]) -> JobCommit | None:
        """Commit those of some units that are not committed yet.

        Parameters
        ----------
        units : mapping of int to ChangeSet
            Finished units by number; none commits the arrays alone, if that is left to do.

        Returns
        -------
        JobCommit or None
            The new commit; None when nothing was left to commit.

        Raises
        ------
        RebaseFailedError
            Kind ``rebase-failed``; what others committed since the job began conflicts with it.
        SessionStateError
            Kind ``not-allowed``; the history does not lead back to where the job began.
        ConflictError
            Kind ``commit-conflict``; others were faster every time.
        """
        waits = pauses(_TRIES, _TRIES_WITHOUT_WAIT, _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)
        lost: ConflictError | None = None
        with self._repo.storage.line(self._plan.branch) as line:
            for pause in waits:
                if not run(line.turn(lost=lost is not None)):
                    time.sleep(pause)
                session = self._repo.writable_session(self._plan.branch)
                self._read_history(session.snapshot_id)
                left = {number: units[number] for number in sorted(units.keys() - self.done)}
                if not left and (self.commits or self._plan.setup.is_empty()):
                    return None
                try:
                    return self._committed(self._commit_on(session, left), left)
                except ConflictError as e:
                    if e.kind != ErrorKind.COMMIT_CONFLICT:
                        raise
                    lost = e
        assert lost is not None, "there is at least one attempt"
        raise lost

    def _committed(self, snapshot_id: str, units: Mapping[int, ChangeSet]) -> JobCommit:
        made = JobCommit(snapshot_id=snapshot_id, units=frozenset(units))
        self._append(made)
        self._known[snapshot_id] = len(self.commits)
        text = ranges_text(units)
        _logger.info("job %s: commit %s holds units %s", self._plan.job_id, snapshot_id, text)
        return made

    def _commit_on(self, session: Session, units: Mapping[int, ChangeSet]) -> str:
        plan = self._plan
        changes = ChangeSet()
        if not self.commits:
            merge_changes(changes, plan.setup.copy())
        for unit in units.values():
            merge_changes(
                changes,
                unit,
                path_of=lambda node_id: _path_in(session, plan.setup, node_id),
                policy=ChunkPolicy.ERROR,
            )
        fork = fork_at(session, parse_object_id(self.lies_on), changes=changes)
        try:
            session.merge(fork, on_chunk_conflict=ChunkPolicy.ERROR)
        except ConflictError as e:
            if e.kind != ErrorKind.COMMIT_CONFLICT:
                raise
            raise self._astray() from e  # nobody was faster: what the units lie on is gone
        finally:
            fork.mark_carried()  # the shelf has everything
        named = {"job": plan.job_id, "units": ranges_text(units), "of": plan.units}
        message = plan.message
        if len(units) < plan.units:
            message = f"{message} ({len(self.done) + len(units)} of {plan.units} units)"
        return session.commit(message, {**plan.metadata, METADATA_KEY: named}, allow_empty=True)

    def _read_history(self, tip: str) -> None:
        """Find the job's commits from a snapshot back to where the history is known."""
        new: list[SnapshotInfo] = []
        for info in self._repo.ancestry(snapshot_id=tip):
            known = self._known.get(info.id)
            if known is not None:
                self._continue_from(known)
                break
            new.append(info)
        else:
            raise self._astray()
        for info in reversed(new):
            named = info.metadata.get(METADATA_KEY)
            if isinstance(named, dict) and named.get("job") == self._plan.job_id:
                units = frozenset(parse_ranges(str(named["units"])))
                self._append(JobCommit(snapshot_id=info.id, units=units))
            else:
                self._pass(info.id)
        self._known[tip] = len(self.commits)

    def _continue_from(self, known: int) -> None:
        if not self.commits and known:
            self.commits = list(self._recorded[:known])
            self.lies_on = self._recorded_lies_on or self.commits[0].snapshot_id
            self._is_clear = self.lies_on == self.commits[-1].snapshot_id
        elif known != len(self.commits):
            raise self._astray()

    def _append(self, commit: JobCommit) -> None:
        """Take note of a commit of the job.

        No two units have a chunk in common. So what is not committed yet lies on the newest commit
        as well, as long as others did nothing that has to be compared with it.
        """
        begins = not self.commits and not self._plan.setup.is_empty()
        self.commits.append(commit)
        if begins or self._is_clear:
            self.lies_on, self._is_clear = commit.snapshot_id, True

    def _pass(self, snapshot_id: str) -> None:
        """Take note of a commit of somebody else, which may be compared with every unit to come."""
        if not self._is_clear or not (self.commits or self._plan.setup.is_empty()):
            return
        before = self._repo.readonly_session(snapshot_id=self.lies_on).checkout
        log = run(before.assets.transaction_log(parse_object_id(snapshot_id)))
        found = [before.base.nodes.get(path) for path in self._plan.paths]
        if log.moved_nodes or log.touches({node.id for node in found if node is not None}):
            self._is_clear = False
        else:
            self.lies_on = snapshot_id

    def _astray(self) -> SessionStateError:
        plan = self._plan
        return SessionStateError(
            f"branch {plan.branch} does not lead back to snapshot {plan.base}, on which job "
            f"{plan.job_id} began, with all that it committed: the branch was reset, or its "
            "snapshots expired. What is committed cannot be told any more, so nothing more is. "
            "Look at the branch, remove the job, and start a new one.",
            ErrorKind.NOT_ALLOWED,
        )


def _path_in(session: Session, setup: ChangeSet, node_id: Any) -> str | None:
    node = session.checkout.base.nodes.by_id(node_id)
    if node is None:
        node = next((new for new in setup.new_nodes.values() if new.id == node_id), None)
    return None if node is None else node.path
