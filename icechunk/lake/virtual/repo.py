"""The part of a lake's repository that refers to files in other formats."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, TypeAlias

from icechunk._sync.lake_virtual_repo import VirtualRepoTwins
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.lake.virtual.requests import (
    Prepared,
    VirtualRequest,
    prepare,
    prepare_references,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from icechunk.lake.sessions import AsyncLocalWriteSession

Uris: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""One file, or several."""


class AsyncVirtualRepo:
    """Adds references to files to the current session of a repository.

    Every method takes one file or several, in a local path, an ``s3://``, ``gs://``, ``http://`` or
    any other fsspec URL, and these arguments:

    - ``storage_options``: for fsspec, how to get in;
    - ``concat_dim``: along which dimension several files follow each other;
    - ``append_dim``: along which dimension they follow what is there already, if anything is, and
      each other;
    - ``replace``: put them in the place of arrays that are there, which is refused otherwise;
    - ``parallel``: look at several files in dask tasks.

    The places the references point to become virtual chunk containers of the repository, and may
    be read through this object; who opens the repository later authorises them by
    ``authorize_virtual_chunk_access``. References carry the time of the file's last change: once
    a file has changed, reading fails.

    Stored numbers mean something only with their attributes, so files that are joined, and what
    they are appended to, must agree in packing, units, types, codecs and chunks, and in loaded
    coordinates that do not grow; otherwise nothing is written. Referenced variables that do not lie
    along the dimension are the first file's.
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
            ``storage_options``, ``concat_dim``, ``append_dim``, ``replace``, ``parallel``; the rest
            as `virtualizarr.open_virtual_dataset` takes it, and ``group`` in
            the file, its root when omitted; groups below that are not followed.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-virtual-ref``; not such a file, or in a place no container is for. Kind
            ``not-allowed``; files that do not go together or with what is there, or arrays that
            are there and no ``replace``.
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
            ``storage_options``, ``concat_dim``, ``append_dim``, ``replace``, ``parallel``.
        """
        await self._add("tiff", tiff_uri, path, kwargs, array_name=name)

    async def add_kerchunk_references(
        self, refs: dict[str, Any] | str | os.PathLike[str], path: str, **kwargs: Any
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
            ``append_dim``, ``replace``, and ``reference_options`` for fsspec, to get at what they
            point to; the rest is for fsspec, to get at a file of references.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-virtual-ref``; of another version, with templates, or relative.
        StorageError
            The file cannot be read.
        """
        await self._usable(path)
        append_dim, replace = kwargs.pop("append_dim", None), kwargs.pop("replace", False)
        options = kwargs.pop("reference_options", {})
        prepared = await asyncio.to_thread(
            prepare_references,
            refs,
            path,
            append_dim=append_dim,
            replace=replace,
            storage_options=kwargs,
        )
        await self._write(prepared, options)

    async def _add(
        self,
        format_name: str,
        uris: Uris,
        path: str,
        options: Mapping[str, Any],
        array_name: str | None = None,
    ) -> None:
        """Add files of one format; the work is done in a thread, because parsers block."""
        await self._usable(path)
        rest = dict(options)
        request = VirtualRequest(
            files=(uris,) if isinstance(uris, str | os.PathLike) else tuple(uris),
            format_name=format_name,
            path=path,
            array_name=array_name,
            source_options=rest.pop("storage_options", None) or {},
            concat_dim=rest.pop("concat_dim", None),
            append_dim=rest.pop("append_dim", None),
            replace=rest.pop("replace", False),
            parallel=rest.pop("parallel", True),
            parser_options=rest,
        )
        prepared = await asyncio.to_thread(prepare, request)
        await self._write(prepared, request.source_options)

    async def _usable(self, path: str) -> None:
        """Refuse at once what would be refused when all files were looked at."""
        if not isinstance(path, str):
            raise InvalidInputError(
                f"not the path of a group: {path!r}; the root is ''.", ErrorKind.INVALID_PATH
            )
        (await self._writing()).durable.require_usable()

    async def _write(self, prepared: Prepared, source_options: Mapping[str, Any]) -> None:
        session = await self._writing()
        await self.reach(prepared.prefixes(), source_options)
        await asyncio.to_thread(prepared.write, session.store)


class VirtualRepo(VirtualRepoTwins):
    """Adds references to files, blocking; as `AsyncVirtualRepo`."""

    _async: AsyncVirtualRepo
