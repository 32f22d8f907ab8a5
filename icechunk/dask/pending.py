"""A write that has not run yet, and how its change set comes home.

The merge into the user's session can only happen in the process that has the session, after the
last task. Since dask 2025.4 nothing of a collection runs there: ``__dask_postcompute__`` became
a task. What does arrive there, under every scheduler and however the computation was started, is
the value of the last task. So that value carries the change set, and is merged where it arrives: by
the last task itself if that runs in the session's process, else when the value is unpickled there.
"""

from __future__ import annotations

import os
import threading
import uuid
import warnings
import weakref
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import dask
from dask.delayed import Delayed

from icechunk.core.merge import ChunkPolicy
from icechunk.dask import _compat
from icechunk.dask.metering import client_in_use, metering
from icechunk.dask.reporting import change_amounts
from icechunk.dask.tasks import WriteResult, merge_results
from icechunk.errors import IcechunkError, UnmergedChangesWarning
from icechunk.events import NOTHING, Amount
from icechunk.progress import SHORT_ID, operation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dask.highlevelgraph import HighLevelGraph

    from icechunk.progress import ProgressOption
    from icechunk.session import ForkSession, Session


class Landing:
    """Where the change set of one pending write is merged, and whether it was.

    Parameters
    ----------
    session : Session
        Receives the changes; not kept alive.
    origin : ForkSession
        The fork of it that the tasks work on.
    token : str
        Name of the write, the same in all processes.
    policy : ChunkPolicy
        What to do with a chunk that the session got otherwise since the fork was made.
    """

    __slots__ = (
        "__weakref__",
        "_lock",
        "_origin",
        "_policy",
        "_process_id",
        "_seen",
        "_session",
        "error",
        "token",
    )

    def __init__(
        self,
        session: Session,
        origin: ForkSession,
        token: str,
        policy: ChunkPolicy = ChunkPolicy.ERROR,
    ) -> None:
        self.token = token
        self.error: IcechunkError | None = None
        self._session = weakref.ref(session)
        self._origin = origin
        self._policy = policy
        self._lock = threading.Lock()
        self._process_id = os.getpid()
        self._seen: set[str] = set()

    def land(self, receipt: WriteReceipt) -> None:
        """Merge a receipt once, however often it arrives; a failure is kept in ``error``.

        It never raises: it may run while distributed unpickles a message, and an error there
        would be taken for a broken connection.
        """
        session = self._session()
        if session is None or os.getpid() != self._process_id:
            return
        with self._lock:
            if receipt.write_id in self._seen:
                return
            # Computed again, the same write replaces what it wrote the first time.
            policy = ChunkPolicy.LAST if self._seen else self._policy
            self._seen.add(receipt.write_id)
            try:
                receipt.result.changes.merge_into(session, self._origin, policy)
                self.error = None
            except IcechunkError as e:
                self.error = e
                warnings.warn(
                    f"the chunks were written, but could not be merged into the session: {e}",
                    UnmergedChangesWarning,
                    stacklevel=2,
                )


class _Landings:
    """The landings of this process, by token: unpickling has no other way to a session.

    A landing is kept until the first receipt arrived or the session is gone, for the pending write
    itself may be dropped before: ``client.compute(pending)`` returns a future and forgets it.
    After that it lives as long as the pending write, which can be computed again.
    """

    def __init__(self) -> None:
        self._known: WeakValueDictionary[str, Landing] = WeakValueDictionary()
        self._expected: dict[str, Landing] = {}

    def expect(self, landing: Landing, session: Session) -> None:
        """Make a landing findable."""
        self._known[landing.token] = self._expected[landing.token] = landing
        weakref.finalize(session, self._expected.pop, landing.token, None).atexit = False

    def deliver(self, receipt: WriteReceipt) -> None:
        """Merge a receipt if its session is in this process."""
        landing = self._known.get(receipt.token)
        if landing is not None:
            landing.land(receipt)
            self._expected.pop(receipt.token, None)


_landings: Final = _Landings()


