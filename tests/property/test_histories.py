"""A state machine over the operations of a repository, beside a model of plain dictionaries.

After each step every name points where the model says, and what its snapshots hold is read and
compared; in the end everything is, through a repository object of its own, down to the objects.
"""

from __future__ import annotations

import itertools
import pickle
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from zarr.core.sync import sync

import icechunk as ic
from icechunk._io.loop import run
from icechunk.format.chunk_table import ChunkKind
from icechunk.ids import ObjectId, id_text
from tests.property import model as plain
from tests.property.model import CHUNK, CHUNKS, LENGTH, Model, Version

if TYPE_CHECKING:
    from collections.abc import Callable

    from hypothesis.strategies import DataObject

NAMES = ["a", "b", "é", "a-b"]
BRANCHES = ["dev", "x"]
TAGS = ["t0", "t1", "t2", "t3"]
NUMBER = st.integers(0, 1_000)
AN_HOUR = timedelta(hours=1)


class Histories(RuleBasedStateMachine):
    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.session: ic.Session | None = None
        self.branch = "main"
        self.working: Version = {}
        self.checked: set[str] = set()
        self.moves: set[str] = set()

    @initialize(spec_version=st.sampled_from([1, 2, 2]), inline=st.sampled_from([0, 0, 512]))
    def create(self, spec_version: int, inline: int) -> None:
        where = Path(self.folder.name)
        self.values = np.arange(1_000, 1_100, dtype="<i4")
        (where / "data.bin").write_bytes(self.values.tobytes())
        self.prefix = where.as_uri() + "/"
        config = ic.RepositoryConfig(inline_chunk_threshold_bytes=inline)
        config.set_virtual_chunk_container(
            ic.VirtualChunkContainer(self.prefix, ic.local_filesystem_store(str(where)))
        )
        self.config = config
        self.storage = (
            ic.in_memory_storage()
            if self.kind == "memory"
            else ic.local_filesystem_storage(str(where / "repo"))
        )
        self.repo = ic.Repository.create(
            self.storage,
            config,
            authorize_virtual_chunk_access={self.prefix: None},
            spec_version=spec_version,
        )
        self.spec_version = spec_version
        initial = self.repo.lookup_branch("main")
        self.model = Model(initial)
        self.model.add(initial, None, {})
        self.model.branches["main"] = initial
        session, version = self.begin("main")
        for path in ("a", "b"):
            version = self._made(session, version, path, len(path))
        self.landed("main", session.commit("arrays"), version)

    def teardown(self) -> None:
        try:
            if hasattr(self, "model"):
                self.everything_is_there()
        finally:
            self.folder.cleanup()

    # -- sessions and edits ---------------------------------------------------------------------

    def open_repo(self) -> ic.Repository:
        return ic.Repository.open(
            self.storage, self.config, authorize_virtual_chunk_access={self.prefix: None}
        )

    def begin(self, branch: str) -> tuple[ic.Session, Version]:
        """Open a session whose version has a root group."""
        session = self.repo.writable_session(branch)
        zarr.open_group(session.store, mode="a")
        return session, {"": ({}, None), **self.model.versions[self.model.branches[branch]]}

    def pick_branch(self, data: DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.branches)))

    def work(self, data: DataObject) -> ic.Session:
        """Make some changes, in the session that is open or in a new one."""
        if self.session is None:
            self.branch = self.pick_branch(data)
            self.session, self.working = self.begin(self.branch)
        for _ in range(data.draw(st.integers(1, 4), label="edits")):
            self.working = self.edit(self.session, self.working, data)
        return self.session

    def edit(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        """Make one drawn change, and return the version with it."""
        kinds = ["group", "array", "attributes"]
        if plain.arrays_of(version):
            kinds += ["write", "write", "virtual", "shift", "reindex", "delete chunk", "delete"]
        kind = data.draw(st.sampled_from(kinds), label="edit")
        return self.EDITS[kind](self, session, version, data)

    def _group(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path = self._new_path(version, data)
        if path is None:
            return version
        zarr.create_group(session.store, path=path)
        return {**version, path: ({}, None)}

    def _new_path(self, version: Version, data: DataObject) -> str | None:
        parent = data.draw(st.sampled_from(plain.groups_of(version)), label="parent")
        path = plain.below(parent, data.draw(st.sampled_from(NAMES), label="name"))
        return None if path in version or len(version) > 12 else path

    def _array(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path = self._new_path(version, data)
        return version if path is None else self._made(session, version, path, data.draw(NUMBER))

    def _made(self, session: ic.Session, version: Version, path: str, start: int) -> Version:
        array = zarr.create_array(
            session.store,
            name=path,
            shape=(LENGTH,),
            chunks=(CHUNK,),
            dtype="<i4",
            compressors=None,
            filters=None,
        )
        array[:] = np.arange(start, start + LENGTH)
        return {**version, path: ({}, tuple(range(start, start + LENGTH)))}

    def _attributes(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path = data.draw(st.sampled_from(sorted(version)))
        attributes, values = version[path]
        new = {**attributes, "n": data.draw(NUMBER)}
        node = zarr.open(session.store, path=path, mode="r+")
        node.attrs.update(new)
        return {**version, path: (new, values)}

    def _pick_chunk(self, version: Version, data: DataObject) -> tuple[str, int]:
        path = data.draw(st.sampled_from(plain.arrays_of(version)), label="array")
        return path, data.draw(st.integers(0, CHUNKS - 1), label="chunk")

    def _write(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path, chunk = self._pick_chunk(version, data)
        return self._written(session, version, path, chunk, data.draw(NUMBER))

    def _written(
        self, session: ic.Session, version: Version, path: str, chunk: int, number: int
    ) -> Version:
        values = [number + 1, number + 2]
        array = zarr.open_array(session.store, path=path, mode="r+")
        array[chunk * CHUNK : (chunk + 1) * CHUNK] = values
        return plain.with_chunk(version, path, chunk, values)

    def _virtual(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path, chunk = self._pick_chunk(version, data)
        at = data.draw(st.integers(0, len(self.values) - CHUNK))
        location = self.prefix + "data.bin"
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        match at % 3:
            case 0:
                session.store.set_virtual_ref(
                    f"{path}/c/{chunk}", location, offset=4 * at, length=8, checksum=tomorrow
                )
            case 1:
                spec = ic.VirtualChunkSpec([chunk], location, 4 * at, 8)
                session.store.set_virtual_refs(path, [spec])
            case 2:
                session.store.set_virtual_refs_arr(
                    path,
                    (1,),
                    [location],
                    np.array([4 * at], np.uint64),
                    np.array([8], np.uint64),
                    arr_offset=(chunk,),
                )
        return plain.with_chunk(version, path, chunk, self.values[at : at + CHUNK].tolist())

    def _shift(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path, _ = self._pick_chunk(version, data)
        by = data.draw(st.integers(-CHUNKS, CHUNKS))
        session.shift_array("/" + path, [by])
        sources = {n: n - by if 0 <= n - by < CHUNKS else None for n in range(CHUNKS)}
        return plain.with_chunks_moved(version, path, sources)

    def _reindex(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path, _ = self._pick_chunk(version, data)
        order = data.draw(st.permutations(range(CHUNKS)))
        session.reindex_array(
            "/" + path,
            lambda at: [order[at[0]]],
            lambda at: [order.index(at[0])],
        )
        sources: dict[int, int | None] = {order[n]: n for n in range(CHUNKS)}
        return plain.with_chunks_moved(version, path, sources)

    def _delete_chunk(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path, chunk = self._pick_chunk(version, data)
        sync(session.store.delete(f"{path}/c/{chunk}"))
        return plain.with_chunk(version, path, chunk, [0, 0])

    def _delete(self, session: ic.Session, version: Version, data: DataObject) -> Version:
        path = data.draw(st.sampled_from(sorted(version.keys() - {""})))
        sync(session.store.delete_dir(path))
        return plain.without(version, path)

    EDITS: dict[str, Callable[..., Version]] = {
        "group": _group,
        "array": _array,
        "attributes": _attributes,
        "write": _write,
        "virtual": _virtual,
        "shift": _shift,
        "reindex": _reindex,
        "delete chunk": _delete_chunk,
        "delete": _delete,
    }

    @rule(data=st.data())
    def edits(self, data: DataObject) -> None:
        self.work(data)

    @precondition(lambda self: self.session is not None)
    @rule()
    def session_travels(self) -> None:
        """What comes back from another process brings the same changes."""
        assert self.session is not None
        copy = pickle.loads(pickle.dumps(self.session))
        assert plain.read(copy) == self.working
        copy.mark_carried()

    @rule(data=st.data())
    def forks(self, data: DataObject) -> None:
        """Two forks travel, write a chunk each, and are merged."""
        session = self.work(data)
        if not plain.arrays_of(self.working):
            return
        path, first = self._pick_chunk(self.working, data)
        forks = [pickle.loads(pickle.dumps(session.fork())) for _ in range(2)]
        for number, fork in enumerate(forks):
            self.working = self._written(
                fork, self.working, path, (first + number) % CHUNKS, data.draw(NUMBER)
            )
        session.merge(*[pickle.loads(pickle.dumps(fork)) for fork in forks])

    @precondition(lambda self: self.session is not None)
    @rule()
    def drop_session(self) -> None:
        self.session = None

    @invariant()
    def the_session_shows_its_changes(self) -> None:
        if self.session is not None:
            assert plain.read(self.session) == self.working

    # -- snapshots ------------------------------------------------------------------------------

    def landed(self, branch: str, snapshot_id: str, version: Version) -> None:
        self.model.add(snapshot_id, self.model.branches[branch], version)
        self.model.branches[branch] = snapshot_id

    @rule(data=st.data())
    def work_and_commit(self, data: DataObject) -> None:
        self.work(data)
        self.commit(empty=True)

    @rule(data=st.data())
    def fork_and_commit(self, data: DataObject) -> None:
        self.forks(data)
        self.commit(empty=True)

    @precondition(lambda self: self.session is not None)
    @rule(empty=st.booleans())
    def commit(self, empty: bool) -> None:
        assert self.session is not None
        session, self.session = self.session, None
        if not session.has_uncommitted_changes and not empty:
            with pytest.raises(ic.IcechunkError):
                session.commit("nothing")
            return
        new = session.commit("drawn", allow_empty=empty)
        note(f"committed {new} to {self.branch}")
        self.landed(self.branch, new, self.working)

    @precondition(lambda self: self.spec_version == 2)
    @rule(data=st.data())
    def amend(self, data: DataObject) -> None:
        session = self.work(data)
        tip = self.model.branches[self.branch]
        if tip == self.model.initial or not session.has_uncommitted_changes:
            return
        self.session = None
        if tip in self.moves:
            with pytest.raises(ic.SessionStateError, match="moved nodes"):
                session.amend("amended")
            return
        new = session.amend("amended")
        self.model.add(new, self.model.parents[tip], self.working)
        self.model.branches[self.branch] = new

    @rule(tag=st.sampled_from(TAGS), data=st.data())
    def flush(self, tag: str, data: DataObject) -> None:
        session = self.work(data)
        if not session.has_uncommitted_changes:
            return
        self.session = None
        new = session.flush("flushed")
        self.model.add(new, self.model.branches[self.branch], self.working)
        if self.tag_is_free(tag):
            self.repo.create_tag(tag, new)
            self.model.tags[tag] = new

    @precondition(lambda self: self.session is None)
    @rule(data=st.data())
    def abandon_and_collect(self, data: DataObject) -> None:
        """What was made on a branch and left behind goes, unless another name leads to it."""
        branch = self.pick_branch(data)
        before = self.model.branches[branch]
        self.work(data)
        self.commit(empty=True)
        self.work(data)
        self.commit(empty=True)
        self.repo.reset_branch(branch, before)
        self.model.branches[branch] = before
        self.collect_all(dry=False)

    @precondition(lambda self: self.session is None)
    @rule(data=st.data(), same=st.booleans(), rebase=st.booleans())
    def two_writers(self, data: DataObject, same: bool, rebase: bool) -> None:
        """Of two sessions the second to commit is rebased, or told that it came too late."""
        branch = self.pick_branch(data)
        ours, version = self.begin(branch)
        if (
            not plain.arrays_of(version)
            or "" not in self.model.versions[self.model.branches[branch]]
        ):
            return
        theirs, _ = self.begin(branch)
        path, chunk = self._pick_chunk(version, data)
        other = chunk if same else (chunk + 1) % CHUNKS
        first = self._written(theirs, version, path, chunk, data.draw(NUMBER))
        number = data.draw(NUMBER)
        self._written(ours, version, path, other, number)
        self.landed(branch, theirs.commit("theirs"), first)
        if not rebase:
            with pytest.raises(ic.ConflictError):
                ours.commit("ours")
        elif same:
            with pytest.raises(ic.RebaseFailedError):
                ours.commit("ours", rebase_with=ic.ConflictDetector())
            new = ours.commit(
                "ours",
                rebase_with=ic.BasicConflictSolver(on_chunk_conflict=ic.VersionSelection.use_ours),
            )
            self.landed(branch, new, self._with(first, path, other, number))
        else:
            new = ours.commit("ours", rebase_with=ic.ConflictDetector())
            self.landed(branch, new, self._with(first, path, other, number))

    @staticmethod
    def _with(version: Version, path: str, chunk: int, number: int) -> Version:
        return plain.with_chunk(version, path, chunk, [number + 1, number + 2])

    @precondition(lambda self: self.session is None and self.spec_version == 2)
    @rule(data=st.data())
    def move(self, data: DataObject) -> None:
        branch = self.pick_branch(data)
        version = self.model.versions[self.model.branches[branch]]
        if len(version) < 2:
            return
        source = data.draw(st.sampled_from(sorted(version.keys() - {""})))
        parent = data.draw(st.sampled_from(plain.groups_of(version)))
        target = plain.below(parent, data.draw(st.sampled_from(NAMES)))
        session = self.repo.rearrange_session(branch)
        if target in version or plain.is_within(parent, source):
            with pytest.raises(ic.IcechunkError):
                session.move("/" + source, "/" + target)
            return
        session.move("/" + source, "/" + target)
        new = session.commit("moved")
        self.moves.add(new)
        self.landed(branch, new, plain.moved(version, source, target))

    @precondition(lambda self: self.session is None)
    @rule(data=st.data())
    def rewrite_manifests(self, data: DataObject) -> None:
        branch = self.pick_branch(data)
        version = self.model.versions[self.model.branches[branch]]
        if plain.arrays_of(version):
            self.landed(branch, self.repo.rewrite_manifests("rewritten", branch=branch), version)

    # -- names ----------------------------------------------------------------------------------

    def tag_is_free(self, tag: str) -> bool:
        return tag not in self.model.tags and tag not in self.model.deleted_tags

    def pick_snapshot(self, data: DataObject) -> str:
        # In the order they were made, not of their random ids: so a history can be repeated.
        reachable = self.model.reachable()
        there = [snapshot for snapshot in self.model.parents if snapshot in reachable]
        return there[data.draw(st.integers(0, len(there) - 1), label="snapshot")]

    @rule(name=st.sampled_from(BRANCHES), data=st.data())
    def create_branch(self, name: str, data: DataObject) -> None:
        snapshot = self.pick_snapshot(data)
        if name in self.model.branches:
            # In version 1 it looks like a lost race.
            with pytest.raises((ic.AlreadyExistsError, ic.ConflictError)):
                self.repo.create_branch(name, snapshot)
            return
        self.repo.create_branch(name, snapshot)
        self.model.branches[name] = snapshot

    @precondition(lambda self: self.session is None and len(self.model.branches) > 1)
    @rule(name=st.sampled_from(BRANCHES))
    def delete_branch(self, name: str) -> None:
        if name in self.model.branches:
            self.repo.delete_branch(name)
            del self.model.branches[name]

    @precondition(lambda self: self.session is None)
    @rule(data=st.data())
    def reset_branch(self, data: DataObject) -> None:
        branch, snapshot = self.pick_branch(data), self.pick_snapshot(data)
        self.repo.reset_branch(branch, snapshot, from_snapshot_id=self.model.branches[branch])
        self.model.branches[branch] = snapshot

    @rule(tag=st.sampled_from(TAGS), data=st.data())
    def create_tag(self, tag: str, data: DataObject) -> None:
        snapshot = self.pick_snapshot(data)
        if not self.tag_is_free(tag):
            with pytest.raises(ic.IcechunkError):
                self.repo.create_tag(tag, snapshot)
            return
        self.repo.create_tag(tag, snapshot)
        self.model.tags[tag] = snapshot

    @precondition(lambda self: self.model.tags)
    @rule(tag=st.sampled_from(TAGS))
    def delete_tag(self, tag: str) -> None:
        if tag in self.model.tags:
            self.repo.delete_tag(tag)
            del self.model.tags[tag]
            self.model.deleted_tags.add(tag)

    @rule(data=st.data())
    def travel_in_time(self, data: DataObject) -> None:
        branch = self.pick_branch(data)
        history = self.model.ancestry(self.model.branches[branch])
        snapshot = history[data.draw(st.integers(0, len(history) - 1))]
        at = self.repo.lookup_snapshot(snapshot).written_at
        session = self.repo.readonly_session(branch, as_of=at)
        assert session.snapshot_id == snapshot
        assert plain.read(session) == self.model.versions[snapshot]

    # -- upkeep ---------------------------------------------------------------------------------

    @precondition(lambda self: self.session is None)
    @rule(data=st.data(), branches=st.booleans(), tags=st.booleans())
    def expire(self, data: DataObject, branches: bool, tags: bool) -> None:
        snapshot = self.pick_snapshot(data)
        cutoff = self.repo.lookup_snapshot(snapshot).written_at + timedelta(microseconds=1)
        old = {
            s for s in self.model.reachable() if self.repo.lookup_snapshot(s).written_at < cutoff
        }
        released = self.repo.expire_snapshots(
            cutoff, delete_expired_branches=branches, delete_expired_tags=tags
        )
        note(f"expired {len(released)}")
        for flag, names, listed in (
            (branches, self.model.branches, self.repo.list_branches()),
            (tags, self.model.tags, self.repo.list_tags()),
        ):
            gone = names.keys() - listed
            assert flag or not gone
            assert all(names[name] in old and name != "main" for name in gone)
            for name in gone:
                del names[name]
                if names is self.model.tags:
                    self.model.deleted_tags.add(name)
        tips = {*self.model.branches.values(), *self.model.tags.values()}
        for tip in sorted(tips):
            before = self.model.ancestry(tip)
            after = [info.id for info in self.repo.ancestry(snapshot_id=tip)]
            # Younger ones stay in their order, the first snapshot stays, and none is new.
            kept = set(after)
            assert after == [s for s in before if s in kept]
            assert after[0] == tip
            assert after[-1] == self.model.initial
            assert kept >= set(before) - old
            for child, parent in itertools.pairwise(after):
                self.model.parents[child] = parent

    @rule(dry=st.booleans(), young=st.booleans())
    def collect(self, dry: bool, young: bool) -> None:
        if self.session is not None or young:
            self.collect_nothing_young()
        else:
            self.collect_all(dry=dry)

    def collect_nothing_young(self) -> None:
        """Beside an open session: what is younger than the cut-off stays."""
        before = self.objects()
        summary = self.repo.garbage_collect(datetime.now(UTC) - AN_HOUR)
        assert summary.chunks_deleted == summary.snapshots_deleted == 0
        assert self.objects() >= {key for key in before if key != "repo"}

    def collect_all(self, *, dry: bool) -> None:
        before = self.objects()
        expected = self.repo.garbage_collect(datetime.now(UTC) + AN_HOUR, dry_run=True)
        assert self.objects() == before
        if dry:
            return
        assert self.repo.garbage_collect(datetime.now(UTC) + AN_HOUR) == expected
        self.model.keep(self.model.reachable())
        assert self.needed() == {key for key in self.objects() if "/" in key and _counted(key)}
        self.checked.clear()

    def objects(self) -> set[str]:
        return {key for key, _ in self.storage.list_objects()}

    @precondition(lambda self: self.session is None)
    @rule()
    def reopen(self) -> None:
        self.repo = self.open_repo()
        self.checked.clear()

    @precondition(lambda self: self.session is None and self.spec_version == 1)
    @rule()
    def upgrade(self) -> None:
        ic.upgrade_icechunk_repository(self.repo, dry_run=False)
        self.spec_version = 2
        self.repo = self.open_repo()
        self.checked.clear()

    # -- what must hold -------------------------------------------------------------------------

    @invariant()
    def names_and_their_snapshots_are_the_models(self) -> None:
        if not hasattr(self, "model"):
            return
        repo, model = self.repo, self.model
        assert {name: repo.lookup_branch(name) for name in repo.list_branches()} == model.branches
        assert {name: repo.lookup_tag(name) for name in repo.list_tags()} == model.tags
        for snapshot in sorted(model.reachable() - self.checked):
            session = repo.readonly_session(snapshot_id=snapshot)
            assert plain.read(session) == model.versions[snapshot]
            self.checked.add(snapshot)
        for tip in sorted({*model.branches.values(), *model.tags.values()}):
            assert [info.id for info in repo.ancestry(snapshot_id=tip)] == model.ancestry(tip)

    def everything_is_there(self) -> None:
        """Read all through another repository object, and look for each object it needs."""
        self.repo = self.open_repo()
        self.checked.clear()
        self.names_and_their_snapshots_are_the_models()
        assert self.needed() <= self.objects()

    def needed(self) -> set[str]:
        """Return the keys of the files that reachable snapshots consist of."""
        found: set[str] = set()
        for snapshot_id in self.model.reachable():
            session = self.repo.readonly_session(snapshot_id=snapshot_id)
            found.add(f"snapshots/{snapshot_id}")
            for raw in session.checkout.base.snapshot.manifest_files.ids:
                manifest_id = ObjectId(raw.tobytes())
                found.add(f"manifests/{id_text(manifest_id)}")
                manifest = run(self.repo._state.assets.manifest(manifest_id))
                for _, table in manifest.arrays:
                    native = table.chunk_id[table.kind == ChunkKind.NATIVE]
                    found |= {f"chunks/{id_text(ObjectId(row.tobytes()))}" for row in native}
        return found


def _counted(key: str) -> bool:
    return key.partition("/")[0] in {"snapshots", "manifests", "chunks"}


class LocalHistories(Histories):
    kind = "local"


def play(machine: Any, examples: int, steps: int, *, shrink: bool = False) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(("machine", "examples"), [(Histories, 8), (LocalHistories, 4)])
def test_histories(machine: Any, examples: int) -> None:
    play(machine, examples, 40)


@pytest.mark.slow
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize(("machine", "examples"), [(Histories, 60), (LocalHistories, 25)])
def test_long_histories(machine: Any, examples: int) -> None:
    play(machine, examples, 80, shrink=True)
