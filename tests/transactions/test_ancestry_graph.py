"""The history as a drawing."""

from __future__ import annotations

import asyncio
import pickle
import re
import xml.etree.ElementTree as ET

import pytest

from icechunk import (
    AncestryGraph,
    RefNotFoundError,
    Repository,
    in_memory_storage,
    local_filesystem_storage,
)
from tests.peer import run_peer

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def commit(repo: Repository, branch: str, message: str) -> str:
    return repo.writable_session(branch).commit(message, allow_empty=True)


@pytest.fixture
def two_branches(tmp_path):
    repo = Repository.create(local_filesystem_storage(str(tmp_path)))
    ids = [commit(repo, "main", f"c {i}") for i in range(3)]
    repo.create_branch("dev", ids[1])
    repo.create_branch("also-here", ids[1])
    repo.create_tag("v<2>", ids[2])
    repo.create_tag("v1", ids[0])
    commit(repo, "dev", "x" * 60)
    commit(repo, "dev", "a message that goes on and on for more than sixty characters\nsecond")
    return repo, tmp_path


ASK = """
import icechunk, json, sys
r = icechunk.Repository.open(icechunk.local_filesystem_storage(sys.argv[1]))
views = [{}, {"plain": True}, {"branch": "dev"}, {"branch": "main", "plain": True}]
print(json.dumps([[str(g), g._repr_svg_()] for g in (r.ancestry_graph(**v) for v in views)]))
"""


@pytest.mark.peer
def test_it_is_the_drawing_of_the_official_package(two_branches):
    repo, path = two_branches
    views = [{}, {"plain": True}, {"branch": "dev"}, {"branch": "main", "plain": True}]
    graphs = [repo.ancestry_graph(**view) for view in views]
    assert [[str(g), g._repr_svg_()] for g in graphs] == run_peer(ASK, path)


def test_lanes_that_meet_and_cross():
    repo = Repository.create(in_memory_storage())
    root = repo.lookup_branch("main")
    first = commit(repo, "main", "first")
    for name, at in [("a", first), ("b", root), ("c", first)]:
        repo.create_branch(name, at)
        commit(repo, name, f"on {name}")
    commit(repo, "main", "last")
    lines = str(repo.ancestry_graph(plain=True)).splitlines()
    assert lines[-3].startswith("●─┴─┼─╯ ")
    assert lines[-1].startswith("●───╯   ")
    for line, message in zip(
        lines[::2],
        ["last", "on c", "on b", "on a", "first", "Repository initialized"],
        strict=True,
    ):
        assert line.endswith(message)


def test_one_version_alone(two_branches):
    repo, _ = two_branches
    tagged = str(repo.ancestry_graph(tag="v<2>", plain=True)).splitlines()
    assert tagged[0].endswith("(v<2>) c 2")
    assert len(tagged) == 7
    at = repo.lookup_tag("v1")
    assert str(repo.ancestry_graph(snapshot_id=at, plain=True)).startswith(f"● {at[:8]} (v1) c 0\n")
    assert asyncio.run(repo.ancestry_graph_async(tag="v1")) == repo.ancestry_graph(tag="v1")
    with pytest.raises(ValueError, match="Must provide one"):
        repo.ancestry_graph(tag="v1", branch="main")
    with pytest.raises(RefNotFoundError):
        repo.ancestry_graph(branch="nowhere")


def test_it_is_a_value(two_branches):
    graph = two_branches[0].ancestry_graph()
    assert isinstance(graph, AncestryGraph)
    assert pickle.loads(pickle.dumps(graph)) == graph
    assert repr(graph) == str(graph)
    assert ESCAPE.sub("", str(graph)) == str(two_branches[0].ancestry_graph(plain=True))
    ET.fromstring(graph._repr_svg_())


def test_text_that_is_no_ascii():
    repo = Repository.create(in_memory_storage(), spec_version=1)
    commit(repo, "main", "é" * 70)
    assert str(repo.ancestry_graph(plain=True)).splitlines()[0].endswith("é" * 57 + "...")


def test_long_histories_are_drawn_in_no_time():
    repo = Repository.create(in_memory_storage())
    for i in range(60):
        at = commit(repo, "main", f"{i}")
        repo.create_branch(f"b{i}", at)
    assert len(str(repo.ancestry_graph()).splitlines()) == 121
