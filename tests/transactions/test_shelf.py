"""Change sets kept beside a repository: whole or refused, put once, and not collected."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import zarr

import icechunk as ic
from icechunk._io.loop import run
from icechunk.core.wire import pack_changes
from icechunk.errors import (
    AlreadyExistsError,
    ConflictError,
    FormatError,
    InvalidInputError,
    NotFoundError,
)
from icechunk.ids import parse_object_id
from icechunk.paths import NodePath
from icechunk.shelf import SHELF_PREFIX, Shelf, ShelfItem, ShelfRecord, item_key, record_key
from icechunk.storage.objects import LostRaceError
from tests.faults import FaultyStorage
from tests.upkeep.aged import HOUR_US, AgedStorage

FACTS = {"text": "ü", "numbers": (1, 2.5), "none": None, "nested": {"a": b"bytes"}}


def changed(storage: ic.Storage) -> tuple[ic.Repository, ShelfItem]:
    repo = ic.Repository.create(storage)
    session = repo.writable_session("main")
    base = session.snapshot_id
    array = zarr.create_array(
        session.store, name="a", shape=(4000,), chunks=(1000,), dtype="f8", compressors=None
    )
    array[:] = 1.0
    return repo, ShelfItem(
        name="unit-1", facts=FACTS, base=parse_object_id(base), changes=session.checkout.changes
    )


def record(name: str = "job", **changes: Any) -> ShelfRecord:
    return replace(ShelfRecord(shelf_id=name, kind="test", facts=FACTS), **changes)


def test_what_is_put_comes_back() -> None:
    storage = ic.in_memory_storage()
    _, item = changed(storage)
    shelf = Shelf(storage)
    run(shelf.create(record()))
    assert run(shelf.put("job", item))
    found = run(shelf.item("job", "unit-1"))
    assert found.facts == FACTS
    assert found.base == item.base
    assert found.changes is not None
    assert item.changes is not None
    node = item.changes.new_nodes[NodePath("/a")]
    assert list(found.changes.new_nodes) == list(item.changes.new_nodes)
    assert found.changes.chunks[node.id].table() == item.changes.chunks[node.id].table()
    assert run(shelf.record("job")).facts == FACTS
    assert list(run(shelf.names("job"))) == ["unit-1"]


def test_an_item_is_put_once() -> None:
    shelf = Shelf(ic.in_memory_storage())
    assert run(shelf.put("job", ShelfItem(name="unit", facts={"by": "first"})))
    assert not run(shelf.put("job", ShelfItem(name="unit", facts={"by": "second"})))
    assert run(shelf.item("job", "unit")).facts == {"by": "first"}


def test_a_lost_reply_is_read_back() -> None:
    storage = FaultyStorage(ic.in_memory_storage(), 0, "lost reply")
    shelf = Shelf(storage)
    run(shelf.create(record()))
    storage.fail_at = 1
    assert run(shelf.put("job", ShelfItem(name="unit")))
    storage.fail_at = 2
    assert run(shelf.update("job", lambda r: replace(r, facts={"n": 1}))).facts == {"n": 1}
    assert run(shelf.record("job")).facts == {"n": 1}


def test_names() -> None:
    shelf = Shelf(ic.in_memory_storage())
    run(shelf.create(record()))
    with pytest.raises(AlreadyExistsError, match="there is a test job already"):
        run(shelf.create(record()))
    for bad in ("", "a/b", "..", "a b", "ü", "x" * 200):
        with pytest.raises(InvalidInputError, match="cannot be used as a name"):
            run(shelf.create(record(bad)))
    with pytest.raises(NotFoundError, match="nothing is kept as other"):
        run(shelf.record("other"))
    with pytest.raises(NotFoundError, match="job has no unit"):
        run(shelf.item("job", "unit"))


def test_shelves_are_listed_and_removed() -> None:
    storage = ic.in_memory_storage()
    shelf = Shelf(storage)
    for number, name in enumerate(("b", "a")):
        run(shelf.create(record(name, created_at_us=number)))
    run(shelf.put("a", ShelfItem(name="unit")))
    assert [r.shelf_id for r in run(shelf.records())] == ["b", "a"]
    assert run(shelf.records("other")) == []
    run(shelf.discard("a", ["unit", "never"]))
    assert run(shelf.names("a")) == {}
    run(shelf.put("a", ShelfItem(name="unit")))
    for _ in range(2):
        run(shelf.remove("a"))
    assert [key for key, _ in storage.list_objects()] == [record_key("b")]


def test_records_change_by_compare_and_swap() -> None:
    shelf = Shelf(ic.in_memory_storage())
    run(shelf.create(record(facts={"n": 0})))

    def count() -> None:
        for _ in range(10):
            run(shelf.update("job", lambda r: replace(r, facts={"n": r.facts["n"] + 1})))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run(shelf.record("job")).facts == {"n": 40}


def test_a_record_that_never_holds_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FaultyStorage(ic.in_memory_storage())
    shelf = Shelf(storage)
    run(shelf.create(record()))

    async def lost(key: str, *_args: Any, **_kwargs: Any) -> Any:
        raise LostRaceError(key)

    storage.put_if_unchanged = lost
    monkeypatch.setattr("icechunk.shelf._UPDATE_TRIES", 3)
    with pytest.raises(ConflictError, match="others kept changing x-shelf/job/record"):
        run(shelf.update("job", lambda r: r))


def item_or_error(shelf: Shelf) -> ShelfItem | FormatError:
    try:
        return run(shelf.item("job", "unit-1"))
    except FormatError as e:
        return e


def test_damage_is_refused() -> None:
    storage = ic.in_memory_storage()
    _, item = changed(storage)
    shelf = Shelf(storage)
    run(shelf.put("job", item))
    key = item_key("job", "unit-1")
    good = run(storage.get(key))
    damaged = 0
    bad = [good[: n * len(good) // 20] for n in range(20)]
    for position in range(0, len(good), 7):
        broken = bytearray(good)
        broken[position] ^= 0x40
        bad.append(bytes(broken))
    for data in bad:
        run(storage.put(key, data))
        read = item_or_error(shelf)
        if isinstance(read, FormatError):
            damaged += 1
            assert "x-shelf/job/items/unit-1 is damaged" in str(read)
        else:  # zstd frames hold a few bits that mean nothing
            assert pack_changes(read.changes) == pack_changes(item.changes)
            assert (read.facts, read.base) == (item.facts, item.base)
    assert damaged > 0.9 * len(bad)
    run(storage.put(item_key("job", "moved"), good))
    with pytest.raises(FormatError, match="it was written as 'x-shelf/job/items/unit-1"):
        run(shelf.item("job", "moved"))


def chunks(storage: ic.Storage) -> int:
    return sum(key.startswith("chunks/") for key, _ in storage.list_objects())


def test_garbage_collection_knows_live_shelves() -> None:
    storage = AgedStorage()
    repo, item = changed(storage)
    shelf = Shelf(storage)
    run(shelf.create(record()))
    run(shelf.put("job", item))
    run(storage.age(HOUR_US * 3))
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    assert chunks(storage) == 4
    assert repo.garbage_collect(an_hour_ago).chunks_deleted == 0
    run(shelf.update("job", lambda r: replace(r, expires_at_us=1)))
    assert repo.garbage_collect(an_hour_ago).chunks_deleted == 4
    # A shelf that ended goes with its chunks.
    assert not run(shelf.names("job"))
    assert not run(shelf.records())


def test_items_whose_keeper_died_before_the_record_are_collected() -> None:
    storage = AgedStorage()
    repo, item = changed(storage)
    shelf = Shelf(storage)
    run(shelf.create(record("kept")))
    for shelf_id in ("dead", "kept"):
        run(shelf.put(shelf_id, item))
    run(storage.age(HOUR_US * 3))
    run(shelf.put("beginning", item))
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    repo.garbage_collect(an_hour_ago, dry_run=True)
    assert run(shelf.names("dead"))
    repo.garbage_collect(an_hour_ago)
    assert not run(shelf.names("dead"))
    assert run(shelf.names("kept"))
    assert run(shelf.names("beginning")), "its record may still come"


def test_garbage_collection_stops_at_a_damaged_shelf() -> None:
    storage = AgedStorage()
    repo, item = changed(storage)
    run(Shelf(storage).create(record()))
    run(Shelf(storage).put("job", item))
    run(storage.put(item_key("job", "unit-1"), b"nonsense"))
    run(storage.age(HOUR_US * 3))
    with pytest.raises(FormatError, match="damaged"):
        repo.garbage_collect(datetime.now(UTC))
    assert chunks(storage) == 4


def test_the_prefix_is_no_part_of_the_format() -> None:
    storage = ic.in_memory_storage()
    repo, item = changed(storage)
    run(Shelf(storage).put("job", item))
    assert SHELF_PREFIX == "x-shelf/"
    assert ic.Repository.open(storage).lookup_branch("main") == repo.lookup_branch("main")
