"""Many files as one virtual dataset, and virtual datasets into a store."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import dask
import xarray as xr
from virtualizarr.writers.icechunk import virtual_dataset_to_icechunk

from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.lake.virtual.formats import open_source

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from icechunk.lake.virtual.sources import Source
    from icechunk.store import IcechunkStore


# Earlier releases of VirtualiZarr add to the group that is there without being told.
_HAS_MODE: Final = "mode" in inspect.signature(virtual_dataset_to_icechunk).parameters


def open_sources(
    format_name: str,
    sources: Sequence[Source],
    options: Mapping[str, Any],
    *,
    concat_dim: str | None = None,
    parallel: bool = True,
) -> xr.Dataset:
    """Return files as one virtual dataset.

    Parameters
    ----------
    format_name : str
        As for `open_source`.
    sources : sequence of Source
        At least one.
    options : mapping
        For the parser.
    concat_dim : str, optional
        Dimension along which several files follow each other, in the given order.
    parallel : bool
        Look at the files in dask tasks: on the cluster of the current client, else in threads.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; several files and no dimension.
    """
    if len(sources) == 1 and concat_dim is None:
        return open_source(format_name, sources[0], dict(options))
    if concat_dim is None or not sources:
        raise InvalidInputError(
            f"{len(sources)} files: say along which dimension they follow each other, "
            "such as concat_dim='time', on the command line --concat-dim time.",
            ErrorKind.NOT_ALLOWED,
        )
    if parallel and len(sources) > 1:
        task = dask.delayed(open_source, pure=False)
        opened = dask.compute(*[task(format_name, source, dict(options)) for source in sources])
    else:
        opened = tuple(open_source(format_name, source, dict(options)) for source in sources)
    parts = [_with_dimension(part, concat_dim) for part in opened]
    # What lies along the dimension follows on; everything else is the first file's.
    joined: xr.Dataset = xr.concat(
        parts,
        dim=concat_dim,
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="override",
        combine_attrs="override",
    )
    return joined


def _with_dimension(part: xr.Dataset, dim: str) -> xr.Dataset:
    """Return a file's dataset with the dimension, where its files are one step each."""
    if dim in part.dims:
        return part
    if dim in part.coords:
        return part.expand_dims(dim)
    raise InvalidInputError(
        f"the files have no dimension or coordinate {dim!r}; their dimensions are "
        f"{', '.join(map(str, part.dims))}.",
        ErrorKind.NOT_ALLOWED,
    )


def modified_before(sources: Sequence[Source]) -> datetime | None:
    """Return a time after the last change of every file; None when one does not tell.

    References that carry it fail to be read once a file has changed.
    """
    times = [source.modified_at() for source in sources]
    known = [time for time in times if time is not None]
    if len(known) < len(times) or not known:
        return None
    # The format keeps whole seconds.
    return max(known).replace(microsecond=0) + timedelta(seconds=1)


def write_virtual(
    dataset: xr.Dataset,
    store: IcechunkStore,
    path: str,
    *,
    append_dim: str | None,
    modified_by: datetime | None,
) -> None:
    """Write a virtual dataset into a group, or append it to what is there."""
    dataset.vz.to_icechunk(
        store,
        group=path.strip("/") or None,
        append_dim=append_dim,
        last_updated_at=modified_by,
        **({} if append_dim or not _HAS_MODE else {"mode": "a"}),
    )
