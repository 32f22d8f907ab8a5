"""Local files."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from icechunk._io.loop import run, run_now
from icechunk.errors import InvalidInputError, StorageError
from icechunk.storage import Storage, _file_lock, _files, local_filesystem_storage
from icechunk.storage.base import Version
from icechunk.storage.objects import LostRaceError
from icechunk.storage.url import storage_for_url
from tests.storage.conformance import StorageConformance, listed

if TYPE_CHECKING:
    from collections.abc import Coroutine


def files_of(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


class TestLocal(StorageConformance):
    rounds = 20

    @pytest.fixture
    def storage(self, tmp_path: Path) -> Storage:
        return local_filesystem_storage(tmp_path / "not" / "yet there")

    def etag_of(self, storage: Storage, key: str) -> str:
        status = os.stat(f"{storage.description.removeprefix('local:')}/{key}")
        return f"{status.st_ino:x}-{status.st_mtime_ns // 1000:x}-{status.st_size:x}"

    def test_no_temporary_file_stays(self, storage: Storage, tmp_path: Path) -> None:
        version = run(storage.put_if_absent("repo", b"1"))
        with pytest.raises(LostRaceError):
            run(storage.put_if_absent("repo", b"2"))
        version = run(storage.put_if_unchanged("repo", b"2", version))
        with pytest.raises(LostRaceError):
            run(storage.put_if_unchanged("repo", b"3", Version("other")))
        run(storage.put("chunks/A", b"3"))
        assert files_of(tmp_path / "not/yet there") == {"repo", "chunks/A", ".icechunk-lock#0"}


class TestLocalWithoutLinks(TestLocal):
    """As on FAT, where there are no hard links."""

    many = 60

    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def link(*_: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", link)


# ---------------------------------------------------------------- paths


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    relative = local_filesystem_storage("some where")
    monkeypatch.chdir("/")
    run(relative.put("repo", b"1"))
    assert (tmp_path / "some where" / "repo").read_bytes() == b"1"
    assert str(relative) == (
        f"<icechunk.Storage>\ntype: local filesystem\npath: {tmp_path}/some where\n"
    )
    assert relative.description == f"local:{tmp_path}/some where"
    for same in (
        storage_for_url(f"{tmp_path}/some where"),
        storage_for_url(f"file://{tmp_path}/some%20where"),
        Storage.new_local_filesystem(tmp_path / "some where"),
    ):
        assert same == relative


@pytest.mark.parametrize("path", ["", b"bytes", "a\0b", 3])
def test_no_path(path: Any) -> None:
    with pytest.raises((InvalidInputError, TypeError)):
        local_filesystem_storage(path)


def test_temporaries_and_strangers(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path)
    (tmp_path / "snapshots").mkdir()
    assert run(storage.is_clean())  # directories alone do not count
    (tmp_path / "snapshots" / "AB#123456").write_bytes(b"half")
    assert run(storage.is_clean())
    assert run(listed(storage)) == {}
    # A branch may have such a name, which makes a directory in version 1 repositories.
    run(storage.put("refs/branch.a#12/ref.json", b"{}"))
    assert run(listed(storage)) == {"refs/branch.a#12/ref.json": 2}
    for key in ("chunks/A#1", "x#0"):
        with pytest.raises(InvalidInputError, match="temporary"):
            run(storage.put(key, b""))
    run(storage.put("chunks/A#1b", b""))


def test_names_of_other_people_s_files(tmp_path: Path) -> None:
    """Virtual chunks are in files of any name."""
    storage = local_filesystem_storage(tmp_path)
    for name in ("scan#12", "a b", "ünïcode.nc", "x..y", "...", ".hidden"):
        (tmp_path / name).write_bytes(b"data")
        assert run(storage.get(name)) == b"data"
        assert run(storage.head(name)).size_bytes == 4
    assert run(storage.get("/a b")) == run(storage.get(".//a b")) == b"data"
    for name in ("", "../x", "a/../../x", "a\0"):
        for attempt in (storage.get(name), storage.head(name)):
            with pytest.raises(InvalidInputError):
                run(attempt)


def test_symlinked_directories_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "chunks").symlink_to(tmp_path / "elsewhere")
    storage = local_filesystem_storage(tmp_path / "root")
    run(storage.put("chunks/A", b"1"))
    assert run(listed(storage)) == {"chunks/A": 1}


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage = local_filesystem_storage(tmp_path / "r")
        run(storage.put_if_absent("repo", b"1"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "r" / "repo").stat().st_mode) == 0o640


# ---------------------------------------------------------------- failures


def _write_as_nobody(root: str, version: Version) -> None:
    if os.geteuid() == 0:  # root may write anywhere
        os.setuid(65534)
    storage = local_filesystem_storage(root)
    for attempt in (
        storage.put("repo", b"2"),
        storage.put_if_absent("other", b"2"),
        storage.put_if_unchanged("repo", b"2", version),
        storage.put("chunks/A", b"2"),
        storage.delete_many(["repo"]),
    ):
        with pytest.raises(StorageError, match="check who owns") as caught:
            run_now(attempt)
        assert root in str(caught.value)
        assert caught.value.kind == "io"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no users here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_read_only_directory() -> None:
    # Not below the private directory that pytest gives out.
    with tempfile.TemporaryDirectory() as root:
        version = run(local_filesystem_storage(root).put_if_absent("repo", b"1"))
        Path(root).chmod(0o555)
        process = multiprocessing.get_context("fork").Process(
            target=_write_as_nobody, args=(root, version)
        )
        process.start()
        process.join(60)
        Path(root).chmod(0o755)
        assert process.exitcode == 0
        assert files_of(Path(root)) == {"repo"}


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "see the cause"),
    ],
)
@pytest.mark.parametrize("call", ["write", "replace", "link", "open"])
def test_failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, advice: str
) -> None:
    storage = local_filesystem_storage(tmp_path)
    version = run(storage.put_if_absent("repo", b"1"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, fail)
    if call == "link" and code in _files._NO_LINKS:
        return
    attempts: list[Coroutine[Any, Any, Any]] = []
    if call != "replace":
        attempts.append(storage.put_if_absent("new", b"2"))
    if call != "link":
        attempts.append(storage.put("repo", b"2"))
        attempts.append(storage.put_if_unchanged("repo", b"2", version))
    for attempt in attempts:
        with pytest.raises(StorageError, match=advice) as caught:
            run_now(attempt)
        assert str(tmp_path) in str(caught.value)
        assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.undo()
    assert files_of(tmp_path) <= {"repo", ".icechunk-lock#0"}
    assert run(storage.get("repo")) == b"1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_really_full_disk(tmp_path: Path) -> None:
    """The device that is always full stands for the file: a real ENOSPC."""
    storage = local_filesystem_storage(tmp_path)
    real = os.open

    def open_full(path: str, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_CREAT:
            os.close(real(path, flags, *args, **kwargs))
            return real("/dev/full", os.O_WRONLY)
        return real(path, flags, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", open_full)
        with pytest.raises(StorageError, match="the disk is full: free some space"):
            run_now(storage.put("chunks/A", b"1" * 1000))
    assert files_of(tmp_path) == set()


def test_new_objects_go_straight_to_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was there is replaced whole; also the part of an object that a killed writer left."""
    storage = local_filesystem_storage(tmp_path)
    moved: list[str] = []
    replace = os.replace

    def replacing(source: str, target: str) -> None:
        moved.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replacing)
    run_now(storage.put("chunks/A", b"1" * 1000))
    assert moved == []
    (tmp_path / "chunks" / "B").write_bytes(b"par")
    for key in ("chunks/A", "chunks/B"):
        run_now(storage.put(key, b"2" * 1000))
        assert run_now(storage.get(key)) == b"2" * 1000
    assert moved == [str(tmp_path / "chunks" / name) for name in "AB"]
    assert files_of(tmp_path) == {"chunks/A", "chunks/B"}


