"""Many files as one virtual dataset, and virtual datasets into a store."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import dask
import numpy as np
import xarray as xr
import zarr
from virtualizarr.writers.icechunk import write_virtual_dataset_to_icechunk_group

from icechunk.inputs.problems import InputError, Reason
from icechunk.lake.virtual.fitting import check_joinable
from icechunk.lake.virtual.formats import open_source
from icechunk.lake.virtual.growing import (
    varying_scalars,
    virtual_scalars,
    with_dimension,
    with_values_along,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from icechunk.lake.virtual.fitting import Fitted
    from icechunk.lake.virtual.sources import Source
    from icechunk.store import IcechunkStore


_COORDINATES: Final = "coordinates"


def open_sources(
    format_name: str,
    sources: Sequence[Source],
    options: Mapping[str, Any],
    *,
    dim: str | None = None,
    parallel: bool = True,
) -> tuple[xr.Dataset, datetime | None]:
    """Return files as one virtual dataset, and a time after the last change of each.

    Parameters
    ----------
    format_name : str
        As for `open_source`.
    sources : sequence of Source
        The files.
    options : mapping
        For the parser.
    dim : str, optional
        Dimension along which several files follow each other, in the given order; one that they
        have as a coordinate is made a dimension.
    parallel : bool
        Look at the files in dask tasks: on the cluster of the current client, else in threads.

    Returns
    -------
    dataset : xarray.Dataset
        All files; what does not lie along the dimension is the first one's.
    modified_by : datetime or None
        References that carry it fail to be read once a file has changed; None when the place of
        one does not tell.

    Raises
    ------
    InputError
        No files, several and no dimension, or files that do not go together.
    """
    if not sources or (dim is None and len(sources) > 1):
        raise InputError(
            f"{len(sources)} files",
            "Say along which dimension they follow each other, such as concat_dim='time', on the "
            "command line --concat-dim time."
            if sources
            else "Give at least one.",
            Reason.USAGE,
        )
    arguments = [(format_name, source, dict(options), dim) for source in sources]
    if parallel and len(sources) > 1:
        task = dask.delayed(_looked_at, pure=False)
        looked = dask.compute(*[task(*each) for each in arguments])
    else:
        looked = tuple(_looked_at(*each) for each in arguments)
    modified_by = _modified_by([when for _, when in looked])
    if dim is None:
        return looked[0][0], modified_by
    parts = [part for part, _ in looked]
    return _joined(parts, [source.url for source in sources], dim), modified_by


def _looked_at(
    format_name: str, source: Source, options: dict[str, Any], dim: str | None
) -> tuple[xr.Dataset, datetime | None]:
    # The time before the contents: a change between the two is then noticed by whoever reads.
    when = source.modified_at()
    opened = open_source(format_name, source, dict(options))
    if dim is None:
        return opened, when
    scalars = virtual_scalars(opened)
    if dim in scalars:  # it is one step, and only a value can say which
        loaded = [str(n) for n, v in opened.variables.items() if isinstance(v.data, np.ndarray)]
        again = {**options, "loadable_variables": [*loaded, *scalars]}
        opened = open_source(format_name, source, again)
    return with_dimension(opened, dim, source.url), when


def _joined(parts: Sequence[xr.Dataset], names: Sequence[str], dim: str) -> xr.Dataset:
    if len(parts) == 1:
        return parts[0]
    varying = varying_scalars(parts)
    grown = [with_values_along(part, varying, dim) for part in parts]
    check_joinable(list(zip(names, grown, strict=True)), dim)
    try:
        joined: xr.Dataset = xr.concat(
            grown,
            dim=dim,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
            combine_attrs="override",
        )
    except (ValueError, NotImplementedError) as e:
        what = f"these files cannot be joined along {dim}: {e}"
        raise InputError(what, None, Reason.CONFLICT) from e
    return joined


def _modified_by(times: Sequence[datetime | None]) -> datetime | None:
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        return None
    # The format keeps whole seconds.
    return max(known).replace(microsecond=0) + timedelta(seconds=1)


def write_virtual(
    fitted: Fitted, store: IcechunkStore, path: str, *, modified_by: datetime | None
) -> None:
    """Write a virtual dataset into a group.

    Parameters
    ----------
    fitted : Fitted
        What is to be written, and how.
    store : IcechunkStore
        Of the session.
    path : str
        Of the group, without slashes at its ends.
    modified_by : datetime or None
        For the references to carry.
    """
    group = zarr.open_group(store, path=path, mode="a", zarr_format=3)
    for name in fitted.replaced:
        del group[name]
    before = str(group.attrs.get(_COORDINATES, "")).split()
    # Not the accessor's method: what it may do with a group that is there differs by release, and
    # it looks at every single reference for a container, which were made of these very references.
    write_virtual_dataset_to_icechunk_group(
        vds=fitted.dataset,
        store=store,
        group=zarr.open_group(store, path=path, mode="r+", zarr_format=3),
        append_dim=fitted.append_dim,
        last_updated_at=modified_by,
    )
    after = [str(name) for name in fitted.dataset.coords]
    if lost := [name for name in before if name not in after]:
        # It is written anew, with the names of this dataset alone.
        group = zarr.open_group(store, path=path, mode="r+", zarr_format=3)
        group.attrs[_COORDINATES] = " ".join([*lost, *after])
