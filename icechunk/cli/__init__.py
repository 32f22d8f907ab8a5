"""The command line: parse, call the library, render.

`main` holds the application; each command module has thin functions; `render` turns plain data
into what a terminal shows; the ``*_job`` modules do the heavy work and alone import xarray and
dask.
"""
