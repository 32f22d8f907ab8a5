"""Blocking twins of `icechunk.repository_settings`; written by ``python -m icechunk._sync.generate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from icechunk._io.loop import run

if TYPE_CHECKING:
    from typing import Any

    from icechunk.types import FeatureFlag, RepoStatus


class RepositorySettingsTwins:
    """Blocking methods of `icechunk.repository_settings.RepositorySettings`."""

    __slots__ = ()

    def get_metadata(self) -> dict[str, Any]:
        """Return the metadata of the repository.

        Examples
        --------
        >>> repo.get_metadata()
        {}
        """
        return run(self.get_metadata_async())

    def set_metadata(self, metadata: dict[str, Any]) -> None:
        """Replace the metadata of the repository.

        Parameters
        ----------
        metadata : dict
            JSON-like.

        Raises
        ------
        TypeError
            Not a dictionary, a key that is no text, or a value that is not JSON-like.
        ReadOnlyError
            Kind ``read-only-repository``.

        Examples
        --------
        >>> repo.set_metadata({"owner": "me"})
        >>> repo.get_metadata()
        {'owner': 'me'}
        """
        return run(self.set_metadata_async(metadata))

    def update_metadata(self, metadata: dict[str, Any]) -> dict[str, Any]:
        """Set some keys of the metadata of the repository, and leave the others.

        Parameters
        ----------
        metadata : dict
            JSON-like; each key replaces the whole value of the key.

        Returns
        -------
        dict
            All of the metadata now.

        Raises
        ------
        TypeError, ReadOnlyError
            As `set_metadata`.

        Examples
        --------
        >>> repo.set_metadata({"owner": "me"})
        >>> merged = repo.update_metadata({"project": "x"})
        >>> sorted(repo.get_metadata())
        ['owner', 'project']
        """
        return run(self.update_metadata_async(metadata))

    def get_status(self) -> RepoStatus:
        """Return whether the repository takes writes, since when and why.

        Examples
        --------
        >>> repo.get_status().availability
        RepoAvailability.online
        """
        return run(self.get_status_async())

    def set_status(self, status: RepoStatus) -> None:
        """Allow or forbid writes to the repository, for everybody.

        Parameters
        ----------
        status : RepoStatus
            What it shall be. Read-only refuses every change but that of the status.

        Raises
        ------
        TypeError
            Not a `RepoStatus`.

        Examples
        --------
        >>> closed = icechunk.RepoStatus(
        ...     icechunk.RepoAvailability.read_only, limited_availability_reason="archived"
        ... )
        >>> repo.set_status(closed)
        """
        return run(self.set_status_async(status))

    def feature_flags(self) -> list[FeatureFlag]:
        """Return the operations that can be switched off, and whether they are.

        Examples
        --------
        >>> sorted(flag.name for flag in repo.feature_flags())
        ['create_tag', 'delete_tag', 'move_node']
        """
        return run(self.feature_flags_async())

    def enabled_feature_flags(self) -> list[FeatureFlag]:
        """Return the operations that can be switched off and are allowed.

        Examples
        --------
        >>> len(repo.enabled_feature_flags())
        3
        """
        return run(self.enabled_feature_flags_async())

    def disabled_feature_flags(self) -> list[FeatureFlag]:
        """Return the operations that are switched off.

        Examples
        --------
        >>> repo.disabled_feature_flags()
        []
        """
        return run(self.disabled_feature_flags_async())

    def set_feature_flag(self, name: str, setting: bool | None) -> None:
        """Allow an operation, switch it off, or leave it to the default.

        Parameters
        ----------
        name : {"move_node", "create_tag", "delete_tag"}
            Which operation.
        setting : bool or None
            True to allow it, False to switch it off, None to decide nothing: allowed by default.

        Raises
        ------
        InvalidInputError
            Kind ``invalid-feature-flag``; there is no such flag.
        TypeError
            The setting is neither a bool nor None.
        ReadOnlyError
            Kind ``read-only-repository``.

        Examples
        --------
        >>> repo.set_feature_flag("delete_tag", setting=False)
        >>> [flag.name for flag in repo.disabled_feature_flags()]
        ['delete_tag']
        """
        return run(self.set_feature_flag_async(name, setting))
