"""Operations that a repository can switch off.

Source: Icechunk specification, section "Contents" (of the repo object), feature flags. Ids that
this package does not know are kept as they are.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING

from icechunk.errors import ErrorKind, InvalidInputError, SessionStateError
from icechunk.format.repo_info import FeatureFlagChanged
from icechunk.types import FEATURE_NAMES, FeatureFlag

if TYPE_CHECKING:
    from icechunk.core.history import Change
    from icechunk.format.repo_info import RepoInfo, UpdateKind


class Feature(IntEnum):
    """The operations, by their number in a repository."""

    MOVE_NODE = 3
    CREATE_TAG = 4
    DELETE_TAG = 5


def feature_flags(info: RepoInfo) -> list[FeatureFlag]:
    """Return all operations that can be switched off, by id."""
    return [
        FeatureFlag(id=number, name=name, setting=_setting(info, number))
        for number, name in sorted(FEATURE_NAMES.items())
    ]


def _setting(info: RepoInfo, number: int) -> bool | None:
    if number in info.disabled_flags:
        return False
    return True if number in info.enabled_flags else None


def require_feature(info: RepoInfo, feature: Feature) -> None:
    """Refuse an operation that is switched off.

    Raises
    ------
    SessionStateError
        Kind ``feature-flag-disabled``.
    """
    if feature in info.disabled_flags:
        name = FEATURE_NAMES[feature]
        raise SessionStateError(
            f"{name} is switched off in this repository. Allow it with "
            f"repo.set_feature_flag({name!r}, None), or ask who switched it off.",
            ErrorKind.FEATURE_FLAG_DISABLED,
        )


def set_feature(name: str, setting: bool | None) -> Change:  # the public order
    """Plan to allow, forbid or no longer decide an operation.

    Raises
    ------
    InvalidInputError
        Kind ``invalid-feature-flag``; there is none of the name.
    """
    number = next((n for n, known in FEATURE_NAMES.items() if known == name), None)
    if number is None:
        raise InvalidInputError(
            f"no feature flag {name!r}; there are {', '.join(sorted(FEATURE_NAMES.values()))}.",
            ErrorKind.INVALID_FEATURE_FLAG,
        )

    def change(info: RepoInfo) -> tuple[RepoInfo, UpdateKind]:
        enabled = set(info.enabled_flags) - {number}
        disabled = set(info.disabled_flags) - {number}
        if setting is not None:
            (enabled if setting else disabled).add(number)
        return (
            replace(
                info,
                enabled_flags=tuple(sorted(enabled)),
                disabled_flags=tuple(sorted(disabled)),
            ),
            FeatureFlagChanged(id=number, new_value=bool(setting), is_set=setting is not None),
        )

    return change
