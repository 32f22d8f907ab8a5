"""What a session is made of, shared by the parts of its public class."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from icechunk.core.changes import ChangeSet
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from icechunk.assets.manager import AssetManager
    from icechunk.checkout import Checkout
    from icechunk.config import RepositoryConfig


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
    """

    checkout: Checkout
    branch: str | None
    config: RepositoryConfig
    default_metadata: Mapping[str, Any] = field(default_factory=dict)
    inherited: ChangeSet = field(default_factory=ChangeSet)
    carried: bool = False
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
