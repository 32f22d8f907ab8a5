"""Blocking twins of `icechunk.lake.client`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from icechunk.lake.catalog import RepoEntry
    from icechunk.lake.names import Author


class ClientTwins:
    """Blocking methods of `icechunk.lake.client.Client`."""

    __slots__ = ()

    @property
    def root(self) -> str:
        """Where the lake is."""
        return self._async.root

    @property
    def author(self) -> Author:
        """Who commits."""
        return self._async.author

    def exists(self) -> bool:
        """Say whether there is a lake at the root: its first repository makes it.

        Raises
        ------
        FormatError
            What is there is no catalog.
        StorageError
            The place cannot be read.
        """
        return run(self._async.exists())

    def list_repos(
        self,
        org: str | None = None,
        *,
        filter_metadata: str | Mapping[str, Any] | None = None,
    ) -> Sequence[RepoEntry]:
        """Return the repositories of the lake, by name; none where no lake is, see `exists`.

        Parameters
        ----------
        org : str, optional
            Only those of one organisation.
        filter_metadata : str or mapping, optional
            Only those whose metadata a JMESPath expression passes, or has these keys and values.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; not a JMESPath expression.
        """
        return run(self._async.list_repos(org, filter_metadata=filter_metadata))

    def get_metadata(self, name: str) -> dict[str, Any]:
        """Return the metadata of a repository; raises as `get_repo`."""
        return run(self._async.get_metadata(name))

    def set_metadata(self, name: str, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata of a repository; raises as `get_repo`."""
        return run(self._async.set_metadata(name, metadata))

    def update_metadata(self, name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Set some keys of the metadata of a repository; return all of it afterwards."""
        return run(self._async.update_metadata(name, metadata))

    def delete_repo(self, name: str, *, confirm: str) -> None:
        """Delete a repository with everything in it; there is no way back.

        Parameters
        ----------
        name : str
            ``"org/name"``.
        confirm : str
            The same name once more.

        Raises
        ------
        InvalidInputError
            Kind ``not-allowed``; ``confirm`` is another name.
        RepositoryNotFoundError
            There is none of that name.

        Notes
        -----
        The name goes first, so a deletion that dies on the way leaves objects that nobody finds,
        and never half a repository.
        """
        return run(self._async.delete_repo(name, confirm=confirm))
