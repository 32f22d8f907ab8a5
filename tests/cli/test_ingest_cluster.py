"""Real input through a 2-process cluster, into a directory and into S3, and back, bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import icechunk
from icechunk.storage.url import storage_for_url
from tests.s3_server import BUCKET
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path

    from icechunk import Storage
    from tests.cli.conftest import Cli
    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow
RAW: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_coords": False}


def sources() -> dict[str, Path]:
    data = shared_dir() / "data"
    return {"wind": data / "eraint_uvz.nc", "mask": data / "basin_mask.nc"}


def check(storage: Storage) -> None:
    """Compare what is stored with the files, value by value and attribute by attribute."""
    session = icechunk.Repository.open(storage).readonly_session("main")
    for group, path in sources().items():
        there = xr.open_zarr(session.store, group=group, consolidated=False, **RAW)
        with xr.open_dataset(path, **RAW) as expected:
            assert set(there.variables) == set(expected.variables)
            assert there.attrs == expected.attrs
            for name, variable in expected.variables.items():
                ours = there[name].variable
                assert ours.dtype == variable.dtype
                assert ours.dims == variable.dims
                assert ours.values.tobytes() == variable.values.tobytes()
                attributes = dict(variable.attrs)
                if group == "wind" and name in {"u", "v", "z"}:
                    # NaN is no int16, so it cannot mark anything; it is kept under another name.
                    assert np.isnan(attributes.pop("_FillValue"))
                    attributes["source_FillValue"] = "nan"
                assert ours.attrs.keys() == attributes.keys()
                for key, value in attributes.items():
                    np.testing.assert_array_equal(ours.attrs[key], value)


def ingest_both(cli: Cli, place: str, *options: str) -> None:
    for group, path in sources().items():
        result = cli.process(
            "ingest", path, place, "--group", group, "--workers", 2, "--json", *options,
            "--chunks", "latitude=61,longitude=120" if group == "wind" else "Y=60,X=90",
        )  # fmt: skip
        (commit,) = result.data["commits"]
        assert commit["write_tasks"] > 10
        assert str(shared_dir()) not in result.err


def test_real_input_into_a_directory(cli: Cli) -> None:
    ingest_both(cli, "repo")
    check(icechunk.local_filesystem_storage(str(cli.directory / "repo")))


def test_real_input_into_s3(cli: Cli, s3_server: S3Server) -> None:
    url = f"s3://{BUCKET}/real/input"
    options = {k: v for k, v in s3_server.options().items() if k != "bucket"}
    typed = [
        word
        for key, value in options.items()
        for word in ("-o", f"{key}={'true' if value is True else value}")
    ]
    ingest_both(cli, url, *typed)
    check(storage_for_url(url, **options))
    assert len(cli.process("log", url, "--json", *typed).data) == 3


def test_a_running_scheduler(cli: Cli) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=True, dashboard_address=":0"
    ) as cluster:
        result = cli.process(
            "ingest", sources()["mask"], "repo", "--scheduler", cluster.scheduler_address,
            "--chunks", "Y=60", "--group", "mask",
        )  # fmt: skip
        assert "committed" in result.err
    log = cli("log", "repo", "--json").data
    assert log[0]["message"] == "Ingest basin_mask.nc"


def test_no_scheduler_there(cli: Cli) -> None:
    result = cli.process(
        "ingest", sources()["mask"], "repo", "--scheduler", "tcp://127.0.0.1:9", code=1,
        DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1s",
    )  # fmt: skip
    assert "no dask scheduler answers" in result.err
    assert "Traceback" not in result.err
    assert not (cli.directory / "repo").exists()
