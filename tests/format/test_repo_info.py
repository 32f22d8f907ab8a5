"""The repo object: round trips, chains of updates, golden files, foreign files, limits."""

from __future__ import annotations

import datetime as dt
import json
import random
import tarfile
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icechunk.errors import FormatError, InternalError, InvalidInputError, SnapshotNotFoundError
from icechunk.format import flex, updates
from icechunk.format.fb import writer
from icechunk.format.fb.table import root
from icechunk.format.header import FileType, encode_file, parse_file
from icechunk.format.repo_info import (
    BranchCreated,
    FeatureFlagChanged,
    NewCommit,
    RepoAvailability,
    RepoInfo,
    RepoInitialized,
    RepoMigrated,
    RepoStatus,
    RepoStatusChanged,
    SnapshotRecord,
    SnapshotTable,
    TagDeleted,
    Update,
    UpdateLog,
    encode_repo_info,
    parse_repo_info,
)
from icechunk.ids import INITIAL_SNAPSHOT_ID, ObjectId, id_text, parse_object_id
from tests.format import nodes as draw_nodes
from tests.format.golden import unpack
from tests.shared_data import shared_dir

if TYPE_CHECKING:
    from pathlib import Path

KEY = "repo"
V2_REPOSITORIES = ("v2-basic", "v2-rich", "v2-upgraded", "v2-virtual")


def record(snapshot_id: bytes, parent_id: bytes | None, **values: Any) -> SnapshotRecord:
    given: dict[str, Any] = {"flushed_at_us": 5, "message": "m", "metadata": {}, "pruned_logs": ()}
    return SnapshotRecord(
        id=ObjectId(snapshot_id),
        parent_id=None if parent_id is None else ObjectId(parent_id),
        **{**given, **values},
    )


def number(n: int) -> ObjectId:
    """Return an id; the order of ids has nothing to do with that of the numbers."""
    return ObjectId(random.Random(n).randbytes(12))


def update(when: int, backup: str | None = None, kind: Any = None) -> Update:
    return Update(kind=kind or RepoInitialized(), updated_at_us=when, backup_path=backup)


def info(*records: SnapshotRecord, **values: Any) -> RepoInfo:
    first = records or (record(INITIAL_SNAPSHOT_ID, None),)
    given: dict[str, Any] = {
        "branches": {"main": first[-1].id},
        "snapshots": SnapshotTable.of(first),
        "updates": UpdateLog.of([update(5)]),
    }
    return RepoInfo(**{**given, **values})


def again(value: RepoInfo) -> RepoInfo:
    return parse_repo_info(encode_repo_info(value), key=KEY)


def test_tables_written_once_are_written_on_without_being_read(few_tables: int) -> None:
    """What is kept of tables that were looked at or written here is enough to copy them."""
    del few_tables
    draw = random.Random(7)
    for count in (1, 3, 40):
        records = [
            record(bytes([i]) * 12, bytes([i - 1]) * 12 if i else None) for i in range(count)
        ]
        info = replace(
            RepoInfo.initial(records[0], RepoInitialized(), updated_at_us=1),
            snapshots=SnapshotTable.of(records),
            updates=UpdateLog.of(
                [
                    Update(kind=NewCommit(branch="b", new_snap_id=r.id), updated_at_us=9)
                    for r in records
                ]
            ),
        )
        for state in (info, parse_repo_info(encode_repo_info(info), key=KEY)):
            here = state
            for step in range(1, 30):
                parent = draw.choice(list(here.snapshots))
                new = record(
                    draw.randbytes(12),
                    parent.id,
                    message="m" * draw.randrange(20),
                    metadata={"x": step},
                )
                snapshots = here.snapshots.inserted(new)
                if step % 7 == 0:
                    snapshots = snapshots.replaced(
                        [new.moved(new.parent_id, [ObjectId(b"l" * 12)])],
                        [leaf.id for leaf in _leaves(snapshots) if leaf.id != new.id][:2],
                    )
                kind = NewCommit(branch="b" * step, new_snap_id=new.id)
                updates = here.updates.prepended(Update(kind=kind, updated_at_us=step), "backup")
                here = replace(
                    here,
                    branches={"main": new.id},
                    snapshots=snapshots,
                    updates=updates if step % 5 else updates.without_last(2),
                )
                assert parse_repo_info(encode_repo_info(here), key=KEY) == here


