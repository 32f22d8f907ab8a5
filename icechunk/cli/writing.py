"""What the jobs share: writing with a progress bar, committing, and the truth after Ctrl-C."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from icechunk._units import bytes_text, count_text
from icechunk.cli.progress import progress
from icechunk.conflicts import ConflictDetector
from icechunk.errors import IcechunkError
from icechunk.events import NOTHING, Amount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icechunk.cli.console import Output
    from icechunk.dask import WritePlan
    from icechunk.repository import Repository
    from icechunk.session import Session


@contextmanager
def showing(output: Output, client: Any, plan: WritePlan, indent: str = "") -> Iterator[None]:
    """Show how far the write inside the block is.

    Parameters
    ----------
    output : Output
        Gets the progress bar.
    client : distributed.Client or None
        Where the tasks run.
    plan : WritePlan
        Says what each task is worth.
    indent : str
        Put before the bar.
    """
    layers = {
        f"icechunk-write-{row.name}": Amount(
            tasks=row.tasks, chunks=row.zarr_chunks or 0, size_bytes=row.size_bytes
        )
        for row in plan.variables
        if row.tasks
    }
    with progress(output, client, f"{indent}writing", layers, sum(layers.values(), NOTHING)):
        yield


def plan_line(plan: WritePlan) -> str:
    """Return a plan in one line."""
    return (
        f"{count_text(len(plan.variables), 'variable')}, {bytes_text(plan.size_bytes)}, "
        f"{count_text(plan.zarr_chunks, 'chunk')}, {count_text(plan.write_tasks, 'task')}"
    )


def commit(session: Session, message: str, metadata: Mapping[str, Any] | None = None) -> str:
    """Commit; when others committed meanwhile and touched other chunks, on top of them."""
    return session.commit(message, dict(metadata or {}), rebase_with=ConflictDetector())


class Watch:
    """Knows whether a branch moved since a command began to write to it.

    Parameters
    ----------
    place : str
        The repository's name for messages.
    branch : str
        Branch that commits go to.
    """

    def __init__(self, place: str, branch: str) -> None:
        self._place = place
        self._branch = branch
        self._repository: Repository | None = None
        self._before = ""

    def begin(self, repository: Repository) -> None:
        """Remember where the branch is."""
        self._before = repository.lookup_branch(self._branch)
        self._repository = repository

    def state(self) -> str:
        """Return what was committed, in a sentence that is true whatever happened."""
        if self._repository is None:
            return "Nothing was committed."
        try:
            tip = self._repository.lookup_branch(self._branch)
        except IcechunkError as error:
            return f"Whether {self._place} got a commit could not be checked: {error}"
        if tip == self._before:
            return f"Nothing was committed to {self._place}; branch {self._branch} is at {tip}."
        return (
            f"Branch {self._branch} of {self._place} is at {tip}; nothing after it was committed."
        )


@contextmanager
def telling_the_truth(place: str, branch: str) -> Iterator[Watch]:
    """Let an interrupt say what state the branch is in.

    Raises
    ------
    KeyboardInterrupt
        With that as its message.
    """
    watch = Watch(place, branch)
    try:
        yield watch
    except KeyboardInterrupt:
        raise KeyboardInterrupt(watch.state()) from None
