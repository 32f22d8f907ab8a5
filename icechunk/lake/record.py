"""What is kept of a durable session: its record on the shelf, as values.

Pure; `icechunk.lake.durable` reads and writes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Self

from icechunk.errors import ErrorKind, FormatError, InvalidInputError, SessionStateError
from icechunk.lake.names import Author
from icechunk.shelf import ShelfRecord
from icechunk.snapshots import microseconds_of, time_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SHELF_KIND: Final = "session"
DEFAULT_IS_WRITE_SESSION: Final = True
DEFAULT_EXPIRES_IN: Final = timedelta(hours=24)
LONGEST_EXPIRES_IN: Final = timedelta(days=7)


class State(StrEnum):
    """How far a session got."""

    ACTIVE = "active"
    """Takes changes."""

    COMMITTING = "committing"
    """Somebody commits it just now; it takes no changes."""

    COMMITTED = "committed"
    """Its changes are a commit."""

    ABANDONED = "abandoned"
    """Its changes were given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """What is known of a session without opening it.

    Parameters
    ----------
    session_id : str
        By which others join it.
    base : str
        Id of the snapshot its changes lie on.
    branch : str or None
        Branch it commits to; None for one that was opened on a tag or commit.
    created_at, expires_at : datetime
        UTC.
    author : Author
        Who opened it.
    message : str or None
        What it is for.
    state : State
        How far it got.
    commit : str or None
        The snapshot its changes became.
    committer : str or None
        Token of the one who commits it just now.
    lease_until : datetime or None
        Until when nobody else may take the commit over.
    fence : str or None
        Of the last one who took a commit over. Commits that were begun before are stopped by it.
    """

    session_id: str
    base: str
    branch: str | None
    created_at: datetime
    expires_at: datetime
    author: Author = field(default_factory=Author)
    message: str | None = None
    state: State = State.ACTIVE
    commit: str | None = None
    committer: str | None = None
    lease_until: datetime | None = None
    fence: str | None = None

    def is_active(self, at: datetime) -> bool:
        """Say whether the session takes changes at a time, or is being committed."""
        return self.state in {State.ACTIVE, State.COMMITTING} and at < self.expires_at

    def require_active(self, at: datetime) -> None:
        """Refuse a session that takes no changes.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; the message says what became of it.
        """
        if self.state is State.ACTIVE and at < self.expires_at:
            return
        what = {
            State.ACTIVE: f"expired at {self.expires_at:%Y-%m-%d %H:%M:%S} UTC",
            State.COMMITTING: "is being committed by another process",
            State.COMMITTED: f"was committed as {self.commit}",
            State.ABANDONED: "was abandoned",
        }[self.state]
        raise SessionStateError(
            f"session {self.session_id} {what}, so it takes no changes, and a change that was "
            "under way is not part of it. Open a new session: repo.checkout(ref) or "
            "repo.create_session(ref).",
            ErrorKind.NOT_ALLOWED,
        )

    def expiring(self, expires_in: timedelta) -> Self:
        """Return the session with another life, counted from its start."""
        return replace(self, expires_at=self.created_at + checked_life(expires_in))

    def claimed(self, committer: str, at: datetime, lease: timedelta) -> Self:
        """Return the session as it is while somebody commits it, with a new fence if taken over.

        Raises
        ------
        SessionStateError
            Kind ``not-allowed``; it ended, or another is committing it.
        """
        fence = self.fence
        if self.state is State.COMMITTING:
            if self.committer != committer:
                fence = f"{committer}-{microseconds_of(at)}"
            if self.committer != committer and self.lease_until and at < self.lease_until:
                raise SessionStateError(
                    f"session {self.session_id} is being committed by another process. Should "
                    f"that have died, commit again after {self.lease_until:%H:%M:%S} UTC.",
                    ErrorKind.NOT_ALLOWED,
                )
            if at >= self.expires_at:  # what it needs may have been collected since
                raise SessionStateError(
                    f"session {self.session_id} expired while it was being committed. If that "
                    f"went well, its commit is in the history of {self.branch}; else open a new "
                    "session: repo.checkout(ref).",
                    ErrorKind.NOT_ALLOWED,
                )
        else:
            self.require_active(at)
        return replace(
            self,
            state=State.COMMITTING,
            committer=committer,
            lease_until=at + lease,
            fence=fence,
        )

    def renewed(self, committer: str, lease_until: datetime) -> Self:
        """Return the session with a longer claim, if it is still that committer's."""
        return replace(self, lease_until=lease_until) if self._held_by(committer) else self

    def released(self, committer: str) -> Self:
        """Return the session taking changes again, unless another took the commit over."""
        if not self._held_by(committer):
            return self
        return replace(self, state=State.ACTIVE, committer=None, lease_until=None)

    def _held_by(self, committer: str) -> bool:
        return self.state is State.COMMITTING and self.committer == committer

    def to_record(self) -> ShelfRecord:
        """Return it as the shelf keeps it; nothing of an ended session is needed any more."""
        expires = self.expires_at
        if self.state in {State.COMMITTED, State.ABANDONED}:
            expires = self.created_at
        elif self.lease_until is not None:  # a commit that began in time needs it to its end
            expires = max(expires, self.lease_until)
        return ShelfRecord(
            shelf_id=self.session_id,
            kind=SHELF_KIND,
            created_at_us=microseconds_of(self.created_at),
            expires_at_us=microseconds_of(expires),
            facts={
                "base": self.base,
                "branch": self.branch,
                "expires_at_us": microseconds_of(self.expires_at),
                "author": [self.author.name, self.author.email],
                "message": self.message,
                "state": str(self.state),
                "commit": self.commit,
                "committer": self.committer,
                "lease_until_us": _optional_microseconds(self.lease_until),
                "fence": self.fence,
            },
        )

    @classmethod
    def from_record(cls, record: ShelfRecord) -> Self:
        """Return the session of a shelf's record.

        Raises
        ------
        FormatError
            Kind ``deserialization``; it is no session's.
        """
        facts: Mapping[str, Any] = record.facts
        try:
            name, email = facts["author"]
            return cls(
                session_id=record.shelf_id,
                base=str(facts["base"]),
                branch=facts["branch"],
                created_at=time_of(record.created_at_us),
                expires_at=time_of(facts["expires_at_us"]),
                author=Author(name=name, email=email),
                message=facts["message"],
                state=State(facts["state"]),
                commit=facts["commit"],
                committer=facts["committer"],
                lease_until=_optional_time(facts["lease_until_us"]),
                fence=facts.get("fence"),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise FormatError(
                f"what is kept as {record.shelf_id} is no session ({e!r}).",
                ErrorKind.DESERIALIZATION,
            ) from e


def now() -> datetime:
    """Return the present time, UTC."""
    return datetime.now(UTC)


def checked_life(expires_in: timedelta) -> timedelta:
    """Return how long a session may live.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; not more than nothing and at most 7 days.
    """
    if not isinstance(expires_in, timedelta) or not timedelta() < expires_in <= LONGEST_EXPIRES_IN:
        raise InvalidInputError(
            f"a session cannot live for {expires_in!r}: give a timedelta of at most "
            f"{LONGEST_EXPIRES_IN.days} days.",
            ErrorKind.NOT_ALLOWED,
        )
    return expires_in


def _optional_microseconds(when: datetime | None) -> int | None:
    return None if when is None else microseconds_of(when)


def _optional_time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else time_of(microseconds)
