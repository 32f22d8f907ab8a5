"""Processes that end with their last request."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

PROCESSES = 40
PROGRAM = """
import asyncio, sys
from obstore.store import LocalStore
from icechunk.storage._obstore_clients import OpenStores, clients

store = LocalStore(sys.argv[1])

async def opened():
    return OpenStores(stores=None, given=None)

async def main():
    await clients.get("a recipe", opened)
    await asyncio.gather(*(store.put_async(f"a{i}", b"x") for i in range(20)))
    await asyncio.gather(*(store.get_async(f"a{i}") for i in range(20)))

asyncio.run(main())
"""


@pytest.mark.slow
def test_the_end_of_a_process_is_not_taken_for_a_crash(tmp_path):
    def run(number: int) -> int:
        place = tmp_path / str(number)
        place.mkdir()
        command = [sys.executable, "-c", PROGRAM, place]
        return subprocess.run(command, check=False, timeout=60).returncode

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(run, range(PROCESSES))) == {0}
