"""Configuration and credential classes beside the official package's, expression by expression.

Each expression is evaluated here and there; text forms, values and outcomes must agree. Where we
differ on purpose the expression is not in the lists, and the reason is in `docs/`.
"""

from __future__ import annotations

import html
import json
import re
from types import SimpleNamespace

import pytest

from icechunk import config, credentials, object_store_config, storage_settings, types, virtual
from tests.peer import run_peer

pytestmark = pytest.mark.peer

OURS = SimpleNamespace(
    **{
        name: value
        for module in (storage_settings, object_store_config, virtual, types, credentials, config)
        for name, value in vars(module).items()
        if not name.startswith("_")
    }
)

PRELUDE = """
D, S, P = (
    ic.ManifestSplitDimCondition, ic.ManifestSplitCondition, ic.ManifestPreloadCondition
)
O, R, V = ic.ObjectStoreConfig, ic.RepositoryConfig, ic.VirtualChunkContainer
LOCAL, CHECK, SPEC = ic.local_filesystem_store("/b"), ic.ChecksumAlgorithm, ic.SpecVersion
WHEN = dt.datetime(2030, 1, 2, 3, 4, 5, 6, tzinfo=dt.timezone.utc)
SPLIT = ic.ManifestSplittingConfig(
    [(S.path_matches("^/a\\\\d"), [(D.Axis(0), 3), (D.DimensionName("t"), 2), (D.Any(), 1)])]
)
FIRST = R(
    inline_chunk_threshold_bytes=1,
    compression=ic.CompressionConfig(level=1),
    caching=ic.CachingConfig(num_chunk_refs=1, num_snapshot_nodes=2),
    storage=ic.StorageSettings(
        concurrency=ic.StorageConcurrencySettings(1, 2),
        retries=ic.StorageRetriesSettings(1, 2, 3),
        timeouts=ic.StorageTimeoutSettings(1, 2, 3, 4),
        storage_class="A",
        unsafe_use_metadata=True,
    ),
    manifest=ic.ManifestConfig(
        preload=ic.ManifestPreloadConfig(1, P.true(), 2),
        splitting=SPLIT,
        virtual_chunk_location_compression=ic.ManifestVirtualChunkLocationCompressionConfig(
            1, dictionary_max_size_bytes=2
        ),
        max_concurrent_manifest_fetches_during_commit=4,
    ),
    virtual_chunk_containers={"s3://a/": V("s3://a/", ic.s3_store(), "n")},
    num_updates_per_repo_info_file=4,
)
SECOND = R(
    max_concurrent_requests=9,
    compression=ic.CompressionConfig(ic.CompressionAlgorithm.Zstd),
    caching=ic.CachingConfig(num_chunk_refs=11),
    storage=ic.StorageSettings(
        concurrency=ic.StorageConcurrencySettings(11),
        retries=ic.StorageRetriesSettings(11),
        timeouts=ic.StorageTimeoutSettings(11),
        chunks_storage_class="B",
        unsafe_use_metadata=False,
    ),
    manifest=ic.ManifestConfig(preload=ic.ManifestPreloadConfig(None, None, 22)),
    virtual_chunk_containers={
        "file:///b/": V("file:///b/", LOCAL)
    },
)
"""

SHOWN = """
R()
R.default()
FIRST
SECOND
FIRST.merge(SECOND)
SECOND.merge(FIRST)
FIRST.merge(R())
R().merge(FIRST)
ic.CachingConfig.default()
ic.CompressionConfig(ic.CompressionAlgorithm.Zstd, 5)
ic.StorageSettings()
ic.StorageSettings(storage_class="a", minimum_size_for_multipart_upload=5)
ic.StorageConcurrencySettings()
ic.StorageRetriesSettings(5)
ic.StorageTimeoutSettings(5)
ic.ManifestConfig()
ic.ManifestPreloadConfig()
ic.ManifestSplittingConfig()
ic.ManifestSplittingConfig([])
ic.ManifestSplittingConfig.from_dict({S.AnyArray(): {D.Axis(2): 7}})
SPLIT
ic.ManifestVirtualChunkLocationCompressionConfig(7)
ic.S3Options()
ic.S3Options(region="r", endpoint_url="http://x:9000", checksum_algorithm=CHECK.Sha1)
V("s3://a/", ic.s3_store(region="r"), "name")
V("gs://a/", ic.gcs_store())
O.InMemory()
O.LocalFileSystem("/x/")
O.Http({"timeout": "30"}, None)
O.Http(None, {"h": "v"})
O.Gcs({"a": "b"})
O.Azure(None)
O.S3Compatible(ic.S3Options())
O.Tigris(ic.S3Options())
ic.s3_store(s3_compatible=True, force_path_style=True)
ic.http_store()
ic.Attribution()
ic.Attribution(client="a/1", principal="b c")
ic.RepoStatus(ic.RepoAvailability.online, WHEN)
ic.RepoStatus(ic.RepoAvailability.read_only, WHEN, "why")
ic.S3StaticCredentials("AKIDXYZ", "secret", "token", WHEN)
ic.S3StaticCredentials("AK", "secret")
"""

