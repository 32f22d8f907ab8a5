"""How a group of hand-ins becomes one commit, and how each of them gets its own answer.

Source: Icechunk specification, sections "Commit" and "The rebase loop".
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from icechunk._io.limits import gather_limited
from icechunk._io.loop import in_thread
from icechunk.assets.ref_stores import read_refs
from icechunk.assets.refs import pauses
from icechunk.checkout import Base, Checkout, SessionMode
from icechunk.core.commit import effective_changes
from icechunk.core.grouping import Group, plan_group
from icechunk.core.touched import Touched
from icechunk.errors import ConflictError, ErrorKind, IcechunkError, StorageError
from icechunk.ids import id_text
from icechunk.transaction import replay_changes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from icechunk.assets.manager import AssetManager
    from icechunk.assets.ref_store import RefStore
    from icechunk.conflicts import ConflictSolver
    from icechunk.core.changes import ChangeSet
    from icechunk.format.repo_info import SnapshotRecord
    from icechunk.ids import ObjectId
    from icechunk.repository import Repository
    from icechunk.session import Session

logger = logging.getLogger(__name__)

HAND_INS_KEY: Final = "icechunk_hand_ins"
"""Commit metadata key for what a commit holds: id, message and metadata of each hand-in."""

_TRIES: Final = 100
_TRIES_WITHOUT_WAIT: Final = 2
_FIRST_WAIT_SECONDS: Final = 0.01
_LONGEST_WAIT_SECONDS: Final = 2.0
_CONCURRENT_REPLAYS: Final = 16
_MESSAGES_SHOWN: Final = 20
_BASES_KEPT: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HandIn:
    """What one writer wants committed.

    Parameters
    ----------
    id : str
        Names the piece of work; committed once, however often it is handed in.
    base_id : ObjectId
        Snapshot the changes were made on.
    changes : ChangeSet
        What was changed.
    message : str
        What was done.
    metadata : mapping
        Facts to keep, JSON-like.
    """

    id: str
    base_id: ObjectId
    changes: ChangeSet
    message: str
    metadata: Mapping[str, Any]


Outcome: TypeAlias = "str | BaseException | None"
"""Id of the snapshot that has a hand-in, why there is none, or None: it comes again."""


@dataclass(slots=True)
class _Landed:
    """Which hand-ins are in the history of a branch, as far as it was looked at."""

    tip: ObjectId | None = None
    snapshots: dict[str, str] = field(default_factory=dict)

    async def look(self, refs: RefStore, tip: ObjectId) -> None:
        """Look at the commits since the last time, or at all if they do not follow on it."""
        found: dict[str, str] = {}
        follows = False
        async for record in refs.ancestors(tip):
            if record.id == self.tip:
                follows = True
                break
            for hand_in_id in hand_in_ids(record.metadata):
                found.setdefault(hand_in_id, id_text(record.id))
        self.snapshots = self.snapshots | found if follows else found
        self.tip = tip


@dataclass(slots=True)
class _Since:
    """What was committed since a base, as far as it was looked at."""

    tip: ObjectId
    touched: Touched = field(default_factory=Touched)

    async def look(self, assets: AssetManager, refs: RefStore, tip: ObjectId) -> bool:
        """Look at the commits since the last time; False when they cannot be read."""
        new: list[SnapshotRecord] = []
        async for record in refs.ancestors(tip):
            if record.id == self.tip:
                break
            new.append(record)
        else:
            return False
        ids = [snapshot_id for record in new for snapshot_id in (*record.pruned_logs, record.id)]
        for start in range(0, len(ids), _CONCURRENT_REPLAYS):
            batch = ids[start : start + _CONCURRENT_REPLAYS]
            logs = await gather_limited(_CONCURRENT_REPLAYS, map(assets.transaction_log, batch))
            for log in logs:
                self.touched.add(log)
        self.tip = tip
        return True


def hand_in_ids(metadata: Mapping[str, Any]) -> list[str]:
    """Return the ids of the hand-ins that a commit with this metadata holds."""
    entries = metadata.get(HAND_INS_KEY)
    if not isinstance(entries, list):
        return []
    return [e["id"] for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]


class GroupCommitter:
    """Commits hand-ins on one branch, those together that go together.

    Parameters
    ----------
    repo : Repository
        Where to.
    branch : str
        Branch to commit to.
    solver : ConflictSolver
        What to do about conflicts with what was committed since.

    Notes
    -----
    Concurrency: used by one task at a time. Several committers of one branch, also in other
    processes, are safe: whoever loses a race looks again at what the others committed.
    """

    def __init__(self, repo: Repository, branch: str, solver: ConflictSolver) -> None:
        self.branch = branch
        self._repo = repo
        self._solver = solver
        self._landed = _Landed()
        self._since: dict[ObjectId, _Since] = {}

    async def commit(self, hand_ins: Sequence[HandIn]) -> list[Outcome]:
        """Commit as many as go together.

        Returns
        -------
        list of Outcome
            One for each, in their order; at least one is not None.

        Raises
        ------
        IcechunkError
            The branch is gone or cannot be read or written at all: nobody's fault.
        """
        waits = pauses(_TRIES, _TRIES_WITHOUT_WAIT, _FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS)
        conflict: ConflictError | None = None
        with self._repo.storage.line(self.branch) as line:
            for pause in waits:
                if not await line.turn(lost=conflict is not None):
                    await asyncio.sleep(pause)
                session = await self._repo.writable_session_async(self.branch)
                try:
                    return await self._commit_on(session, hand_ins)
                except ConflictError as e:
                    if e.kind != ErrorKind.COMMIT_CONFLICT:
                        raise
                    conflict = e
        assert conflict is not None, "there is at least one attempt"
        raise conflict

    async def commit_one(self, hand_in: HandIn) -> str:
        """Commit one hand-in, or raise why it cannot be."""
        (outcome,) = await self.commit([hand_in])
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None, "the first of a group is never postponed"
        return outcome

    async def _commit_on(self, session: Session, hand_ins: Sequence[HandIn]) -> list[Outcome]:
        """Commit on the tip that a session is on; raises `ConflictError` when it has moved."""
        assets, tip = session.checkout.assets, session.checkout.snapshot_id
        refs = await read_refs(assets)
        await self._landed.look(refs, tip)
        outcomes: list[Outcome] = [self._landed.snapshots.get(one.id) for one in hand_ins]
        open_ones = [i for i, outcome in enumerate(outcomes) if outcome is None]
        for base_id in {hand_ins[i].base_id: None for i in open_ones}:
            await self._look_since(session, refs, base_id)
        replayed = await gather_limited(
            _CONCURRENT_REPLAYS, [self._replayed(session, refs, hand_ins[i]) for i in open_ones]
        )
        ready: dict[int, ChangeSet] = {}
        for i, result in zip(open_ones, replayed, strict=True):
            if isinstance(result, BaseException):
                outcomes[i] = result
            else:
                ready[i] = result
        if not ready:
            return outcomes
        which = list(ready)
        try:
            # In a thread: large groups take a while, and others use this loop.
            group = await in_thread(plan_group, session.checkout.base.nodes, list(ready.values()))
        except IcechunkError as e:
            outcomes[which[0]] = e
            return outcomes
        members = [which[m] for m in group.members]
        answer = await self._write(session, group, [hand_ins[i] for i in members])
        if isinstance(answer, str) or len(members) == 1:
            return [answer if i in members else outcome for i, outcome in enumerate(outcomes)]
        # One of them cannot be written. The first goes alone now, the others come again.
        alone = await self._commit_on(
            await self._repo.writable_session_async(self.branch), [hand_ins[members[0]]]
        )
        outcomes[members[0]] = alone[0]
        return outcomes

    async def _look_since(self, session: Session, refs: RefStore, base_id: ObjectId) -> None:
        """Learn what was committed since a base, if that can be told."""
        since = self._since.pop(base_id, None) or _Since(base_id)
        checkout = session.checkout
        try:
            if await since.look(checkout.assets, refs, checkout.snapshot_id):
                self._since[base_id] = since
        except IcechunkError as e:
            logger.debug("what was committed since %s is not known: %s", id_text(base_id), e)
        while len(self._since) > _BASES_KEPT:
            del self._since[next(iter(self._since))]

    async def _replayed(
        self, session: Session, refs: RefStore, hand_in: HandIn
    ) -> ChangeSet | IcechunkError:
        """Bring a hand-in's changes onto the session's base, or return why they cannot be."""
        shared = session.checkout
        assets = shared.assets
        try:
            base = await assets.snapshot(hand_in.base_id)
            changes = effective_changes(base.nodes, hand_in.changes)
            since = self._since.get(hand_in.base_id)
            if since is not None and since.touched.is_clear_of(changes):
                return changes
            checkout = Checkout(
                assets,
                shared.virtual,
                hand_in.base_id,
                SessionMode.writable,
                base=Base.of(base),
                changes=changes,
            )
            outcome = await replay_changes(
                checkout, refs, shared.snapshot_id, changes, self._solver
            )
        except IcechunkError as e:
            return e
        return outcome.changes if outcome.failure is None else outcome.failure

    async def _write(
        self, session: Session, group: Group, members: Sequence[HandIn]
    ) -> str | IcechunkError:
        """Commit a group; return its error if it may be one member's."""
        session.checkout.changes = group.changes
        metadata = {
            HAND_INS_KEY: [
                {"id": one.id, "message": one.message, "metadata": dict(one.metadata)}
                for one in members
            ]
        }
        try:
            snapshot_id = await session.commit_async(
                _message([one.message for one in members]), metadata, allow_empty=True
            )
        except ConflictError:
            raise
        except StorageError as e:
            if e.kind != ErrorKind.OBJECT_NOT_FOUND:
                raise
            return e
        except IcechunkError as e:
            return e
        logger.info(
            "snapshot %s on branch %s has %d hand-ins, %d wait for the next",
            snapshot_id,
            self.branch,
            len(members),
            len(group.postponed),
        )
        return snapshot_id


def _message(messages: Sequence[str]) -> str:
    """Return the message of a commit of several hand-ins: what was done, by each."""
    if len(messages) == 1:
        return messages[0]
    lines = [f"- {message.partition(chr(10))[0]}" for message in messages[:_MESSAGES_SHOWN]]
    more = len(messages) - _MESSAGES_SHOWN
    if more > 0:
        lines.append(f"- and {more} more")
    return "\n".join([f"{len(messages)} hand-ins", "", *lines])
