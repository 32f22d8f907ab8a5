"""What `import icechunk` loads, in a fresh interpreter."""

from __future__ import annotations

import json
import subprocess
import sys

# zarr itself loads fsspec where it is installed.
HEAVY = (
    *("dask", "xarray", "s3fs", "botocore", "distributed", "rich", "typer", "pandas"),
    *(
        "adlfs",
        "azure",
        "aiohttp",
        "gcsfs",
        "google",
        "obstore",
        "virtualizarr",
        "h5py",
        "jmespath",
    ),
)


def _loaded(statement: str) -> set[str]:
    script = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_import_loads_no_heavy_library():
    loaded = _loaded("import icechunk")
    assert loaded.isdisjoint(HEAVY)
    assert "zarr" in loaded


def test_options_can_be_made_without_more():
    statement = (
        "import icechunk; icechunk.RepositoryConfig(); icechunk.s3_credentials(); "
        "icechunk.in_memory_storage()"
    )
    assert _loaded(statement).isdisjoint(HEAVY)
