"""Write and execute the notebooks: the main job, and work in a lake.

usage: python notebooks/build.py [NAME]

They are built from the cells below, so that they are reviewed as text and never edited by hand.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
SECONDS = 300

CELLS = [
    """# The main job

A dask cluster writes a lazy dataset into a transactional Zarr repository, a second period is appended
in a second commit, and everything is read back and checked.

The cells below are made and run by `notebooks/build.py`.""",
    """MEGABYTES = 200  # uncompressed size of each period""",
    """## A cluster

Two worker processes of this machine. With the address of a real scheduler, nothing below changes.""",
    """from distributed import Client, LocalCluster

cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
client = Client(cluster)""",
    """## A lazy dataset

Temperature and wind on a grid, computed block by block when it is asked for. Nothing here ever holds
the whole dataset.""",
    """import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

LAT, LON, CHUNK = 181, 360, 24
STEPS = max(MEGABYTES * 10**6 // (LAT * LON * 4 * 2) // CHUNK, 1) * CHUNK


def period(first_step):
    hours = da.arange(first_step, first_step + STEPS, chunks=CHUNK)[:, None, None] * 6.0
    lat = np.radians(np.linspace(90, -90, LAT))[:, None]
    lon = np.radians(np.arange(LON, dtype=float))
    wave = da.sin(3 * lon - hours * 0.05 + 2 * np.sin(lat))
    t2m = 288 - 40 * np.sin(lat) ** 2 + 8 * wave * np.cos(lat)
    u10 = 12 * da.cos(4 * lon - hours * 0.07) * np.cos(lat)
    dims = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "t2m": (dims, t2m.astype("f4"), {"units": "K", "standard_name": "air_temperature"}),
            "u10": (dims, u10.astype("f4"), {"units": "m s-1", "standard_name": "eastward_wind"}),
        },
        {
            "time": pd.date_range("2026-01-01", periods=STEPS, freq="6h")
            + pd.Timedelta(hours=6 * first_step),
            "lat": ("lat", np.linspace(90, -90, LAT), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(LON, dtype=float), {"units": "degrees_east"}),
        },
    )


first = period(0)
first""",
    """## The plan

What would be written, before anything is.""",
    """import tempfile
from pathlib import Path

import icechunk
import icechunk.xarray
from icechunk.dask import plan_write

folder = tempfile.TemporaryDirectory()
storage = icechunk.local_filesystem_storage(str(Path(folder.name) / "archive"))
repo = icechunk.Repository.create(storage)

plan_write(first)""",
    """## The first commit

Each block is one task. The tasks write their chunks straight to storage and return only references,
which arrive in the session merged into one change set. Nobody sees anything before the commit.""",
    """session = repo.writable_session("main")
first.to_icechunk(session)
session.commit("The first period", metadata={"steps": [0, STEPS]})""",
    """## The second commit

Coordinates that do not grow are there already, so they are left out.""",
    """session = repo.writable_session("main")
period(STEPS).drop_vars(["lat", "lon"]).to_icechunk(session, append_dim="time")
session.commit("The second period", metadata={"steps": [STEPS, 2 * STEPS]})""",
    """## The history""",
    """for commit in repo.ancestry(branch="main"):
    print(commit.id, commit.message, commit.metadata.get("steps", ""))""",
    """now, before, *_ = repo.ancestry(branch="main")
changes = repo.diff(from_snapshot_id=before.id, to_snapshot_id=now.id)
print(len(changes.updated_chunks["/t2m"]), "chunks of t2m in the second commit")""",
    """## Open it anew, and check every value

On the cluster, block by block, against a second computation.""",
    """reopened = icechunk.Repository.open(storage).readonly_session("main")
archive = xr.open_zarr(reopened.store, consolidated=False, chunks={})
how = {"data_vars": "minimal", "coords": "minimal", "compat": "override", "join": "override"}
expected = xr.concat([period(0), period(STEPS)], dim="time", **how)

equal = {name: bool((archive[name] == expected[name]).all()) for name in ("t2m", "u10")}
assert all(equal.values())
assert (archive.time.values == expected.time.values).all()
print(f"{archive.nbytes / 1e6:.0f} MB read back:", equal)""",
    """## Back in time

The first period is one commit back, and stays there.""",
    """xr.open_zarr(repo.readonly_session(snapshot_id=before.id).store, consolidated=False).sizes""",
    """client.close()
cluster.close()
folder.cleanup()""",
]


