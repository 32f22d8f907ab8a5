"""Where the work of a command runs: threads, a cluster of its own, or somebody's scheduler."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

import dask
from distributed import Client, LocalCluster

from icechunk.cli.exits import CommandError, ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def computing(*, workers: int | None = None, scheduler: str | None = None) -> Iterator[Any]:
    """Make a place to compute the current one for dask.

    Parameters
    ----------
    workers : int or None
        Local worker processes to start; 0 or None for threads of this process.
    scheduler : str or None
        Address of a running scheduler to use instead.

    Yields
    ------
    distributed.Client or None
        The client; None for threads.

    Raises
    ------
    CommandError
        The scheduler does not answer.
    """
    if scheduler is not None:
        with _connected(scheduler) as client:
            yield client
    elif workers:
        with _started(workers) as client:
            yield client
    else:
        with dask.config.set(scheduler="threads"):
            yield None


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    try:
        client = Client(address)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"no dask scheduler answers at {address}",
            "Start one with `dask scheduler`, or use --workers N for processes of this machine.",
            ExitCode.FAILURE,
        ) from error
    with client:
        yield client


@contextmanager
def _started(workers: int) -> Iterator[Any]:
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Workers must not outlive an interrupted command, nor fill its screen with their logs.
    with dask.config.set({"distributed.worker.daemon": True}):
        with _interrupts_held_back():
            cluster = LocalCluster(
                n_workers=workers,
                threads_per_worker=threads,
                processes=True,
                # No dashboard. Without an address it would still want port 8787, and warn about it.
                dashboard_address=":0",
                scheduler_kwargs={"dashboard": False},
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster) as client:
            yield client


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let Ctrl-C reach this process after the block, and the processes started in it never.

    A terminal sends it to all of them, and each worker would show a traceback of its own. Blocked
    signals are inherited by the threads and processes started here, and by those they start.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Otherwise the first process to be started starts it, and that unblocks the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