def _leaves(snapshots: SnapshotTable) -> list[SnapshotRecord]:
    parents = {found.parent_id for found in snapshots}
    return [found for found in snapshots if found.id not in parents]


# -- round trips ----------------------------------------------------------------------------------

flags = st.sets(st.integers(0, 2**16 - 1), max_size=3).map(lambda ids: tuple(sorted(ids)))
statuses = st.builds(
    RepoStatus,
    availability=st.sampled_from(RepoAvailability),
    set_at_us=draw_nodes.u64,
    reason=st.none() | draw_nodes.text,
)
_BY_TYPE = {
    "str": draw_nodes.text,
    "ObjectId": draw_nodes.object_ids,
    "bool": st.booleans(),
    "RepoStatus": statuses,
}
_NUMBERS = {
    "from_version": st.integers(0, 255),
    "to_version": st.integers(0, 255),
    "id": st.integers(0, 2**16 - 1),
}
kinds = st.one_of(
    [
        st.builds(
            cls,
            **{
                f.name: _NUMBERS[f.name] if f.type == "int" else _BY_TYPE[str(f.type)]
                for f in fields(cls)
            },
        )
        for cls in updates.UpdateKind.__args__
    ]
)
entries = st.builds(
    Update, kind=kinds, updated_at_us=draw_nodes.u64, backup_path=st.none() | draw_nodes.text
)


@st.composite
def graphs(draw: st.DrawFn) -> list[SnapshotRecord]:
    """Draw records whose parents come before them."""
    ids = draw(st.lists(draw_nodes.object_ids, min_size=1, max_size=8, unique=True))
    return [
        record(
            snapshot_id,
            draw(st.none() | st.sampled_from(ids[:row])) if row else None,
            flushed_at_us=draw(draw_nodes.u64),
            message=draw(draw_nodes.text),
            metadata=draw(draw_nodes.metadata),
            pruned_logs=draw(st.lists(draw_nodes.object_ids, max_size=3)),
        )
        for row, snapshot_id in enumerate(ids)
    ]


@st.composite
def infos(draw: st.DrawFn) -> RepoInfo:
    records = draw(graphs())
    targets = st.sampled_from([r.id for r in records])
    return RepoInfo(
        branches=draw(st.dictionaries(draw_nodes.text, targets, max_size=3)),
        tags=draw(st.dictionaries(draw_nodes.text, targets, max_size=40)),
        deleted_tags=draw(st.frozensets(draw_nodes.text, max_size=3)),
        snapshots=SnapshotTable.of(records),
        status=draw(statuses),
        metadata=draw(draw_nodes.metadata),
        updates=UpdateLog.of(draw(st.lists(entries, max_size=6))),
        repo_before_updates=draw(st.none() | draw_nodes.text),
        config=draw(st.none() | st.dictionaries(draw_nodes.keys, draw_nodes.plain, max_size=3)),
        enabled_flags=draw(flags),
        disabled_flags=draw(flags),
    )


@settings(max_examples=80, deadline=None)
@given(infos())
def test_round_trip(value: RepoInfo) -> None:
    first = again(value)
    assert first == value
    assert list(first.branches) == sorted(value.branches)
    assert {r.id: r for r in first.snapshots} == {r.id: r for r in value.snapshots}
    # The second time snapshots and operations are copied as bytes.
    second = again(first)
    assert second == value
    assert encode_repo_info(second) == encode_repo_info(again(second))


def test_every_kind_of_update_is_in_the_table() -> None:
    assert {cls for cls, _ in updates._KINDS.values()} == set(updates.UpdateKind.__args__)
    assert sorted(updates._KINDS) == list(range(1, 17))
    for cls, described in updates._KINDS.values():
        assert list(described) == [f.name for f in fields(cls)]