LAKE = [
    """# Work in a lake

Files in other formats, referred to where they are; a filter over what their attributes say; and the tree
of it all. A lake is a directory or a bucket that holds many repositories; there is no server.

The cells below are made and run by `notebooks/build.py`.""",
    """## Some files

Sea surface temperature and wind, one netCDF file for each month, as an archive would have them.""",
    """from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

Path("archive").mkdir()
lat, lon = np.linspace(-60, 60, 13), np.linspace(0, 330, 12)


def month(number, kind, units, level):
    time = pd.date_range(f"2024-{number:02}-01", periods=4, freq="D")
    values = number + 0.01 * np.arange(4 * 13 * 12, dtype="f4").reshape(4, 13, 12)
    attributes = {"units": units, "processing_level": level}
    data = {kind: (("time", "lat", "lon"), values, attributes)}
    return xr.Dataset(data, {"time": time, "lat": lat, "lon": lon})


for number in (1, 2, 3):
    month(number, "sst", "K", 4).to_netcdf(f"archive/sst-{number}.nc", engine="h5netcdf")
    month(number, "wind", "m s-1", 2).to_netcdf(f"archive/wind-{number}.nc", engine="h5netcdf")

sorted(path.name for path in Path("archive").iterdir())""",
    """## A repository in a lake""",
    """from icechunk.lake import Author, Client

client = Client("lake", author=Author(name="Ada", email="ada@example.org"))
repo = client.create_repo("ocean/monthly", metadata={"region": "global", "months": 2})
repo""",
    """## Refer to the files

Two months at once, joined along time; then a third, appended. Nothing is copied: the repository holds
where each chunk is.""",
    """for kind in ("sst", "wind"):
    files = [f"archive/{kind}-{number}.nc" for number in (1, 2)]
    repo.add_virtual_netcdf(files, kind, concat_dim="time")

repo.status(limit=5).modified_count""",
    """repo.commit("two months")
for kind in ("sst", "wind"):
    repo.add_virtual_netcdf(f"archive/{kind}-3.nc", kind, append_dim="time")
repo.commit("a third month")
client.update_metadata("ocean/monthly", {"months": 3})
[(commit.message, str(commit.author)) for commit in repo.commit_log]""",
    """## The tree""",
    """repo.tree()""",
    """## Filter by metadata

[JMESPath](https://jmespath.org) expressions, for arrays in a repository and for repositories in the
lake.""",
    """print(repo.filter_metadata("processing_level >= `4`"))
print(repo.filter_metadata("units == 'm s-1'"))
print([str(entry.name) for entry in client.list_repos(filter_metadata="months == `3`")])""",
    """repo.tree(filter="units == 'K'")""",
    """## Read it

Every value comes from the files, and is what reading them directly gives.""",
    """stored = repo.to_xarray("sst")
direct = xr.concat([month(number, "sst", "K", 4) for number in (1, 2, 3)], "time")
assert stored.equals(direct)
stored""",
    """## Share a session

Whoever knows its id joins it, on any machine; what they write is safe beside the repository, and one
commits it all.""",
    """session = repo.create_session("main", message="quality flags")

colleague = client.get_repo("ocean/monthly")
colleague.checkout(session_token=session.session_id)
flags = colleague.root_group.create_array("flags", shape=(12, 13), chunks=(4, 13), dtype="i1")
flags[:4] = 1

repo.checkout(session_token=session.session_id)
repo.root_group["flags"][4:] = 2
repo.commit("flags, by two")
repo.root_group["flags"][:, 0]""",
]
NOTEBOOKS = {"main_job": CELLS, "lake": LAKE}


def path_of(name: str) -> Path:
    """Return where a notebook is."""
    return FOLDER / f"{name}.ipynb"


def build(name: str, megabytes: int | None = None) -> nbformat.NotebookNode:
    """Return a notebook, not executed; with a smaller dataset for tests."""
    cells = []
    for number, source in enumerate(NOTEBOOKS[name]):
        make = nbformat.v4.new_markdown_cell if source[0] == "#" else nbformat.v4.new_code_cell
        text = source
        if megabytes is not None:
            text = text.replace("MEGABYTES = 200", f"MEGABYTES = {megabytes}")
        cells.append(make(text, id=f"cell-{number}"))
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=metadata)


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run all cells in a fresh kernel and directory; raises what a cell raises."""
    with tempfile.TemporaryDirectory() as directory:
        client = NotebookClient(
            notebook, timeout=SECONDS, resources={"metadata": {"path": directory}}
        )
        client.execute()
    for cell in notebook.cells:
        # Times of day and kernel versions would make every build differ.
        cell.metadata.pop("execution", None)
    notebook.metadata.pop("language_info", None)


def main() -> int:
    """Build, execute, write."""
    for name in sys.argv[1:] or NOTEBOOKS:
        notebook = build(name)
        execute(notebook)
        nbformat.validate(notebook)
        path_of(name).write_text(nbformat.writes(notebook) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
