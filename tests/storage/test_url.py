"""Storages by URL, and what importing them loads."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from icechunk import storage as public
from icechunk._io.loop import run
from icechunk.errors import InvalidInputError
from icechunk.storage import (
    azure_storage,
    fsspec_storage,
    gcs_storage,
    local_filesystem_storage,
    s3_storage,
)
from icechunk.storage.url import storage_for_url

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("/data/repo", "local:/data/repo"),
        ("/data/with space#%20?x=1", "local:/data/with space#%20?x=1"),
        ("file:///data/repo", "local:/data/repo"),
        ("FILE:///data/repo", "local:/data/repo"),
        ("file://localhost/data/a%20b", "local:/data/a b"),
        ("memory://x", "memory:x"),
        ("memory://", "memory:"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://bucket/a/b/", "s3://bucket/a/b"),
        ("s3a://bucket/a", "s3://bucket/a"),
        ("http://127.0.0.1:9/x", "http://127.0.0.1:9/x"),
        ("https://127.0.0.1:9/x/", "https://127.0.0.1:9/x"),
        ("https+icechunk://127.0.0.1:9/x", "https://127.0.0.1:9/x"),
        ("gs://bucket/a/b", "gs://bucket/a/b"),
        ("gcs://bucket", "gs://bucket"),
        ("hf://me/bucket/a", "s3://bucket/a"),
        ("abfs://cont@acct.dfs.core.windows.net/a/b", "az://cont/a/b (account acct)"),
    ],
)
def test_urls(url: str, description: str) -> None:
    assert storage_for_url(url).description == description


@pytest.mark.parametrize(
    ("url", "options", "description"),
    [
        ("tigris://bucket/a", {"region": "iad"}, "s3://bucket/a"),
        ("r2://bucket/a", {"account_id": "me"}, "s3://bucket/a"),
        ("az://cont/a", {"account": "acct"}, "az://cont/a (account acct)"),
        ("gs://bucket/a", {"anonymous": True}, "gs://bucket/a"),
        ("http://127.0.0.1:9/x", {"headers": {"x-a": "1"}}, "http://127.0.0.1:9/x"),
    ],
)
def test_urls_with_options(url: str, options: dict[str, Any], description: str) -> None:
    assert storage_for_url(url, **options).description == description


def test_azure_account_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acct")
    assert storage_for_url("az://cont/a").description == "az://cont/a (account acct)"


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage_for_url("some/where").description == f"local:{tmp_path}/some/where"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("", {}),
        ("   ", {}),
        ("a\0b", {}),
        (None, {}),
        (b"/data", {}),
        ("file://host/data", {}),
        ("file://", {}),
        ("file:///", {}),
        ("s3://", {}),
        ("s3:///prefix", {}),
        ("nosuch://x", {}),
        ("gs://", {}),
        ("az://", {}),
        ("az://container/x", {}),
        ("hf://me", {}),
        ("gs://bucket/x", {"nonsense": 1}),
        ("http://127.0.0.1:9", {"nonsense": 1}),
        ("/data", {"region": "x"}),
        ("memory://x", {"region": "x"}),
        ("s3://bucket/x", {"bucket": "y"}),
        ("s3://bucket/x", {"nonsense": 1}),
    ],
)
def test_nonsense(url: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        storage_for_url(url, **options)
    assert caught.value.kind in {"cannot-parse-url", "bad-prefix"}


def test_public_names() -> None:
    for name in public.__all__:
        assert getattr(public, name).__doc__


def test_large_libraries_are_loaded_when_needed() -> None:
    program = """
import sys
from icechunk.storage import in_memory_storage, local_filesystem_storage
from icechunk.storage.url import storage_for_url
storage_for_url("/data"), in_memory_storage()
heavy = {"s3fs", "aiobotocore", "botocore", "aiohttp", "xarray", "dask", "distributed"}
ours = {"icechunk.storage.s3", "icechunk.storage.generic"}
print(sorted((heavy | ours) & set(sys.modules)))
storage_for_url("simplecache::file:///x")
print(sorted(({"s3fs"} | ours) & set(sys.modules)))
storage_for_url("s3://bucket/x")
print(sorted(({"s3fs"} | ours) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    generic, s3 = "icechunk.storage.generic", "icechunk.storage.s3"
    assert done.stdout.splitlines() == ["[]", str([generic]), str([generic, s3])]


# ---------------------------------------------------------------- what cannot be meant


@pytest.mark.parametrize("backend", ["auto", "s3fs", "obstore"])
@pytest.mark.parametrize("url", ["localhost:9000", "//localhost", "http://", "https://host:port"])
def test_an_endpoint_that_is_no_url_is_refused(url: str, backend: Any) -> None:
    """Before a library stumbles over it, with an error that says nothing of it."""
    with pytest.raises(
        InvalidInputError, match="endpoint_url is not the URL of a server"
    ) as caught:
        s3_storage(bucket="b", prefix="p", endpoint_url=url, allow_http=True, backend=backend)
    assert caught.value.kind == "storage-config"
    where = {"google_base_url": url}
    with pytest.raises(InvalidInputError, match="google_base_url is not the URL"):
        gcs_storage(bucket="b", prefix="p", config=where)
    where = {"azure_storage_endpoint": url}
    with pytest.raises(InvalidInputError, match="endpoint is not the URL"):
        azure_storage(account="a", container="c", prefix="p", config=where)


@pytest.mark.parametrize("url", ["s3://bucket/prefix", "file:///somewhere", "http://host/path"])
def test_a_url_is_no_path(url: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{url} is a URL, not a path") as caught:
        local_filesystem_storage(url)
    assert caught.value.kind == "bad-prefix"


@pytest.mark.parametrize("name", ["single_writter", "singlewriter", "single_write"])
def test_a_promise_misspelt_is_not_passed_on(name: str) -> None:
    with pytest.raises(InvalidInputError, match="did you mean 'single_writer'"):
        fsspec_storage("memory://x", **{name: True})


def test_a_callback_that_is_none() -> None:
    callback: Any = "get_credentials"
    for make in (
        lambda: s3_storage(bucket="b", prefix="p", get_credentials=callback),
        lambda: gcs_storage(bucket="b", prefix="p", get_credentials=callback),
        lambda: azure_storage(account="a", container="c", prefix="p", get_credentials=callback),
    ):
        with pytest.raises(InvalidInputError, match="must be a function, not str") as caught:
            make()
        assert caught.value.kind == "invalid-credentials"


@pytest.mark.parametrize("backend", ["azure", "obstore"])
def test_an_azure_key_that_is_none(backend: Any) -> None:
    storage = azure_storage(
        account="a", container="c", prefix="p", access_key="bXkta2V5=?", backend=backend
    )
    with pytest.raises(InvalidInputError, match="access key is not base64") as caught:
        run(storage.get("repo"))
    assert caught.value.kind == "invalid-credentials"
    assert "bXkta2V5" not in str(caught.value)


def test_azure_as_an_earlier_guide_has_it() -> None:
    earlier: Any = {"account_name": "a", "account_key": "bXk=", "access_token": None}
    storage = azure_storage(container="c", prefix="p", sas_token=None, bearer_token=None, **earlier)
    assert storage == azure_storage(account="a", container="c", prefix="p", access_key="bXk=")
    with pytest.raises(TypeError, match="account_key is the earlier name of access_key"):
        azure_storage(account="a", container="c", prefix="p", access_key="bXk=", account_key="bXk=")  # type: ignore[call-arg]