# -- chains of changes against plain models -------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_snapshot_changes_agree_with_a_dictionary(data: st.DataObject) -> None:
    table = SnapshotTable.of([record(number(0), None)])
    model = {r.id: r for r in table}
    for step in range(1, data.draw(st.integers(1, 10))):
        known = st.sampled_from(sorted(model))
        if data.draw(st.integers(0, 3)):
            new = record(
                number(step),
                data.draw(st.none() | known),
                message=f"message {step}",
                metadata=data.draw(st.just({}) | draw_nodes.metadata),
            )
            table = table.inserted(new)
            model[new.id] = new
        else:
            table = _remove(table, model, data.draw(st.sets(known, max_size=len(model) - 1)))
        if data.draw(st.booleans()):
            tip = data.draw(st.sampled_from(sorted(model)))
            table = again(
                RepoInfo(branches={"main": tip}, snapshots=table, updates=UpdateLog.of([update(1)]))
            ).snapshots
        assert {r.id: r for r in table} == model
        assert [r.id for r in table] == sorted(model)
        for snapshot_id in model:
            chain = _chain(model, snapshot_id)
            assert list(table.ancestor_ids(snapshot_id)) == [r.id for r in chain]
            assert list(table.ancestry(snapshot_id)) == chain


def _chain(model: dict[ObjectId, SnapshotRecord], tip: ObjectId | None) -> list[SnapshotRecord]:
    chain = []
    while tip is not None:
        chain.append(model[tip])
        tip = model[tip].parent_id
    return chain


def _remove(
    table: SnapshotTable, model: dict[ObjectId, SnapshotRecord], removed: set[ObjectId]
) -> SnapshotTable:
    """Remove snapshots from both; who loses the parent gets the nearest ancestor that is left."""
    moved = []
    for kept in [r for r in model.values() if r.id not in removed and r.parent_id in removed]:
        skipped = [r.id for r in _chain(model, kept.parent_id)]
        left = next((r for r in skipped if r not in removed), None)
        moved.append(kept.moved(left, [r for r in reversed(skipped) if r in removed]))
    table = table.replaced(moved, removed)
    for snapshot_id in removed:
        del model[snapshot_id]
    model |= {r.id: r for r in moved}
    return table


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_the_log_agrees_with_a_list(data: st.DataObject) -> None:
    log = UpdateLog.of([])
    model: list[Update] = []
    for step in range(data.draw(st.integers(1, 8))):
        if data.draw(st.integers(0, 3)):
            new = Update(kind=data.draw(kinds), updated_at_us=step)
            backup = data.draw(st.none() | st.just(f"repo.{step}"))
            if backup is not None and model:
                model[0] = replace(model[0], backup_path=backup)
            model.insert(0, new)
            log = log.prepended(new, backup)
        else:
            count = data.draw(st.integers(0, 3))
            log = log.without_last(count)
            model = model[: max(0, len(model) - count)]
        if data.draw(st.booleans()):
            log = again(info(updates=log)).updates
        assert list(log) == model
        assert len(log) == len(model)
        if model:
            assert (log.latest, log.oldest) == (model[0], model[-1])
            assert (log[0], log[-1]) == (model[0], model[-1])


def test_an_empty_log_has_no_ends() -> None:
    log = again(info(updates=UpdateLog.of())).updates
    with pytest.raises(FormatError, match="log is empty"):
        _ = log.latest
    with pytest.raises(FormatError, match="log is empty"):
        _ = log.oldest
    with pytest.raises(IndexError):
        log[0]


