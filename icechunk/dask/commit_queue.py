"""A commit queue on one worker of a cluster, for the tasks on all of them.

The queue is a dask actor: an object that lives on one worker and is called from everywhere. What
travels to it are the bytes of hand-ins, values without code, place or credentials; what comes back
is a snapshot id or an error. An actor dies with its worker. That harms nobody: a writer that does
not reach it any more commits by itself, and because every commit names the hand-ins it holds, one
that was committed without the writer hearing of it is found in the history.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Self

from icechunk._io.loop import run
from icechunk.commit_queue import CommitQueue, hand_in_of, pack_hand_in, unpack_hand_in
from icechunk.conflicts import ConflictDetector
from icechunk.errors import ErrorKind, IcechunkError, InvalidInputError
from icechunk.group_commit import GroupCommitter
from icechunk.storage.memory import MemoryStorage
from icechunk.storage.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from distributed import Client

    from icechunk.commit_queue import QueueReport
    from icechunk.conflicts import ConflictSolver
    from icechunk.group_commit import HandIn
    from icechunk.repository import Repository
    from icechunk.session import ForkSession

logger = logging.getLogger(__name__)

_ACTOR_TRIES: Final = 2
_FIRST_WAIT_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 2.0

# Actors this process has waited for in vain. Each task has a queue of its own, unpickled for it,
# and must not find out again. Who is in here by mistake is not missed: writers commit themselves.
_gone: Final[set[str]] = set()


class QueueActor:
    """What lives on the worker.

    Parameters
    ----------
    repo, branch, solver, max_group, max_waiting
        Of the `CommitQueue`.
    """

    def __init__(
        self,
        repo: Repository,
        branch: str,
        solver: ConflictSolver,
        max_group: int,
        max_waiting: int,
    ) -> None:
        self._queue = CommitQueue(
            repo, branch, rebase_with=solver, max_group=max_group, max_waiting=max_waiting
        )
        self._under_way: dict[str, asyncio.Task[str]] = {}
        self._closing: asyncio.Task[None] | None = None

    async def hand_in(self, data: bytes, wait_seconds: float) -> str | None:
        """Commit what `pack_hand_in` packed; the worker's loop goes on meanwhile.

        Returns
        -------
        str or None
            Id of the snapshot; None when there is no answer yet: hand it in again. So every reply
            comes soon, and one that does not come is a lost one.
        """
        hand_in = await asyncio.to_thread(unpack_hand_in, data)
        task = self._under_way.get(hand_in.id)
        if task is None:
            task = self._under_way[hand_in.id] = asyncio.create_task(self._commit(hand_in))
            task.add_done_callback(lambda _: self._under_way.pop(hand_in.id))
        done, _ = await asyncio.wait([task], timeout=wait_seconds)
        return task.result() if done else None

    async def _commit(self, hand_in: HandIn) -> str:
        # In a thread, for a full queue makes writers wait.
        return await asyncio.wrap_future(await asyncio.to_thread(self._queue.hand_in, hand_in))

    async def look(self) -> QueueReport:
        """Return what was done so far."""
        return self._queue.report

    async def close(self, wait_seconds: float) -> bool:
        """Take nothing more; say whether everybody has an answer by now, else ask again."""
        if self._closing is None:
            self._closing = asyncio.create_task(asyncio.to_thread(self._queue.close))
        done, _ = await asyncio.wait([self._closing], timeout=wait_seconds)
        return bool(done)


class ClusterCommitQueue:
    """Commits the forks of the tasks of a dask cluster on one branch, in groups.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    repo : Repository
        Where to; on storage that all workers reach.
    branch : str
        Branch to commit to. Others may commit to it as well.
    rebase_with : ConflictSolver, optional
        What to do about conflicts with what was committed since a fork was made;
        `ConflictDetector`, which refuses them, when omitted.
    max_group : int
        How many hand-ins one commit takes at most.
    max_waiting : int
        How many hand-ins wait for their turn at most; the queue takes no more until there is room.
    workers : sequence of str, optional
        Addresses of workers to choose from for the queue; any when omitted.
    reply_timeout_seconds : float
        How long a writer waits for any reply of the queue, be it that there is no answer yet. It
        hands in again then, and commits by itself when that is in vain.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; memory storage, which other processes do not see.

    Notes
    -----
    The queue travels to tasks, where `commit` works as here. It lives as long as this object, or
    until `close`. Each waiting task occupies a thread of its worker; the committer none.
    """

    def __init__(
        self,
        client: Client,
        repo: Repository,
        branch: str,
        *,
        rebase_with: ConflictSolver | None = None,
        max_group: int = 64,
        max_waiting: int = 256,
        workers: Sequence[str] | None = None,
        reply_timeout_seconds: float = 10.0,
    ) -> None:
        if isinstance(repo.storage, MemoryStorage):
            raise InvalidInputError(
                "memory storage belongs to one process; a cluster needs storage that all its "
                "workers reach. In one process use icechunk.commit_queue.CommitQueue.",
                ErrorKind.NOT_ALLOWED,
            )
        solver = rebase_with or ConflictDetector()
        # The future keeps the actor alive; handles in tasks do not.
        self._future = client.submit(
            QueueActor,
            repo,
            branch,
            solver,
            max_group,
            max_waiting,
            actor=True,
            pure=False,
            workers=None if workers is None else list(workers),
        )
        self._parts = (self._future.result(), repo, branch, solver, reply_timeout_seconds)

    @classmethod
    def _handle(cls, *parts: Any) -> ClusterCommitQueue:
        queue = cls.__new__(cls)
        queue._future = None  # noqa: SLF001 # a second constructor
        queue._parts = parts  # noqa: SLF001
        return queue

    def __reduce__(self) -> tuple[Any, ...]:
        return ClusterCommitQueue._handle, self._parts

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<icechunk.dask.ClusterCommitQueue of branch {self._parts[2]}>"

    @property
    def report(self) -> QueueReport:
        """What was done so far; raises what dask raises when the queue's worker is gone."""
        report: QueueReport = self._parts[0].look().result(self._parts[4])
        return report

    def commit(
        self,
        fork: ForkSession,
        message: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        hand_in_id: str | None = None,
    ) -> str:
        """Hand in a fork and wait for its commit.

        Parameters
        ----------
        fork, message, metadata
            As `CommitQueue.submit`.
        hand_in_id : str, optional
            Name of the piece of work, by which a task that dask runs again learns the snapshot of
            the first run. Random if omitted: then only this call is protected.

        Returns
        -------
        str
            Id of the snapshot that has the changes.

        Raises
        ------
        RebaseFailedError
            Kind ``rebase-failed``; names the arrays and chunks in conflict.
        SessionStateError, StorageError
            As `CommitQueue.submit`.
        """
        actor, repo, branch, solver, _ = self._parts
        hand_in = hand_in_of(fork, repo, message, metadata, hand_in_id)
        if actor.key not in _gone:
            snapshot_id = self._committed_by_actor(hand_in)
            if snapshot_id is not None:
                return snapshot_id
            logger.warning("the commit queue is gone; %s is committed without it", hand_in.id)
            _gone.add(actor.key)
        return run(GroupCommitter(repo, branch, solver).commit_one(hand_in))

    def _committed_by_actor(self, hand_in: HandIn) -> str | None:
        data = pack_hand_in(hand_in)
        backoff = Backoff(
            max_tries=_ACTOR_TRIES,
            initial_seconds=_FIRST_WAIT_SECONDS,
            max_seconds=_LONGEST_WAIT_SECONDS,
        )
        for pause in (*backoff.delays(), None):
            try:
                return self._answer(data)
            except IcechunkError:
                raise
            except Exception as error:  # noqa: BLE001 # dask has many for a peer that is gone
                logger.warning("no answer from the commit queue for %s: %r", hand_in.id, error)
            if pause is not None:
                time.sleep(pause)
        return None

    def _answer(self, data: bytes) -> str:
        actor, *_, timeout_seconds = self._parts
        snapshot_id: str | None = None
        while snapshot_id is None:
            reply = actor.hand_in(data, timeout_seconds / 2)
            snapshot_id = reply.result(timeout_seconds)
        return snapshot_id

    def close(self) -> None:
        """Take nothing more, wait until everybody has an answer, and let the actor go."""
        if self._future is not None:
            try:
                actor, *_, timeout_seconds = self._parts
                while not actor.close(timeout_seconds / 2).result(timeout_seconds):
                    pass
            except (OSError, RuntimeError, KeyError) as error:
                logger.warning("the commit queue was gone before it was closed: %r", error)
            self._future.release()
            self._future = None
