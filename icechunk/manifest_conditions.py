"""Conditions on arrays and dimensions, for splitting and preloading manifests.

Public path: `icechunk.config`. Each union is closed: `And`, `Or` and the tests on names and paths;
``a | b`` and ``a & b`` combine. Paths are absolute, a name is the last component of a path.

Source: Icechunk specification, sections "Repository configuration" and "Splitting".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from icechunk._cases import CaseUnion, TupleCase, closed, listed, members, require_text
from icechunk._display import quoted
from icechunk._patterns import pattern_found

if TYPE_CHECKING:
    from collections.abc import Sequence


def _name_of(path: str) -> str:
    return path.rpartition("/")[2]


# --- arrays, for splitting --------------------------------------------------------------------

_SPLIT = "icechunk.config.ManifestSplitCondition"


class _SplitCase:
    """Mixin of a case of `ManifestSplitCondition`."""

    __slots__ = ()

    def __or__(self, other: AnySplitCondition) -> ManifestSplitCondition.Or:
        return ManifestSplitCondition.or_conditions([self, other])  # type: ignore[list-item] # a case

    def __and__(self, other: AnySplitCondition) -> ManifestSplitCondition.And:
        return ManifestSplitCondition.and_conditions([self, other])  # type: ignore[list-item] # a case


@closed
class ManifestSplitCondition(CaseUnion):
    """Which arrays a splitting rule is about: one of the nested cases.

    Every case has ``matches(path)``.
    """

    @dataclass(frozen=True, slots=True, repr=False)
    class Or(_SplitCase, TupleCase):
        """Any of the conditions holds; never, when there is none."""

        _0: tuple[AnySplitCondition, ...]

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", members(self._0, ManifestSplitCondition))

        def matches(self, path: str) -> bool:
            """Tell whether the condition holds for the array at a path."""
            return any(part.matches(path) for part in self._0)

        def __repr__(self) -> str:
            return f"{_SPLIT}.or_conditions({listed(self._0)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class And(_SplitCase, TupleCase):
        """All of the conditions hold; always, when there is none."""

        _0: tuple[AnySplitCondition, ...]

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", members(self._0, ManifestSplitCondition))

        def matches(self, path: str) -> bool:
            """Tell whether the condition holds for the array at a path."""
            return all(part.matches(path) for part in self._0)

        def __repr__(self) -> str:
            return f"{_SPLIT}.and_conditions({listed(self._0)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class PathMatches(_SplitCase):
        """A regular expression is found anywhere in the array's absolute path."""

        regex: str

        def __post_init__(self) -> None:
            require_text(self.regex, "regex")

        def matches(self, path: str) -> bool:
            """Tell whether the condition holds for the array at a path."""
            return pattern_found(self.regex, path)

        def __repr__(self) -> str:
            return f"{_SPLIT}.path_matches({quoted(self.regex)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class NameMatches(_SplitCase):
        """A regular expression is found anywhere in the array's name."""

        regex: str

        def __post_init__(self) -> None:
            require_text(self.regex, "regex")

        def matches(self, path: str) -> bool:
            """Tell whether the condition holds for the array at a path."""
            return pattern_found(self.regex, _name_of(path))

        def __repr__(self) -> str:
            return f"{_SPLIT}.name_matches({quoted(self.regex)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class AnyArray(_SplitCase, TupleCase):
        """Every array."""

        def matches(self, path: str) -> bool:  # noqa: ARG002 # same shape as the others
            """Tell whether the condition holds for the array at a path."""
            return True

        def __repr__(self) -> str:
            return f"{_SPLIT}.AnyArray()"

    @staticmethod
    def or_conditions(conditions: Sequence[AnySplitCondition]) -> ManifestSplitCondition.Or:
        """Make a condition that holds when any of the given ones does."""
        return ManifestSplitCondition.Or(tuple(conditions))

    @staticmethod
    def and_conditions(conditions: Sequence[AnySplitCondition]) -> ManifestSplitCondition.And:
        """Make a condition that holds when all of the given ones do."""
        return ManifestSplitCondition.And(tuple(conditions))

    @staticmethod
    def path_matches(regex: str) -> ManifestSplitCondition.PathMatches:
        """Make a condition on the array's absolute path."""
        return ManifestSplitCondition.PathMatches(regex)

    @staticmethod
    def name_matches(regex: str) -> ManifestSplitCondition.NameMatches:
        """Make a condition on the array's name."""
        return ManifestSplitCondition.NameMatches(regex)


AnySplitCondition: TypeAlias = (
    ManifestSplitCondition.Or
    | ManifestSplitCondition.And
    | ManifestSplitCondition.PathMatches
    | ManifestSplitCondition.NameMatches
    | ManifestSplitCondition.AnyArray
)

# --- dimensions, for splitting ----------------------------------------------------------------

_DIM = "icechunk.config.ManifestSplitDimCondition"


@closed
class ManifestSplitDimCondition(CaseUnion):
    """Which dimensions of an array a chunk count is for: one of the nested cases.

    Every case has ``matches(axis, name)``.
    """

    @dataclass(frozen=True, slots=True, repr=False)
    class Axis(TupleCase):
        """The dimension with this index, from 0."""

        _0: int

        def __post_init__(self) -> None:
            if operator.index(self._0) < 0:
                raise ValueError(f"an axis is counted from 0, got {self._0}")

        def matches(self, axis: int, name: str | None) -> bool:  # noqa: ARG002 # same shape
            """Tell whether the condition holds for a dimension."""
            return axis == self._0

        def __repr__(self) -> str:
            return f"{_DIM}.Axis({self._0})"

    @dataclass(frozen=True, slots=True, repr=False)
    class DimensionName(TupleCase):
        """A regular expression is found anywhere in the dimension's name."""

        _0: str

        def __post_init__(self) -> None:
            require_text(self._0, "a dimension name")

        def matches(self, axis: int, name: str | None) -> bool:  # noqa: ARG002 # same shape
            """Tell whether the condition holds for a dimension; never for one without name."""
            return name is not None and pattern_found(self._0, name)

        def __repr__(self) -> str:
            return f"{_DIM}.DimensionName({quoted(self._0)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class Any(TupleCase):
        """Every dimension."""

        def matches(self, axis: int, name: str | None) -> bool:  # noqa: ARG002 # same shape
            """Tell whether the condition holds for a dimension."""
            return True

        def __repr__(self) -> str:
            return f"{_DIM}.Any()"


AnyDimCondition: TypeAlias = (
    ManifestSplitDimCondition.Axis
    | ManifestSplitDimCondition.DimensionName
    | ManifestSplitDimCondition.Any
)
