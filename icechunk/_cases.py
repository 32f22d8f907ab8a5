"""Tagged unions: a closed class whose nested classes are its cases.

``S3Credentials.Static(...)`` is an instance of ``S3Credentials`` too, its content is at ``[0]``
and matches positionally, and ``S3Credentials`` itself cannot be made.
"""

from __future__ import annotations

import operator
from abc import ABC
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_Union = TypeVar("_Union", bound="type[CaseUnion]")


class CaseUnion(ABC):  # noqa: B024 # an ABC for `register`; the cases do not inherit
    """Base of a union; only its cases can be made."""

    __slots__ = ()

    def __init__(self) -> None:
        raise TypeError(f"cannot make {type(self).__qualname__}: use one of its cases")


def closed(union: _Union) -> _Union:
    """Make every nested class count as an instance of the union."""
    for case in vars(union).values():
        if isinstance(case, type):
            union.register(case)
    return union


class TupleCase:
    """Mixin of a case with unnamed content: ``case[0]``, ``len(case)``."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __len__(self) -> int:
        return len(fields(self))

    def __bool__(self) -> bool:
        # A case without content has length 0 and is still no false value.
        return True

    def __getitem__(self, index: int) -> Any:
        return tuple(getattr(self, f.name) for f in fields(self))[index]


def require_text(value: object, name: str) -> None:
    """Raise TypeError unless the value is a string; never name the value, it may be a secret."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")


def check_limit(name: str, value: SupportsIndex, at_least: int = 1) -> int:
    """Return a limit; TypeError when it is no integer, ValueError when it is below the least."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    number = operator.index(value)
    if number < at_least:
        raise ValueError(f"{name} must be at least {at_least}, not {number}")
    return number


def members(conditions: Iterable[object], union: type) -> tuple[Any, ...]:
    """Return the parts of a compound condition; TypeError when one is no case of the union."""
    parts = tuple(conditions)
    for part in parts:
        if not isinstance(part, union):
            raise TypeError(f"expected {union.__name__}, not {type(part).__name__}")
    return parts


def listed(values: Iterable[object]) -> str:
    """Return the values as they are shown in a list."""
    return f"[{', '.join(map(repr, values))}]"
