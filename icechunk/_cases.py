"""Tagged unions: a closed class whose nested classes are its cases.

``S3Credentials.Static(...)`` is an instance of ``S3Credentials`` too, its content is at ``[0]``
and matches positionally, and ``S3Credentials`` itself cannot be made.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import fields
from typing import Any, ClassVar, TypeVar

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
