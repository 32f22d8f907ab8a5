"""What crosses a process: every class that can, by pickle and cloudpickle; no secret shows."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import cloudpickle
import numpy as np
import pytest
import zarr
from dask.base import tokenize

import icechunk as ic
from icechunk import credentials, errors
from icechunk.ops import GCSummary, Update, UpdateType
from icechunk.ops.stats import ChunkStorageStats
from icechunk.types import FeatureFlag

SECRET = "hush-hush-0123456789"
WHEN = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)

PICKLES = {"pickle": pickle.dumps, "cloudpickle": cloudpickle.dumps}


def get_s3() -> ic.S3StaticCredentials:
    return ic.S3StaticCredentials("key", SECRET)


def get_gcs() -> ic.GcsBearerCredential:
    return ic.GcsBearerCredential(SECRET)


def get_azure() -> Any:
    return ic.AzureRefreshableCredential.BearerToken(SECRET)


def all_credentials() -> dict[str, Any]:
    static = ic.S3StaticCredentials("key", SECRET, SECRET, WHEN)
    return {
        "s3 static values": static,
        "s3 env": ic.s3_from_env_credentials(),
        "s3 anonymous": ic.s3_anonymous_credentials(),
        "s3 static": ic.S3Credentials.Static(static),
        "s3 refreshable": ic.s3_refreshable_credentials(get_s3),
        "gcs env": ic.gcs_from_env_credentials(),
        "gcs bearer": ic.gcs_static_credentials(bearer_token=SECRET),
        "gcs key": ic.gcs_credentials(service_account_key=SECRET),
        "gcs refreshable": ic.gcs_refreshable_credentials(get_gcs),
        "gcs bearer value": ic.GcsBearerCredential(SECRET, expires_after=WHEN),
        "azure env": ic.azure_from_env_credentials(),
        "azure key": ic.azure_credentials(access_key=SECRET),
        "azure sas": ic.azure_static_credentials(sas_token=SECRET),
        "azure bearer": ic.azure_static_credentials(bearer_token=SECRET),
        "azure refreshable": ic.azure_refreshable_credentials(get_azure),
        "container s3": ic.Credentials.S3(ic.S3Credentials.Static(static)),
        "container local": credentials.LocalFileSystemAccess,
        "container http": credentials.HttpAccess,
    }


def all_config() -> dict[str, Any]:
    split = ic.ManifestSplittingConfig.from_dict(
        {ic.ManifestSplitCondition.AnyArray(): {ic.ManifestSplitDimCondition.Any(): 2}}
    )
    storage = ic.StorageSettings(
        ic.StorageConcurrencySettings(3, 4),
        ic.StorageRetriesSettings(5, 6, 7),
        timeouts=ic.StorageTimeoutSettings(),
    )
    s3 = ic.s3_store(region="eu", s3_compatible=True)
    container = ic.VirtualChunkContainer("s3://bucket/", s3, "name")
    preload = ic.ManifestPreloadConfig(7, ic.ManifestPreloadCondition.true())
    manifest = ic.ManifestConfig(
        preload, split, ic.ManifestVirtualChunkLocationCompressionConfig(min_num_chunks=3)
    )
    return {
        "caching": ic.CachingConfig(1, 2, 3, 4, 5),
        "compression": ic.CompressionConfig(ic.CompressionAlgorithm.Zstd, 4),
        "splitting": split,
        "preload": preload,
        "manifest": manifest,
        "storage settings": storage,
        "s3 options": ic.S3Options(region="eu", checksum_algorithm=ic.ChecksumAlgorithm.Sha1),
        "container": container,
        "gcs store": ic.gcs_store({"service_account_key": SECRET}),
        "azure store": ic.azure_store(account="a", config={"account_key": SECRET}),
        "http store": ic.http_store({"proxy_url": f"http://u:{SECRET}@h/"}, {"Cookie": SECRET}),
        "local store": ic.local_filesystem_store("/tmp"),
        "repository": ic.RepositoryConfig(
            inline_chunk_threshold_bytes=3,
            manifest=manifest,
            storage=storage,
            virtual_chunk_containers={container.url_prefix: container},
        ),
        "virtual spec": ic.VirtualChunkSpec([1], "s3://bucket/f", 2, 3, "etag", WHEN),
        "attribution": ic.Attribution(client="a/1", workload="w", principal="p"),
    }


def all_storages(path: str) -> dict[str, ic.Storage]:
    return {
        "memory": ic.in_memory_storage(),
        "local": ic.local_filesystem_storage(path),
        "s3": ic.s3_storage(bucket="b", prefix="p", access_key_id="key", secret_access_key=SECRET),
        "s3 headers": ic.s3_storage(
            bucket="b", prefix=None, anonymous=True, headers={"Authorization": SECRET}
        ),
        "s3 refreshable": ic.s3_storage(bucket="b", prefix=None, get_credentials=get_s3),
        "fsspec": ic.fsspec_storage("memory://travel", single_writer=True),
    }


def all_results(repo: ic.Repository) -> dict[str, Any]:
    tip = repo.lookup_branch("main")
    root = repo.ancestry(branch="main")[-1].id
    return {
        "snapshot": repo.lookup_snapshot(tip),
        "diff": repo.diff(from_snapshot_id=root, to_branch="main"),
        "graph": repo.ancestry_graph(),
        "manifest": repo.list_manifest_files(tip)[0],
        "status": repo.get_status(),
        "flag": repo.feature_flags()[0],
        "update": next(iter(repo.ops_log())),
        "gc": GCSummary(bytes_deleted=1, delete_errors=["x"]),
        "stats": repo.chunk_storage_stats(),
        "conflict": ic.Conflict(ic.ConflictType.ChunkDoubleUpdate, "/a", [[0]]),
        "detector": ic.ConflictDetector(),
        "solver": ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.UseTheirs),
        **{f"update {name}": case for name, case in update_cases().items()},
    }


def update_cases() -> dict[str, Any]:
    cases = {n: c for n, c in vars(UpdateType).items() if inspect.isclass(c)}
    filled = {}
    for name, case in cases.items():
        values: list[Any] = []
        for field in case.__dataclass_fields__:
            numbers = {"from_version": 1, "to_version": 2, "id": 3, "count": 4}
            values.append(numbers.get(field, f"a {field}"))
        filled[name] = case(*values)
    return filled


ERRORS = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, errors.IcechunkError)
]


def error_of(cls: type[errors.IcechunkError]) -> errors.IcechunkError:
    if cls is errors.RebaseFailedError:
        conflict = ic.Conflict(ic.ConflictType.ChunkDoubleUpdate, "/a", [[0]])
        return cls("A" * 20, [conflict])
    return cls("A" * 20, "B" * 20) if cls is errors.ConflictError else cls("message", "kind")


@pytest.fixture
def repo(tmp_path):
    repo = ic.Repository.create(ic.local_filesystem_storage(str(tmp_path / "repo")))
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="a", shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    session.commit("first", {"by": "us"})
    return repo


def twin(value: Any, how: str) -> Any:
    return pickle.loads(PICKLES[how](value))


@pytest.mark.parametrize("how", PICKLES)
def test_values_arrive_as_they_left(repo, tmp_path, how):
    values = {
        **all_credentials(),
        **all_config(),
        **all_storages(str(tmp_path)),
        **all_results(repo),
    }
    for name, value in values.items():
        arrived = twin(value, how)
        assert type(arrived) is type(value), name
        assert arrived == value, name
        assert repr(arrived) == repr(value), name
        assert copy.deepcopy(value) == value, name


@pytest.mark.parametrize("how", PICKLES)
@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_errors_arrive_as_they_left(cls, how):
    error = error_of(cls)
    error.add_note("while testing")
    arrived = twin(error, how)
    assert type(arrived) is cls
    assert (str(arrived), arrived.kind, arrived.__notes__) == (
        str(error),
        error.kind,
        ["while testing"],
    )
    for name in ("expected_parent", "actual_parent", "snapshot", "conflicts"):
        assert getattr(arrived, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("how", PICKLES)
def test_repositories_sessions_and_stores_go_on_working(repo, how):
    there = twin(repo, how)
    assert (there.lookup_branch("main"), there.config) == (repo.lookup_branch("main"), repo.config)
    read = twin(repo.readonly_session("main"), how)
    assert (read.read_only, read.snapshot_id) == (True, repo.lookup_branch("main"))
    store = twin(repo.readonly_session("main").store, how)
    assert np.asarray(zarr.open_array(store, path="a", mode="r")).tolist() == [1, 1, 1, 1]
    assert twin(store.with_read_only(True), how).read_only

    session = repo.writable_session("main")
    forks = [twin(session, how), twin(session.fork(), how), twin(session.store, how).session]
    for number, fork in enumerate(forks[:2]):
        assert isinstance(fork, ic.ForkSession)
        array = zarr.open_array(fork.store, path="a", mode="r+")
        array[2 * number : 2 * number + 2] = number + 5
    session.merge(*[twin(fork, how) for fork in forks])
    session.commit("from afar")
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert array[:].tolist() == [5, 5, 6, 6]


def test_in_another_process(repo):
    script = (
        "import pickle, sys, zarr\n"
        "repo, store, error = pickle.load(sys.stdin.buffer)\n"
        "assert zarr.open_array(store, path='a', mode='r')[:].tolist() == [1, 1, 1, 1]\n"
        "print(repo.lookup_branch('main'), error.kind)\n"
    )
    store = repo.readonly_session("main").store
    sent = pickle.dumps((repo, store, ic.NodeNotFoundError("gone")))
    done = subprocess.run(
        [sys.executable, "-c", script], input=sent, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == [repo.lookup_branch("main"), "node-not-found"]


def test_tokens_are_deterministic(repo):
    def arrays() -> list[Any]:
        session = repo.readonly_session("main")
        return [session, session.store, zarr.open_array(session.store, path="a", mode="r")]

    first, again = [tokenize(x) for x in arrays()], [tokenize(x) for x in arrays()]
    assert first == again
    assert len(set(first)) == 3
    assert [tokenize(twin(x, "pickle")) for x in arrays()[:2]] == first[:2]
    writer, other = repo.writable_session("main"), repo.writable_session("main")
    assert tokenize(writer) == tokenize(writer)
    assert tokenize(writer.store) == tokenize(writer.store)
    assert tokenize(writer) != tokenize(other)
    zarr.open_array(writer.store, path="a", mode="r+")[:] = 2
    writer.commit("second")
    assert tokenize(repo.readonly_session("main")) != first[0]
    assert tokenize(repo) == tokenize(twin(repo, "pickle"))
    for name, value in {**all_config(), **all_credentials()}.items():
        assert tokenize(value) == tokenize(copy.deepcopy(value)), name


def test_secrets_show_nowhere(repo, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for name, value in {
        **all_credentials(),
        **all_config(),
        **all_storages(str(tmp_path)),
    }.items():
        forms = [repr(value), str(value), f"{value!r:>5}"]
        if hasattr(value, "_repr_html_"):
            forms.append(value._repr_html_())
        assert not [form for form in forms if SECRET in form], name
    access = {"s3://bucket/": ic.credentials.Credentials.S3(ic.S3Credentials.Static(get_s3()))}
    config = ic.RepositoryConfig.default()
    config.set_virtual_chunk_container(ic.VirtualChunkContainer("s3://bucket/", ic.s3_store()))
    opened = ic.Repository.create(ic.in_memory_storage(), config, access)
    session = opened.writable_session("main")
    shown = [opened, opened.config, session, session.store, opened._state, session._state]
    assert not [x for x in shown if SECRET in repr(x) + str(x)]
    unreachable = ic.s3_storage(
        bucket="b",
        prefix="p",
        endpoint_url="http://127.0.0.1:1",
        allow_http=True,
        access_key_id="key",
        secret_access_key=SECRET,
    ).with_settings(ic.StorageSettings(retries=ic.StorageRetriesSettings(max_tries=1)))
    with pytest.raises(ic.StorageError) as raised:
        unreachable.list_objects()
    assert SECRET not in "".join(traceback.format_exception(raised.value))
    assert SECRET not in caplog.text


def test_secrets_in_urls_show_nowhere():
    """Passwords, tokens and signatures, in what is shown of storages and in errors."""
    signed = f"http://user:{SECRET}@127.0.0.1:1/file?X-Amz-Signature={SECRET}&part=7&sig={SECRET}"
    for storage in (
        ic.http_storage(signed),
        ic.redirect_storage(signed),
        ic.s3_storage(bucket="b", prefix="p", endpoint_url=signed, allow_http=True, anonymous=True),
    ):
        assert SECRET not in repr(storage) + str(storage) + storage._repr_html_()
        assert "part=7" in repr(storage)
    for storage in ic.http_storage(signed), ic.redirect_storage(signed):
        with pytest.raises(ic.IcechunkError) as raised:
            ic.Repository.open(
                storage.with_settings(
                    ic.StorageSettings(retries=ic.StorageRetriesSettings(max_tries=1))
                )
            )
        assert SECRET not in "".join(traceback.format_exception(raised.value))
    config = ic.RepositoryConfig(storage=ic.StorageSettings())
    config.set_virtual_chunk_container(
        ic.VirtualChunkContainer("http://127.0.0.1:1/", ic.http_store())
    )
    place = ic.in_memory_storage()
    opened = ic.Repository.create(place, config, {"http://127.0.0.1:1/": None})
    store = opened.writable_session("main").store
    array = zarr.create_array(store, name="a", shape=4, chunks=4, dtype="u1", compressors=None)
    with pytest.raises(
        ic.InvalidInputError, match=r"user:\*\*\*\*@.*&part=7&sig=\*\*\*\*"
    ) as raised:
        store.set_virtual_ref("a/c/0", signed, offset=0, length=4)
    assert SECRET not in "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    store.set_virtual_ref("a/c/0", signed.replace(f"user:{SECRET}@", ""), offset=0, length=4)
    with pytest.raises(ic.StorageError) as failed:
        array[:]
    assert SECRET not in "".join(traceback.format_exception(failed.value))


def test_the_table_is_complete():
    """Every public class is here, is no value that travels, or travels inside of one that is."""
    here = {
        type(value).__qualname__.split(".")[0]
        for value in (
            *all_credentials().values(),
            *all_config().values(),
            GCSummary(),
            ChunkStorageStats(),
        )
    }
    here |= {cls.__name__ for cls in ERRORS}
    here |= {
        "AncestryGraph",
        "BasicConflictSolver",
        "Conflict",
        "ConflictDetector",
        "Diff",
        "FeatureFlag",
        "ForkSession",
        "IcechunkStore",
        "ManifestFileInfo",
        "RepoStatus",
        "Repository",
        "Session",
        "SnapshotInfo",
        "Storage",
        "Update",
        "UpdateType",
    }
    inside = {
        "AzureRefreshableCredential",
        "AzureStaticCredentials",
        "GcsStaticCredentials",
        "ManifestPreloadCondition",
        "ManifestSplitCondition",
        "ManifestSplitDimCondition",
        "ManifestVirtualChunkLocationCompressionConfig",
        "StorageConcurrencySettings",
        "StorageRetriesSettings",
        "StorageTimeoutSettings",
    }
    not_values = {"ConflictSolver", "SnapshotHistory", "StorageConfig", "UnmergedChangesWarning"}
    enumerations = {
        n for n in ic.__all__ if hasattr(getattr(ic, n), "__members__")
    }  # by name, as all enumerations do
    classes = {getattr(ic, n).__name__ for n in ic.__all__ if inspect.isclass(getattr(ic, n))}
    missing = classes - here - inside - not_values - enumerations
    assert not missing, missing
    assert FeatureFlag.__name__ in here
    assert Update.__name__ in here
