"""Many writers, one committer: hand-ins, and how a group of them becomes one commit.

Source: Icechunk specification, sections "Commit", "The rebase loop" and "Fork and merge". Writers
hand in forks. The committer brings each onto the tip of the branch on its own, so that a conflict
is one writer's, merges those that go together, and commits them with one conditional write. The
commit's metadata names the hand-ins, which is how one that is handed in again, after a lost reply
or a dead committer, is found in the history and not committed twice.
"""

from __future__ import annotations

import threading
import uuid
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Self

from icechunk._io.fork import reset_in_child
from icechunk._io.loop import run
from icechunk.conflicts import ConflictDetector
from icechunk.core.wire import decode_document, encode_document, pack_changes, unpack_changes
from icechunk.errors import ErrorKind, FormatError, InvalidInputError, SessionStateError
from icechunk.format.values import plain_value
from icechunk.group_commit import GroupCommitter, HandIn
from icechunk.ids import ObjectId
from icechunk.session import ForkSession
from icechunk.session_state import checked_message

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from icechunk.conflicts import ConflictSolver
    from icechunk.core.changes import ChangeSet
    from icechunk.group_commit import Outcome
    from icechunk.repository import Repository

__all__ = ["CommitQueue", "QueueReport"]

_LARGEST_GROUP: Final = 64
_MOST_WAITING: Final = 256
_MOST_CHUNKS_WAITING: Final = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueReport:
    """What a queue did so far.

    Parameters
    ----------
    committed : int
        Hand-ins that are in a commit; of hand-ins made again, each time.
    refused : int
        Hand-ins that failed, mostly because of conflicts.
    groups : int
        Rounds of the committer, each with at most one commit.
    largest_group : int
        Hand-ins in the largest of them.
    waiting : int
        Hand-ins without an answer at this moment.
    """

    committed: int = 0
    refused: int = 0
    groups: int = 0
    largest_group: int = 0
    waiting: int = 0


@dataclass(slots=True, eq=False)
class _Waiting:
    """A hand-in and who waits for its answer."""

    hand_in: HandIn
    chunks: int
    answer: Future[str] = field(default_factory=Future)

    def __post_init__(self) -> None:
        # What was handed in cannot be taken back: the future cannot be cancelled.
        self.answer.set_running_or_notify_cancel()


