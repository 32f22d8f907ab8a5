"""The quickstart of an earlier release, as it was written.

But for one call of zarr's own, which no zarr 3 takes any more: ``zarr.open_array(store, name)``
must say ``path=name``.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap

# The page lost its indentation; that is the only thing put back.
QUICKSTART = """
import icechunk as ic
import zarr
import numpy as np
import tempfile
import os
# Create a temporary directory for the local repository
temp_dir = tempfile.TemporaryDirectory()
repo_path = os.path.join(temp_dir.name, "my_icechunk_repo")
try:
    # 1. Create a new Icechunk repository on the local filesystem
    storage = ic.local_filesystem_storage(repo_path)
    repo = ic.Repository.create(storage)
    print(f"Repository created at: {repo_path}")
    # 2. Create a writable session on the 'main' branch
    session = repo.writable_session("main")
    # 3. Access the Zarr store from the session
    store = session.store # A zarr store
    # 4. Use Zarr to create a group and an array
    root = zarr.group(store=store)
    data = np.arange(1000).reshape(10, 10, 10)
    zarr_array = root.create_array(
        'my_data',
        shape=data.shape,
        dtype=data.dtype,
        chunks=(5, 5, 5)
    )
    zarr_array[:] = data
    # 5. Commit the changes
    snapshot_id = session.commit("Initial data commit")
    print(f"First commit successful with snapshot ID: {snapshot_id}")
    # A new session is required for further writes after a commit
    session_2 = repo.writable_session("main")
    store_2 = session_2.store
    zarr_array_2 = zarr.open_array(store_2, path='my_data', mode='r+')
    zarr_array_2[:5, :5, :5] = 999 # Overwrite a subset
    snapshot_id_2 = session_2.commit("Overwrite some values")
    print(f"Second commit successful with snapshot ID: {snapshot_id_2}")
    # 6. Explore version history
    print("\\nRepository history:")
    for snapshot in repo.log("main"):
        print(f" ID: {snapshot.id}, Message: {snapshot.commit_message}")
finally:
    # Clean up the temporary directory
    temp_dir.cleanup()
    print(f"\\nCleaned up temporary directory: {temp_dir.name}")
"""


def test_it_runs_as_written():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(QUICKSTART)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    messages = [line.partition("Message: ")[2] for line in done.stdout.splitlines()]
    assert [message for message in messages if message] == [
        "Overwrite some values",
        "Initial data commit",
        "Repository initialized",
    ]
