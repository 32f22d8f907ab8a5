"""Conditions on arrays, for fetching their manifests early.

Public path: `icechunk.config`. Pure performance: what is preloaded changes no result.

Source: Icechunk specification, section "Repository configuration".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from icechunk._cases import CaseUnion, TupleCase, closed, listed, members, require_text
from icechunk._display import quoted
from icechunk._patterns import pattern_found

if TYPE_CHECKING:
    from collections.abc import Sequence

_PRELOAD: Final = "icechunk.config.ManifestPreloadCondition"
_MAX_REFS: Final = 2**32


class _PreloadCase:
    """Mixin of a case of `ManifestPreloadCondition`."""

    __slots__ = ()

    def __or__(self, other: AnyPreloadCondition) -> ManifestPreloadCondition.Or:
        return ManifestPreloadCondition.or_conditions([self, other])  # type: ignore[list-item] # a case

    def __and__(self, other: AnyPreloadCondition) -> ManifestPreloadCondition.And:
        return ManifestPreloadCondition.and_conditions([self, other])  # type: ignore[list-item] # a case


@closed
class ManifestPreloadCondition(CaseUnion):
    """Which arrays to preload manifests for: one of the nested cases.

    Every case has ``matches(path, num_refs)``.
    """

    @dataclass(frozen=True, slots=True, repr=False)
    class Or(_PreloadCase, TupleCase):
        """Any of the conditions holds; never, when there is none."""

        _0: tuple[AnyPreloadCondition, ...]

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", members(self._0, ManifestPreloadCondition))

        def matches(self, path: str, num_refs: int) -> bool:
            """Tell whether the condition holds for an array of so many references."""
            return any(part.matches(path, num_refs) for part in self._0)

        def __repr__(self) -> str:
            return f"{_PRELOAD}.or_conditions({listed(self._0)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class And(_PreloadCase, TupleCase):
        """All of the conditions hold; always, when there is none."""

        _0: tuple[AnyPreloadCondition, ...]

        def __post_init__(self) -> None:
            object.__setattr__(self, "_0", members(self._0, ManifestPreloadCondition))

        def matches(self, path: str, num_refs: int) -> bool:
            """Tell whether the condition holds for an array of so many references."""
            return all(part.matches(path, num_refs) for part in self._0)

        def __repr__(self) -> str:
            return f"{_PRELOAD}.and_conditions({listed(self._0)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class PathMatches(_PreloadCase):
        """A regular expression is found anywhere in the array's absolute path."""

        regex: str

        def __post_init__(self) -> None:
            require_text(self.regex, "regex")

        def matches(self, path: str, num_refs: int) -> bool:  # noqa: ARG002 # same shape
            """Tell whether the condition holds for an array of so many references."""
            return pattern_found(self.regex, path)

        def __repr__(self) -> str:
            return f"{_PRELOAD}.path_matches({quoted(self.regex)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class NameMatches(_PreloadCase):
        """A regular expression is found anywhere in the array's name."""

        regex: str

        def __post_init__(self) -> None:
            require_text(self.regex, "regex")

        def matches(self, path: str, num_refs: int) -> bool:  # noqa: ARG002 # same shape
            """Tell whether the condition holds for an array of so many references."""
            return pattern_found(self.regex, path.rpartition("/")[2])

        def __repr__(self) -> str:
            return f"{_PRELOAD}.name_matches({quoted(self.regex)})"

    @dataclass(frozen=True, slots=True, repr=False)
    class NumRefs(_PreloadCase):
        """The array has at least ``from_`` and fewer than ``to`` references.

        Parameters
        ----------
        from_ : int or None
            Least number; None for no bound. Also readable under its official name ``from``.
        to : int or None
            Number it must stay below; None for no bound.
        """

        from_: int | None = None
        to: int | None = None

        def __post_init__(self) -> None:
            for bound in (self.from_, self.to):
                if bound is not None and not 0 <= operator.index(bound) < _MAX_REFS:
                    raise ValueError(f"a number of references is below 2**32, got {bound}")

        def matches(self, path: str, num_refs: int) -> bool:  # noqa: ARG002 # same shape
            """Tell whether the condition holds for an array of so many references."""
            return (self.from_ is None or num_refs >= self.from_) and (
                self.to is None or num_refs < self.to
            )

        def __repr__(self) -> str:
            return f"{_PRELOAD}.num_refs({self.from_}, {self.to})"

    @staticmethod
    def or_conditions(conditions: Sequence[AnyPreloadCondition]) -> ManifestPreloadCondition.Or:
        """Make a condition that holds when any of the given ones does."""
        return ManifestPreloadCondition.Or(tuple(conditions))

    @staticmethod
    def and_conditions(conditions: Sequence[AnyPreloadCondition]) -> ManifestPreloadCondition.And:
        """Make a condition that holds when all of the given ones do."""
        return ManifestPreloadCondition.And(tuple(conditions))

    @staticmethod
    def path_matches(regex: str) -> ManifestPreloadCondition.PathMatches:
        """Make a condition on the array's absolute path."""
        return ManifestPreloadCondition.PathMatches(regex)

    @staticmethod
    def name_matches(regex: str) -> ManifestPreloadCondition.NameMatches:
        """Make a condition on the array's name."""
        return ManifestPreloadCondition.NameMatches(regex)

    @staticmethod
    def num_refs(
        from_: int | None = None, to: int | None = None
    ) -> ManifestPreloadCondition.NumRefs:
        """Make a condition on the number of references: ``from_ <= n < to``."""
        return ManifestPreloadCondition.NumRefs(from_, to)

    @staticmethod
    def true() -> AlwaysPreload:
        """Make a condition that always holds."""
        return AlwaysPreload()

    @staticmethod
    def false() -> NeverPreload:
        """Make a condition that never holds."""
        return NeverPreload()


