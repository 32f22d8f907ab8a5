"""Merging the change sets of many tasks: the tree, and the official helper functions.

`merge_layer` is what `store_dask` and `to_icechunk` use. The other names are the official helpers
for graphs that users build themselves out of ``dask.array.store(..., return_stored=True)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeAlias, TypeVar

import dask.array as da
import numpy as np
from dask.base import flatten, tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from icechunk.distributed import extract_session, merge_sessions
from icechunk.errors import ErrorKind, InvalidInputError

if TYPE_CHECKING:
    from icechunk.session import ForkSession

P = ParamSpec("P")
R = TypeVar("R")

SimpleGraph: TypeAlias = Mapping[tuple[str, int], tuple[Any, ...]]
"""A graph layer: keys of a name and a number, and their tasks."""

DEFAULT_SPLIT_EVERY: Final = 16


def checked_split_every(split_every: int | None) -> int:
    """Return how many change sets one merge task takes.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; less than two would never end.
    """
    if split_every is None:
        return DEFAULT_SPLIT_EVERY
    if isinstance(split_every, bool) or not isinstance(split_every, int) or split_every < 2:
        raise InvalidInputError(
            f"split_every is {split_every!r}; expected an integer of at least 2.",
            ErrorKind.NOT_ALLOWED,
        )
    return split_every


def count_merges(leaves: int, split_every: int) -> int:
    """Return how many tasks `merge_layer` makes for so many leaves."""
    count = 0
    while True:
        leaves = math.ceil(leaves / split_every)
        count += max(leaves, 1)
        if leaves <= 1:
            return count


def merge_layer(
    name: str,
    leaves: Sequence[Any],
    *,
    split_every: int,
    merge: Callable[[list[Any]], Any],
    finish: Callable[[list[Any]], Any],
) -> tuple[str, dict[Any, Any]]:
    """Return a graph layer that merges leaves as a tree.

    Parameters
    ----------
    name : str
        Prefix of the layer's keys.
    leaves : sequence of keys
        What to merge; neighbours are merged first, so that change sets travel little.
    split_every : int
        How many results one task takes, at least 2.
    merge : callable
        Makes one result out of a list of them; must not change its arguments.
    finish : callable
        Like ``merge``, for the last task.

    Returns
    -------
    key : str
        Key of the last task.
    layer : dict
        The tasks.
    """
    layer: dict[Any, Any] = {}
    level = list(leaves)
    depth = 0
    while len(level) > split_every:
        parts = [level[i : i + split_every] for i in range(0, len(level), split_every)]
        level = [(name, depth, number) for number in range(len(parts))]
        layer.update(zip(level, ((merge, part) for part in parts), strict=True))
        depth += 1
    layer[name] = (finish, level)
    return name, layer


def computing_meta(func: Callable[P, R]) -> Callable[P, Any]:
    """Let a function take part in a dask reduction, which first calls it to learn its dtype.

    Parameters
    ----------
    func : callable
        Works on sessions or stored arrays.

    Returns
    -------
    callable
        Returns an empty object array when dask calls it with ``computing_meta=True``, else what
        ``func`` returns.
    """

    @wraps(func)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
        if kwargs.pop("computing_meta", False):
            return np.array([object()], dtype=object)
        return func(*args, **kwargs)

    return wrapper


def merge_sessions_array_kwargs(
    *sessions: Any, axis: Any = None, keepdims: Any = None
) -> ForkSession:
    """Merge sessions inside a dask reduction, which passes ``axis`` and ``keepdims``.

    Parameters
    ----------
    *sessions : ForkSession, or nested lists of them
        What to merge.
    axis, keepdims : object
        Ignored; a session has no axes.

    Returns
    -------
    ForkSession
        As `icechunk.distributed.merge_sessions`.
    """
    del axis, keepdims
    return merge_sessions(*sessions)


def session_merge_reduction(
    arrays: da.Array | list[da.Array], *, split_every: int | None, **store_kwargs: Any
) -> ForkSession:
    """Compute stored arrays and merge the sessions they were stored through.

    Parameters
    ----------
    arrays : dask array, or list of dask arrays
        Results of ``dask.array.store(..., return_stored=True, load_stored=False, compute=False)``:
        each block is a zarr array that has been written to.
    split_every : int or None
        How many sessions one task merges.
    **store_kwargs
        Passed to ``dask.compute``.

    Returns
    -------
    ForkSession
        Holds the changes of all blocks; give it to `Session.merge`.

    Raises
    ------
    InvalidInputError
        Kind ``not-allowed``; without arrays.
    """
    stored = [arrays] if isinstance(arrays, da.Array) else list(arrays)
    if not stored:
        raise InvalidInputError("no arrays to merge the sessions of.", ErrorKind.NOT_ALLOWED)
    name = f"icechunk-merge-{tokenize(*stored)}"
    blocks = list(flatten([array.__dask_keys__() for array in stored]))
    sessions = [(f"{name}-session", i) for i in range(len(blocks))]
    key, layer = merge_layer(
        name,
        sessions,
        split_every=checked_split_every(split_every),
        merge=merge_sessions,
        finish=merge_sessions,
    )
    layer.update(zip(sessions, ((extract_session, block) for block in blocks), strict=True))
    graph = HighLevelGraph.from_collections(name, layer, dependencies=stored)
    merged: ForkSession = Delayed(key, graph).compute(**store_kwargs)
    return merged
