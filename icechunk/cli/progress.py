"""A progress bar for the dask computations of a command."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from icechunk.dask.metering import metering
from icechunk.progress import operation, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from icechunk.cli.console import Output
    from icechunk.events import Amount


@contextmanager
def progress(
    output: Output, client: Any, label: str, layers: Mapping[str, Amount], total: Amount
) -> Iterator[None]:
    """Show how far the computations inside the block are.

    Parameters
    ----------
    output : Output
        The bar goes to standard error; without a terminal there is one line at the end.
    client : distributed.Client or None
        Where the computations run.
    label : str
        What is being done.
    layers : mapping of str to Amount
        What all tasks of one name come to.
    total : Amount
        What it will come to.
    """
    with (
        shown(True, output.err) as observer,
        operation(observer, label, total) as running,
        metering(layers, running.advance_to, client),
    ):
        yield
        running.done = total
