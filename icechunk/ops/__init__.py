"""Operations on a whole repository: expiration, garbage collection, statistics."""

from icechunk.ops.updates import Update, UpdateType

__all__ = ["Update", "UpdateType"]
