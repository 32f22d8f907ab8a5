"""Changing the one mutable object: branches, tags, snapshot graph, configuration, status.

Source: Icechunk specification, section "The repo object in v2". Every change is a pure function
from the state that was read to the state to write; it is applied again to the newer state when
somebody else was faster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import chain, islice, repeat
from typing import TYPE_CHECKING, Final, TypeAlias

from icechunk._io.loop import sleep
from icechunk.assets.manager import REPO_KEY
from icechunk.errors import ConflictError, ErrorKind, ReadOnlyError
from icechunk.format.repo_info import RepoAvailability, RepoInfo, Update, UpdateKind
from icechunk.ids import id_text, new_object_id
from icechunk.storage.objects import LostRaceError, UnknownOutcomeError
from icechunk.storage.retry import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from icechunk._io.started import Started
    from icechunk.assets.manager import AssetManager
    from icechunk.storage.base import Version

Change: TypeAlias = "Callable[[RepoInfo], tuple[RepoInfo, UpdateKind]]"
"""Checks its preconditions and returns the changed state and what to write into the log."""

_IMMEDIATE_TRIES: Final = 5
# Backup names count down, so that the newest lists first (specification 8.1).
_END_OF_TIME_MS: Final = 32_503_680_000_000


@dataclass(frozen=True, slots=True)
class RepoState:
    """The repo object as it was read.

    Parameters
    ----------
    info : RepoInfo
        Decoded.
    version : Version
        What a conditional write relies on.
    data : bytes
        The file, for the backup.
    """

    info: RepoInfo
    version: Version
    data: bytes


async def read_state(assets: AssetManager) -> RepoState:
    """Return the present state; raises as `AssetManager.read_repo`."""
    return RepoState(*await assets.read_repo())


def now_us() -> int:
    """Return the wall clock in microseconds since the epoch."""
    return time.time_ns() // 1000


async def update_repo(
    assets: AssetManager,
    change: Change,
    *,
    known: RepoState | None = None,
    started: Started | None = None,
    status_change: bool = False,
) -> RepoInfo:
    """Apply a change to the repo object by compare-and-swap.

    Parameters
    ----------
    assets : AssetManager
        Of the repository.
    change : callable
        Pure; called once for each attempt, on the state of that attempt.
    known : RepoState, optional
        A state read a moment ago, to save the first read.
    started : Started, optional
        Writes what the changed state leads to; that is there before the state is.
    status_change : bool
        True for the one change a read-only repository allows.

    Returns
    -------
    RepoInfo
        The state that was written.

    Raises
    ------
    ReadOnlyError
        Kind ``read-only-repository``; the repository's status forbids writes.
    ConflictError
        Kind ``update-attempts-exhausted``; others were faster every time.
    IcechunkError
        Whatever ``change`` raises.
    """
    retries = assets.config.repo_update_retries
    backups: list[str] = []
    for pause in pauses(
        retries.max_tries,
        _IMMEDIATE_TRIES,
        retries.initial_backoff_ms / 1000,
        retries.max_backoff_ms / 1000,
    ):
        if pause:
            await sleep(pause)
        first = not backups
        state = known if first and known is not None else await read_state(assets)
        if not first and _landed(state.info, backups):
            return state.info
        written = await _attempt(
            assets, state, change, backups, started, status_change=status_change
        )
        if written is not None:
            return written
    raise ConflictError(
        None,
        None,
        f"the repo object of {assets.storage.description} was changed by others in each of "
        f"{retries.max_tries} attempts. Try again later, or raise repo_update_retries.max_tries.",
        ErrorKind.UPDATE_ATTEMPTS_EXHAUSTED,
    )


def require_online(info: RepoInfo, assets: AssetManager) -> None:
    """Refuse writes where the repository's status forbids them.

    Raises
    ------
    ReadOnlyError
        Kind ``read-only-repository``.
    """
    if info.status.availability is not RepoAvailability.ONLINE:
        reason = info.status.reason
        raise ReadOnlyError(
            f"the repository at {assets.storage.description} is read-only"
            + (f": {reason}" if reason else "")
            + ". Its status must be set to online before it can be written.",
            ErrorKind.READ_ONLY_REPOSITORY,
        )


def pauses(
    tries: int, immediate: int, initial_seconds: float, longest_seconds: float
) -> Iterator[float]:
    """Yield how long to wait before each attempt: not for the first few, then longer and longer."""
    backoff = Backoff(
        max_tries=max(1, tries - immediate + 1),
        initial_seconds=initial_seconds,
        max_seconds=longest_seconds,
    )
    return islice(chain(repeat(0.0, immediate), backoff.delays()), max(1, tries))


def _landed(info: RepoInfo, backups: list[str]) -> bool:
    """Say whether one of our attempts took place although its reply was lost.

    The name of its backup is random, and only the state that it wrote points there.
    """
    return any(update.backup_path in backups for update in info.updates)


async def _attempt(
    assets: AssetManager,
    state: RepoState,
    change: Change,
    backups: list[str],
    started: Started | None,
    *,
    status_change: bool,
) -> RepoInfo | None:
    """Write the changed state; None when the race was lost, or the outcome is not known."""
    if not status_change:
        require_online(state.info, assets)
    changed, kind = change(state.info)
    backup = backup_name()
    page = assets.config.num_updates_per_repo_info_file
    updated = with_update(changed, kind, backup, page)
    backups.append(backup)
    backing_up = assets.back_up_repo(backup, state.data)
    if started is None:
        await backing_up
    else:
        await started.start(backing_up)
        await started.finish()
    try:
        await assets.replace_repo(updated, state.version)
    except (LostRaceError, UnknownOutcomeError):
        return None
    return updated


def backup_name(key: str = REPO_KEY) -> str:
    """Return a fresh name under ``overwritten/`` for a mutable object (specification 8.1)."""
    return f"{key}.{_END_OF_TIME_MS - now_us() // 1000:014d}.{id_text(new_object_id())}"


def with_update(info: RepoInfo, kind: UpdateKind, backup: str, page: int) -> RepoInfo:
    """Return the state with one more entry in the operations log (specification 8.2).

    Parameters
    ----------
    info : RepoInfo
        Changed, with the old log.
    kind : UpdateKind
        What was done.
    backup : str
        Name under which the replaced state is kept.
    page : int
        Entries the file may hold; the oldest ones go on in the backups.
    """
    # A writer whose clock lags goes just after the last one, so history stays ordered.
    when = max(now_us(), info.updates.latest.updated_at_us + 1)
    update = Update(kind=kind, updated_at_us=when, backup_path=None)
    updates = info.updates.prepended(update, backup)
    before = info.repo_before_updates
    kept = max(1, page)
    if len(updates) > kept and (cut := updates[kept].backup_path) is not None:
        # What is cut off, and all before it, is in the file from just after it. Only entries that
        # an upgrade made up have no such file; they are at the end, and go with the one before.
        before = cut
        updates = updates.without_last(len(updates) - kept)
    return replace(info, updates=updates, repo_before_updates=before)