VALUES = """
repr(S.or_conditions([S.AnyArray(), S.name_matches("x") & S.path_matches("y")]))
repr(S.AnyArray() | S.PathMatches("x"))
repr(P.num_refs(1, 5) & P.num_refs(None, None) | P.false())
repr(getattr(P, "True")())
[repr(D.Axis(0)), repr(D.DimensionName("t")), repr(D.Any())]
S.name_matches("x") == S.name_matches("x")
S.name_matches("x") == S.path_matches("x")
P.name_matches("x") == P.NameMatches("x")
FIRST == FIRST.merge(R())
FIRST == SECOND
R() == R.default()
ic.S3Options() == ic.S3Options()
O.S3(ic.S3Options()) == O.S3(ic.S3Options())
O.S3(ic.S3Options()) == O.S3Compatible(ic.S3Options())
O.Gcs(None) == O.Gcs({})
ic.Attribution(client="a") == ic.Attribution(client="a")
V("s3://a/", ic.s3_store()) == V("s3://a/", ic.s3_store())
sorted(FIRST.merge(SECOND).virtual_chunk_containers)
FIRST.get_virtual_chunk_container("s3://a/").name
R().get_virtual_chunk_container("x")
R().virtual_chunk_containers
R().previous_file
isinstance(ic.s3_store(), O.S3)
isinstance(ic.s3_store(), O)
[int(getattr(ic.ChunkType, x)) for x in ("uninitialized", "native", "virtual", "inline")]
[int(x) for x in (CHECK.Crc32, CHECK.Crc32c, CHECK.Crc64Nvme)]
[int(CHECK.Sha1), int(CHECK.Sha256), int(ic.CompressionAlgorithm.Zstd)]
[repr(SPEC.v1), repr(SPEC.current()), str(ic.ChunkType.native), int(SPEC.v2)]
[repr(ic.RepoAvailability.read_only), int(ic.RepoAvailability.read_only)]
type(ic.s3_credentials()).__name__
type(ic.s3_credentials(anonymous=True)).__name__
type(ic.s3_credentials(access_key_id="a", secret_access_key="b")).__name__
type(ic.s3_credentials(get_credentials=print)).__name__
type(ic.gcs_credentials()).__name__
type(ic.gcs_credentials(service_account_file="a")[0]).__name__
type(ic.gcs_credentials(bearer_token="a")[0]).__name__
type(ic.azure_credentials(sas_token="a")[0]).__name__
ic.azure_credentials(sas_token="a")[0][0]
len(ic.s3_credentials(access_key_id="a", secret_access_key="b"))
isinstance(ic.s3_credentials(), ic.S3Credentials)
ic.S3StaticCredentials("a", "b", None, WHEN).expires_after.isoformat()
type(ic.containers_credentials({"s3://a/": ic.s3_credentials()})["s3://a/"]).__name__
ic.containers_credentials({"a": None})
"""

REFUSED = """
R(inline_chunk_threshold_bytes=-1)
R(inline_chunk_threshold_bytes=65536)
R(inline_chunk_threshold_bytes=1.0)
R(max_concurrent_requests=65536)
R(caching=1)
R().merge(1)
ic.CompressionConfig(level=256)
ic.StorageRetriesSettings(0)
ic.StorageConcurrencySettings(0)
ic.StorageSettings(unsafe_use_metadata=1)
ic.ManifestSplittingConfig({1: 2})
ic.ManifestVirtualChunkLocationCompressionConfig(1, 1, 1, 4)
D.Axis(-1)
P.num_refs(-1, None)
ic.S3Options(checksum_algorithm="crc32")
O.S3(5)
O.LocalFileSystem(5)
O()
ic.gcs_store({"a": 1})
V(5, ic.s3_store())
V("s3://a/", 5)
R().set_virtual_chunk_container(V("s3://a", ic.s3_store()))
R().set_virtual_chunk_container(V("s3://", ic.s3_store()))
R().set_virtual_chunk_container(V("gs://a/", ic.s3_store()))
R().set_virtual_chunk_container(V("s3://a/", ic.s3_store(), "a/b"))
R().set_virtual_chunk_container(V("file:///", LOCAL))
ic.VirtualChunkSpec([-1], "x", 0, 1)
ic.VirtualChunkSpec([0], "x", 0, 2**64)
ic.Attribution("a")
ic.Attribution(client="a b")
ic.Attribution(workload="a;b")
ic.RepoStatus(ic.RepoAvailability.online, dt.datetime(2030, 1, 1))
ic.S3StaticCredentials("a", None)
ic.S3StaticCredentials("a", "b", None, dt.datetime(2030, 1, 1))
ic.S3Credentials.Static("x")
ic.Credentials.S3(1)
ic.s3_credentials(anonymous=True, from_env=True)
ic.s3_credentials(access_key_id="a")
ic.azure_credentials(access_key="x", sas_token="y")
ic.gcs_static_credentials()
ic.containers_credentials({"s3://a/": 5})
"""

