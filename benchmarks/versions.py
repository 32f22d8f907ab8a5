"""Print, as JSON, which versions an interpreter has, and where its icechunk is."""

from __future__ import annotations

import importlib.metadata
import json
import platform

import icechunk

PACKAGES = ("zarr", "numpy", "xarray", "dask", "distributed")

if __name__ == "__main__":
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    found |= {"icechunk": icechunk.__version__, "python": platform.python_version()}
    print(json.dumps({"versions": found, "file": icechunk.__file__}))
