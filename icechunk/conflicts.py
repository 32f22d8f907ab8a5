"""Conflicts of a rebase, and the solvers that decide about them."""

from icechunk.core.conflict_report import ConflictReport
from icechunk.core.conflicts import (
    BasicConflictSolver,
    Conflict,
    ConflictDetector,
    ConflictSolver,
    ConflictType,
    VersionSelection,
)

__all__ = [
    "BasicConflictSolver",
    "Conflict",
    "ConflictDetector",
    "ConflictReport",
    "ConflictSolver",
    "ConflictType",
    "VersionSelection",
]
