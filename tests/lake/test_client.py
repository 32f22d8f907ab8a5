"""Clients: the catalog, repositories by name, metadata."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import icechunk
from icechunk._io.loop import run
from icechunk.errors import (
    AlreadyExistsError,
    FormatError,
    InvalidInputError,
    RepositoryNotFoundError,
)
from icechunk.lake import AsyncClient, Client
from icechunk.lake.catalog import Catalog, encode_catalog, parse_catalog
from icechunk.lake.names import RepoName
from icechunk.lake.root import LakeRoot
from tests.faults import Died, FaultyStorage
from tests.lake.conftest import AUTHOR, elsewhere


def names(client: Client, **options: object) -> list[str]:
    return [str(entry.name) for entry in client.list_repos(**options)]


def test_a_lake_begins_with_its_first_repository(client):
    assert names(client) == []
    made = client.create_repo("ocean/sst")
    assert (made.name, made.branches) == ("ocean/sst", ["main"])
    assert names(client) == ["ocean/sst"]
    assert client.get_repo("ocean/sst").name == "ocean/sst"


def test_whether_there_is_a_lake(tmp_path):
    client = Client(tmp_path / "lake")
    assert (client.exists(), names(client)) == (False, [])
    for attempt in (client.get_repo, client.get_metadata):
        with pytest.raises(RepositoryNotFoundError, match=r"no lake at .*lake yet"):
            attempt("a/b")
    client.create_repo("a/b")
    client.delete_repo("a/b", confirm="a/b")
    assert (client.exists(), names(client)) == (True, [])
    with pytest.raises(RepositoryNotFoundError, match="there are: none"):
        client.get_repo("a/b")


def test_a_taken_name_is_refused_and_leaves_nothing(client, tmp_path):
    client.create_repo("a/b")
    with pytest.raises(AlreadyExistsError, match="get_repo"):
        client.create_repo("a/b")
    assert len(list((tmp_path / "lake" / "repos" / "a").iterdir())) == 1


def test_an_unknown_name_says_which_there_are(client):
    client.create_repo("a/b")
    with pytest.raises(RepositoryNotFoundError, match=r"there are: a/b"):
        client.get_repo("a/c")


@pytest.mark.parametrize("name", ["", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a b/c", "a/\0", 3])
def test_names_that_are_none(client, name):
    with pytest.raises(InvalidInputError, match="org/name"):
        client.create_repo(name)


def test_get_or_create(client):
    first = client.get_or_create_repo("a/b", metadata={"x": 1})
    first.root_group.attrs["mark"] = 1
    first.commit("mark")
    again = client.get_or_create_repo("a/b", metadata={"x": 2})
    assert again.root_group.attrs["mark"] == 1
    assert client.get_metadata("a/b") == {"x": 1}


def test_deleting_asks_for_the_name(client, tmp_path):
    client.create_repo("a/b")
    with pytest.raises(InvalidInputError, match="confirm='a/b'"):
        client.delete_repo("a/b", confirm="a/c")
    assert names(client) == ["a/b"]
    client.delete_repo("a/b", confirm="a/b")
    assert names(client) == []
    assert not [p for p in (tmp_path / "lake" / "repos").rglob("*") if p.is_file()]
    with pytest.raises(RepositoryNotFoundError):
        client.delete_repo("a/b", confirm="a/b")
    assert client.create_repo("a/b").branches == ["main"]


def test_metadata_filters(client):
    client.create_repo("ocean/sst", metadata={"level": 3, "tags": ["daily"], "gap": math.nan})
    client.create_repo("ocean/ssh", metadata={"level": 4})
    client.create_repo("air/t2m", metadata={"level": 3})
    assert names(client) == ["air/t2m", "ocean/ssh", "ocean/sst"]
    assert names(client, org="ocean") == ["ocean/ssh", "ocean/sst"]
    assert names(client, filter_metadata="level == `3`") == ["air/t2m", "ocean/sst"]
    assert names(client, filter_metadata="contains(tags || `[]`, 'daily')") == ["ocean/sst"]
    assert names(client, filter_metadata="gap == 'NaN'") == ["ocean/sst"]
    assert names(client, filter_metadata={"level": 3}) == ["air/t2m", "ocean/sst"]
    assert names(client, filter_metadata={"nothing": None}) == []
    with pytest.raises(InvalidInputError, match="JMESPath"):
        client.list_repos(filter_metadata="level ==")


def test_metadata_is_changed(client):
    client.create_repo("a/b", description="words", metadata={"x": 1})
    assert client.update_metadata("a/b", {"y": [1, 2]}) == {"x": 1, "y": [1, 2]}
    client.set_metadata("a/b", {"z": None})
    assert client.get_metadata("a/b") == {"z": None}
    (entry,) = client.list_repos()
    assert entry.description == "words"
    with pytest.raises(TypeError):
        client.set_metadata("a/b", {"x": object()})
    with pytest.raises(RepositoryNotFoundError):
        client.get_metadata("a/c")


def test_many_make_repositories_at_once(tmp_path):
    code = (
        "import sys; from icechunk.lake import Client\n"
        "c = Client(sys.argv[1])\n"
        "for i in range(3): c.create_repo(f'org{sys.argv[2]}/r{i}')\n"
        "try: c.create_repo('one/winner'); print('won')\n"
        "except Exception as e: print(type(e).__name__)\n"
    )
    root = str(tmp_path / "lake")
    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(lambda n: elsewhere(code, root, str(n)).strip(), range(3)))
    assert sorted(outcomes) == ["AlreadyExistsError"] * 2 + ["won"]
    assert len(names(Client(root))) == 10


def test_creating_that_dies_leaves_no_entry(tmp_path, monkeypatch):
    root = LakeRoot(str(tmp_path))
    real = root.storage()
    for fail_at in range(2):
        faulty = FaultyStorage(real, fail_at, "error")
        monkeypatch.setattr(LakeRoot, "storage", lambda _self, _location="", f=faulty: f)
        with pytest.raises(icechunk.IcechunkError):
            run(root.change(lambda catalog: catalog.without(RepoName("a", "b"))))
        monkeypatch.undo()
    assert run(root.read()) == Catalog()


@pytest.mark.parametrize("how", ["lost reply", "die after"])
def test_a_repository_that_got_into_the_catalog_stays_whole(tmp_path, monkeypatch, how):
    """Its entry was written, although whoever made it never heard so."""
    root, real = str(tmp_path), LakeRoot.storage
    catalog = FaultyStorage(real(LakeRoot(root)), 0, how)

    def storage(self: LakeRoot, location: str = "") -> icechunk.Storage:
        return real(self, location) if location else catalog

    with monkeypatch.context() as patch:
        patch.setattr(LakeRoot, "storage", storage)
        with contextlib.suppress(Died):
            Client(root).create_repo("a/b")
    repo = Client(root).get_repo("a/b")
    assert repo.branches == ["main"]


def test_deleting_takes_the_repository_that_has_the_name(tmp_path, monkeypatch):
    """Another deleted it and made one of the same name, after this one had looked."""
    client = Client(str(tmp_path))
    client.create_repo("a/b")
    versioned = LakeRoot._versioned

    async def outrun(self: LakeRoot) -> object:
        found = await versioned(self)
        monkeypatch.setattr(LakeRoot, "_versioned", versioned)
        await asyncio.to_thread(lambda: client.delete_repo("a/b", confirm="a/b"))
        await asyncio.to_thread(lambda: client.create_repo("a/b"))
        return found

    monkeypatch.setattr(LakeRoot, "_versioned", outrun)
    client.delete_repo("a/b", confirm="a/b")
    assert client.list_repos() == []
    assert not any(path.is_file() for path in (tmp_path / "repos").rglob("*"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"icechunk_lake": 2, "repos": {}}',
        b'{"icechunk_lake": 1, "repos": []}',
        b'{"icechunk_lake": 1, "repos": {"a": {}}}',
        b'{"icechunk_lake": 1, "repos": {"a/b": {"location": 1, "created_at": "x"}}}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_damaged_catalog_is_a_clear_error(client, tmp_path, data):
    client.create_repo("a/b")
    (tmp_path / "lake" / "catalog.json").write_bytes(data)
    with pytest.raises(FormatError, match=r"catalog.json"):
        client.list_repos()


def test_the_catalog_comes_back(client):
    client.create_repo("a/b", description="ä", metadata={"n": [1, {"x": None}]})
    catalog = run(LakeRoot(client.root).read())
    assert parse_catalog(encode_catalog(catalog), "here") == catalog
    assert json.loads(Path(client.root, "catalog.json").read_text())["icechunk_lake"] == 1


async def _asynchronous(root: str) -> list[str]:
    client = AsyncClient(root, author=AUTHOR)
    repo = await client.create_repo("a/b")
    await repo.ping()
    await repo.checkout("main")
    assert await repo.branches() == ["main"]
    assert (await repo.commit_log())[0].message == "Repository initialized"
    return [str(entry.name) for entry in await client.list_repos()]


def test_the_asynchronous_client(tmp_path):
    assert run(_asynchronous(str(tmp_path))) == ["a/b"]


def test_text_forms_show_no_secrets(tmp_path):
    client = Client("s3://bucket/lake", secret_access_key="hidden!", access_key_id="also!")
    shown = repr(client) + str(client) + repr(LakeRoot("s3://b", {"token": "hidden!"}))
    assert "hidden!" not in shown
    assert "s3://bucket/lake" in shown
