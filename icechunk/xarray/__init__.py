"""Writing xarray objects: `to_icechunk`, as a function and as a method of datasets and arrays.

Importing this module gives `xarray.Dataset` and `xarray.DataArray` a ``to_icechunk`` method.
"""

from icechunk._earlier.writer import XarrayDatasetWriter
from icechunk.xarray.accessor import register
from icechunk.xarray.writer import resolve_region, to_icechunk

register()

__all__ = ["XarrayDatasetWriter", "resolve_region", "to_icechunk"]
