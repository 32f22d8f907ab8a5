"""Storages through fsspec: a synchronous file system, and an asynchronous one."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from icechunk._io.loop import run
from icechunk.errors import InvalidInputError, StorageError
from icechunk.storage import Storage, fsspec_storage
from icechunk.storage.base import Version
from icechunk.storage.objects import LostRaceError
from icechunk.storage.url import storage_for_url
from tests.s3_server import BUCKET, KEY, SECRET, S3Server
from tests.storage.conformance import StorageConformance, listed

if TYPE_CHECKING:
    from pathlib import Path


class TestFsspecMemory(StorageConformance):
    many = 60

    @pytest.fixture
    def storage(self) -> Storage:
        return fsspec_storage(f"memory://{uuid.uuid4()}", single_writer=True)

    def etag_of(self, storage: Storage, key: str) -> None:
        return None


class TestFsspecLocal(StorageConformance):
    many = 60

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return fsspec_storage(f"file://{tmp_path}/root", single_writer=True)

    def etag_of(self, storage: Storage, key: str) -> None:
        return None

    # fsspec writes local files in place; the backend for local files does not.
    test_readers_never_see_half_an_object = None  # type: ignore[assignment]
    test_racing_updates_lose_nothing = None  # type: ignore[assignment]


def s3_options(server: S3Server) -> dict[str, Any]:
    return {
        "key": KEY,
        "secret": SECRET,
        "endpoint_url": server.url,
        "client_kwargs": {"region_name": "us-east-1"},
    }


class TestFsspecAsync(StorageConformance):
    """Through s3fs as one of many, not through the backend for S3."""

    threads = 3
    rounds = 3
    many = 60

    @pytest.fixture
    def storage(self, s3: S3Server) -> Storage:
        url = f"s3://{BUCKET}/{uuid.uuid4()}"
        return fsspec_storage(url, single_writer=True, **s3_options(s3))

    def etag_of(self, storage: Storage, key: str) -> str:
        async def ask() -> str:
            info: Any = await storage._info(key)  # type: ignore[attr-defined]
            return str(info["ETag"])

        return run(ask())


def test_says_what_it_can_do(tmp_path: Path) -> None:
    storage = fsspec_storage(f"file://{tmp_path}")
    assert str(storage) == (
        f"<icechunk.Storage>\ntype: fsspec\nurl: file://{tmp_path}\nconditional_create: False\n"
        "conditional_update: False\nsingle_writer: False\n"
    )


def test_refuses_conditions_it_cannot_keep(tmp_path: Path) -> None:
    storage = fsspec_storage(f"file://{tmp_path}")
    run(storage.put("chunks/A", b"1"))
    for attempt in (
        storage.put_if_absent("repo", b"1"),
        storage.put_if_unchanged("chunks/A", b"1", Version("1")),
    ):
        with pytest.raises(StorageError, match="pass single_writer=True") as caught:
            run(attempt)
        assert caught.value.kind == "storage-config"
    assert run(listed(storage)) == {"chunks/A": 1}


def test_creates_where_the_service_can(s3: S3Server) -> None:
    storage = fsspec_storage(f"s3://{BUCKET}/{uuid.uuid4()}", **s3_options(s3))
    run(storage.put_if_absent("repo", b"1"))
    with pytest.raises(LostRaceError):
        run(storage.put_if_absent("repo", b"2"))
    with pytest.raises(StorageError, match="single_writer"):
        run(storage.put_if_unchanged("repo", b"2", Version("1")))
    assert SECRET not in str(storage) + repr(storage) + storage.description
    assert KEY not in str(storage)


@pytest.mark.parametrize("url", ["nosuchprotocol://x", "memory://", "sftp://"])
def test_unknown_file_system(url: str) -> None:
    if url == "memory://":
        run(fsspec_storage(url).is_clean())
        return
    with pytest.raises(InvalidInputError, match="cannot open") as caught:
        fsspec_storage(url)
    assert caught.value.kind == "cannot-parse-url"


def test_password_in_the_url_is_not_shown() -> None:
    storage = fsspec_storage("http://user:hidden@127.0.0.1:9/data")
    assert "hidden" not in str(storage) + storage.description
    with pytest.raises(StorageError) as caught:
        run(storage.get("repo"))
    assert "hidden" not in str(caught.value)
    assert pickle.loads(pickle.dumps(storage)) == storage


def test_chained_urls(tmp_path: Path) -> None:
    run(storage_for_url(f"{tmp_path}/x").put("chunks/A", b"1"))
    storage = storage_for_url(f"simplecache::file://{tmp_path}/x")
    assert run(storage.get("chunks/A")) == b"1"
    assert run(listed(storage)) == {"chunks/A": 1}


def test_keys_are_no_patterns() -> None:
    storage = fsspec_storage(f"memory://{uuid.uuid4()}", single_writer=True)
    for key in ("refs/branch.*/r", "refs/branch.a/r", "refs/branch.b/r"):
        run(storage.put(key, b""))
    run(storage.delete_many(["refs/branch.*/r", "refs/branch.b/r"]))
    assert run(listed(storage)) == {"refs/branch.a/r": 0}


def test_broken_file_system_is_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = fsspec_storage("memory://broken", single_writer=True)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("out of order")

    filesystem = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(filesystem, "cat_file", fail)
    monkeypatch.setattr(filesystem, "pipe_file", fail)
    for attempt in (storage.get("repo"), storage.put("repo", b"")):
        with pytest.raises(StorageError, match="RuntimeError: out of order") as caught:
            run(attempt)
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_quiet_at_exit(s3: S3Server) -> None:
    """Connections are closed when the interpreter ends; nothing complains."""
    program = (
        "import json, sys\n"
        "from icechunk._io.loop import run\n"
        "from icechunk.storage import fsspec_storage\n"
        "storage = fsspec_storage(sys.argv[1], **json.loads(sys.argv[2]))\n"
        "run(storage.put('chunks/A', b'1'))\n"
    )
    import json

    url = f"s3://{BUCKET}/{uuid.uuid4()}"
    done = subprocess.run(
        [sys.executable, "-Walways", "-c", program, url, json.dumps(s3_options(s3))],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_logging_stays_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="icechunk"):
        run(fsspec_storage("memory://quiet").is_clean())
    assert caplog.records == []
