"""Merging is associative, and a group is what its members would be one after the other: drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.core.sync import sync

import icechunk as ic
from icechunk.core.grouping import plan_group
from icechunk.core.merge import ChunkPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

CHUNKS = 6
NAMES = ("a", "b")

writes = st.tuples(
    st.just("write"), st.sampled_from(NAMES), st.integers(0, CHUNKS - 1), st.integers(1, 3)
)
documents = st.tuples(st.just("attributes"), st.sampled_from(NAMES), st.integers(1, 2))
creations = st.tuples(st.just("create"), st.sampled_from(("new", "other")))
deletions = st.tuples(st.just("delete"), st.sampled_from(NAMES))
step = st.one_of(writes, writes, writes, documents, creations, deletions)
work = st.lists(step, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def repo() -> ic.Repository:
    repo = ic.Repository.create(ic.in_memory_storage())
    with repo.transaction("main", message="template") as store:
        for name in NAMES:
            zarr.create_array(store, name=name, shape=(CHUNKS,), chunks=(1,), dtype="i8")
    return repo


def done(fork: ic.ForkSession, steps: Sequence[tuple[Any, ...]]) -> ic.ForkSession:
    """Do what was drawn, as far as it makes sense."""
    for kind, name, *rest in steps:
        exists = sync(fork.store.exists(f"{name}/zarr.json"))
        if kind == "create" and not exists:
            zarr.create_array(fork.store, name=name, shape=(1,), chunks=(1,), dtype="i8")
        elif kind == "delete":
            sync(fork.store.delete_dir(name))
        elif kind == "write" and exists:
            zarr.open_array(fork.store, path=name, mode="r+")[rest[0]] = rest[1]
        elif kind == "attributes" and exists:
            zarr.open_array(fork.store, path=name, mode="r+").attrs["x"] = rest[0]
    fork.mark_carried()
    return fork


def contents(session: ic.Session) -> dict[str, Any]:
    """Return everything a session holds."""
    group = zarr.open_group(session.store, mode="r")
    return {
        name: (np.asarray(array[:]).tolist(), dict(array.attrs)) for name, array in group.arrays()
    }


def merged(
    repo: ic.Repository, pieces: Sequence[Sequence[tuple[Any, ...]]], nested: Any, policy: str
) -> Any:
    """Merge the forks of some pieces of work, nested as given; return contents, or why not."""
    session = repo.writable_session("main")
    forks = [done(session.fork(), piece) for piece in pieces]

    def take(tree: Any) -> ic.ForkSession:
        if isinstance(tree, int):
            return forks[tree]
        into = session.fork()
        into.mark_carried()
        into.merge(*map(take, tree), on_chunk_conflict=policy)
        return into

    try:
        session.merge(*map(take, nested), on_chunk_conflict=policy)
    except ic.SessionStateError as error:
        return error.kind
    return contents(session)


@pytest.mark.parametrize("policy", list(ChunkPolicy))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=st.tuples(work, work, work))
def test_merging_is_associative(repo: ic.Repository, policy: str, pieces: Any) -> None:
    """The same contents, or the same refusal, however the merges are nested."""
    outcomes = [
        merged(repo, pieces, nested, policy)
        for nested in [(0, 1, 2), ((0, 1), 2), (0, (1, 2)), ((0,), (1,), (2,)), (((0, 1, 2),),)]
    ]
    assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
    assert isinstance(outcomes[0], dict) or outcomes[0] == "merge-failed"


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pieces=st.lists(work, min_size=1, max_size=4))
def test_a_group_is_what_its_members_would_be_one_commit_after_the_other(
    repo: ic.Repository, pieces: Any
) -> None:
    forks = [done(repo.writable_session("main").fork(), piece) for piece in pieces]
    changes = [fork.checkout.changes for fork in forks]
    base = repo.writable_session("main")
    group = plan_group(base.checkout.base.nodes, changes)
    assert sorted(group.members + group.postponed) == list(range(len(pieces)))
    assert group.members[0] == 0
    base.checkout.changes = group.changes
    together = contents(base)

    number = repo.lookup_branch("main")
    repo.create_branch("one-by-one", number)
    try:
        for which in group.members:
            session = repo.writable_session("one-by-one")
            fork = done(repo.writable_session("main").fork(), pieces[which])
            session.merge(fork)  # refuses what conflicts with the commits since
            session.commit("m", allow_empty=True)
        assert contents(repo.readonly_session("one-by-one")) == together
    finally:
        repo.delete_branch("one-by-one")


def test_a_fork_that_replaces_what_its_parent_wrote_is_no_conflict(repo: ic.Repository) -> None:
    session = repo.writable_session("main")
    zarr.open_array(session.store, path="a", mode="r+")[0:3] = 1
    fork = session.fork()
    zarr.open_array(fork.store, path="a", mode="r+")[0] = 2
    late = session.fork()
    zarr.open_array(late.store, path="a", mode="r+")[1] = 3
    zarr.open_array(session.store, path="a", mode="r+")[1] = 4
    with pytest.raises(ic.InvalidInputError, match="'frist' is none of last, error"):
        session.merge(fork, on_chunk_conflict="frist")
    session.merge(fork, on_chunk_conflict="error")
    with pytest.raises(ic.SessionStateError, match=r"/a: \[1\]"):
        session.merge(late, on_chunk_conflict="error")
    late.mark_carried()
    assert contents(session)["a"][0][:3] == [2, 4, 1]


@pytest.mark.parametrize("new", [True, False])
def test_two_changes_of_one_document_do_not_merge_however_new_the_node_is(
    repo: ic.Repository, new: bool
) -> None:
    session = repo.writable_session("main")
    zarr.create_array(session.store, name="late", shape=4, chunks=2, dtype="i4")
    if not new:
        session.commit("late")
        session = repo.writable_session("main")
    forks = [session.fork() for _ in range(4)]
    resized, same, described, deleted = (zarr.open_group(f.store, mode="r+") for f in forks)
    resized["late"].resize((6,))  # type: ignore[union-attr]
    same["late"].resize((6,))  # type: ignore[union-attr]
    described["late"].attrs["unit"] = "K"
    del deleted["late"]
    session.merge(*forks[:2])
    for fork, why in (
        (forks[2], "both sides changed the metadata of /late differently"),
        (forks[3], "one side changed /late and the other deleted it"),
    ):
        with pytest.raises(ic.SessionStateError, match=why):
            session.merge(fork)
        fork.mark_carried()
    assert zarr.open_array(session.store, path="late", mode="r").shape == (6,)
    if not new:
        return
    late = session.fork()  # what it knows it may change
    zarr.open_group(late.store, mode="r+")["late"].attrs["unit"] = "K"
    session.merge(late)
    array = zarr.open_array(session.store, path="late", mode="r")
    assert (array.shape, dict(array.attrs)) == ((6,), {"unit": "K"})
