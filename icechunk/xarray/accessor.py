"""``ds.to_icechunk(session, ...)``: the writer as a method of xarray objects."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import xarray as xr

from icechunk.xarray.writer import to_icechunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from icechunk.dask.pending import PendingWrite
    from icechunk.dask.plan import WritePlan
    from icechunk.report import IngestReport

_NAME = "to_icechunk"


class ToIcechunk:
    """What ``ds.to_icechunk`` is: callable like the function, without its first argument."""

    def __init__(self, obj: xr.DataArray | xr.Dataset) -> None:
        self._obj = obj

    def __call__(self, *args: Any, **kwargs: Any) -> PendingWrite | IngestReport | WritePlan:
        """Write the object; see `icechunk.xarray.to_icechunk`."""
        written: PendingWrite | IngestReport | WritePlan = to_icechunk(self._obj, *args, **kwargs)
        return written

    def __repr__(self) -> str:
        return f"<method to_icechunk of {type(self._obj).__name__}; see icechunk.xarray>"


def _as_method() -> None:
    # Help and completion in notebooks look at the object, not at its __call__.
    signature = inspect.signature(to_icechunk)
    _, *rest = signature.parameters.values()
    ToIcechunk.__doc__ = ToIcechunk.__call__.__doc__ = to_icechunk.__doc__
    ToIcechunk.__call__.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY), *rest]
    )


def register() -> None:
    """Give datasets and data arrays the method, also when this package is imported again."""
    _as_method()
    accessors: list[tuple[type, Callable[[str], Any]]] = [
        (xr.Dataset, xr.register_dataset_accessor),
        (xr.DataArray, xr.register_dataarray_accessor),
    ]
    for cls, register_accessor in accessors:
        there = getattr(cls, _NAME, None)
        if getattr(there, "__module__", None) == __name__:
            # Ours, from an earlier import; xarray warns only about replacing somebody else's.
            delattr(cls, _NAME)
        register_accessor(_NAME)(ToIcechunk)
