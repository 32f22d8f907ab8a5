"""Names of xarray that are not public.

xarray has no public hook for writing: `Dataset.dump_to_store` and `xarray.backends.ZarrStore` are
public, how they are set up for a write (as `Dataset.to_zarr` does it) is not.
Range: xarray 2025.7 to 2026.9; older ones cannot write to zarr 3.1 themselves.
`tests/xarray_layer/test_canaries.py` fails as soon as one of these
names is gone or behaves differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from xarray.backends import ZarrStore
from xarray.backends.zarr import _choose_default_mode

try:  # from 2025.10 on
    from xarray.backends.writers import _validate_dataset_names
except ImportError:
    from xarray.backends.api import (  # type: ignore[attr-defined,no-redef]
        _validate_dataset_names,
    )

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from xarray import Dataset

    from icechunk.dask.collect import BlockCollector
    from icechunk.store import IcechunkStore

Mode = Literal["w", "w-", "a", "a-", "r+"]


def choose_mode(mode: str | None, append_dim: Hashable | None, region: Any) -> Mode:
    """Return the mode xarray would use; ValueError for a combination it refuses."""
    return _choose_default_mode(mode=mode, append_dim=append_dim, region=region)  # type: ignore[arg-type,return-value]


def check_names(dataset: Dataset) -> None:
    """Refuse variable names that are no text: TypeError or ValueError."""
    _validate_dataset_names(dataset)


def open_zarr_store(
    store: IcechunkStore,
    *,
    group: str | None,
    mode: str,
    append_dim: Hashable | None,
    region: Any,
    safe_chunks: bool,
) -> ZarrStore:
    """Return xarray's view of a group, opened for writing."""
    opened: ZarrStore = ZarrStore.open_group(
        store=store,
        mode=mode,  # type: ignore[arg-type]
        group=group,
        consolidated=False,
        consolidate_on_close=False,
        append_dim=append_dim,
        write_region=dict(region) if isinstance(region, dict) else region,
        safe_chunks=safe_chunks,
        zarr_format=3,
    )
    return opened


def fit_region(dataset: Dataset, zarr_store: ZarrStore) -> tuple[Dataset, dict[str, slice] | None]:
    """Return the dataset without its indexes if a region is written, and the region's slices."""
    fitted = zarr_store._validate_and_autodetect_region(dataset)  # noqa: SLF001
    return fitted, zarr_store._write_region  # noqa: SLF001


def check_plan(
    dataset: Dataset, zarr_store: ZarrStore, encoding: Mapping[Any, Mapping[str, Any]]
) -> None:
    """Refuse what `dump` would refuse of names and dimensions: KeyError or ValueError."""
    zarr_store._validate_encoding(encoding)  # noqa: SLF001
    for name in encoding:
        dataset.variables[name]
    append_dim = zarr_store._append_dim  # noqa: SLF001
    if append_dim is not None and append_dim not in set(zarr_store.array_keys()):
        known = zarr_store.get_dimensions()  # type: ignore[no-untyped-call]
        if append_dim not in known:
            raise ValueError(
                f"append_dim={append_dim!r} does not match any existing dataset dimensions {known}"
            )


def dump(
    dataset: Dataset,
    zarr_store: ZarrStore,
    collector: BlockCollector,
    encoding: Mapping[Any, Mapping[str, Any]],
) -> None:
    """Write metadata, and give every encoded array to the collector."""
    own = {name: dict(value) for name, value in encoding.items()}
    zarr_store._validate_encoding(own)  # noqa: SLF001
    dataset.dump_to_store(zarr_store, writer=collector, encoding=own)
