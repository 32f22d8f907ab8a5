"""A transactional, version-controlled storage engine for Zarr."""