def test_what_did_not_change_is_copied_and_nothing_is_left_behind() -> None:
    state = info(*[record(number(i), number(i - 1) if i else None) for i in range(100)])
    size = len(parse_file(encode_repo_info(state), FileType.REPO, key=KEY).body)
    for i in range(100, 150):
        state = again(
            replace(
                state,
                snapshots=state.snapshots.inserted(record(number(i), number(i - 1))),
                branches={"main": number(i)},
                updates=state.updates.prepended(
                    update(i, kind=NewCommit(branch="main", new_snap_id=number(i))), f"repo.{i}"
                ).without_last(1),
            )
        )
    assert [r.id for r in state.snapshots.ancestry(number(149))] == [
        number(i) for i in range(149, -1, -1)
    ]
    body = len(parse_file(encode_repo_info(state), FileType.REPO, key=KEY).body)
    assert body < size * 1.5 + 500
    last = state.snapshots.replaced([], [number(i) for i in range(1, 150)])
    state = again(replace(state, snapshots=last, branches={"main": number(0)}))
    assert len(parse_file(encode_repo_info(state), FileType.REPO, key=KEY).body) < 700


# -- single rules ---------------------------------------------------------------------------------


def test_looking_up_many_snapshots() -> None:
    table = again(
        info(*[record(number(i), number(i - 1) if i else None) for i in range(30)])
    ).snapshots
    for i in range(30):
        found = table.get(number(i))
        assert found is not None
        assert found.id == number(i)
        assert number(i) in table
        assert table.get(bytes(12)) is None
    assert table.row(b"short") == -1
    assert table.flushed_at_us.tolist() == [5] * 30
    assert len(table) == 30


def test_unknown_and_known_ids_are_refused() -> None:
    table = SnapshotTable.of([record(number(0), None), record(number(1), number(0))])
    with pytest.raises(SnapshotNotFoundError, match=id_text(number(9))):
        table.ancestry(number(9))
    with pytest.raises(SnapshotNotFoundError, match=id_text(number(9))):
        table.ancestor_ids(number(9))
    with pytest.raises(SnapshotNotFoundError):
        table.inserted(record(number(2), number(9)))
    with pytest.raises(SnapshotNotFoundError):
        table.replaced([record(number(9), None)])
    with pytest.raises(SnapshotNotFoundError):
        table.replaced([record(number(1), number(9))])
    with pytest.raises(SnapshotNotFoundError, match=id_text(number(0))):
        table.replaced([], [number(0)])
    with pytest.raises(SnapshotNotFoundError):
        SnapshotTable.of([record(number(1), number(0))])
    with pytest.raises(FormatError, match="registered twice") as caught:
        table.inserted(record(number(1), None))
    assert caught.value.kind == "duplicate-snapshot-id"
    with pytest.raises(FormatError, match="registered twice"):
        SnapshotTable.of([record(number(1), None), record(number(1), None)])


def test_parents_that_form_a_cycle_are_refused() -> None:
    table = SnapshotTable.of([record(number(0), None), record(number(1), number(0))])
    with pytest.raises(FormatError, match="cycle"):
        table.replaced([record(number(0), number(1))])
    with pytest.raises(FormatError, match="cycle"):
        SnapshotTable.of([record(number(0), number(1)), record(number(1), number(0))])


def test_refs_to_unregistered_snapshots_are_not_written() -> None:
    for refs in ({"branches": {"main": number(7)}}, {"tags": {"t": number(7)}}):
        with pytest.raises(InternalError, match="is not registered"):
            encode_repo_info(info(**refs))


