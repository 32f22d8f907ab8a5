"""A request for references to files, and carrying it out on any repository.

The parsers are loaded when a request is carried out: they need the extra ``icechunk[virtual]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any

from icechunk._io.loop import run
from icechunk.core.conflicts import ConflictDetector
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.lake.containers import reaching
from icechunk.repository import Repository

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from types import ModuleType

    import xarray as xr

    from icechunk.storage.base import Storage
    from icechunk.store import IcechunkStore


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualRequest:
    """Which files to refer to, and how.

    Parameters
    ----------
    files : tuple of str
        Local paths, or URLs.
    format_name : {"hdf", "netcdf", "grib", "zarr", "tiff"} or None
        Their format; by how the first one begins when None.
    path : str
        Group in the repository.
    concat_dim : str or None
        Dimension along which several files follow each other.
    append_dim : str or None
        Dimension along which they follow what is there already, and each other.
    replace : bool
        Whether arrays that are there may be replaced.
    array_name : str or None
        Of the array of a TIFF file.
    parallel : bool
        Look at several files in dask tasks.
    source_options : mapping
        For fsspec: how to get at the files.
    parser_options : mapping
        For the parser of the format.
    """

    files: tuple[str | os.PathLike[str], ...]
    format_name: str | None = None
    path: str = ""
    concat_dim: str | None = None
    append_dim: str | None = None
    replace: bool = False
    array_name: str | None = None
    parallel: bool = True
    source_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    parser_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What is to be written: virtual datasets by group.

    Parameters
    ----------
    groups : mapping of str to xarray.Dataset
        By path of the group.
    append_dim : str or None
        As requested.
    replace : bool
        As requested.
    modified_by : datetime or None
        A time after the last change of every file.
    """

    groups: Mapping[str, xr.Dataset]
    append_dim: str | None = None
    replace: bool = False
    modified_by: datetime | None = None

    def __post_init__(self) -> None:
        if self.replace and self.append_dim is not None:
            raise InvalidInputError(
                "append_dim puts files after what is there, replace in its place: choose one.",
                ErrorKind.NOT_ALLOWED,
            )

    def prefixes(self) -> list[str]:
        """Return the places that are referred to."""
        found: Iterable[str] = _part("places").prefixes_of(self.groups.values())
        return sorted(found)

    def references(self) -> int:
        """Return how many references there are."""
        count: int = _part("places").count_references(self.groups.values())
        return count

    def write(self, store: IcechunkStore) -> None:
        """Write everything into a store, blocking.

        Raises
        ------
        InputError
            It does not go with what is there; then nothing was written.
        """
        fitted, write = _part("fitting").fitted, _part("writing").write_virtual
        fits = {
            path.strip("/"): fitted(
                dataset,
                store,
                path.strip("/"),
                append_dim=self.append_dim,
                replace=self.replace,
            )
            for path, dataset in self.groups.items()
        }
        for path, fit in fits.items():
            write(fit, store, path, modified_by=self.modified_by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtualized:
    """What `add_files` did.

    Parameters
    ----------
    commit : str
        Snapshot id.
    references : int
        How many were written.
    prefixes : sequence of str
        Where chunks are read from; each has a virtual chunk container.
    """

    commit: str
    references: int
    prefixes: Sequence[str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        return {
            "commit": self.commit,
            "references": self.references,
            "prefixes": list(self.prefixes),
        }


def prepare(request: VirtualRequest) -> Prepared:
    """Look at the files of a request, blocking.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-virtual-ref``; a file of another format, or one that cannot be referred to.
        Kind ``not-allowed``; the extra is not installed, several files and no ``concat_dim``, or
        files that do not go together.
    StorageError
        A file cannot be read.
    """
    source_at, writing, formats = _part("sources").Source.at, _part("writing"), _part("formats")
    sources = [source_at(file, request.source_options) for file in request.files]
    format_name = request.format_name
    if format_name is None and sources:
        format_name = formats.format_of(sources[0])
    options = dict(request.parser_options)
    if format_name == "tiff":
        options["name"] = request.array_name or "image"
    dataset, modified_by = writing.open_sources(
        format_name,
        sources,
        options,
        dim=request.concat_dim or request.append_dim,
        parallel=request.parallel,
    )
    return Prepared(
        groups={request.path: dataset},
        append_dim=request.append_dim,
        replace=request.replace,
        modified_by=modified_by,
    )


def prepare_references(
    refs: Mapping[str, Any] | str | os.PathLike[str],
    path: str,
    *,
    append_dim: str | None,
    replace: bool,
    storage_options: Mapping[str, Any],
) -> Prepared:
    """Look at kerchunk references, blocking; raises as `prepare`."""
    groups = _part("kerchunk_refs").load_references(refs, storage_options)
    return Prepared(
        groups={f"{path.rstrip('/')}/{group}": dataset for group, dataset in groups.items()},
        append_dim=append_dim,
        replace=replace,
    )


def add_files(
    storage: Storage, request: VirtualRequest, *, branch: str = "main", message: str | None = None
) -> Virtualized:
    """Carry out a request on the repository at a place, made if there is none, and commit.

    Parameters
    ----------
    storage : Storage
        Where the repository is.
    request : VirtualRequest
        Which files.
    branch : str
        Branch to commit to.
    message : str, optional
        Commit message.

    Raises
    ------
    InvalidInputError, StorageError
        As `prepare`.
    RebaseFailedError
        Somebody else wrote the same chunks meanwhile.
    """
    prepared = prepare(request)
    prefixes = prepared.prefixes()
    opened = Repository.open_or_create(storage)
    repository = run(reaching(opened, prefixes, request.source_options))
    session = repository.writable_session(branch)
    prepared.write(session.store)
    commit = session.commit(
        message or f"refer to {', '.join(map(str, request.files))}", rebase_with=ConflictDetector()
    )
    return Virtualized(commit=commit, references=prepared.references(), prefixes=prefixes)


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
