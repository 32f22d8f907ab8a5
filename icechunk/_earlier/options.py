"""Earlier names of options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from icechunk._earlier.spelling import earlier_name
from icechunk.storage_settings import StorageSettings

if TYPE_CHECKING:
    from icechunk.virtual_containers import VirtualChunkContainer


class EarlierCachingConfig:
    """Earlier names of `CachingConfig`; the numbers are what the present names count."""

    __slots__ = ()
    earlier_parameters: ClassVar[dict[str, str]] = {
        "snapshots_cache_size": "num_snapshot_nodes",
        "manifests_cache_size": "num_chunk_refs",
        "transactions_cache_size": "num_transaction_changes",
        "attributes_cache_size": "num_bytes_attributes",
        "chunks_cache_size": "num_bytes_chunks",
    }

    snapshots_cache_size = earlier_name("num_snapshot_nodes")
    manifests_cache_size = earlier_name("num_chunk_refs")
    transactions_cache_size = earlier_name("num_transaction_changes")
    attributes_cache_size = earlier_name("num_bytes_attributes")
    chunks_cache_size = earlier_name("num_bytes_chunks")


class EarlierRepositoryConfig:
    """Earlier names of `RepositoryConfig`."""

    __slots__ = ()

    @property
    def unsafe_overwrite_refs(self: Any) -> bool:
        """Whether branches move without a condition.

        Earlier name of ``storage.unsafe_use_conditional_update = False``. Concurrent commits may
        then lose one another.
        """
        settings = self.storage
        return settings is not None and settings.unsafe_use_conditional_update is False

    @unsafe_overwrite_refs.setter
    def unsafe_overwrite_refs(self: Any, value: bool) -> None:
        conditional = StorageSettings(
            unsafe_use_conditional_create=not value, unsafe_use_conditional_update=not value
        )
        self.storage = (self.storage or StorageSettings()).merge(conditional)


def containers_by_prefix(
    containers: dict[str, VirtualChunkContainer],
) -> dict[str, VirtualChunkContainer]:
    """Return containers by their url prefix, whatever they are keyed by; earlier that was a name.

    The replacement of setting them all at once is
    `RepositoryConfig.set_virtual_chunk_container`, one by one.
    """
    return {container.url_prefix: container for container in containers.values()}
