"""Columns of equal values that take no memory, and joining and selecting that keeps them so.

A constant column is an array whose elements are all the same one, `numpy.broadcast_to` of it. Most
columns of most chunk tables are constant: a million native chunks have one kind, no offset, no
payload and no time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from icechunk._typing import AnyArray, BoolArray, I64Array

# Positions among fewer rows than this fit into four bytes.
_SMALL_TOTAL: Final = 1 << 31

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


@dataclass(frozen=True, slots=True)
class Places:
    """Where each of several rows goes in a new order.

    Parameters
    ----------
    of_row : ndarray of int32 or int64
        New position of each row, -1 for those that are left out.
    count : int
        How many are not left out.
    """

    of_row: AnyArray
    count: int

    @classmethod
    def of(cls, rows: I64Array, total: int) -> Places:
        """Return the places by which ``total`` rows become the given ones, in their order."""
        dtype = np.int32 if total < _SMALL_TOTAL else np.int64
        of_row = np.full(total, -1, dtype)
        of_row[rows] = np.arange(len(rows), dtype=dtype)
        return cls(of_row, len(rows))


def joined(columns: Sequence[AnyArray], places: Places | None = None) -> AnyArray:
    """Return columns one after the other, or their elements in another order.

    Parameters
    ----------
    columns : sequence of ndarray
        At least one.
    places : Places, optional
        Where each element goes; as they come when omitted.

    Notes
    -----
    Memory: the result, and little more.
    """
    filled = [column for column in columns if len(column)]
    if filled and all(is_constant(c) and c[0] == filled[0][0] for c in filled):
        total = sum(map(len, filled))
        return constant(filled[0][0], total if places is None else places.count, filled[0].dtype)
    if places is None:
        return np.concatenate(columns)
    whole = np.empty((places.count, *columns[0].shape[1:]), columns[0].dtype)
    at = 0
    for column in filled:
        here = places.of_row[at : at + len(column)]
        at += len(column)
        if here.min() < 0:
            stays = here >= 0
            whole[here[stays]] = column[stays]
        else:
            whole[here] = column
    return whole


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
