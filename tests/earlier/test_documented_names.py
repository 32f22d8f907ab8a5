"""Every name that the documentation of early releases had, by that spelling and those parameters.

``documented.json`` lists the names with their parameters. Each is looked up, its parameters are
compared, and each is used for its purpose.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.buffer.cpu import Buffer

import icechunk
import icechunk as ic
import icechunk.xarray

DOCUMENTED: dict[str, dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "documented.json").read_text()
)
FUNCTIONS = DOCUMENTED.pop("")
MEMBERS = [(c, m) for c, members in DOCUMENTED.items() for m in members]

# Built from the objects of the Rust layer, which nobody outside the package had.
INTERNAL = {
    ("ConflictError", "__init__"),
    ("RebaseFailedError", "__init__"),
}


def find(name: str) -> Any:
    return getattr(icechunk, name, None) or getattr(icechunk.xarray, name)


def accepts(function: Any, positional: list[str], keyword: list[str]) -> None:
    """Fail unless a call with the documented parameters binds."""
    name = getattr(function, "__qualname__", "")
    signature = inspect.signature(function)
    signature.bind_partial(*[None] * len(positional))
    kinds = {p.kind: p for p in signature.parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        positional = []
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        known = {*signature.parameters, *KEYWORDS.get(name, ())}
        assert {*positional, *keyword} <= known


# Keywords that are taken beside those of its signature.
KEYWORDS = {
    "CachingConfig.__init__": ic.CachingConfig.earlier_parameters,
    "to_icechunk": ("dataset", "store"),
}


@pytest.mark.parametrize(("cls", "member"), MEMBERS, ids=lambda value: value)
def test_member_is_there_with_its_parameters(cls, member):
    documented = DOCUMENTED[cls][member]
    found = inspect.getattr_static(find(cls), member, None)
    if documented["kind"] == "field":
        found = inspect.signature(find(cls)).parameters.get(member, found)
    if found is None:  # set in the constructor, as those of errors are
        assert member in vars(made(cls)), member
    elif documented["kind"] in {"method", "class method"} and (cls, member) not in INTERNAL:
        function = getattr(find(cls), member)
        positional = documented["positional"]
        if documented["kind"] == "method":
            positional = ["self", *positional]
        if (cls, member) == ("Repository", "create"):
            assert positional[2] == "virtual_chunk_credentials"
        accepts(function, positional, documented["keyword"])


@pytest.mark.parametrize("cls", [c for c, members in DOCUMENTED.items() if not members])
def test_class_is_there(cls):
    assert isinstance(find(cls), type)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_takes_its_parameters(name):
    accepts(find(name), FUNCTIONS[name]["positional"], FUNCTIONS[name]["keyword"])


def made(cls: str) -> Any:
    return {
        "ConflictError": ic.ConflictError("A", "B"),
        "ConflictErrorData": ic.ConflictError("A", "B"),
        "RebaseFailedError": ic.RebaseFailedError("A", []),
        "RebaseFailedData": ic.RebaseFailedError("A", []),
    }[cls]


@pytest.fixture
def repo():
    repo = ic.Repository.create(ic.StorageConfig.memory("prefix"))
    session = repo.writable_session("main")
    root = zarr.group(session.store)
    root.create_array("a", shape=(4,), chunks=(2,), dtype="i4")[:] = 1
    session.commit("first")
    return repo


def test_no_earlier_name_warns(repo):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repo.log("main")[0].commit_message == "first"
        assert ic.ChunkType.INLINE is ic.ChunkType.inline


# -- options ----------------------------------------------------------------------------------


def test_caching_config():
    numbers = dict(zip(ic.CachingConfig.earlier_parameters, range(10, 60, 10), strict=True))
    config = ic.CachingConfig(**numbers)
    assert config == ic.CachingConfig(*numbers.values())
    assert {name: getattr(config, name) for name in numbers} == numbers
    assert (config.num_snapshot_nodes, config.num_bytes_chunks) == (10, 50)
    for name in numbers:
        setattr(config, name, 7)
        assert getattr(config, name) == 7
    assert config.num_chunk_refs == 7
    assert ic.CachingConfig.default() == ic.CachingConfig()
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(TypeError, match="earlier name"):
        ic.CachingConfig(num_chunk_refs=1, manifests_cache_size=1)


def test_repository_config(tmp_path):
    config = ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 3
    config.get_partial_values_concurrency = 4
    config.compression = ic.CompressionConfig.default()
    config.compression.algorithm = ic.CompressionAlgorithm.default()
    config.compression.level = 2
    config.caching = ic.CachingConfig.default()
    config.storage = ic.StorageSettings(
        ic.StorageConcurrencySettings(
            max_concurrent_requests_for_object=5, ideal_concurrent_request_size=6
        )
    )
    config.storage.concurrency.max_concurrent_requests_for_object = 7
    config.storage.concurrency.ideal_concurrent_request_size = 8
    assert config.unsafe_overwrite_refs is False
    config.unsafe_overwrite_refs = True
    assert config.storage.unsafe_use_conditional_update is False
    assert config.storage.concurrency.ideal_concurrent_request_size == 8
    assert config.unsafe_overwrite_refs is True
    repo = ic.Repository.create(ic.StorageConfig.filesystem(str(tmp_path)), config=config)
    repo.save_config()
    stored = ic.Repository.fetch_config(repo.storage)
    assert stored is not None
    assert stored.unsafe_overwrite_refs is True
    config.unsafe_overwrite_refs = False
    assert config.unsafe_overwrite_refs is False


def test_containers_by_name(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "f").write_bytes(b"abcdefgh")
    url = (tmp_path / "data").as_uri() + "/"
    container = ic.VirtualChunkContainer("mine", url, ic.local_filesystem_store(tmp_path / "data"))
    assert container == ic.VirtualChunkContainer(container.url_prefix, container.store, "mine")
    config = ic.RepositoryConfig.default()
    config.virtual_chunk_containers = {"mine": container}
    assert config.virtual_chunk_containers == {url: container}
    config.clear_virtual_chunk_containers()
    config.set_virtual_chunk_container(container)
    access = ic.containers_credentials(mine=ic.credentials.LocalFileSystemAccess)
    for opened in (
        ic.Repository.create(
            ic.in_memory_storage(), config=config, virtual_chunk_credentials=access
        ),
        ic.Repository.open_or_create(ic.in_memory_storage(), config, access),
    ):
        session = opened.writable_session("main")
        zarr.create_array(
            session.store, name="v", shape=(8,), chunks=(8,), dtype="u1", compressors=None
        )
        session.store.set_virtual_ref("v/c/0", url + "f", offset=0, length=8)
        assert bytes(np.asarray(zarr.open_array(session.store, path="v")[:])) == b"abcdefgh"
        assert session.all_virtual_chunk_locations() == [url + "f"]
        assert opened.authorized_virtual_container_prefixes == {url}
    with pytest.raises(ValueError, match="give one of them"):
        ic.Repository.create(
            ic.in_memory_storage(), config, access, virtual_chunk_credentials=access
        )


def test_the_documented_example_of_containers(tmp_path):
    config = ic.RepositoryConfig.default()
    config.inline_chunk_threshold_bytes = 512
    virtual_store_config = ic.s3_store(
        region="us-east-1",
        endpoint_url="http://localhost:9000",
        allow_http=True,
        s3_compatible=True,
    )
    container = ic.VirtualChunkContainer("s3", "s3://", virtual_store_config)
    config.set_virtual_chunk_container(container)
    credentials = ic.containers_credentials(
        s3=ic.s3_credentials(access_key_id="ACCESS_KEY", secret_access_key="SECRET")
    )
    repo = ic.Repository.create(
        storage=ic.local_filesystem_storage(str(tmp_path)),
        config=config,
        virtual_chunk_credentials=credentials,
    )
    assert repo.authorized_virtual_container_prefixes == {"s3://"}
    assert container.place_of("s3://bucket/path/to/file.nc") == "s3://bucket/"
    again = ic.Repository.open(repo.storage, virtual_chunk_credentials=credentials)
    assert again.config.get_virtual_chunk_container("s3") == container


# -- storage and credentials ------------------------------------------------------------------


def get_credentials() -> ic.S3StaticCredentials:
    return ic.S3StaticCredentials("key", "secret")


def test_storage_makers(tmp_path):
    static = ic.S3StaticCredentials("key", "secret")
    where = {"endpoint_url": "http://localhost:1", "allow_http": True, "region": "eu"}
    assert ic.StorageConfig.s3_from_config("b", "p", static, *where.values()) == ic.s3_storage(
        bucket="b", prefix="p", access_key_id="key", secret_access_key="secret", **where
    )
    assert ic.StorageConfig.s3_from_env("b", "p") == ic.s3_storage(
        bucket="b", prefix="p", from_env=True
    )
    assert ic.StorageConfig.s3_anonymous("b", "p") == ic.s3_storage(
        bucket="b", prefix="p", anonymous=True
    )
    refreshed = ic.s3_refreshable_credentials(get_credentials)
    options = ic.S3Options(network_stream_timeout_seconds=60)
    assert ic.Storage.new_s3(options, "b", None, refreshed) == ic.s3_storage(
        bucket="b", prefix=None, get_credentials=get_credentials
    )
    local = ic.local_filesystem_storage(str(tmp_path))
    assert ic.StorageConfig.filesystem(str(tmp_path)) == local
    assert ic.Storage.new_local_filesystem(str(tmp_path)) == local
    assert ic.StorageConfig.object_store(str(tmp_path)) == local
    assert ic.StorageConfig.memory("p") != ic.Storage.new_in_memory()
    for maker in (ic.gcs_storage, ic.Storage.new_gcs):
        assert isinstance(maker(bucket="b", prefix="p", config={}), ic.Storage)
    azure = ic.azure_storage(account="a", container="c", prefix="p", from_env=True)
    assert isinstance(azure, ic.Storage)
    with pytest.raises(TypeError, match="StorageConfig makes storages"):
        ic.StorageConfig()


def test_credential_makers():
    assert isinstance(ic.s3_credentials(), ic.S3Credentials.FromEnv)
    assert ic.s3_from_env_credentials() == ic.S3Credentials.FromEnv()
    assert ic.s3_credentials(anonymous=True) == ic.s3_anonymous_credentials()
    found = ic.s3_static_credentials(
        access_key_id="a", secret_access_key="b", expires_after=datetime.now(UTC)
    )
    assert isinstance(found, ic.S3Credentials.Static)
    assert ic.gcs_credentials() == ic.gcs_from_env_credentials()
    assert ic.gcs_credentials(service_account_file="f") == ic.GcsCredentials.Static(
        ic.gcs_static_credentials(service_account_file="f")
    )
    assert ic.azure_credentials() == ic.azure_from_env_credentials()
    assert ic.azure_credentials(access_key="k") == ic.AzureCredentials.Static(
        ic.azure_static_credentials(access_key="k")
    )
    assert isinstance(ic.s3_store(s3_compatible=True), ic.ObjectStoreConfig.S3Compatible)


# -- enumerations, conflicts, errors ------------------------------------------------------------


@pytest.mark.parametrize(
    "enumeration",
    [
        ic.ChecksumAlgorithm,
        ic.ChunkType,
        ic.CompressionAlgorithm,
        ic.ConflictType,
        ic.RepoAvailability,
        ic.SessionMode,
        ic.SpecVersion,
        ic.VersionSelection,
    ],
)
def test_variants_in_every_spelling(enumeration):
    for member in enumeration:
        spelled = [n for n, m in enumeration.__members__.items() if m is member]
        assert any(name == name.upper() for name in spelled)
        assert any(name == name.lower() for name in spelled)
        for name in spelled:
            assert getattr(enumeration, name) is enumeration[name] is member
        assert pickle.loads(pickle.dumps(member)) is member
    assert ic.VersionSelection.use_ours is ic.VersionSelection.UseOurs
    assert ic.VersionSelection.FAIL is ic.VersionSelection.Fail
    assert len(list(ic.ChunkType)) == 4


def conflicting(repo: ic.Repository, ours: Any, theirs: Any) -> ic.Session:
    first, second = repo.writable_session("main"), repo.writable_session("main")
    theirs(first)
    first.commit("theirs")
    ours(second)
    return second


def write(value: int) -> Any:
    def op(session: ic.Session) -> None:
        zarr.open_array(session.store, path="a", mode="r+")[:2] = value

    return op


def describe(**attributes: int) -> Any:
    return lambda session: zarr.open_array(session.store, path="a", mode="r+").attrs.update(
        attributes
    )


def test_conflicts(repo):
    session = conflicting(repo, write(2), write(3))
    base = session.snapshot_id
    with pytest.raises(ic.ConflictError) as raised:
        session.commit("ours")
    assert isinstance(raised.value, ic.ConflictErrorData)
    assert raised.value.expected_parent == base
    assert raised.value.actual_parent == repo.lookup_branch("main")
    assert raised.value.expected_parent in str(raised.value)
    with pytest.raises(ic.RebaseFailedError) as failed:
        session.rebase(ic.ConflictDetector())
    assert isinstance(failed.value, ic.RebaseFailedData)
    assert failed.value.snapshot_id == failed.value.snapshot == repo.lookup_branch("main")
    (conflict,) = failed.value.conflicts
    assert isinstance(conflict, ic.Conflict)
    assert conflict.conflict_type is ic.ConflictType.ChunkDoubleUpdate
    assert (conflict.path, conflict.conflicted_chunks) == ("/a", [[0]])
    solver = ic.BasicConflictSolver(
        on_user_attributes_conflict=ic.VersionSelection.UseOurs,
        on_chunk_conflict=ic.VersionSelection.UseTheirs,
        fail_on_delete_of_updated_array=True,
        fail_on_delete_of_updated_group=True,
    )
    assert isinstance(solver, ic.ConflictSolver)
    session.rebase(solver)
    assert zarr.open_array(session.store, path="a")[0] == 3


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        (ic.VersionSelection.UseOurs, {"ours": 1}),
        (ic.VersionSelection.UseTheirs, {"theirs": 1}),
        (ic.VersionSelection.Fail, None),
    ],
)
def test_attributes_that_both_sides_changed(repo, kept, expected):
    session = conflicting(repo, describe(ours=1), describe(theirs=1))
    solver = ic.BasicConflictSolver(on_user_attributes_conflict=kept)
    if expected is None:
        with pytest.raises(ic.RebaseFailedError) as failed:
            session.rebase(solver)
        kinds = {c.conflict_type for c in failed.value.conflicts}
        assert ic.ConflictType.UserAttributesDoubleUpdate in kinds
        return
    session.commit("ours", rebase_with=solver, allow_empty=True)
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert dict(array.attrs) == expected
    assert array[:].tolist() == [1, 1, 1, 1]


def test_a_new_shape_is_no_conflict_of_attributes(repo):
    def resize(session: ic.Session) -> None:
        zarr.open_array(session.store, path="a", mode="r+").resize((8,))

    session = conflicting(repo, describe(ours=1), resize)
    solver = ic.BasicConflictSolver(on_user_attributes_conflict=ic.VersionSelection.UseOurs)
    with pytest.raises(ic.RebaseFailedError):
        session.rebase(solver)


# -- repository, session, store -----------------------------------------------------------------


def test_repository(repo, tmp_path):
    storage = repo.storage
    assert ic.Repository.exists(storage)
    assert ic.Repository.fetch_config(storage) is None
    tip = repo.lookup_branch("main")
    (newest, root) = repo.ancestry(snapshot=tip)
    assert isinstance(newest, ic.SnapshotMetadata)
    assert (newest.id, newest.message, newest.written_at.tzinfo) == (tip, "first", UTC)
    assert len(repo.ancestry(branch="main")) == 2
    assert repo.ancestry(branch="main")[1].id == root.id
    repo.create_branch("b", root.id)
    repo.reset_branch("b", tip)
    repo.create_tag("t", tip)
    assert repo.list_branches() == {"main", "b"}
    assert (repo.lookup_tag("t"), repo.list_tags()) == (tip, {"t"})
    repo.delete_branch("b")
    for session in (
        repo.readonly_session(branch="main"),
        repo.readonly_session(tag="t"),
        repo.readonly_session(snapshot=tip),
    ):
        assert session.snapshot_id == tip
        assert session.read_only
    with pytest.raises(ValueError, match="give one of them"):
        repo.ancestry(snapshot=tip, snapshot_id=tip)


def test_open_modes(tmp_path):
    storage = ic.local_filesystem_storage(str(tmp_path))
    with pytest.raises(ic.RepositoryNotFoundError):
        ic.Repository(storage)
    made = ic.Repository(storage, mode="create")
    assert made.list_branches() == {"main"}
    for mode in ("open", "open_or_create"):
        assert ic.Repository(storage, mode=mode).list_branches() == {"main"}
    with pytest.raises(ic.InvalidInputError):
        ic.Repository(storage, mode="create")
    with pytest.raises(ValueError, match="mode must be one of"):
        ic.Repository(storage, mode="w")


def test_session(repo):
    session = repo.writable_session("main")
    assert (session.branch, session.read_only, session.has_uncommitted_changes) == (
        "main",
        False,
        False,
    )
    write(5)(session)
    assert session.has_uncommitted_changes
    session.discard_changes()
    other = session.fork()
    write(6)(other)
    session.merge(other)
    tip = session.commit("second")
    assert (session.read_only, session.snapshot_id, tip) == (True, tip, repo.lookup_branch("main"))


def test_sessions_are_merged_without_forking(repo):
    session, other = repo.writable_session("main"), repo.writable_session("main")
    write(7)(other)
    session.merge(other)
    assert other.has_uncommitted_changes
    session.commit("merged")
    array = zarr.open_array(repo.readonly_session("main").store, path="a", mode="r")
    assert array[:].tolist() == [7, 7, 1, 1]
    again = repo.writable_session("main")
    for wrong in (again, repo.readonly_session("main"), repo.rearrange_session("main")):
        with pytest.raises(ic.SessionStateError) as raised:
            again.merge(wrong)
        assert raised.value.kind == "merge-not-allowed"


def test_store(repo):
    session = repo.writable_session("main")
    store = session.store
    assert store.session == session
    assert store.supports_writes
    assert store.supports_deletes
    assert store.supports_listing
    assert not store.supports_partial_writes

    async def use() -> None:
        prototype = default_buffer_prototype()
        assert not await store.is_empty("")
        document = await store.get("a/zarr.json", prototype)
        assert document is not None
        assert await store.get("a/c/9", prototype) is None
        found = await store.get_partial_values(prototype, [("a/zarr.json", None)])
        assert found[0] is not None
        assert found[0].to_bytes() == document.to_bytes()
        await store.set("g/zarr.json", Buffer.from_bytes(b'{"zarr_format":3,"node_type":"group"}'))
        await store.set_if_not_exists("a/zarr.json", document)
        assert await store.exists("g/zarr.json")
        assert sorted([key async for key in store.list_dir("")]) == ["a", "g", "zarr.json"]
        assert "a/c/0" in [key async for key in store.list()]
        assert [key async for key in store.list_prefix("g")] == ["g/zarr.json"]
        await store.delete("a/c/0")
        await store.delete_dir("g")
        assert not await store.exists("g/zarr.json")
        with pytest.raises(ic.IcechunkError):
            await store.set_partial_values([("a/c/0", 0, b"x")])
        await store.clear()
        assert await store.is_empty("")

    asyncio.run(use())
    session.discard_changes()
    store.sync_clear()
    assert store.session.has_uncommitted_changes


# -- xarray ------------------------------------------------------------------------------------


def dataset() -> xr.Dataset:
    return xr.Dataset(
        {"eager": ("x", np.arange(4)), "lazy": ("x", dask.array.arange(4, chunks=2))},
        attrs={"title": "t"},
    )


def test_writer_in_steps(repo):
    session = repo.writable_session("main")
    writer = ic.xarray.XarrayDatasetWriter(dataset(), store=session.store, safe_chunks=True)
    writer._open_group(group="g", mode=None, append_dim=None, region=None)
    with pytest.raises(ValueError, match="write_metadata first"):
        writer.write_eager()
    writer.write_metadata(encoding={"eager": {"chunks": (2,)}})
    empty = zarr.open_group(session.store, path="g", mode="r")
    assert empty.attrs["title"] == "t"
    assert empty["eager"][:].tolist() == [0, 0, 0, 0]
    writer.write_eager()
    assert empty["eager"][:].tolist() == [0, 1, 2, 3]
    writer.write_lazy(chunkmanager_store_kwargs={"scheduler": "synchronous"}, split_every=2)
    session.commit("in steps")
    back = xr.open_zarr(repo.readonly_session("main").store, group="g", consolidated=False)
    xr.testing.assert_identical(back.load(), dataset().load())


def test_to_icechunk_with_a_store(repo):
    session = repo.writable_session("main")
    ic.xarray.to_icechunk(dataset(), session.store, group="g", mode="w-", encoding={})
    ic.xarray.to_icechunk(dataset=dataset(), store=session.store, group="h")
    ic.xarray.to_icechunk(
        dataset(),
        session.store,
        group="g",
        append_dim="x",
        safe_chunks=False,
        region=None,
        chunkmanager_store_kwargs={},
        split_every=4,
    )
    assert xr.open_zarr(session.store, group="g", consolidated=False).sizes == {"x": 8}
    assert xr.open_zarr(session.store, group="h", consolidated=False).sizes == {"x": 4}
