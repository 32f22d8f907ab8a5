"""Repositories: metadata, status and feature flags.

Source: Icechunk specification, section "Contents" (of the repo object).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icechunk._sync.repository_settings import RepositorySettingsTwins
from icechunk.assets.manager import needs_version_2
from icechunk.assets.refs import read_state, update_repo
from icechunk.core.features import feature_flags, set_feature
from icechunk.format import repo_info as stored
from icechunk.format.values import metadata_fields
from icechunk.ops.updates import public_status
from icechunk.snapshots import microseconds_of
from icechunk.types import RepoAvailability, RepoStatus

if TYPE_CHECKING:
    from icechunk.core.history import Change
    from icechunk.format.repo_info import RepoInfo, UpdateKind
    from icechunk.repository_state import RepositoryState
    from icechunk.types import FeatureFlag


class RepositorySettings(RepositorySettingsTwins):
    """The part of a repository that is about the whole of it.

    All of this needs format version 2; in a repository of version 1 it raises `FormatError`, kind
    ``unsupported-spec-version``.
    """

    _state: RepositoryState

    # -- metadata -----------------------------------------------------------------------------

    @property
    def metadata(self) -> dict[str, Any]:
        """Metadata of the repository, read now."""
        return self.get_metadata()

    async def get_metadata_async(self) -> dict[str, Any]:
        """Return the metadata of the repository.

        Examples
        --------
        >>> repo.get_metadata()
        {}
        """
        return dict((await self._info("repository metadata")).metadata)

    async def set_metadata_async(self, metadata: dict[str, Any]) -> None:
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
        given = _checked(metadata)

        def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
            return replace(info, metadata=given), stored.MetadataChanged()

        await self._change("repository metadata", change)

    async def update_metadata_async(self, metadata: dict[str, Any]) -> dict[str, Any]:
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
            As `set_metadata_async`.

        Examples
        --------
        >>> repo.set_metadata({"owner": "me"})
        >>> merged = repo.update_metadata({"project": "x"})
        >>> sorted(repo.get_metadata())
        ['owner', 'project']
        """
        given = _checked(metadata)

        def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
            return replace(info, metadata={**info.metadata, **given}), stored.MetadataChanged()

        return dict((await self._change("repository metadata", change)).metadata)

    # -- status -------------------------------------------------------------------------------

    @property
    def status(self) -> RepoStatus:
        """Whether the repository takes writes, read now."""
        return self.get_status()

    async def get_status_async(self) -> RepoStatus:
        """Return whether the repository takes writes, since when and why.

        Examples
        --------
        >>> repo.get_status().availability
        RepoAvailability.online
        """
        return public_status((await self._info("a repository status")).status)

    async def set_status_async(self, status: RepoStatus) -> None:
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
        if not isinstance(status, RepoStatus):
            raise TypeError(f"expected a RepoStatus, not {type(status).__name__}")
        online = status.availability is RepoAvailability.online
        new = stored.RepoStatus(
            availability=stored.RepoAvailability.ONLINE
            if online
            else stored.RepoAvailability.READ_ONLY,
            set_at_us=microseconds_of(status.set_at),
            reason=status.limited_availability_reason,
        )

        def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
            return replace(info, status=new), stored.RepoStatusChanged(status=new)

        await self._change("a repository status", change, status_change=True)

    # -- feature flags ------------------------------------------------------------------------

    async def feature_flags_async(self) -> list[FeatureFlag]:
        """Return the operations that can be switched off, and whether they are.

        Examples
        --------
        >>> sorted(flag.name for flag in repo.feature_flags())
        ['create_tag', 'delete_tag', 'move_node']
        """
        return feature_flags(await self._info("feature flags"))

    async def enabled_feature_flags_async(self) -> list[FeatureFlag]:
        """Return the operations that can be switched off and are allowed.

        Examples
        --------
        >>> len(repo.enabled_feature_flags())
        3
        """
        return [flag for flag in await self.feature_flags_async() if flag.enabled]

    async def disabled_feature_flags_async(self) -> list[FeatureFlag]:
        """Return the operations that are switched off.

        Examples
        --------
        >>> repo.disabled_feature_flags()
        []
        """
        return [flag for flag in await self.feature_flags_async() if not flag.enabled]

    async def set_feature_flag_async(
        self, name: str, setting: bool | None
    ) -> None:  # the official signature
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
        if setting is not None and not isinstance(setting, bool):
            raise TypeError(f"setting must be a bool or None, not {type(setting).__name__}")
        await self._change("feature flags", set_feature(name, setting))

    # -- helpers ------------------------------------------------------------------------------

    async def _info(self, what: str) -> RepoInfo:
        self._require_version_2(what)
        return (await read_state(self._state.assets)).info

    async def _change(self, what: str, change: Change, *, status_change: bool = False) -> RepoInfo:
        self._require_version_2(what)
        return await update_repo(self._state.assets, change, status_change=status_change)

    def _require_version_2(self, what: str) -> None:
        if self._state.assets.spec_version == 1:
            raise needs_version_2(what)


def _checked(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of metadata that can be stored; raises TypeError for what cannot."""
    if not isinstance(metadata, dict):
        raise TypeError(f"metadata must be a dict, not {type(metadata).__name__}")
    given = dict(metadata)
    metadata_fields(given)
    return given