class WriteReceipt:
    """What a computed write returns: how much was written, and the change set.

    There is nothing to do with it: where the session is, the change set has been merged already.

    Parameters
    ----------
    token : str
        Name of the write.
    write_id : str
        Tells two runs of the same write apart.
    result : WriteResult
        What was done.
    """

    __slots__ = ("result", "token", "write_id")

    def __init__(self, token: str, write_id: str, result: WriteResult) -> None:
        self.token = token
        self.write_id = write_id
        self.result = result

    @property
    def blocks(self) -> int:
        """How many dask blocks were written."""
        return self.result.blocks

    @property
    def chunks(self) -> int:
        """How many zarr chunks were written."""
        return self.result.changes.chunk_count()

    @property
    def size_bytes(self) -> int:
        """Uncompressed bytes of the blocks."""
        return self.result.size_bytes

    def __reduce__(self) -> tuple[Any, ...]:
        return (_arrive, (self.token, self.write_id, self.result))

    def __repr__(self) -> str:
        return (
            f"<icechunk.dask.WriteReceipt: {self.blocks} blocks, {self.chunks} chunks, "
            f"{self.size_bytes} bytes>"
        )


def _arrive(token: str, write_id: str, result: WriteResult) -> WriteReceipt:
    receipt = WriteReceipt(token, write_id, result)
    _landings.deliver(receipt)
    return receipt


def finish_write(token: str, policy: ChunkPolicy, results: list[WriteResult]) -> WriteReceipt:
    """Run as the last task: merge, and land if this is the session's process."""
    return _arrive(token, uuid.uuid4().hex, merge_results(policy, results))


class PendingWrite(Delayed):  # type: ignore[misc] # dask has no types
    """A write that happens, and is merged into its session, when it is computed.

    It is a dask ``Delayed``: ``pending.compute()``, ``dask.compute(pending)``,
    ``client.compute(pending).result()`` and ``client.persist`` all write; the merge happens when
    the result reaches the process that has the session.

    Parameters
    ----------
    key : str
        Key of the last task; it must return what `finish_write` returns.
    graph : HighLevelGraph
        All tasks.
    session : Session
        Receives the changes.
    landing : Landing
        Of that session, with the token of `finish_write`.
    compute_kwargs : mapping
        Defaults for ``compute``.
    layers : mapping of str to Amount
        What all tasks of one name write, for the progress.
    """

    __slots__ = ("_compute_kwargs", "_landing", "_layers", "_session")
    __dask_optimize__ = staticmethod(_compat.optimize_arrays)

    def __init__(
        self,
        key: str,
        graph: HighLevelGraph,
        session: Session,
        landing: Landing,
        compute_kwargs: Mapping[str, Any] | None = None,
        layers: Mapping[str, Amount] | None = None,
    ) -> None:
        super().__init__(key, graph)
        self._layers = dict(layers or {})
        self._session = session
        self._landing = landing
        self._compute_kwargs = dict(compute_kwargs or {})
        _landings.expect(landing, session)

    def compute(self, *, progress: ProgressOption = False, **kwargs: Any) -> WriteReceipt:
        """Write all blocks and merge their change sets into the session.

        Parameters
        ----------
        progress : bool or callable, default: False
            Show a bar, in the terminal or the notebook; or call a function with each event, see
            `icechunk.events`.
        **kwargs
            Passed to ``dask.compute``, for example ``scheduler=``, ``num_workers=``, or
            ``retries=`` with distributed.

        Returns
        -------
        WriteReceipt
            How much was written.

        Raises
        ------
        IcechunkError
            Writing or merging failed; the session is as it was.
        """
        kwargs = self._compute_kwargs | kwargs
        if not progress:
            return self._computed(kwargs)
        total = sum(self._layers.values(), NOTHING)
        job_id = self._landing.token[:SHORT_ID]
        with operation(progress, "writing", total, job_id=job_id) as running:
            with metering(self._layers, running.advance_to, client_in_use(kwargs.get("scheduler"))):
                receipt = self._computed(kwargs)
            stored = sum(change_amounts(receipt.result.changes).values(), NOTHING)
            running.done = stored + Amount(tasks=receipt.blocks, size_bytes=receipt.size_bytes)
        return receipt

    def _computed(self, kwargs: Mapping[str, Any]) -> WriteReceipt:
        (receipt,) = dask.compute(self, traverse=False, **kwargs)
        _landings.deliver(receipt)
        if self._landing.error is not None:
            raise self._landing.error
        return receipt  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"<icechunk.dask.PendingWrite {self.key}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # Elsewhere it is an ordinary delayed value, whose result lands when it comes back.
        return (Delayed, (self.key, self.dask))