def test_short_writes_and_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = local_filesystem_storage(tmp_path)
    data = os.urandom(5000)
    write, read = os.write, os.read
    monkeypatch.setattr(os, "write", lambda fd, part: write(fd, part[:700]))
    run_now(storage.put("chunks/A", data))
    run_now(storage.put("chunks/B", memoryview(data)))
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 999)))
    assert run_now(storage.get("chunks/A")) == run_now(storage.get("chunks/B")) == data
    monkeypatch.setattr(os, "read", lambda fd, size: b"")
    with pytest.raises(StorageError, match="shorter while it was read"):
        run_now(storage.get("chunks/A"))


def test_file_where_a_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = local_filesystem_storage(tmp_path / "file")
    with pytest.raises(StorageError, match="a file is where a directory should be"):
        run(storage.put("repo", b""))
    with pytest.raises(StorageError, match="no object"):
        run(storage.get("repo"))


def test_root_removed_between_writes(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path / "r")
    for content in (b"1", b"2"):
        run(storage.put("chunks/A", content))
        assert run(storage.get("chunks/A")) == content
        (tmp_path / "r" / "chunks" / "A").unlink()
        (tmp_path / "r" / "chunks").rmdir()
        (tmp_path / "r").rmdir()


# ---------------------------------------------------------------- the lock


