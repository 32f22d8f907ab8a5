"""Base of the mutable option classes: checked fields, merging, copying.

The official options are plain mutable objects with every field optional. Fields are declared with
`unsigned`, `text`, `flag`, `part` and so on; a value of the wrong type or size is refused when it
is set, in the constructor or later, so that a config that exists can be stored.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from typing import TYPE_CHECKING, Any

from icechunk._display import Displayed

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self


class Settings(Displayed):
    """Mixin of an option class: a dataclass with ``slots=True, repr=False``."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        declared = getattr(type(self), "__dataclass_fields__", {}).get(name)
        if declared is not None and (value is not None or declared.metadata.get("required")):
            try:
                value = declared.metadata["check"](value)
            except (TypeError, ValueError) as exc:
                exc.add_note(f"while setting {type(self).__name__}.{name}")
                raise
        object.__setattr__(self, name, value)

    def merge(self, other: Self) -> Self:
        """Return a copy in which every field set in the other replaces this one's.

        Parameters
        ----------
        other : same class
            What takes precedence; its fields that are None change nothing. Nested options are
            merged field by field.
        """
        if type(other) is not type(self):
            raise TypeError(f"expected {type(self).__name__}, not {type(other).__name__}")
        merged = copy.deepcopy(self)
        for field in dataclasses.fields(self):  # type: ignore[arg-type] # subclasses are dataclasses
            ours, theirs = getattr(merged, field.name), getattr(other, field.name)
            if theirs is None:
                continue
            nested = isinstance(ours, Settings) and not field.metadata.get("replaced_whole")
            setattr(merged, field.name, ours.merge(theirs) if nested else copy.deepcopy(theirs))
        return merged


def _declared(check: Callable[[Any], object], **metadata: object) -> Any:
    return dataclasses.field(default=None, metadata={"check": check, **metadata})


def unsigned(bits: int, *, at_least: int = 0, keyword: bool = False) -> Any:
    """Declare an optional integer field of so many bits.

    Parameters
    ----------
    bits : int
        Width it is stored with; a value of ``2**bits`` or more is refused with ValueError.
    at_least : int
        Smallest value.
    keyword : bool
        Whether the constructor takes it by keyword only.
    """
    return _integer(at_least, 2**bits - 1, keyword=keyword)


def signed(bits: int, *, keyword: bool = False) -> Any:
    """Declare an optional signed integer field of so many bits; see `unsigned`."""
    return _integer(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, keyword=keyword)


def _integer(low: int, high: int, *, keyword: bool) -> Any:
    def check(value: object) -> int:
        number = operator.index(value)  # type: ignore[arg-type] # raises the TypeError we want
        if not low <= number <= high:
            raise ValueError(f"must be between {low} and {high}, got {number}")
        return number

    return dataclasses.field(default=None, kw_only=keyword, metadata={"check": check})


def instance(expected: type, *, replaced_whole: bool = False) -> Any:
    """Declare an optional field that holds an instance of a class.

    Parameters
    ----------
    expected : type
        The class; anything else is refused with TypeError.
    replaced_whole : bool
        Whether a merge replaces the value instead of merging its fields.
    """
    return _declared(_instance_check(expected), replaced_whole=replaced_whole)


def text(*, required: bool = False) -> Any:
    """Declare a string field, optional unless it is required."""
    return _required(str) if required else instance(str)


def flag(default: bool | None = None) -> Any:
    """Declare a boolean field, optional unless it has a default."""
    return instance(bool) if default is None else _required(bool, default=default)


def required(expected: type) -> Any:
    """Declare a field without default that holds an instance of a class, never None."""
    return _required(expected)


def _required(expected: type, **more: Any) -> Any:
    metadata = {"check": _instance_check(expected), "required": True}
    return dataclasses.field(metadata=metadata, **more)


def _instance_check(expected: type) -> Callable[[object], object]:
    def check(value: object) -> object:
        if not isinstance(value, expected):
            raise TypeError(f"expected {expected.__qualname__}, not {type(value).__name__}")
        return value

    return check


def checked(check: Callable[[Any], object]) -> Any:
    """Declare an optional field with its own check, which returns the value to keep."""
    return _declared(check)
