"""Which places virtual datasets refer to."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

import numpy as np
from virtualizarr.manifests import ManifestArray

from icechunk.lake.virtual.sources import Source

if TYPE_CHECKING:
    from collections.abc import Iterable

    import xarray as xr


def prefixes_of(datasets: Iterable[xr.Dataset]) -> set[str]:
    """Return the start of every place that virtual datasets refer to.

    Returns
    -------
    set of str
        For local files the directory that holds all of them, else scheme and bucket or host; each
        with a ``/`` at the end.
    """
    folders: set[str] = set()
    buckets: set[str] = set()
    for dataset in datasets:
        for variable in dataset.variables.values():
            if not isinstance(variable.data, ManifestArray):
                continue
            paths = np.unique(variable.data.manifest._paths)  # noqa: SLF001 # the columns
            for path in paths.tolist():
                if "://" not in path:  # missing, or held in the references themselves
                    continue
                source = Source(path)
                (folders if source.scheme == "file" else buckets).add(source.bucket)
    if folders:
        common = posixpath.commonpath([folder.removeprefix("file://") for folder in folders])
        buckets.add(f"file://{common.rstrip('/')}/")
    return buckets


def count_references(datasets: Iterable[xr.Dataset]) -> int:
    """Return how many chunks virtual datasets refer to."""
    return sum(
        int(np.count_nonzero(variable.data.manifest._lengths))  # noqa: SLF001 # the columns
        for dataset in datasets
        for variable in dataset.variables.values()
        if isinstance(variable.data, ManifestArray)
    )
