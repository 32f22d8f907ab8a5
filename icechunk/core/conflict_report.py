"""Conflicts of a rebase as a table that people can read, and as data.

Source: Icechunk specification, section "Conflicts and rebase". What a solver would do is asked
of the solver itself, so that the report cannot promise what it does not keep.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from icechunk._tables import TextTable
from icechunk._units import time_text
from icechunk.core.conflicts import BasicConflictSolver, Conflict, ConflictType, VersionSelection
from icechunk.core.spans import Span, grid_spans, spans_text
from icechunk.errors import RebaseFailedError
from icechunk.ids import id_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk.format.repo_info import SnapshotRecord

_ROWS_SHOWN: Final = 20
_RANGES_SHOWN: Final = 6
_MESSAGE_SHOWN: Final = 60
_COLUMNS: Final = ("array or group", "chunks", "count", "ours", "theirs", "UseOurs", "UseTheirs")

_BOTH_SIDES: Final = {
    ConflictType.NewNodeConflictsWithExistingNode: ("created it", "created it"),
    ConflictType.NewNodeInInvalidGroup: ("created a node below it", "made it an array"),
    ConflictType.ZarrMetadataDoubleUpdate: ("changed its metadata", "changed its metadata"),
    ConflictType.ZarrMetadataUpdateOfDeletedArray: ("changed its metadata", "deleted it"),
    ConflictType.ZarrMetadataUpdateOfDeletedGroup: ("changed its metadata", "deleted it"),
    ConflictType.ChunkDoubleUpdate: ("wrote them", "wrote them"),
    ConflictType.ChunksUpdatedInDeletedArray: ("wrote chunks", "deleted it"),
    ConflictType.ChunksUpdatedInUpdatedArray: ("wrote chunks", "changed its metadata"),
    ConflictType.DeleteOfUpdatedArray: ("deleted it", "changed it"),
    ConflictType.DeleteOfUpdatedGroup: ("deleted it", "changed it"),
    ConflictType.MoveOperationCannotBeRebased: ("changed it", "moved, or is in the way of a move"),
}
_USE_OURS: Final = BasicConflictSolver(on_chunk_conflict=VersionSelection.UseOurs)
_USE_THEIRS: Final = BasicConflictSolver(on_chunk_conflict=VersionSelection.UseTheirs)
_CAREFUL: Final = (
    (
        ConflictType.DeleteOfUpdatedArray,
        "fail_on_delete_of_updated_array=True",
        BasicConflictSolver(fail_on_delete_of_updated_array=True),
    ),
    (
        ConflictType.DeleteOfUpdatedGroup,
        "fail_on_delete_of_updated_group=True",
        BasicConflictSolver(fail_on_delete_of_updated_group=True),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConflictReport:
    """What a rebase failed on: the other commit, and each conflict with what solvers would do.

    Parameters
    ----------
    snapshot_id : str
        Their commit.
    message : str
        Its message.
    written_at : datetime
        When it was made, in UTC.
    conflicts : tuple of Conflict
        All conflicts with it.

    Notes
    -----
    ``str`` and a notebook show a table, with chunks as ranges; long lists are cut there and whole
    in ``to_dict``.
    """

    snapshot_id: str
    message: str
    written_at: datetime
    conflicts: tuple[Conflict, ...]

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data.

        Returns
        -------
        dict
            ``theirs`` with ``snapshot_id``, ``message`` and ``written_at`` (ISO 8601);
            ``conflicts``, each with ``type``, ``path``, ``chunk_ranges`` (half-open
            ``[start, stop]`` along each axis; None where chunks are not the matter),
            ``chunk_count``, ``ours``, ``theirs``, and ``solvers`` (what each option would do);
            ``resolved_by``, the options that resolve everything.
        """
        return {
            "theirs": {
                "snapshot_id": self.snapshot_id,
                "message": self.message,
                "written_at": self.written_at.isoformat(),
            },
            "conflicts": [_conflict_data(conflict) for conflict in self.conflicts],
            "resolved_by": self.resolved_by(),
        }

    def resolved_by(self) -> list[str]:
        """Return the choices of `BasicConflictSolver` that resolve every conflict here."""
        return [
            f"BasicConflictSolver(on_chunk_conflict={solver.on_chunk_conflict})"
            for solver in (_USE_OURS, _USE_THEIRS)
            if all(map(solver.resolves, self.conflicts))
        ]

    def _table(self) -> TextTable:
        return TextTable(
            title=(
                f"rebase failed on snapshot {self.snapshot_id} "
                f"({_first_line(self.message)}, {time_text(self.written_at)}), "
                "which changed the same as this session:"
            ),
            columns=_COLUMNS,
            rows=[_cells(conflict) for conflict in self.conflicts[:_ROWS_SHOWN]],
            left=len(_COLUMNS),
            notes=list(self._notes()),
        )

    def _notes(self) -> Iterable[str]:
        if len(self.conflicts) > _ROWS_SHOWN:
            yield f"and {len(self.conflicts) - _ROWS_SHOWN:,} more; all are in error.conflicts."
        yield "ConflictDetector resolves nothing; UseOurs and UseTheirs are BasicConflictSolver's."
        kinds = {conflict.conflict_type for conflict in self.conflicts}
        yield from (
            f"With {option} the deletion fails, too." for k, option, _ in _CAREFUL if k in kinds
        )
        if ConflictType.ZarrMetadataDoubleUpdate in kinds:
            yield (
                "Metadata that differs in nothing but attributes is resolved by "
                "BasicConflictSolver(on_user_attributes_conflict=...)."
            )
        answers = self.resolved_by()
        if answers:
            yield f"To go on: session.rebase({answers[0]}), and commit."
        else:
            yield (
                "Otherwise no solver resolves all of it, and none resolves a part. Open a new "
                "session on the branch and make the changes again."
            )


