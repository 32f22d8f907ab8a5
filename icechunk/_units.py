"""How sizes, counts, durations and times are written and read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

_DECIMAL: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_FACTORS: Final = {
    "": 1,
    "b": 1,
    **{f"{letter}{tail}": 1000**n for n, letter in enumerate("kmgtp", 1) for tail in ("", "b")},
    **{f"{letter}i{tail}": 1024**n for n, letter in enumerate("kmgtp", 1) for tail in ("", "b")},
}
_SIZE: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*\Z")


def bytes_text(size_bytes: float) -> str:
    """Return a size with three significant digits: ``8.3 MB``."""
    size = float(size_bytes)
    unit = 0
    while size >= 999.5 and unit < len(_DECIMAL) - 1:
        size /= 1000
        unit += 1
    if unit == 0:
        return f"{size:.0f} B"
    digits = 2 if size < 9.995 else 1 if size < 99.95 else 0
    return f"{size:.{digits}f} {_DECIMAL[unit]}"


def parse_bytes(text: str) -> int:
    """Return the bytes of ``1GB``, ``64MiB`` or ``1000``.

    Raises
    ------
    ValueError
        When it is no size.
    """
    match = _SIZE.match(text)
    factor = _FACTORS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"{text!r} is no size; write it like 200MB or 1.5GiB")
    return int(float(match[1]) * factor)


def count_text(number: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun: ``1 chunk``, ``1,200 chunks``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def shape_text(shape: tuple[int, ...] | list[int]) -> str:
    """Return a shape: ``192x361x720``; a scalar is ``scalar``."""
    return "x".join(str(n) for n in shape) if shape else "scalar"


def time_text(when: datetime) -> str:
    """Return a time in UTC, to the second."""
    return when.strftime("%Y-%m-%d %H:%M:%S") + " UTC"


def seconds_text(seconds: float) -> str:
    """Return a duration: ``0.8 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if isinstance(seconds, float) and seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
