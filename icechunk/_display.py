"""What the public values show: `repr`, `str`, and HTML in a notebook.

``repr`` is the constructor call with every field, ``str`` names the class and then one field a
line, with the default that stands in for an unset one. Secrets are replaced before they get here,
and `scrubbed` and `shown_mapping` catch those that hide in URLs and option maps.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
from enum import Enum
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

SECRET: Final = "****"  # noqa: S105 # what is shown in place of one
_INDENT: Final = "    "
_SECRET_NAMES: Final = re.compile(
    r"secret|token|password|authorization|cookie|credential|signature|bearer|sas"
    r"|access_?key|account_?key|api[-_]?key|private_?key",
    re.IGNORECASE,
)
_URL_PASSWORD: Final = re.compile(r"(://[^/@:\s]*):[^/@\s]*@")
# Signed URLs carry what opens them in their query.
_URL_PARAMETER: Final = re.compile(r"(?<=[?&;])([^=?&;\s]+)=[^&;#\s'\"<>()\[\]{},]+")
_SHORT_SECRET_NAMES: Final = frozenset({"sig", "key", "auth", "pwd", "code"})

_STYLE: Final = """<style>
.icechunk-repr { max-width: 700px; line-height: 1.5; }
.icechunk-repr .icechunk-header { font-weight: 600; border-bottom: 1px solid; }
.icechunk-repr .icechunk-field-name { font-weight: 500; opacity: 0.6; }
.icechunk-repr details > .icechunk-repr { margin-left: 1em; }
</style>
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One field as it is to be shown.

    Parameters
    ----------
    name : str
        Field name.
    value : object
        The value; text is put in quotes, a `Plain` is not.
    default : object
        Stands in for None in ``str`` and HTML; None for no default.
    """

    name: str
    value: object
    default: object = None


class Plain(str):
    """Text shown without quotes."""

    __slots__ = ()


class Displayed:
    """Mixin that gives a dataclass the three forms.

    A subclass names itself in ``_display_name``, and may give ``_display_order`` (field names) and
    ``_display_defaults`` (field name to what stands in for None).
    """

    __slots__ = ()
    _display_name: ClassVar[str]
    _display_order: ClassVar[tuple[str, ...] | None] = None

    @classmethod
    def _display_defaults(cls) -> Mapping[str, object]:
        return {}

    def _display_fields(self) -> Iterable[Shown]:
        names = self._display_order
        if names is None:
            names = tuple(f.name for f in dataclasses.fields(self))  # type: ignore[arg-type] # subclasses are dataclasses
        defaults = self._display_defaults()
        return [Shown(name=n, value=getattr(self, n), default=defaults.get(n)) for n in names]

    def __repr__(self) -> str:
        fields = self._display_fields()
        inner = "".join(f"{_INDENT}{f.name}={_nested(_code(f.value))},\n" for f in fields)
        return f"{self._display_name}(\n{inner})"

    def __str__(self) -> str:
        return _block(self._display_name, self._display_fields())

    def _repr_html_(self) -> str:
        return _STYLE + _html_block(self._display_name, self._display_fields())


class Block:
    """Mixin of what is no constructor call: shown as a title and one named value a line."""

    __slots__ = ()

    def _shown_block(self) -> tuple[str, Sequence[Shown]]:
        """Return title and fields; the subclass says what they are."""
        return type(self).__name__, ()

    def __repr__(self) -> str:
        return _block(*self._shown_block())

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        return shown_html(*self._shown_block())


def plain_fields(**values: object) -> list[Shown]:
    """Return fields whose text is shown without quotes."""
    return [
        Shown(name=name, value=value if isinstance(value, Displayed | Block) else Plain(value))
        for name, value in values.items()
    ]


def shown_html(title: str, fields: Iterable[Shown]) -> str:
    """Return the form for a notebook."""
    return _STYLE + _html_block(title, fields)


def shown_time(when: datetime) -> Plain:
    """Return how a time in UTC is shown."""
    parts = (when.year, when.month, when.day, when.hour, when.minute, when.second, when.microsecond)
    return Plain(f"datetime.datetime({','.join(map(str, parts))}, tzinfo=datetime.timezone.utc)")


def rfc3339(when: datetime) -> str:
    """Return a time in UTC as text: whole, or with three or six digits of the second."""
    digits = "seconds" if not when.microsecond else "milliseconds"
    if when.microsecond % 1000:
        digits = "microseconds"
    return when.replace(tzinfo=None).isoformat(timespec=digits) + "Z"


def scrubbed(text: str) -> str:
    """Return the text with what is secret in URLs replaced: passwords, tokens, signatures."""
    return _URL_PARAMETER.sub(_without_secret, _URL_PASSWORD.sub(rf"\1:{SECRET}@", text))


def _without_secret(parameter: re.Match[str]) -> str:
    name = parameter[1]
    if _SECRET_NAMES.search(name) or name.lower() in _SHORT_SECRET_NAMES:
        return f"{name}={SECRET}"
    return parameter[0]


def quoted(text: str) -> str:
    """Return text as it stands in a program, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def shown_mapping(options: Mapping[str, str] | None) -> Plain:
    """Return how an optional map of options or headers is shown, without values of secrets."""
    if options is None:
        return Plain("None")
    shown = {k: SECRET if _SECRET_NAMES.search(k) else scrubbed(v) for k, v in options.items()}
    return Plain(json.dumps(shown, ensure_ascii=False))


