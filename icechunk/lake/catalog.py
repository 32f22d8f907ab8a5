"""The catalog of a lake: which repositories there are, as one JSON document.

Pure values and their bytes; `icechunk.lake.root` reads and writes them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from icechunk.errors import AlreadyExistsError, ErrorKind, FormatError, RepositoryNotFoundError
from icechunk.lake.names import RepoName

if TYPE_CHECKING:
    from collections.abc import Mapping

CATALOG_KEY: Final = "catalog.json"
"""Where the catalog is, below the root of the lake."""

CATALOG_VERSION: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RepoEntry:
    """What the catalog says of one repository.

    Parameters
    ----------
    name : RepoName
        Its name.
    location : str
        Where it is, relative to the root of the lake.
    created_at : datetime
        When it was made, UTC.
    description : str or None
        For people.
    metadata : mapping
        JSON-like facts, to filter by.
    """

    name: RepoName
    location: str
    created_at: datetime
    description: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        return {
            "name": str(self.name),
            "location": self.location,
            "created_at": self.created_at.isoformat(),
            "description": self.description,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every repository of a lake.

    Parameters
    ----------
    repos : mapping of RepoName to RepoEntry
        By name.
    """

    repos: Mapping[RepoName, RepoEntry] = field(default_factory=lambda: MappingProxyType({}))

    def entry(self, name: RepoName) -> RepoEntry:
        """Return the entry of a repository.

        Raises
        ------
        RepositoryNotFoundError
            Kind ``repository-not-found``.
        """
        found = self.repos.get(name)
        if found is None:
            known = ", ".join(map(str, sorted(self.repos))) or "none"
            raise RepositoryNotFoundError(
                f"no repository {name} in this lake; there are: {known}. Make it with "
                f"client.create_repo({str(name)!r})."
            )
        return found

    def with_new(self, entry: RepoEntry) -> Catalog:
        """Return the catalog with one more repository.

        Raises
        ------
        AlreadyExistsError
            The name is taken.
        """
        if entry.name in self.repos:
            raise AlreadyExistsError(
                f"there is a repository {entry.name} already; open it with "
                f"client.get_repo({str(entry.name)!r}).",
                ErrorKind.NOT_ALLOWED,
            )
        return self._with(entry)

    def with_metadata(self, name: RepoName, metadata: Mapping[str, Any]) -> Catalog:
        """Return the catalog with other metadata of a repository."""
        return self._with(replace(self.entry(name), metadata=dict(metadata)))

    def without(self, name: RepoName) -> Catalog:
        """Return the catalog without a repository."""
        self.entry(name)
        return Catalog({k: v for k, v in self.repos.items() if k != name})

    def _with(self, entry: RepoEntry) -> Catalog:
        return Catalog({**self.repos, entry.name: entry})


def encode_catalog(catalog: Catalog) -> bytes:
    """Return the catalog's JSON document.

    Raises
    ------
    TypeError
        Metadata that is not JSON-like.
    """
    document = {
        "icechunk_lake": CATALOG_VERSION,
        "repos": {
            str(name): {k: v for k, v in entry.to_dict().items() if k != "name"}
            for name, entry in sorted(catalog.repos.items())
        },
    }
    return json.dumps(document, indent=1).encode()


def parse_catalog(data: bytes, place: str) -> Catalog:
    """Return the catalog of a JSON document.

    Raises
    ------
    FormatError
        Kind ``invalid-file-format``; not a catalog, or one of a later version.
    """
    try:
        document = json.loads(data)
        version = document["icechunk_lake"]
        if version != CATALOG_VERSION:
            raise _bad(place, f"it is of version {version!r}, this package knows {CATALOG_VERSION}")
        entries = [_entry(name, fields) for name, fields in document["repos"].items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise _bad(place, repr(e)) from e
    return Catalog({entry.name: entry for entry in entries})


def _entry(name: str, fields: Mapping[str, Any]) -> RepoEntry:
    location, description, metadata = fields["location"], fields["description"], fields["metadata"]
    if not isinstance(location, str) or not isinstance(metadata, dict):
        raise TypeError(f"entry {name!r}")
    return RepoEntry(
        name=RepoName.parse(name),
        location=location,
        created_at=datetime.fromisoformat(fields["created_at"]).astimezone(UTC),
        description=description if description is None else str(description),
        metadata=metadata,
    )


def _bad(place: str, what: str) -> FormatError:
    return FormatError(
        f"{CATALOG_KEY} of the lake at {place} is not a catalog ({what}). If the place is right, "
        "restore the file; the repositories themselves are not affected."
    )