def test_lock_held_by_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = local_filesystem_storage(tmp_path)
    version = run(storage.put_if_absent("repo", b"1"))
    program = (
        "import sys, time; from icechunk.storage._file_lock import locked\n"
        "with locked(sys.argv[1], 5): print('held', flush=True); time.sleep(60)"
    )
    lock = str(tmp_path / _files._LOCK_NAME)
    holder = subprocess.Popen([sys.executable, "-c", program, lock], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(_files, "_LOCK_TIMEOUT_SECONDS", 0.05)
        with pytest.raises(StorageError, match=r"not free within 0\.05 s") as caught:
            run(storage.put_if_unchanged("repo", b"2", version))
        assert caught.value.kind == "throttled"
        monkeypatch.setattr(_files, "_LOCK_TIMEOUT_SECONDS", 30.0)
        holder.kill()  # the system drops its lock
        version = run(storage.put_if_unchanged("repo", b"2", version))
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
    (tmp_path / _files._LOCK_NAME).unlink()
    run(storage.put_if_unchanged("repo", b"3", version))


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = local_filesystem_storage(tmp_path)
    version = run(storage.put_if_absent("repo", b"1"))

    def no_locks(fd: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(_file_lock, "try_lock", no_locks)
    with pytest.raises(StorageError, match="has no file locks") as caught:
        run(storage.put_if_unchanged("repo", b"2", version))
    assert caught.value.kind == "storage-config"
    assert files_of(tmp_path) == {"repo", ".icechunk-lock#0"}


# ---------------------------------------------------------------- processes


def _count(root: str, rounds: int) -> None:
    storage = local_filesystem_storage(root)
    for _ in range(rounds):
        while True:
            data, version = run_now(storage.get_versioned("repo"))
            try:
                run_now(storage.put_if_unchanged("repo", str(int(data) + 1).encode(), version))
                break
            except LostRaceError:
                continue


def test_racing_processes_lose_no_update(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path)
    run(storage.put_if_absent("repo", b"0"))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_count, args=(str(tmp_path), 50)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        assert process.exitcode == 0
    assert run(storage.get("repo")) == b"150"
    assert run(listed(storage)) == {"repo": 3}


_WRITER = """
import itertools, sys
from icechunk._io.loop import run_now
from icechunk.storage import local_filesystem_storage
storage = local_filesystem_storage(sys.argv[1])
version = run_now(storage.get_versioned("repo"))[1]
print("writing", flush=True)
for number in itertools.count():
    version = run_now(storage.put_if_unchanged("repo", b"%09d" % number * 20000, version))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 here")
def test_killed_writer_leaves_old_or_new(tmp_path: Path) -> None:
    storage = local_filesystem_storage(tmp_path)
    run(storage.put_if_absent("repo", b"x" * 9 * 20000))
    for attempt in range(4):
        program = [sys.executable, "-c", _WRITER, str(tmp_path)]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"writing\n"
            time.sleep(0.01 + 0.003 * attempt)
            writer.kill()
        data, version = run(storage.get_versioned("repo"))
        assert len(data) == 9 * 20000
        assert len({data[at : at + 9] for at in range(0, len(data), 9)}) == 1
        assert run(listed(storage)) == {"repo": 9 * 20000}
        # And the lock it may have held is free.
        run(storage.put_if_unchanged("repo", b"x" * 9 * 20000, version))
