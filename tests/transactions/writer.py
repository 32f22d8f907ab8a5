"""What the writer processes of the tests do: append regions of one array, commit with rebase.

Run as ``python writer.py WHERE FIRST LAST [SECRETS]``; prints a line when it is ready, waits for a
line on standard input, then commits each chunk from FIRST to LAST on its own.
"""

from __future__ import annotations

import json
import sys

import zarr

import icechunk as ic


def open_storage(where: str) -> ic.Storage:
    """Return a storage from a path, or from the JSON of `s3_storage` arguments."""
    if where.startswith("{"):
        return ic.s3_storage(**json.loads(where))
    return ic.local_filesystem_storage(where)


def main() -> None:
    """Commit each chunk on its own, beside others who do the same."""
    where, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    repo = ic.Repository.open(open_storage(where))
    print("ready", flush=True)
    sys.stdin.readline()
    for chunk in range(first, last):
        session = repo.writable_session("main")
        array = zarr.open_array(session.store, path="a", mode="r+")
        array[chunk * 10 : (chunk + 1) * 10] = chunk + 1
        session.commit(f"chunk {chunk}", rebase_with=ic.ConflictDetector())
        print(chunk, flush=True)


if __name__ == "__main__":
    main()
