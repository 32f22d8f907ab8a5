"""Virtual chunks in every kind of place, on loopback: conditions, few requests, plain errors."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.container_access import Credentials
from icechunk.credentials import (
    azure_credentials,
    gcs_credentials,
    s3_static_credentials,
)
from icechunk.storage import azure_storage, gcs_storage, s3_storage, storage_for_url
from tests.azurite import ACCOUNT, CONTAINER, Azurite
from tests.azurite import KEY as AZURE_KEY
from tests.gcs_server import BUCKET as GCS_BUCKET
from tests.gcs_server import GOOD, GcsServer
from tests.s3_server import BUCKET, KEY, READER_KEY, SECRET, S3Server
from tests.web_server import WebServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CHUNKS = 40
DATA = np.arange(CHUNKS * 100, dtype="<u4")
CONTENT = b"head" + DATA.tobytes()


@dataclass
class Place:
    """Where the files of others are."""

    prefix: str
    store: Any
    credential: Any
    put: Callable[[str, bytes], object]
    requests: Callable[[str], int] | None = None
    etag: Callable[[bytes], str] | None = None


def in_s3(server: S3Server) -> Place:
    folder = uuid.uuid4().hex
    direct = s3_storage(prefix=folder, **server.options())
    return Place(
        f"s3://{BUCKET}/{folder}/",
        ic.s3_store(
            region="us-east-1",
            endpoint_url=server.url,
            allow_http=True,
            force_path_style=True,
            s3_compatible=True,
        ),
        Credentials.S3(s3_static_credentials(access_key_id=KEY, secret_access_key=SECRET)),
        lambda key, data: run(direct.put(key, data)),
        lambda key: len([r for r in server.requests(f"{folder}/{key}") if r["method"] == "GET"]),
        lambda data: f'"{hashlib.md5(data).hexdigest()}"',
    )


def in_gcs(server: GcsServer) -> Place:
    folder = uuid.uuid4().hex
    direct = gcs_storage(prefix=folder, **server.options())
    return Place(
        f"gs://{GCS_BUCKET}/{folder}/",
        ic.gcs_store({"google_base_url": server.url}),
        Credentials.Gcs(gcs_credentials(bearer_token=GOOD)),
        lambda key, data: run(direct.put(key, data)),
    )


def in_azure(server: Azurite) -> Place:
    folder = uuid.uuid4().hex
    direct = azure_storage(prefix=folder, **server.options())
    return Place(
        f"az://{CONTAINER}/{folder}/",
        ic.azure_store(account=ACCOUNT, config={"azure_storage_endpoint": server.url}),
        Credentials.Azure(azure_credentials(access_key=AZURE_KEY)),
        lambda key, data: run(direct.put(key, data)),
    )


def on_the_web(server: WebServer, folder: Path) -> Place:
    return Place(
        f"{server.url}/", ic.http_store(), None, lambda key, data: (folder / key).write_bytes(data)
    )


def in_files(folder: Path) -> Place:
    return Place(
        f"{folder.as_uri()}/",
        ic.local_filesystem_store(str(folder)),
        None,
        lambda key, data: (folder / key).write_bytes(data),
    )


def in_memory() -> Place:
    url = f"memory://{uuid.uuid4().hex}/"
    direct = storage_for_url(url)
    return Place(
        url,
        ic.ObjectStoreConfig.InMemory(),
        None,
        lambda key, data: run(direct.put(key, data)),
    )


def in_fsspec(folder: Path) -> Place:
    """Return a folder, by a scheme that only fsspec knows: relative to the working directory."""
    folder.mkdir()
    return Place(
        f"local://{folder.name}/",
        ic.ObjectStoreConfig.InMemory(),
        None,
        lambda key, data: (folder / key).write_bytes(data),
    )


@pytest.fixture(params=["s3", "gcs", "azure", "web", "files", "memory", "fsspec"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    match request.param:
        case "s3":
            yield in_s3(request.getfixturevalue("s3_server"))
        case "gcs":
            yield in_gcs(request.getfixturevalue("gcs_server"))
        case "azure":
            yield in_azure(request.getfixturevalue("azurite"))
        case "web":
            with WebServer.running(tmp_path) as server:
                yield on_the_web(server, tmp_path)
        case "memory":
            yield in_memory()
        case "fsspec":
            monkeypatch.chdir(tmp_path)
            yield in_fsspec(tmp_path / "files")
        case _:
            yield in_files(tmp_path)


def repository(place: Place, access: dict[str, Any] | None = None) -> ic.Repository:
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer(place.prefix, place.store))
    access = {place.prefix: place.credential} if access is None else access
    return ic.Repository.create(
        ic.in_memory_storage(), config, authorize_virtual_chunk_access=access
    )


def refer(repo: ic.Repository, location: str, checksum: Any = None) -> ic.IcechunkStore:
    """Return a store whose array ``a`` is the file."""
    store = repo.writable_session("main").store
    zarr.create_array(
        store, name="a", shape=DATA.shape, chunks=(100,), dtype="<u4", compressors=None
    )
    store.set_virtual_refs(
        "a",
        [
            ic.VirtualChunkSpec([n], location, 4 + n * 400, 400, **(checksum or {}))
            for n in range(CHUNKS)
        ],
    )
    return store


def read(store: ic.IcechunkStore) -> Any:
    return zarr.open_array(store, path="a", mode="r")[:]


def test_read(place: Place) -> None:
    place.put("file.bin", CONTENT)
    store = refer(repository(place), f"{place.prefix}file.bin")
    np.testing.assert_array_equal(read(store), DATA)


def test_near_ranges_share_requests(s3_server: S3Server) -> None:
    place = in_s3(s3_server)
    place.put("file.bin", CONTENT)
    store = refer(repository(place), f"{place.prefix}file.bin")
    assert place.requests is not None
    with zarr.config.set({"async.concurrency": 10}):
        np.testing.assert_array_equal(read(store), DATA)
    first = place.requests("file.bin")
    with zarr.config.set({"async.concurrency": 64}):
        np.testing.assert_array_equal(read(store), DATA)
    assert first <= CHUNKS // 4
    assert place.requests("file.bin") - first <= 2


def test_one_wrong_reference_hurts_no_other(s3_server: S3Server) -> None:
    place = in_s3(s3_server)
    place.put("file.bin", CONTENT[:-40])
    store = refer(repository(place), f"{place.prefix}file.bin")
    array = zarr.open_array(store, path="a", mode="r")
    np.testing.assert_array_equal(array[: DATA.size - 100], DATA[:-100])
    with pytest.raises(ic.StorageError, match=r"virtual chunk s3://.*file\.bin: ") as caught:
        array[:]
    assert caught.value.kind == "invalid-object-size"
    assert caught.value.__notes__ == [f"while reading chunk ({CHUNKS - 1},) of /a"]


def test_later_than_referred_to(place: Place) -> None:
    place.put("file.bin", CONTENT)
    now = datetime.now(UTC)
    location = f"{place.prefix}file.bin"
    good = {"last_updated_at_checksum": now + timedelta(seconds=5)}
    np.testing.assert_array_equal(read(refer(repository(place), location, good)), DATA)
    stale = {"last_updated_at_checksum": now - timedelta(days=1)}
    store = refer(repository(place), location, stale)
    with pytest.raises(ic.StorageError, match="has changed") as caught:
        read(store)
    assert caught.value.kind == "virtual-chunk-modified"
    words = str(caught.value)
    assert location in words
    # Both versions: when it was written, and what the reference says.
    assert f"{now - timedelta(days=1):%Y-%m-%dT}" in words
    assert f"{now:%Y-%m-%dT}" in words
    assert caught.value.__notes__[0].endswith("of /a")


def test_another_than_referred_to(s3_server: S3Server) -> None:
    place = in_s3(s3_server)
    place.put("file.bin", CONTENT)
    assert place.etag is not None
    tag = place.etag(CONTENT)
    location = f"{place.prefix}file.bin"
    for text in (tag, tag.strip('"')):
        store = refer(repository(place), location, {"etag_checksum": text})
        np.testing.assert_array_equal(read(store), DATA)
    changed = CONTENT[:-1] + b"!"
    place.put("file.bin", changed)
    with pytest.raises(ic.StorageError, match="has changed") as caught:
        read(store)
    words = str(caught.value)
    assert tag.strip('"') in words
    assert place.etag(changed).strip('"') in words
    assert caught.value.kind == "virtual-chunk-modified"


def test_not_authorised(place: Place) -> None:
    place.put("file.bin", CONTENT)
    store = refer(repository(place, {}), f"{place.prefix}file.bin")
    with pytest.raises(ic.InvalidInputError, match="authorize_virtual_chunk_access") as caught:
        read(store)
    assert place.prefix in str(caught.value)
    assert caught.value.kind == "unauthorized-virtual-chunk-container"


def test_no_container(place: Place) -> None:
    store = refer(repository(place), f"{place.prefix}file.bin")
    with pytest.raises(ic.InvalidInputError, match="no virtual chunk container") as caught:
        store.set_virtual_ref(
            "a/c/0", "s3://elsewhere/x", offset=0, length=400, validate_container=True
        )
    assert place.prefix in str(caught.value)


def test_file_that_was_moved(place: Place) -> None:
    store = refer(repository(place), f"{place.prefix}gone.bin")
    with pytest.raises(ic.StorageError, match="cannot read virtual chunk") as caught:
        read(store)
    words = str(caught.value)
    assert f"{place.prefix}gone.bin" in words
    assert "set_virtual_refs_arr" in words
    assert caught.value.kind == "virtual-chunk-fetch"


def test_credentials_that_may_not(s3_server: S3Server) -> None:
    place = in_s3(s3_server)
    place.put("file.bin", CONTENT)
    wrong = Credentials.S3(
        s3_static_credentials(access_key_id=READER_KEY, secret_access_key="not-the-secret")
    )
    store = refer(repository(place, {place.prefix: wrong}), f"{place.prefix}file.bin")
    with pytest.raises(ic.StorageError, match="cannot read virtual chunk") as caught:
        read(store)
    assert f"authorize_virtual_chunk_access has for '{place.prefix}'" in str(caught.value)
    assert "not-the-secret" not in str(caught.value)


def test_credentials_that_are_none(gcs_server: GcsServer, tmp_path: Path) -> None:
    place = in_gcs(gcs_server)
    nothing = Credentials.Gcs(gcs_credentials(service_account_file=str(tmp_path / "gone.json")))
    store = refer(repository(place, {place.prefix: nothing}), f"{place.prefix}file.bin")
    with pytest.raises(
        ic.InvalidInputError, match=f"cannot read virtual chunk {place.prefix}"
    ) as e:
        read(store)
    assert f"authorize_virtual_chunk_access has for '{place.prefix}'" in str(e.value)
    assert e.value.kind == "invalid-credentials"


def test_cancelled_reads_leave_the_others_alone(s3_server: S3Server) -> None:
    import asyncio

    from zarr.core.buffer import default_buffer_prototype

    place = in_s3(s3_server)
    place.put("file.bin", CONTENT)
    store = refer(repository(place), f"{place.prefix}file.bin")

    async def some() -> list[Any]:
        tasks = [
            asyncio.ensure_future(store.get(f"a/c/{n}", default_buffer_prototype()))
            for n in range(6)
        ]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(some())
    assert [isinstance(f, asyncio.CancelledError) for f in found] == [True, False] * 3
    for n in (1, 3, 5):
        assert found[n].to_bytes() == DATA[n * 100 : n * 100 + 100].tobytes()
