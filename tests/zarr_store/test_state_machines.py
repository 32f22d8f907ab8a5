"""zarr's own state machines over a session's store, with commits, reopening and travel in between.

What differs from zarr's memory store, which is their model, is overridden below with the reason.
"""

from __future__ import annotations

import pickle
import tempfile
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, assume, note, settings
from hypothesis.stateful import (
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.testing.stateful import (
    SyncStoreWrapper,
    ZarrHierarchyStateMachine,
    ZarrStoreStateMachine,
)

import icechunk as ic
from tests.zarr_store.nodes import array_document, buffer, group_document

if TYPE_CHECKING:
    from hypothesis.strategies import DataObject

EXAMPLES = {"memory": 8, "local": 5}
STEPS = 25
PROTOTYPE = default_buffer_prototype()


def run(machine: Any, examples: int, steps: int = STEPS, *, shrink: bool = False) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            # Shrinking takes minutes, more than a test has; those at length do it.
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


# zarr draws data types that have no specification yet, and warns of them.
pytestmark = pytest.mark.filterwarnings("ignore:The data type .* does not have a Zarr V3")


class Versions:
    """Commits, reopening and travel, which change nothing that a store shows."""

    store: Any
    repo: ic.Repository
    storage: ic.Storage
    tip: ic.Session

    def create(self, kind: str) -> ic.IcechunkStore:
        self.folder = tempfile.TemporaryDirectory() if kind == "local" else None
        self.storage = (
            ic.local_filesystem_storage(self.folder.name + "/repo")
            if self.folder
            else ic.in_memory_storage()
        )
        self.repo = ic.Repository.create(self.storage)
        return self.repo.writable_session("main").store

    def teardown(self) -> None:
        if self.folder:
            self.folder.cleanup()

    def current(self) -> ic.IcechunkStore:
        raise NotImplementedError

    def use(self, store: ic.IcechunkStore) -> None:
        raise NotImplementedError

    @rule()
    def commit(self) -> None:
        note("commit")
        self.current().session.commit("drawn", allow_empty=True)
        self.use(self.repo.writable_session("main").store)

    @rule()
    def commit_and_reopen(self) -> None:
        note("commit and reopen")
        self.current().session.commit("drawn", allow_empty=True)
        self.repo = ic.Repository.open(self.storage)
        self.use(self.repo.writable_session("main").store)

    @rule()
    def amend(self) -> None:
        note("amend")
        tip = self.repo.lookup_snapshot(self.repo.lookup_branch("main"))
        if tip.parent_id is not None:
            self.current().session.amend("drawn", allow_empty=True)
            self.use(self.repo.writable_session("main").store)

    @rule()
    def travel(self) -> None:
        note("pickle, and merge what comes back")
        session = self.current().session
        with_changes = pickle.loads(pickle.dumps(session.fork()))
        session.merge(with_changes)

    @rule()
    def fork_reads_the_same(self) -> None:
        store = self.current()
        fork = pickle.loads(pickle.dumps(store))
        assert sorted(_listed(fork)) == sorted(_listed(store))


def _listed(store: ic.IcechunkStore) -> list[str]:
    return list(SyncStoreWrapper(store).list())


class Hierarchy(Versions, ZarrHierarchyStateMachine):
    kind = "memory"

    def __init__(self) -> None:
        super().__init__(self.create(self.kind))

    def current(self) -> ic.IcechunkStore:
        return self.store

    def use(self, store: ic.IcechunkStore) -> None:
        self.store = store

    @precondition(lambda self: bool(self.all_groups))
    @rule(data=st.data())
    def check_list_dir(self, data: DataObject) -> None:
        # An array lists "c" whether or not it has chunks, as the official store does; the model
        # only when it has some.
        path = self.draw_directory(data)
        theirs = set(self._sync_iter(self.model.list_dir(path)))
        ours = set(self._sync_iter(self.store.list_dir(path)))
        if path in self.all_arrays:
            assert ours - {"c"} == theirs - {"c"}
            assert ours == {"c", "zarr.json"}
        else:
            assert ours == theirs


class LocalHierarchy(Hierarchy):
    kind = "local"


NODE_PATHS = ["", "a", "a/b", "a-b", "é", "a/b/d"]
NUMBER = st.integers(0, 3)


class Keys(Versions, ZarrStoreStateMachine):
    """Keys and values as dictionaries have them, but Zarr's: others are refused."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__(self.create(self.kind))

    def current(self) -> ic.IcechunkStore:
        return self.store.store

    def use(self, store: ic.IcechunkStore) -> None:
        self.store = SyncStoreWrapper(store)

    @initialize()
    def init_store(self) -> None:
        self.store.clear()
        for path in NODE_PATHS[1:3]:
            self._set(f"{path}/zarr.json", array_document(2))

    def _set(self, key: str, data: bytes) -> None:
        self.store.set(key, buffer(data))
        self.model[key] = buffer(data)

    def _arrays(self) -> list[str]:
        return sorted(
            key.removesuffix("zarr.json")
            for key, value in self.model.items()
            if key.endswith("zarr.json") and b'"array"' in value.to_bytes()
        )

    @rule(path=st.sampled_from(NODE_PATHS), number=NUMBER, array=st.booleans())
    def set_document(self, path: str, number: int, array: bool) -> None:
        key = f"{path}/zarr.json".lstrip("/")
        before = self.model.get(key)
        # A node changes its kind only by being deleted first.
        assume(before is None or (b'"array"' in before.to_bytes()) == array)
        attributes: dict[str, object] = {"n": number}
        note(f"set {key!r}")
        self._set(key, array_document(2, attributes) if array else group_document(attributes))

    @precondition(lambda self: bool(self._arrays()))
    @rule(key=NUMBER, data=st.data())
    def set(self, key: int, data: DataObject) -> None:
        array = data.draw(st.sampled_from(self._arrays()))
        short = st.binary(min_size=1, max_size=100)  # in the change set
        value = data.draw(st.one_of(short, st.integers(600, 700).map(lambda n: b"x" * n)))
        name = f"{array}c/{key}/{data.draw(NUMBER)}"
        note(f"set {name!r} to {len(value)} bytes")
        self._set(name, value)

    @precondition(lambda self: bool(self._arrays()))
    @rule(key=NUMBER, data=st.data())
    def set_if_not_exists(self, key: int, data: DataObject) -> None:
        name = f"{data.draw(st.sampled_from(self._arrays()))}c/{key}/{key}"
        self.store._sync(self.store.store.set_if_not_exists(name, buffer(b"if not")))
        self.model.setdefault(name, buffer(b"if not"))

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def delete(self, data: DataObject) -> None:
        # A document goes with everything below its node.
        key = data.draw(st.sampled_from(sorted(self.model)))
        note(f"delete {key!r}")
        self.store.delete(key)
        if key.endswith("zarr.json"):
            self._forget(key.removesuffix("zarr.json"))
        else:
            del self.model[key]

    def _forget(self, prefix: str) -> None:
        for key in [key for key in self.model if key.startswith(prefix)]:
            del self.model[key]

    @rule(path=st.sampled_from(NODE_PATHS), chunks=st.sampled_from(["", "/c", "/c/1"]))
    def delete_dir(self, path: str, chunks: str) -> None:
        note(f"delete_dir {path + chunks!r}")
        self.store._sync(self.store.store.delete_dir(path + chunks))
        self._forget(f"{path}{chunks}/".lstrip("/"))

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def get_partial_values(self, data: DataObject) -> None:
        # A range that does not lie within the value is refused; zarr's machine draws such.
        keys = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=6))
        wanted: list[tuple[str, Any]] = []
        expected = []
        for key in keys:
            value = self.model[key].to_bytes()
            start = data.draw(st.integers(0, len(value) - 1))
            stop = data.draw(st.integers(start, len(value)))
            request, part = data.draw(
                st.sampled_from(
                    [
                        (None, value),
                        (RangeByteRequest(start, stop), value[start:stop]),
                        (OffsetByteRequest(start), value[start:]),
                        (SuffixByteRequest(stop), value[len(value) - stop :]),
                    ]
                )
            )
            wanted.append((key, request))
            expected.append(part)
        got = self.store.get_partial_values((pair for pair in wanted), PROTOTYPE)
        assert [None if value is None else value.to_bytes() for value in got] == expected

    @rule(path=st.sampled_from(NODE_PATHS), key=NUMBER)
    def exists(self, path: str, key: int) -> None:
        for name in (f"{path}/zarr.json".lstrip("/"), f"{path}/c/{key}/0".lstrip("/")):
            owner = self.model.get(f"{path}/zarr.json".lstrip("/"))
            if name not in self.model and owner and b'"array"' not in owner.to_bytes():
                continue  # asking for a chunk of a group is an error
            assert self.store.exists(name) == (name in self.model)

    @rule(path=st.sampled_from(NODE_PATHS), key=NUMBER, data=st.none())
    def get_invalid_zarr_keys(self, path: str, key: int, data: None) -> None:
        with pytest.raises(ic.InvalidInputError):
            self.store.get(f"{path}/c.{key}", PROTOTYPE)

    @precondition(lambda self: bool(self.model))
    @rule(data=st.data())
    def getsize_prefix(self, data: DataObject) -> None:
        # Of nodes; the size below a chunk prefix is refused, as by the official store.
        documents = [key for key in self.model if key.endswith("zarr.json")]
        prefix = data.draw(st.sampled_from(sorted(documents))).removesuffix("zarr.json")
        expected = sum(len(v) for k, v in self.model.items() if k.startswith(prefix))
        assert self.store._sync(self.store.store.getsize_prefix(prefix)) == expected

    @invariant()
    def arrays_are_listed_below_their_parents(self) -> None:
        for path in NODE_PATHS:
            prefix = f"{path}/".lstrip("/")
            names = {k[len(prefix) :].split("/")[0] for k in self.model if k.startswith(prefix)}
            listed = set(self.store._sync_iter(self.store.store.list_dir(path)))
            is_node = f"{prefix}zarr.json" in self.model
            assert listed - {"c"} == (names if is_node else set()) - {"c"}


class LocalKeys(Keys):
    kind = "local"


@pytest.mark.parametrize("machine", [Hierarchy, LocalHierarchy, Keys, LocalKeys])
def test_machines(machine: type[Versions]) -> None:
    run(machine, EXAMPLES[machine.kind])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("machine", [Hierarchy, LocalHierarchy, Keys, LocalKeys])
def test_machines_at_length(machine: type[Versions]) -> None:
    run(machine, 6 * EXAMPLES[machine.kind], 2 * STEPS, shrink=True)
