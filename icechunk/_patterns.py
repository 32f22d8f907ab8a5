r"""Regular expressions of stored conditions, which are written for another engine.

Conditions travel between implementations, so patterns are read the way the reference reads them:
look-around and back-references are no valid patterns there, ``\z`` is the end of the text, and an
invalid pattern matches nothing.
"""

from __future__ import annotations

import re
from typing import Final

# An escape, or the start of a group with an extension.
_TOKEN: Final = re.compile(
    r"\\(?:x\{([0-9A-Fa-f]+)\}|(.))|\(\?(<?[=!]|P=|<(?=[A-Za-z_])|\(|>)", re.DOTALL
)


def pattern_found(pattern: str, text: str) -> bool:
    """Tell whether the pattern occurs anywhere in the text.

    Parameters
    ----------
    pattern : str
        Regular expression; one that cannot be read matches nothing.
    text : str
        Where to look.

    Returns
    -------
    bool
        Whether it was found.
    """
    try:
        return re.search(_TOKEN.sub(_translated, pattern), text) is not None
    except (re.error, OverflowError, ValueError):
        return False


def _translated(match: re.Match[str]) -> str:
    code_point, escaped, group = match.groups()
    if code_point is not None:
        return re.escape(chr(int(code_point, 16)))
    if group == "<":
        return "(?P<"
    if group is not None:
        raise re.error(f"(?{group} is no part of the language")
    if escaped in "123456789Z":
        raise re.error(f"\\{escaped} is no part of the language")
    return r"\Z" if escaped == "z" else match.group()
