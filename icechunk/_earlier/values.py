"""Earlier names of attributes of values."""

from __future__ import annotations

from icechunk._earlier.spelling import earlier_name


class EarlierSnapshotInfo:
    """Earlier names of `SnapshotInfo`."""

    __slots__ = ()

    commit_message = earlier_name("message")


class EarlierRebaseFailedError:
    """Earlier names of `RebaseFailedError`."""

    snapshot_id = earlier_name("snapshot")