class CommitQueue:
    """Commits the forks of many writers on one branch, in groups.

    While one commit is under way further hand-ins gather, and go into the next commit together. So
    the more writers there are, the fewer commits each of them costs, and none races another.

    Parameters
    ----------
    repo : Repository
        Where to.
    branch : str
        Branch to commit to. Others may commit to it as well.
    rebase_with : ConflictSolver, optional
        What to do about conflicts with what was committed since a fork was made;
        `ConflictDetector`, which refuses them, when omitted.
    max_group : int
        How many hand-ins one commit takes at most.
    max_waiting : int
        How many hand-ins wait at most. `submit` blocks while there are so many, or while they have
        four million chunks together.

    Notes
    -----
    Concurrency: any number of threads may hand in. The committer is a thread that runs while there
    is something to commit. The queue stays in its process: for the workers of a cluster there is
    `icechunk.dask.ClusterCommitQueue`.

    Examples
    --------
    >>> import icechunk, zarr
    >>> from icechunk.commit_queue import CommitQueue
    >>> repo = icechunk.Repository.create(icechunk.in_memory_storage())
    >>> with repo.transaction("main", message="an array to fill") as store:
    ...     _ = zarr.create_array(store, name="a", shape=(4,), chunks=(1,), dtype="i8")
    >>> with CommitQueue(repo, "main") as queue:
    ...     answers = []
    ...     for i in range(4):
    ...         fork = repo.writable_session("main").fork()
    ...         zarr.open_array(fork.store, path="a")[i] = i
    ...         answers.append(queue.submit(fork, f"step {i}"))
    >>> answers[-1].result() == repo.lookup_branch("main")
    True
    """

    def __init__(
        self,
        repo: Repository,
        branch: str,
        *,
        rebase_with: ConflictSolver | None = None,
        max_group: int = _LARGEST_GROUP,
        max_waiting: int = _MOST_WAITING,
    ) -> None:
        if min(max_group, max_waiting) < 1:
            raise InvalidInputError(
                f"max_group is {max_group} and max_waiting {max_waiting}; both must be at least 1.",
                ErrorKind.NOT_ALLOWED,
            )
        self._repo = repo
        self._committer = GroupCommitter(repo, branch, rebase_with or ConflictDetector())
        self._max_group, self._max_waiting = max_group, max_waiting
        self._closed = False
        self._report = QueueReport()
        self.after_fork()
        reset_in_child(self)

    def after_fork(self) -> None:
        """Wait for nobody: what was handed in before the fork is committed by the parent."""
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._by_id: dict[str, _Waiting] = {}
        self._working = False

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
        return f"<icechunk.commit_queue.CommitQueue of branch {self._committer.branch}>"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "a CommitQueue stays in its process; on a dask cluster use "
            "icechunk.dask.ClusterCommitQueue, which travels to the tasks."
        )

    @property
    def report(self) -> QueueReport:
        """What was done so far."""
        with self._changed:
            return replace(self._report, waiting=len(self._by_id))

    def submit(
        self,
        fork: ForkSession,
        message: str,
        metadata: Mapping[str, Any] | None = None,
        *,
        hand_in_id: str | None = None,
    ) -> Future[str]:
        """Hand in a fork; blocks only while too much is waiting.

        Parameters
        ----------
        fork : ForkSession
            Made by ``session.fork()`` of a session that had no changes yet, then written to. Its
            changes are taken as they are now.
        message : str
            What was done. The message of the commit, if it is alone in it; else a line of it.
        metadata : mapping, optional
            JSON-like facts, kept in the commit's metadata beside the hand-in's id.
        hand_in_id : str, optional
            Name of the piece of work. What is handed in again under the same name is not committed
            again, also not by another queue: it gets the snapshot that has it. Random if omitted.

        Returns
        -------
        Future of str
            Id of the snapshot that has the changes. Its exception is this writer's own: a
            `RebaseFailedError` that names what conflicts, or a `StorageError`.

        Raises
        ------
        SessionStateError
            Kind ``merge-not-allowed``; not a fork, a fork of a session with changes, or a fork of
            another repository. Kind ``no-changes-to-commit``. Kind ``not-allowed``; the queue was
            closed.
        TypeError, InvalidInputError
            Message or metadata cannot be stored.
        """
        return self.hand_in(hand_in_of(fork, self._repo, message, metadata, hand_in_id))

    def hand_in(self, hand_in: HandIn) -> Future[str]:
        """Hand in what `hand_in_of` or `unpack_hand_in` made; as `submit`."""
        entry = _Waiting(hand_in, hand_in.changes.chunk_count())
        with self._changed:
            known = self._by_id.get(hand_in.id)
            if known is not None:
                return known.answer
            self._changed.wait_for(lambda: self._closed or self._has_room(entry))
            if self._closed:
                raise SessionStateError(
                    "the commit queue was closed; nothing was handed in.", ErrorKind.NOT_ALLOWED
                )
            # Somebody may have handed in the same while this one waited.
            entry = self._by_id.setdefault(hand_in.id, entry)
            if entry.hand_in is hand_in:
                self._queue.append(entry)
                self._start()
        return entry.answer

    def close(self) -> None:
        """Take nothing more, and wait until everybody has an answer."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._working)

    def _has_room(self, entry: _Waiting) -> bool:
        chunks = entry.chunks + sum(waiting.chunks for waiting in self._queue)
        many = len(self._queue) >= self._max_waiting or chunks > _MOST_CHUNKS_WAITING
        return not (self._queue and many)

    def _start(self) -> None:
        if not self._working:
            self._working = True
            # No daemon: what was handed in is committed before the interpreter exits.
            threading.Thread(target=self._work, name="icechunk-commit-queue").start()

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                outcomes = run(self._committer.commit([entry.hand_in for entry in batch]))
            except BaseException as error:  # noqa: BLE001 # whoever waits must hear of it
                outcomes = [error] * len(batch)
            self._answer(batch, outcomes)

    def _next_batch(self) -> list[_Waiting]:
        with self._changed:
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._max_group))]
            self._working = bool(batch)
            self._changed.notify_all()
            return batch

    def _answer(self, batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
        postponed = [e for e, outcome in zip(batch, outcomes, strict=True) if outcome is None]
        answered = [(e, o) for e, o in zip(batch, outcomes, strict=True) if o is not None]
        committed = sum(isinstance(outcome, str) for _, outcome in answered)
        with self._changed:
            self._queue.extendleft(reversed(postponed))
            for entry, _ in answered:
                del self._by_id[entry.hand_in.id]
            before = self._report
            self._report = QueueReport(
                committed=before.committed + committed,
                refused=before.refused + len(answered) - committed,
                groups=before.groups + 1,
                largest_group=max(before.largest_group, committed),
            )
        for entry, outcome in answered:
            if isinstance(outcome, str):
                entry.answer.set_result(outcome)
            else:
                entry.answer.set_exception(outcome)


def hand_in_of(
    fork: ForkSession,
    repo: Repository,
    message: str,
    metadata: Mapping[str, Any] | None = None,
    hand_in_id: str | None = None,
) -> HandIn:
    """Return a fork as a hand-in; parameters and errors as `CommitQueue.submit`."""
    if not isinstance(fork, ForkSession):
        raise SessionStateError(
            f"a {type(fork).__name__} cannot be handed in: fork the session first, with "
            "session.fork(), and write to the fork.",
            ErrorKind.MERGE_NOT_ALLOWED,
        )
    checkout, state = fork.checkout, fork._state  # noqa: SLF001 # hand-ins are made of sessions
    if checkout.assets.storage != repo.storage:
        raise SessionStateError(
            f"the fork is of the repository at {checkout.assets.storage.description}, the queue "
            f"commits to the one at {repo.storage.description}.",
            ErrorKind.MERGE_NOT_ALLOWED,
        )
    if not state.inherited.is_empty():
        raise SessionStateError(
            "the fork was made from a session with uncommitted changes, which would be missing. "
            "Commit them first, then fork, then write to the fork.",
            ErrorKind.MERGE_NOT_ALLOWED,
        )
    with checkout.lock:
        changes = checkout.changes.copy()
    if changes.is_empty():
        raise SessionStateError(
            "nothing to hand in: the fork has no changes.", ErrorKind.NO_CHANGES_TO_COMMIT
        )
    hand_in = _checked(
        uuid.uuid4().hex if hand_in_id is None else hand_in_id,
        checkout.snapshot_id,
        changes,
        message,
        dict(metadata or {}),
    )
    fork.mark_carried()
    return hand_in


def _checked(
    hand_in_id: str, base_id: ObjectId, changes: ChangeSet, message: str, metadata: Any
) -> HandIn:
    if not isinstance(hand_in_id, str) or not hand_in_id:
        raise InvalidInputError(
            f"hand_in_id is {hand_in_id!r}; expected text that names the piece of work.",
            ErrorKind.NOT_ALLOWED,
        )
    return HandIn(
        id=hand_in_id,
        base_id=base_id,
        changes=changes,
        message=checked_message(message),
        metadata=plain_value(metadata),
    )


def pack_hand_in(hand_in: HandIn) -> bytes:
    """Return a hand-in as bytes that hold values only, no place and no credentials."""
    return encode_document(
        {
            "id": hand_in.id,
            "base": hand_in.base_id,
            "changes": pack_changes(hand_in.changes),
            "message": hand_in.message,
            "metadata": hand_in.metadata,
        }
    )


def unpack_hand_in(data: bytes) -> HandIn:
    """Return the hand-in of `pack_hand_in`.

    Raises
    ------
    FormatError
        Kind ``deserialization``; not such bytes, or of another version of this package.
    """
    document = decode_document(data)
    try:
        return _checked(
            document["id"],
            ObjectId(document["base"]),
            unpack_changes(document["changes"]),
            document["message"],
            document["metadata"],
        )
    except (KeyError, TypeError, ValueError) as e:
        raise FormatError(f"damaged bytes of a hand-in ({e!r}).", ErrorKind.DESERIALIZATION) from e
