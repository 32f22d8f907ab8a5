"""What a session is made of, shared by the parts of its public class."""

from __future__ import annotations

import pickle
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icechunk.assets.manager import AssetManager
from icechunk.assets.virtual import VirtualReader
from icechunk.core.changes import ChangeSet
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.checkout import Checkout
    from icechunk.config import RepositoryConfig


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Place:
    """A repository that sessions came here for: all of them share its client and its cache.

    Parameters
    ----------
    recipe : bytes
        What `recipe_of` made elsewhere.
    assets : AssetManager
        Files of the repository.
    virtual : VirtualReader
        Reads chunks outside of it.
    config : RepositoryConfig
        As the user sees it.
    """

    recipe: bytes
    assets: AssetManager
    virtual: VirtualReader
    config: RepositoryConfig

    @classmethod
    def of(cls, recipe: bytes) -> Place:
        """Open the repository of a recipe; nothing is read."""
        # The recipe came inside a pickle.
        storage, config, authorized, spec_version = pickle.loads(recipe)  # noqa: S301
        assets = AssetManager(storage, config.resolved(storage.default_settings()), spec_version)
        return cls(recipe, assets, VirtualReader(assets.config, authorized), config)

    def has(self, assets: AssetManager, virtual: VirtualReader, config: RepositoryConfig) -> bool:
        """Say whether these are the parts that the recipe stands for."""
        return self.assets is assets and self.virtual is virtual and self.config is config


def recipe_of(assets: AssetManager, virtual: VirtualReader, config: RepositoryConfig) -> bytes:
    """Return what a session elsewhere opens the repository with."""
    return pickle.dumps((assets.storage, config, virtual.authorized, assets.spec_version))


@dataclass(slots=True, eq=False)
class SessionState:
    """What a session is made of.

    Parameters
    ----------
    checkout : Checkout
        Base and changes.
    branch : str or None
        Branch that commits go to; None for read-only sessions and forks.
    config : RepositoryConfig
        As the user sees it.
    default_metadata : mapping
        Commit metadata that every commit gets.
    inherited : ChangeSet
        In a fork, the changes its parent had; they are read and not sent back.
    carried : bool
        In a fork, whether its changes were merged or pickled, so that nothing is lost with it.
    came_from : Place or None
        In a session that came from elsewhere, the repository as it was opened for it.
    """

    checkout: Checkout
    branch: str | None
    config: RepositoryConfig
    default_metadata: Mapping[str, Any] = field(default_factory=dict)
    inherited: ChangeSet = field(default_factory=ChangeSet)
    carried: bool = False
    came_from: Place | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def assets(self) -> AssetManager:
        """Files of the repository."""
        return self.checkout.assets

    def commit_metadata(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return a commit's own metadata over the repository's default."""
        return {**self.default_metadata, **(given or {})}


def checked_message(message: str) -> str:
    """Return a commit message that can be stored.

    Raises
    ------
    TypeError
        It is not text.
    InvalidInputError
        Kind ``invalid-commit-configuration``; it cannot be encoded as UTF-8.
    """
    if not isinstance(message, str):
        raise TypeError(f"the commit message must be text, not {type(message).__name__}")
    try:
        message.encode("utf-8")
    except UnicodeEncodeError as e:
        raise InvalidInputError(
            f"the commit message cannot be stored as UTF-8: {e}.",
            ErrorKind.INVALID_COMMIT_CONFIGURATION,
        ) from e
    return message