# What differs is written out of both: the style sheet, and the number of cores.
NORMALISE = """
import re
def normal(text):
    text = re.sub("<style>.*?</style>", "", text, flags=re.S)
    text = re.sub(r"\\s+", " ", text).replace("> <", "><")
    return re.sub(r"(max_concurrent_decodes:(</span> <[^>]*>)?) ?\\d+", r"\\1", text)
"""

EVALUATE = """
import datetime as dt, json, sys, icechunk as ic
{normalise}
exec({prelude!r})
def shown(text):
    value = eval(text)
    return [repr(value), str(value), normal(value._repr_html_())]
def refused(text):
    try:
        eval(text)
    except Exception as exc:
        return [k.__name__ for k in type(exc).__mro__]
    return []
print(json.dumps([
    [shown(x) for x in {shown!r}], [eval(x) for x in {values!r}], [refused(x) for x in {refused!r}]
]))
"""


def _lines(text):
    return [line for line in text.splitlines() if line]


@pytest.fixture(scope="module")
def official():
    """Return what the official package makes of every expression."""
    script = EVALUATE.format(
        normalise=NORMALISE,
        prelude=PRELUDE,
        shown=_lines(SHOWN),
        values=_lines(VALUES),
        refused=_lines(REFUSED),
    )
    shown, values, refused = run_peer(script)
    return {
        **dict(zip(_lines(SHOWN), shown, strict=True)),
        **dict(zip(_lines(VALUES), values, strict=True)),
        **dict(zip(_lines(REFUSED), refused, strict=True)),
    }


@pytest.fixture(scope="module")
def names():
    """Return the names that expressions use, for our package."""
    import datetime as dt

    found = {"ic": OURS, "dt": dt}
    exec(NORMALISE + PRELUDE, found)
    return found


def executable(shown: str) -> str:
    """Return what the official package shows, spelled so that it runs: as we do on purpose."""
    split, dim = "ManifestSplitCondition.", "ManifestSplitDimCondition."
    for theirs, ours in {
        f"{split}any_array(": f"{split}AnyArray(",
        f"{dim}axis(": f"{dim}Axis(",
        f"{dim}dimension_name(": f"{dim}DimensionName(",
        f"{dim}any(": f"{dim}Any(",
        "algorithm=Zstd": "algorithm=icechunk.CompressionAlgorithm.Zstd",
    }.items():
        shown = shown.replace(theirs, ours)
    shown = re.sub(r'_matches\("([^"]*)"\)', lambda m: f"_matches({json.dumps(m[1])})", shown)
    return re.sub(r"Some\(({.*?})\)", r"\1", shown)


@pytest.mark.parametrize("expression", _lines(SHOWN))
def test_text_forms_agree(official, names, expression):
    value = eval(expression, names)
    official_repr, official_str, official_html = official[expression]
    assert repr(value) == executable(official_repr)
    # The number of cores is the machine's there and the process's here.
    cores = re.compile(r"(max_concurrent_decodes:) \d+")
    assert cores.sub(r"\1", str(value)) == cores.sub(r"\1", executable(official_str))
    ours = html.unescape(names["normal"](value._repr_html_()))
    assert (
        re.sub(r"> | <", ">", ours).split()
        == re.sub(r"> | <", ">", executable(html.unescape(official_html))).split()
    )


@pytest.mark.parametrize("expression", _lines(VALUES))
def test_values_agree(official, names, expression):
    expected = official[expression]
    if "repr(" in expression:
        expected = json.loads(executable(json.dumps(expected)))
    assert json.loads(json.dumps(eval(expression, names))) == expected


@pytest.mark.parametrize("expression", _lines(REFUSED))
def test_both_refuse(official, names, expression):
    assert official[expression], "the official package takes it"
    # Numbers out of range are OverflowError there; one kind of ValueError is enough here.
    kinds = (TypeError,) if "TypeError" in official[expression] else (ValueError, OverflowError)
    with pytest.raises(kinds):
        eval(expression, names)