def test_the_initial_state() -> None:
    first = record(INITIAL_SNAPSHOT_ID, None, metadata={"__icechunk": {"is_root": True}})
    state = RepoInfo.initial(first, RepoInitialized(), updated_at_us=9, config={"b": 1, "a": 2})
    read = again(state)
    assert read == state
    assert read.branches == {"main": INITIAL_SNAPSHOT_ID}
    assert read.status == RepoStatus(availability=RepoAvailability.ONLINE, set_at_us=9)
    assert list(read.updates) == [update(9)]
    assert list(read.config or ()) == ["a", "b"]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"metadata": {"a": object()}}, TypeError),
        ({"config": {"a": {1: 2}}}, TypeError),
        ({"branches": {"\ud800": INITIAL_SNAPSHOT_ID}}, InvalidInputError),
        ({"status": RepoStatus(set_at_us=-1)}, FormatError),
        ({"status": RepoStatus(reason="\ud800")}, InvalidInputError),
        ({"deleted_tags": frozenset({"\ud800"})}, InvalidInputError),
        ({"repo_before_updates": "\ud800"}, InvalidInputError),
    ],
)
def test_what_the_format_cannot_hold(values: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        encode_repo_info(info(**values))


# -- foreign files --------------------------------------------------------------------------------


def struct_i32(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


def foreign(**slots: writer.Value | None) -> bytes:
    """Return a repo file as another writer might store it."""
    snapshot: writer.Fields = {
        0: writer.struct(INITIAL_SNAPSHOT_ID),
        1: writer.struct(struct_i32(-1), 4),
        3: writer.string("m"),
    }
    entry: writer.Fields = {0: writer.u8(1), 1: writer.Table({}), 2: writer.u64(5)}
    main: writer.Fields = {0: writer.string("main"), 1: writer.u32(0)}
    values: dict[int, writer.Value | None] = {
        0: writer.u8(2),
        1: writer.Tables([]),
        2: writer.Tables([main]),
        3: writer.Strings([]),
        4: writer.Tables([snapshot]),
        5: writer.Table({}),
        7: writer.Tables([entry]),
    }
    values |= {int(name.removeprefix("slot_")): value for name, value in slots.items()}
    return encode_file(FileType.REPO, writer.assemble_root(values))


def snapshots(*parents: int | None) -> writer.Tables:
    """Return snapshot tables, sorted, with these parents; None leaves the field out."""
    return writer.Tables(
        [
            {
                0: writer.struct(bytes([row]) * 12),
                1: None if parent is None else writer.struct(struct_i32(parent), 4),
                3: writer.string("m"),
            }
            for row, parent in enumerate(parents)
        ]
    )


def test_absent_fields_have_their_defaults() -> None:
    read = parse_repo_info(foreign(), key=KEY)
    assert read == info(
        record(INITIAL_SNAPSHOT_ID, None, flushed_at_us=0), updates=UpdateLog.of([update(5)])
    )
    # An absent parent is row 0.
    read = parse_repo_info(foreign(slot_4=snapshots(-1, None, None, 1)), key=KEY)
    assert read.snapshots.parents.tolist() == [-1, 0, 0, 1]
    grown = again(
        replace(read, snapshots=read.snapshots.inserted(record(b"\0" * 11 + b"\1", None)))
    )
    assert grown.snapshots.parents.tolist() == [-1, -1, 0, 0, 2]


@pytest.mark.parametrize(
    ("slots", "message"),
    [
        ({"slot_0": None}, r"Repo\.spec_version: version 0"),
        ({"slot_0": writer.u8(3)}, r"Repo\.spec_version: version 3"),
        ({"slot_1": None}, r"Repo\.tags: required"),
        ({"slot_3": None}, r"Repo\.deleted_tags: required"),
        ({"slot_4": None}, r"Repo\.snapshots: required"),
        ({"slot_5": None}, r"Repo\.status: required"),
        ({"slot_5": writer.Table({0: writer.u8(3)})}, r"RepoStatus\.availability: kind 3"),
        ({"slot_7": None}, r"Repo\.latest_updates: required"),
        ({"slot_4": snapshots(-2)}, r"SnapshotInfo\.parent_offset: a parent that is none of 1"),
        ({"slot_4": snapshots(-1, 2)}, r"SnapshotInfo\.parent_offset: a parent that is none of 2"),
        ({"slot_4": snapshots(0)}, r"SnapshotInfo\.parent_offset: the chain of parents is a cycle"),
        ({"slot_4": snapshots(-1, 2, 3, 1)}, "the chain of parents is a cycle"),
        ({"slot_4": writer.Tables([*snapshots(-1).items] * 2)}, "registered twice"),
        ({"slot_4": writer.Tables([*snapshots(-1, -1).items][::-1])}, "not sorted by id"),
        (
            {"slot_2": writer.Tables([{0: writer.string("main"), 1: writer.u32(1)}])},
            r"Ref\.snapshot_index: 'main' points at snapshot 1 of 1",
        ),
        ({"slot_2": writer.Tables([{0: writer.string("main")}] * 2)}, "'main' is there twice"),
        ({"slot_2": writer.Tables([{0: writer.string("b")}] * 99)}, "'b' is there twice"),
        ({"slot_9": writer.byte_vector(b"\0")}, r"Repo\.config: damaged FlexBuffers"),
        ({"slot_9": writer.byte_vector(flex.encode([1]))}, r"Repo\.config: not a map but a list"),
    ],
)
def test_damage_is_named(slots: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match="repo: .*" + message):
        parse_repo_info(foreign(**slots), key=KEY)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({0: None}, r"Update\.update_type: kind 0 is unknown"),
        ({0: writer.u8(17)}, r"Update\.update_type: kind 17 is unknown; a newer icechunk"),
        ({0: writer.u8(1), 1: None}, r"Update\.update_type: required"),
        ({0: writer.u8(10)}, r"NewCommit\.branch: required"),
    ],
)
def test_a_damaged_entry_is_reported_when_it_is_read(entry: dict[int, Any], message: str) -> None:
    good: dict[int, Any] = {0: writer.u8(13), 1: writer.Table({})}
    read = parse_repo_info(foreign(slot_7=writer.Tables([good, {**good, **entry}])), key=KEY)
    assert read.updates.latest.kind == updates.GCRan()
    with pytest.raises(FormatError, match="repo: " + message):
        _ = read.updates.oldest


