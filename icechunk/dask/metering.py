"""Hearing how many tasks of a dask computation are done, under every scheduler."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dask.base import get_scheduler
from dask.callbacks import Callback

from icechunk.dask.meter import Meter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from icechunk.events import Amount


class _LocalMeter(Callback):  # type: ignore[misc] # dask has no types
    """The meter for dask's schedulers of one process."""

    def __init__(self, meter: Meter, advance: Callable[[Amount], object]) -> None:
        super().__init__()
        self._meter = meter
        self._advance = advance

    def _posttask(self, key: Any, *_args: Any) -> None:
        if self._meter.count(key):
            self._advance(self._meter.done)


def client_in_use(scheduler: Any = None) -> Any:
    """Return the `distributed.Client` that would compute, None for dask's own schedulers.

    Parameters
    ----------
    scheduler : object
        The ``scheduler`` parameter of ``dask.compute``, if one is given.
    """
    if hasattr(scheduler, "register_plugin"):
        return scheduler
    owner = getattr(get_scheduler(scheduler=scheduler), "__self__", None)
    return owner if hasattr(owner, "register_plugin") else None


@contextmanager
def metering(
    layers: Mapping[str, Amount], advance: Callable[[Amount], object], client: Any = None
) -> Iterator[None]:
    """Tell how far the computations inside the block are.

    Parameters
    ----------
    layers : mapping of str to Amount
        What all tasks of one name come to.
    advance : callable
        Gets what is done by now, after each task, from whatever thread.
    client : distributed.Client or None
        Where they are computed; None for dask's own schedulers.
    """
    if client is None:
        with _LocalMeter(Meter(layers=layers), advance):
            yield
    elif getattr(client, "asynchronous", False):
        yield  # whoever computes this way awaits the result, after the block
    else:
        # Deferred: who has a client has loaded distributed already.
        from icechunk.dask.cluster_meter import metering_cluster  # noqa: PLC0415

        with metering_cluster(client, layers, advance):
            yield