def rebase_failure(theirs: SnapshotRecord, conflicts: Sequence[Conflict]) -> RebaseFailedError:
    """Return the error of a rebase that met conflicts with one commit; it carries the report."""
    report = ConflictReport(
        snapshot_id=id_text(theirs.id),
        message=theirs.message,
        written_at=datetime.fromtimestamp(theirs.flushed_at_us / 1e6, UTC),
        conflicts=tuple(conflicts),
    )
    error = RebaseFailedError(report.snapshot_id, conflicts, str(report))
    error.report = report
    return error


def _answer(conflict: Conflict, solver: BasicConflictSolver) -> str:
    if not solver.resolves(conflict):
        return "fails"
    if conflict.conflict_type is not ConflictType.ChunkDoubleUpdate:
        return "stays deleted"
    return "ours are dropped" if solver.drops_our_chunks else "ours replace theirs"


def _cells(conflict: Conflict) -> tuple[str, ...]:
    chunks = conflict.conflicted_chunks
    ours, theirs = _BOTH_SIDES[conflict.conflict_type]
    return (
        conflict.path or "(whole repository)",
        "" if chunks is None else spans_text(chunks, _RANGES_SHOWN),
        "" if chunks is None else f"{len(chunks):,}",
        ours,
        theirs,
        _answer(conflict, _USE_OURS),
        _answer(conflict, _USE_THEIRS),
    )


def _conflict_data(conflict: Conflict) -> dict[str, Any]:
    chunks = conflict.conflicted_chunks
    ours, theirs = _BOTH_SIDES[conflict.conflict_type]
    spans: list[Span] | None = None if chunks is None else grid_spans(chunks)
    solvers = {
        "ConflictDetector": "fails",
        "on_chunk_conflict=UseOurs": _answer(conflict, _USE_OURS),
        "on_chunk_conflict=UseTheirs": _answer(conflict, _USE_THEIRS),
    }
    for kind, option, solver in _CAREFUL:
        if conflict.conflict_type is kind:
            solvers[option] = _answer(conflict, solver)
    return {
        "type": conflict.conflict_type.name,
        "path": conflict.path,
        "chunk_ranges": spans,
        "chunk_count": None if chunks is None else len(chunks),
        "ours": ours,
        "theirs": theirs,
        "solvers": solvers,
    }


def _first_line(message: str) -> str:
    line = message.partition("\n")[0]
    short = line if len(line) <= _MESSAGE_SHOWN else line[: _MESSAGE_SHOWN - 3] + "..."
    return repr(short)  # so that control characters in a message do not steer a terminal