@dataclass(frozen=True, slots=True, repr=False)
class AlwaysPreload(_PreloadCase, TupleCase):
    """Every array; officially ``ManifestPreloadCondition.True``, a name Python cannot write."""

    def matches(self, path: str, num_refs: int) -> bool:  # noqa: ARG002 # same shape
        """Tell whether the condition holds for an array of so many references."""
        return True

    def __repr__(self) -> str:
        return f"{_PRELOAD}.true()"


@dataclass(frozen=True, slots=True, repr=False)
class NeverPreload(_PreloadCase, TupleCase):
    """No array; officially ``ManifestPreloadCondition.False``, a name Python cannot write."""

    def matches(self, path: str, num_refs: int) -> bool:  # noqa: ARG002 # same shape
        """Tell whether the condition holds for an array of so many references."""
        return False

    def __repr__(self) -> str:
        return f"{_PRELOAD}.false()"


for _name, _case in {"True": AlwaysPreload, "False": NeverPreload}.items():
    setattr(ManifestPreloadCondition, _name, ManifestPreloadCondition.register(_case))
# Keywords again: the official attribute is called ``from``.
setattr(ManifestPreloadCondition.NumRefs, "from", property(operator.attrgetter("from_")))

AnyPreloadCondition: TypeAlias = (
    ManifestPreloadCondition.Or
    | ManifestPreloadCondition.And
    | ManifestPreloadCondition.PathMatches
    | ManifestPreloadCondition.NameMatches
    | ManifestPreloadCondition.NumRefs
    | AlwaysPreload
    | NeverPreload
)

# Names of coordinates in the manner of the CF conventions: time, vertical, y, latitude,
# longitude, x. They are small and nearly every open of a data set reads them.
_COORDINATE_NAMES: Final = (
    r"^(t|(time|min|hour|day|week|month|year)[0-9]*)$",
    r"^(z|o*lev|nav_lev|gdep|lv_|bottom_top|sigma|hei?ght|altitude|depth|isobaric|pres)[a-z_]*\d*$",
    r"^(y|j|nj|nlat|rlat)$",
    r"^y?(lat|nav_lat|gphi)[a-z0-9]*$",
    r"^x?(lon|nav_lon|glam)[a-z0-9]*$",
    r"^(x|i|ni|nlon|rlon)$",
)

DEFAULT_PRELOAD: Final = ManifestPreloadCondition.and_conditions(
    [
        ManifestPreloadCondition.or_conditions(
            [ManifestPreloadCondition.name_matches(regex) for regex in _COORDINATE_NAMES]
        ),
        ManifestPreloadCondition.num_refs(None, 1001),
    ]
)
"""Coordinate-like names with at most 1000 references."""
