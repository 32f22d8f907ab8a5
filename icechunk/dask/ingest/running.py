"""What a job is, and how it is run this time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from distributed import default_client

from icechunk.events import Observer, ignored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.dask.ingest.layout import Layout
    from icechunk.dask.ingest.sources import Source
    from icechunk.shelf import ShelfItem, ShelfRecord

_UNITS_ON_A_CLUSTER: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a job runs this time; nothing of it is recorded.

    Parameters
    ----------
    units_at_once : int or None
        Units written at the same time; None for 4 on a distributed cluster, else 1.
    retries : int
        How often a unit that failed is tried again.
    observer : Observer
        Is told what happens.
    compute_kwargs : mapping
        Passed to ``dask.compute``.
    """

    units_at_once: int | None = None
    retries: int = 1
    observer: Observer = ignored
    compute_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def threads(self) -> int:
        """Return how many units to write at the same time."""
        if self.units_at_once is not None:
            return self.units_at_once
        if "scheduler" in self.compute_kwargs:
            return 1
        try:
            default_client()
        except ValueError:
            return 1
        return _UNITS_ON_A_CLUSTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A recorded job, and what it reads.

    Parameters
    ----------
    record : ShelfRecord
        As it was when it was read.
    layout : Layout
        Where everything goes.
    setup : ShelfItem
        The arrays that it makes.
    source : Source
        What it reads.
    """

    record: ShelfRecord
    layout: Layout
    setup: ShelfItem
    source: Source
