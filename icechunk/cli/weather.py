"""A synthetic weather archive: lazy, plausible, and the same wherever and however it is computed.

Every value is a function of its variable and its position alone, so any part can be made again to
check what was stored. Waves travel around the globe, temperature follows sun, season and height,
and a hash of the position adds small-scale noise. Values are rounded to steps a weather service
would keep, so they compress as real fields do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import dask.array as da
import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from icechunk._typing import AnyArray

HOURS_PER_STEP: Final = 6
START: Final = "2026-01-01"
_ITEM_BYTES: Final = 4
_LARGEST_CHUNK_BYTES: Final = 8_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variable:
    """How one variable looks; the numbers are in its units."""

    long_name: str
    standard_name: str
    units: str
    seed: int
    mean: float
    wave: float
    noise: float
    rounding: float


VARIABLES: Final = {
    "t2m": _Variable(
        long_name="2 metre temperature", standard_name="air_temperature", units="K",
        seed=1, mean=288.0, wave=5.0, noise=0.5, rounding=1 / 64,
    ),
    "msl": _Variable(
        long_name="Mean sea level pressure", standard_name="air_pressure_at_mean_sea_level",
        units="Pa", seed=2, mean=101325.0, wave=2200.0, noise=20.0, rounding=1.0,
    ),
    "u10": _Variable(
        long_name="10 metre eastward wind", standard_name="eastward_wind", units="m s-1",
        seed=3, mean=0.0, wave=14.0, noise=1.0, rounding=1 / 128,
    ),
    "v10": _Variable(
        long_name="10 metre northward wind", standard_name="northward_wind", units="m s-1",
        seed=4, mean=0.0, wave=12.0, noise=1.0, rounding=1 / 128,
    ),
    "tp": _Variable(
        long_name="Total precipitation in 6 hours", standard_name="precipitation_amount",
        units="kg m-2", seed=5, mean=-5.0, wave=9.0, noise=4.0, rounding=1 / 128,
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """The size of an archive.

    Parameters
    ----------
    first, second : int
        Steps of the first and second period; multiples of the chunk's.
    lat, lon : int
        Points along each axis.
    chunk : tuple[int, int, int]
        Elements of one chunk along time, lat and lon.
    """

    first: int
    second: int
    lat: int
    lon: int
    chunk: tuple[int, int, int]

    @property
    def steps(self) -> int:
        """Steps of both periods."""
        return self.first + self.second

    @property
    def size_bytes(self) -> int:
        """Uncompressed bytes of all variables along time."""
        return self.steps * self.lat * self.lon * _ITEM_BYTES * len(VARIABLES)


def plan_archive(size_bytes: int) -> Archive:
    """Choose grid, periods and chunks for about so many bytes.

    Parameters
    ----------
    size_bytes : int
        Wanted uncompressed bytes.

    Returns
    -------
    Archive
        The finest of three grids that leaves at least 32 steps; a quarter of the time is the
        second period. The smallest archive there is has about 0.4 MB.
    """
    for degrees in (0.5, 1.0, 2.0, 5.0):
        lat, lon = round(180 / degrees) + 1, round(360 / degrees)
        per_step = lat * lon * _ITEM_BYTES * len(VARIABLES)
        if size_bytes >= 32 * per_step:
            break
    quarter = max(round(size_bytes / per_step / 4), 2)
    chunk_lat, chunk_lon = -(-lat // 2), lon // 2
    fitting = max(_LARGEST_CHUNK_BYTES // (chunk_lat * chunk_lon * _ITEM_BYTES), 1)
    per_quarter = -(-quarter // fitting)
    chunk_time = round(quarter / per_quarter)
    quarter = chunk_time * per_quarter
    return Archive(
        first=3 * quarter,
        second=quarter,
        lat=lat,
        lon=lon,
        chunk=(chunk_time, chunk_lat, chunk_lon),
    )


def weather(archive: Archive, start: int, stop: int) -> xr.Dataset:
    """Return the weather of some steps, computed only when asked for.

    Parameters
    ----------
    archive : Archive
        Grid and chunks.
    start, stop : int
        Half-open range of steps.

    Returns
    -------
    xarray.Dataset
        CF attributes, float32 variables over time, lat and lon, dask chunks as in the archive.
    """
    chunk_time, chunk_lat, chunk_lon = archive.chunk
    t = da.arange(start, stop, chunks=chunk_time, dtype="int64")[:, None, None]
    y = da.arange(archive.lat, chunks=chunk_lat, dtype="int64")[None, :, None]
    x = da.arange(archive.lon, chunks=chunk_lon, dtype="int64")[None, None, :]
    variables = {}
    for name, look in VARIABLES.items():
        values = da.map_blocks(
            _block, t, y, x, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32),
            name=f"weather-{name}-{start}-{stop}-{archive.lat}", variable=name, archive=archive,
        )  # fmt: skip
        attributes = {
            "long_name": look.long_name, "standard_name": look.standard_name, "units": look.units,
        }  # fmt: skip
        if name == "tp":
            attributes["cell_methods"] = "time: sum"
        variables[name] = (("time", "lat", "lon"), values, attributes)
    dataset = xr.Dataset(variables, _coordinates(archive, start, stop), _DATASET_ATTRIBUTES)
    dataset["orography"] = (("lat", "lon"), _orography(archive), _OROGRAPHY_ATTRIBUTES)
    dataset.time.encoding = {"units": f"hours since {START}", "dtype": "int64"}
    return dataset


_DATASET_ATTRIBUTES: Final = {
    "Conventions": "CF-1.11",
    "title": "Synthetic 6-hourly weather",
    "source": "made by icechunk demo from waves, seasons and noise",
}
_OROGRAPHY_ATTRIBUTES: Final = {
    "long_name": "Orography", "standard_name": "surface_altitude", "units": "m",
}  # fmt: skip


def _coordinates(archive: Archive, start: int, stop: int) -> dict[str, xr.Variable]:
    steps = np.arange(start, stop) * np.timedelta64(HOURS_PER_STEP, "h")
    time = np.datetime64(START, "ns") + steps
    lat, lon = (
        _latitudes(np.arange(archive.lat), archive),
        _longitudes(np.arange(archive.lon), archive),
    )
    return {
        "time": xr.Variable("time", time, {"standard_name": "time", "axis": "T"}),
        "lat": xr.Variable(
            "lat", lat, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}
        ),
        "lon": xr.Variable(
            "lon", lon, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}
        ),
    }


def _latitudes(y: AnyArray, archive: Archive) -> AnyArray:
    return 90.0 - y * (180.0 / (archive.lat - 1))


def _longitudes(x: AnyArray, archive: Archive) -> AnyArray:
    return x * (360.0 / archive.lon)


def _orography(archive: Archive) -> AnyArray:
    lat = np.radians(_latitudes(np.arange(archive.lat), archive))[:, None]
    lon = np.radians(_longitudes(np.arange(archive.lon), archive))[None, :]
    return _height(lat, lon).astype(np.float32)


def _height(lat: AnyArray, lon: AnyArray) -> AnyArray:
    ridges: AnyArray = np.cos(3 * lon + 2 * np.sin(2 * lat)) + 0.6 * np.cos(5 * lon - 4 * lat) - 0.7
    heights: AnyArray = np.round(np.maximum(ridges, 0.0) * 2200.0 * np.cos(lat) ** 2)
    return heights


def _block(t: AnyArray, y: AnyArray, x: AnyArray, *, variable: str, archive: Archive) -> AnyArray:
    """Compute one block; `t`, `y` and `x` are positions, shaped to broadcast."""
    look = VARIABLES[variable]
    lat, lon = np.radians(_latitudes(y, archive)), np.radians(_longitudes(x, archive))
    hours = t * float(HOURS_PER_STEP)
    values = _waves(hours, lat, lon, look.seed)
    values *= np.float32(look.wave)
    values += _noise(t, y, x, look.seed) * np.float32(look.noise)
    values += np.float32(look.mean)
    if variable == "t2m":
        values += _climate(hours, lat).astype(np.float32)
        values += _diurnal(hours, lat, lon)
        values -= (0.0065 * _height(lat, lon)).astype(np.float32)
    elif variable == "u10":
        values += (9.0 * np.sin(2 * np.abs(lat)) - 3.0).astype(np.float32)
    elif variable == "tp":
        np.maximum(values, np.float32(0.0), out=values)
    step = np.float32(look.rounding)
    np.divide(values, step, out=values)
    np.rint(values, out=values)
    return np.multiply(values, step, out=values)


def _waves(hours: AnyArray, lat: AnyArray, lon: AnyArray, seed: int) -> AnyArray:
    """Sum waves that travel east; about -1 to 1, strongest in the middle latitudes."""
    total = np.zeros(np.broadcast_shapes(hours.shape, lat.shape, lon.shape), np.float32)
    part = np.empty_like(total)
    envelope = 0.35 + 0.65 * np.sin(2 * lat) ** 2
    for number in (2, 4, 7):
        # cos(k lon - a) as two products of small tables keeps the work at a few passes.
        angle = (
            hours * (0.03 + 0.004 * number * seed) + seed * number + (1 + number % 3) * np.sin(lat)
        )
        weight = envelope / number**0.5 / 1.6
        for by_place, by_time in ((np.cos, np.cos), (np.sin, np.sin)):
            table = by_place(number * lon).astype(np.float32)
            np.multiply((weight * by_time(angle)).astype(np.float32), table, out=part)
            total += part
    return total


def _climate(hours: AnyArray, lat: AnyArray) -> AnyArray:
    season = np.cos(2 * np.pi * hours / 8766.0)
    return 12.0 - 42.0 * np.sin(lat) ** 2 - 14.0 * np.sin(lat) * season


def _diurnal(hours: AnyArray, lat: AnyArray, lon: AnyArray) -> AnyArray:
    sun = (2 * np.pi / 24.0) * (hours - 14.0)
    strength = 5.0 * np.cos(lat)
    east = (np.cos(sun) * strength).astype(np.float32) * np.cos(lon).astype(np.float32)
    east -= (np.sin(sun) * strength).astype(np.float32) * np.sin(lon).astype(np.float32)
    return east


def _noise(t: AnyArray, y: AnyArray, x: AnyArray, seed: int) -> AnyArray:
    """Return numbers in [-0.5, 0.5) from a hash of the position."""
    rows = (t * 2_654_435_761 + y * 40_503 + seed * 97) & 0xFFFFFFFF
    mixed = rows.astype(np.uint32) ^ (x * 2_246_822_519 & 0xFFFFFFFF).astype(np.uint32)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x846CA68B)
    mixed >>= np.uint32(8)
    noise: AnyArray = mixed.astype(np.float32)
    noise *= np.float32(2.0**-24)
    noise -= np.float32(0.5)
    return noise
