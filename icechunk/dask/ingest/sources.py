"""What a job reads: datasets in hand, or files that can be opened again by what was recorded.

A source is recorded as data, never as code: files by their paths and open options, datasets by a
fingerprint, with which a resumed job recognises them when they are given to it again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

from icechunk.dask.planner import as_dataset
from icechunk.errors import ErrorKind, InvalidInputError
from icechunk.inputs import prepare
from icechunk.inputs.kinds import is_url
from icechunk.inputs.sources import open_source

# How to get at a file is asked for again: it may hold secrets, and a job's record is no place for
# those.
_NEVER_RECORDED: Final = ("storage_options",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Files to ingest, and how to open them.

    Parameters
    ----------
    paths : sequence of str
        Files or Zarr stores, in the order in which they are joined; paths or URLs.
    engine : str, optional
        An xarray engine; else by each file's content.
    open_options : mapping
        Passed to the engine. They are recorded with the job, except ``storage_options``, which
        may hold secrets: give them to `Ingest.resume` again.
    decode : bool
        Store decoded values and times; else everything is stored as the files have it.
    chunks : mapping, "auto" or None
        Chunk shape of new arrays, by dimension; else as the first file has it, within reason.
    """

    paths: Sequence[str]
    engine: str | None = None
    open_options: Mapping[str, Any] = field(default_factory=dict)
    decode: bool = False
    chunks: Mapping[str, Any] | str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSource:
    """Files, each opened when it is needed.

    Parameters
    ----------
    files : Files
        Which, with absolute paths.
    seen : tuple of (int, int) or None
        Size and time of change of each local file when the job was planned; None for others.
    """

    files: Files
    seen: tuple[tuple[int, int] | None, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names for messages."""
        return tuple(p if is_url(p) else Path(p).name for p in self.files.paths)

    @property
    def as_stored(self) -> bool:
        """Whether the values are to be stored as they are, without encoding them again."""
        return not self.files.decode

    def open(self, which: int) -> Any:
        """Open a file lazily.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; it cannot be read, or has changed since the job was planned.
        """
        path = self.files.paths[which]
        stamp = _stamp(path)
        if stamp is not None and stamp != self.seen[which]:
            raise InvalidInputError(
                f"{path} has changed since the job was planned; a part of the old file may be "
                "written already. Start a new job.",
                ErrorKind.NOT_ALLOWED,
            )
        dataset, zarr_format_3 = open_source(
            path,
            engine=self.files.engine,
            options=self.files.open_options,
            decode=self.files.decode,
        )
        return prepare.cleaned(dataset, zarr_format_3=zarr_format_3, remark=_unremarked)

    def facts(self) -> dict[str, Any]:
        """Return what is recorded."""
        files = self.files
        return {
            "type": "files",
            "paths": list(files.paths),
            "engine": files.engine,
            "open_options": {
                k: v for k, v in files.open_options.items() if k not in _NEVER_RECORDED
            },
            "decode": files.decode,
            "seen": self.seen,
        }

    def describe(self) -> str:
        """Return the source in a few words."""
        names = self.names
        return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}, {len(names)} files"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSource:
    """Datasets in this process.

    Parameters
    ----------
    datasets : tuple of xarray.Dataset
        In the order in which they are joined.
    """

    datasets: tuple[Any, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names for messages."""
        if len(self.datasets) == 1:
            return ("the dataset",)
        return tuple(f"dataset {number}" for number in range(len(self.datasets)))

    @property
    def as_stored(self) -> bool:
        """False: values are encoded as xarray does it."""
        return False

    def open(self, which: int) -> Any:
        """Return a dataset."""
        return self.datasets[which]

    def facts(self) -> dict[str, Any]:
        """Return what is recorded: only what is needed to recognise the datasets."""
        return {"type": "datasets", "fingerprints": [fingerprint(ds) for ds in self.datasets]}

    def describe(self) -> str:
        """Return the source in a few words."""
        count = len(self.datasets)
        return "a dataset" if count == 1 else f"{count} datasets"


Source: TypeAlias = FileSource | DatasetSource


def source_of(given: Any) -> Source:
    """Return the source that a dataset, a path, `Files`, or a sequence of either means.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; it is none of these, or empty.
    """
    if isinstance(given, Files):
        return _file_source(given)
    if isinstance(given, str | os.PathLike):
        return _file_source(Files(paths=[os.fspath(given)]))
    if hasattr(given, "data_vars") or hasattr(given, "to_dataset"):
        return DatasetSource(datasets=(as_dataset(given),))
    if not isinstance(given, Iterable):
        as_dataset(given)  # raises, naming the type
    parts = list(given)
    if parts and all(isinstance(part, str | os.PathLike) for part in parts):
        return _file_source(Files(paths=[os.fspath(part) for part in parts]))
    if not parts:
        raise InvalidInputError("there is nothing to ingest.", ErrorKind.NOT_ALLOWED)
    return DatasetSource(datasets=tuple(map(as_dataset, parts)))


def source_again(facts: Mapping[str, Any], given: Any, job_id: str) -> Source:
    """Return the source of a job that is resumed.

    Parameters
    ----------
    facts : mapping
        What was recorded.
    given : object
        The source as given now: needed for datasets; for files only to give open options that
        are not recorded.
    job_id : str
        For messages.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; a dataset is missing, or it is not the one the job began with.
    """
    if facts["type"] == "files":
        return _files_again(facts, given, job_id)
    if given is None:
        raise InvalidInputError(
            f"job {job_id} was started on datasets of its process: give them again, "
            f"Ingest.resume(repo, {job_id!r}, source).",
            ErrorKind.NOT_ALLOWED,
        )
    source = source_of(given)
    if source.facts() != {"type": "datasets", "fingerprints": list(facts["fingerprints"])}:
        raise InvalidInputError(
            f"this is not what job {job_id} was started on: names, dimensions, types or "
            "coordinates differ. Give it the same source, or start a new job.",
            ErrorKind.NOT_ALLOWED,
        )
    return source


def _files_again(facts: Mapping[str, Any], given: Any, job_id: str) -> FileSource:
    options = dict(facts["open_options"])
    if given is not None:
        again = source_of(given)
        if not isinstance(again, FileSource) or list(again.files.paths) != list(facts["paths"]):
            raise InvalidInputError(
                f"these are not the files job {job_id} was started on. Leave them out: they are "
                "recorded.",
                ErrorKind.NOT_ALLOWED,
            )
        options |= again.files.open_options
    files = Files(
        paths=tuple(facts["paths"]),
        engine=facts["engine"],
        open_options=options,
        decode=facts["decode"],
    )
    return FileSource(files=files, seen=tuple(facts["seen"]))


def _file_source(files: Files) -> FileSource:
    if not files.paths:
        raise InvalidInputError("there is nothing to ingest.", ErrorKind.NOT_ALLOWED)
    paths = tuple(p if is_url(p) else str(Path(p).expanduser().absolute()) for p in files.paths)
    return FileSource(files=replace(files, paths=paths), seen=tuple(map(_stamp, paths)))


def _stamp(path: str) -> tuple[int, int] | None:
    if is_url(path) or not Path(path).is_file():
        return None
    found = Path(path).stat()
    return found.st_size, found.st_mtime_ns


def _unremarked(name: str, text: str) -> None:
    del name, text


def fingerprint(dataset: Any) -> str:
    """Return a digest of a dataset's names, dimensions, types, shapes and index coordinates.

    Values of other variables do not count: reading them may take hours.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(map(str, dataset.variables)):
        variable = dataset[name].variable
        facts = (name, tuple(map(str, variable.dims)), variable.shape, str(variable.dtype))
        digest.update(repr(facts).encode())
        if name in dataset.xindexes:
            values = variable.values
            plain = values.dtype.kind in "OTU"
            digest.update(repr(values.tolist()).encode() if plain else values.tobytes())
    return digest.hexdigest()