def test_unknown_flags_are_kept_and_sorted() -> None:
    packed = writer.vector(bytes.fromhex("e703 0300 e703"), 3, 2)
    read = again(parse_repo_info(foreign(slot_10=packed, slot_11=packed), key=KEY))
    assert read.enabled_flags == (3, 999)
    assert read.disabled_flags == (3, 999)
    bare = again(replace(read, enabled_flags=(), disabled_flags=()))
    table = root(
        parse_file(encode_repo_info(bare), FileType.REPO, key=KEY).body, key=KEY, name="Repo"
    )
    assert table.vector(10, "enabled_feature_flags", 2) is None


def test_blobs_in_metadata_survive_when_their_table_is_written_again() -> None:
    blob = bytes.fromhex("03 010203 03 64 01")
    items = writer.Tables([{0: writer.string("a"), 1: writer.byte_vector(blob)}])
    snapshot: dict[int, writer.Value | None] = {
        0: writer.struct(INITIAL_SNAPSHOT_ID),
        3: writer.string("m"),
        4: items,
    }
    other = {**snapshot, 0: writer.struct(b"z" * 12), 1: writer.struct(struct_i32(-1), 4)}
    tables = writer.Tables([{**snapshot, 1: writer.struct(struct_i32(-1), 4)}, {**other, 1: None}])
    read = again(parse_repo_info(foreign(slot_4=tables), key=KEY))
    assert [r.metadata for r in read.snapshots] == [{"a": b"\1\2\3"}] * 2
    assert read.snapshots.parents.tolist() == [-1, 0]


# -- golden repositories --------------------------------------------------------------------------


