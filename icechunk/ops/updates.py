"""The operations log as users see it.

Source: Icechunk specification, section "Operations log".
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from icechunk._cases import CaseUnion, closed
from icechunk._display import Displayed, Plain, Shown, rfc3339, shown_time
from icechunk.format import repo_info as stored
from icechunk.ids import id_text
from icechunk.snapshots import time_of
from icechunk.types import RepoAvailability, RepoStatus

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


class _UpdateCase:
    """Mixin of a case of `UpdateType`: shown as the call that makes it."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, object]]

    def __repr__(self) -> str:
        parts = (f"{f.name}={_shown(getattr(self, f.name))}" for f in fields(self))  # type: ignore[arg-type] # its cases are dataclasses
        return f"icechunk.ops.UpdateType.{type(self).__name__}({', '.join(parts)})"

    __str__ = __repr__


def _shown(value: object) -> str:
    if isinstance(value, RepoStatus):
        names = {RepoAvailability.online: "Online", RepoAvailability.read_only: "ReadOnly"}
        reason = value.limited_availability_reason
        return (
            f"RepoStatus(availability={names[value.availability]}, "
            f"set_at={rfc3339(value.set_at)}, limited_availability_reason="
            + ("None)" if reason is None else f'Some("{reason}"))')
        )
    return f'"{value}"' if isinstance(value, str) else str(value)


@closed
class UpdateType(CaseUnion):
    """What was done to a repository: one of the nested cases."""

    @dataclass(frozen=True, slots=True, repr=False)
    class RepoInitialized(_UpdateCase):
        """The repository was created."""

    @dataclass(frozen=True, slots=True, repr=False)
    class RepoMigrated(_UpdateCase):
        """The repository went from one version of the format to another."""

        from_version: int
        to_version: int

    @dataclass(frozen=True, slots=True, repr=False)
    class ConfigChanged(_UpdateCase):
        """The stored configuration was set."""

    @dataclass(frozen=True, slots=True, repr=False)
    class MetadataChanged(_UpdateCase):
        """The repository's metadata was set."""

    @dataclass(frozen=True, slots=True, repr=False)
    class TagCreated(_UpdateCase):
        """A tag was made."""

        name: str

    @dataclass(frozen=True, slots=True, repr=False)
    class TagDeleted(_UpdateCase):
        """A tag was deleted for ever."""

        name: str
        previous_snap_id: str

    @dataclass(frozen=True, slots=True, repr=False)
    class BranchCreated(_UpdateCase):
        """A branch was made."""

        name: str

    @dataclass(frozen=True, slots=True, repr=False)
    class BranchDeleted(_UpdateCase):
        """A branch was deleted."""

        name: str
        previous_snap_id: str

    @dataclass(frozen=True, slots=True, repr=False)
    class BranchReset(_UpdateCase):
        """A branch was set to another snapshot."""

        name: str
        previous_snap_id: str

    @dataclass(frozen=True, slots=True, repr=False)
    class NewCommit(_UpdateCase):
        """A snapshot was committed to a branch."""

        branch: str
        new_snap_id: str

    @dataclass(frozen=True, slots=True, repr=False)
    class CommitAmended(_UpdateCase):
        """The tip of a branch was replaced by an amended snapshot."""

        branch: str
        previous_snap_id: str
        new_snap_id: str

    @dataclass(frozen=True, slots=True, repr=False)
    class NewDetachedSnapshot(_UpdateCase):
        """A snapshot was made that no branch points at."""

        new_snap_id: str

    @dataclass(frozen=True, slots=True, repr=False)
    class GCRan(_UpdateCase):
        """Garbage was collected."""

    @dataclass(frozen=True, slots=True, repr=False)
    class ExpirationRan(_UpdateCase):
        """Old snapshots were released."""

    @dataclass(frozen=True, slots=True, repr=False)
    class FeatureFlagChanged(_UpdateCase):
        """An operation was allowed or forbidden; None is back to its default."""

        id: int
        new_value: bool | None

    @dataclass(frozen=True, slots=True, repr=False)
    class RepoStatusChanged(_UpdateCase):
        """The status was set."""

        status: RepoStatus


@dataclass(frozen=True, slots=True, repr=False)
class Update(Displayed):
    """One entry of the operations log.

    Parameters
    ----------
    kind : UpdateType
        What was done.
    updated_at : datetime.datetime
        When, UTC.
    backup_path : str or None
        Name below ``overwritten/`` of the file that has the repository as it was just after this.
        None for the newest entry, whose state is the present one, and for those that an upgrade
        made up.
    """

    _display_name: ClassVar[str] = "icechunk.ops.Update"

    kind: UpdateType
    updated_at: datetime
    backup_path: str | None = None

    def _display_fields(self) -> Iterable[Shown]:
        path = self.backup_path
        return [
            Shown(name="kind", value=Plain(self.kind)),
            Shown(name="updated_at", value=shown_time(self.updated_at)),
            Shown(name="backup_path", value=None if path is None else Plain(path)),
        ]

    def __repr__(self) -> str:
        return str(self)


def public_update(update: stored.Update, backup_path: str | None = None) -> Update:
    """Return an entry of a file as users see it.

    Parameters
    ----------
    update : icechunk.format.repo_info.Update
        As it is stored.
    backup_path : str, optional
        Name of the file itself, where it is a backup and the entry is its newest.
    """
    return Update(
        kind=_public_kind(update.kind),
        updated_at=time_of(update.updated_at_us),
        backup_path=update.backup_path or backup_path,
    )


def public_status(status: stored.RepoStatus) -> RepoStatus:
    """Return a stored status as users see it."""
    online = status.availability is stored.RepoAvailability.ONLINE
    return RepoStatus(
        availability=RepoAvailability.online if online else RepoAvailability.read_only,
        set_at=time_of(status.set_at_us),
        limited_availability_reason=status.reason,
    )


def _public_kind(kind: stored.UpdateKind) -> UpdateType:
    match kind:
        case stored.FeatureFlagChanged():
            made: object = UpdateType.FeatureFlagChanged(
                kind.id, kind.new_value if kind.is_set else None
            )
        case stored.RepoStatusChanged():
            made = UpdateType.RepoStatusChanged(public_status(kind.status))
        case _:
            case = getattr(UpdateType, type(kind).__name__)
            values = {f.name: getattr(kind, f.name) for f in fields(kind)}
            made = case(**{k: id_text(v) if isinstance(v, bytes) else v for k, v in values.items()})
    return made  # type: ignore[return-value] # registered as cases of the union
