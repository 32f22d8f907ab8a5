"""Repositories in file systems of many kinds, through fsspec."""

from __future__ import annotations

import http.server
import tarfile
import threading
import zipfile
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk.errors import StorageError
from icechunk.storage import fsspec_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "repo"
    repo = ic.Repository.create(ic.local_filesystem_storage(folder))
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(1000), chunks=(100,))
    return folder


def check(storage: ic.Storage) -> None:
    repo = ic.Repository.open(storage)
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    np.testing.assert_array_equal(array[:], np.arange(1000))


def test_zip(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "repo.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(repository.rglob("*")):
            archive.write(file, file.relative_to(repository))
    check(fsspec_storage(f"zip://::file://{path}"))


def test_tar(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "repo.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(repository, "repo")
    check(fsspec_storage(f"tar://repo::file://{path}"))


def test_an_archive_is_one_file_that_threads_share(tmp_path: Path) -> None:
    """Whose position in the file moves with every read, so reads take turns."""
    values = np.random.default_rng(0).random(400_000)
    repo = ic.Repository.create(ic.local_filesystem_storage(tmp_path / "repo"))
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=values, chunks=(4000,), compressors=None)
    path = tmp_path / "repo.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(tmp_path / "repo", "repo")
    for _ in range(3):
        storages = [fsspec_storage(f"tar://repo::file://{path}") for _ in range(2)]
        for storage in storages:
            store = ic.Repository.open(storage).readonly_session("main").store
            array = zarr.open_array(store, path="a", mode="r")
            np.testing.assert_array_equal(array[:], values)


def test_folder_within(repository: Path) -> None:
    check(fsspec_storage(f"dir://repo::file://{repository.parent}"))


def test_cached(repository: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"simplecache": {"cache_storage": str(tmp_path)}}
    check(fsspec_storage(f"simplecache::file://{repository}", **options))


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def pages(repository: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(repository.parent))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/repo"
    server.shutdown()
    server.server_close()
    thread.join()


def test_web_pages(pages: str) -> None:
    """As code hosts serve files: whole, without ranges."""
    check(fsspec_storage(pages))
    check(ic.http_storage(pages))


@pytest.mark.parametrize("kind", ["memory", "file", "local", "dir"])
def test_writing_by_one_writer(tmp_path: Path, kind: str) -> None:
    url = {
        "memory": f"memory://{tmp_path.name}",
        "file": f"file://{tmp_path}/repo",
        "local": f"local://{tmp_path}/repo",
        "dir": f"dir://repo::file://{tmp_path}",
    }[kind]
    with pytest.raises(StorageError, match="pass single_writer=True") as caught:
        ic.Repository.create(fsspec_storage(url))
    assert caught.value.kind == "storage-config"
    repo = ic.Repository.create(fsspec_storage(url, single_writer=True))
    with repo.transaction("main", message="one") as store:
        zarr.create_array(store, name="a", data=np.arange(1000), chunks=(100,))
    check(fsspec_storage(url))
    with pytest.raises(StorageError, match="single_writer"):
        ic.Repository.open(fsspec_storage(url)).create_tag(
            "v1", snapshot_id=repo.lookup_branch("main")
        )
