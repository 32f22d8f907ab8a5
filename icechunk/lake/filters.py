"""Filtering metadata by JMESPath expressions.

The rules are those of the document: a NaN is the text "NaN", two missing keys are equal, and keys
with special characters stand in double quotes.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.visitor import TreeInterpreter

from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def compiled_filter(expression: str) -> Callable[[Any], bool]:
    """Return a test of metadata documents.

    Parameters
    ----------
    expression : str
        JMESPath; a document passes where its result is true in JMESPath's sense: anything but
        false, null, an empty text, list or object. Numbers and texts have no order between them: a
        document in which a key is of the other kind does not pass.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; not a JMESPath expression, or it cannot be applied to a document.

    Examples
    --------
    >>> compiled_filter("number >= `3`")({"number": 5})
    True
    >>> compiled_filter("some == 'NaN'")({"some": float("nan")})
    True
    """
    try:
        with warnings.catch_warnings():
            # `2022-05-01` without quotes, which the document uses, is an old way to write text.
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            parsed = jmespath.compile(expression)
    except (JMESPathError, TypeError) as e:
        raise _bad(expression, e) from e

    def passes(document: Any) -> bool:
        try:
            found = _Interpreter().visit(parsed.parsed, nan_as_text(document))
        except JMESPathError as e:
            raise _bad(expression, e) from e
        return found is not None and found is not False and found not in ("", [], {})

    return passes


class _Interpreter(TreeInterpreter):  # type: ignore[misc] # jmespath has no annotations
    """JMESPath's, where values that have no order make null, as the specification says."""

    def visit_comparator(self, node: Any, value: Any) -> Any:
        """Return the result of a comparison; the library raises where types differ."""
        try:
            return super().visit_comparator(node, value)
        except TypeError:
            return None


def nan_as_text(value: Any) -> Any:
    """Return JSON-like values with every NaN as the text "NaN"."""
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    if isinstance(value, dict):
        return {key: nan_as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_as_text(item) for item in value]
    return value


def filtered_names(documents: Iterable[tuple[str, Any]], expression: str) -> list[str]:
    """Return the names of the documents that a JMESPath expression passes, in order."""
    passes = compiled_filter(expression)
    return [name for name, document in documents if passes(document)]


def _bad(expression: object, error: Exception) -> InvalidInputError:
    return InvalidInputError(
        f"cannot filter by {expression!r}: {str(error).strip()}. The expression is JMESPath; text "
        "stands in single quotes, numbers in backticks, keys with special characters in double "
        "quotes.",
        ErrorKind.NOT_ALLOWED,
    )
