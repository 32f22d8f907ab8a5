"""Virtual chunks from every kind of container, each in a real server on loopback."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

import icechunk as ic
from icechunk._io.loop import run
from icechunk.config import ObjectStoreConfig
from icechunk.container_access import Credentials
from icechunk.credentials import (
    azure_anonymous_credentials,
    azure_credentials,
    containers_credentials,
    gcs_anonymous_credentials,
    gcs_credentials,
    s3_credentials,
)
from icechunk.errors import InvalidInputError, StorageError
from icechunk.storage import azure_storage, azure_store, gcs_storage, gcs_store, http_store
from icechunk.storage.containers import storage_for_container
from icechunk.storage.url import storage_for_url
from tests.azurite import KEY as AZURE_KEY
from tests.azurite import Azurite
from tests.gcs_server import GOOD, GcsServer
from tests.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DATA = np.arange(64, dtype="u1")


class Shelf(MemoryFileSystem):
    """A file system that only this process has registered."""

    protocol = "shelf"
    store: dict[str, Any] = {}
    pseudo_dirs = [""]
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("shelf://").strip("/")


@pytest.fixture(scope="module")
def gcs() -> Iterator[GcsServer]:
    pytest.importorskip("gcp_storage_emulator", reason="needs icechunk[test]")
    with GcsServer.running() as server:
        yield server


@pytest.fixture(scope="module")
def azurite() -> Iterator[Azurite]:
    with Azurite.running() as server:
        yield server


@pytest.fixture(scope="module")
def web_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def web(web_folder: Path) -> Iterator[WebServer]:
    with WebServer.running(web_folder) as server:
        yield server


class Place:
    """A container, how to get in, and a way to put an object there."""

    def __init__(
        self, prefix: str, store: Any, credential: Any, put: Callable[[str, bytes], None]
    ) -> None:
        self.prefix = prefix
        self.store = store
        self.credential = credential
        self.put = put


@pytest.fixture(params=["gcs", "azure", "http", "memory", "file", "shelf"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    name = uuid.uuid4().hex
    if request.param == "gcs":
        gcs: GcsServer = request.getfixturevalue("gcs")
        writer = gcs_storage(prefix=name, **gcs.options())
        return Place(
            f"gs://test-bucket/{name}/",
            gcs_store({"google_base_url": gcs.url}),
            gcs_credentials(bearer_token=GOOD),
            lambda key, data: run(writer.put(key, data)),
        )
    if request.param == "azure":
        azurite: Azurite = request.getfixturevalue("azurite")
        container = azure_storage(prefix=name, **azurite.options())
        return Place(
            f"az://test-container/{name}/",
            azure_store(account="testaccount", config={"azure_storage_endpoint": azurite.url}),
            azure_credentials(access_key=AZURE_KEY),
            lambda key, data: run(container.put(key, data)),
        )
    if request.param == "http":
        web: WebServer = request.getfixturevalue("web")
        folder: Path = request.getfixturevalue("web_folder") / name
        folder.mkdir()
        return Place(
            f"{web.url}/{name}/",
            http_store(headers={"x-a": "1"}),
            ic.credentials.HttpAccess,
            lambda key, data: void((folder / key).write_bytes(data)),
        )
    if request.param == "file":
        return Place(
            f"file://{tmp_path}/",
            ObjectStoreConfig.LocalFileSystem(tmp_path),
            ic.credentials.LocalFileSystemAccess,
            lambda key, data: void((tmp_path / key).write_bytes(data)),
        )
    if request.param == "memory":
        memory = storage_for_url(f"memory://{name}")
        return Place(
            f"memory://{name}/",
            ObjectStoreConfig.InMemory(),
            None,
            lambda key, data: run(memory.put(key, data)),
        )
    fsspec.register_implementation("shelf", Shelf, clobber=True)
    shelf = fsspec.filesystem("shelf")
    return Place(
        f"shelf://{name}/",
        ObjectStoreConfig.InMemory(),
        None,
        lambda key, data: void(shelf.pipe_file(f"/{name}/{key}", data)),
    )


def void(_: object) -> None:
    return None


def opened(place: Place, authorised: bool = True) -> tuple[ic.Repository, ic.Session]:
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(place.prefix, place.store))
    access = containers_credentials({place.prefix: place.credential}) if authorised else None
    repo = ic.Repository.create(
        ic.in_memory_storage(), config=config, authorize_virtual_chunk_access=access
    )
    session = repo.writable_session("main")
    zarr.create_array(
        session.store,
        name="a",
        shape=(32,),
        chunks=(16,),
        dtype="u1",
        compressors=None,
        filters=None,
    )
    return repo, session


def test_read(place: Place) -> None:
    place.put("x y.bin", DATA.tobytes())
    _, session = opened(place)
    for index in range(2):
        session.store.set_virtual_ref(
            f"a/c/{index}", f"{place.prefix}x y.bin", offset=8 + 16 * index, length=16
        )
    array = zarr.open_array(session.store, path="a", mode="r")
    np.testing.assert_array_equal(array[:], DATA[8:40])
    session.store.set_virtual_ref("a/c/0", f"{place.prefix}x y.bin", offset=60, length=16)
    with pytest.raises(StorageError) as caught:
        array[:16]
    assert caught.value.kind == "invalid-object-size"
    session.store.set_virtual_ref("a/c/0", f"{place.prefix}gone.bin", offset=0, length=16)
    with pytest.raises(StorageError, match="gone") as caught:
        array[:16]
    assert caught.value.kind == "virtual-chunk-fetch"


def test_checksum_is_enforced(place: Place) -> None:
    place.put("x.bin", DATA.tobytes())
    _, session = opened(place)
    session.store.set_virtual_ref(
        "a/c/0", f"{place.prefix}x.bin", offset=0, length=16, checksum='"another"'
    )
    with pytest.raises(StorageError) as caught:
        zarr.open_array(session.store, path="a", mode="r")[:16]
    assert caught.value.kind == "virtual-chunk-modified"


def test_unauthorised(place: Place) -> None:
    place.put("x.bin", DATA.tobytes())
    _, session = opened(place, authorised=False)
    session.store.set_virtual_ref("a/c/0", f"{place.prefix}x.bin", offset=0, length=16)
    with pytest.raises(InvalidInputError, match="no authorisation") as caught:
        zarr.open_array(session.store, path="a", mode="r")[:16]
    assert caught.value.kind == "unauthorized-virtual-chunk-container"
    assert place.prefix in str(caught.value)


def test_credentials_of_another_family() -> None:
    s3 = Credentials.S3(s3_credentials(anonymous=True))
    for prefix, store in (
        ("gs://bucket/x/", gcs_store()),
        ("az://container/x/", azure_store(account="me")),
    ):
        with pytest.raises(InvalidInputError, match="must be of") as caught:
            storage_for_container(ic.VirtualChunkContainer(prefix, store), s3)
        assert caught.value.kind == "invalid-credentials"
    container = ic.VirtualChunkContainer("az://container/x/", ObjectStoreConfig.Azure({}))
    with pytest.raises(InvalidInputError, match="which Azure account"):
        storage_for_container(container, None)


def test_anonymous_containers() -> None:
    gcs = ic.VirtualChunkContainer("gs://bucket/x/", gcs_store())
    found = storage_for_container(gcs, Credentials.Gcs(gcs_anonymous_credentials()))
    assert str(found) == (
        "<icechunk.Storage>\ntype: GCS\nbucket: bucket\nprefix: x\nanonymous: True\n"
    )
    azure = ic.VirtualChunkContainer("abfs://container/", azure_store(account="me"))
    found = storage_for_container(azure, Credentials.Azure(azure_anonymous_credentials()))
    assert found.description == "az://container (account me)"


@pytest.mark.parametrize("prefix", ["s3://b/", "gs://b/", "http://b/", "file:///b/", "vcc://b/"])
def test_in_memory_is_for_no_other_store(prefix: str) -> None:
    config = ic.RepositoryConfig.default()
    container = ic.VirtualChunkContainer(prefix, ObjectStoreConfig.InMemory())
    with pytest.raises(InvalidInputError, match="does not fit its store"):
        config.set_virtual_chunk_container(container)
