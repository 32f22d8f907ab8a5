"""Operations on a whole repository: expiration, garbage collection, statistics, its log."""

from icechunk.ops.gc import GCSummary
from icechunk.ops.updates import Update, UpdateType

__all__ = ["GCSummary", "Update", "UpdateType"]
