"""A store as a mapping of keys to bytes, blocking."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype

from icechunk._io.limits import gather_limited
from icechunk._io.loop import run
from icechunk.errors import ErrorKind, NodeNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from icechunk.store import IcechunkStore

_CONCURRENT: int = 64


class StoreMapping(MutableMapping[str, bytes]):
    """Metadata documents and chunks of a store by key.

    Parameters
    ----------
    store : IcechunkStore
        The store.
    """

    def __init__(self, store: IcechunkStore) -> None:
        self._store = store

    def __getitem__(self, key: str) -> bytes:
        found = self.getitems([key])
        if key not in found:
            raise NodeNotFoundError(f"nothing at key {key!r}.", ErrorKind.KEY_NOT_FOUND)
        return found[key]

    def __setitem__(self, key: str, value: bytes) -> None:
        self.setitems({key: value})

    def __delitem__(self, key: str) -> None:
        self.delitems([key])

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and run(self._store.exists(key))

    def __iter__(self) -> Iterator[str]:
        return iter(run(_listed(self._store.list())))

    def __len__(self) -> int:
        return len(run(_listed(self._store.list())))

    def getitems(
        self, keys: Iterable[str], *, contexts: Any = None, on_error: str = "omit"
    ) -> Mapping[str, bytes]:
        """Return several values at once; keys that have none are left out.

        Parameters
        ----------
        keys : iterable of str
            Which.
        contexts : object
            Ignored; zarr 2 passed it.
        on_error : {"omit", "raise"}
            What to do about a key without a value.
        """
        del contexts
        wanted, prototype = list(keys), default_buffer_prototype()

        async def read() -> list[Any]:
            reads = [self._store.get(key, prototype) for key in wanted]
            return await gather_limited(_CONCURRENT, reads)

        found = dict(zip(wanted, run(read()), strict=True))
        missing = [key for key, value in found.items() if value is None]
        if missing and on_error == "raise":
            raise NodeNotFoundError(f"nothing at key {missing[0]!r}.", ErrorKind.KEY_NOT_FOUND)
        return {key: value.to_bytes() for key, value in found.items() if value is not None}

    def setitems(self, items: Mapping[str, bytes]) -> None:
        """Set several values at once; metadata documents first."""
        buffer = default_buffer_prototype().buffer

        async def write(pairs: list[tuple[str, bytes]]) -> None:
            writes = [self._store.set(key, buffer.from_bytes(value)) for key, value in pairs]
            await gather_limited(_CONCURRENT, writes)

        pairs = list(items.items())
        run(write([pair for pair in pairs if pair[0].endswith("zarr.json")]))
        run(write([pair for pair in pairs if not pair[0].endswith("zarr.json")]))

    def delitems(self, keys: Iterable[str]) -> None:
        """Delete several keys; those without a value are no error."""

        async def delete() -> None:
            await gather_limited(_CONCURRENT, [self._store.delete(key) for key in list(keys)])

        run(delete())

    def list_prefix(self, prefix: str) -> list[str]:
        """Return the keys that start with a prefix."""
        return [key for key in self if key.startswith(prefix)]

    def listdir(self, prefix: str) -> list[str]:
        """Return the names directly below a prefix."""
        return run(_listed(self._store.list_dir(prefix)))

    def erase_prefix(self, prefix: str) -> None:
        """Delete everything below a prefix."""
        run(self._store.delete_dir(prefix))


async def _listed(keys: AsyncIterator[str]) -> list[str]:
    return [key async for key in keys]
