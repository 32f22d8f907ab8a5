"""Real input through a 2-process cluster, into a directory and into S3, and back, bit for bit."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr
from distributed import LocalCluster

import icechunk
from icechunk.storage.url import storage_for_url
from tests.peer import peer_python, run_peer
from tests.s3_server import BUCKET
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path

    from icechunk import Storage
    from tests.cli.conftest import Cli
    from tests.s3_server import S3Server

pytestmark = pytest.mark.slow
RAW: dict[str, Any] = {"mask_and_scale": False, "decode_times": False, "decode_coords": False}


def peer_is_there() -> bool:
    try:
        peer_python()
    except pytest.skip.Exception:
        return False
    return True


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


PEER_READS = """
import hashlib, json, sys
import icechunk, zarr
if sys.argv[1] == "local":
    storage = icechunk.local_filesystem_storage(sys.argv[2])
else:
    storage = icechunk.s3_storage(**json.loads(sys.argv[2]))
store = icechunk.Repository.open(storage).readonly_session("main").store
root = zarr.open_group(store, mode="r")
print(json.dumps({
    f"{group}/{name}": [str(array.dtype), hashlib.sha256(array[...].tobytes()).hexdigest()]
    for group in ("wind", "mask") for name, array in root[group].arrays()
}))
"""


def check_with_peer(kind: str, where: str) -> None:
    """Have the official package read all arrays, and compare with the files."""
    read = run_peer(PEER_READS, kind, where)
    expected = {}
    for group, path in sources().items():
        with xr.open_dataset(path, **RAW) as dataset:
            for name, variable in dataset.variables.items():
                digest = hashlib.sha256(variable.values.tobytes()).hexdigest()
                expected[f"{group}/{name}"] = [str(variable.dtype), digest]
    assert read == expected


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


@pytest.mark.peer
def test_the_official_package_reads_the_same(cli: Cli) -> None:
    for group, path in sources().items():
        chunks = "latitude=61" if group == "wind" else "Y=60"
        cli("ingest", path, "repo", "--group", group, "--chunks", chunks)
    check_with_peer("local", str(cli.directory / "repo"))


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
    peer_options = {"bucket": BUCKET, "prefix": "real/input", **options}
    peer_options.pop("backend", None)  # ours alone
    if peer_is_there():
        check_with_peer("s3", json.dumps(peer_options))
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
