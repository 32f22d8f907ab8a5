"""Small chunks that share an object, where storage can write on at the end of one.

Source: Icechunk specification, table ChunkRef: a native reference has an offset and a length in its
object, and all implementations read so. Making a file costs more than writing a small chunk
into it, and file systems have a limit on how many files there are.

The object of a session's last small chunk is its pack; the next one goes behind it, until the pack
is full. What a reference leads to is never changed. A pack belongs to one session and its forks in
one process, so that its age is that of their work: garbage collection spares what is younger than
its cut-off.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from icechunk.ids import ObjectId

# A chunk is small if a pack holds so many of them.
_CHUNKS_PER_PACK: Final = 8


class ChunkPack:
    """The object that the next small chunk of a session goes into.

    Notes
    -----
    Concurrency: safe for any number of threads; each has its own bytes of the object. A forked
    child begins a pack of its own.
    """

    __slots__ = ("_chunk_id", "_lock", "_process", "_used_bytes")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunk_id: ObjectId | None = None
        self._used_bytes = 0
        self._process = 0

    @staticmethod
    def takes(length_bytes: int, pack_bytes: int) -> bool:
        """Say whether a chunk is small enough for packs of a size; no chunk is for size 0."""
        return length_bytes * _CHUNKS_PER_PACK <= pack_bytes

    def begin(self, chunk_id: ObjectId, used_bytes: int) -> None:
        """Make an object that was just written the pack."""
        with self._lock:
            self._chunk_id, self._used_bytes = chunk_id, used_bytes
            self._process = os.getpid()

    def reserve(self, length_bytes: int, pack_bytes: int) -> tuple[ObjectId, int] | None:
        """Return the object and the offset for a chunk; None when there is no room."""
        with self._lock:
            offset = self._used_bytes
            if self._chunk_id is None or offset + length_bytes > pack_bytes:
                return None
            if self._process != os.getpid():
                self._chunk_id = None
                return None
            self._used_bytes += length_bytes
            return self._chunk_id, offset

    def leave(self) -> None:
        """Write nothing more into the present object."""
        with self._lock:
            self._chunk_id = None
