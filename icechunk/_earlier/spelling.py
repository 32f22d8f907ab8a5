"""Earlier spellings of variants and parameters."""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from enum import Enum

_EnumClass = TypeVar("_EnumClass", bound="type[Enum]")
_Class = TypeVar("_Class", bound=type)
_Callable = TypeVar("_Callable", bound="Callable[..., Any]")
_Value = TypeVar("_Value")

_WORD_END: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def with_other_spellings(**earlier: str) -> Callable[[_EnumClass], _EnumClass]:
    """Let the variants of an enumeration be written ``UPPER_CASE`` and ``snake_case`` too.

    Parameters
    ----------
    **earlier : str
        Variants that are gone, with the ones that took their place.
    """

    def decorate(enumeration: _EnumClass) -> _EnumClass:
        names = dict(enumeration.__members__)
        for name in list(names):
            snake = _WORD_END.sub("_", name).lower()
            names.setdefault(snake, names[name])
            names.setdefault(snake.upper(), names[name])
        names.update({old: names[new] for old, new in earlier.items()})
        for name in names.keys() - enumeration.__members__.keys():
            # What `_add_alias_` does, which is there from Python 3.13 on.
            enumeration._member_map_[name] = names[name]
            type.__setattr__(enumeration, name, names[name])
        return enumeration

    return decorate


def takes_earlier(**renamed: str) -> Callable[[_Callable], _Callable]:
    """Let a function, or the constructor of a class, take parameters by their earlier names.

    Parameters
    ----------
    **renamed : str
        Earlier names, with the present ones.
    """

    def decorate(target: _Callable) -> _Callable:
        if isinstance(target, type):
            target.__init__ = _renaming(target.__init__, renamed)  # type: ignore[misc]
            return target
        return _renaming(target, renamed)

    return decorate


def _renaming(function: _Callable, renamed: Mapping[str, str]) -> _Callable:
    @functools.wraps(function)
    def with_present_names(*args: Any, **kwargs: Any) -> Any:
        for old in renamed.keys() & kwargs.keys():
            new, value = renamed[old], kwargs.pop(old)
            if value is None and new in kwargs:
                continue
            if kwargs.get(new) is not None:
                raise TypeError(f"{old} is the earlier name of {new}: give one of them")
            kwargs[new] = value
        return function(*args, **kwargs)

    return with_present_names  # type: ignore[return-value] # it takes all that the function takes


def earlier_name(present: str) -> property:
    """Return a property that is another attribute under its earlier name."""

    def get(self: object) -> Any:
        return getattr(self, present)

    def put(self: object, value: object) -> None:
        setattr(self, present, value)

    return property(get, put, doc=f"Earlier name of ``{present}``.")


def name_first(cls: _Class) -> _Class:
    """Let `VirtualChunkContainer` take ``(name, url_prefix, store)`` too, the earlier order."""
    original = cls.__init__  # type: ignore[misc] # of this very class

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if len(args) > 1 and isinstance(args[1], str):
            name, url_prefix, *store = args
            args, kwargs = (url_prefix, *store), {"name": name, **kwargs}
        original(self, *args, **kwargs)

    cls.__init__ = init  # type: ignore[misc]
    return cls


def either(present: _Value | None, earlier: _Value | None, names: str) -> _Value | None:
    """Return the one of two parameters that was given.

    Parameters
    ----------
    present, earlier : object
        The same thing under its present and its earlier name.
    names : str
        The two names, for the message.

    Raises
    ------
    ValueError
        Both were given.
    """
    if present is not None and earlier is not None:
        raise ValueError(f"{names} are the same thing: give one of them")
    return earlier if present is None else present
