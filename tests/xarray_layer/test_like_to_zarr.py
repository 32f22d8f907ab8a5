"""The same call through `to_icechunk` and through xarray's own `to_zarr` ends the same way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore

from icechunk.xarray import to_icechunk

XARRAY = tuple(map(int, xr.__version__.split(".")[:2]))


def base(chunks=None, periods=20, start="2000-01-01"):
    rng = np.random.default_rng(0)
    ds = xr.Dataset(
        {
            "t": (("time", "x"), rng.random((periods, 10)).astype("f4"), {"units": "K"}),
            "n": (("x",), np.arange(10, dtype="i2")),
            "scalar": ((), 3.5),
        },
        coords={"time": pd.date_range(start, periods=periods), "x": np.arange(10) * 0.5},
        attrs={"title": "test"},
    )
    return ds if chunks is None else ds.chunk(chunks)


def strings():
    return xr.Dataset(
        {
            "s": ("x", np.array(["a", "bcd", ""], dtype=object)),
            "u": ("x", np.array(["a", "bcd", ""])),
            "b": ("x", np.array([b"a", b"bcd", b""])),
            "flag": ("x", np.array([True, False, True])),
        }
    )


def empty():
    return xr.Dataset({"e": (("x", "y"), da.zeros((0, 5), chunks=(5, 5)))}, {"x": np.zeros(0)})


@dataclass
class Call:
    """One write: what, and with which arguments."""

    obj: Any
    kwargs: dict[str, Any] = field(default_factory=dict)


def calls(*steps, **kwargs):
    return [step if isinstance(step, Call) else Call(step, kwargs) for step in steps]


MORE = base({"time": 5}, 10, "2000-01-21")
REGION = base({"time": 5}).isel(time=slice(5, 15)).drop_vars(["n", "scalar", "x"])
SCALED = {"t": {"dtype": "i2", "scale_factor": 0.01, "_FillValue": -1, "chunks": (5, 10)}}

CASES = {
    "eager": calls(base()),
    "dask": calls(base({"time": 5})),
    "dask in both dimensions": calls(base({"time": 5, "x": 4})),
    "group": calls(base({"time": 5}), group="a/b"),
    "two groups": calls(Call(base(), {"group": "a"}), Call(base({"time": 4}), {"group": "b"})),
    "strings": calls(strings()),
    "strings in blocks": calls(strings().chunk(x=2)),
    "zero size": calls(empty()),
    "zero size in memory": calls(empty().compute()),
    "scaled": calls(Call(base({"time": 5}), {"encoding": SCALED})),
    "time encoding": calls(
        Call(base(), {"encoding": {"time": {"units": "hours since 1990-01-01", "dtype": "i8"}}})
    ),
    "time in blocks": calls(
        Call(
            base({"time": 5}).reset_index("time").reset_coords("time"),
            {"encoding": {"time": {"units": "hours since 1990-01-01", "dtype": "i8"}}},
        )
    ),
    "chunk encoding": calls(Call(base(), {"encoding": {"t": {"chunks": (3, 3)}}})),
    "shards": calls(
        Call(base({"time": 10}), {"encoding": {"t": {"chunks": (5, 5), "shards": (10, 10)}}})
    ),
    "aligned": calls(
        Call(base({"time": 3}), {"encoding": {"t": {"chunks": (4, 10)}}, "align_chunks": True})
    ),
    "unsafe": calls(
        Call(
            base({"time": 3}),
            {
                "encoding": {"t": {"chunks": (4, 10)}},
                "safe_chunks": False,
                "chunkmanager_store_kwargs": {"scheduler": "synchronous"},
            },
        )
    ),
    "mode w": calls(base(), Call(base({"time": 5}) * 2, {"mode": "w"})),
    "mode w-": calls(base(), Call(base(), {"mode": "w-"})),
    "default mode on an existing group": calls(base(), base()),
    "mode a": calls(base(), Call(base({"time": 5}).assign(new=("x", np.ones(10))), {"mode": "a"})),
    "mode r+": calls(base({"time": 5}), Call(base({"time": 5}) * 2, {"mode": "r+"})),
    "mode r+ new variable": calls(
        base(), Call(base().assign(new=("x", np.ones(10))), {"mode": "r+"})
    ),
    "mode r+ without group": calls(Call(base(), {"mode": "r+"})),
    "unknown mode": calls(Call(base(), {"mode": "z"})),
    "append": calls(base({"time": 5}), Call(MORE, {"append_dim": "time"})),
    "append in memory": calls(base(), Call(MORE.compute(), {"append_dim": "time"})),
    "append a-": calls(base({"time": 5}), Call(MORE, {"append_dim": "time", "mode": "a-"})),
    "append twice": calls(
        base({"time": 5}),
        Call(MORE, {"append_dim": "time"}),
        Call(base({"time": 5}, 5, "2000-01-31"), {"append_dim": "time"}),
    ),
    "append other dims order": calls(
        base({"time": 5}), Call(MORE.transpose("x", "time"), {"append_dim": "time"})
    ),
    "append unknown dim": calls(base(), Call(MORE, {"append_dim": "nope"})),
    "append and mode w": calls(base(), Call(MORE, {"append_dim": "time", "mode": "w"})),
    "append other length": calls(base(), Call(MORE.isel(x=slice(3)), {"append_dim": "time"})),
    "append and encoding": calls(
        base(), Call(MORE, {"append_dim": "time", "encoding": {"t": {"chunks": (5, 5)}}})
    ),
    "region slice": calls(base({"time": 5}), Call(REGION, {"region": {"time": slice(5, 15)}})),
    "region in memory": calls(
        base({"time": 5}), Call(REGION.compute() * 3, {"region": {"time": slice(5, 15)}})
    ),
    "region auto": calls(base({"time": 5}), Call(REGION * 2, {"region": "auto"})),
    "region auto by name": calls(base({"time": 5}), Call(REGION, {"region": {"time": "auto"}})),
    "region mixed": calls(
        base({"time": 5}),
        Call(REGION, {"region": {"time": "auto", "x": slice(0, 10)}}),
    ),
    "region mode a": calls(
        base({"time": 5}),
        Call(REGION.isel(time=slice(0, 5)), {"region": {"time": slice(3, 8)}, "mode": "a"}),
    ),
    "region auto not there": calls(
        base({"time": 5}),
        Call(REGION.assign_coords(time=REGION.time + np.timedelta64(99, "D")), {"region": "auto"}),
    ),
    "region auto with gaps": calls(
        base({"time": 5}), Call(REGION.isel(time=[0, 2]), {"region": "auto"})
    ),
    "region wrong size": calls(base({"time": 5}), Call(REGION, {"region": {"time": slice(0, 5)}})),
    "region unknown dim": calls(base({"time": 5}), Call(REGION, {"region": {"q": slice(0, 5)}})),
    "region step": calls(base({"time": 5}), Call(REGION, {"region": {"time": slice(0, 20, 2)}})),
    "region no slice": calls(base({"time": 5}), Call(REGION, {"region": {"time": 5}})),
    "region with unrelated variables": calls(
        base({"time": 5}), Call(base().isel(time=slice(0, 5)), {"region": {"time": slice(0, 5)}})
    ),
    "region and append": calls(
        base({"time": 5}), Call(MORE, {"append_dim": "time", "region": {"time": slice(0, 10)}})
    ),
    "region and mode w": calls(
        base({"time": 5}), Call(REGION, {"region": {"time": slice(5, 15)}, "mode": "w"})
    ),
    "template and regions": calls(
        Call(base({"time": 5}), {"compute": False}),
        Call(REGION, {"region": {"time": slice(5, 15)}}),
        Call(REGION.isel(time=slice(0, 5)), {"region": {"time": slice(0, 5)}}),
    ),
    "array": calls(base().t),
    "array in blocks": calls(base({"time": 5}).t),
    "array without a name": calls(base().t.rename(None)),
    "array named like a coordinate": calls(base().x),
    "unknown encoding": calls(Call(base(), {"encoding": {"t": {"nonsense": 1}}})),
    "encoding for an unknown variable": calls(Call(base(), {"encoding": {"zzz": {}}})),
    "name that is no text": calls(xr.Dataset({3: ("x", np.ones(3))})),
    "bad attribute": calls(base().assign_attrs(bad=object())),
    "multi-index": calls(base().stack({"z": ["time", "x"]})),  # noqa: PD013 # no pandas here
}


def run(steps, write):
    """Return the class of the error, or None."""
    try:
        for step in steps:
            write(step.obj, **step.kwargs)
    except Exception as e:
        return e
    return None


def contents(store, groups):
    found = {}
    for group in groups:
        try:
            opened = xr.open_zarr(store, group=group, consolidated=False)
        except (FileNotFoundError, KeyError):
            found[group] = None
            continue
        found[group] = opened.load()
    return found


def layout(store):
    """Return what matters in the zarr metadata of every array."""
    root = zarr.open_group(store, mode="r")
    return {
        path: (
            node.shape,
            node.dtype,
            node.chunks,
            node.shards,
            node.compressors,
            node.fill_value if node.fill_value == node.fill_value else "nan",
            dict(node.attrs),
        )
        for path, node in root.members(max_depth=None)
        if isinstance(node, zarr.Array)
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_the_same_as_to_zarr(repo, name):
    steps = CASES[name]
    plain = MemoryStore()
    session = repo.writable_session("main")

    def xarray_writes(obj, **kwargs):
        kwargs.setdefault("zarr_format", 3)
        obj.to_zarr(plain, consolidated=False, **kwargs)

    if name == "aligned" and XARRAY < (2025, 8):
        pytest.skip("this xarray cannot align, or refuses what it could")
    expected = run(steps, xarray_writes)
    actual = run(steps, lambda obj, **kwargs: to_icechunk(obj, session, **kwargs))
    assert (expected is None) == (actual is None), (expected, actual)
    if expected is not None:
        assert isinstance(actual, type(expected)), (expected, actual)
        if len(steps) == 1:
            return
    groups = {step.kwargs.get("group") for step in steps}
    if expected is None:
        assert layout(session.store) == layout(plain)
        ours, theirs = contents(session.store, groups), contents(plain, groups)
        for group in groups:
            xr.testing.assert_identical(ours[group], theirs[group])
