"""File systems of fsspec that have one connection: FTP and SFTP, each from a server on loopback."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.errors import StorageError
from icechunk.storage import Storage, fsspec_storage
from icechunk.storage.objects import LostRaceError
from icechunk.storage_settings import StorageRetriesSettings, StorageSettings
from tests.storage.conformance import StorageConformance, listed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("paramiko", reason="needs paramiko, of the extra test")
pytest.importorskip("pyftpdlib", reason="needs pyftpdlib, of the extra test")

from tests.file_servers import PASSWORD, FileServer, ftp_server, sftp_server

SERVERS = {"ftp": ftp_server, "sftp": sftp_server}


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileServer]:
    with SERVERS[request.param](tmp_path) as running:
        yield running


class TestFileServer(StorageConformance):
    threads = 3
    rounds = 3
    many = 60

    @pytest.fixture
    def storage(self, server: FileServer) -> Storage:
        return fsspec_storage(server.url("data/repo"), single_writer=True, **server.options())

    def etag_of(self, storage: Storage, key: str) -> None:
        return None

    # Files are written in place there.
    test_readers_never_see_half_an_object = None  # type: ignore[assignment]
    test_racing_updates_lose_nothing = None  # type: ignore[assignment]


def test_a_repository(server: FileServer) -> None:
    """Many chunks at once over one connection; nothing is mixed up, and nothing waits for ever."""
    storage = fsspec_storage(server.url("data/repo"), single_writer=True, **server.options())
    values = np.random.default_rng(0).random(60_000)
    repo = ic.Repository.create(storage)
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=values, chunks=(1000,), compressors=None)
    again = ic.Repository.open(pickle.loads(pickle.dumps(storage)))
    array = zarr.open_array(again.readonly_session("main").store, path="a", mode="r")
    np.testing.assert_array_equal(array[:], values)


def test_a_lost_connection_is_made_again(server: FileServer) -> None:
    storage = fsspec_storage(server.url("data"), single_writer=True, **server.options())
    soon = StorageRetriesSettings(max_tries=3, initial_backoff_ms=1)
    patient = storage.with_settings(StorageSettings(retries=soon))
    run(patient.put("chunks/A", b"1"))
    server.hang_up()
    assert run(patient.get("chunks/A")) == b"1"
    server.hang_up()
    run(patient.put("chunks/B", b"22"))
    server.hang_up()
    assert run(listed(patient)) == {"chunks/A": 1, "chunks/B": 2}
    server.hang_up()
    run(patient.delete_many(["chunks/A", "chunks/C"]))
    server.hang_up()
    with pytest.raises(LostRaceError):
        run(patient.put_if_absent("chunks/B", b"3"))
    server.hang_up()
    once = StorageSettings(retries=StorageRetriesSettings(max_tries=1))
    with pytest.raises(StorageError, match="cannot read 'chunks/B'"):
        run(patient.with_settings(once).get("chunks/B"))


def test_who_is_not_let_in_is_told(server: FileServer) -> None:
    wrong = server.options() | {"password": PASSWORD + "!"}
    with pytest.raises(StorageError, match=f"cannot connect to {server.url('data')}") as caught:
        fsspec_storage(server.url("data"), **wrong)
    assert PASSWORD not in str(caught.value)
    url = server.url("data").replace("//", f"//writer:{PASSWORD}!@")
    with pytest.raises(StorageError, match="check the address") as caught:
        fsspec_storage(url)
    assert PASSWORD not in str(caught.value)


def test_nobody_listens() -> None:
    with pytest.raises(StorageError, match=r"cannot connect to ftp://127\.0\.0\.1:1/data"):
        fsspec_storage("ftp://127.0.0.1:1/data")