def _scalar(value: object) -> str:
    match value:
        case Plain():
            return str(value)
        case str():
            return f'"{scrubbed(value)}"'
        case Enum():
            return str(getattr(value, "shown_name", value.name))
        case _:
            return str(value)


def _code(value: object) -> str:
    match value:
        case Displayed():
            return repr(value)
        case dict():
            entries = (f"{_INDENT}{quoted(k)}: {_nested(_code(v))},\n" for k, v in value.items())
            return "{\n" + "".join(entries) + "}"
        case str() if not isinstance(value, Plain):
            return quoted(scrubbed(value))
        case Enum():
            return f"icechunk.{type(value).__name__}.{value.name}"
        case _:
            return _scalar(value)


def _nested(text: str) -> str:
    return text.replace("\n", "\n" + _INDENT)


def _lines(value: object) -> str:
    return str(value).removesuffix("\n")


def _block(title: str, fields: Iterable[Shown]) -> str:
    lines = [f"<{title}>"]
    for field in fields:
        value, is_default = _effective(field)
        if isinstance(value, Displayed | Block):
            lines += [f"{field.name}:", _INDENT + _nested(_lines(value))]
        elif isinstance(value, dict):
            lines.append(f"{field.name}:")
            for key, item in value.items():
                lines += [f"{_INDENT}{key}:", _INDENT * 2 + _nested(_nested(_lines(item)))]
        else:
            text = _scalar(value)
            first = f"{field.name}:\n{_INDENT}" if "\n" in text else f"{field.name}: "
            lines.append(first + _nested(text) + (" (default)" if is_default else ""))
    return "".join(f"{line}\n" for line in lines)


def _effective(field: Shown) -> tuple[object, bool]:
    if field.value is not None or field.default is None:
        return field.value, False
    # The parts of a default say themselves that they are defaults; ready-made text needs no mark.
    return field.default, not isinstance(field.default, Displayed | Plain)


def _html_block(title: str, fields: Iterable[Shown]) -> str:
    parts = [f'<div class="icechunk-repr">\n  <div class="icechunk-header">{title}</div>']
    for field in fields:
        value, is_default = _effective(field)
        if isinstance(value, Displayed | Block):
            parts.append(_html_details(field.name, _html_of(value)))
        elif isinstance(value, dict):
            items = "".join(_html_details(str(k), _html_of(v)) for k, v in value.items())
            inner = f'<div class="icechunk-repr">{items}</div>'
            parts.append(_html_details(field.name, inner))
        else:
            text = html.escape(_scalar(value), quote=False) + (" (default)" if is_default else "")
            parts.append(
                '  <div class="icechunk-field">'
                f'<span class="icechunk-field-name">{field.name}:</span> '
                f'<span class="icechunk-field-value">{text}</span></div>'
            )
    return "\n".join([*parts, "</div>\n"])


def _html_of(value: Displayed | Block) -> str:
    return value._repr_html_().removeprefix(_STYLE)


def _html_details(name: str, inner: str) -> str:
    summary = f'<summary class="icechunk-field-name">{html.escape(name)}</summary>'
    return f"  <details>\n    {summary}\n{inner}  </details>"
