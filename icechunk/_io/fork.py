"""Forget locks and work in progress in a forked child.

A fork copies memory but only the calling thread. A lock that another thread held, or a load it was
leading, would stay held or pending in the child for ever; whoever owns such state registers it.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """Something with state that does not survive a fork."""

    def after_fork(self) -> None:
        """Start afresh; called in the child, with one thread alive."""


_registered: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def reset_in_child(owner: ForkAware) -> None:
    """Have ``owner.after_fork()`` called in every forked child, as long as ``owner`` lives."""
    _registered.add(owner)


def _run() -> None:
    for owner in list(_registered):
        owner.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_run)
