"""The synthetic weather archive."""

from __future__ import annotations

import numpy as np
import pytest

from icechunk.cli.weather import VARIABLES, Archive, plan_archive, weather


@pytest.mark.parametrize("size", [1, 10**6, 10**7, 3 * 10**7, 10**8, 10**9, 10**11])
def test_sizes(size: int) -> None:
    archive = plan_archive(size)
    assert archive.first % archive.chunk[0] == 0
    assert archive.second % archive.chunk[0] == 0
    assert np.prod(archive.chunk) * 4 <= 8_000_000
    if size >= 10**6:
        assert archive.size_bytes == pytest.approx(size, rel=0.1)


def test_values_do_not_depend_on_how_they_are_computed() -> None:
    archive = plan_archive(10**6)
    other = Archive(
        first=archive.first,
        second=archive.second,
        lat=archive.lat,
        lon=archive.lon,
        chunk=(3, 5, 7),
    )
    whole = weather(archive, 0, archive.steps)
    part = weather(other, 5, 11)
    for name in VARIABLES:
        one, two = whole[name][5:11].values, part[name].values
        assert one.dtype == np.float32
        assert np.array_equal(one.view("u4"), two.view("u4"))


def test_it_looks_like_weather() -> None:
    archive = plan_archive(10**6)
    dataset = weather(archive, 0, archive.steps)
    ranges = {n: (float(dataset[n].min()), float(dataset[n].max())) for n in VARIABLES}
    limits = {
        "t2m": (190, 330), "msl": (94_000, 108_000), "u10": (-60, 60), "v10": (-60, 60),
        "tp": (0, 80),
    }  # fmt: skip
    for name, (low, high) in limits.items():
        assert low <= ranges[name][0] < ranges[name][1] <= high, (name, ranges[name])
    tropics, poles = dataset.t2m.sel(lat=slice(10, -10)), dataset.t2m.sel(lat=slice(90, 70))
    assert float(tropics.mean()) > float(poles.mean()) + 20
    assert dataset.t2m.attrs["units"] == "K"
    assert dataset.orography.dims == ("lat", "lon")