def _time(text: str) -> int:
    when = dt.datetime.fromisoformat(text)
    return (when - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


@pytest.mark.parametrize("name", V2_REPOSITORIES)
def test_golden_repositories_agree_with_the_official_reading(name: str, tmp_path: Path) -> None:
    folder, said = unpack(name, tmp_path)
    read = parse_repo_info((folder / "repo").read_bytes(), key=KEY)
    for state in (read, again(read), again(again(read))):
        assert state == read
        assert {ref: id_text(to) for ref, to in state.branches.items()} == said["branches"]
        assert {ref: id_text(to) for ref, to in state.tags.items()} == said["tags"]
        assert state.metadata == said["repo_metadata"]
        _compare_inspected(state, said["inspect_repo_info"])
        _compare_status(state, said)
        for key, expected in said["ancestry"].items():
            tip = _resolve(state, key)
            assert [
                {
                    "id": id_text(r.id),
                    "parent_id": None if r.parent_id is None else id_text(r.parent_id),
                    "message": r.message,
                    "written_at_us": r.flushed_at_us,
                    "metadata": r.metadata,
                }
                for r in state.snapshots.ancestry(tip)
            ] == expected
        assert _log(folder, state) == said["ops_log"]
        # Garbage collection kept the logs of registered snapshots and of all pruned lists.
        logs = {id_text(log) for r in state.snapshots for log in (r.id, *r.pruned_logs)}
        assert logs >= {file.name for file in (folder / "transactions").iterdir()}


def _resolve(state: RepoInfo, key: str) -> ObjectId:
    kind, _, ref = key.partition(":")
    if kind == "snapshot":
        return parse_object_id(ref)
    return (state.branches if kind == "branch" else state.tags)[ref]


def _compare_inspected(state: RepoInfo, inspected: dict[str, Any]) -> None:
    assert sorted(state.deleted_tags) == inspected["deleted_tags"]
    assert len(state.snapshots) == len(inspected["snapshots"])
    for r, told in zip(state.snapshots, inspected["snapshots"], strict=True):
        assert id_text(r.id) == told["id"]
        assert (None if r.parent_id is None else id_text(r.parent_id)) == told.get("parent_id")
        assert r.flushed_at_us == _time(told["flushed_at"])
        assert (r.message, r.metadata) == (told["message"], told["metadata"])
    assert len(state.updates) == len(inspected["latest_updates"])
    assert state.repo_before_updates == inspected.get("repo_before_updates")


def _compare_status(state: RepoInfo, said: dict[str, Any]) -> None:
    status = said["status"]
    assert state.status.availability.name.lower() == status["availability"]
    assert (state.status.set_at_us, state.status.reason) == (status["set_at_us"], status["reason"])
    flags = said["feature_flags"]
    assert list(state.enabled_flags) == [f["id"] for f in flags if f["setting"] is True]
    assert list(state.disabled_flags) == [f["id"] for f in flags if f["setting"] is False]


def _log(folder: Path, state: RepoInfo) -> list[dict[str, Any]]:
    """Return the complete operations log in the words of the sidecar files."""
    entries: list[dict[str, Any]] = []
    page: str | None = None
    while True:
        for row, entry in enumerate(state.updates):
            backup = page if row == 0 and page is not None else entry.backup_path
            entries.append(
                {
                    "kind": type(entry.kind).__name__,
                    "updated_at_us": entry.updated_at_us,
                    "backup_path": backup,
                    **_fields(entry.kind),
                }
            )
        page = state.repo_before_updates
        if page is None:
            return entries
        state = parse_repo_info((folder / "overwritten" / page).read_bytes(), key=page)


def _fields(kind: Any) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for f in fields(kind):
        value = getattr(kind, f.name)
        if isinstance(value, RepoStatus):
            told[f.name] = {
                "availability": value.availability.name.lower(),
                "set_at_us": value.set_at_us,
                "reason": value.reason,
            }
        else:
            told[f.name] = id_text(value) if isinstance(value, bytes) else value
    if isinstance(kind, FeatureFlagChanged):
        # The official log shows a flag that went back to its default as None.
        told["new_value"] = kind.new_value if told.pop("is_set") else None
    return told


def test_golden_config_keeps_its_order(tmp_path: Path) -> None:
    golden = shared_dir() / "golden"
    with tarfile.open(golden / "v2-config.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    read = parse_repo_info((tmp_path / "v2-config" / "repo").read_bytes(), key=KEY)
    expected = json.loads((golden / "config.json").read_text())["v2-config"]
    expected = expected["persisted_structure"]
    assert read.config == expected
    assert again(read).config == expected


def test_kinds_with_values() -> None:
    log = UpdateLog.of(
        [
            update(4, kind=TagDeleted(name="t", previous_snap_id=number(1))),
            update(3, kind=FeatureFlagChanged(id=999, new_value=False, is_set=True)),
            update(2, kind=RepoStatusChanged(status=RepoStatus(reason="why", set_at_us=3))),
            update(1, kind=RepoMigrated(from_version=1, to_version=2)),
            update(0, kind=BranchCreated(name="b")),
        ]
    )
    assert list(again(info(updates=log)).updates) == list(log)
