"""Columns of equal values that take no memory, and joining and selecting that keeps them so.

A constant column is an array whose elements are all the same one, `numpy.broadcast_to` of it. Most
columns of most chunk tables are constant: a million native chunks have one kind, no offset, no
payload and no time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk._typing import AnyArray, BoolArray, I64Array

Held: TypeAlias = "AnyArray | bytes | memoryview"
"""A column, or bytes that columns lie over."""


def constant(value: Any, n: int, dtype: Any) -> AnyArray:
    """Return a read-only column of ``n`` equal values, shape ``(n,)``."""
    one = np.array(value, dtype)
    # What numpy.broadcast_to does, at a tenth of its cost: small commits make dozens.
    column = np.ndarray((n,), one.dtype, one, 0, (0,))
    column.flags.writeable = False
    return column


def is_constant(column: AnyArray) -> bool:
    """Say whether a column is one value over and over, without looking at them."""
    return column.ndim == 1 and len(column) > 0 and column.strides[0] == 0


def joined(columns: Sequence[AnyArray], rows: I64Array | BoolArray | None = None) -> AnyArray:
    """Return columns one after the other, or selected rows of that.

    Parameters
    ----------
    columns : sequence of ndarray
        At least one.
    rows : ndarray of int64 or bool, optional
        Which rows to return; all when omitted.
    """
    filled = [column for column in columns if len(column)]
    if filled and all(is_constant(c) and c[0] == filled[0][0] for c in filled):
        total = sum(map(len, filled))
        return constant(filled[0][0], total if rows is None else _count(rows), filled[0].dtype)
    whole = np.concatenate(columns)
    return whole if rows is None else whole[rows]


def taken(column: AnyArray, rows: I64Array | BoolArray | slice) -> AnyArray:
    """Return selected rows of a column."""
    if is_constant(column) and not isinstance(rows, slice):
        return constant(column[0], _count(rows), column.dtype)
    return column[rows]


def separate(column: AnyArray) -> AnyArray:
    """Return a column over memory of its own: itself, or a copy of what is part of a larger one."""
    if is_constant(column) or held_bytes([column]) <= column.nbytes:
        return column
    copied: AnyArray = column.copy()
    return copied


def held_bytes(parts: Iterable[Held]) -> int:
    """Return how much memory columns keep alive: each buffer whole, and once; unit: bytes."""
    sizes: dict[int, int] = {}
    for part in parts:
        owner = _owner(part)
        known = isinstance(owner, np.ndarray | bytes | bytearray)
        held = owner if known else part  # what others made may not tell its size
        sizes[id(owner)] = held.nbytes if isinstance(held, np.ndarray) else len(held)
    return sum(sizes.values())


def _owner(part: Any) -> Any:
    """Return the object that has the memory which a column or view shows."""
    while True:
        if isinstance(part, np.ndarray) and part.base is not None:
            part = part.base
        elif isinstance(part, memoryview):
            part = part.obj
        else:
            return part


def _count(rows: I64Array | BoolArray) -> int:
    return int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
