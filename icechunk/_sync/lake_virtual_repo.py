"""Blocking twins of `icechunk.lake.virtual.repo`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from icechunk.lake.virtual.repo import Uris, os


class VirtualRepoTwins:
    """Blocking methods of `icechunk.lake.virtual.repo.VirtualRepo`."""

    __slots__ = ()

    def reach(self, prefixes: Sequence[str], options: Mapping[str, Any]) -> None:
        """Let the repository read chunks in some places; for the package's own use."""
        return run(self._async.reach(prefixes, options))

    def add_virtual_hdf(self, hdf_uri: Uris, path: str, **kwargs: Any) -> None:
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
        return run(self._async.add_virtual_hdf(hdf_uri, path, **kwargs))

    def add_virtual_netcdf(self, netcdf_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add netCDF files, classic (version 3) or version 4; as `add_virtual_hdf`.

        A fill value that is not of its variable's type is left out, since nothing can be equal to
        it.
        """
        return run(self._async.add_virtual_netcdf(netcdf_uri, path, **kwargs))

    def add_virtual_grib(self, grib_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add GRIB files, edition 1 or 2: one chunk for each message; as `add_virtual_hdf`.

        Further arguments are those of `cfgrib.open_file`, such as ``filter_by_keys``. Whoever reads
        the arrays needs this package and ecCodes, for the codec ``icechunk.grib``.
        """
        return run(self._async.add_virtual_grib(grib_uri, path, **kwargs))

    def add_virtual_zarr(self, zarr_uri: Uris, path: str, **kwargs: Any) -> None:
        """Add Zarr stores, version 2 or 3, local or on S3, GCS or Azure; as `add_virtual_hdf`."""
        return run(self._async.add_virtual_zarr(zarr_uri, path, **kwargs))

    def add_virtual_tiff(self, tiff_uri: Uris, path: str, name: str, **kwargs: Any) -> None:
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
        return run(self._async.add_virtual_tiff(tiff_uri, path, name, **kwargs))

    def add_kerchunk_references(
        self,
        refs: dict[str, Any] | str | os.PathLike[str],
        path: str,
        **kwargs: Any,
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
        return run(self._async.add_kerchunk_references(refs, path, **kwargs))
