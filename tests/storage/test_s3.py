"""S3, against a real server on loopback."""

from __future__ import annotations

import asyncio
import json
import pickle
import subprocess
import sys
import time
import traceback
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import s3fs

from icechunk import errors
from icechunk._io import clients
from icechunk._io.loop import run
from icechunk.credential_values import S3Credentials, S3StaticCredentials
from icechunk.errors import InvalidInputError, StorageError
from icechunk.object_store_config import S3Options
from icechunk.storage import (
    Storage,
    _choice,
    _obstore_clients,
    _s3_fs,
    _s3_obstore,
    _s3_place,
    s3_storage,
)
from icechunk.storage import _bucket as module
from icechunk.storage._renewal import Renewals
from icechunk.storage.base import Version
from icechunk.storage.objects import ByteRange, LostRaceError, UnknownOutcomeError
from icechunk.storage.url import storage_for_url
from icechunk.storage_settings import (
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icechunk.types import ChecksumAlgorithm
from tests.s3_server import (
    BUCKET,
    KEY,
    OPEN_BUCKET,
    READER_KEY,
    READER_SECRET,
    SECRET,
    S3Server,
)
from tests.storage.conformance import StorageConformance, listed

if TYPE_CHECKING:
    from collections.abc import Iterator

FEW_TRIES = StorageSettings(
    retries=StorageRetriesSettings(max_tries=2, initial_backoff_ms=1, max_backoff_ms=10)
)


def made(server: S3Server, prefix: str | None = None, **changes: Any) -> Storage:
    prefix = uuid.uuid4().hex if prefix is None else prefix
    return s3_storage(prefix=prefix, **server.options(**changes)).with_settings(FEW_TRIES)


class TestS3(StorageConformance):
    threads = 4
    rounds = 4
    many = 120

    @pytest.fixture
    def storage(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Storage:
        monkeypatch.setattr(module, "_LISTED_AT_ONCE", 50)
        monkeypatch.setattr(module, "_DELETED_AT_ONCE", 50)
        return s3_storage(prefix=f"a/{uuid.uuid4()}", **s3.options())


# ---------------------------------------------------------------- who may


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"access_key_id": "AKNOBODY"}, "InvalidAccessKeyId: .*check access_key_id"),
        ({"secret_access_key": "guessed-secret"}, "SignatureDoesNotMatch: .*secret_access_key"),
        ({"bucket": "no-such-bucket"}, "there is no such bucket"),
        ({"anonymous": True, "access_key_id": None, "secret_access_key": None}, "AccessDenied|403"),
    ],
)
def test_refused(s3: S3Server, changes: dict[str, Any], message: str) -> None:
    storage = made(s3, **changes)
    for attempt in (
        storage.get("repo"),
        storage.put("repo", b"1"),
        storage.put_if_absent("repo", b"1"),
    ):
        with pytest.raises(StorageError, match=message) as caught:
            run(attempt)
        assert not isinstance(caught.value, LostRaceError | UnknownOutcomeError)
        assert "secret" not in str(caught.value).replace("secret_access_key", "")


def test_reader_may_not_write(s3: S3Server) -> None:
    writer = made(s3, "shared-prefix")
    run(writer.put("repo", b"1"))
    reader = made(s3, "shared-prefix", access_key_id=READER_KEY, secret_access_key=READER_SECRET)
    assert run(reader.get("repo")) == b"1"
    with pytest.raises(StorageError, match="access was denied"):
        run(reader.put("repo", b"2"))


def test_anonymous_reads_what_is_open(s3: S3Server) -> None:
    public = {"x-amz-acl": "public-read"}
    run(made(s3, "public", bucket=OPEN_BUCKET, write_headers=public).put("repo", b"1"))
    nobody = {"access_key_id": None, "secret_access_key": None, "anonymous": True}
    assert run(made(s3, "public", bucket=OPEN_BUCKET, **nobody).get("repo")) == b"1"
    sent = s3.requests("/open-bucket/public/repo")[-1]
    assert "authorization" not in sent["headers"]


