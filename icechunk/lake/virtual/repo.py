"""The part of a lake's repository that refers to files in other formats."""

from __future__ import annotations

import asyncio
import os
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

from icechunk._sync.lake_virtual_repo import VirtualRepoTwins
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from icechunk.lake.sessions import AsyncLocalWriteSession

Uris: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""One file, or several."""


class AsyncVirtualRepo:
    """Adds references to files to the current session of a repository.

    Every method takes one file or several, in a local path, an ``s3://``, ``gs://``, ``http://`` or
    any other fsspec URL, and these arguments:

    - ``storage_options``: for fsspec, how to get in;
    - ``concat_dim``: along which dimension several files follow each other;
    - ``append_dim``: along which dimension they follow what is there already;
    - ``parallel``: look at several files in dask tasks.

    The places the references point to become virtual chunk containers of the repository, and may
    be read through this object; who opens the repository later authorises them by
    ``authorize_virtual_chunk_access``. References carry the time of the file's last change: once
    a file has changed, reading fails.
    """

    async def _writing(self) -> AsyncLocalWriteSession:
        raise NotImplementedError

    async def reach(self, prefixes: Sequence[str], options: Mapping[str, Any]) -> None:
        """Let the repository read chunks in some places; for the package's own use."""
        raise NotImplementedError

    async def add_virtual_hdf(self, hdf_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add HDF5 files.

        Parameters
        ----------
        hdf_uri : str, or sequence of str
            Where they are.
        path : str
            Group in the repository.
        **kwargs
            ``storage_options``, ``concat_dim``, ``append_dim``, ``parallel``; the rest as
            `virtualizarr.open_virtual_dataset` takes it, and ``group`` in the file.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-virtual-ref``; not such a file, or in a place no container is for.
        StorageError
            It cannot be read.
        """
        await self._add("hdf", hdf_uri, path, kwargs)

    async def add_virtual_netcdf(self, netcdf_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add netCDF files, classic (version 3) or version 4; as `add_virtual_hdf`.

        A fill value that is not of its variable's type is left out, since nothing can be equal to
        it.
        """
        await self._add("netcdf", netcdf_uri, path, kwargs)

    async def add_virtual_grib(self, grib_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add GRIB files, edition 1 or 2: one chunk for each message; as `add_virtual_hdf`.

        Further arguments are those of `cfgrib.open_file`, such as ``filter_by_keys``. Whoever reads
        the arrays needs this package and ecCodes, for the codec ``icechunk.grib``.
        """
        await self._add("grib", grib_uri, path, kwargs)

    async def add_virtual_zarr(self, zarr_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add Zarr stores, version 2 or 3, local or on S3, GCS or Azure; as `add_virtual_hdf`."""
        await self._add("zarr", zarr_uri, path, kwargs)

    async def add_virtual_tiff(self, tiff_uri: Uris, path: str, name: str, **kwargs: Any) -> None:
        """Add a TIFF file; as `add_virtual_hdf`.

        Parameters
        ----------
        tiff_uri : str
            Where it is.
        path : str
            Group in the repository.
        name : str
            Of the array, with dimensions ``Y``, ``X`` and, for several samples, ``band``. A file
            with overviews becomes one array for each level instead, ``"0"``, ``"1"``, ...; the
            dimensions of the coarser ones are ``Y_1``, ``X_1`` and so on, because xarray opens no
            group in which a dimension has two lengths.
        **kwargs
            ``storage_options``, ``concat_dim``, ``append_dim``, ``parallel``.
        """
        await self._add("tiff", tiff_uri, path, {**kwargs, "name": name})

    async def add_kerchunk_references(
        self, refs: dict[str, Any] | str, path: str, **kwargs: Any
    ) -> None:
        """Add what kerchunk references, version 1, describe.

        Parameters
        ----------
        refs : dict or str
            The references, or where they are: a JSON file or a Parquet directory. Locations in
            them are absolute.
        path : str
            Group in the repository; groups in the references go below it.
        **kwargs
            ``append_dim``, and ``reference_options`` for fsspec, to get at what they point to; the
            rest is for fsspec, to get at a file of references.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-virtual-ref``; of another version, with templates, or relative.
        """
        session = await self._writing()
        append_dim = kwargs.pop("append_dim", None)
        options = kwargs.pop("reference_options", {})
        loader, writing = _part("kerchunk_refs"), _part("writing")
        groups = await asyncio.to_thread(loader.load_references, refs, kwargs)
        await self.reach(_part("places").prefixes_of(groups.values()), options)
        for group, dataset in groups.items():
            await asyncio.to_thread(
                writing.write_virtual,
                dataset,
                session.store,
                f"{path.rstrip('/')}/{group}",
                append_dim=append_dim,
                modified_by=None,
            )

    async def _add(
        self, format_name: str, uris: Uris, path: str, options: Mapping[str, Any]
    ) -> None:
        """Add files of one format; the work is done in a thread, because parsers block."""
        session = await self._writing()
        rest = dict(options)
        storage_options = rest.pop("storage_options", None) or {}
        concat_dim, append_dim = rest.pop("concat_dim", None), rest.pop("append_dim", None)
        parallel = rest.pop("parallel", True)
        source_at, writing = _part("sources").Source.at, _part("writing")
        several = [uris] if isinstance(uris, str | os.PathLike) else list(uris)
        sources = [source_at(uri, storage_options) for uri in several]

        dataset = await asyncio.to_thread(
            writing.open_sources,
            format_name,
            sources,
            rest,
            concat_dim=concat_dim,
            parallel=parallel,
        )
        modified_by = await asyncio.to_thread(writing.modified_before, sources)
        await self.reach(_part("places").prefixes_of([dataset]), storage_options)
        await asyncio.to_thread(
            writing.write_virtual,
            dataset,
            session.store,
            path,
            append_dim=append_dim,
            modified_by=modified_by,
        )


class VirtualRepo(VirtualRepoTwins):
    """Adds references to files, blocking; as `AsyncVirtualRepo`."""

    _async: AsyncVirtualRepo


def _part(name: str) -> ModuleType:
    """Return a module of this folder; they need the extra, and load much."""
    try:
        return import_module(f"icechunk.lake.virtual.{name}")
    except ModuleNotFoundError as e:
        raise InvalidInputError(
            f"virtual ingestion needs {e.name}, which is not installed: pip install "
            "'icechunk[virtual]'.",
            ErrorKind.NOT_ALLOWED,
        ) from e
