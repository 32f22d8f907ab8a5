"""How the changes of everybody who joined a session become one commit, once.

A commit first marks the session, so that it takes no more changes, then reads the items, and names
the session in the commit's metadata. Whoever takes over from one who died looks for that first.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from icechunk.core.conflicts import ConflictDetector
from icechunk.core.history import Fence
from icechunk.core.merge import ChunkPolicy
from icechunk.errors import IcechunkError, RefNotFoundError
from icechunk.ids import id_text, parse_object_id
from icechunk.lake.durable import checkout_on
from icechunk.lake.record import State, now
from icechunk.lake.union import united_changes
from icechunk.transaction import CommitRequest, commit_changes, rebase_changes, require_unconflicted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Any

    from icechunk.checkout import Checkout
    from icechunk.lake.durable import DurableSession

COMMIT_SESSION_KEY: Final = "lake_session"
"""Commit metadata that names the session a commit was made of."""

_FENCE: Final = "lake_fence:"
"""Repository metadata, followed by a session's id: who took its commit over last."""

_LEASE: Final = timedelta(minutes=2)
_RENEWAL: Final = timedelta(seconds=30)
_REBASES: Final = 1000


async def fast_forward(durable: DurableSession) -> None:
    """Move the session to the tip of its branch.

    Raises
    ------
    RebaseFailedError
        The same paths were changed here and on the branch; names them.
    """
    branch = durable.require_branch()
    await durable.saved()
    await durable.store()
    durable.info = await durable.look()
    before = durable.info.base
    checkout = await _united_checkout(durable)
    await rebase_changes(checkout, branch, ConflictDetector())
    tip = id_text(checkout.snapshot_id)
    # Who was faster may have moved it further; back it never goes.
    await durable.change(lambda info: replace(info, base=tip) if info.base == before else info)
    await durable.refresh()


async def commit_session(
    durable: DurableSession,
    message: str,
    metadata: Mapping[str, Any],
    *,
    auto_ff: bool,
    policy: ChunkPolicy = ChunkPolicy.ERROR,
) -> str | None:
    """Make the changes of all joiners one commit; None when there are none.

    Parameters
    ----------
    durable : DurableSession
        The session, as one who joined it has it.
    message : str
        Commit message.
    metadata : mapping
        Commit metadata; the session's id is added.
    auto_ff : bool
        Whether to go on where the branch moved and nobody changed the same paths.
    policy : ChunkPolicy
        What to do with a chunk that two joiners wrote; with ``last`` that of the one who joined
        last stays.

    Raises
    ------
    SessionStateError
        Kind ``merge-failed``; two joiners wrote the same chunk: array and chunk are named. Kind
        ``not-allowed``; somebody else is committing, or the session ended. Kind
        ``not-on-branch``; it was opened on a tag or a commit.
    ConflictError
        The branch moved: without ``auto_ff`` always, else where the same paths were changed.

    Notes
    -----
    A session is committed once. Whoever dies between the commit and the note of it leaves the
    session marked; the next one to commit it looks for the session in the history first.
    """
    branch = durable.require_branch()
    await durable.saved()
    if not durable.is_stored:
        durable.require_usable()
        return None
    request = CommitRequest(
        branch=branch,
        message=message,
        metadata=metadata,
        solver=ConflictDetector() if auto_ff else None,
        max_rebases=_REBASES,
    )
    async with durable.one_commit, _claim_held(durable):
        fenced = replace(request, fence=await _fence_of(durable))
        done = await _committed_once(durable, fenced, policy)
        if done is None:
            await durable.change(lambda info: info.released(durable.joiner), guarded=False)
            return None
        await durable.change(
            lambda info: replace(info, state=State.COMMITTED, commit=done), guarded=False
        )
    await durable.discard_items()
    return done


async def _committed_once(
    durable: DurableSession, request: CommitRequest, policy: ChunkPolicy
) -> str | None:
    """Commit, unless somebody did before dying; what fails gives the session back."""
    try:
        done = await _found_in_history(durable)
        return done if done is not None else await _commit(durable, request, policy)
    except IcechunkError:
        done = await _found_in_history(durable)
        if done is None:
            await durable.change(lambda info: info.released(durable.joiner), guarded=False)
            raise
        return done


@asynccontextmanager
async def _claim_held(durable: DurableSession) -> AsyncIterator[None]:
    """Mark the session as being committed by this joiner, for as long as that takes.

    A claim that ran out is taken over, so it is renewed while its holder lives.
    """
    await durable.change(lambda info: info.claimed(durable.joiner, now(), _LEASE), guarded=False)

    async def renew() -> None:
        while True:
            await asyncio.sleep(_RENEWAL.total_seconds())
            try:
                await durable.change(
                    lambda info: info.renewed(durable.joiner, now() + _LEASE), guarded=False
                )
            except IcechunkError:
                continue  # the next time may come before the claim runs out

    renewal = asyncio.create_task(renew())
    try:
        yield
    finally:
        renewal.cancel()
        await asyncio.wait([renewal])


async def _fence_of(durable: DurableSession) -> Fence | None:
    """Return what stops this commit once another takes it over; stop those begun before this one.

    A claim that ran out while its holder was paused is taken over. Should that fail, the session
    takes changes again, and the paused commit, which lacks them, must not come after all.
    """
    if durable.repository.state.assets.spec_version == 1:
        return None  # it has no metadata that changes together with its branches
    key, value = _FENCE + durable.info.session_id, durable.info.fence
    if value is not None and value.startswith(durable.joiner):
        await durable.repository.update_metadata_async({key: value})
    return Fence(key, value)


async def _commit(
    durable: DurableSession, request: CommitRequest, policy: ChunkPolicy
) -> str | None:
    checkout = await _united_checkout(durable, policy)
    if checkout.changes.is_empty():
        return None
    default = durable.repository.state.default_metadata
    named = {**default, **request.metadata, COMMIT_SESSION_KEY: durable.info.session_id}
    return id_text(await commit_changes(checkout, replace(request, metadata=named)))


async def _united_checkout(
    durable: DurableSession, policy: ChunkPolicy = ChunkPolicy.ERROR
) -> Checkout:
    """Return the base with the changes of all joiners, which go together."""
    base = parse_object_id(durable.info.base)
    parts = await durable.parts()
    for part in parts:
        if part.base != base:  # it has not followed a fast-forward yet
            behind = await checkout_on(durable.repository, part.base, part.changes)
            await require_unconflicted(behind, base)
    nodes = (await durable.repository.state.assets.snapshot(base)).nodes
    changes = united_changes([part.changes for part in parts], nodes, policy)
    return await checkout_on(durable.repository, base, changes)


async def _found_in_history(durable: DurableSession) -> str | None:
    """Return the commit this session became, if somebody died before noting it."""
    try:
        async for snapshot in durable.repository.async_ancestry(branch=durable.require_branch()):
            if snapshot.id == durable.info.base:
                return None
            if snapshot.metadata.get(COMMIT_SESSION_KEY) == durable.info.session_id:
                return snapshot.id
    except RefNotFoundError:
        return None  # the branch was deleted, and its history with it
    return None