@pytest.mark.parametrize("explicitly", [True, None])
def test_credentials_from_environment(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, explicitly: bool | None
) -> None:
    options: dict[str, Any] = {
        "access_key_id": None,
        "secret_access_key": None,
        "from_env": explicitly,
    }
    with pytest.raises(StorageError, match="set AWS_ACCESS_KEY_ID"):
        run(made(s3, **options).get("repo"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    run(made(s3, **options).put("repo", b"1"))


def test_session_token_is_sent(s3: S3Server) -> None:
    storage = made(s3, "with-token", session_token="a-session-token")
    with pytest.raises(StorageError):  # this server knows of no tokens
        run(storage.put("repo", b"1"))
    assert s3.requests("/with-token/repo")[-1]["headers"]["x-amz-security-token"] == (
        "a-session-token"
    )


# ---------------------------------------------------------------- refreshed credentials

calls: list[float] = []


@pytest.fixture(autouse=True)
def nothing_renewed_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what callbacks returned in earlier tests: a process asks each only once."""
    monkeypatch.setattr(_s3_place, "_renewals", Renewals())


def good_credentials() -> S3StaticCredentials:
    calls.append(time.monotonic())
    return S3StaticCredentials(KEY, SECRET, None, datetime.now(UTC) + timedelta(hours=1))


def lasting_credentials() -> S3StaticCredentials:
    calls.append(time.monotonic())
    return S3StaticCredentials(KEY, SECRET)


def short_credentials() -> S3StaticCredentials:
    calls.append(time.monotonic())
    return S3StaticCredentials(KEY, SECRET, None, datetime.now(UTC) + timedelta(seconds=1))


def late_credentials() -> S3StaticCredentials:
    return S3StaticCredentials(KEY, SECRET, None, datetime.now(UTC) - timedelta(seconds=5))


def failing_credentials() -> S3StaticCredentials:
    raise OSError("the vault is closed")


def other_credentials() -> Any:
    return (KEY, SECRET)


def refreshed(server: S3Server, get_credentials: Any, **more: Any) -> Storage:
    none = {"access_key_id": None, "secret_access_key": None}
    return made(server, get_credentials=get_credentials, **none, **more)


@pytest.mark.parametrize("callback", [good_credentials, lasting_credentials])
def test_callback_is_called_once(s3: S3Server, callback: Any) -> None:
    calls.clear()
    storage = refreshed(s3, callback)
    assert calls == []
    for number in range(3):
        run(storage.put(f"chunks/{number}", b"1"))
    assert len(calls) == 1
    twin = pickle.loads(pickle.dumps(storage))
    assert run(twin.get("chunks/1")) == b"1"


def test_callback_is_called_again_at_the_end(s3: S3Server) -> None:
    calls.clear()
    storage = refreshed(s3, short_credentials)

    async def put_many() -> None:
        await asyncio.gather(*(storage.put(f"chunks/{number}", b"1") for number in range(8)))

    run(put_many())
    assert len(calls) == 1  # for all of them
    time.sleep(1)
    run(put_many())
    assert len(calls) == 2


def test_credentials_that_the_service_takes_for_expired(s3: S3Server) -> None:
    """Its clock, or somebody who revoked them: renewed once, for all requests under way."""
    calls.clear()
    prefix = uuid.uuid4().hex
    storage = refreshed(s3, good_credentials, prefix=prefix)
    version = run(storage.put_if_absent("repo", b"1"))
    assert len(calls) == 1
    s3.fault("expired", "PUT", prefix, count=4)

    async def put_many() -> None:
        await asyncio.gather(*(storage.put(f"chunks/{number}", b"1") for number in range(4)))

    run(put_many())
    assert len(calls) == 2
    s3.fault("expired", "PUT", f"{prefix}/repo")
    newer = run(storage.put_if_unchanged("repo", b"2", version))
    assert run(storage.get_versioned("repo")) == (b"2", newer)
    assert len(calls) == 3
    assert len(storage.list_objects()) == 5


def test_fixed_credentials_that_have_expired(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix)
    s3.fault("expired", "PUT", prefix, count=9)
    with pytest.raises(StorageError, match=r"ExpiredToken: .* pass get_credentials"):
        run(storage.put_if_absent("repo", b"1"))
    s3.no_faults()
    assert run(storage.is_clean())


def test_scattered_credentials(s3: S3Server) -> None:
    calls.clear()
    storage = refreshed(s3, good_credentials, scatter_initial_credentials=True)
    assert len(calls) == 1
    run(pickle.loads(pickle.dumps(storage)).put("repo", b"1"))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (failing_credentials, "get_credentials failed: OSError: the vault is closed"),
        (late_credentials, "returned credentials that ended"),
        (other_credentials, "must return S3StaticCredentials"),
    ],
)
def test_callback_goes_wrong(s3: S3Server, callback: Any, message: str) -> None:
    storage = refreshed(s3, callback)
    for _ in range(2):
        with pytest.raises(errors.IcechunkError, match=message) as caught:
            run(storage.get("repo"))
        assert caught.value.kind == "invalid-credentials"


# ---------------------------------------------------------------- which library


def library_used(server: S3Server, **changes: Any) -> str:
    """Return what the last request of a storage was made with."""
    prefix = uuid.uuid4().hex
    run(made(server, prefix, **changes).put("chunks/A", b"1"))
    agent = server.requests(prefix)[-1]["headers"]["user-agent"]
    return "obstore" if agent.startswith("object_store") else "s3fs"


def test_which_library(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    assert library_used(s3, backend="s3fs") == "s3fs"
    assert library_used(s3, backend="obstore") == "obstore"
    assert library_used(s3, backend="auto") == "obstore"
    for obstacle, words in (
        ({"headers": {"x-amz-acl": "private"}}, "the signed header x-amz-acl"),
        ({"checksum_algorithm": ChecksumAlgorithm.Crc32}, "checksum_algorithm Crc32"),
    ):
        assert library_used(s3, backend="auto", **obstacle) == "s3fs"
        with pytest.raises(InvalidInputError, match=f"obstore cannot do {words}"):
            made(s3, backend="obstore", **obstacle)
    with pytest.raises(InvalidInputError, match="backend must be"):
        made(s3, backend="boto")
    monkeypatch.setattr(_choice, "_is_installed", lambda: False)
    assert library_used(s3, backend="auto") == "s3fs"
    with pytest.raises(InvalidInputError, match=r"pip install 'icechunk\[obstore\]'"):
        made(s3, backend="obstore")


def test_obstore_alone_is_loaded(s3_server: S3Server) -> None:
    """The other library takes ten times as long to load, which the first request would wait for."""
    program = (
        "import json, sys\n"
        "from icechunk import Repository, s3_storage\n"
        "repo = Repository.create(s3_storage(prefix=sys.argv[1], **json.loads(sys.argv[2])))\n"
        "repo.create_tag('v1', snapshot_id=repo.lookup_branch('main'))\n"
        "heavy = {'s3fs', 'botocore', 'aiobotocore', 'aiohttp'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    options = json.dumps(s3_server.options(backend="obstore"))
    done = subprocess.run(
        [sys.executable, "-c", program, uuid.uuid4().hex, options],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_keys_that_obstore_cannot_name(s3: S3Server) -> None:
    """Files of others, read as virtual chunks or found in a listing."""
    other = made(s3, "", backend="s3fs", legacy_rooted_keys=False)
    folder = uuid.uuid4().hex
    client = {"endpoint_url": s3.url, "region_name": "us-east-1"}
    files = s3fs.S3FileSystem(
        key=KEY, secret=SECRET, client_kwargs=client, skip_instance_cache=True
    )
    names = [f"{folder}/a//b", f"{folder}/./c", f"{folder}/d\x01e", f"{folder}/f"]
    for name in names:
        files.call_s3("put_object", Bucket=BUCKET, Key=name, Body=name.encode())
    storage = made(s3, "", legacy_rooted_keys=False)
    for name in names:
        assert run(storage.get(name)) == run(other.get(name)) == name.encode()
    assert sorted(run(listed(storage, f"{folder}/"))) == sorted(names)
    files.call_s3("put_object", Bucket=BUCKET, Key=f"{folder}/x/y/", Body=b"")
    assert run(listed(storage, f"{folder}/x/")) == {}
    assert run(made(s3, f"{folder}/x/y").is_clean())


def test_odd_characters_in_keys(s3: S3Server) -> None:
    storage = made(s3)
    for name in ("a%20b", "a b", "ü", "x?y", "x#y", "x+y", "x&y=1", "~x", "x:y", "x;y", "x'y\"z"):
        run(storage.put(f"chunks/{name}", name.encode()))
        assert run(storage.get(f"chunks/{name}")) == name.encode()
        assert f"chunks/{name}" in run(listed(storage, "chunks/"))
    run(storage.delete_many([key for key, _ in storage.list_objects()]))
    assert run(storage.is_clean())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"virtual_hosted_style_request": True}),
        ({"bucket": "dots.in.it"}, {"virtual_hosted_style_request": False}),
        ({"force_path_style": True}, {"virtual_hosted_style_request": False}),
        (
            {"endpoint_url": "https://store.example:9000"},
            {"endpoint": "https://bbb.store.example:9000", "virtual_hosted_style_request": True},
        ),
        (
            {"endpoint_url": "https://127.0.0.1:9000"},
            {"endpoint": "https://127.0.0.1:9000", "virtual_hosted_style_request": False},
        ),
    ],
)
def test_where_obstore_sends_requests(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    storage: Any = s3_storage(**({"bucket": "bbb", "prefix": "p"} | changes))
    found = _s3_obstore._endpoint(storage._place)
    assert found == expected


# ---------------------------------------------------------------- parameters


def test_headers(s3: S3Server) -> None:
    storage = made(
        s3,
        "headers",
        headers={"x-both": "b", "x-which": "common"},
        read_headers={"x-which": "read"},
        write_headers={"x-amz-acl": "bucket-owner-full-control"},
    )
    run(storage.put("repo", b"1"))
    run(storage.get("repo"))
    storage.list_objects()
    for request in s3.requests("headers"):
        headers = request["headers"]
        assert headers["x-both"] == "b"
        writes = request["method"] == "PUT"
        assert headers["x-which"] == ("common" if writes else "read")
        assert headers.get("x-amz-acl") == ("bucket-owner-full-control" if writes else None)
        assert "x-both" in headers["authorization"]  # signed as well


def test_requester_pays(s3: S3Server) -> None:
    storage = made(s3, f"payer-{s3.backend}", requester_pays=True)
    version = run(storage.put_if_absent("repo", b"1"))
    run(storage.put_if_unchanged("repo", b"2", version))
    run(storage.get("repo"))
    run(storage.head("repo"))
    run(storage.put("chunks/A", b"1"))
    run(storage.delete_many(["chunks/A"]))
    storage.list_objects()
    sent = [r for r in s3.requests(f"payer-{s3.backend}") if "/_test" not in r["path"]]
    assert len(sent) >= 6
    assert {r["headers"].get("x-amz-request-payer") for r in sent} == {"requester"}


@pytest.mark.parametrize(
    ("algorithm", "header"),
    [
        (ChecksumAlgorithm.Sha256, "x-amz-checksum-sha256"),
        (ChecksumAlgorithm.Sha1, "x-amz-checksum-sha1"),
        (ChecksumAlgorithm.Crc32, "x-amz-checksum-crc32"),
    ],
)
def test_checksums(s3: S3Server, algorithm: ChecksumAlgorithm, header: str) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix, checksum_algorithm=algorithm)
    run(storage.put("chunks/A", b"1"))
    run(storage.put_if_absent("repo", b"1"))
    sent = [r for r in s3.requests(prefix) if r["method"] == "PUT"]
    assert len(sent) == 2
    assert all(header in r["headers"] for r in sent)


def test_storage_classes(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix).with_settings(
        StorageSettings(storage_class="STANDARD_IA", chunks_storage_class="ONEZONE_IA")
    )
    run(storage.put("chunks/A", b"1"))
    run(storage.put("snapshots/A", b"1"))
    run(storage.with_settings(StorageSettings()).put("snapshots/B", b"1"))
    classes = [r["headers"].get("x-amz-storage-class") for r in s3.requests(prefix)]
    assert classes == ["ONEZONE_IA", "STANDARD_IA", None]


def test_metadata(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix)
    metadata = {"icspecver": "2", "icfiletype": "repo-info"}
    version = run(storage.put_if_absent("repo", b"1", metadata=metadata, content_type="a/b"))
    run(storage.put_if_unchanged("repo", b"2", version, metadata=metadata))
    run(storage.put("snapshots/A", b"1", metadata=metadata))
    bare = storage.with_settings(StorageSettings(unsafe_use_metadata=False))
    run(bare.put_if_absent("other", b"1", metadata=metadata))
    first, second, third, fourth = (r["headers"] for r in s3.requests(prefix))
    for headers in (first, second, third):
        assert headers["x-amz-meta-icspecver"] == "2"
        assert headers["x-amz-meta-icfiletype"] == "repo-info"
    assert first["if-none-match"] == "*"
    assert second["if-match"] == version
    assert first["x-amz-meta-icechunkwriteid"] != second["x-amz-meta-icechunkwriteid"]
    assert "x-amz-meta-icechunkwriteid" not in third
    assert not [name for name in fourth if name.startswith("x-amz-meta")]


def test_conditions_can_be_turned_off(s3: S3Server) -> None:
    storage = made(s3).with_settings(
        StorageSettings(unsafe_use_conditional_create=False, unsafe_use_conditional_update=False)
    )
    run(storage.put_if_absent("repo", b"1"))
    run(storage.put_if_absent("repo", b"2"))
    run(storage.put_if_unchanged("repo", b"3", Version('"other"')))
    assert run(storage.get("repo")) == b"3"


def test_large_objects_go_in_parts_and_come_in_ranges(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    data = bytes(range(256)) * 4096 * 11  # 11 MiB
    storage = made(s3, prefix, checksum_algorithm=ChecksumAlgorithm.Sha256).with_settings(
        StorageSettings(
            minimum_size_for_multipart_upload=1 << 20,
            concurrency=StorageConcurrencySettings(
                max_concurrent_requests_for_object=3, ideal_concurrent_request_size=1 << 20
            ),
        )
    )
    run(storage.put("chunks/A", data))
    assert run(storage.get("chunks/A")) == data
    parts = [r for r in s3.requests(prefix) if "partNumber" in r["query"]]
    assert len(parts) == 3
    whole = ByteRange(start=5, stop=len(data) - 5)
    assert run(storage.get("chunks/A", whole)) == data[5:-5]
    ranges = [r["headers"]["range"] for r in s3.requests(prefix) if "range" in r["headers"]]
    assert len(ranges) == 3
    with pytest.raises(StorageError, match="were asked for"):
        run(storage.get("chunks/A", ByteRange(start=0, stop=len(data) + 1)))


def test_failed_upload_leaves_no_parts(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix).with_settings(
        FEW_TRIES.merge(StorageSettings(minimum_size_for_multipart_upload=1))
    )
    s3.fault("500", "PUT", "partNumber=2", count=10)
    with pytest.raises(StorageError, match=f"cannot write s3://{BUCKET}/{prefix}/chunks/A"):
        run(storage.put("chunks/A", bytes(13 << 20)))
    assert [r["method"] for r in s3.requests(prefix)][-1] == "DELETE"
    assert run(listed(storage)) == {}


def test_arguments_that_cannot_be_meant(s3: S3Server) -> None:
    for changes, kind in (
        ({"bucket": ""}, "storage-config"),
        ({"bucket": "a/b"}, "storage-config"),
        ({"prefix": "a//b"}, "bad-prefix"),
        ({"prefix": "a", "legacy_rooted_keys": True}, "storage-config"),
        ({"anonymous": True}, "invalid-credentials"),
        ({"secret_access_key": None}, "invalid-credentials"),
    ):
        with pytest.raises(InvalidInputError) as caught:
            s3_storage(**({"prefix": "p"} | s3.options(**changes)))
        assert caught.value.kind == kind
    with pytest.raises(TypeError):
        s3_storage(prefix="p", **s3.options(nonsense=1))


def test_an_endpoint_that_is_not_encrypted_is_used_and_said(
    s3: S3Server, caplog: pytest.LogCaptureFixture
) -> None:
    for allowed in (True, False):
        caplog.clear()
        storage = s3_storage(prefix=uuid.uuid4().hex, **s3.options(allow_http=allowed))
        run(storage.put("chunks/A", b"data"))
        assert run(storage.get("chunks/A")) == b"data"
        assert ("not encrypted: pass allow_http=True" in caplog.text) is not allowed


def test_a_prefix_that_begins_with_a_slash_is_another_place(s3: S3Server) -> None:
    name = uuid.uuid4().hex
    options = s3.options() | {"backend": "auto"}
    rooted, plain = (s3_storage(prefix=prefix, **options) for prefix in (f"/{name}/", f"{name}/"))
    assert rooted.description == f"s3://{BUCKET}//{name}"
    run(rooted.put("repo", b"rooted"))
    assert run(listed(plain)) == {}
    run(plain.put("repo", b"plain"))
    assert run(rooted.get("repo")) == b"rooted"
    assert list(run(listed(rooted))) == list(run(listed(plain))) == ["repo"]
    assert s3.requests(name)[0]["path"].endswith(f"//{name}/repo")
    again = pickle.loads(pickle.dumps(rooted))
    assert run(again.get("repo")) == b"rooted"


def test_network_timeout(s3: S3Server) -> None:
    settings = FEW_TRIES.merge(
        StorageSettings(
            timeouts=StorageTimeoutSettings(read_timeout_ms=200, connect_timeout_ms=1000)
        )
    )
    s3.fault("sleep", "GET", "/slow/", count=9)
    start = time.monotonic()
    with pytest.raises(StorageError, match="imeout"):
        run(made(s3, "slow").with_settings(settings).get("repo"))
    limited = settings.merge(
        StorageSettings(
            timeouts=StorageTimeoutSettings(read_timeout_ms=60_000, operation_timeout_ms=200)
        )
    )
    with pytest.raises(StorageError, match="took longer than 200 ms"):
        run(made(s3, "slow").with_settings(limited).get("repo"))
    assert time.monotonic() - start < 10


def test_nobody_answers(s3: S3Server) -> None:
    storage = made(s3, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(StorageError, match="check endpoint_url and the network"):
        run(storage.get("repo"))
    with pytest.raises(UnknownOutcomeError):
        run(storage.put_if_absent("repo", b"1"))


# ---------------------------------------------------------------- layout of old repositories


@pytest.fixture
def empty_bucket(s3: S3Server) -> Iterator[Storage]:
    storage = made(s3, "", bucket=OPEN_BUCKET, legacy_rooted_keys=False)
    keys = [key for key, _ in storage.list_objects()]
    run(storage.delete_many(keys))
    yield storage
    run(storage.delete_many([key for key, _ in storage.list_objects()]))


@pytest.mark.parametrize("key", ["repo", "refs/branch.main/ref.json"])
@pytest.mark.parametrize("rooted", [True, False])
@pytest.mark.usefixtures("empty_bucket")
def test_keys_that_begin_with_a_slash(s3: S3Server, key: str, rooted: bool) -> None:
    forced = made(s3, "", bucket=OPEN_BUCKET, legacy_rooted_keys=rooted)
    run(forced.put(key, b"1"))
    found = made(s3, "", bucket=OPEN_BUCKET)
    assert run(found.get(key)) == b"1"
    assert run(listed(found)) == {key: 1}
    assert s3.requests(key)[-1]["path"].endswith(f"/{'/' if rooted else ''}{key}")


@pytest.mark.usefixtures("empty_bucket")
def test_bucket_root_without_the_right_to_list(s3: S3Server) -> None:
    public = {"x-amz-acl": "public-read"}
    writer = made(s3, "", bucket=OPEN_BUCKET, write_headers=public, legacy_rooted_keys=False)
    run(writer.put("data/file.nc", b"1"))
    nobody = {"access_key_id": None, "secret_access_key": None, "anonymous": True}
    assert run(made(s3, "", bucket=OPEN_BUCKET, **nobody).get("data/file.nc")) == b"1"


@pytest.mark.usefixtures("empty_bucket")
def test_bucket_root(s3: S3Server) -> None:
    storage = made(s3, "", bucket=OPEN_BUCKET)
    assert run(storage.is_clean())
    with pytest.raises(InvalidInputError) as caught:
        storage.check_creatable()
    assert caught.value.kind == "empty-prefix-creation"
    made(s3, "p").check_creatable()


# ---------------------------------------------------------------- lost replies


@pytest.mark.parametrize("fault", ["lose", "late-500", "500", "503"])
def test_one_fault_is_survived(s3: S3Server, fault: str) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix)
    s3.fault(fault, "PUT", f"{prefix}/repo")
    version = run(storage.put_if_absent("repo", b"1"))
    assert run(storage.get_versioned("repo")) == (b"1", version)
    s3.fault(fault, "PUT", f"{prefix}/repo")
    newer = run(storage.put_if_unchanged("repo", b"2", version))
    assert run(storage.get_versioned("repo")) == (b"2", newer)
    s3.fault(fault, "PUT", f"{prefix}/chunks/A")
    run(storage.put("chunks/A", b"1"))
    with pytest.raises(LostRaceError):
        run(storage.put_if_unchanged("repo", b"3", version))


@pytest.mark.parametrize("fault", ["lose", "late-500"])
def test_many_lost_replies_are_one_write(s3: S3Server, fault: str) -> None:
    """Every reply is lost, after every retry: the object itself tells that it was written."""
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix)
    s3.fault(fault, "PUT", f"{prefix}/repo", count=99)
    version = run(storage.put_if_absent("repo", b"1"))
    newer = run(storage.put_if_unchanged("repo", b"2", version))
    s3.no_faults()
    assert run(storage.get_versioned("repo")) == (b"2", newer)


def test_nothing_was_written(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix)
    s3.fault("500", "PUT", f"{prefix}/repo", count=99)
    with pytest.raises(UnknownOutcomeError, match="not known whether"):
        run(storage.put_if_absent("repo", b"1"))
    assert run(storage.is_clean())


def test_lost_reply_and_then_somebody_else(s3: S3Server) -> None:
    """Our write may have been the one below theirs: nobody can tell."""
    prefix = uuid.uuid4().hex
    storage, other = made(s3, prefix), made(s3, prefix)
    version = run(storage.put_if_absent("repo", b"1"))
    s3.fault("late-500", "PUT", f"{prefix}/repo")
    s3.fault("sleep", "HEAD", f"{prefix}/repo")  # time enough for the other

    async def race() -> BaseException | Version:
        ours = asyncio.ensure_future(storage.put_if_unchanged("repo", b"2", version))
        while (found := await other.get_versioned("repo"))[0] != b"2":
            await asyncio.sleep(0.01)
        await other.put("repo", b"3")
        assert found[1]
        return (await asyncio.gather(ours, return_exceptions=True))[0]

    assert isinstance(run(race()), UnknownOutcomeError)


def test_reply_cut_in_the_middle(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    storage = made(s3, prefix)
    data = bytes(200_000)
    run(storage.put("chunks/A", data))
    s3.fault("cut", "GET", f"{prefix}/chunks/A")
    assert run(storage.get("chunks/A")) == data
    s3.fault("cut", "GET", f"{prefix}/chunks/A", count=99)
    with pytest.raises(StorageError, match="cannot read"):
        run(storage.get("chunks/A"))


def test_slow_down(s3: S3Server) -> None:
    prefix = uuid.uuid4().hex
    s3.fault("503", "GET", prefix, count=99)
    with pytest.raises(StorageError, match="asks to slow down") as caught:
        run(made(s3, prefix).get("repo"))
    assert caught.value.kind == "throttled"


# ---------------------------------------------------------------- one client, no secrets


def test_equal_storages_share_connections(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: Any
    if s3.backend == "s3fs":
        kept = lambda: _s3_fs._clients._entries
        monkeypatch.setattr(clients, "_KEPT", 2)
    else:
        kept = lambda: _obstore_clients.clients._kept
        monkeypatch.setattr(_obstore_clients, "_KEPT", 2)
    storage = made(s3)
    run(storage.put("repo", b"1"))
    count = len(kept())
    for _ in range(3):
        assert run(pickle.loads(pickle.dumps(storage)).get("repo")) == b"1"
    assert len(kept()) == count
    for number in range(4):
        run(made(s3, f"p{number}").is_clean())
    assert len(kept()) == 2
    run(storage.get("repo"))


def test_secrets_stay_hidden(s3: S3Server) -> None:
    storage = made(
        s3, "p", session_token="sesame-token", endpoint_url="http://u:sesame@127.0.0.1:1"
    )
    with pytest.raises(StorageError) as caught:
        run(storage.get("repo"))
    shown = [str(storage), repr(storage), storage.description, str(caught.value)]
    shown += traceback.format_exception(caught.value)
    for secret in (SECRET, KEY, "sesame"):
        assert not any(secret in text for text in shown), secret


def test_text_form(s3: S3Server) -> None:
    storage = s3_storage(
        bucket="b",
        prefix="p/q/",
        region="us-east-1",
        endpoint_url="http://127.0.0.1:1",
        allow_http=True,
        anonymous=True,
        force_path_style=True,
        requester_pays=True,
        checksum_algorithm=ChecksumAlgorithm.Crc32c,
    )
    assert str(storage) == (
        "<icechunk.Storage>\ntype: S3\nbucket: b\nprefix: p/q\nregion: us-east-1\n"
        "endpoint_url: http://127.0.0.1:1\nallow_http: True\nanonymous: True\n"
        "force_path_style: True\nrequester_pays: True\nchecksum_algorithm: Crc32c\n"
    )
    assert storage.description == "s3://b/p/q"


def test_constructors_agree(s3: S3Server) -> None:
    options = s3.options()
    del options["bucket"]
    by_url = storage_for_url(f"s3://{BUCKET}/p/q", **options)
    by_class = Storage.new_s3(
        S3Options(
            region="us-east-1",
            endpoint_url=s3.url,
            allow_http=True,
            force_path_style=True,
            network_stream_timeout_seconds=60,
        ),
        BUCKET,
        "p/q",
        S3Credentials.Static(S3StaticCredentials(KEY, SECRET)),
    )
    assert by_url == by_class == s3_storage(prefix="p/q", **s3.options())
    with pytest.raises(InvalidInputError, match="options"):
        storage_for_url("s3://b/p", nonsense=1)


_PROGRAM = """
import os, pickle, sys
from icechunk._io.loop import run
storage = pickle.loads(bytes.fromhex(sys.argv[1]))
run(storage.put("chunks/A", b"1"))
{more}
"""


def _run_program(storage: Storage, more: str = "") -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-Walways",
            "-c",
            _PROGRAM.format(more=more),
            pickle.dumps(storage).hex(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_another_process_and_a_quiet_exit(s3: S3Server) -> None:
    storage = made(s3)
    _run_program(storage)
    assert run(storage.get("chunks/A")) == b"1"


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
def test_forked_child_has_its_own_connections(s3: S3Server) -> None:
    storage = made(s3)
    more = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    run(storage.put("chunks/child", b"2"))
    os._exit(0)
for n in range(20):
    run(storage.put(f"chunks/{n}", b"3"))
assert os.waitpid(child, 0)[1] == 0
"""
    _run_program(storage, more)
    assert run(storage.get("chunks/child")) == b"2"
    assert len(storage.list_objects()) == 22


def test_interrupted_calls_leave_no_client_behind(s3: S3Server) -> None:
    storage = made(s3, "slow-again")
    s3.fault("sleep", "GET", "/slow-again/", count=1)

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await storage.get("repo")

    run(give_up())
    with pytest.raises(StorageError):
        run(storage.get("repo"))
