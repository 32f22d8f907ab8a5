"""The zarr store over a session: what it is, and writing through it.

Source: Icechunk specification, section "Zarr store surface". Keys are parsed in `icechunk.paths`,
chunks and nodes are the checkout's; this module and `icechunk.store_look` only answer zarr's
questions in those terms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self, cast

from zarr.core.buffer import Buffer

from icechunk._display import Block, Shown, plain_fields
from icechunk._io.loop import run_either
from icechunk.checkout import Checkout, SessionMode
from icechunk.errors import ErrorKind, ReadOnlyError, SessionStateError
from icechunk.format.snapshot import NodeKind
from icechunk.paths import (
    ROOT,
    ChunkKey,
    MetadataKey,
    Zarr2Key,
    parse_chunk_prefix,
    parse_key,
    user_path,
)
from icechunk.store_look import StoreLook
from icechunk.virtual_references import VirtualReferences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from icechunk.session import Session


class IcechunkStore(VirtualReferences, StoreLook, Block):
    """A zarr store: what ``session.store`` is.

    Parameters
    ----------
    store : Session
        The session to read and write through.
    read_only : bool or None
        Refuse writes; by default whatever the session allows.

    Notes
    -----
    Concurrency: one store may be used from any number of threads and event loops at once. Over
    memory and local files it also answers zarr's synchronous methods, with no event loop between.

    Examples
    --------
    >>> group = zarr.open_group(session.store)
    >>> sorted(group.array_keys())
    ['t']
    """

    def __init__(
        self, store: Session, read_only: bool | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, read_only=bool(read_only), **kwargs)
        self._session = store
        self._checkout: Checkout = store.checkout
        self._is_open = True
        self._is_copy = False  # of the store of a writable session, which is elsewhere

    # -- what it is ---------------------------------------------------------------------------

    @property
    def session(self) -> Session:
        """The session this store reads and writes through."""
        return self._session

    @property
    def read_only(self) -> bool:
        """Whether writes are refused; True as soon as the session is committed."""
        return self._read_only or self._checkout.mode is SessionMode.readonly

    @property
    def supports_writes(self) -> bool:
        """True: zarr asks about the kind of store, not about this session."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """True, as `supports_writes`."""
        return True

    @property
    def supports_partial_writes(self) -> Literal[False]:
        """False: a chunk is replaced whole."""
        return False

    @property
    def _supports_sync_io(self) -> bool:
        """Whether zarr should use the synchronous methods (see `zarr.abc.store`).

        They work over every storage; where each call waits for a network, zarr's own concurrent
        calls are faster.
        """
        return self._checkout.assets.storage.immediate

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return a store over the same session with another read-only flag.

        Examples
        --------
        >>> session.store.with_read_only(True).read_only
        True
        """
        store = type(self)(self._session, read_only)
        store._is_copy = self._is_copy  # noqa: SLF001 # of the same class
        return store

    @classmethod
    async def open(cls, *args: Any, **kwargs: Any) -> Self:
        """Return a store over a session; same arguments as the class."""
        return cls(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, IcechunkStore) and self._session == other._session

    __hash__ = None  # type: ignore[assignment]

    def _shown_block(self) -> tuple[str, list[Shown]]:
        session = self._session
        return "icechunk.IcechunkStore", plain_fields(
            read_only=self.read_only, snapshot_id=session.snapshot_id, branch=session.branch
        )

    __repr__ = Block.__repr__  # not that of zarr's stores
    __str__ = Block.__str__

    def __reduce__(self) -> tuple[Any, ...]:
        # Nothing merges what is written through a store that merely travelled in a task, such as
        # those of `Dataset.to_zarr` on a cluster. Whoever wants that travels with a fork.
        if self._is_copy or self._session.branch is not None:
            return _copied_store, (type(self), self._session, self._read_only)
        return type(self), (self._session, self._read_only)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return ("icechunk.IcechunkStore", self._session.__dask_tokenize__(), self._read_only)

    # -- writing ------------------------------------------------------------------------------

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Set the value of a key; chunk bytes go to storage at once.

        Raises
        ------
        ReadOnlyError
            Kind ``read-only-store``.
        InvalidInputError
            Kind ``invalid-key``, ``bad-metadata``, ``invalid-chunk-index``, ``not-an-array`` or
            ``zero-length-chunk``.
        NodeNotFoundError
            Kind ``node-not-found``; no array at the path of a chunk.
        AlreadyExistsError
            Kind ``node-already-exists``; a node of the other kind is there.

        Examples
        --------
        >>> import asyncio
        >>> from zarr.core.buffer.cpu import Buffer
        >>> group = Buffer.from_bytes(b'{"zarr_format": 3, "node_type": "group"}')
        >>> asyncio.run(session.store.set("g/zarr.json", group))
        """
        if byte_range is not None:
            raise _unimplemented("a part of a value cannot be set; set it whole")
        self._check_settable()
        _require_buffer(value)
        match parse_key(key):
            case ChunkKey(path, coord):
                await self._checkout.write_chunk(path, coord, _bytes_of(value))
            case MetadataKey(path):
                self._checkout.set_document(path, value.to_bytes())
            case Zarr2Key(name):
                raise _unimplemented(f"{name} belongs to Zarr version 2; store version 3 metadata")

    def set_sync(self, key: str, value: Buffer) -> None:
        """Do what `set` does, blocking; see `get_sync`."""
        run_either(self.set(key, value), immediate=self._supports_sync_io)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Set the value of a key that has none; else do nothing, and not look at the value.

        Of several at once in one session, threads or tasks, one sets it.

        Examples
        --------
        >>> import asyncio
        >>> from zarr.core.buffer.cpu import Buffer
        >>> group = Buffer.from_bytes(b'{"zarr_format": 3, "node_type": "group"}')
        >>> asyncio.run(session.store.set_if_not_exists("g/zarr.json", group))
        """
        self._check_settable()
        _require_buffer(value)
        if await self.exists(key):
            return
        match parse_key(key):
            case ChunkKey(path, coord):
                data = _bytes_of(value)
                await self._checkout.write_chunk(path, coord, data, replace=False)
            case MetadataKey(path):
                with self._checkout.lock:
                    if self._checkout.node(path) is None:
                        self._checkout.set_document(path, value.to_bytes())

    async def set_partial_values(
        self,
        key_start_values: Iterable[tuple[str, int, bytes]],  # noqa: ARG002
    ) -> None:
        """Refuse: a value is set whole."""
        raise _unimplemented("parts of values cannot be set; set them whole")

    async def delete(self, key: str) -> None:
        """Delete a chunk, or a node with everything below it; nothing there is no error.

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.delete("t/c/0"))
        >>> float(zarr.open_array(session.store, path="t", mode="r")[0])
        0.0
        """
        self._check_deletable()
        match parse_key(key):
            case ChunkKey(path, coord):
                await self._checkout.delete_chunks(path, coord)
            case MetadataKey(path):
                self._checkout.delete_node(path)

    def delete_sync(self, key: str) -> None:
        """Do what `delete` does, blocking; see `get_sync`."""
        run_either(self.delete(key), immediate=self._supports_sync_io)

    async def delete_dir(self, prefix: str) -> None:
        """Delete a node with everything below it, or the chunks below a chunk prefix.

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.delete_dir("t"))
        """
        self._check_deletable()
        text = prefix.strip("/")
        path = user_path(text) if text else ROOT
        self._checkout.delete_node(path)
        if text:
            chunks = parse_chunk_prefix(text)
            # A whole coordinate that has no chunk is nothing to delete, other than with `delete`.
            if chunks is not None and (not self._is_whole(chunks) or await self.exists(text)):
                await self._checkout.delete_chunks(chunks.path, chunks.coord)

    def _is_whole(self, key: ChunkKey) -> bool:
        node = self._checkout.node(key.path)
        if node is None or node.kind is not NodeKind.ARRAY:
            return False
        return len(node.shape) == len(key.coord)

    async def clear(self) -> None:
        """Delete all nodes.

        Examples
        --------
        >>> import asyncio
        >>> asyncio.run(session.store.clear())
        """
        self._check_deletable()
        self._checkout.delete_node(ROOT)

    def sync_clear(self) -> None:
        """Delete all nodes, blocking.

        Examples
        --------
        >>> session.store.sync_clear()
        >>> session.status().deleted_arrays
        {'/t'}
        """
        self._check_deletable()
        self._checkout.delete_node(ROOT)

    def _check_settable(self) -> None:
        if self.read_only:
            if not self._read_only and self._checkout.mode is SessionMode.rearrange:
                self._checkout.require_writable()
            raise ReadOnlyError(
                "this store is read-only. Get one from repo.writable_session(branch).store; after "
                "a commit, open a new session.",
                ErrorKind.READ_ONLY_STORE,
            )
        if self._is_copy:
            raise SessionStateError(
                "this store is a copy, made by pickle, of the store of a writable session: what "
                "is written here would be in no commit. Write datasets with "
                "ds.to_icechunk(session), dask arrays with icechunk.dask.store_dask, and anything "
                "else through fork.store, with fork = session.fork(), and session.merge(fork).",
                ErrorKind.NOT_ALLOWED,
            )

    def _check_deletable(self) -> None:
        self._checkout.require_writable()
        self._check_settable()


def _copied_store(kind: type[IcechunkStore], session: Session, read_only: bool) -> IcechunkStore:
    store = kind(session, read_only)
    store._is_copy = True  # noqa: SLF001 # one step of making it
    return store


def _require_buffer(value: object) -> None:
    if not isinstance(value, Buffer):
        raise TypeError(
            f"a store sets zarr buffers, not {type(value).__name__}: wrap bytes with "
            "zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(data)"
        )


def _bytes_of(value: Buffer) -> memoryview:
    return memoryview(cast("Any", value.as_buffer_like())).cast("B")


def _unimplemented(what: str) -> SessionStateError:
    return SessionStateError(f"{what}.", ErrorKind.UNIMPLEMENTED)
